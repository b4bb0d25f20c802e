//! What a recording costs is in its report, and one that leaves its target no time ends by itself.

use std::time::{Duration, Instant};

use leakprobe_tests::report::{Overhead, Report};
use leakprobe_tests::{Leakprobe, Victim};

/// In a note of a recording that has ended by itself.
const STOPPED: &str = "stopped by itself";

/// A loop of malloc and free for some seconds.
fn busy(seconds: &str) -> Victim {
    Victim::spawn_with("glibc", "pair", &["1", seconds, "5"])
}

fn has_note(report: &Report) -> bool {
    report.evidence.notes.iter().any(|it| it.contains(STOPPED))
}

fn check(report: &Report) {
    let overhead = report.overhead.expect("the overhead was measured");
    let Overhead {
        percent,
        handler_ns,
        trap_ns,
        hits,
        cpu_ns,
    } = overhead;
    // The loop does nothing else. What is measured beside other tests may be off.
    assert!((50..=100).contains(&percent), "{overhead:?}");
    assert!(handler_ns > 0 && trap_ns > 0, "{overhead:?}");
    assert!(
        cpu_ns > 0 && cpu_ns <= report.duration_ns * 11 / 10,
        "{overhead:?}"
    );
    // malloc, its return, free; a tenth of the time stands for all.
    let expected = report.totals.allocated_count * 3;
    assert!(
        (expected / 2..=expected * 2).contains(&hits),
        "{overhead:?}, not about {expected} hits"
    );
}

#[test]
fn it_is_in_the_reports() {
    let mut victim = busy("3s");
    let leakprobe = Leakprobe::attach(victim.pid(), &["--duration", "3s"]);
    victim.go();
    let outcome = leakprobe.finish();
    check(&outcome.report());
    assert!(!has_note(&outcome.report()));
    let header = outcome.stdout.lines().find(|it| it.contains("overhead "));
    let header = header.expect("a line of the text report");
    assert!(header.ends_with("CPU time (estimated)"), "{header}");
    victim.line();
    victim.end_well();
}

#[test]
fn the_guard_lets_a_process_go_that_makes_no_progress() {
    let mut victim = busy("16s");
    let leakprobe = Leakprobe::attach(victim.pid(), &["--duration", "60s"]);
    victim.go();
    let start = Instant::now();
    let outcome = leakprobe.finish();
    let took = start.elapsed();
    let report = outcome.report();
    check(&report);
    assert_eq!(report.evidence.verdict, "complete", "{:?}", report.evidence);
    assert!(has_note(&report), "{:?}", report.evidence);
    let line = outcome.stderr.lines().find(|it| it.contains(STOPPED));
    let line = line.expect("a line on stderr");
    assert!(line.contains("--sample-bytes 512KiB") && line.contains("--no-guard"));
    let (least, most) = (Duration::from_secs(9), Duration::from_secs(16));
    assert!((least..most).contains(&took), "{took:?}");
    // It runs on, and well.
    victim.line();
    victim.end_well();
}

#[test]
fn without_the_guard_it_goes_on() {
    let mut victim = busy("14s");
    let leakprobe = Leakprobe::attach(victim.pid(), &["--no-guard", "--duration", "13s"]);
    victim.go();
    let report = leakprobe.finish().report();
    check(&report);
    assert!(!has_note(&report), "{:?}", report.evidence);
    assert!(report.duration_ns >= 13_000_000_000);
    victim.line();
    victim.end_well();
}
