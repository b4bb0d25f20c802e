//! Every victim in every flavor: leakprobe must say exactly what it did. One test each.

use std::process::Command;

use leakprobe_tests::{Leakprobe, Victim, assert_exact, exact, victim_path};

/// One module per victim, one test per flavor, whose name is the flavor with `_` for `-`.
macro_rules! exactly {
    ($($victim:ident: $($flavor:ident),+;)*) => {
        $(mod $victim {
            $(#[test]
            fn $flavor() {
                super::check(&stringify!($flavor).replace('_', "-"), stringify!($victim));
            })+
        })*
    };
}

exactly! {
    malloc: glibc, glibc_static, musl, musl_static;
    calloc: glibc, glibc_static, musl, musl_static;
    realloc: glibc, glibc_static, musl, musl_static;
    reallocarray: glibc, glibc_static, musl, musl_static;
    posix_memalign: glibc, glibc_static, musl, musl_static;
    aligned_alloc: glibc, glibc_static, musl, musl_static;
    memalign: glibc, glibc_static, musl, musl_static;
    valloc: glibc, glibc_static, musl, musl_static;
    pvalloc: glibc, glibc_static;
    free: glibc, glibc_static, musl, musl_static;
    cfree: glibc;
    nothing: glibc, glibc_static, musl, musl_static;
    threads: glibc, glibc_static, musl, musl_static;
    deep: glibc, glibc_static, musl, musl_static;
    fork: glibc, glibc_static, musl, musl_static;
    spawn: glibc, glibc_static, musl, musl_static;
    nested: glibc, glibc_static, musl, musl_static;
    raise: glibc, glibc_static, musl, musl_static;
    raise_altstack: glibc, glibc_static, musl, musl_static;
    signals: glibc, glibc_static, musl, musl_static;
    longjmp: glibc, glibc_static, musl, musl_static;
    siglongjmp: glibc, glibc_static, musl, musl_static;
    siglongjmp_altstack: glibc, glibc_static, musl, musl_static;
    rust: glibc;
}

fn check(flavor: &str, name: &str) {
    let mut victim = Victim::spawn(flavor, name);
    // On a slow machine some do hardly anything else for 10 s.
    let leakprobe = Leakprobe::attach(victim.pid(), &["--no-guard"]);
    victim.go();
    let summary = victim.summary();
    let report = leakprobe.interrupt().report();
    assert_exact(&summary, &report);
    assert_eq!(report.target.pid, victim.pid());
    victim.end_well();
}

/// The flavors of the victims whose course is another one.
const FLAVORS: [&str; 4] = ["glibc", "glibc-static", "musl", "musl-static"];

#[test]
fn exec_starts_anew() {
    for flavor in FLAVORS {
        let mut victim = Victim::spawn(flavor, "exec");
        let leakprobe = Leakprobe::attach(victim.pid(), &[]);
        victim.go();
        victim.wait_until_ready();
        leakprobe.wait_until_recording();
        victim.go();
        let summary = victim.summary();
        assert_eq!(summary.victim, "malloc");
        let outcome = leakprobe.interrupt();
        // A static program has its allocator in itself: the next program's is another file.
        if flavor.ends_with("static") {
            assert_not_silent(&outcome, &summary);
        } else {
            assert_exact(&summary, &outcome.report());
        }
        victim.end_well();
    }
}

/// Either all of the new program is in the report, or the report is marked as partial.
fn assert_not_silent(outcome: &leakprobe_tests::Outcome, summary: &leakprobe_tests::Summary) {
    let report = outcome.report();
    if report.evidence.verdict == "complete" {
        assert_exact(summary, &report);
    } else {
        assert!(
            !report.evidence.losses.is_empty() || !report.evidence.notes.is_empty(),
            "partial without a reason: {:?}",
            report.evidence
        );
    }
}

#[test]
fn exit_leaves_the_last_state() {
    for flavor in FLAVORS {
        let mut victim = Victim::spawn(flavor, "exit");
        let leakprobe = Leakprobe::attach(victim.pid(), &[]);
        victim.go();
        let summary = victim.summary();
        // Nobody interrupts it: the end of the target is its end.
        let report = leakprobe.finish().report();
        assert_exact(&summary, &report);
        victim.end_well();
    }
}

#[test]
fn many_stacks_are_told_apart() {
    for flavor in ["glibc", "musl"] {
        let mut victim = Victim::spawn_with(flavor, "big", &["20000", "1000"]);
        let leakprobe = Leakprobe::attach(victim.pid(), &[]);
        victim.go();
        let summary = victim.summary();
        let report = leakprobe.interrupt().report();
        assert_exact(&summary, &report);
        assert_eq!(report.stacks.len(), 1000);
        assert!(
            report
                .stacks
                .iter()
                .all(|stack| stack.totals.live_count == 20)
        );
        victim.end_well();
    }
}

/// The interpreter's own blocks are in the report too; they are small beside what it keeps.
#[test]
fn python_keeps_what_it_says() {
    #[derive(serde::Deserialize)]
    struct Kept {
        kept_bytes: u64,
        kept_count: u64,
    }
    let script = victim_path("other", "leak.py");
    let mut victim = Victim::start(Command::new("/usr/bin/python3").arg(script));
    let leakprobe = Leakprobe::attach(victim.pid(), &[]);
    victim.go();
    let kept: Kept = serde_json::from_str(&victim.line()).expect("the summary can be read");
    let report = leakprobe.interrupt().report();
    assert_eq!(exact::contradictions(&report), Vec::<String>::new());
    assert_eq!(report.evidence.verdict, "complete", "{:?}", report.evidence);
    let totals = report.totals;
    assert!(
        (kept.kept_bytes..kept.kept_bytes * 102 / 100).contains(&totals.live_bytes),
        "Python keeps {} bytes, the report says {totals:?}",
        kept.kept_bytes
    );
    assert!(totals.live_count >= kept.kept_count, "{totals:?}");
    let module = |at: usize| report.stacks[at].frames[0].module.as_deref();
    // The bytearrays come from the interpreter; the ctypes blocks from whatever calls for it.
    assert!(
        module(0).is_some_and(|name| name.contains("python")),
        "{:?}",
        report.stacks[0]
    );
    assert!(module(1).is_some(), "{:?}", report.stacks[1]);
    victim.end_well();
}
