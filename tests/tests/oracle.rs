//! leakprobe's stacks of real programs against those of the oracle (src/oracle): the same frames,
//! down to the start of the thread. One program after the other, because all of it is about probes
//! on the same few functions.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;

use leakprobe_tests::Leakprobe;
use leakprobe_tests::oracle::Oracle;
use leakprobe_tests::oracle::compare::Outcome;
use leakprobe_tests::oracle::program::Program;

fn look(program: &mut Program, period: u64, debug: Vec<PathBuf>) -> Outcome {
    let leakprobe = Leakprobe::attach(program.pid, &[]);
    let oracle = Oracle::attach(program.pid, period, debug);
    program.work();
    let sampled = oracle.stop();
    let report = leakprobe.interrupt().report();
    if let Some(path) = std::env::var_os("ORACLE_DEBUG") {
        eprintln!("{:?}", report.evidence);
        let _ = path;
    }
    sampled.unwind().compare(&report)
}

fn show(name: &str, outcome: &Outcome) -> String {
    let percent = |part: u64, whole: u64| 100.0 * part as f64 / whole.max(1) as f64;
    let mut text = format!(
        "{name}: {} samples, {} stacks ({} equal), {} frames, {:.3} % equal; gave up {} ({} agree); nested {}; lost {}; {:.3} % of {} live bytes whole\n",
        outcome.samples,
        outcome.stacks,
        outcome.equal_stacks,
        outcome.frames,
        percent(outcome.equal_frames, outcome.frames),
        outcome.gave_up,
        outcome.gave_up_agrees,
        outcome.nested,
        outcome.lost,
        percent(outcome.whole_bytes, outcome.live_bytes),
        outcome.live_bytes,
    );
    let mut reasons: Vec<_> = outcome.reasons.iter().collect();
    reasons.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    for (reason, count) in reasons.iter().take(12) {
        writeln!(text, "   gave up {count}: {reason}").unwrap();
    }
    let mut mismatches: Vec<_> = outcome.mismatches.iter().collect();
    mismatches.sort_by_key(|(_, mismatch)| std::cmp::Reverse(mismatch.stacks));
    for (place, mismatch) in mismatches.iter().take(12) {
        writeln!(
            text,
            "   {} stacks, {} frames {place}\n    {}",
            mismatch.stacks, mismatch.frames, mismatch.example
        )
        .unwrap();
    }
    text
}

#[test]
fn stacks_are_those_of_another_unwinder() {
    for path in std::env::var("ORACLE_PROGRAMS").unwrap().split(':') {
        let mut program = Program::script(&mut Command::new(path));
        let outcome = look(&mut program, 1, Vec::new());
        eprint!("{}", show(path, &outcome));
        program.end();
    }
}
