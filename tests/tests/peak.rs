//! What stacks had live at the most, and at the moment when the process had the most; and what becomes of
//! what they allocate.

use std::time::Instant;

use leakprobe_tests::report::{Report, Stack};
use leakprobe_tests::{Leakprobe, Victim, assert_exact, exact};

const FLAVORS: [&str; 4] = ["glibc", "glibc-static", "musl", "musl-static"];

/// What the victim `peak` has in its spike, before it, and after it; bytes.
const SPIKE: u64 = 50 << 20;
const BASE: u64 = 300_000;
const REST: u64 = 1 << 20;

/// What the processors do not tell each other.
fn grain() -> u64 {
    let processors = std::thread::available_parallelism().expect("the number of processors");
    (64 << 10) * processors.get() as u64
}

fn stack<'a>(report: &'a Report, leaf: &str) -> &'a Stack {
    let mut found = report.stacks.iter().filter(|it| it.names()[0] == leaf);
    let stack = found.next();
    assert!(found.next().is_none(), "{leaf} twice: {:?}", report.stacks);
    stack.unwrap_or_else(|| panic!("no {leaf} in {:?}", report.stacks))
}

fn peak_of(report: &Report, leaf: &str) -> (u64, u64) {
    let stack = stack(report, leaf);
    let peak = stack.peak_bytes.zip(stack.at_peak_bytes);
    peak.unwrap_or_else(|| panic!("no peak: {stack:?}"))
}

/// A report of the victim `peak`: of its spike every byte is there, although nothing of it is left.
fn assert_spike(report: &Report) {
    let (peak, at_peak) = peak_of(report, "spike");
    assert_eq!(peak, SPIKE);
    assert!(
        (SPIKE - grain()..=SPIKE).contains(&at_peak),
        "{at_peak} bytes of the spike are too few"
    );
    assert_eq!(peak_of(report, "base"), (BASE, BASE));
    assert_eq!(peak_of(report, "rest"), (REST, 0));
    let whole = report.peak.expect("a peak");
    assert_eq!(whole.live_bytes, BASE + at_peak);
}

#[test]
fn a_spike_is_found_after_it_has_gone() {
    for flavor in FLAVORS {
        for extra in [&[][..], &["--follow"]] {
            let mut victim = Victim::spawn(flavor, "peak");
            let leakprobe = Leakprobe::attach(victim.pid(), extra);
            let begin = Instant::now();
            victim.go();
            assert_eq!(victim.line(), "peak");
            let spike = Instant::now();
            victim.go();
            let summary = victim.summary();
            let least = spike.elapsed();
            let report = leakprobe.interrupt().report();
            let most = begin.elapsed();
            assert_exact(&summary, &report);
            assert_spike(&report);
            let at = report.peak.and_then(|peak| peak.at_ns).expect("a moment");
            let since = u128::from(report.duration_ns - at);
            assert!(
                (least.as_nanos()..most.as_nanos()).contains(&since),
                "the peak was {since} ns before the end, between {least:?} and {most:?}"
            );
            victim.end_well();
        }
    }
}

#[test]
fn what_is_live_at_the_end_may_be_the_peak() {
    for flavor in FLAVORS {
        let mut victim = Victim::spawn(flavor, "peak");
        let leakprobe = Leakprobe::attach(victim.pid(), &[]);
        victim.go();
        assert_eq!(victim.line(), "peak");
        let report = leakprobe.interrupt().report();
        assert_eq!(exact::contradictions(&report), Vec::<String>::new());
        assert_eq!(peak_of(&report, "spike"), (SPIKE, SPIKE));
        assert_eq!(peak_of(&report, "base"), (BASE, BASE));
        let whole = report.peak.expect("a peak");
        assert_eq!(whole.live_bytes, SPIKE + BASE);
        assert_eq!(whole.live_bytes, report.totals.live_bytes);
        victim.end();
    }
}

/// Eight threads allocate and free before the spike, and interrupt one another in the middle of the sum.
#[test]
fn threads_do_not_upset_the_sum() {
    for flavor in ["glibc", "musl"] {
        let mut victim = Victim::spawn_with(flavor, "peak", &["8"]);
        let leakprobe = Leakprobe::attach(victim.pid(), &["--no-guard"]);
        victim.go();
        assert_eq!(victim.line(), "peak");
        victim.go();
        let summary = victim.summary();
        let report = leakprobe.interrupt().report();
        assert_exact(&summary, &report);
        assert_spike(&report);
        let (churn, at_peak) = peak_of(&report, "churn");
        assert!((5000..=8 * 8 * 5000).contains(&churn), "{churn} bytes");
        assert_eq!(at_peak, 0);
        victim.end_well();
    }
}

/// In a sample the peak is an estimate like everything: one block in 16 of the spike.
#[test]
fn a_sample_has_a_peak_too() {
    let mut victim = Victim::spawn("glibc", "peak");
    let leakprobe = Leakprobe::attach(victim.pid(), &["--sample-bytes", "64KiB"]);
    victim.go();
    assert_eq!(victim.line(), "peak");
    victim.go();
    victim.summary();
    let report = leakprobe.interrupt().report();
    assert_eq!(exact::contradictions(&report), Vec::<String>::new());
    let (peak, at_peak) = peak_of(&report, "spike");
    // The standard deviation is 3.5 % of it.
    for bytes in [peak, at_peak] {
        assert!(
            (SPIKE * 7 / 10..SPIKE * 13 / 10).contains(&bytes),
            "{bytes} bytes in the spike"
        );
    }
    assert!(at_peak + 2 * grain() >= peak, "{at_peak} of {peak}");
    victim.end_well();
}

#[test]
fn ages_are_those_at_which_blocks_are_freed() {
    for flavor in FLAVORS {
        let mut victim = Victim::spawn(flavor, "ages");
        let leakprobe = Leakprobe::attach(victim.pid(), &[]);
        victim.go();
        let summary = victim.summary();
        let report = leakprobe.interrupt().report();
        assert_exact(&summary, &report);
        for (leaf, expected) in [
            ("brief", 0.0),
            ("lasting", 1.0),
            ("kept", 1.0),
            ("mixed", 0.6667),
        ] {
            let stack = stack(&report, leaf);
            let survival = stack.survival.as_ref();
            let survival = survival.unwrap_or_else(|| panic!("no survival: {stack:?}"));
            assert_eq!(survival.get("1s"), Some(&expected), "{flavor}: {leaf}");
            assert_eq!(survival.get("10min"), None, "{flavor}: {leaf}");
        }
        victim.end_well();
    }
}
