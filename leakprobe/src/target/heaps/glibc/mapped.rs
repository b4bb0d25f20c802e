//! glibc's large blocks, each with a mapping of its own: known ones by their headers, others by the look of the start
//! of a mapping, as far as glibc's own count of them allows.

use std::collections::BTreeSet;

use leakprobe_common::PAGE_BYTES;

use super::books::{Books, Heap, word};
use super::chunks::{HEADER, MAPPED};
use crate::target::heaps::LiveBlock;
use crate::target::heaps::memory::Memory;
use crate::target::heaps::space::Space;
use crate::target::heaps::sweep::{Holding, Piece, Sums};

/// Most of them.
const MAX_BLOCKS: usize = 1 << 20;

/// A chunk in its mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Chunk {
    start: u64,
    at: u64,
    end: u64,
}

/// Adds up all of them; `known` are chunks of known blocks. Gives their number.
pub fn sweep(
    memory: &mut Memory,
    space: &Space,
    heaps: &[Heap],
    known: &BTreeSet<u64>,
    books: &Books,
    live: &[LiveBlock],
    sums: &mut Sums,
) -> u64 {
    let mut chunks: Vec<Chunk> = known
        .iter()
        .filter_map(|&at| chunk(memory, space, at))
        .filter(|chunk| is_outside(heaps, chunk))
        .collect();
    apart(&mut chunks);
    let more = others(memory, space, heaps, &chunks);
    let bytes = |chunks: &[Chunk]| -> u64 { chunks.iter().map(|it| it.end - it.start).sum() };
    let told = books.parameters.map(|parameters| parameters.mapped_bytes);
    let known_bytes = bytes(&chunks);
    // What looks like a block need not be one: glibc's count decides. Without it only the known ones count.
    if told.is_some_and(|told| known_bytes + bytes(&more) <= told) {
        chunks.extend(more);
        chunks.sort_unstable();
    }
    if let Some(missing) = told.and_then(|told| told.checked_sub(bytes(&chunks)))
        && missing > 0
    {
        sums.problem(
            "glibc counts more bytes of blocks with a mapping of their own than were found \
             (these bytes are in no figure)",
            missing,
        );
    }
    for chunk in &chunks {
        let at = live.partition_point(|block| block.address < chunk.at + HEADER);
        let block = live.get(at).filter(|block| {
            block.address == chunk.at + HEADER && block.size <= chunk.end - block.address
        });
        let mut region = sums.region(memory, (chunk.start, chunk.end), Holding::Whole);
        match block {
            Some(block) => {
                region.piece(Piece::Overhead, block.address);
                region.piece(
                    Piece::Live { stack: block.stack },
                    block.address + block.size,
                );
                region.piece(Piece::Overhead, chunk.end);
            }
            None => region.piece(Piece::Unrecorded, chunk.end),
        }
        region.end("");
    }
    chunks.len() as u64
}

/// The chunk at an address, if it is one with a mapping of its own.
fn chunk(memory: &mut Memory, space: &Space, at: u64) -> Option<Chunk> {
    let mut header = [0; 16];
    memory.peek(at, &mut header).ok()?;
    // What is before it, for an alignment, is in place of the size of the chunk before.
    let (before, head) = (word(&header, 0), word(&header, 8));
    let start = at.checked_sub(before)?;
    let end = at.checked_add(head & !7)?;
    let (from, to) = space.anonymous(at)?;
    let is_it = head & 7 == MAPPED
        && start % PAGE_BYTES == 0
        && end % PAGE_BYTES == 0
        && at + 32 <= end
        && from <= start
        && end <= to;
    is_it.then_some(Chunk { start, at, end })
}

/// Chunks at the starts of mappings, and one after the other from there; the kernel joins neighbours.
fn others(memory: &mut Memory, space: &Space, heaps: &[Heap], known: &[Chunk]) -> Vec<Chunk> {
    let mut found = Vec::new();
    for &(start, end) in space.mappings() {
        let mut at = start;
        while at < end && found.len() < MAX_BLOCKS && !memory.is_over() {
            let next = known.partition_point(|chunk| chunk.start < at);
            if let Some(chunk) = known.get(next).filter(|chunk| chunk.start == at) {
                at = chunk.end;
                continue;
            }
            let Some(chunk) = chunk(memory, space, at).filter(|chunk| chunk.start == at) else {
                // After memory of another kind the next known one leads on.
                match known.get(next).filter(|chunk| chunk.start < end) {
                    Some(chunk) => at = chunk.end,
                    None => break,
                }
                continue;
            };
            let is_apart = known.get(next).is_none_or(|known| chunk.end <= known.start);
            if !is_apart || chunk.end > end || !is_outside(heaps, &chunk) {
                break;
            }
            found.push(chunk);
            at = chunk.end;
        }
    }
    found
}

/// Whether a chunk is in no heap; these are sorted, and apart from one another.
fn is_outside(heaps: &[Heap], chunk: &Chunk) -> bool {
    let after = heaps.partition_point(|heap| heap.range.1 <= chunk.start);
    heaps
        .get(after)
        .is_none_or(|heap| heap.range.0 >= chunk.end)
}

fn apart(chunks: &mut Vec<Chunk>) {
    chunks.sort_unstable();
    let mut end = 0;
    chunks.retain(|chunk| {
        let is_apart = chunk.start >= end;
        if is_apart {
            end = chunk.end;
        }
        is_apart
    });
}
