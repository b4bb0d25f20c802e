//! Profiles for tests: one like those of a Node service, and small ones made of names.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::analyze::account::{Account, Besides, Kind, Line};
use crate::analyze::growth::LiveGrowth;
use crate::analyze::rank::Rank;
use crate::analyze::rss::Rss;
use crate::analyze::survival::Survival;
use crate::analyze::trend::{Slope, Trend};
use crate::analyze::verdict::{self, Change, Confidence, Finding, Suspect};
use crate::overhead::{FunctionCost, Overhead};
use crate::sampling::Interval;
use crate::snapshot::mappings::Advised;
use crate::snapshot::{
    Cause, Completeness, Death, Evidence, Mapped, Oom, Peak, Totals, Unconfirmed,
};
use crate::symbolize::{
    Budget, BudgetStep, Frame, Growth, MappedStack, Mappings, NamedSuspect, Owner, PeakReport,
    ProcessReport, ProcessShare, Profile, RuleUse, Sampling, Stack, Suppressed, Verdict,
};
use crate::target::{AllocatorInfo, ContainerInfo, TargetInfo};
use leakprobe_common::StackKey;

const SECOND: u64 = 1_000_000_000;

/// A profile of stacks, leaf first, of functions without anything else, and their live bytes.
pub fn of_stacks(stacks: &[(&[&str], u64)]) -> Profile {
    let stacks: Vec<_> = stacks
        .iter()
        .map(|(names, bytes)| {
            let frame = |name: &&str| Frame {
                function: Some((*name).into()),
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
            container: None,
        },
        duration_ns: 30 * SECOND,
        death: None,
        allocator: Some(AllocatorInfo {
            name: "glibc".to_string(),
            path: "/lib/x86_64-linux-gnu/libc.so.6".to_string(),
        }),
        other_allocators: Vec::new(),
        growth: None,
        sampling: None,
        overhead: None,
        budget: None,
        totals: sum(&stacks),
        live_growth: None,
        suppressed: None,
        sorted_by: Rank::Live,
        peak: None,
        unconfirmed: None,
        interval: None,
        account: None,
        heap: None,
        rss: None,
        verdict: None,
        evidence: Evidence {
            verdict: Completeness::Complete,
            losses: BTreeMap::new(),
            notes: Vec::new(),
        },
        processes: Vec::new(),
        stacks,
        mappings: None,
    }
}

/// That this stack leaks.
fn verdict(stack: &Stack) -> Verdict {
    let growth = Slope {
        per_second: 412_439.889,
        low: 409_000.5,
        high: 415_000.0,
    };
    let suspect = Suspect {
        key: StackKey::default(),
        live_bytes: stack.totals.live_bytes,
        growth: Some(growth),
    };
    Verdict {
        finding: Finding {
            kind: verdict::Kind::Leak,
            confidence: Confidence::High,
            suspects: vec![suspect],
            leaking_stacks: 1,
            is_mapped: false,
            growth: Some(growth),
            seconds_until_limit: Some(1234.5),
            runtime: None,
            runtime_heap: None,
            live: Some(Change {
                start_bytes: 0,
                end_bytes: stack.totals.live_bytes,
            }),
            rss: None,
            kept: None,
            peak_bytes: Some(68_157_600),
            missing: None,
        },
        stacks: vec![NamedSuspect {
            suspect,
            frames: stack.frames.clone(),
        }],
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
    stacks[0].survival = survival([0.9877, 0.9869, 0.9832]);
    stacks[3].survival = survival([0.0; 3]);
    // As they were after 41 s.
    for (stack, peak_bytes, at_peak_bytes) in [
        (0, 37_119_590, 16_777_216),
        (1, 4_194_304, 1_048_576),
        (2, 160, 160),
        (3, 52_428_800, 50_331_648),
    ] {
        stacks[stack].peak = Some(Peak {
            peak_bytes,
            at_peak_bytes,
        });
    }
    stacks[1].end = Some("no_mapping");
    let mut profile = of_stacks(&[]);
    profile.target = TargetInfo {
        pid: 12_345,
        ns_pid: 7,
        comm: "node".to_string(),
        exe: Some("/usr/local/bin/node".to_string()),
        start_time: 8_812_345,
        container: Some(ContainerInfo {
            id: "60fac30309e92d9b647b026a82dd3024b7711796ba34bbb164b2a9d89237b521".to_string(),
            runtime: Some("containerd".to_string()),
            name: Some("web".to_string()),
            pod_uid: Some("8c1a7ec6-3f0d-4e62-9c3a-5a0a6a3f2b11".to_string()),
            pod_name: Some("shop-5d9".to_string()),
            namespace: Some("prod".to_string()),
        }),
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
    profile.peak = Some(PeakReport {
        live_bytes: 68_157_600,
        at_ns: Some(41 * SECOND),
    });
    let growth = |per_second, low, high, trend| {
        let slope = Slope {
            per_second,
            low,
            high,
        };
        Some(LiveGrowth {
            slope: Some(slope),
            trend,
        })
    };
    profile.live_growth = growth(415_000.25, 402_000.0, 431_000.0, Trend::Growing);
    stacks[0].growth = growth(412_439.889, 409_000.5, 415_000.0, Trend::Growing);
    stacks[1].growth = growth(0.0, 0.0, 12.5, Trend::LevelledOff);
    stacks[2].growth = Some(LiveGrowth::UNKNOWN);
    let rule = |rule: &str, stacks, live_bytes| RuleUse {
        rule: rule.to_string(),
        stacks,
        live_bytes,
    };
    profile.suppressed = Some(Suppressed {
        stacks: 2,
        live_bytes: 4096,
        live_count: 3,
        rules: vec![rule("function:init", 2, 4096), rule("leak:old_*", 0, 0)],
    });
    profile.verdict = Some(verdict(&stacks[0]));
    profile.stacks = stacks;
    (profile.account, profile.rss) = (Some(account()), Some(rss()));
    profile.evidence = Evidence {
        verdict: Completeness::Partial,
        losses: [
            ("unknown_frees", 14_020),
            ("blocks_full", 1234),
            ("missed_frees", 3),
        ]
        .map(|(name, count)| (name.to_string(), count))
        .into(),
        notes: vec!["the process ended while it was watched (exit status 0)".to_string()],
    };
    profile.mappings = Some(mappings());
    profile
}

/// Of a process in which live blocks and threads have grown.
fn account() -> Account {
    let line = |kind: Kind, bytes, start, counts: Option<(u64, u64)>| Line {
        kind,
        bytes,
        start_bytes: Some(start),
        count: counts.map(|it| it.0),
        start_count: counts.map(|it| it.1),
        what: kind.what(),
    };
    let lines = vec![
        line(Kind::LiveBlocks, 38_168_326, 0, None),
        line(Kind::Allocator, 9_437_184, 9_437_184, None),
        line(Kind::V8Heap, 51_380_224, 51_642_368, None),
        line(Kind::ThreadStacks, 135_168, 98_304, Some((14, 10))),
        line(Kind::File, 27_234_304, 27_234_304, None),
    ];
    let sum = |of: fn(&Line) -> u64| lines.iter().map(of).sum::<u64>();
    Account {
        at_ns: 90 * SECOND,
        rss_bytes: sum(|it| it.bytes) - 20_480,
        start_rss_bytes: Some(sum(|it| it.start_bytes.unwrap_or(0)) + 4096),
        lines,
        unexplained_bytes: -20_480,
        start_unexplained_bytes: Some(4096),
        besides: Besides {
            huge_page_bytes: 2 << 20,
            ..Besides::default()
        },
        notes: Vec::new(),
    }
}

/// Of the same.
fn rss() -> Rss {
    let account = account();
    let start = account.start_rss_bytes.unwrap_or(0);
    let mut rss = Rss {
        limit_bytes: Some(256 << 20),
        limit_used_bytes: Some(140 << 20),
        ..Rss::default()
    };
    rss.look(0, start, 27_234_304, 0);
    rss.look(45 * SECOND, start + 20_000_000, 27_234_304, 19_000_000);
    rss.look(90 * SECOND, account.rss_bytes, 27_234_304, 38_168_326);
    rss
}

/// The same as if the process had ended in each of these ways: by the OOM killer, by a signal, by itself.
pub fn dead() -> [Profile; 3] {
    let oom = Oom {
        limit: Some(157_286_400),
        usage: Some(157_282_304),
    };
    [(9, Some(oom)), (0x8b, None), (0x300, None)].map(|(status, oom)| {
        let mut profile = profile();
        profile.death = Some(Death {
            pid: profile.target.pid,
            at: Duration::from_secs(90),
            cause: Cause::from_wait_status(status, oom),
        });
        profile
    })
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
    profile.peak = None;
    for stack in &mut profile.stacks {
        (stack.peak, stack.survival) = (None, None);
    }
    let mapped = |bytes, count| Some(Mapped { bytes, count });
    profile.growth = Some(Growth {
        sample_pages: 64,
        own_bytes_before: 52_428_800,
        own_bytes: 90_177_536,
        mapped: mapped(70_254_592, 3),
    });
    profile.mappings = None;
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
        system_calls: false,
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

/// The same as of three processes: the first, one that it forked, and one that has ended.
pub fn many() -> Profile {
    let mut profile = profile();
    profile.mappings = None;
    let process = |pid, parent, until: Option<u64>, live: u64| ProcessReport {
        target: TargetInfo {
            pid,
            ..profile.target.clone()
        },
        space: u64::from(pid),
        parent,
        from_ns: parent.map_or(0, |_| 3 * SECOND),
        until_ns: until.map(|seconds| seconds * SECOND),
        exec: false,
        cause: until.map(|_| Cause::from_wait_status(9, None)),
        totals: Totals {
            live_bytes: live,
            live_count: live / 1024,
            allocated_bytes: 2 * live,
            allocated_count: live / 512,
            freed_bytes: live,
            freed_count: live / 512 - live / 1024,
        },
        inherited_bytes: parent.map_or(0, |_| 4096),
        inherited_count: parent.map_or(0, |_| 4),
        inherited_freed_bytes: parent.map_or(0, |_| 1024),
        inherited_freed_count: parent.map_or(0, |_| 1),
    };
    profile.processes = vec![
        process(12_345, None, None, 1 << 20),
        process(12_350, Some(12_345), None, 30 << 20),
        process(12_351, Some(12_345), Some(60), 1 << 21),
    ];
    let share = |pid, live_bytes| ProcessShare {
        pid,
        live_bytes,
        live_count: live_bytes / 1024,
    };
    profile.stacks[0].processes = vec![share(12_350, 30 << 20), share(12_351, 1 << 21)];
    profile.stacks[1].processes = vec![share(12_345, 1 << 20)];
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
        peak: None,
        survival: None,
        mapped: None,
        unconfirmed: None,
        processes: Vec::new(),
        oldest_ns: age(72),
        newest_ns: age(2),
        growth: None,
        end: None,
        frames,
    }
}

/// What becomes of what a stack allocates, in a recording of less than 10 min.
fn survival([second, ten_seconds, minute]: [f64; 3]) -> Option<Survival> {
    Some(Survival {
        second: Some(second),
        ten_seconds: Some(ten_seconds),
        minute: Some(minute),
        ten_minutes: None,
    })
}

/// What the service has mapped.
fn mappings() -> Mappings {
    let of = |bytes, count| Mapped { bytes, count };
    let stack = |owner, mapped, frames| MappedStack {
        owner,
        mapped,
        resident_bytes: Some(mapped.bytes / 2),
        oldest_ns: 29 * SECOND,
        newest_ns: 2 * SECOND,
        end: None,
        frames,
    };
    let mmap = || at("mmap", "ld-musl-x86_64.so.1", 0x6_29d8, None);
    let v8 = "v8::base::OS::Allocate(void*, unsigned long, unsigned long, v8::base::OS::MemoryPermission)";
    let caller = at("uv_thread_create_ex", "node", 0x18_1122, None);
    let allocator = at("sqlite3MemMalloc", "better_sqlite3.node", 0x1_f00d, None);
    let runtime = vec![mmap(), at(v8, "node", 0x2a_0001, None)];
    let mut cut = stack(Owner::Program, of(4096, 1), vec![mmap()]);
    cut.end = Some("no_row");
    Mappings {
        program: of(8_400_896, 2),
        runtime: of(2_097_152, 8),
        allocator: of(1_056_768, 1),
        before_bytes: 629_145_600,
        advised: Advised {
            program: of(1_048_576, 4),
            allocator: of(65_536, 16),
        },
        unexplained_bytes: Some(0),
        stacks: vec![
            stack(Owner::Program, of(8_396_800, 1), vec![mmap(), caller]),
            stack(Owner::Runtime, of(2_097_152, 8), runtime),
            stack(Owner::Allocator, of(1_056_768, 1), vec![allocator]),
            cut,
        ],
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
    let present = |text: &str| (!text.is_empty()).then(|| text.into());
    Frame {
        function: present(function),
        module: present(module),
        offset: present(module).map(|_| offset),
        file: source.map(|(file, _)| file.into()),
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
