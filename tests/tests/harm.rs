//! The target goes on unharmed whatever happens to leakprobe, and leakprobe ends well whatever
//! happens to the target.

use std::process::Command;
use std::time::Instant;

use leakprobe_tests::code::patched_code;
use leakprobe_tests::{LIMIT, Leakprobe, Victim, assert_exact, leakprobe_path};
use rustix::process::{Pid, Signal, kill_process};

/// Where the probes go into the libc, into musl's loader, and into the executable itself.
const FLAVORS: [&str; 3] = ["glibc", "musl", "musl-static"];

/// A victim with two threads that does nothing but allocate and free, for a fifth of a second at
/// each go byte.
fn busy_victim(flavor: &str) -> Victim {
    let mut victim = Victim::spawn_with(flavor, "pair", &["2", "0.2s", "5"]);
    round(&mut victim);
    assert_eq!(
        patched_code(victim.pid()),
        [],
        "there are probes before any"
    );
    victim
}

fn round(victim: &mut Victim) {
    victim.go();
    let line = victim.line();
    assert!(line.contains("\"ns_per_pair\""), "{line}");
}

/// The kernel may take the probes of a killed process out after its end was told. The victim's
/// rounds are the clock.
fn go_on_without_probes(mut victim: Victim) {
    let until = Instant::now() + LIMIT;
    while !patched_code(victim.pid()).is_empty() {
        assert!(
            Instant::now() < until,
            "probes stay in the code of the victim: {:?}",
            patched_code(victim.pid())
        );
        round(&mut victim);
    }
    round(&mut victim);
    victim.end_well();
}

/// Sends the signal in the middle of a round. Gives leakprobe's exit code, `None` when the signal
/// ended it.
fn signal_while_busy(flavor: &str, signal: Signal) -> Option<i32> {
    let mut victim = busy_victim(flavor);
    let leakprobe = Leakprobe::attach(victim.pid(), &[]);
    assert_ne!(
        patched_code(victim.pid()),
        [],
        "it records without any probe"
    );
    victim.go();
    leakprobe.signal(signal);
    let outcome = leakprobe.end();
    victim.line();
    go_on_without_probes(victim);
    if outcome.status.code().is_some() {
        let report = outcome.report();
        assert_eq!(report.schema, 1);
    }
    outcome.status.code()
}

#[test]
fn interrupted() {
    for flavor in FLAVORS {
        assert_eq!(signal_while_busy(flavor, Signal::INT), Some(0));
    }
}

#[test]
fn terminated() {
    for flavor in FLAVORS {
        assert_eq!(signal_while_busy(flavor, Signal::TERM), Some(0));
    }
}

#[test]
fn killed() {
    for flavor in FLAVORS {
        assert_eq!(signal_while_busy(flavor, Signal::KILL), None);
    }
}

/// Before it has placed anything, with the first probe in place, and while it takes them out.
#[test]
fn killed_on_the_way() {
    for flavor in FLAVORS {
        for phase in 0..3 {
            let mut victim = busy_victim(flavor);
            let pid = victim.pid();
            let leakprobe = Leakprobe::start(&["--pid", &pid.to_string(), "-o", "report.json"]);
            victim.go();
            match phase {
                0 => {}
                1 => wait_until("there is a probe", || patched(pid) > 0),
                _ => {
                    leakprobe.wait_until_recording();
                    let all = patched(pid);
                    leakprobe.signal(Signal::INT);
                    wait_until("a probe has gone", || patched(pid) < all);
                }
            }
            leakprobe.signal(Signal::KILL);
            leakprobe.end();
            victim.line();
            go_on_without_probes(victim);
        }
    }
}

/// With what looks after its probes, as when a container ends: what stays in the code then goes with the
/// next one's.
#[test]
fn killed_with_its_guardian() {
    let mut victim = busy_victim("glibc");
    let pid = victim.pid();
    let leakprobe = Leakprobe::attach(pid, &[]);
    let mut guardians = children(leakprobe.pid());
    guardians.retain(|&child| {
        let words = std::fs::read_to_string(format!("/proc/{child}/cmdline"));
        words.is_ok_and(|words| words.contains("probe-guardian"))
    });
    assert_eq!(guardians.len(), 1, "one looks after the probes");
    let all = patched(pid);
    leakprobe.signal(Signal::INT);
    wait_until("a probe has gone", || patched(pid) < all);
    kill_process(guardians[0], Signal::KILL).expect("it is there");
    leakprobe.signal(Signal::KILL);
    leakprobe.end();
    round(&mut victim);
    Leakprobe::attach(pid, &[]).interrupt().report();
    go_on_without_probes(victim);
}

fn children(parent: u32) -> Vec<Pid> {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let children = std::fs::read_to_string(path).expect("children of a process");
    let children = children.split_whitespace().map(|it| it.parse());
    let children = children.map(|it| it.ok().and_then(Pid::from_raw));
    children.map(|it| it.expect("a PID")).collect()
}

/// Bytes of code that are not as in the file.
fn patched(pid: u32) -> usize {
    patched_code(pid).iter().map(|(_, bytes)| bytes).sum()
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let until = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < until, "in vain: {what}");
        std::thread::yield_now();
    }
}

#[test]
fn ended_by_its_duration() {
    let mut victim = busy_victim("glibc");
    let leakprobe = Leakprobe::attach(victim.pid(), &["--duration", "100ms"]);
    victim.go();
    leakprobe.finish().report();
    victim.line();
    go_on_without_probes(victim);
}

#[test]
fn the_target_is_killed() {
    for flavor in FLAVORS {
        let mut victim = busy_victim(flavor);
        let leakprobe = Leakprobe::attach(victim.pid(), &[]);
        victim.go();
        victim.kill();
        let report = leakprobe.finish().report();
        assert_eq!(report.target.pid, victim.pid());
    }
}

/// A forked child has a copy of the target's code, in which there are breakpoints that are of no use.
/// It allocates all the time: some of them the kernel only removes when they are hit.
#[test]
fn a_forked_child_gets_rid_of_probes() {
    let mut victim = Victim::spawn_with("glibc", "family", &["busy"]);
    let leakprobe = Leakprobe::attach(victim.pid(), &[]);
    victim.go();
    let line = victim.line();
    let child = line.strip_prefix("busy ").map(str::parse);
    let child: u32 = child.expect("a busy child").expect("its PID");
    let all = patched(victim.pid());
    wait_until("some are gone from the child", || patched(child) < all);
    assert_eq!(
        patched(victim.pid()),
        all,
        "they have to stay in the target"
    );
    let report = leakprobe.interrupt().report();
    assert_eq!(report.evidence.verdict, "complete", "{:?}", report.evidence);
    victim.end_well();
}

/// Too few file descriptors for all it needs: it fails somewhere on the way, early or late.
#[test]
fn attaching_fails_halfway() {
    let victim = busy_victim("glibc");
    let pid = victim.pid().to_string();
    let mut failures = 0;
    for limit in [6, 10, 14, 18, 22, 26, 30, 36] {
        let leakprobe = Leakprobe::start_by(
            Command::new("sh")
                .args(["-c", r#"ulimit -n "$1"; shift; exec "$@""#, "sh"])
                .arg(limit.to_string())
                .arg(leakprobe_path())
                .args(["--pid", &pid, "-o", "report.json", "--duration", "1ms"]),
        );
        let outcome = leakprobe.end();
        let stderr = &outcome.stderr;
        match outcome.status.code() {
            Some(0) => {}
            Some(1) => {
                assert!(!stderr.contains("panicked"), "at {limit}: {stderr}");
                assert_eq!(outcome.files(), Vec::<String>::new(), "at {limit}");
                failures += 1;
            }
            other => panic!("with {limit} file descriptors it ended with {other:?}: {stderr}"),
        }
        assert_eq!(patched_code(victim.pid()), [], "at {limit}: {stderr}");
    }
    assert!(
        failures > 0,
        "no limit was too low: this test has become one of nothing"
    );
    go_on_without_probes(victim);
}

/// Who comes and goes leaves nothing behind that would make the next one wrong.
#[test]
fn attached_again_and_again() {
    let mut victim = Victim::spawn("glibc", "malloc");
    for _ in 0..3 {
        let report = Leakprobe::attach(victim.pid(), &[]).interrupt().report();
        assert_eq!(report.totals.allocated_count, 0);
        assert_eq!(patched_code(victim.pid()), []);
    }
    let leakprobe = Leakprobe::attach(victim.pid(), &[]);
    victim.go();
    let summary = victim.summary();
    assert_exact(&summary, &leakprobe.interrupt().report());
    victim.end_well();
}

#[test]
fn two_at_once() {
    let mut victim = Victim::spawn("musl", "realloc");
    let one = Leakprobe::attach(victim.pid(), &[]);
    let other = Leakprobe::attach(victim.pid(), &[]);
    victim.go();
    let summary = victim.summary();
    assert_exact(&summary, &one.interrupt().report());
    assert_exact(&summary, &other.interrupt().report());
    assert_eq!(patched_code(victim.pid()), []);
    victim.end_well();
}
