//! Stacks are whole, or say where and why they end; they are never wrong.

use std::thread;
use std::time::Duration;

use leakprobe_tests::report::Stack;
use leakprobe_tests::{Leakprobe, Report, Summary, Victim, exact};

/// Time after which code that has come later must be known. leakprobe looks ten times a second;
/// the rest is for a busy machine. There is no event to wait for: nothing is printed of it.
const LEARNED: Duration = Duration::from_millis(700);

/// Lets a victim do all it does, and gives its summary and the report.
fn run(flavor: &str, name: &str) -> (Summary, Report) {
    let mut victim = Victim::spawn(flavor, name);
    let leakprobe = Leakprobe::attach(victim.pid(), &[]);
    victim.go();
    let summary = victim.summary();
    let report = leakprobe.interrupt().report();
    victim.end_well();
    assert_eq!(exact::contradictions(&report), Vec::<String>::new());
    (summary, report)
}

fn assert_whole(stack: &Stack) {
    let names = stack.names();
    assert_eq!(stack.end, None, "{names:?}");
    // Where other threads start has no name in a library without symbols.
    if names.contains(&"main") {
        assert_eq!(names.last(), Some(&"_start"), "{names:?}");
    }
}

/// All leaks are in the report, at whole stacks.
fn assert_leaks(summary: &Summary, report: &Report) {
    for leak in &summary.leaks {
        let stacks: Vec<_> = report
            .stacks
            .iter()
            .filter(|stack| exact::is_at(leak, stack))
            .collect();
        let count: u64 = stacks.iter().map(|stack| stack.totals.live_count).sum();
        let bytes: u64 = stacks.iter().map(|stack| stack.totals.live_bytes).sum();
        assert_eq!((bytes, count), (leak.bytes, leak.count), "{:?}", leak.stack);
        stacks.into_iter().for_each(assert_whole);
    }
}

/// A library that is loaded and code that is generated after the attach.
#[test]
fn code_that_comes_later_is_learned() {
    for flavor in ["glibc", "musl"] {
        let mut victim = Victim::spawn(flavor, "late");
        let leakprobe = Leakprobe::attach(victim.pid(), &[]);
        victim.go();
        let early = victim.summary();
        thread::sleep(LEARNED);
        victim.go();
        let late = victim.summary();
        let report = leakprobe.interrupt().report();
        victim.end_well();
        assert_leaks(&late, &report);
        // What came too early has fewer frames, none of them wrong.
        let mut unknown = 0;
        for leak in &early.leaks {
            let mut stacks = report.stacks.iter();
            let stack = stacks
                .find(|stack| stack.totals.live_bytes == leak.bytes)
                .expect("every block is in the report");
            if stack.end.is_none() {
                assert!(exact::is_at(leak, stack), "{:?}", stack.names());
                assert_whole(stack);
                continue;
            }
            assert_eq!(stack.end.as_deref(), Some("no_mapping"));
            unknown += stack.totals.allocated_count;
            let names = stack.names();
            let expected = leak.stack.iter().map(String::as_str);
            for (name, expected) in names.iter().zip(expected) {
                assert!(*name == expected || *name == "?", "{names:?}");
            }
            assert!(names.len() <= 2 && names[0] == leak.stack[0], "{names:?}");
        }
        let counted = report.evidence.losses.get("stacks_no_mapping").copied();
        assert!(counted.unwrap_or(0) >= unknown, "{:?}", report.evidence);
        assert_eq!(report.evidence.verdict, "complete", "{:?}", report.evidence);
    }
}

/// musl has no unwind information: its rules are made from its instructions.
#[test]
fn stacks_through_a_c_library_without_information_are_whole() {
    for flavor in ["musl", "musl-static", "glibc"] {
        let (summary, report) = run(flavor, "libc");
        assert_leaks(&summary, &report);
        report.stacks.iter().for_each(assert_whole);
        for function in [
            "by_fopen",
            "by_getline",
            "by_strdup",
            "by_qsort",
            "by_scandir",
        ] {
            let stack = report.stacks.iter().find(|stack| {
                let names = stack.names();
                names.windows(2).any(|two| two == [function, "main"])
            });
            let stack = stack.unwrap_or_else(|| panic!("{flavor}: nothing by {function}"));
            // The library's own frames are between it and the allocator.
            assert_ne!(stack.names()[0], function);
        }
    }
}

#[test]
fn a_stack_that_is_too_deep_is_cut() {
    const MOST: usize = 127;
    for flavor in ["glibc", "glibc-static", "musl", "musl-static"] {
        let (_, report) = run(flavor, "deep");
        let mut cut = 0;
        for stack in &report.stacks {
            if stack.end.is_none() {
                assert!(stack.frames.len() <= MOST);
                assert_whole(stack);
                continue;
            }
            assert_eq!(stack.end.as_deref(), Some("depth_limit"));
            assert_eq!(stack.frames.len(), MOST);
            cut += stack.totals.allocated_count;
        }
        // Of the depths 3, 28 and so on to 378, those from 128 on.
        assert_eq!(cut, 11, "{flavor}");
        assert_eq!(report.evidence.losses.get("stacks_cut"), Some(&cut));
    }
}

#[test]
fn a_frame_that_cannot_be_left_says_why() {
    for flavor in ["glibc", "glibc-static", "musl", "musl-static"] {
        let (summary, report) = run(flavor, "odd");
        let stack = &report.stacks[0];
        assert!(exact::is_at(&summary.leaks[0], stack));
        // Nothing is guessed behind it.
        assert_eq!(stack.names(), ["leak_odd", "odd"], "{flavor}");
        assert_eq!(stack.end.as_deref(), Some("unsupported"), "{flavor}");
        let counts = &report.evidence.losses;
        assert_eq!(counts.get("stacks_unsupported"), Some(&1), "{flavor}");
    }
}
