//! What a process has mapped since the attach, and who: the system calls of the kernel side's records, one
//! after the other, on a map of ranges. It holds all that is mapped, so that what moves keeps its owner.
//!
//! It reads nothing: what `/proc/PID/maps` says, it is told, and tells what the two do not agree on. It does
//! not know what of the ranges is memory; that, the page tables say.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

use leakprobe_common::{MappingEvent, MappingSite, PAGE_BYTES, StackKey, mapping_call};
use serde::Serialize;

use super::Mapped;
use super::ranges::{Piece, RangeMap, overlap};
use crate::target::Mapping;

// From the kernel's include/uapi/linux/mman.h and asm-generic/mman-common.h.
const MAP_TYPE: u64 = 0xf;
const MAP_PRIVATE: u64 = 2;
const MAP_ANONYMOUS: u64 = 0x20;
const MAP_HUGETLB: u64 = 0x4_0000;
const MREMAP_DONTUNMAP: u64 = 4;
const MADV_DONTNEED: u64 = 4;
const MADV_FREE: u64 = 8;
/// The largest error number (include/linux/err.h).
const MAX_ERRNO: u64 = 4095;

/// What a range is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Memory of the process alone.
    Anonymous,
    /// The same, as `brk` gives it.
    Heap,
    /// A file, or memory that processes share.
    Other,
}

/// Who has mapped a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Maker {
    /// It was there at the attach.
    Before,
    /// The program, or one of its libraries.
    Program,
    /// An allocator for its blocks.
    Allocator,
}

/// What is known of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// What it is.
    pub kind: Kind,
    /// Who has mapped it.
    pub maker: Maker,
    /// By which stack; without one, its id is 0.
    pub stack: StackKey,
    /// When, in ns of [`crate::clock::now`].
    pub time: u64,
    /// Number of the call.
    pub call: u64,
}

impl Origin {
    const BEFORE: Self = Self {
        kind: Kind::Other,
        maker: Maker::Before,
        stack: StackKey { id: 0, program: 0 },
        time: 0,
        call: 0,
    };

    fn of(event: &MappingEvent, kind: Kind, call: u64) -> Self {
        let maker = match event.by_allocator {
            0 => Maker::Program,
            _ => Maker::Allocator,
        };
        let stack = StackKey {
            id: event.stack,
            program: event.program,
        };
        Self {
            kind,
            maker,
            stack,
            time: event.time,
            call,
        }
    }

    /// Whether it is memory of the process alone.
    pub fn is_anonymous(&self) -> bool {
        self.kind != Kind::Other
    }
}

/// What the ranges and `/proc/PID/maps` do not agree on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Disagreement {
    /// Bytes of memory that nobody is known to have mapped.
    pub unexplained: u64,
    /// Bytes that were thought to be mapped and are not.
    pub gone: u64,
}

/// What one stack has mapped and not unmapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappedStack {
    /// The stack; without one, its id is 0.
    pub key: StackKey,
    /// Whether an allocator has made the calls.
    pub by_allocator: bool,
    /// Addresses.
    pub mapped: Mapped,
    /// Bytes of them that are there, in memory or swapped out; `None` if that was not looked at.
    pub resident_bytes: Option<u64>,
    /// Ages of the oldest and the newest, nanoseconds.
    pub ages: (u64, u64),
}

/// Addresses whose memory the kernel was told that it may take back (`MADV_DONTNEED`, `MADV_FREE`): each time
/// anew, memory or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Advised {
    /// By the program, its libraries and its runtime.
    pub program: Mapped,
    /// By an allocator.
    pub allocator: Mapped,
}

/// What a process has mapped for itself alone since the attach.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// By stack, most bytes first.
    pub stacks: Vec<MappedStack>,
    /// What of before is still there, bytes.
    pub before_bytes: u64,
    /// What `madvise` has told the kernel it may take back, mapped yet.
    pub advised: Advised,
    /// What does not agree with what the kernel says; `None` if it was not asked.
    pub disagreement: Option<Disagreement>,
}

/// Tells how many bytes of a range are there.
pub type Resident<'a> = &'a dyn Fn(u64, u64) -> u64;

/// What was taken away by a system call that has not returned yet.
struct Pending {
    call: u64,
    address: u64,
    pieces: Vec<Piece<Origin>>,
}

/// The ranges of one address space.
#[derive(Default)]
pub struct Mappings {
    ranges: RangeMap<Origin>,
    /// By thread.
    pending: HashMap<u64, Pending>,
    /// Where the heap ends, rounded up; 0 if that is not known.
    heap_end: u64,
    calls: u64,
    advised: Advised,
}

impl Mappings {
    /// Of a process that has this mapped, and whose heap begins there if it is empty (0 if that is not
    /// known). What was recorded before they were read may be told again.
    pub fn new(before: &[Mapping], heap_start: u64) -> Self {
        let mut this = Self {
            heap_end: rounded(heap_start),
            ..Self::default()
        };
        for mapping in before {
            let kind = match (is_anonymous(mapping), is_heap(mapping)) {
                (_, true) => Kind::Heap,
                (true, _) => Kind::Anonymous,
                (false, _) => Kind::Other,
            };
            if kind == Kind::Heap {
                this.heap_end = this.heap_end.max(mapping.end);
            }
            let origin = Origin {
                kind,
                ..Origin::BEFORE
            };
            this.ranges.put(mapping.start, mapping.end, origin);
        }
        this
    }

    /// Takes in what happened next.
    pub fn see(&mut self, event: &MappingEvent) {
        let number = event.call & MappingSite::NUMBER;
        let [address, length, ..] = event.arguments;
        if event.call & MappingSite::BEFORE != 0 {
            let pending = Pending {
                call: number,
                address,
                pieces: self.take(address, length),
            };
            self.pending.insert(event.thread, pending);
            return;
        }
        self.calls += 1;
        let pending = self.pending.remove(&event.thread);
        let pending = pending.filter(|it| it.call == number && it.address == address);
        let pieces = pending.map(|it| it.pieces);
        let failed = event.result > u64::MAX - MAX_ERRNO;
        match number as u32 {
            mapping_call::MUNMAP | mapping_call::MREMAP if failed => {
                self.put_back(pieces.unwrap_or_default());
            }
            mapping_call::MUNMAP => drop(pieces.unwrap_or_else(|| self.take(address, length))),
            mapping_call::MREMAP => {
                let pieces = pieces.unwrap_or_else(|| self.take(address, length));
                self.moved(event, pieces);
            }
            mapping_call::MMAP if !failed => self.mapped(event),
            mapping_call::BRK => self.heap(event),
            mapping_call::MADVISE if !failed => self.advised(event),
            _ => {}
        }
    }

    /// All ranges, in order.
    pub fn ranges(&self) -> impl Iterator<Item = Piece<Origin>> {
        self.ranges.iter()
    }

    /// The ranges as of now, for [`Self::compare`].
    pub fn as_of_now(&self) -> RangeMap<Origin> {
        let mut ranges = self.ranges.clone();
        for &(start, end, origin) in self.pending.values().flat_map(|it| &it.pieces) {
            ranges.fill(start, end, origin);
        }
        ranges
    }

    /// Adds up by stack as of `now`.
    pub fn summary(&self, now: u64, resident: Option<Resident<'_>>) -> Summary {
        let mut summary = Summary {
            advised: self.advised,
            ..Summary::default()
        };
        let mut stacks: HashMap<(StackKey, bool), (MappedStack, HashSet<u64>)> = HashMap::new();
        for (start, end, origin) in self.ranges().filter(|it| it.2.is_anonymous()) {
            if origin.maker == Maker::Before {
                summary.before_bytes += end - start;
                continue;
            }
            let by_allocator = origin.maker == Maker::Allocator;
            let age = now.saturating_sub(origin.time);
            let new = || MappedStack {
                key: origin.stack,
                by_allocator,
                mapped: Mapped::default(),
                resident_bytes: resident.map(|_| 0),
                ages: (0, u64::MAX),
            };
            let (stack, calls) = stacks
                .entry((origin.stack, by_allocator))
                .or_insert_with(|| (new(), HashSet::new()));
            let bytes = end - start;
            let count = calls.insert(origin.call).into();
            stack.mapped += Mapped { bytes, count };
            stack.ages = (stack.ages.0.max(age), stack.ages.1.min(age));
            if let (Some(sum), Some(resident)) = (&mut stack.resident_bytes, resident) {
                *sum += resident(start, end);
            }
        }
        summary.stacks = stacks.into_values().map(|(stack, _)| stack).collect();
        // The id makes the order the same every time.
        let order = |it: &MappedStack| (Reverse(it.mapped.bytes), it.key.id, it.by_allocator);
        summary.stacks.sort_unstable_by_key(order);
        summary
    }

    /// Compares the ranges with what the process had mapped between `earlier` and now, and takes out what is
    /// not there. What has changed meanwhile is not held against them.
    pub fn compare(&mut self, earlier: &RangeMap<Origin>, mapped: &[Mapping]) -> Disagreement {
        let now = self.as_of_now();
        let mut found = Disagreement::default();
        let own: Vec<(u64, u64)> = mapped
            .iter()
            .filter(|it| is_anonymous(it) || is_heap(it))
            .map(|it| (it.start, it.end))
            .collect();
        for &(start, end) in &own {
            let known = [earlier, &now];
            let known = known.iter().flat_map(|it| it.within(start, end));
            let mut known: Vec<(u64, u64)> = known.map(|(from, to, _)| (from, to)).collect();
            known.sort_unstable();
            let mut at = start;
            for (from, to) in known {
                found.unexplained += from.saturating_sub(at);
                at = at.max(to);
            }
            found.unexplained += end.saturating_sub(at);
        }
        for (start, end, origin) in earlier.iter().filter(|(.., it)| it.is_anonymous()) {
            for (from, to, later) in self.ranges.within(start, end) {
                if later == origin {
                    found.gone += (to - from) - overlap((from, to), &own);
                    self.forget(from, to, &own, origin);
                }
            }
        }
        found
    }

    /// Takes out what of a range is in none of the others.
    fn forget(&mut self, start: u64, end: u64, others: &[(u64, u64)], origin: Origin) {
        if overlap((start, end), others) == end - start {
            return;
        }
        self.ranges.take(start, end);
        for &(from, to) in others
            .iter()
            .filter(|(from, to)| *from < end && *to > start)
        {
            self.ranges.put(from.max(start), to.min(end), origin);
        }
    }

    fn take(&mut self, address: u64, length: u64) -> Vec<Piece<Origin>> {
        match address % PAGE_BYTES {
            0 => self.ranges.take(address, end(address, length)),
            _ => Vec::new(), // it will fail
        }
    }

    /// Puts ranges back that a call has not taken after all.
    fn put_back(&mut self, pieces: Vec<Piece<Origin>>) {
        for (start, end, origin) in pieces {
            self.ranges.fill(start, end, origin);
        }
    }

    fn mapped(&mut self, event: &MappingEvent) {
        let [_, length, _, flags, _] = event.arguments;
        let is_private = flags & MAP_TYPE == MAP_PRIVATE && flags & MAP_HUGETLB == 0;
        let kind = match is_private && flags & MAP_ANONYMOUS != 0 {
            true => Kind::Anonymous,
            false => Kind::Other,
        };
        let origin = Origin::of(event, kind, self.calls);
        self.ranges
            .put(event.result, end(event.result, length), origin);
    }

    /// `pieces` were moved, or stay where they are with another length.
    fn moved(&mut self, event: &MappingEvent, pieces: Vec<Piece<Origin>>) {
        let [from, old, new, flags, _] = event.arguments;
        let (old, new, to) = (rounded(old), rounded(new), event.result);
        let kind = match (old, pieces.last()) {
            (0, _) => Kind::Other, // a second view of shared memory
            (_, Some((.., last))) => last.kind,
            (_, None) => Kind::Anonymous,
        };
        let covered = self.ranges.take(to, end(to, new));
        for &(start, end, origin) in &pieces {
            let place = |address: u64| to.wrapping_add(address.wrapping_sub(from).min(new));
            self.ranges.put(place(start), place(end), origin);
        }
        if new > old {
            let origin = Origin::of(event, kind, self.calls);
            self.ranges.put(end(to, old), end(to, new), origin);
        }
        // Where nothing was moved to: of several mappings with gaps between them, which kernels move since 6.17,
        // and if it happened before the mappings were first read.
        self.put_back(covered);
        if flags & MREMAP_DONTUNMAP != 0 {
            self.put_back(pieces);
        }
    }

    fn advised(&mut self, event: &MappingEvent) {
        let [_, length, advice, ..] = event.arguments;
        if matches!(advice, MADV_DONTNEED | MADV_FREE) {
            let whose = match event.by_allocator {
                0 => &mut self.advised.program,
                _ => &mut self.advised.allocator,
            };
            let bytes = rounded(length);
            *whose += Mapped { bytes, count: 1 };
        }
    }

    fn heap(&mut self, event: &MappingEvent) {
        let (before, now) = (self.heap_end, rounded(event.result));
        self.heap_end = now;
        if before == 0 {
            return;
        }
        if now > before {
            let origin = Origin::of(event, Kind::Heap, self.calls);
            self.ranges.put(before, now, origin);
        } else {
            self.ranges.take(now, before);
        }
    }
}

/// Address after a range of so many bytes, which the kernel rounds up to whole pages.
fn end(address: u64, length: u64) -> u64 {
    address.saturating_add(rounded(length))
}

fn rounded(length: u64) -> u64 {
    length
        .checked_next_multiple_of(PAGE_BYTES)
        .unwrap_or(!(PAGE_BYTES - 1))
}

fn is_heap(mapping: &Mapping) -> bool {
    mapping.path.as_os_str() == "[heap]"
}

/// Whether a mapping is memory of the process alone that it has asked for: not its stack, nor what the kernel
/// maps for it.
fn is_anonymous(mapping: &Mapping) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let path = mapping.path.as_os_str().as_bytes();
    mapping.inode == 0 && (path.is_empty() || path.starts_with(b"[anon:"))
}

#[cfg(test)]
#[path = "mappings_tests.rs"]
mod tests;
