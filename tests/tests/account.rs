//! Where the resident memory is: of a victim that says how much it has of each kind, and of runtimes, whose own
//! figures are compared. No more than 5 % of any of them is unexplained.

use std::process::Command;

use leakprobe_tests::node::{Need, Target, ready, script};
use leakprobe_tests::report::Account;
use leakprobe_tests::{Leakprobe, Report, Victim};

const PAGE: i64 = 4096;
const MIB: i64 = 1 << 20;

/// What an allocator has.
const HEAP: &[&str] = &[
    "live_blocks",
    "before_attach",
    "blocks",
    "allocator_free",
    "allocator_overhead",
    "allocator",
];

/// What holds for every account: lines and the rest are all there is, and the rest is little.
fn account(report: &Report) -> &Account {
    let account = report.account.as_ref().expect("an account");
    let lines: u64 = account.lines.iter().map(|line| line.bytes).sum();
    let all = lines as i64 + account.unexplained_bytes;
    assert_eq!(all, account.rss_bytes as i64);
    let unexplained = account.unexplained_bytes.unsigned_abs();
    assert!(unexplained * 20 <= account.rss_bytes, "{account:?}");
    let rss = report.rss.as_ref().expect("resident memory over time");
    assert!(rss.peak_bytes >= rss.start_bytes.max(rss.end_bytes));
    assert_eq!(rss.series.first().map(|it| it[1]), Some(rss.start_bytes));
    account
}

fn assert_within(what: &str, found: i64, low: i64, high: i64, account: &Account) {
    assert!(
        (low..=high).contains(&found),
        "{what}: {found}, not from {low} to {high}; {account:#?}"
    );
}

fn victim(flavor: &str, mode: &[&str]) -> Report {
    let mut victim = Victim::spawn(flavor, "account");
    let leakprobe = Leakprobe::attach(victim.pid(), mode);
    victim.go();
    victim.summary();
    let report = leakprobe.interrupt().report();
    victim.end_well();
    let account = account(&report);
    let growth = |kinds| account.growth(kinds);
    // 3 MiB, and what the C library may have mapped for threads.
    assert_within(
        "anonymous and heap",
        growth(&["anonymous"]) + growth(HEAP),
        768 * PAGE + 2000 * 1000 + 512 * PAGE,
        768 * PAGE + 2000 * 1100 + 513 * PAGE + MIB / 2,
        account,
    );
    assert_eq!(growth(&["shared_memory"]), 256 * PAGE, "{account:#?}");
    assert_within(
        "data",
        growth(&["file_private"]),
        16 * PAGE,
        32 * PAGE,
        account,
    );
    let stacks = account.lines.iter().find(|it| it.kind == "thread_stacks");
    let stacks = stacks.expect("stacks of threads");
    assert_eq!((stacks.start_count, stacks.count), (Some(4), Some(7)));
    let most = |threads: i64| threads * 28 * PAGE;
    let start = stacks.start_bytes.expect("an account of the start") as i64;
    assert_within(
        "stacks at the start",
        start,
        4 * 20 * PAGE,
        most(4),
        account,
    );
    assert_within(
        "stacks",
        stacks.bytes as i64,
        7 * 20 * PAGE,
        most(7),
        account,
    );
    report
}

fn recorded(flavor: &str) -> Report {
    let report = victim(flavor, &[]);
    let account = account(&report);
    // Of the large block a quarter was touched.
    let live = account.bytes(&["live_blocks"]) as i64;
    let known = 2000 * 1000 + 512 * PAGE;
    assert_within("live blocks", live, known, known + 32 * 1024, account);
    let live = report
        .rss
        .as_ref()
        .and_then(|rss| rss.series.last().map(|it| it[2]));
    assert!(
        live.is_some_and(|live| live <= report.totals.live_bytes),
        "{live:?}"
    );
    // What the program has mapped is not the heap's.
    let anonymous = account.growth(&["anonymous"]);
    assert_within(
        "mappings",
        anonymous,
        768 * PAGE,
        (768 + 64) * PAGE,
        account,
    );
    // Of a static program's allocator not all may be told apart.
    let before = account.bytes(&["before_attach", "allocator"]) as i64;
    let most = 3000 * 1016 + 64 * 1024;
    assert_within("older blocks", before, 3000 * 1000, most, account);
    report
}

#[test]
fn of_glibc() {
    recorded("glibc");
}

#[test]
fn of_a_static_glibc() {
    recorded("glibc-static");
}

#[test]
fn of_musl() {
    recorded("musl");
}

#[test]
fn of_a_static_musl() {
    recorded("musl-static");
}

#[test]
fn in_growth_mode() {
    for flavor in ["glibc", "musl"] {
        let report = victim(flavor, &["--mode", "growth"]);
        assert_eq!(account(&report).bytes(&["live_blocks"]), 0);
    }
}

/// One that is dead is told as it was when it was last looked at.
#[test]
fn of_a_process_that_has_ended() {
    let mut victim = Victim::spawn("glibc", "account");
    let leakprobe = Leakprobe::attach(victim.pid(), &[]);
    victim.go();
    victim.summary();
    victim.end_well();
    let report = leakprobe.finish().report();
    let account = account(&report);
    assert!(account.at_ns <= report.duration_ns);
    assert!(account.bytes(HEAP) >= 3000 * 1000, "{account:#?}");
}

/// Lets a runtime work, and compares.
fn runtime(mut target: Target) -> (Report, i64) {
    let leakprobe = Leakprobe::attach(target.pid, &[]);
    let kept = target.leak().kept_bytes;
    let report = leakprobe.interrupt().report();
    assert!(target.end().success());
    account(&report);
    (report, kept as i64)
}

/// V8 counts its heap by itself.
fn check_v8(target: Target) {
    let (report, heap) = runtime(target);
    let account = account(&report);
    let found = account.bytes(&["v8_heap", "v8_code"]) as i64;
    assert_within(
        "V8's heap",
        found,
        heap - heap / 10,
        heap + heap / 10,
        account,
    );
    assert!(account.growth(&["v8_heap"]) >= 30 * MIB, "{account:#?}");
    assert!(
        account.bytes(&["anonymous"]) * 20 <= account.rss_bytes,
        "{account:#?}"
    );
}

#[test]
fn of_the_glibc_node() {
    if ready("of_the_glibc_node", &[Need::File("/usr/bin/node")]) {
        let mut node = Command::new("/usr/bin/node");
        check_v8(Target::start(node.arg(script("account.js"))));
    }
}

#[test]
fn of_the_musl_node() {
    if ready("of_the_musl_node", &[Need::Rootfs]) {
        check_v8(Target::in_chroot(&script("account.js")));
    }
}

#[test]
fn of_python() {
    if !ready("of_python", &[Need::File("/usr/bin/python3")]) {
        return;
    }
    let mut python = Command::new("/usr/bin/python3");
    let (report, kept) = runtime(Target::start(python.arg(script("leak.py"))));
    let account = account(&report);
    let live = account.bytes(&["live_blocks"]) as i64;
    // What it has asked for by ctypes it has not touched: of each block a page or two.
    assert_within(
        "live blocks",
        live,
        2000 * 10_000,
        kept + kept / 50,
        account,
    );
}

/// Each kind of memory that a JVM has, by collectors that reserve it in other ways.
#[test]
fn of_the_jvm() {
    if !ready("of_the_jvm", &[Need::File("/usr/bin/java")]) {
        return;
    }
    for options in [
        &["-XX:+UseG1GC"][..],
        &["-XX:+UseSerialGC", "-Xmx256m"],
        &[
            "-XX:+UseParallelGC",
            "-XX:-UseCompressedOops",
            "-Xshare:off",
        ],
        &["-XX:+UseZGC"],
    ] {
        let mut java = Command::new("/usr/bin/java");
        java.args(options).arg(script("Account.java"));
        let (report, kept) = runtime(Target::start(&mut java));
        let account = account(&report);
        // It may have had some of that before, for garbage.
        let heap = account.bytes(&["jvm_heap"]) as i64;
        assert_within("Java objects", heap, kept, 5 * kept, account);
        let live = account.bytes(&["live_blocks"]) as i64;
        let all = report.totals.live_bytes as i64;
        assert_within("with direct buffers", live, 8 * MIB, all, account);
        let stacks = account.lines.iter().find(|it| it.kind == "thread_stacks");
        let threads = stacks.and_then(|it| Some(it.count? as i64 - it.start_count? as i64));
        assert!(
            threads.is_some_and(|it| it >= 10),
            "{threads:?} {account:#?}"
        );
        for kind in ["jvm_metaspace", "jvm_code"] {
            assert!(
                account.bytes(&[kind]) > 0,
                "{options:?} {kind}: {account:#?}"
            );
        }
        let anonymous = account.bytes(&["anonymous"]);
        assert!(
            anonymous * 20 <= account.rss_bytes,
            "{options:?}: {account:#?}"
        );
    }
}
