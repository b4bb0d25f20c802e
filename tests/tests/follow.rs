//! `--follow`: what a process forks is recorded with it, from the first allocation on, each for itself and
//! all together; what it executes, and what it leaves when it ends.

use leakprobe_tests::report::{ProcessReport, Report};
use leakprobe_tests::{Leakprobe, Victim};

/// What `workers` allocates before it forks.
const BEFORE: (u64, u64) = (40 * 111, 40);

/// What a worker says that it did.
#[derive(Debug)]
struct Said {
    pid: u32,
    live: (u64, u64),
    allocated: (u64, u64),
    inherited_freed: u64,
}

fn said(victim: &mut Victim, workers: usize) -> Vec<Said> {
    (0..workers)
        .map(|_| {
            let line = victim.line();
            let numbers: Vec<u64> = line
                .strip_prefix("worker ")
                .unwrap_or_else(|| panic!("a worker's line, not {line}"))
                .split(' ')
                .map(|number| number.parse().expect("a number"))
                .collect();
            let [pid, bytes, count, allocated, allocated_count, freed] = numbers[..] else {
                panic!("six numbers, not {line}");
            };
            Said {
                pid: pid as u32,
                live: (bytes, count),
                allocated: (allocated, allocated_count),
                inherited_freed: freed,
            }
        })
        .collect()
}

fn process(report: &Report, pid: u32) -> &ProcessReport {
    let mut found = report
        .processes
        .iter()
        .filter(|it| it.pid == pid && !it.exec);
    let process = found
        .next()
        .unwrap_or_else(|| panic!("no process {pid} in {:?}", report.processes));
    assert!(
        found.next().is_none(),
        "{pid} twice in {:?}",
        report.processes
    );
    process
}

/// The report has each worker, and of each exactly what it said, also by stack, and all in the sums.
fn assert_workers(report: &Report, victim: u32, workers: &[Said]) {
    assert_eq!(report.evidence.verdict, "complete", "{:?}", report.evidence);
    let mut live = BEFORE;
    for said in workers {
        let process = process(report, said.pid);
        assert_eq!(process.parent, Some(victim));
        let found = (process.totals.live_bytes, process.totals.live_count);
        assert_eq!(found, said.live, "live in {said:?}: {process:?}");
        let found = (
            process.totals.allocated_bytes,
            process.totals.allocated_count,
        );
        assert_eq!(found, said.allocated, "allocated in {said:?}: {process:?}");
        let inherited = (process.inherited_bytes, process.inherited_count);
        assert_eq!(inherited, BEFORE, "inherited: {process:?}");
        assert_eq!(
            process.inherited_freed_count, said.inherited_freed,
            "{process:?}"
        );
        let in_stack: Vec<_> = report
            .stacks
            .iter()
            .flat_map(|stack| stack.processes.iter().map(move |share| (stack, share)))
            .filter(|(_, share)| share.pid == said.pid)
            .collect();
        if report.processes.len() <= 20 {
            let [(stack, share)] = in_stack[..] else {
                panic!("one stack of {said:?}, not {in_stack:?}");
            };
            assert_eq!((share.live_bytes, share.live_count), said.live);
            let names: Vec<_> = stack
                .frames
                .iter()
                .filter_map(|it| it.function.as_deref())
                .collect();
            assert_eq!(names[..3], ["leak_malloc", "work", "worker"]);
        }
        live = (live.0 + said.live.0, live.1 + said.live.1);
    }
    assert_eq!((report.totals.live_bytes, report.totals.live_count), live);
}

#[test]
fn workers_are_recorded_from_their_first_allocation() {
    for flavor in ["glibc", "musl", "glibc-static", "musl-static"] {
        let mut victim = Victim::spawn_with(flavor, "workers", &["4"]);
        let leakprobe = Leakprobe::attach(victim.pid(), &["--follow"]);
        victim.go();
        let workers = said(&mut victim, 4);
        victim.summary();
        let report = leakprobe.interrupt().report();
        assert_workers(&report, victim.pid(), &workers);
        assert!(report.processes.iter().all(|it| it.until_ns.is_none()));
        victim.end_well();
    }
}

#[test]
fn fifty_workers_at_once() {
    let mut victim = Victim::spawn_with("glibc", "workers", &["50"]);
    let leakprobe = Leakprobe::attach(victim.pid(), &["--follow"]);
    victim.go();
    let workers = said(&mut victim, 50);
    victim.summary();
    let report = leakprobe.interrupt().report();
    assert_workers(&report, victim.pid(), &workers);
    victim.end_well();
}

/// What they leave is in the report, although they are gone.
#[test]
fn workers_that_come_and_go() {
    for how in ["brief", "kill"] {
        let mut victim = Victim::spawn_with("glibc", "workers", &["10", how]);
        let leakprobe = Leakprobe::attach(victim.pid(), &["--follow"]);
        victim.go();
        let workers = said(&mut victim, 10);
        victim.summary();
        let report = leakprobe.interrupt().report();
        assert_workers(&report, victim.pid(), &workers);
        for said in &workers {
            let process = process(&report, said.pid);
            assert!(process.until_ns.is_some(), "{process:?}");
            let cause = (process.cause.as_deref(), process.signal);
            let killed = (Some("signal"), Some(9));
            assert_eq!(
                cause,
                if how == "kill" {
                    killed
                } else {
                    (Some("exit"), None)
                }
            );
        }
        victim.end_well();
    }
}

/// As many as a shell script or a test suite has; nothing of them is lost, though not all have a line of
/// their own.
#[test]
fn hundreds_of_brief_workers() {
    const WORKERS: usize = 1500;
    let mut victim = Victim::spawn_with("glibc", "workers", &[&WORKERS.to_string(), "brief"]);
    let leakprobe = Leakprobe::attach(victim.pid(), &["--follow", "--no-guard"]);
    victim.go();
    let workers = said(&mut victim, WORKERS);
    victim.summary();
    let report = leakprobe.interrupt().report();
    assert_eq!(report.evidence.verdict, "complete", "{:?}", report.evidence);
    let sum = |of: fn(&Said) -> u64| workers.iter().map(of).sum::<u64>();
    let totals = &report.totals;
    assert_eq!(totals.live_bytes, BEFORE.0 + sum(|it| it.live.0));
    assert_eq!(totals.live_count, BEFORE.1 + sum(|it| it.live.1));
    assert_eq!(totals.allocated_bytes, BEFORE.0 + sum(|it| it.allocated.0));
    assert_eq!(totals.allocated_count, BEFORE.1 + sum(|it| it.allocated.1));
    victim.end_well();
}

/// What another program allocates before `main` is recorded as well.
#[test]
fn workers_that_execute_a_program() {
    let mut victim = Victim::spawn_with("musl", "workers", &["5", "exec"]);
    let leakprobe = Leakprobe::attach(victim.pid(), &["--follow"]);
    victim.go();
    let workers = said(&mut victim, 5);
    victim.summary();
    let report = leakprobe.interrupt().report();
    assert_eq!(report.evidence.verdict, "complete", "{:?}", report.evidence);
    for said in &workers {
        let process = process(&report, said.pid);
        assert_eq!(
            (process.totals.live_bytes, process.totals.live_count),
            said.live
        );
        let forked = report
            .processes
            .iter()
            .find(|it| it.pid == said.pid && it.exec);
        let forked = forked.expect("the process before its exec");
        assert_eq!(forked.parent, Some(victim.pid()));
        assert_eq!((forked.inherited_bytes, forked.inherited_count), BEFORE);
    }
    victim.end_well();
}

/// Several processes that have nothing to do with one another.
#[test]
fn two_processes_without_following() {
    let mut first = Victim::spawn("glibc", "malloc");
    let mut second = Victim::spawn("musl", "malloc");
    let pid = second.pid().to_string();
    let leakprobe = Leakprobe::attach(first.pid(), &["--pid", &pid, "--no-guard"]);
    let mut all = 0;
    for victim in [&mut first, &mut second] {
        victim.go();
        let summary = victim.summary();
        all += summary.allocated_bytes;
    }
    let report = leakprobe.interrupt().report();
    assert_eq!(report.evidence.verdict, "complete", "{:?}", report.evidence);
    assert_eq!(report.totals.allocated_bytes, all);
    let each = [first.pid(), second.pid()].map(|pid| process(&report, pid).totals.allocated_bytes);
    assert_eq!(each.iter().sum::<u64>(), all);
    assert!(each.iter().all(|bytes| *bytes > 0));
    first.end_well();
    second.end_well();
}

/// From glibc to musl, whose file nobody has probed before.
#[test]
fn workers_that_execute_a_program_with_another_allocator() {
    let musl = leakprobe_tests::victim_path("musl", "workers");
    let arguments = ["1", "exec", musl.to_str().expect("UTF-8")];
    let mut victim = Victim::spawn_with("glibc", "workers", &arguments);
    let leakprobe = Leakprobe::attach(victim.pid(), &["--follow"]);
    victim.go();
    let workers = said(&mut victim, 1);
    victim.summary();
    let report = leakprobe.interrupt().report();
    // It ends within milliseconds, before all is probed: that something is missed is said.
    let found = process(&report, workers[0].pid).totals.allocated_bytes;
    assert!(found < workers[0].allocated.0, "{found}");
    assert!(
        report.evidence.losses.contains_key("exec_gap"),
        "{:?}",
        report.evidence
    );
    assert_eq!(report.evidence.verdict, "partial");
    victim.end_well();
}
