//! leakprobe in a container of its own, with no more rights than it needs, and targets in namespaces
//! within namespaces: what it says must be as exact as anywhere.

use std::process::Command;
use std::time::Instant;

use leakprobe_tests::code::patched_code;
use leakprobe_tests::container::{Boxed, Guest, only_child, pids};
use leakprobe_tests::{LIMIT, Leakprobe, Report, Summary, Victim, assert_exact, victim_path};
use rustix::process::Signal;

/// What docs/containers.md says is enough on kernels with uprobe_multi.
const FEWEST: &[&str] = &["CAP_BPF", "CAP_PERFMON", "CAP_SYS_PTRACE"];

/// What is enough on all kernels, and for a Docker that does not know CAP_BPF. No root to write to, no
/// `/tmp`; and Docker's seccomp filter is on, as in all containers of these tests.
const ENOUGH: &[&str] = &[
    "--cap-drop=ALL",
    "--cap-add=SYS_ADMIN",
    "--cap-add=SYS_PTRACE",
    "--read-only",
];

/// A command that puts its child into another PID namespace, in a container with this option.
const NESTED: &[&str] = &["/bin/busybox", "unshare", "--pid", "--fork"];
const MAY_NEST: &[&str] = &["--cap-add=SYS_ADMIN"];

fn enough(more: &[&'static str]) -> Vec<&'static str> {
    [ENOUGH, more].concat()
}

/// What the victim did and what leakprobe says, of the same.
fn assert_same(summary: &Summary, report: &Report, (pid, ns_pid): (u32, u32)) {
    assert_exact(summary, report);
    assert_eq!((report.target.pid, report.target.ns_pid), (pid, ns_pid));
}

/// A container that shares the PID namespace of another one.
#[test]
fn a_sidecar() {
    let mut victim = Guest::start(&[], &[], "musl/calloc");
    let shared = victim.share_pids();
    let leakprobe = Boxed::attach(&[ENOUGH, &[&shared]].concat(), &["--pid", "1"]);
    let summary = victim.go();
    let report = leakprobe.interrupt().report();
    assert_same(&summary, &report, (1, 1));
    assert!(report.overhead.is_some());
    victim.end_well();
}

#[test]
fn a_sidecar_with_the_fewest_capabilities() {
    for victim in ["musl/malloc", "musl-static/realloc", "musl/threads"] {
        let mut victim = Guest::start(&[], &[], victim);
        let leakprobe = Boxed::attach_with(FEWEST, victim.pid, &["--pid", "1", "--no-guard"]);
        let summary = victim.go();
        let report = leakprobe.interrupt().report();
        assert_same(&summary, &report, (1, 1));
        assert!(report.overhead.is_none());
        let notes = report.evidence.notes.join("; ");
        assert!(notes.contains("CAP_SYS_ADMIN"), "{notes}");
        victim.end_well();
    }
}

#[test]
fn with_the_pids_of_the_host() {
    let mut victim = Guest::start(&[], &[], "musl/calloc");
    let pid = victim.pid.to_string();
    let leakprobe = Boxed::attach(&enough(&["--pid=host"]), &["--pid", &pid]);
    let summary = victim.go();
    let report = leakprobe.interrupt().report();
    assert_same(&summary, &report, (victim.pid, 1));
    victim.end_well();
}

/// By the time that it is told, Docker may have removed the container with its cgroup.
#[test]
fn killed_for_want_of_memory() {
    const LIMIT: u64 = 100 << 20;
    for victim in ["musl/orders", "musl-static/orders"] {
        let options = ["--memory=100m", "--memory-swap=100m"];
        let mut victim = Guest::start(&options, &[], victim);
        let dead = ["--on-death", "dead-%e.json", "-o", "report.json"];
        let leakprobe = Leakprobe::start(&[&["--container", victim.name()], &dead[..]].concat());
        leakprobe.wait_until_recording();
        victim.order(b'o');
        let outcome = leakprobe.finish();
        let report = outcome.report_in("dead-orders.json");
        let death = report.death.expect("nothing is said of its death");
        assert_eq!((death.pid, death.cause.as_str()), (victim.pid, "oom_kill"));
        assert_eq!(death.cgroup_limit_bytes, Some(LIMIT));
        let usage = death.cgroup_usage_bytes.expect("its usage is not known");
        assert!(usage > LIMIT - (40 << 20) && usage <= LIMIT, "{usage}");
        let mut large = report
            .stacks
            .iter()
            .filter(|it| it.names()[0] == "leak_large");
        let large = large.next().expect("its stack is known").totals;
        assert!(large.live_count >= 2, "{large:?}");
        assert_eq!(large.live_bytes, large.live_count * (32 << 20));
        victim.end();
    }
}

/// With the host's PIDs leakprobe outlives the container's first process; in its PID namespace the kernel
/// kills all.
#[test]
fn the_end_of_process_1() {
    let mut victim = Guest::start(&[], &[], "musl/exit");
    let pid = victim.pid.to_string();
    let leakprobe = Boxed::attach(&enough(&["--pid=host"]), &["--pid", &pid]);
    let summary = victim.go();
    let report = leakprobe.end().report();
    assert_same(&summary, &report, (victim.pid, 1));
    victim.end_well();

    let mut victim = Guest::start(&[], &[], "musl/exit");
    let shared = victim.share_pids();
    let leakprobe = Boxed::attach(&[ENOUGH, &[&shared]].concat(), &["--pid", "1"]);
    victim.go();
    let outcome = leakprobe.end();
    assert_eq!(outcome.status.code(), Some(128 + Signal::KILL.as_raw()));
    assert_eq!(outcome.files(), Vec::<String>::new());
    let stderr = &outcome.stderr;
    assert!(stderr.contains("when process 1 ends"), "{stderr}");
    victim.end_well();
}

/// The PID namespace is the host's, and its procfs is somewhere else.
#[test]
fn a_procfs_somewhere_else() {
    let mut victim = Guest::start(&[], &[], "musl/free");
    let pid = victim.pid.to_string();
    let options = enough(&["--pid=host", "--volume=/proc:/host/proc:ro"]);
    let args = ["--proc", "/host/proc", "--pid", &pid];
    let leakprobe = Boxed::attach(&options, &args);
    let summary = victim.go();
    let report = leakprobe.interrupt().report();
    assert_same(&summary, &report, (victim.pid, 1));
    victim.end_well();
}

/// Nobody gets into a PID namespace above his own, whatever he may do.
#[test]
fn a_procfs_above_is_refused() {
    let victim = Guest::start(&[], &[], "musl/nothing");
    let pid = victim.pid.to_string();
    let options = enough(&["--volume=/proc:/host/proc:ro"]);
    let args = ["--proc", "/host/proc", "--pid", &pid];
    for args in [&args[..], &[&["doctor"], &args[..]].concat()] {
        let outcome = Boxed::run(&options, args);
        assert_eq!(outcome.status.code(), Some(1), "{}", outcome.stderr);
        for part in ["/host/proc", "above leakprobe's own", "--pid=host"] {
            assert!(outcome.stderr.contains(part), "{part}: {}", outcome.stderr);
        }
        assert_eq!(outcome.stderr.lines().count(), 1, "{}", outcome.stderr);
    }
    victim.end_well();
}

/// The PIDs of a container are good enough where its procfs is named.
#[test]
fn a_procfs_below_is_entered() {
    let mut victim = Guest::start(&[], &[], "musl/malloc");
    let procfs = format!("/proc/{}/root/proc", victim.pid);
    let leakprobe = Leakprobe::attach(1, &["--proc", &procfs]);
    let summary = victim.go();
    let report = leakprobe.interrupt().report();
    assert_same(&summary, &report, (1, 1));

    let doctor = Leakprobe::start(&["doctor", "--pid", "1", "--proc", &procfs]).end();
    assert_eq!(doctor.status.code(), Some(0), "{}", doctor.stdout);
    // The status is that of the leakprobe within.
    let none = Leakprobe::start(&["--pid", "77", "--proc", &procfs]).end();
    assert_eq!(none.status.code(), Some(1), "{}", none.stderr);
    assert!(none.stderr.contains("no process 77"), "{}", none.stderr);
    victim.end_well();
}

/// The leakprobe that does the work does not outlive the one that was started.
#[test]
fn killed_in_both_namespaces() {
    let mut victim = Guest::start(&[], &[], "musl/malloc");
    let procfs = format!("/proc/{}/root/proc", victim.pid);
    let leakprobe = Leakprobe::attach(1, &["--proc", &procfs]);
    let inner = only_child(leakprobe.pid());
    assert_eq!(pids(inner).len(), 2, "it is in the container's namespace");
    assert_ne!(patched_code(victim.pid), []);
    leakprobe.signal(Signal::KILL);
    assert_eq!(leakprobe.end().status.code(), None);
    let until = Instant::now() + LIMIT;
    while !patched_code(victim.pid).is_empty() {
        assert!(Instant::now() < until, "probes stay in the victim");
        std::thread::yield_now();
    }
    victim.go();
    victim.end_well();
}

/// On this machine, of a process in a PID namespace within a container's.
#[test]
fn a_pid_namespace_within_a_container() {
    for name in ["musl/malloc", "musl-static/nested", "musl/signals"] {
        let mut victim = Guest::start(MAY_NEST, NESTED, name);
        assert_eq!(victim.pids.len(), 3);
        let leakprobe = Leakprobe::attach(victim.pid, &["--no-guard"]);
        let summary = victim.go();
        let report = leakprobe.interrupt().report();
        assert_same(&summary, &report, (victim.pid, 1));
        victim.end_well();
    }
}

/// In a PID namespace of its own, of a process in one below that.
#[test]
fn a_pid_namespace_below_our_own() {
    for name in ["musl/malloc", "musl-static/nested", "musl/signals"] {
        let mut victim = Guest::start(MAY_NEST, NESTED, name);
        let shared = victim.share_pids();
        let options = [ENOUGH, &[&shared]].concat();
        let seen = victim.pids[1];
        let leakprobe = Boxed::attach(&options, &["--pid", &seen.to_string(), "--no-guard"]);
        let summary = victim.go();
        let report = leakprobe.interrupt().report();
        assert_same(&summary, &report, (seen, 1));
        victim.end_well();
    }
}

/// Children have PIDs in the sidecar's namespace, too.
#[test]
fn a_sidecar_that_follows() {
    let mut victim = Guest::start(&[], &[], "musl/malloc");
    let shared = victim.share_pids();
    let options = [ENOUGH, &[&shared]].concat();
    let leakprobe = Boxed::attach(&options, &["--pid", "1", "--follow"]);
    let summary = victim.go();
    let report = leakprobe.interrupt().report();
    assert_same(&summary, &report, (1, 1));
    victim.end_well();
}

/// Execs are followed by the process, whose PID is another one in each namespace.
#[test]
fn an_exec_below_our_own_pid_namespace() {
    let mut victim = Guest::start(MAY_NEST, NESTED, "musl/exec");
    let leakprobe = Leakprobe::attach(victim.pid, &[]);
    victim.step();
    leakprobe.wait_until_recording();
    let summary = victim.go();
    let report = leakprobe.interrupt().report();
    assert_same(&summary, &report, (victim.pid, 1));
    victim.end_well();
}

/// A user namespace, a mount namespace and a PID namespace, of a process that is root in there alone.
#[test]
fn namespaces_without_a_container() {
    let around = ["--user", "--map-root-user", "--mount", "--pid", "--fork"];
    for flavor in ["glibc", "musl"] {
        let mut unshare = Command::new("unshare");
        unshare.args(around).arg("--kill-child");
        let mut victim = Victim::start_elsewhere(unshare.arg(victim_path(flavor, "malloc")));
        let pid = only_child(victim.pid());
        let leakprobe = Leakprobe::attach(pid, &[]);
        victim.go();
        let summary = victim.summary();
        let report = leakprobe.interrupt().report();
        assert_same(&summary, &report, (pid, 1));
        victim.end_well();
    }
}
