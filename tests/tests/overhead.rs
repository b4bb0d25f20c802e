//! What a recording costs is in its report, and one that leaves its target no time ends by itself.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use leakprobe_tests::report::{Overhead, Report};
use leakprobe_tests::{Leakprobe, Victim};

/// They measure, and the kernel asks every probe of a libc at each call.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

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
    let overhead = report.overhead.as_ref().expect("it was measured");
    let &Overhead {
        percent,
        handler_ns,
        trap_ns,
        hits,
        cpu_ns,
        ref functions,
    } = overhead;
    // The loop does nothing else. What is measured beside other tests may be off.
    assert!((50..=100).contains(&percent), "{overhead:?}");
    assert!(handler_ns > 0 && trap_ns > 0, "{overhead:?}");
    assert!(
        cpu_ns > 0 && cpu_ns <= report.duration_ns * 11 / 10,
        "{overhead:?}"
    );
    // malloc, its return, free; some come while probes are placed and removed, and do not count.
    let (given, freed) = (report.totals.allocated_count, report.totals.freed_count);
    let least = given * 2 + freed;
    assert!(
        (least..=least + given / 3).contains(&hits),
        "{overhead:?}, not about {least} hits"
    );
    for (name, followed) in [("malloc", given), ("free", freed)] {
        let cost = functions.iter().find(|it| it.function == name);
        let cost = cost.expect("the function was called");
        // The last malloc may not have returned before the recording ended.
        let about = followed..=followed + 1;
        assert!(about.contains(&cost.followed), "{followed}: {overhead:?}");
        assert!((followed..=followed + followed / 10).contains(&cost.calls));
    }
    let sum: u64 = functions.iter().map(|it| it.overhead_ns).sum();
    assert_eq!(sum, handler_ns + trap_ns, "{overhead:?}");
}

#[test]
fn it_is_in_the_reports() {
    let _alone = alone();
    let mut victim = busy("3s");
    let leakprobe = Leakprobe::attach(victim.pid(), &["--duration", "3s"]);
    victim.go();
    let outcome = leakprobe.finish();
    check(&outcome.report());
    assert!(!has_note(&outcome.report()));
    let header = outcome.stdout.lines().find(|it| it.contains("overhead "));
    let header = header.expect("a line of the text report");
    assert!(header.contains("CPU time (estimated; of that "), "{header}");
    assert!(
        header.contains("malloc ") && header.contains("free "),
        "{header}"
    );
    victim.line();
    victim.end_well();
}

#[test]
fn the_guard_lets_a_process_go_that_makes_no_progress() {
    let _alone = alone();
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
    let _alone = alone();
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

/// Lets the loop run; nanoseconds of CPU time for a pair, which others that run meanwhile change little.
fn time_of_pair(victim: &mut Victim) -> f64 {
    victim.go();
    let line: serde_json::Value = serde_json::from_str(&victim.line()).expect("a line of JSON");
    let number = |name| line[name].as_f64().expect("a number");
    number("cpu_ns") / number("pairs")
}

#[test]
fn a_budget_is_kept_and_what_it_takes_is_told() {
    let _alone = alone();
    let mut unprobed_victim = busy("3s");
    let before = time_of_pair(&mut unprobed_victim);
    // On a slow machine it takes some seconds to pay back what finding out has taken.
    let mut victim = busy("20s");
    let leakprobe = Leakprobe::attach(victim.pid(), &["--max-overhead", "10"]);
    let probed = time_of_pair(&mut victim);
    let outcome = leakprobe.interrupt();
    let report = outcome.report();
    let unprobed = before.max(time_of_pair(&mut unprobed_victim));
    unprobed_victim.end_well();
    // A loop that does nothing else is the hardest case; and other tests have run beside it.
    assert!(probed < unprobed * 1.5, "{unprobed} ns, then {probed} ns");
    let overhead = report.overhead.as_ref().expect("it was measured");
    assert!(overhead.percent <= 13, "{overhead:?}");
    let budget = report.budget.as_ref().expect("a budget");
    assert_eq!(budget.percent, 10.0);
    assert!(
        budget.windows > 0 && budget.seen_percent < 20.0,
        "{budget:?}"
    );
    let away = budget.steps.iter().find(|step| step.windows);
    assert!(away.is_some_and(|step| step.sample_bytes >= 512 << 10));
    assert!(report.sampling.as_ref().is_some_and(|it| it.changed));
    assert_eq!(report.evidence.verdict, "partial");
    assert_eq!(report.evidence.losses["probes_away"], budget.windows);
    assert!(report.unconfirmed_bytes.is_some());
    let told = |text: &str| text.contains("to keep the overhead below 10 %");
    assert!(told(&outcome.stderr) && told(&outcome.stdout));
    victim.end_well();
}

#[test]
fn within_its_budget_a_recording_is_exact() {
    let _alone = alone();
    let mut victim = Victim::spawn("glibc", "malloc");
    let leakprobe = Leakprobe::attach(victim.pid(), &["--max-overhead", "50%"]);
    victim.go();
    let expected = victim.summary();
    let report = leakprobe.interrupt().report();
    assert_eq!(report.evidence.verdict, "complete", "{:?}", report.evidence);
    assert!(report.sampling.is_none() && report.unconfirmed_bytes.is_none());
    let totals = &report.totals;
    assert_eq!(
        (totals.allocated_bytes, totals.allocated_count),
        (expected.allocated_bytes, expected.allocated_count)
    );
    assert_eq!(
        (totals.freed_bytes, totals.freed_count),
        (expected.freed_bytes, expected.freed_count)
    );
    victim.end_well();
}

/// A program that maps and unmaps as fast as it can, and does little else.
fn maps(steps: &str) -> Victim {
    Victim::spawn_with("musl", "remap", &["1", "1", steps])
}

#[test]
fn probes_at_system_calls_have_their_part() {
    let _alone = alone();
    let mut victim = maps("20000");
    let leakprobe = Leakprobe::attach(victim.pid(), &[]);
    victim.go();
    assert_eq!(victim.line(), "done");
    let report = leakprobe.interrupt().report();
    let overhead = report.overhead.as_ref().expect("it was measured");
    let mut functions = overhead.functions.iter();
    let calls = functions.find(|it| it.function == "system calls");
    let calls = calls.expect("probes at system calls were hit");
    // At least one for each of mmap, munmap and mremap; mprotect has none.
    assert!(
        (10_000..=50_000).contains(&calls.calls) && overhead.hits >= calls.calls,
        "{overhead:?}"
    );
    assert!(calls.overhead_ns > calls.calls * 500, "{overhead:?}");
    let sum: u64 = overhead.functions.iter().map(|it| it.overhead_ns).sum();
    assert_eq!(sum, overhead.handler_ns + overhead.trap_ns, "{overhead:?}");
    assert!(report.mappings.is_some());
    victim.end_well();
}

#[test]
fn a_budget_may_have_them_taken_away() {
    let _alone = alone();
    let mut victim = maps("300000");
    let leakprobe = Leakprobe::attach(victim.pid(), &["--max-overhead", "10"]);
    victim.go();
    assert_eq!(victim.line(), "done");
    let outcome = leakprobe.interrupt();
    let report = outcome.report();
    let budget = report.budget.as_ref().expect("a budget");
    let steps = budget.steps.windows(2);
    let orders = steps.filter(|it| it[0].system_calls && !it[1].system_calls);
    let first = budget.steps.first().is_some_and(|it| !it.system_calls);
    assert_eq!(orders.count() + usize::from(first), 1, "{budget:?}");
    assert_eq!(report.evidence.losses["mappings_not_probed"], 1);
    assert!(report.mappings.is_none());
    let told =
        |text: &str| text.contains("what the program maps is not followed any more, to keep");
    assert!(told(&outcome.stderr) && told(&outcome.stdout));
    victim.end_well();
}
