//! Profiles for tests: one like those of a Node service, and small ones made of names.

use std::collections::BTreeMap;

use crate::overhead::{FunctionCost, Overhead};
use crate::sampling::Interval;
use crate::snapshot::{Evidence, Mapped, Totals, Unconfirmed, Verdict};
use crate::symbolize::{Budget, BudgetStep, Frame, Growth, Profile, Sampling, Stack};
use crate::target::{AllocatorInfo, TargetInfo};

const SECOND: u64 = 1_000_000_000;

/// A profile of stacks, leaf first, of functions without anything else, and their live bytes.
pub fn of_stacks(stacks: &[(&[&str], u64)]) -> Profile {
    let stacks: Vec<_> = stacks
        .iter()
        .map(|(names, bytes)| {
            let frame = |name: &&str| Frame {
                function: Some(name.to_string()),
                ..Frame::default()
            };
            stack(
                [*bytes, *bytes / 16, *bytes, *bytes / 16],
                names.iter().map(frame).collect(),
            )
        })
        .collect();
    Profile {
        schema: 1,
        target: TargetInfo {
            pid: 1234,
            ns_pid: 1234,
            comm: "sample".to_string(),
            exe: None,
            start_time: 1,
        },
        duration_ns: 30 * SECOND,
        allocator: Some(AllocatorInfo {
            name: "glibc".to_string(),
            path: "/lib/x86_64-linux-gnu/libc.so.6".to_string(),
        }),
        growth: None,
        sampling: None,
        overhead: None,
        budget: None,
        totals: sum(&stacks),
        unconfirmed: None,
        interval: None,
        evidence: Evidence {
            verdict: Verdict::Complete,
            losses: BTreeMap::new(),
            notes: Vec::new(),
        },
        stacks,
    }
}

/// A profile as of a Node service in a container, with everything a profile can have.
pub fn profile() -> Profile {
    let leak = vec![
        inlined(
            "v8::ArrayBuffer::Allocator::Allocate(unsigned long)",
            "/home/build/node/deps/v8/src/api/api.cc",
            387,
        ),
        at(
            "node::NodeArrayBufferAllocator::AllocateUninitialized(unsigned long)",
            "node",
            0xc1_80ee,
            Some(("../src/api/environment.cc", 112)),
        ),
        at(
            "v8::internal::(anonymous namespace)::TryAllocateBackingStore(v8::internal::Isolate*, unsigned long, v8::internal::SharedFlag)",
            "node",
            0x123_4567,
            None,
        ),
        at(
            "node::Buffer::New(node::Environment*, unsigned long)",
            "node",
            0xbd_0011,
            Some(("../src/node_buffer.cc", 355)),
        ),
        at("Builtins_CallApiCallback", "node", 0x1a0_0d2b, None),
        at("LazyCompile:*handle /app/server.js:12", "", 0, None),
        at(
            "node::SpinEventLoopInternal(node::Environment*)",
            "node",
            0xb6_1234,
            Some(("../src/api/embed_helpers.cc", 41)),
        ),
        at("main", "node", 0x9f_0a10, Some(("../src/node_main.cc", 97))),
        at("", "ld-musl-x86_64.so.1", 0x1_c9f1, None),
    ];
    let cache = vec![
        at("sqlite3MemMalloc", "better_sqlite3.node", 0x1_f00d, None),
        at("", "better_sqlite3.node", 0x4_2001, None),
        at(
            "uv__run_timers",
            "node",
            0x18_2233,
            Some(("../deps/uv/src/timer.c", 194)),
        ),
        at("main", "node", 0x9f_0a10, Some(("../src/node_main.cc", 97))),
    ];
    let freed = vec![
        at("strdup", "ld-musl-x86_64.so.1", 0x6_0123, None),
        Frame::default(),
    ];
    let mut stacks = vec![
        stack([37_119_590, 1000, 37_753_344, 1010], leak),
        stack([1_048_576, 1, 1_048_576, 1], cache),
        stack([160, 10, 160, 10], vec![Frame::default()]),
        stack([0, 0, 1_288_490_188, 5_122_420], freed),
    ];
    stacks[1].newest_ns = stacks[1].oldest_ns;
    stacks[1].end = Some("no_mapping");
    let mut profile = of_stacks(&[]);
    profile.target = TargetInfo {
        pid: 12_345,
        ns_pid: 7,
        comm: "node".to_string(),
        exe: Some("/usr/local/bin/node".to_string()),
        start_time: 8_812_345,
    };
    profile.allocator = Some(AllocatorInfo {
        name: "musl".to_string(),
        path: "/lib/ld-musl-x86_64.so.1".to_string(),
    });
    profile.duration_ns = 90 * SECOND;
    profile.overhead = Some(Overhead {
        percent: 12,
        handler_ns: 3 * SECOND,
        trap_ns: 2 * SECOND,
        hits: 2_000_000,
        cpu_ns: 42 * SECOND,
        functions: [("malloc", 600_000, 3), ("free", 700_000, 2)]
            .map(|(function, calls, seconds)| FunctionCost {
                function,
                calls,
                followed: calls - 100,
                overhead_ns: seconds * SECOND,
            })
            .into(),
    });
    profile.totals = sum(&stacks);
    profile.stacks = stacks;
    profile.evidence = Evidence {
        verdict: Verdict::Partial,
        losses: [
            ("unknown_frees", 14_020),
            ("blocks_full", 1234),
            ("missed_frees", 3),
        ]
        .map(|(name, count)| (name.to_string(), count))
        .into(),
        notes: vec!["the process ended while it was watched (exit status 0)".to_string()],
    };
    profile
}

/// The same as if a sample had been taken.
pub fn sampled() -> Profile {
    let interval = |live_bytes, live_count| {
        Some(Interval {
            live_bytes,
            live_count,
        })
    };
    let mut profile = profile();
    profile.sampling = Sampling::of(512 * 1024);
    profile.interval = interval((30_113_221, 48_378_121), (771, 1377));
    profile.stacks[0].interval = interval((29_113_221, 47_329_545), (761, 1315));
    profile.stacks[1].interval = interval((1_048_576, 5_942_109), (1, 6));
    profile.stacks[2].interval = interval((160, 1_012), (10, 64));
    profile
}

/// A recording of growth.
pub fn growth() -> Profile {
    let mut profile = sampled();
    profile.sampling = None;
    profile.allocator = None;
    let mapped = |bytes, count| Some(Mapped { bytes, count });
    profile.growth = Some(Growth {
        sample_pages: 64,
        own_bytes_before: 52_428_800,
        own_bytes: 90_177_536,
        mapped: mapped(70_254_592, 3),
    });
    profile.stacks[1].mapped = mapped(70_254_592, 3);
    profile
}

/// The same as if a budget had been kept.
pub fn governed() -> Profile {
    let mut profile = sampled();
    profile.sampling = profile.sampling.map(|sampling| Sampling {
        changed: true,
        ..sampling
    });
    let step = |seconds, windows| BudgetStep {
        at_ns: seconds * SECOND,
        sample_bytes: 512 * 1024,
        windows,
    };
    profile.budget = Some(Budget {
        percent: 5.0,
        steps: vec![step(2, false), step(3, true)],
        more_steps: 0,
        windows: 41,
        seen_percent: 6.2,
    });
    let unconfirmed = |unconfirmed_bytes, unconfirmed_count| {
        Some(Unconfirmed {
            unconfirmed_bytes,
            unconfirmed_count,
        })
    };
    profile.unconfirmed = unconfirmed(36_000_000, 980);
    profile.stacks[0].unconfirmed = unconfirmed(36_000_000, 980);
    profile
}

/// A stack of live bytes, live blocks, allocated bytes and allocated blocks; the rest was freed.
fn stack(figures: [u64; 4], frames: Vec<Frame>) -> Stack {
    let [live_bytes, live_count, allocated_bytes, allocated_count] = figures;
    let age = |seconds| (live_count > 0).then_some(seconds * SECOND);
    Stack {
        totals: Totals {
            live_bytes,
            live_count,
            allocated_bytes,
            allocated_count,
            freed_bytes: allocated_bytes - live_bytes,
            freed_count: allocated_count - live_count,
        },
        interval: None,
        mapped: None,
        unconfirmed: None,
        oldest_ns: age(72),
        newest_ns: age(2),
        end: None,
        frames,
    }
}

fn sum(stacks: &[Stack]) -> Totals {
    let mut sum = Totals::default();
    for Stack { totals, .. } in stacks {
        sum.live_bytes += totals.live_bytes;
        sum.live_count += totals.live_count;
        sum.allocated_bytes += totals.allocated_bytes;
        sum.allocated_count += totals.allocated_count;
        sum.freed_bytes += totals.freed_bytes;
        sum.freed_count += totals.freed_count;
    }
    sum
}

/// A frame; what is empty is absent.
fn at(function: &str, module: &str, offset: u64, source: Option<(&str, u32)>) -> Frame {
    let present = |text: &str| (!text.is_empty()).then(|| text.to_string());
    Frame {
        function: present(function),
        module: present(module),
        offset: present(module).map(|_| offset),
        file: source.map(|(file, _)| file.to_string()),
        line: source.map(|(_, line)| line),
        inlined: false,
    }
}

fn inlined(function: &str, file: &str, line: u32) -> Frame {
    Frame {
        inlined: true,
        ..at(function, "node", 0xc1_80ee, Some((file, line)))
    }
}
