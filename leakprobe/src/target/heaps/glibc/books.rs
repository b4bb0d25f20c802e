//! Where glibc keeps its books: the state of each arena, the heaps of those that do not use `brk`, and its
//! parameters. Layouts of glibc 2.27 to 2.43 on 64-bit machines; what does not look like them is not taken for it.

use std::collections::BTreeMap;

use leakprobe_common::PAGE_BYTES;

use crate::target::Mapping;
use crate::target::heaps::memory::Memory;
use crate::target::heaps::space::Space;

/// Heaps of arenas other than the main one lie at multiples of this (`HEAP_MAX_SIZE`).
const HEAP_ALIGNMENT: u64 = 64 << 20;
/// Most heaps and arenas that are looked at.
const MAX_HEAPS: usize = 1 << 16;
/// Most bytes of the C library's data that are searched.
const MAX_DATA: u64 = 16 << 20;

// `struct malloc_state`: offsets in bytes.
const STATE_BYTES: usize = 2200;
const FASTBINS: usize = 16;
const TOP: usize = 96;
const BINS: usize = 112;
const BIN_COUNT: usize = 127;
const NEXT: usize = 2160;
const SYSTEM: usize = 2184;
/// Lists of small chunks that are not joined.
pub const FASTBIN_COUNT: usize = 10;
/// `DEFAULT_MMAP_MAX`.
const MAX_MAPPED: u32 = 65536;

/// The state of an arena.
#[derive(Clone, Copy, Debug)]
pub struct State {
    /// Where it is.
    pub address: u64,
    /// First chunk of each list of small ones.
    pub fastbins: [u64; FASTBIN_COUNT],
    /// The chunk at the end.
    pub top: u64,
    /// Bytes that it has from the kernel.
    pub system: u64,
}

/// What the main arena and all arenas together know.
#[derive(Clone, Copy, Debug)]
pub struct Parameters {
    /// Where `brk` was at the first request.
    pub base: u64,
    /// Bytes of the mappings of single blocks.
    pub mapped_bytes: u64,
}

/// A piece of memory with chunks one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heap {
    /// Its range.
    pub range: (u64, u64),
    /// Its first chunk.
    pub first: u64,
    /// Its arena; 0 for the main one.
    pub arena: u64,
}

impl Heap {
    /// Whether it is the main arena's.
    pub fn is_main(&self) -> bool {
        self.arena == 0
    }
}

/// All books that were found.
#[derive(Debug, Default)]
pub struct Books {
    /// The main arena's state.
    pub main: Option<State>,
    /// The others', by address.
    pub arenas: BTreeMap<u64, Option<State>>,
    /// Parameters.
    pub parameters: Option<Parameters>,
    /// Heaps of the other arenas.
    pub heaps: Vec<Heap>,
}

impl Books {
    /// Looks for them: in the data of the object at `path`, and at the aligned addresses of memory without a file.
    pub fn find(memory: &mut Memory, mappings: &[Mapping], path: &str, space: &Space) -> Self {
        let mut books = Self::default();
        for heap in infos(memory, space) {
            let arena = books.arenas.entry(heap.arena);
            arena.or_insert_with(|| state_at(memory, heap.arena));
            books.heaps.push(heap);
        }
        let data = data(memory, mappings, path);
        books.main = data.iter().find_map(|(start, bytes)| {
            let places = bytes.len().saturating_sub(STATE_BYTES) / 8;
            (0..places)
                .map(|place| place * 8)
                .find_map(|at| state(&bytes[at..at + STATE_BYTES], start + at as u64))
                // A copy of another arena is not the main one.
                .filter(|state| state.top == 0 || space.anonymous(state.top).is_some())
        });
        books.parameters =
            (space.brk()).and_then(|brk| data.iter().find_map(|(_, bytes)| parameters(bytes, brk)));
        books
    }

    /// The state of a heap's arena.
    pub fn state(&self, heap: &Heap) -> Option<&State> {
        match heap.is_main() {
            true => self.main.as_ref(),
            false => self.arenas.get(&heap.arena)?.as_ref(),
        }
    }
}

/// The heaps of other arenas.
fn infos(memory: &mut Memory, space: &Space) -> Vec<Heap> {
    let mut found: BTreeMap<u64, [u64; 4]> = BTreeMap::new();
    for &(start, end) in space.ranges() {
        let Some(first) = start.checked_next_multiple_of(HEAP_ALIGNMENT) else {
            continue;
        };
        let mut at = first;
        while at < end && found.len() < MAX_HEAPS && !memory.is_over() {
            let mut bytes = [0; 32];
            if memory.peek(at, &mut bytes).is_ok() {
                let info = [0, 8, 16, 24].map(|offset| word(&bytes, offset));
                if is_info(&info, at, end) {
                    found.insert(at, info);
                }
            }
            at += HEAP_ALIGNMENT;
        }
    }
    // The first heap of an arena holds its state; the others lead there.
    let root = |mut at: u64| {
        for _ in 0..MAX_HEAPS {
            let info = found.get(&at)?;
            if info[1] == 0 {
                let within = info[0].checked_sub(at)?;
                return (32..=256).contains(&within).then_some((at, info[0]));
            }
            at = info[1];
        }
        None
    };
    let mut heaps = Vec::new();
    for (&at, info) in &found {
        let Some((root, arena)) = root(at).filter(|root| root.1 == info[0]) else {
            continue;
        };
        let header = arena - root;
        let first = match at == root {
            // A block, 16 bytes into its chunk, is aligned to 16.
            true => (arena + STATE_BYTES as u64).next_multiple_of(16),
            false => at + header,
        };
        heaps.push(Heap {
            range: (at, at + info[2]),
            first,
            arena,
        });
    }
    heaps
}

/// `heap_info`: arena, previous heap, size, size that may be written.
fn is_info(&[arena, previous, size, writable]: &[u64; 4], at: u64, end: u64) -> bool {
    let is_size = |size: u64| size > 0 && size <= HEAP_ALIGNMENT && size.is_multiple_of(PAGE_BYTES);
    arena != 0
        && arena.is_multiple_of(8)
        && previous.is_multiple_of(HEAP_ALIGNMENT)
        && previous != at
        && is_size(size)
        && is_size(writable)
        && size <= writable
        && at.checked_add(size).is_some_and(|of| of <= end)
}

/// The C library's own data: where each piece is, and the bytes.
fn data(memory: &mut Memory, mappings: &[Mapping], path: &str) -> Vec<(u64, Vec<u8>)> {
    let mut left = MAX_DATA;
    let mut data = Vec::new();
    let is_its = |mapping: &&Mapping| {
        !mapping.executable && mapping.inode != 0 && mapping.path.to_string_lossy() == path
    };
    for mapping in mappings.iter().filter(is_its) {
        let mut piece: (u64, Vec<u8>) = (mapping.start, Vec::new());
        let mut page = mapping.start;
        while page < mapping.end && left >= PAGE_BYTES {
            // Only what was written is the process's own.
            match memory.bytes::<{ PAGE_BYTES as usize }>(page) {
                Ok(bytes) => {
                    left -= PAGE_BYTES;
                    piece.1.extend_from_slice(&bytes);
                }
                Err(_) => {
                    let next = (page + PAGE_BYTES, Vec::new());
                    data.push(std::mem::replace(&mut piece, next));
                }
            }
            page += PAGE_BYTES;
        }
        data.push(piece);
    }
    data.retain(|(_, bytes)| !bytes.is_empty());
    data
}

fn state_at(memory: &mut Memory, address: u64) -> Option<State> {
    let mut bytes = [0; STATE_BYTES];
    memory.peek(address, &mut bytes).ok()?;
    state(&bytes, address)
}

/// A state has 127 rings of free chunks, most of them empty: then they point to themselves.
fn state(bytes: &[u8], address: u64) -> Option<State> {
    let mut empty = 0;
    for bin in 0..BIN_COUNT {
        let at = BINS + bin * 16;
        let (next, previous) = (word(bytes, at), word(bytes, at + 8));
        let own = address + at as u64 - 16;
        match (next == own, previous == own) {
            (true, true) => empty += 1,
            (false, false) if next != 0 && previous != 0 && (next | previous) % 16 == 0 => {}
            _ => return None,
        }
    }
    let (top, next) = (word(bytes, TOP), word(bytes, NEXT));
    let is_it = empty >= 16 && top % 16 == 0 && next != 0 && next % 8 == 0;
    is_it.then(|| State {
        address,
        fastbins: std::array::from_fn(|bin| word(bytes, FASTBINS + bin * 8)),
        // Before the first request it is the empty ring.
        top: if top == address + TOP as u64 { 0 } else { top },
        system: word(bytes, SYSTEM),
    })
}

/// `mp_`: found by the first address from `brk`, before which the counts of mappings are, with their limit.
fn parameters(bytes: &[u8], (start, end): (u64, u64)) -> Option<Parameters> {
    let (low, high) = (|word: u64| word as u32, |word: u64| (word >> 32) as u32);
    (40..bytes.len().saturating_sub(8))
        .step_by(8)
        .find_map(|at| {
            let base = word(bytes, at);
            let (bytes_now, most) = (word(bytes, at - 16), word(bytes, at - 8));
            let counts = word(bytes, at - 32);
            // Before 2.35, and since.
            let (count, limit) = match high(counts) {
                MAX_MAPPED => (low(counts), MAX_MAPPED),
                _ => (high(word(bytes, at - 40)), low(counts)),
            };
            let is_it = (start..end.min(start.saturating_add(1 << 20))).contains(&base)
                && limit == MAX_MAPPED
                && count <= limit
                && bytes_now <= most
                && bytes_now % PAGE_BYTES == 0
                && (count == 0) == (bytes_now == 0);
            is_it.then_some(Parameters {
                base,
                mapped_bytes: bytes_now,
            })
        })
}

/// Eight bytes at an offset; 0 beyond the end.
pub fn word(bytes: &[u8], at: usize) -> u64 {
    let bytes = bytes
        .get(at..at + 8)
        .and_then(|bytes| bytes.try_into().ok());
    bytes.map_or(0, u64::from_le_bytes)
}
