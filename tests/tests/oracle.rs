//! leakprobe's stacks of real programs against those of the oracle (src/oracle): the same frames,
//! down to the start of the thread. One program after the other, because all of it is about probes
//! on the same few functions. `LEAKPROBE_ORACLE=NAME` looks at one alone.

use std::io::Write as _;
use std::process::Command;

use leakprobe_tests::Leakprobe;
use leakprobe_tests::node::{Need, ready};
use leakprobe_tests::oracle::Oracle;
use leakprobe_tests::oracle::outcome::Outcome;
use leakprobe_tests::oracle::program::{Program, built, debug_files, source};
use leakprobe_tests::oracle::programs::{git, musl_node, postgres, sqlite};

/// A program to look at.
struct Case {
    name: &'static str,
    start: fn() -> Program,
    /// Every how manieth call of an allocator function to sample: a few thousand are enough.
    period: u64,
}

const CASES: &[Case] = &[
    case("node on musl", 29, musl_node),
    case("node on glibc", 29, || {
        script("/usr/bin/node", "script.js", &[])
    }),
    case("python3", 23, || {
        script(
            "/usr/bin/python3",
            "script.py",
            &[("PYTHONMALLOC", "malloc")],
        )
    }),
    case("bash", 47, || script("/bin/bash", "script.sh", &[])),
    case("git", 103, git),
    case("sqlite3", 61, sqlite),
    case("php8.2", 13, || {
        script("/usr/bin/php8.2", "script.php", &[("USE_ZEND_ALLOC", "0")])
    }),
    case("postgres", 3, postgres),
    case("java", 11, || {
        let folder = built("Nested.class");
        let mut command = Command::new("/usr/bin/java");
        command.args(["-XX:+PreserveFramePointer", "-cp"]);
        command.arg(folder.parent().expect("a file is in a folder"));
        Program::scripted(command.arg("Nested"))
    }),
    case("C++", 61, || program("cpp")),
    case("Rust", 7, || program("lto")),
    case("C on glibc", 7, || program("libc-glibc")),
    case("C on musl, -O2", 11, || program("libc-musl-O2")),
    case("C on musl, -Os", 11, || program("libc-musl-Os")),
];

const fn case(name: &'static str, period: u64, start: fn() -> Program) -> Case {
    Case {
        name,
        start,
        period,
    }
}

fn program(name: &str) -> Program {
    Program::scripted(&mut Command::new(built(name)))
}

fn script(interpreter: &str, name: &str, environment: &[(&str, &str)]) -> Program {
    let mut command = Command::new(interpreter);
    command.arg(source(name)).envs(environment.iter().copied());
    Program::scripted(&mut command)
}

/// Lets a program work under leakprobe and under the oracle, and compares what they saw.
fn look(case: &Case) -> Outcome {
    let mut program = (case.start)();
    let leakprobe = Leakprobe::attach(program.pid, &[]);
    let oracle = Oracle::attach(program.pid, case.period, debug_files());
    program.work();
    let sampled = oracle.stop();
    let report = leakprobe.interrupt().report();
    let stacks = sampled.unwind();
    program.end();
    let evidence = &report.evidence;
    assert_eq!(evidence.verdict, "complete", "{}: {evidence:?}", case.name);
    say(&format!("{}: {:?}", case.name, evidence.losses));
    stacks.compare(&report)
}

/// Says it past the test harness, which would keep it to itself: the figures are of interest when
/// they are good, too.
fn say(text: &str) {
    writeln!(std::io::stderr(), "{text}").expect("failed to write to stderr");
}

/// Whether `part` is at least 99.5 % of `whole`.
fn is_enough(part: u64, whole: u64) -> bool {
    part * 1000 >= whole * 995
}

#[test]
fn stacks_are_those_of_another_unwinder() {
    let needs = [
        Need::Rootfs,
        Need::File("/usr/bin/node"),
        Need::File("/usr/bin/python3"),
        Need::File("/usr/bin/git"),
        Need::File("/usr/bin/sqlite3"),
        Need::File("/usr/bin/php8.2"),
        Need::File("/usr/lib/postgresql/15/bin/postgres"),
        Need::File("/usr/bin/java"),
    ];
    if !ready("stacks_are_those_of_another_unwinder", &needs) {
        return;
    }
    let only = std::env::var("LEAKPROBE_ORACLE").ok();
    let mut total = Outcome::default();
    let mut faults = Vec::new();
    for case in CASES {
        if only.as_deref().is_some_and(|only| only != case.name) {
            continue;
        }
        let outcome = look(case);
        say(&format!("{}: {outcome}", case.name));
        if !is_enough(outcome.whole_bytes, outcome.live_bytes) {
            faults.push(format!("{}: stacks are not whole", case.name));
        }
        if outcome.gave_up != outcome.gave_up_agrees || outcome.gave_up * 20 > outcome.stacks {
            faults.push(format!("{}: the oracle cannot tell", case.name));
        }
        total.add(&outcome);
    }
    say(&format!("all: {total}"));
    if !is_enough(total.equal_frames, total.frames) {
        faults.push("frames differ".to_string());
    }
    if only.is_none() && total.stacks < 10_000 {
        faults.push("too few stacks".to_string());
    }
    assert_eq!(faults, Vec::<String>::new());
}
