//! The state of an allocator as read from outside, against what the process itself knows: its own table of blocks, and
//! what glibc's mallinfo2 says of its arenas. The victim waits while it is read, where not said otherwise.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use leakprobe::target::heaps::{Free, HeapState, Limits, LiveBlock, Part, Unreadable, read};
use leakprobe::target::{Allocator, AllocatorInfo, Process};
use leakprobe_tests::Victim;
use serde::Deserialize;

/// Without the optimizer it takes longer.
const LIMITS: Limits = Limits {
    read_bytes: 8 << 30,
    time: Duration::from_secs(60),
    top: 20,
};

/// What the victim says after each step; bytes, as in mallinfo2.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Told {
    table: u64,
    count: u64,
    arena: u64,
    fordblks: u64,
    fsmblks: u64,
    hblks: u64,
    hblkhd: u64,
}

struct Heap {
    victim: Victim,
    process: Process,
    allocator: AllocatorInfo,
    told: Told,
    live: Vec<LiveBlock>,
}

impl Heap {
    /// Starts the victim in a scenario, and lets it do the first step.
    fn of(flavor: &str, scenario: &[&str]) -> Self {
        let victim = Victim::spawn_with(flavor, "heaps", scenario);
        let process = Process::open(victim.pid()).unwrap();
        let allocators = Allocator::find(&process, &["malloc", "free", "pvalloc"]).unwrap();
        let mut heap = Self {
            allocator: allocators[0].info(),
            victim,
            process,
            told: Told::default(),
            live: Vec::new(),
        };
        heap.step();
        heap
    }

    /// Lets it do the next step.
    fn step(&mut self) {
        self.victim.go();
        let line = self.victim.line();
        self.told = serde_json::from_str(&line).unwrap_or_else(|error| panic!("`{line}`: {error}"));
        let memory = File::open(format!("/proc/{}/mem", self.victim.pid())).unwrap();
        let mut bytes = vec![0; self.told.count as usize * 24];
        memory.read_exact_at(&mut bytes, self.told.table).unwrap();
        let word =
            |entry: &[u8], at: usize| u64::from_le_bytes(entry[at..at + 8].try_into().unwrap());
        self.live = bytes
            .chunks_exact(24)
            .map(|entry| LiveBlock {
                address: word(entry, 0),
                size: word(entry, 8),
                stack: word(entry, 16),
            })
            .filter(|block| block.address != 0)
            .collect();
        self.live.sort_unstable_by_key(|block| block.address);
    }

    fn read(&self) -> HeapState {
        self.read_with(&self.live)
    }

    fn read_with(&self, live: &[LiveBlock]) -> HeapState {
        let state = read(&self.process, &self.allocator, live, LIMITS)
            .unwrap_or_else(|error| panic!("{error:#}"));
        assert_whole(&state);
        state
    }

    /// Resident memory that is the process's own, bytes.
    fn own(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.victim.pid())).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"));
        let kib: u64 = line
            .unwrap()
            .trim()
            .strip_suffix(" kB")
            .unwrap()
            .parse()
            .unwrap();
        kib * 1024
    }

    /// Panics unless all known blocks were met, and everything could be told.
    fn assert_blocks(&self, state: &HeapState) {
        assert_eq!(state.live_blocks, self.live.len() as u64, "{state:#?}");
        let bytes: u64 = self.live.iter().map(|block| block.size).sum();
        assert_eq!(state.live.bytes, bytes, "{state:#?}");
        assert_eq!((state.stale_blocks, state.stale_bytes), (0, 0));
        assert_eq!(state.unreadable.bytes, 0, "{:#?}", state.problems);
        assert!(state.whole.resident_bytes <= self.own(), "{state:#?}");
    }

    /// Panics unless the state is exactly that of the known blocks; musl itself has none in this victim.
    fn assert_musl(&self, state: &HeapState) {
        self.assert_blocks(state);
        assert!(state.problems.is_empty(), "{:#?}", state.problems);
        assert_eq!(state.unrecorded_blocks, 0, "{state:#?}");
    }

    /// Panics unless the state is what glibc says of itself.
    fn assert_glibc(&self, state: &HeapState) {
        self.assert_blocks(state);
        assert!(state.problems.is_empty(), "{:#?}", state.problems);
        let told = &self.told;
        let arenas: u64 = state.arenas.iter().map(|arena| arena.whole.bytes).sum();
        assert_eq!(arenas, told.arena, "{state:#?}");
        let free: u64 = [Free::Top, Free::Bins, Free::Fastbins]
            .map(|kind| kept(state, kind).bytes)
            .iter()
            .sum();
        assert_eq!(free, told.fordblks, "{state:#?}");
        assert_eq!(kept(state, Free::Fastbins).bytes, told.fsmblks);
        assert_eq!(
            (state.mapped_blocks, state.mapped.bytes),
            (told.hblks, told.hblkhd)
        );
        assert_eq!(state.whole.bytes, told.arena + told.hblkhd);
    }
}

fn kept(state: &HeapState, kind: Free) -> Part {
    let kept = state.kept.iter().find(|kept| kept.kind == kind);
    kept.map_or(Part::default(), |kept| kept.part)
}

/// Panics unless every byte is in one part, and no part has more in memory than there is.
fn assert_whole(state: &HeapState) {
    let parts = [
        state.live,
        state.unrecorded,
        state.free,
        state.overhead,
        state.unreadable,
    ];
    let sum = |of: fn(&Part) -> u64| parts.iter().map(of).sum::<u64>();
    assert_eq!(sum(|part| part.bytes), state.whole.bytes, "{state:#?}");
    assert_eq!(
        sum(|part| part.resident_bytes),
        state.whole.resident_bytes,
        "{state:#?}"
    );
    let ranges: u64 = state.ranges.iter().map(|(start, end)| end - start).sum();
    assert_eq!(ranges, state.whole.bytes, "{state:#?}");
    let free = state.kept.iter().map(|kept| kept.part);
    assert_eq!(
        free.clone().map(|part| part.bytes).sum::<u64>(),
        state.free.bytes
    );
    for part in parts
        .into_iter()
        .chain(free)
        .chain([state.free_pages, state.pinned])
    {
        assert!(part.resident_bytes <= part.bytes, "{state:#?}");
    }
    assert!(state.free_pages.bytes <= state.free.bytes && state.pinned.bytes <= state.free.bytes);
}

#[test]
fn glibc_main_arena() {
    for flavor in ["glibc", "glibc-static"] {
        let mut heap = Heap::of(flavor, &["mixed"]);
        for _ in 0..3 {
            heap.assert_glibc(&heap.read());
            heap.step();
        }
    }
}

#[test]
fn glibc_arenas_of_threads() {
    let mut heap = Heap::of("glibc", &["threads"]);
    for _ in 0..2 {
        let state = heap.read();
        heap.assert_glibc(&state);
        assert!(state.arena_count > 2, "{state:#?}");
        heap.step();
    }
}

#[test]
fn glibc_blocks_with_mappings() {
    let heap = Heap::of("glibc", &["large"]);
    let state = heap.read();
    heap.assert_glibc(&state);
    assert!(state.mapped_blocks > 15, "{state:#?}");
    // The one that was never written.
    assert!(state.live.resident_bytes + (8 << 20) <= state.live.bytes + 4096);
    // Unknown, they are found as well.
    let state = heap.read_with(&[]);
    assert_eq!(
        (state.mapped_blocks, state.mapped.bytes),
        (heap.told.hblks, heap.told.hblkhd)
    );
}

#[test]
fn glibc_caches() {
    let heap = Heap::of("glibc", &["small"]);
    let state = heap.read();
    heap.assert_glibc(&state);
    // Ten of each of three sizes were freed, seven of which go to the thread's cache.
    assert_eq!(
        kept(&state, Free::Tcache).bytes,
        7 * (32 + 48 + 64),
        "{state:#?}"
    );
    assert_eq!(kept(&state, Free::Fastbins).bytes, 3 * (32 + 48 + 64));
}

#[test]
fn glibc_comb() {
    let mut heap = Heap::of("glibc", &["comb", "64000", "100", "64"]);
    let state = heap.read();
    heap.assert_glibc(&state);
    let free = state.free.resident_bytes;
    assert!(free > 6 << 20, "{state:#?}");
    // Every free piece but the top is under a block that stayed.
    assert_eq!(state.pins[0].stack, Some(7), "{state:#?}");
    assert!(state.pins[0].pinned.resident_bytes > free / 10 * 9);
    assert_eq!(state.pins[0].blocks, 1000);
    // What malloc_trim gives back was called whole free pages.
    let before = heap.own();
    heap.step();
    let after = heap.read();
    heap.assert_glibc(&after);
    let given = before - heap.own();
    assert!(
        given.abs_diff(state.free_pages.resident_bytes) < given / 100,
        "{given} {state:#?}"
    );
}

#[test]
fn glibc_with_memory_of_others() {
    let heap = Heap::of("glibc", &["foreign"]);
    let state = heap.read();
    assert_eq!(state.live_blocks, heap.live.len() as u64);
    assert!(
        state.unreadable.bytes >= 1 << 20 && state.unreadable.bytes < 2 << 20,
        "{state:#?}"
    );
    let free: u64 = [Free::Top, Free::Bins, Free::Fastbins]
        .map(|kind| kept(&state, kind).bytes)
        .iter()
        .sum();
    assert_eq!(free, heap.told.fordblks, "{state:#?}");

    let heap = Heap::of("glibc", &["no-brk"]);
    let state = heap.read();
    heap.assert_glibc(&state);
    assert!(state.ranges.len() > 1, "{state:#?}");
}

/// What mappings without a file hold, bytes; the stack, and those that only the kernel writes, left out.
fn anonymous(pid: u32) -> u64 {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let mut sum = 0;
    for line in maps.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let name = fields.get(5).copied().unwrap_or_default();
        if fields[4] == "0" && fields[1].starts_with("rw") && (name.is_empty() || name == "[heap]")
        {
            let (start, end) = fields[0].split_once('-').unwrap();
            let hex = |text| u64::from_str_radix(text, 16).unwrap();
            sum += hex(end) - hex(start);
        }
    }
    sum
}

/// Bytes of the victim's own static variables and of objects' data, most.
const STATIC: u64 = (1 << 20) * 24 + (512 << 10);

#[test]
fn musl_groups() {
    for flavor in ["musl", "musl-static"] {
        let mut heap = Heap::of(flavor, &["mixed"]);
        for _ in 0..3 {
            let state = heap.read();
            heap.assert_musl(&state);
            // All memory without a file is the allocator's, but for the victim's variables.
            let rest = anonymous(heap.victim.pid()).checked_sub(state.whole.bytes);
            assert!(
                rest.is_some_and(|rest| rest < STATIC),
                "{rest:?} {state:#?}"
            );
            heap.step();
        }
    }
}

#[test]
fn musl_blocks_with_mappings() {
    let heap = Heap::of("musl", &["large"]);
    let state = heap.read();
    heap.assert_musl(&state);
    let large = heap
        .live
        .iter()
        .filter(|block| block.size >= 131_052)
        .count() as u64;
    assert_eq!(state.mapped_blocks, large, "{state:#?}");
    assert!(state.live.resident_bytes + (8 << 20) <= state.live.bytes + 4096);
}

#[test]
fn musl_comb() {
    let heap = Heap::of("musl", &["comb", "64000", "100", "16"]);
    let state = heap.read();
    heap.assert_musl(&state);
    // Most groups have one block of stack 7 in them, and cannot go back.
    assert!(state.free.resident_bytes > 6 << 20, "{state:#?}");
    assert!(state.pinned.resident_bytes > state.free.resident_bytes / 10 * 9);
    assert_eq!(state.pins[0].stack, Some(7), "{state:#?}");
    // Some are in groups that are full.
    assert!((3900..=4000).contains(&state.pins[0].blocks), "{state:#?}");
    assert!(state.pins[0].pinned.resident_bytes > state.pinned.resident_bytes / 10 * 9);

    // Without a known block all is found, and all of it is unknown.
    let blind = heap.read_with(&[]);
    assert_eq!(blind.whole, state.whole, "{blind:#?}");
    assert_eq!(blind.kept, state.kept);
    assert_eq!(blind.unrecorded_blocks, state.live_blocks);
    assert_eq!(blind.pins.len(), 1);
    assert_eq!((blind.pins[0].stack, blind.pinned), (None, state.pinned));
}

#[test]
fn threads_of_musl() {
    let heap = Heap::of("musl", &["threads"]);
    let state = heap.read();
    // What threads are made of is not in the table.
    assert_eq!(state.live_blocks, heap.live.len() as u64, "{state:#?}");
    assert_eq!(state.unreadable.bytes, 0);
}

#[test]
fn headers_that_are_rubbish() {
    for flavor in ["glibc", "musl"] {
        let heap = Heap::of(flavor, &["rubbish"]);
        for live in [&heap.live[..], &[]] {
            let began = Instant::now();
            match read(&heap.process, &heap.allocator, live, LIMITS) {
                Ok(state) => {
                    assert_whole(&state);
                    let reasons = format!("{:#?}", state.problems);
                    assert!(!state.problems.is_empty() || flavor == "musl", "{state:#?}");
                    if flavor == "glibc" {
                        assert!(state.unreadable.bytes > 1 << 20, "{reasons} {state:#?}");
                    }
                }
                Err(error) => assert!(matches!(error, Unreadable::NoHeap(_)), "{error:#}"),
            }
            assert!(began.elapsed() < Duration::from_secs(30));
        }
    }
}

/// Everything stays in proportion while four threads allocate at full speed.
#[test]
fn read_while_it_changes() {
    for flavor in ["glibc", "musl"] {
        let heap = Heap::of(flavor, &["churn"]);
        for _ in 0..200 {
            match read(&heap.process, &heap.allocator, &[], LIMITS) {
                Ok(state) => {
                    assert_whole(&state);
                    // 4 threads, 4096 blocks each, most of them below a KiB and some of 400.
                    assert!(state.whole.bytes < 4 << 30, "{state:#?}");
                    assert!(state.whole.resident_bytes < 512 << 20, "{state:#?}");
                }
                Err(error) => assert!(matches!(error, Unreadable::NoHeap(_)), "{error:#}"),
            }
        }
    }
}

#[test]
fn refusals() {
    let heap = Heap::of("glibc", &["small"]);
    let refused = |allocator: &AllocatorInfo| {
        let error = read(&heap.process, allocator, &[], LIMITS).unwrap_err();
        format!("{error}")
    };
    let other = AllocatorInfo {
        name: "libjemalloc.so.2".into(),
        path: "/usr/lib/libjemalloc.so.2".into(),
    };
    assert!(refused(&other).contains("`libjemalloc.so.2` cannot be read"));
    // A program of glibc that is said to be musl's has no such books.
    let musl = AllocatorInfo {
        name: "musl".into(),
        ..heap.allocator.clone()
    };
    assert!(refused(&musl).contains("no heap was found"));
    let Heap {
        victim,
        process,
        allocator,
        ..
    } = heap;
    victim.end_well();
    let error = read(&process, &allocator, &[], LIMITS).unwrap_err();
    assert!(matches!(error, Unreadable::Memory(..)), "{error:#}");
}

/// Hundreds of megabytes of blocks that nobody knows take seconds at most.
#[test]
fn large_heaps() {
    for flavor in ["glibc", "musl"] {
        let heap = Heap::of(flavor, &["unrecorded", "2000000", "100"]);
        let state = heap.read();
        // glibc: a thread's cache that is empty is not told from a block.
        assert!(
            (2_000_000..2_000_010).contains(&state.unrecorded_blocks),
            "{state:#?}"
        );
        assert_eq!(state.unreadable.bytes, 0, "{:#?}", state.problems);
        assert!(state.unrecorded.bytes >= 2_000_000 * 112);
        println!("{flavor}: {} ms of CPU time", state.cpu_ns / 1_000_000);
        if !cfg!(debug_assertions) {
            assert!(state.cpu_ns < 5_000_000_000, "{state:#?}");
        }
    }
}
