//! Growth mode: pages by the stack of their fault, exactly where every page is recorded, and within
//! their interval where a sample is.

use std::fs;
use std::time::Instant;

use leakprobe_tests::report::{Interval, Stack, Totals};
use leakprobe_tests::victim::Leak;
use leakprobe_tests::{Leakprobe, Outcome, Report, Summary, Victim};

const PAGE: u64 = 4096;

/// Whether a stack has the leak's names, one after the other.
fn is_at(leak: &Leak, stack: &Stack) -> bool {
    stack
        .names()
        .windows(leak.stack.len())
        .any(|it| it == leak.stack)
}

/// What the stacks of a leak have together, and where it truly lies.
fn at(leak: &Leak, report: &Report) -> (Totals, (u64, u64)) {
    let mut sum = Totals::default();
    let mut between = (0, 0);
    for stack in report.stacks.iter().filter(|stack| is_at(leak, stack)) {
        sum += stack.totals;
        let Interval {
            live_bytes: (low, high),
            ..
        } = stack.interval.unwrap_or(Interval {
            live_bytes: (stack.totals.live_bytes, stack.totals.live_bytes),
            live_count: (0, 0),
        });
        between = (between.0 + low, between.1 + high);
    }
    (sum, between)
}

fn assert_exact(summary: &Summary, report: &Report) {
    let problems: Vec<_> = summary
        .leaks
        .iter()
        .filter_map(|leak| {
            let live = at(leak, report).0.live_bytes;
            let place = leak.stack.join(" < ");
            (live != leak.bytes).then(|| format!("{place}: {live} instead of {}", leak.bytes))
        })
        .collect();
    let stacks: Vec<_> = report
        .stacks
        .iter()
        .map(|it| (it.names(), it.totals))
        .collect();
    assert!(problems.is_empty(), "{problems:#?}\nof {stacks:#?}");
    for stack in &report.stacks {
        let Totals {
            live_bytes,
            allocated_bytes,
            freed_bytes,
            ..
        } = stack.totals;
        assert_eq!(allocated_bytes, live_bytes + freed_bytes, "{stack:?}");
        // Where the kernel cannot tell at once that memory is shared, its pages count as gone.
        let is_shared = stack.names().contains(&"touch_shared");
        assert!(!is_shared || live_bytes == 0, "{stack:?}");
    }
}

fn record(flavor: &str, argument: &[&str], options: &[&str]) -> (Summary, Outcome) {
    let mut victim = Victim::spawn_with(flavor, "growth", argument);
    let mut all = vec!["--mode", "growth"];
    all.extend_from_slice(options);
    let leakprobe = Leakprobe::attach(victim.pid(), &all);
    victim.go();
    let summary = victim.summary();
    let outcome = leakprobe.interrupt();
    victim.end_well();
    (summary, outcome)
}

#[test]
fn every_page_at_its_stack() {
    for flavor in ["glibc", "musl", "glibc-static", "musl-static"] {
        let (summary, outcome) = record(flavor, &[], &["--sample-pages", "1"]);
        let report = outcome.report();
        assert_eq!(
            report.evidence.verdict, "complete",
            "{flavor}: {:?}",
            report.evidence
        );
        assert_exact(&summary, &report);
        // Faults are counted for the stack that took them, also those whose pages are gone.
        let second = at(&summary.leaks[1], &report).0;
        assert_eq!(second.allocated_bytes, 800 * PAGE, "{flavor}");
        let growth = report.growth.expect("it is a recording of growth");
        assert_eq!(growth.sample_pages, 1);
        // All memory the process has got is at some stack; pages from before may have gone, and before Linux 6.2
        // each thread tells the kernel's counters of its pages 64 at a time only.
        let is_old =
            fs::read_to_string("/proc/sys/kernel/osrelease").is_ok_and(|it| it.starts_with("6.1."));
        let margin = if is_old { 7 * 64 } else { 64 } * PAGE;
        let grown = growth.own_bytes.saturating_sub(growth.own_bytes_before);
        let live = report.totals.live_bytes;
        assert!(
            (grown..grown + margin).contains(&live),
            "{flavor}: {live} bytes are resident by stack, the process has grown by {grown}"
        );
        assert!(report.allocator.is_none() && report.sampling.is_none());
        assert!(outcome.stdout.contains("GROWTH: "), "{}", outcome.stdout);
        let counts = |text: &str| text.ends_with(|it: char| it.is_ascii_digit());
        let mut before = outcome.stdout.rsplit(" blocks").skip(1);
        assert!(!before.any(counts), "{}", outcome.stdout);
    }
}

#[test]
fn a_sample_holds_the_truth() {
    let (summary, outcome) = record("glibc", &["many"], &["--sample-pages", "16"]);
    let report = outcome.report();
    assert_eq!(report.growth.expect("growth").sample_pages, 16);
    for leak in &summary.leaks {
        let (totals, (low, high)) = at(leak, &report);
        let place = leak.stack.join(" < ");
        // Six standard deviations, where there are pages enough for one to mean something.
        let pages = (leak.bytes / PAGE) as f64;
        let deviation = (pages * 15.0).sqrt() * PAGE as f64;
        let off = totals.live_bytes.abs_diff(leak.bytes) as f64;
        assert!(
            off <= 6.0 * deviation,
            "{place}: {} instead of {}",
            totals.live_bytes,
            leak.bytes
        );
        if totals.live_bytes > 0 {
            assert!(
                low <= totals.live_bytes && totals.live_bytes <= high,
                "{place}"
            );
        }
    }
    // Huge pages are no matter of chance.
    let huge = summary.leaks.iter().find(|it| it.stack[0] == "touch_huge");
    let huge = huge.expect("huge pages");
    if fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled")
        .is_ok_and(|text| !text.contains("[never]"))
    {
        assert_eq!(at(huge, &report).0.live_bytes, huge.bytes);
    }
    assert!(
        outcome.stdout.contains("SAMPLED: one page in 16"),
        "{}",
        outcome.stdout
    );
}

#[test]
fn pages_without_a_fault_are_told() {
    let (_, outcome) = record("glibc", &["populate"], &["--sample-pages", "1"]);
    let report = outcome.report();
    assert_eq!(
        report.evidence.losses.get("pages_without_fault"),
        Some(&200)
    );
    assert_eq!(report.evidence.verdict, "partial");
}

#[test]
fn what_has_gone_makes_room() {
    // Looks come often enough, however slow the machine is.
    let often = "--interval=500ms";
    let options = ["--sample-pages", "1", "--max-live", "12288", often];
    let (summary, outcome) = record("glibc", &["churn"], &options);
    let report = outcome.report();
    assert_exact(&summary, &report);
    assert_eq!(report.evidence.verdict, "complete", "{:?}", report.evidence);
    let churn = report.stacks.iter().find(|it| it.names()[0] == "churn");
    let churn = churn.expect("the pages that have gone").totals;
    assert_eq!((churn.allocated_count, churn.live_count), (8 * 2000, 0));
}

#[test]
fn of_a_target_that_ends_the_last_look_is_reported() {
    let mut victim = Victim::spawn("glibc", "growth");
    let options = [
        "--mode",
        "growth",
        "--sample-pages",
        "1",
        "--interval",
        "100ms",
    ];
    let start = Instant::now();
    let leakprobe = Leakprobe::attach(victim.pid(), &options);
    victim.go();
    let summary = victim.summary();
    // One that began after the summary has seen all of it. Lines of those before it may be there.
    let before = start.elapsed().as_millis() / 100;
    for _ in 0..before + 3 {
        leakprobe.wait_for_output(" resident in ");
    }
    victim.end_well();
    let outcome = leakprobe.finish();
    let report = outcome.report();
    assert_exact(&summary, &report);
    let notes = report.evidence.notes.join("\n");
    assert!(notes.contains("the last look before its end"), "{notes}");
}

#[test]
fn a_command_is_watched_from_its_start() {
    let victim = leakprobe_tests::victim_path("glibc-static", "growth");
    let victim = victim.to_string_lossy();
    let options = [
        "--mode",
        "growth",
        "--sample-pages",
        "1",
        "-o",
        "report.json",
        "--",
        &victim,
    ];
    let leakprobe = Leakprobe::start(&options);
    // Without a go byte it ends at once.
    let report = leakprobe.finish().report();
    assert!(report.totals.allocated_bytes > 0, "{:?}", report.totals);
}
