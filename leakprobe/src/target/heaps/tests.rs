//! Memory that no process has: sums are right, and whatever stands in it, the parts add up and nothing panics.

use std::io;
use std::path::PathBuf;

use leakprobe_common::{HUGE_BYTES, PAGE_BYTES};

use super::memory::{Source, Unread};
use super::sweep::{Holding, Piece};
use super::*;
use crate::target::pages::{Page, REGION_PAGES};

/// Memory from an address on; of some pages nothing is there.
struct Fake {
    start: u64,
    bytes: Vec<u8>,
    absent: fn(u64) -> bool,
}

impl Source for Fake {
    fn read(&self, address: u64, into: &mut [u8]) -> io::Result<usize> {
        let from = address
            .checked_sub(self.start)
            .map_or(usize::MAX, |from| from as usize);
        let bytes = self.bytes.get(from..).unwrap_or_default();
        let count = bytes.len().min(into.len());
        into[..count].copy_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn region(&self, start: u64) -> Option<[Page; REGION_PAGES]> {
        let mut pages = [Page::default(); REGION_PAGES];
        for (index, page) in pages.iter_mut().enumerate() {
            let at = start + index as u64 * PAGE_BYTES;
            let end = self.start + self.bytes.len() as u64;
            page.is_there = (self.start..end).contains(&at) && !(self.absent)(at / PAGE_BYTES);
        }
        Some(pages)
    }
}

fn memory(start: u64, bytes: Vec<u8>, absent: fn(u64) -> bool) -> Memory {
    let fake = Fake {
        start,
        bytes,
        absent,
    };
    Memory::new(Box::new(fake), &Limits::default())
}

fn part(bytes: u64, resident_bytes: u64) -> Part {
    Part {
        bytes,
        resident_bytes,
    }
}

#[test]
fn resident_pages() {
    let size = 5 * HUGE_BYTES;
    let start = HUGE_BYTES - 8 * PAGE_BYTES;
    let mut memory = memory(start, vec![0; size as usize], |page| page % 3 == 0);
    for (from, to) in [
        (start, start + size),
        (start + 100, start + 101),
        (start + 5, start + 3 * HUGE_BYTES - 7),
        (start - 9000, start + 9000),
        (HUGE_BYTES, 2 * HUGE_BYTES),
    ] {
        let slow = (from..to)
            .filter(|at| (start..start + size).contains(at) && !(at / PAGE_BYTES).is_multiple_of(3))
            .count();
        assert_eq!(memory.resident(from, to), slow as u64, "{from:x} {to:x}");
    }
}

#[test]
fn bytes_of_pages_that_are_there() {
    let bytes: Vec<u8> = (0..16 * PAGE_BYTES).map(|at| (at / 8) as u8).collect();
    let mut memory = memory(0x10000, bytes.clone(), |page| page == 0x13);
    for at in [0x10000, 0x10ff8, 0x11ffc, 0x14000] {
        let from = (at - 0x10000) as usize;
        assert_eq!(
            memory.bytes::<8>(at).unwrap(),
            bytes[from..from + 8],
            "{at:x}"
        );
        let mut peeked = [0; 8];
        memory.peek(at, &mut peeked).unwrap();
        assert_eq!(peeked, bytes[from..from + 8], "{at:x}");
    }
    for at in [0x12ffc, 0x13000, 0x13ffc, 0x1fffc, 0x20000, u64::MAX - 3] {
        assert_eq!(memory.bytes::<8>(at), Err(Unread::Absent), "{at:x}");
        assert_eq!(memory.word(at), Err(Unread::Absent), "{at:x}");
    }
}

#[test]
fn limits_of_bytes() {
    let fake = Fake {
        start: 0,
        bytes: vec![1; 1 << 20],
        absent: |_| false,
    };
    let limits = Limits {
        read_bytes: 10 * PAGE_BYTES,
        ..Limits::default()
    };
    let mut memory = Memory::new(Box::new(fake), &limits);
    let read = (0..256)
        .filter(|page| memory.word(page * PAGE_BYTES).is_ok())
        .count();
    assert_eq!(read, 10);
    assert_eq!(memory.word(0xff000), Err(Unread::Limit));
    assert!(memory.is_over());
}

#[test]
fn shares_of_what_blocks_hold() {
    let mut memory = memory(0, vec![0; 1 << 16], |page| page == 1);
    let mut sums = Sums::default();
    let mut region = sums.region(&mut memory, (0, 0x10000), Holding::Above);
    region.piece(Piece::Overhead, 0x10);
    region.piece(Piece::Live { stack: 1 }, 0x800); // holds nothing: nothing is below it
    region.piece(Piece::Free(Free::Bins), 0x3000);
    region.piece(Piece::Live { stack: 1 }, 0x3100);
    region.piece(Piece::Live { stack: 2 }, 0x3200);
    region.piece(Piece::Unrecorded, 0x4000);
    region.piece(Piece::Free(Free::Bins), 0x4001);
    region.piece(Piece::Live { stack: 2 }, 0x5000);
    region.unreadable("why", 0x6000);
    region.piece(Piece::Free(Free::Top), 0x20000); // cut off
    assert_eq!(region.end(""), part(0x2801 + 0xa000, 0x1801 + 0xa000));
    assert_eq!(sums.whole(), part(0x10000, 0xf000));
    assert_eq!((sums.live_blocks, sums.unrecorded_blocks), (4, 1));
    assert_eq!(sums.unreadable, part(0x1000, 0x1000));
    assert_eq!(sums.free_pages, part(0x2000 + 0xa000, 0x1000 + 0xa000));
    let (pinned, pins) = sums.pins(10);
    assert_eq!(pinned, part(0x2801, 0x1801));
    let all: u64 = pins.iter().map(|pin| pin.pinned.bytes).sum();
    assert_eq!(all, 0x2801);
    assert_eq!(
        pins[0].stack.map(|stack| stack == 2),
        Some(true),
        "{pins:?}"
    );
    assert_eq!(pins[0].blocks, 2);
    assert_eq!(sums.problems()[0].bytes, 0x1000);

    let mut sums = Sums::default();
    for holding in [Holding::Whole, Holding::Never] {
        let mut region = sums.region(&mut memory, (0x2000, 0x3000), holding);
        region.piece(Piece::Live { stack: 1 }, 0x2100);
        region.piece(Piece::Free(Free::Freed), 0x3000);
        region.end("");
    }
    let (pinned, pins) = sums.pins(0);
    assert_eq!((pinned, pins.len()), (part(0xf00, 0xf00), 0));
}

#[test]
fn nothing_is_known_of_others() {
    let allocator = AllocatorInfo {
        name: "libmimalloc.so".into(),
        path: "/x".into(),
    };
    let process = Process::open(std::process::id()).unwrap();
    let error = read(&process, &allocator, &[], Limits::default()).unwrap_err();
    assert!(matches!(error, Unreadable::Allocator(_)), "{error}");
}

const HEAP: u64 = 0x4000_0000;
const ARENA: u64 = 0x7f00_0000_0000 & !((64 << 20) - 1);

fn mapping(start: u64, bytes: u64, path: &str) -> Mapping {
    Mapping {
        start,
        end: start + bytes,
        executable: false,
        offset: 0,
        device: (0, 0),
        inode: u64::from(path.starts_with('/')),
        path: PathBuf::from(path),
    }
}

/// Numbers by chance, the same every time for a seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    /// A word as they stand in heaps, now and then right by chance.
    fn word(&mut self, start: u64) -> u64 {
        match self.below(17) {
            0..3 => 0,
            3..9 => ((1 + self.below(39)) * 16) | self.below(8),
            9..12 => start + self.below(WORDS) * 8,
            12..14 => start + self.below(WORDS / 512) * PAGE_BYTES,
            14 => (self.below(16) * PAGE_BYTES) | 2,
            15 => (self.below(u64::MAX) << 31) ^ self.below(u64::MAX),
            _ => u64::MAX,
        }
    }

    fn block(&mut self, start: u64) -> LiveBlock {
        let size = match self.below(100) {
            0 => u64::MAX,
            _ => self.below(3000),
        };
        LiveBlock {
            address: start + self.below(WORDS / 2) * 16,
            size,
            stack: self.below(4),
        }
    }
}

const WORDS: u64 = 8192;

fn assert_parts(state: &HeapState) {
    let parts = [
        state.live,
        state.unrecorded,
        state.free,
        state.overhead,
        state.unreadable,
    ];
    let mut sum = Part::default();
    for part in parts {
        assert!(part.resident_bytes <= part.bytes);
        sum += part;
    }
    assert_eq!(sum, state.whole);
    let ranges: u64 = state.ranges.iter().map(|(start, end)| end - start).sum();
    assert_eq!(ranges, state.whole.bytes, "{state:#?}");
}

#[test]
fn whatever_is_in_it() {
    for seed in 0..100 {
        let chance = &mut Chance(seed);
        let (start, name) = match seed % 2 {
            0 => (HEAP, "[heap]"),
            _ => (ARENA, ""),
        };
        let words = (0..WORDS).map(|_| chance.word(start));
        let bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
        let mut live: Vec<LiveBlock> = (0..seed % 50).map(|_| chance.block(start)).collect();
        live.sort_unstable_by_key(|block| block.address);
        let size = bytes.len() as u64;
        let mut mappings = vec![mapping(start, size, name)];
        if seed % 4 < 2 {
            mappings[0].end -= 0x4000;
            mappings.push(mapping(start + size - 0x4000, 0x4000, "/libc.so.6"));
        }
        for family in [Family::Glibc, Family::Mallocng] {
            let mut memory = memory(start, bytes.clone(), |page| page % 11 == 0);
            let limits = Limits::default();
            match read_memory(&mut memory, &mappings, family, "/libc.so.6", &live, limits) {
                Ok(state) => assert_parts(&state),
                Err(error) => assert!(matches!(error, Unreadable::OldMalloc), "{seed}: {error}"),
            }
        }
    }
}
