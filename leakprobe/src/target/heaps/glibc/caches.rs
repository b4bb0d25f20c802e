//! Chunks that are free, but look as if they were in use: those in the fast bins of an arena, and in the caches of
//! threads. Only lists that hold together to their end count.
//!
//! A thread's cache is itself a chunk of its own size. Its lists hold blocks of one size each, and each block in
//! it carries the same key in its second word; a chunk that is not a cache will not look like that.

use std::collections::HashMap;

use super::books::{State, word};
use super::chunks::{HEADER, MIN_CHUNK};
use crate::target::heaps::Free;
use crate::target::heaps::memory::Memory;

/// Most chunks that are kept in mind.
const MAX_CHUNKS: usize = 1 << 20;
/// Most blocks of one list of a cache (`tcache_count` is of 16 bits).
const MAX_LIST: usize = 1 << 16;
/// Lists of a cache whose blocks have one size each.
const SMALL_LISTS: usize = 64;

/// A layout of a thread's cache.
struct Layout {
    /// Size of its chunk.
    chunk: u64,
    /// Lists, each with a count of 2 bytes before all their first blocks.
    lists: usize,
    /// Whether a count is that of the blocks, not of those that fit in yet.
    counts_blocks: bool,
}

/// Of glibc 2.30 to 2.41, and from 2.42 on.
const LAYOUTS: [Layout; 2] = [
    Layout {
        chunk: 0x290,
        lists: 64,
        counts_blocks: true,
    },
    Layout {
        chunk: 0x300,
        lists: 76,
        counts_blocks: false,
    },
];

/// What was found.
#[derive(Debug, Default)]
pub struct Caches {
    /// By the address of the chunk: which kind of free.
    pub free: HashMap<u64, Free>,
    /// Chunks that are caches.
    pub own: HashMap<u64, ()>,
    /// Lists that do not hold together.
    pub broken: u64,
}

impl Caches {
    /// Whether a chunk of this size may be a cache.
    pub fn may_be(size: u64) -> bool {
        LAYOUTS.iter().any(|layout| layout.chunk == size)
    }

    /// Looks whether the chunk at an address, of a size that may be, is a cache, and takes in what it holds.
    pub fn add_cache(&mut self, memory: &mut Memory, at: u64, size: u64) {
        let Some(layout) = LAYOUTS.iter().find(|layout| layout.chunk == size) else {
            return;
        };
        let mut bytes = vec![0; layout.lists * 10];
        if memory.peek(at + HEADER, &mut bytes).is_err() {
            return;
        }
        let firsts = layout.lists * 2;
        let first = |list: usize| word(&bytes, firsts + list * 8);
        let count = |list: usize| u16::from_le_bytes([bytes[list * 2], bytes[list * 2 + 1]]);
        let is_possible = (0..layout.lists).all(|list| {
            first(list) % 16 == 0
                && (!layout.counts_blocks || (first(list) == 0) == (count(list) == 0))
        });
        if !is_possible || (0..layout.lists).all(|list| first(list) == 0) {
            return;
        }
        // Since 2.32 links are mangled with their own address.
        for is_mangled in [true, false] {
            let mut key = None;
            let mut found = Vec::new();
            let whole = (0..layout.lists).all(|list| {
                let size = (list < SMALL_LISTS).then_some(MIN_CHUNK + list as u64 * 16);
                blocks(memory, first(list), size, is_mangled, &mut key, &mut found)
            });
            if whole && !found.is_empty() {
                self.own.insert(at, ());
                self.take(found, Free::Tcache);
                return;
            }
        }
    }

    /// Takes in the fast bins of an arena.
    pub fn add_fastbins(&mut self, memory: &mut Memory, state: &State) {
        for (bin, &first) in state.fastbins.iter().enumerate() {
            let size = MIN_CHUNK + bin as u64 * 16;
            let list = [true, false]
                .into_iter()
                .find_map(|is_mangled| fast(memory, first, size, is_mangled));
            match list {
                Some(list) => self.take(list, Free::Fastbins),
                None => self.broken += 1,
            }
        }
    }

    fn take(&mut self, chunks: Vec<u64>, kind: Free) {
        for chunk in chunks {
            if self.free.len() < MAX_CHUNKS {
                self.free.insert(chunk, kind);
            }
        }
    }
}

/// The address that a link stands for; it stands at `place`.
fn link(stored: u64, place: u64, is_mangled: bool) -> u64 {
    match is_mangled {
        true => stored ^ (place >> 12),
        false => stored,
    }
}

/// The chunks of one list of a cache. Whether it holds together.
fn blocks(
    memory: &mut Memory,
    first: u64,
    size: Option<u64>,
    is_mangled: bool,
    key: &mut Option<u64>,
    found: &mut Vec<u64>,
) -> bool {
    let mut at = first;
    for _ in 0..MAX_LIST {
        if at == 0 {
            return true;
        }
        let Some(chunk) = at.checked_sub(HEADER).filter(|_| at.is_multiple_of(16)) else {
            return false;
        };
        let mut bytes = [0; 32];
        if memory.peek(chunk, &mut bytes).is_err() {
            return false;
        }
        let its_key = word(&bytes, 24);
        let is_size = size.is_none_or(|size| word(&bytes, 8) & !7 == size);
        if !is_size || its_key == 0 || *key.get_or_insert(its_key) != its_key {
            return false;
        }
        found.push(chunk);
        at = link(word(&bytes, 16), at, is_mangled);
    }
    false
}

/// The chunks of a fast bin, if it holds together.
fn fast(memory: &mut Memory, first: u64, size: u64, is_mangled: bool) -> Option<Vec<u64>> {
    let mut chunks = Vec::new();
    let mut at = first;
    while at != 0 {
        if !at.is_multiple_of(16) || chunks.len() >= MAX_CHUNKS || memory.is_over() {
            return None;
        }
        let mut bytes = [0; 24];
        memory.peek(at, &mut bytes).ok()?;
        if word(&bytes, 8) & !7 != size {
            return None;
        }
        chunks.push(at);
        at = link(word(&bytes, 16), at + HEADER, is_mangled);
    }
    Some(chunks)
}
