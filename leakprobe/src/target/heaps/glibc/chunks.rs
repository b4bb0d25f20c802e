//! Goes through the chunks of one piece of a glibc heap, from header to header.
//!
//! A chunk's header is its size; the lowest bit of the next one's says whether it is in use, and if not, its size is
//! before that. Where headers do not fit together even when read again (the process goes on meanwhile), the walk goes on at the next
//! place that is known for certain: a known block, or the top. What is between is a gap.

use super::books::{Heap, word};
use crate::target::heaps::LiveBlock;
use crate::target::heaps::memory::{Memory, Unread};

/// From a chunk to the block in it.
pub const HEADER: u64 = 16;
/// The least size of a chunk.
pub const MIN_CHUNK: u64 = 32;
// Flags in a size.
const PREVIOUS_IN_USE: u64 = 1;
pub const MAPPED: u64 = 2;
pub const OTHER_ARENA: u64 = 4;

/// How often a place is read anew before it counts as inconsistent.
const TRIES: u32 = 3;
/// How many gaps one heap may have.
const MAX_GAPS: u32 = 1000;

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A chunk.
    Chunk {
        /// Its address.
        at: u64,
        /// The address after it.
        end: u64,
        /// In use: by the program, or in a thread's cache or a fast bin.
        in_use: bool,
    },
    /// The top, up to its end.
    Top(u64),
    /// Marks an end, up to there.
    Fence(u64),
    /// Nothing can be told up to there.
    Gap(u64, &'static str),
}

/// A walk through one heap.
#[derive(Debug)]
pub struct Walk<'a> {
    heap: Heap,
    top: Option<u64>,
    at: u64,
    /// Known blocks in the heap that were not passed.
    live: &'a [LiveBlock],
    after_fence: bool,
    gaps: u32,
}

const NO_HEADER: &str = "chunk headers of a glibc heap do not fit together";
/// Why nothing is told of what is above the top.
pub const BEYOND_TOP: &str = "memory above the top of a glibc heap, which is not the allocator's";

impl<'a> Walk<'a> {
    /// Through a heap with these known blocks in it, sorted; `top` if the arena's state was found and it is in it.
    pub fn new(heap: Heap, top: Option<u64>, live: &'a [LiveBlock]) -> Self {
        let inside = |top: &u64| (heap.range.0..heap.range.1).contains(top);
        Self {
            heap,
            top: top.filter(inside),
            at: heap.first,
            live,
            after_fence: false,
            gaps: 0,
        }
    }

    /// The next step; `None` at the end.
    pub fn next(&mut self, memory: &mut Memory) -> Option<Step> {
        let end = self.heap.range.1;
        if self.at >= end {
            return None;
        }
        let mut reason = NO_HEADER;
        for again in 0..TRIES {
            if again == 1 {
                memory.forget_bytes();
            } else if again > 1 {
                memory.forget();
            }
            match self.step(memory, self.at) {
                Ok(step) => {
                    self.at = match step {
                        Step::Chunk { end, .. } | Step::Fence(end) => end,
                        // Pieces that were mapped earlier may follow the top.
                        Step::Top(end) if self.heap.is_main() => end,
                        Step::Gap(..) | Step::Top(_) => end,
                    };
                    self.after_fence = matches!(step, Step::Fence(_));
                    return Some(step);
                }
                Err(Some(why @ (Unread::Limit | Unread::Swapped))) => {
                    reason = why.reason();
                    break;
                }
                Err(Some(why)) => reason = why.reason(),
                Err(None) => reason = NO_HEADER,
            }
        }
        Some(self.gap(memory, reason))
    }

    /// Goes on at the next certain place.
    fn gap(&mut self, memory: &mut Memory, reason: &'static str) -> Step {
        let end = self.heap.range.1;
        let from = self.at;
        self.at = end;
        self.gaps += 1;
        self.after_fence = false;
        if self.gaps > MAX_GAPS || memory.is_over() {
            return Step::Gap(end, reason);
        }
        let passed = self
            .live
            .partition_point(|block| block.address <= from.saturating_add(HEADER));
        self.live = self.live.get(passed..).unwrap_or_default();
        let tops = self.top.filter(|&top| top > from);
        for (turn, block) in self.live.iter().enumerate() {
            let at = block.address.saturating_sub(HEADER);
            if at >= end || turn >= 64 || tops.is_some_and(|top| at > top) {
                break;
            }
            let is_good = at % 16 == 0
                && matches!(self.step(memory, at), Ok(Step::Chunk { in_use: true, .. }));
            if is_good {
                self.at = at;
                return Step::Gap(at, reason);
            }
        }
        if let Some(top) = tops {
            self.at = top;
        }
        Step::Gap(self.at, reason)
    }

    /// What is at a place. `Err(None)`: nothing that fits together.
    fn step(&mut self, memory: &mut Memory, at: u64) -> Result<Step, Option<Unread>> {
        let limit = self.heap.range.1;
        if limit - at < 16 {
            return Ok(Step::Fence(limit));
        }
        let header: [u8; 16] = memory.bytes(at).map_err(Some)?;
        let head = word(&header, 8);
        let size = head & !7;
        let end = at.checked_add(size).filter(|&end| end <= limit);
        let Some(end) = end else { return Err(None) };
        if size == 0 && self.after_fence && !self.heap.is_main() {
            // The second of the two that end it.
            return Ok(match limit - at {
                ..=32 => Step::Fence(limit),
                _ => Step::Gap(limit, BEYOND_TOP),
            });
        }
        if !size.is_multiple_of(16) || head & MAPPED != 0 {
            return Err(None);
        }
        if size == 16 {
            return Ok(Step::Fence(end));
        }
        if size < MIN_CHUNK || (self.heap.is_main() && head & OTHER_ARENA != 0) {
            return Err(None);
        }
        if self.top == Some(at) || (self.top.is_none() && end == limit) {
            return match head & PREVIOUS_IN_USE {
                0 => Err(None),
                _ => Ok(Step::Top(end)),
            };
        }
        if end == limit || self.top.is_some_and(|top| at < top && end > top) {
            return Err(None);
        }
        let next: [u8; 16] = memory.bytes(end).map_err(Some)?;
        let in_use = word(&next, 8) & PREVIOUS_IN_USE != 0;
        let is_good = match in_use {
            true => self.heap.is_main() || head & OTHER_ARENA != 0,
            false => word(&next, 0) == size && head & PREVIOUS_IN_USE != 0,
        };
        match is_good {
            true => Ok(Step::Chunk { at, end, in_use }),
            false => Err(None),
        }
    }
}
