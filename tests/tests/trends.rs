//! What grows: a leak among heavy traffic comes first and makes a test suite fail; a cache that fills, more and more
//! traffic, and known stacks do not.

use std::fs;

use leakprobe_tests::exact::is_at;
use leakprobe_tests::report::{RuleUse, Stack, Suppressed};
use leakprobe_tests::victim::Leak;
use leakprobe_tests::{Leakprobe, Outcome, Report, Victim};
use tempfile::TempDir;

/// Records a program with heavy traffic, and something else, for so long.
fn traffic(what: &str, duration: &str, options: &[&str]) -> Outcome {
    let mut victim = Victim::spawn_with("glibc", "traffic", &[what]);
    let mut all = vec!["--duration", duration];
    all.extend_from_slice(options);
    let leakprobe = Leakprobe::attach(victim.pid(), &all);
    victim.go();
    let outcome = leakprobe.end();
    victim.order(b"g");
    victim.summary();
    victim.end_well();
    outcome
}

/// The last line that it said, which is why it failed.
fn reason(outcome: &Outcome) -> &str {
    outcome.stderr.lines().last().unwrap_or_default()
}

fn assert_status(outcome: &Outcome, status: i32) {
    assert_eq!(outcome.status.code(), Some(status), "{}", outcome.stderr);
}

fn stack_of<'a>(report: &'a Report, function: &str) -> &'a Stack {
    let stacks = &report.stacks;
    let it = stacks.iter().find(|stack| stack.names()[0] == function);
    it.unwrap_or_else(|| panic!("no stack of {function}"))
}

/// One byte in a hundred stays; 512 stacks have as much through them.
#[test]
fn a_leak_in_heavy_traffic_comes_first() {
    let files = [
        "-o",
        "report.svg",
        "-o",
        "report.folded",
        "-o",
        "report.txt",
    ];
    let mut options = vec![
        "--sort",
        "growth",
        "--fail-on",
        "live>1TiB",
        "--fail-on",
        "leak",
    ];
    options.extend(files);
    let outcome = traffic("leak", "25s", &options);
    assert_status(&outcome, 3);
    let why = reason(&outcome);
    assert!(
        why.starts_with("failed: `--fail-on leak`: 1 stack grows on"),
        "{why}"
    );
    assert!(why.contains("`leak_one`"), "{why}");
    let report = outcome.report();
    assert_eq!(report.sorted_by, "growth");
    assert!(report.stacks.len() > 500, "{}", report.stacks.len());
    let first = &report.stacks[0];
    assert_eq!(first.names()[..2], ["leak_one", "main"]);
    let growth = &first.growth;
    assert_eq!(growth.trend, "growing");
    let (low, high) = (growth.low.unwrap(), growth.high.unwrap());
    let overall = first.totals.live_bytes as f64 / (report.duration_ns as f64 / 1e9);
    assert!(
        low < 1.2 * overall && high > 0.8 * overall,
        "{growth:?}, but {overall}"
    );
    // Nothing else is called a leak, whatever it holds.
    for stack in &report.stacks[1..] {
        assert_ne!(stack.growth.trend, "growing", "{:?}", stack.names());
    }
    let large = stack_of(&report, "take_large");
    assert!(large.totals.live_bytes > first.totals.live_bytes);
    // The other formats are of the same figure.
    let folded = outcome.file("report.folded");
    let lines: Vec<&str> = folded.lines().collect();
    assert_eq!(lines.len(), 1, "{folded}");
    assert!(lines[0].contains("main;leak_one "), "{folded}");
    let svg = outcome.file("report.svg");
    assert!(svg.contains("growth of live bytes") && svg.contains("bytes per second"));
    let text = outcome.file("report.txt");
    assert!(text.contains("stacks by growth of live bytes"), "{text}");
    assert!(text.contains("), growing"), "{text}");
}

#[test]
fn a_cache_that_fills_is_no_leak() {
    let options = [
        "--fail-on",
        "leak",
        "--fail-on",
        "growth>0/s",
        "--fail-on",
        "live>1GiB",
    ];
    let outcome = traffic("cache", "18s", &options);
    assert_status(&outcome, 0);
    let report = outcome.report();
    assert_eq!(report.sorted_by, "live");
    let cache = stack_of(&report, "remember");
    assert_eq!(cache.growth.trend, "levelled_off", "{:?}", cache.growth);
    assert!(
        outcome.stdout.contains("has grown, and levelled off"),
        "{}",
        outcome.stdout
    );
}

#[test]
fn more_and_more_work_is_no_leak() {
    let outcome = traffic("more", "16s", &["--fail-on", "leak"]);
    assert_status(&outcome, 0);
    let report = outcome.report();
    let more = stack_of(&report, "one_of");
    assert_eq!(more.growth.trend, "unknown", "{:?}", more.growth);
    assert!(more.growth.low.unwrap() > 0.0, "{:?}", more.growth);
}

#[test]
fn a_known_leak_is_left_out_and_counted() {
    let folder = TempDir::new().unwrap();
    let rules = folder.path().join("known");
    fs::write(
        &rules,
        "# seen, not ours\nfunction:leak_one\nmodule:libnone.so\n",
    )
    .unwrap();
    let rules = rules.to_str().unwrap();
    let options = [
        "--suppressions",
        rules,
        "--fail-on",
        "leak",
        "--fail-on",
        "growth>40KiB/s",
    ];
    let outcome = traffic("leak", "12s", &options);
    assert_status(&outcome, 0);
    let report = outcome.report();
    assert!(
        report
            .stacks
            .iter()
            .all(|stack| stack.names()[0] != "leak_one")
    );
    let suppressed = report.suppressed.unwrap();
    assert_eq!(suppressed.stacks, 1);
    assert!(suppressed.live_bytes > 100_000, "{suppressed:?}");
    assert_eq!(suppressed.live_bytes % 1040, 0);
    // It is in the sums.
    let shown: u64 = report
        .stacks
        .iter()
        .map(|stack| stack.totals.live_bytes)
        .sum();
    assert_eq!(report.totals.live_bytes, shown + suppressed.live_bytes);
    assert!(
        outcome
            .stdout
            .contains("`module:libnone.so`: matches nothing"),
        "{}",
        outcome.stdout
    );
}

/// What the victim `malloc` left at all its places: as it says itself, and what of it rules leave out.
fn suppress(rules: &str, options: &[&str]) -> (Vec<Leak>, Report, Outcome) {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("known");
    fs::write(&file, rules).unwrap();
    let mut victim = Victim::spawn("glibc", "malloc");
    let mut all = vec!["--suppressions", file.to_str().unwrap()];
    all.extend_from_slice(options);
    let leakprobe = Leakprobe::attach(victim.pid(), &all);
    victim.go();
    let summary = victim.summary();
    leakprobe.signal(rustix::process::Signal::INT);
    let outcome = leakprobe.end();
    victim.end_well();
    let report = outcome.report();
    (summary.leaks, report, outcome)
}

fn left_out(report: &Report) -> Suppressed {
    report.suppressed.clone().unwrap()
}

#[test]
fn rules_of_each_kind_leave_out_exactly_their_stacks() {
    for (rule, is_match) in [
        (
            "function:nothing",
            &(|leak: &Leak| leak.stack.iter().any(|it| it == "nothing")) as &dyn Fn(&Leak) -> bool,
        ),
        ("function:main", &|_| true),
        ("module:malloc", &|_| true),
        ("re:^le[f]t$", &|leak| {
            leak.stack.iter().any(|it| it.eq("left"))
        }),
        ("leak:^righ*t$", &|leak| {
            leak.stack
                .iter()
                .any(|it| it.starts_with("righ") && it.ends_with('t'))
        }),
        ("leak:no_such_name", &|_| false),
    ] {
        let (leaks, report, _) = suppress(rule, &[]);
        let of_rule: Vec<&Leak> = leaks.iter().filter(|leak| is_match(leak)).collect();
        let bytes = of_rule.iter().map(|leak| leak.bytes).sum();
        let count: u64 = of_rule.iter().map(|leak| leak.count).sum();
        let found = left_out(&report);
        assert_eq!(
            (found.live_bytes, found.live_count),
            (bytes, count),
            "{rule}: {found:?}"
        );
        let of_rule = RuleUse {
            rule: rule.to_owned(),
            stacks: found.stacks,
            live_bytes: bytes,
        };
        assert_eq!(found.rules, [of_rule]);
        let all: u64 = leaks.iter().map(|leak| leak.bytes).sum();
        assert_eq!(report.totals.live_bytes, all, "{rule}");
    }
}

/// Nothing is known of the growth of what was recorded for less than a second.
#[test]
fn what_is_too_short_to_tell_fails() {
    let (leaks, report, outcome) = suppress("function:nobody", &["--fail-on", "leak"]);
    assert_status(&outcome, 3);
    assert!(
        reason(&outcome).contains("cannot be told"),
        "{}",
        outcome.stderr
    );
    assert_eq!(report.live_growth.trend, "unknown");
    let all: u64 = leaks.iter().map(|leak| leak.bytes).sum();
    let exactly = format!("live>{all}");
    let (_, _, outcome) = suppress("function:nobody", &["--fail-on", &exactly]);
    assert_status(&outcome, 0);
    let less = format!("live>{}", all - 1);
    let (_, _, outcome) = suppress("function:nobody", &["--fail-on", &less]);
    assert_status(&outcome, 3);
    // What is suppressed makes nothing fail, and then nothing is live.
    let options = [
        "--fail-on",
        "live>0",
        "--fail-on",
        "leak",
        "--fail-on",
        "growth>0/s",
    ];
    let (_, _, outcome) = suppress("function:main", &options);
    assert_status(&outcome, 0);
}

#[test]
fn what_stays_is_exact_whatever_it_is_sorted_by() {
    for by in ["live", "growth", "peak", "allocated", "count"] {
        let mut victim = Victim::spawn("glibc", "malloc");
        let leakprobe = Leakprobe::attach(victim.pid(), &["--sort", by]);
        victim.go();
        let summary = victim.summary();
        let outcome = leakprobe.interrupt();
        victim.end_well();
        let report = outcome.report();
        assert_eq!(report.sorted_by, by);
        let all: u64 = summary.leaks.iter().map(|leak| leak.bytes).sum();
        assert_eq!(report.totals.live_bytes, all);
        for leak in &summary.leaks {
            let at_it = report.stacks.iter().filter(|stack| is_at(leak, stack));
            let live: u64 = at_it.map(|stack| stack.totals.live_bytes).sum();
            assert_eq!(live, leak.bytes, "{:?} by {by}", leak.stack);
        }
        let key = |stack: &Stack| match by {
            "live" => stack.totals.live_bytes,
            "allocated" => stack.totals.allocated_bytes,
            "count" => stack.totals.live_count,
            _ => 0,
        };
        assert!(
            report.stacks.is_sorted_by(|a, b| key(a) >= key(b)),
            "by {by}"
        );
    }
}

/// One clear sentence each, before anything is attached.
#[test]
fn mistakes_are_told_in_one_sentence() {
    let folder = TempDir::new().unwrap();
    let rules = folder.path().join("known");
    fs::write(&rules, "# first\nre:(\n").unwrap();
    let victim = Victim::spawn("glibc", "malloc");
    let pid = victim.pid().to_string();
    for (options, status, parts) in [
        (
            vec!["--fail-on", "growth>1MiBs/min"],
            2,
            vec!["64KiB or 10MB"],
        ),
        (vec!["--fail-on", "rss>1MiB"], 2, vec!["growth>1MiB/min"]),
        (vec!["--sort", "size"], 2, vec!["size", "allocated"]),
        (
            vec!["--suppressions", rules.to_str().unwrap()],
            1,
            vec!["line 2", "`(`", "unclosed group"],
        ),
        (
            vec!["--suppressions", "nowhere"],
            1,
            vec!["failed to read", "`nowhere`"],
        ),
        (
            vec!["--suppressions", "/"],
            1,
            vec!["failed to read", "`/`"],
        ),
    ] {
        let mut args = vec!["--pid", &pid];
        args.extend(&options);
        let outcome = Leakprobe::start(&args).end();
        assert_status(&outcome, status);
        assert_eq!(outcome.stderr.lines().count(), 1, "{}", outcome.stderr);
        for part in parts {
            assert!(
                outcome.stderr.contains(part),
                "{options:?}: {}",
                outcome.stderr
            );
        }
        assert!(outcome.files().is_empty(), "{:?}", outcome.files());
    }
    victim.end_well();
}
