//! Adds up the pieces of a heap: what each is, how much of it is in memory, and which blocks keep free ones from
//! going back. It knows nothing of any allocator.
//!
//! A region is told from its start to its end; where nothing is told, it is unreadable. So the parts of a region
//! always add up to it.

use std::collections::{BTreeMap, HashMap};
use std::ops::AddAssign;

use leakprobe_common::PAGE_BYTES;

use super::memory::Memory;
use super::{Free, Kept, LiveBlock, Part, Pin, Problem};

/// What a piece is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// A known block.
    Live {
        /// Id of its stack.
        stack: u64,
    },
    /// A block that is not on record.
    Unrecorded,
    /// Free.
    Free(Free),
    /// The allocator's own.
    Overhead,
}

/// What has to be free so that a free piece can go back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holding {
    /// All that is above it: a heap that shrinks from its end.
    Above,
    /// All of the region.
    Whole,
    /// It does not go back.
    Never,
}

/// What the heap adds up to so far.
#[derive(Debug, Default)]
pub struct Sums {
    pub live: Part,
    pub live_blocks: u64,
    pub unrecorded: Part,
    pub unrecorded_blocks: u64,
    pub overhead: Part,
    pub unreadable: Part,
    pub kept: BTreeMap<Free, (Part, u64)>,
    pub free_pages: Part,
    pub pins: HashMap<Option<u64>, Pin>,
    pub problems: BTreeMap<String, (u64, u64)>,
    pub ranges: Vec<(u64, u64)>,
}

/// A region while it is told.
pub struct Region<'a> {
    sums: &'a mut Sums,
    memory: &'a mut Memory,
    at: u64,
    end: u64,
    holding: Holding,
    /// Free bytes that no block holds yet.
    waiting: Part,
    /// Whose blocks there were since then.
    blocks: BTreeMap<Option<u64>, u64>,
    /// The free range that ends here: its first byte.
    run: Option<u64>,
    free: Part,
}

impl AddAssign for Part {
    fn add_assign(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.resident_bytes += other.resident_bytes;
    }
}

impl Sums {
    /// Begins a region. `end` is not before `start`, and the region is in no other.
    pub fn region<'a>(
        &'a mut self,
        memory: &'a mut Memory,
        (start, end): (u64, u64),
        holding: Holding,
    ) -> Region<'a> {
        self.ranges.push((start, end));
        Region {
            sums: self,
            memory,
            at: start,
            end,
            holding,
            waiting: Part::default(),
            blocks: BTreeMap::new(),
            run: None,
            free: Part::default(),
        }
    }

    /// Bytes of the known blocks that were not met.
    pub fn stale_bytes(&self, live: &[LiveBlock]) -> u64 {
        let all = live
            .iter()
            .fold(0, |sum: u64, block| sum.saturating_add(block.size));
        all.saturating_sub(self.live.bytes)
    }

    /// Notes why `bytes` are unreadable.
    pub fn problem(&mut self, reason: &str, bytes: u64) {
        let (sum, count) = match self.problems.get_mut(reason) {
            Some(entry) => entry,
            None => self.problems.entry(reason.to_owned()).or_default(),
        };
        *sum += bytes;
        *count += 1;
    }

    /// Free memory.
    pub fn free(&self) -> Part {
        let mut sum = Part::default();
        for (part, _) in self.kept.values() {
            sum += *part;
        }
        sum
    }

    /// All of it.
    pub fn whole(&self) -> Part {
        let mut sum = self.free();
        for part in [self.live, self.unrecorded, self.overhead, self.unreadable] {
            sum += part;
        }
        sum
    }

    /// Free memory by kind.
    pub fn kept(&self) -> Vec<Kept> {
        let kept = self.kept.iter();
        kept.map(|(&kind, &(part, pieces))| Kept { kind, part, pieces })
            .collect()
    }

    /// What is pinned in all, and the stacks that pin the most.
    pub fn pins(&self, top: usize) -> (Part, Vec<Pin>) {
        let mut pins: Vec<Pin> = self.pins.values().copied().collect();
        let mut sum = Part::default();
        for pin in &pins {
            sum += pin.pinned;
        }
        pins.sort_unstable_by_key(|pin| {
            let Part {
                bytes,
                resident_bytes,
            } = pin.pinned;
            (std::cmp::Reverse((resident_bytes, bytes)), pin.stack)
        });
        pins.truncate(top);
        (sum, pins)
    }

    /// Why parts are unreadable, most bytes first.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> = self
            .problems
            .iter()
            .map(|(reason, &(bytes, count))| Problem {
                reason: reason.clone(),
                bytes,
                count,
            })
            .collect();
        problems.sort_by_key(|problem| std::cmp::Reverse(problem.bytes));
        problems
    }

    /// Where it all is, sorted and joined.
    pub fn ranges(&self) -> Vec<(u64, u64)> {
        let mut ranges = self.ranges.clone();
        ranges.sort_unstable();
        let mut joined: Vec<(u64, u64)> = Vec::new();
        for (start, end) in ranges {
            match joined.last_mut() {
                Some(last) if start <= last.1 => last.1 = last.1.max(end),
                _ => joined.push((start, end)),
            }
        }
        joined
    }
}

impl Region<'_> {
    /// The memory it is in.
    pub fn memory(&mut self) -> &mut Memory {
        self.memory
    }

    /// The next piece reaches up to `end`. What is beyond the region's end is cut off.
    pub fn piece(&mut self, piece: Piece, end: u64) {
        let (start, end) = (self.at, end.min(self.end));
        if let Piece::Live { .. } | Piece::Unrecorded = piece {
            self.block(piece);
        }
        if end <= start {
            return;
        }
        self.at = end;
        let part = Part {
            bytes: end - start,
            resident_bytes: self.memory.resident(start, end),
        };
        let Piece::Free(kind) = piece else {
            self.end_run(start);
            match piece {
                Piece::Live { .. } => self.sums.live += part,
                Piece::Unrecorded => self.sums.unrecorded += part,
                _ => self.sums.overhead += part,
            }
            return;
        };
        let kept = self.sums.kept.entry(kind).or_default();
        kept.0 += part;
        kept.1 += 1;
        self.free += part;
        // The top is what can go back. A thread's own chunks are in use to the heap.
        if kind == Free::Tcache {
            self.end_run(start);
        } else {
            self.run.get_or_insert(start);
        }
        if kind != Free::Top {
            if self.holding == Holding::Above && !self.blocks.is_empty() {
                self.share_out();
            }
            self.waiting += part;
        }
    }

    /// Nothing can be told up to `end`.
    pub fn unreadable(&mut self, reason: &str, end: u64) {
        let (start, end) = (self.at, end.min(self.end));
        if end <= start {
            return;
        }
        self.end_run(start);
        self.at = end;
        self.sums.unreadable += Part {
            bytes: end - start,
            resident_bytes: self.memory.resident(start, end),
        };
        self.sums.problem(reason, end - start);
    }

    /// Ends the region; what was not told is unreadable for this reason. Gives the free memory in it.
    pub fn end(mut self, reason: &str) -> Part {
        self.unreadable(reason, self.end);
        self.end_run(self.end);
        self.share_out();
        self.free
    }

    fn block(&mut self, piece: Piece) {
        let stack = match piece {
            Piece::Live { stack } => {
                self.sums.live_blocks += 1;
                Some(stack)
            }
            _ => {
                self.sums.unrecorded_blocks += 1;
                None
            }
        };
        let is_holding = match self.holding {
            Holding::Above => self.waiting.bytes > 0,
            Holding::Whole => true,
            Holding::Never => false,
        };
        if is_holding {
            *self.blocks.entry(stack).or_default() += 1;
        }
    }

    /// Shares what waits among the blocks that hold it, equally. What nobody holds is not pinned.
    fn share_out(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        let blocks = std::mem::take(&mut self.blocks);
        let all: u64 = blocks.values().sum();
        if all == 0 || waiting.bytes == 0 {
            return;
        }
        let share =
            |of: u64, blocks: u64| (u128::from(of) * u128::from(blocks) / u128::from(all)) as u64;
        let mut before = 0;
        for (stack, count) in blocks {
            let pin = self.sums.pins.entry(stack).or_default();
            pin.stack = stack;
            pin.blocks += count;
            // From sum to sum, so that what is shared out is all there is.
            let part = |of| share(of, before + count) - share(of, before);
            pin.pinned += Part {
                bytes: part(waiting.bytes),
                resident_bytes: part(waiting.resident_bytes),
            };
            before += count;
        }
    }

    /// The free range up to here ends.
    fn end_run(&mut self, end: u64) {
        let Some(start) = self.run.take() else { return };
        let start = start.next_multiple_of(PAGE_BYTES);
        let end = end - end % PAGE_BYTES;
        if start < end {
            self.sums.free_pages += Part {
                bytes: end - start,
                resident_bytes: self.memory.resident(start, end),
            };
        }
    }
}
