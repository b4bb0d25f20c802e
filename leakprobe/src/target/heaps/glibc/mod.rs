//! The state of glibc's allocator: its arenas chunk by chunk, and its blocks with mappings of their own.
//!
//! A chunk counts from its header to the next one; the block in it is 16 bytes further and may reach 8 bytes into
//! the next, which is ignored. So the sums are those that glibc itself gives in `mallinfo2`.

mod books;
mod caches;
mod chunks;
mod mapped;

use std::collections::BTreeSet;

use self::books::{Books, Heap};
use self::caches::Caches;
use self::chunks::{BEYOND_TOP, HEADER, MAPPED, OTHER_ARENA, Step, Walk};
use super::memory::Memory;
use super::space::Space;
use super::sweep::{Holding, Piece, Region, Sums};
use super::{Arena, Free, LiveBlock, Part};
use crate::target::Mapping;

/// Known blocks outside all heaps at which is looked for others.
const MAX_STRAY: usize = 1 << 20;

/// What there is beside the sums.
#[derive(Debug, Default)]
pub struct Found {
    pub arenas: Vec<Arena>,
    pub mapped: Part,
    pub mapped_blocks: u64,
}

/// Reads all that glibc has; `path` is its object's. `live` is sorted by address.
pub fn read(
    memory: &mut Memory,
    mappings: &[Mapping],
    path: &str,
    live: &[LiveBlock],
    sums: &mut Sums,
) -> Found {
    let space = Space::new(mappings);
    let books = Books::find(memory, mappings, path, &space);
    let base = books.parameters.map(|parameters| parameters.base);
    let mut heaps: Vec<Heap> = space
        .brk_pieces()
        .iter()
        .map(|&(start, end)| {
            let start = base
                .filter(|base| (start..end).contains(base))
                .unwrap_or(start);
            main_heap(start, end)
        })
        .collect();
    heaps.extend(&books.heaps);
    heaps.sort_unstable_by_key(|heap| heap.range);
    let stray = stray(memory, &heaps, live, &books, &space);
    heaps.extend(
        stray
            .pieces
            .iter()
            .map(|&(start, end)| main_heap(start, end)),
    );
    heaps.sort_unstable_by_key(|heap| heap.range);
    apart(&mut heaps);

    let mut caches = Caches::default();
    for state in books.main.iter().chain(books.arenas.values().flatten()) {
        caches.add_fastbins(memory, state);
    }
    for heap in &mut heaps {
        let told = look(memory, heap, &books, live, &mut caches);
        // The kernel joins neighbours: what is around a mapped piece need not be the allocator's.
        if stray.pieces.contains(&heap.range) {
            *heap = told.map_or(main_heap(0, 0), |(start, end)| main_heap(start, end));
        }
    }
    heaps.retain(|heap| heap.range.0 < heap.range.1);
    if caches.broken > 0 {
        sums.problem(
            "lists of glibc's fast bins do not hold together: their chunks count as in use",
            0,
        );
    }
    let mut found = Found::default();
    for heap in &heaps {
        let before = sums.whole();
        let free = sweep(memory, heap, &books, live, &caches, sums);
        let whole = difference(sums.whole(), before);
        add_arena(&mut found.arenas, heap, &books, whole, free);
    }
    let main = found.arenas.iter().find(|arena| arena.is_main);
    let main = main.map_or(0, |arena| arena.whole.bytes);
    if let Some(missing) = books.main.and_then(|state| state.system.checked_sub(main))
        && missing > 0
    {
        let reason =
            "glibc's main arena has more memory than was found (these bytes are in no figure)";
        sums.problem(reason, missing);
    }
    let before = sums.whole();
    found.mapped_blocks = mapped::sweep(memory, &space, &heaps, &stray.mapped, &books, live, sums);
    found.mapped = difference(sums.whole(), before);
    found
        .arenas
        .sort_by_key(|arena| std::cmp::Reverse((arena.free.resident_bytes, arena.free.bytes)));
    found
}

fn main_heap(start: u64, end: u64) -> Heap {
    Heap {
        range: (start, end),
        first: start.next_multiple_of(16),
        arena: 0,
    }
}

fn difference(after: Part, before: Part) -> Part {
    Part {
        bytes: after.bytes - before.bytes,
        resident_bytes: after.resident_bytes - before.resident_bytes,
    }
}

fn add_arena(arenas: &mut Vec<Arena>, heap: &Heap, books: &Books, whole: Part, free: Part) {
    let address = match heap.is_main() {
        true => books.main.map_or(0, |state| state.address),
        false => heap.arena,
    };
    let known = arenas
        .iter_mut()
        .find(|arena| arena.is_main == heap.is_main() && arena.address == address);
    if let Some(arena) = known {
        arena.whole += whole;
        arena.free += free;
        return;
    }
    arenas.push(Arena {
        address,
        is_main: heap.is_main(),
        whole,
        free,
    });
}

/// Heaps that reach into the one before them are rubbish.
fn apart(heaps: &mut Vec<Heap>) {
    let mut end = 0;
    heaps.retain(|heap| {
        let is_apart = heap.range.0 >= end && heap.range.0 < heap.range.1;
        if is_apart {
            end = heap.range.1;
        }
        is_apart
    });
}

/// What is outside the heaps that were found.
#[derive(Default)]
struct Stray {
    /// Pieces of the main arena that were mapped because `brk` failed.
    pieces: Vec<(u64, u64)>,
    /// Chunks with a mapping of their own.
    mapped: BTreeSet<u64>,
}

fn stray(
    memory: &mut Memory,
    heaps: &[Heap],
    live: &[LiveBlock],
    books: &Books,
    space: &Space,
) -> Stray {
    let mut stray = Stray::default();
    let mut pieces = BTreeSet::new();
    let ranges: Vec<(u64, u64)> = heaps.iter().map(|heap| heap.range).collect();
    let is_elsewhere = |address| super::space::around(&ranges, address).is_none();
    let tops = books.main.map(|state| state.top);
    if let Some(range) = tops
        .filter(|&top| is_elsewhere(top))
        .and_then(|top| space.mapping(top))
    {
        pieces.insert(range);
    }
    let outside = live.iter().filter(|block| is_elsewhere(block.address));
    for block in outside.take(MAX_STRAY) {
        let Some(chunk) = block.address.checked_sub(HEADER) else {
            continue;
        };
        let Some(mapping) = space.mapping(chunk).filter(|_| chunk % 16 == 0) else {
            continue;
        };
        if pieces.contains(&mapping) {
            continue;
        }
        let Ok(head) = memory.word(chunk + 8) else {
            continue;
        };
        if head & MAPPED != 0 {
            stray.mapped.insert(chunk);
        } else if head & OTHER_ARENA == 0 {
            pieces.insert(mapping);
        }
    }
    stray.pieces = pieces.into_iter().collect();
    stray
}

fn in_range(live: &[LiveBlock], (start, end): (u64, u64)) -> &[LiveBlock] {
    let from = live.partition_point(|block| block.address < start);
    let to = live.partition_point(|block| block.address < end);
    live.get(from..to).unwrap_or_default()
}

fn walk<'a>(heap: &Heap, books: &Books, live: &'a [LiveBlock]) -> Walk<'a> {
    let top = books
        .state(heap)
        .map(|state| state.top)
        .filter(|&top| top != 0);
    Walk::new(*heap, top, in_range(live, heap.range))
}

/// Goes through a heap to find caches of threads. Gives the range from the first chunk to the last.
fn look(
    memory: &mut Memory,
    heap: &Heap,
    books: &Books,
    live: &[LiveBlock],
    caches: &mut Caches,
) -> Option<(u64, u64)> {
    let mut walk = walk(heap, books, live);
    let (mut range, mut from) = (None, heap.first);
    while let Some(step) = walk.next(memory) {
        if let Step::Chunk {
            at,
            end,
            in_use: true,
        } = step
            && Caches::may_be(end - at)
        {
            caches.add_cache(memory, at, end - at);
        }
        from = match step {
            Step::Gap(end, _) => end,
            Step::Chunk { end, .. } | Step::Top(end) | Step::Fence(end) => {
                let start = range.map_or(from, |(start, _)| start);
                range = Some((start, end));
                end
            }
        };
    }
    range
}

/// Adds up a heap. Gives the free memory in it.
fn sweep(
    memory: &mut Memory,
    heap: &Heap,
    books: &Books,
    live: &[LiveBlock],
    caches: &Caches,
    sums: &mut Sums,
) -> Part {
    let mut walk = walk(heap, books, live);
    let mut blocks = Blocks(in_range(live, heap.range));
    let mut region = sums.region(memory, heap.range, Holding::Above);
    region.piece(Piece::Overhead, heap.first);
    while let Some(step) = walk.next(region.memory()) {
        match step {
            Step::Chunk { at, end, in_use } => match (in_use, caches.free.get(&at)) {
                (false, _) => region.piece(Piece::Free(Free::Bins), end),
                (true, Some(&kind)) => region.piece(Piece::Free(kind), end),
                (true, None) if caches.own.contains_key(&at) => {
                    region.piece(Piece::Overhead, end);
                }
                (true, None) => blocks.piece(&mut region, at, end),
            },
            Step::Top(end) => region.piece(Piece::Free(Free::Top), end),
            Step::Fence(end) => region.piece(Piece::Overhead, end),
            Step::Gap(end, reason) => region.unreadable(reason, end),
        }
    }
    region.end(BEYOND_TOP)
}

/// Known blocks that were not met yet.
struct Blocks<'a>(&'a [LiveBlock]);

impl Blocks<'_> {
    /// A chunk in use.
    fn piece(&mut self, region: &mut Region<'_>, at: u64, end: u64) {
        let block = at + HEADER;
        while let [first, rest @ ..] = self.0
            && first.address < block
        {
            self.0 = rest;
        }
        let room = end - at - 8;
        match self.0.first() {
            Some(live) if live.address == block && live.size <= room => {
                region.piece(Piece::Overhead, at + 8);
                region.piece(Piece::Live { stack: live.stack }, at + 8 + live.size);
                region.piece(Piece::Overhead, end);
            }
            _ => region.piece(Piece::Unrecorded, end),
        }
    }
}
