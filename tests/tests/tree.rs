//! Following a process: what it forks and executes has the probes from the start, nobody else has them,
//! and whatever happens to leakprobe, nothing stays: no breakpoint in any of them, no trace event.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Instant;

use leakprobe_tests::code::patched_code;
use leakprobe_tests::oracle::tracefs;
use leakprobe_tests::{LIMIT, Leakprobe, Outcome, Victim, leakprobe_path, victim_path};
use rustix::process::Signal;
use tempfile::TempDir;

/// A user without rights.
const NOBODY: u32 = 65534;

const FLAVORS: [&str; 3] = ["glibc", "musl", "musl-static"];

/// How many a family has, without the first.
const FAMILY_SIZE: usize = 5;

/// How many blocks each of them allocates.
const BLOCKS_OF_EACH: u64 = 20;

fn first_of_family() -> Victim {
    Victim::spawn("glibc", "family")
}

/// The PIDs of a family that was just made.
fn family(victim: &mut Victim) -> Vec<u32> {
    victim.go();
    let mut names = Vec::new();
    let pids = (0..FAMILY_SIZE).map(|_| {
        let line = victim.line();
        let (name, pid) = line.split_once(' ').expect("a name and a PID");
        names.push(name.to_owned());
        pid.parse().expect("a PID")
    });
    let pids = pids.collect();
    names.sort();
    assert_eq!(
        names,
        ["child", "exec", "exec_by_thread", "grandchild", "spawned"]
    );
    pids
}

fn follow(pid: u32, extra: &[&str]) -> Leakprobe {
    let pid = pid.to_string();
    Leakprobe::start_by(
        Command::new(leakprobe_path())
            .args(["--follow", "--pid", &pid, "-o", "report.json"])
            .args(extra),
    )
}

fn breakpoints(pid: u32) -> usize {
    patched_code(pid).iter().map(|(_, bytes)| bytes).sum()
}

/// Trace events of a leakprobe.
fn events(leakprobe: u32) -> usize {
    let list = tracefs::definitions();
    let owner = format!("_{leakprobe}_");
    let mut names = list.lines().filter_map(|line| line.split('/').next());
    names
        .by_ref()
        .filter(|group| group.contains(":leakprobe_") && group.contains(&owner))
        .count()
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < end, "in vain: {what}");
        std::thread::yield_now();
    }
}

/// Nothing is left of a leakprobe that has ended or is about to.
fn all_is_gone(leakprobe: u32, pids: &[u32]) {
    for &pid in pids {
        until("no probes in a process", || breakpoints(pid) == 0);
    }
    until("no trace events", || events(leakprobe) == 0);
}

#[test]
fn the_whole_family_has_the_probes_and_nobody_else() {
    FLAVORS.into_iter().for_each(family_and_nobody_else);
}

fn family_and_nobody_else(flavor: &str) {
    let mut victim = Victim::spawn(flavor, "family");
    let other = Victim::spawn(flavor, "family");
    let leakprobe = follow(victim.pid(), &[]);
    leakprobe.wait_until_recording();
    let all = breakpoints(victim.pid());
    assert!(all > 0 && events(leakprobe.pid()) > 0);
    let mut pids = family(&mut victim);
    let had_none = pids.iter().filter(|&&pid| comes_to(pid, all)).count() as u64;
    assert_eq!(breakpoints(other.pid()), 0);
    assert_eq!(breakpoints(std::process::id()), 0);
    pids.push(victim.pid());
    let pid = leakprobe.pid();
    let outcome = leakprobe.interrupt();
    assert!(told_gaps(&outcome) >= had_none, "{}", outcome.stderr);
    for &pid in &pids {
        assert_eq!(breakpoints(pid), 0, "leakprobe has ended");
    }
    assert_eq!(events(pid), 0, "leakprobe has ended");
    victim.end_well();
    other.end_well();
}

/// What is there already when leakprobe comes is not followed, what comes from it is nobody's either.
#[test]
fn a_child_from_before_has_no_probes() {
    let mut victim = first_of_family();
    let before = family(&mut victim);
    let leakprobe = follow(victim.pid(), &[]);
    leakprobe.wait_until_recording();
    for pid in before {
        assert_eq!(breakpoints(pid), 0);
    }
    leakprobe.interrupt();
    victim.end_well();
}

#[test]
fn killed_while_it_records() {
    let mut victim = first_of_family();
    let leakprobe = follow(victim.pid(), &[]);
    leakprobe.wait_until_recording();
    let mut pids = family(&mut victim);
    pids.push(victim.pid());
    leakprobe.signal(Signal::KILL);
    let pid = leakprobe.pid();
    all_is_gone(pid, &pids);
    leakprobe.end();
    pids = family(&mut victim);
    assert!(pids.iter().all(|&pid| breakpoints(pid) == 0));
    victim.end_well();
}

#[test]
fn killed_while_it_attaches() {
    for phase in 0..3 {
        let mut victim = first_of_family();
        let leakprobe = follow(victim.pid(), &[]);
        let pid = leakprobe.pid();
        match phase {
            0 => until("a trace event", || events(pid) > 0),
            1 => until("a breakpoint", || breakpoints(victim.pid()) > 0),
            _ => until("some breakpoints", || breakpoints(victim.pid()) > 4),
        }
        leakprobe.signal(Signal::KILL);
        let mut pids = family(&mut victim);
        pids.push(victim.pid());
        all_is_gone(pid, &pids);
        leakprobe.end();
        victim.end_well();
    }
}

#[test]
fn killed_while_it_detaches() {
    for phase in 0..2 {
        let mut victim = first_of_family();
        let leakprobe = follow(victim.pid(), &[]);
        leakprobe.wait_until_recording();
        let mut pids = family(&mut victim);
        pids.push(victim.pid());
        let pid = leakprobe.pid();
        let all = events(pid);
        leakprobe.signal(Signal::INT);
        match phase {
            0 => until("a process without", || {
                pids.iter().any(|&pid| breakpoints(pid) == 0)
            }),
            _ => until("fewer trace events", || events(pid) < all),
        }
        leakprobe.signal(Signal::KILL);
        all_is_gone(pid, &pids);
        leakprobe.end();
        victim.end_well();
    }
}

/// The kernel keeps the perf events of siblings in lists which it exchanges when it switches from one to
/// the other; none must lose its probes when another ends.
#[test]
fn siblings_come_and_go() {
    let mut victim = Victim::spawn_with("glibc", "family", &["siblings"]);
    let leakprobe = follow(victim.pid(), &["--no-guard"]);
    leakprobe.wait_until_recording();
    let all = breakpoints(victim.pid());
    victim.go();
    let mut had_none = 0;
    for _ in 0..3 {
        let line = victim.line();
        let sibling = line.strip_prefix("sibling ").map(str::parse);
        let sibling = sibling.expect("a sibling").expect("its PID");
        had_none += u64::from(comes_to(sibling, all));
    }
    assert_eq!(breakpoints(victim.pid()), all);
    let outcome = leakprobe.interrupt();
    assert!(told_gaps(&outcome) >= had_none, "{}", outcome.stderr);
    victim.end_well();
}

/// A process has all probes. Older kernels cannot be told to leave their lists alone: what they do to one
/// before leakprobe knows of it cannot be helped, and leakprobe gives it the probes back. `true` if it did.
fn comes_to(pid: u32, all: usize) -> bool {
    if !exchanges_lists() {
        assert_eq!(breakpoints(pid), all, "{:?}", patched_code(pid));
    }
    let had_none = breakpoints(pid) == 0;
    until("all probes in a process", || breakpoints(pid) == all);
    had_none
}

/// How many processes are said to have been without probes for a time.
fn told_gaps(outcome: &Outcome) -> u64 {
    let losses = outcome.report().evidence.losses;
    losses.get("fork_gap").copied().unwrap_or(0)
}

/// Forks at any time while leakprobe attaches, detaches and is killed: no child ever dies of it.
#[test]
fn a_storm_of_forks_is_not_harmed() {
    let mut victim = Victim::spawn_with("glibc", "family", &["storm"]);
    for signal in [Signal::INT, Signal::KILL, Signal::INT, Signal::KILL] {
        victim.go();
        let leakprobe = follow(victim.pid(), &["--no-guard"]);
        leakprobe.wait_until_recording();
        leakprobe.signal(signal);
        let pid = leakprobe.pid();
        leakprobe.end();
        all_is_gone(pid, &[victim.pid()]);
        victim.go();
        let line = victim.line();
        let (children, failures) = line.split_once(' ').expect("two numbers");
        assert_ne!(children, "0");
        assert_eq!(failures, "0", "of {children} children");
    }
    victim.end_well();
}

/// The kernel takes its perf events from a program that its file gives more rights: leakprobe sees that, and
/// attaches to it. It may do so before the first allocation; if not, it counts what was missed.
#[test]
fn a_program_with_more_rights_is_attached_to_anew() {
    let folder = TempDir::new().expect("failed to make a temporary folder");
    let readable = Permissions::from_mode(0o755);
    fs::set_permissions(folder.path(), readable).expect("failed to set permissions");
    let program = folder.path().join("family");
    fs::copy(victim_path("glibc", "family"), &program).expect("failed to copy the victim");
    let setuid = Permissions::from_mode(0o4755);
    fs::set_permissions(&program, setuid).expect("failed to set permissions");
    let mut victim = Victim::start(Command::new(&program).uid(NOBODY));
    let leakprobe = follow(victim.pid(), &[]);
    leakprobe.wait_until_recording();
    let all = breakpoints(victim.pid());
    let pids = family(&mut victim);
    for &pid in &pids {
        until("probes in all of the family", || breakpoints(pid) == all);
    }
    let report = leakprobe.interrupt().report();
    let seen = |pid: &u32| {
        let mut processes = report.processes.iter();
        let process = processes.find(|it| it.pid == *pid && !it.exec);
        process.map_or(0, |it| it.totals.allocated_count)
    };
    let missed = pids.iter().filter(|pid| seen(pid) != BLOCKS_OF_EACH);
    let missed = missed.count() as u64;
    let losses = report.evidence.losses;
    let told = ["exec_gap", "fork_gap"]
        .iter()
        .filter_map(|it| losses.get(*it));
    let told: u64 = told.sum();
    assert!(
        told >= missed,
        "{missed} of {told}: {losses:?}, {:?}",
        report.processes
    );
    victim.end_well();
}

/// Whether this kernel does so, whatever it is told: before Linux 6.12.
fn exchanges_lists() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("a release");
    let mut numbers = release.split('.').map(|it| it.parse().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    (next(), next()) < (6, 12)
}

/// Its guardian is killed as well: the next leakprobe removes what is left.
#[test]
fn the_next_one_sweeps() {
    let victim = first_of_family();
    let leakprobe = follow(victim.pid(), &[]);
    leakprobe.wait_until_recording();
    let pid = leakprobe.pid();
    let guardian = children(pid).into_iter().find(|&child| {
        let words = fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&words).contains("guardian")
    });
    let guardian = guardian.and_then(|pid| rustix::process::Pid::from_raw(pid as i32));
    rustix::process::kill_process(guardian.expect("a guardian"), Signal::KILL)
        .expect("failed to kill the guardian");
    leakprobe.signal(Signal::KILL);
    leakprobe.end();
    until("no probes in the victim", || breakpoints(victim.pid()) == 0);
    assert!(events(pid) > 0, "somebody else has removed them");
    let next = follow(victim.pid(), &[]);
    next.wait_until_recording();
    assert_eq!(events(pid), 0);
    next.interrupt();
    victim.end_well();
}

fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("its threads");
    tasks
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok())
        .flat_map(|list| {
            let pids = list
                .split_whitespace()
                .map(|pid| pid.parse().expect("a PID"));
            pids.collect::<Vec<u32>>()
        })
        .collect()
}
