//! What a process died of is in the report, and in that of `--on-death`.

use leakprobe_tests::cgroup::Group;
use leakprobe_tests::report::Death;
use leakprobe_tests::{Leakprobe, Outcome, Victim, assert_exact};

const MIB: u64 = 1 << 20;

/// What the cgroups of these tests may use.
const LIMIT: u64 = 100 * MIB;

fn victim(flavor: &str) -> Victim {
    Victim::spawn(flavor, "orders")
}

/// What becomes of a victim that is given these orders while it is recorded, and what was said of it.
fn die(victim: &mut Victim, orders: &[u8]) -> (Outcome, Death) {
    let options = ["--on-death", "%e-%p-%t.json", "--keep", "3"];
    let leakprobe = Leakprobe::attach(victim.pid(), &options);
    victim.order(b"g");
    let summary = victim.summary();
    match orders {
        b"" => victim.kill(),
        orders => victim.order(orders),
    }
    let outcome = leakprobe.finish();
    let report = outcome.report();
    let files = outcome.files();
    assert_eq!(files.len(), 2, "{files:?}");
    let of_death = files.iter().find(|name| name.starts_with("orders-"));
    let of_death = of_death.unwrap_or_else(|| panic!("no file of the death: {files:?}"));
    let (pid, time) = of_death["orders-".len()..]
        .split_once('-')
        .expect("no time");
    assert_eq!(pid, victim.pid().to_string());
    assert_eq!((time.len(), &time[8..9], &time[15..]), (21, "T", "Z.json"));
    let text = |name: &str| outcome.file(name);
    assert_eq!(text(of_death), text("report.json"));
    if orders != b"o" {
        assert_exact(&summary, &report);
    }
    let death = report.death.expect("nothing is said of its death");
    assert_eq!(death.pid, victim.pid());
    assert!(death.at_ns > 0 && death.at_ns <= report.duration_ns);
    (outcome, death)
}

#[test]
fn an_exit_is_told() {
    let mut victim = victim("glibc");
    let (outcome, death) = die(&mut victim, b"e");
    assert_eq!((death.cause.as_str(), death.exit_status), ("exit", Some(3)));
    assert!(
        outcome.stdout.contains(": exit status 3\n"),
        "{}",
        outcome.stdout
    );
    assert_eq!(victim.end().code(), Some(3));
}

#[test]
fn a_crash_is_told() {
    let mut victim = victim("musl");
    let (outcome, death) = die(&mut victim, b"s");
    assert_eq!(death.cause, "signal");
    assert_eq!(
        (death.signal, death.signal_name.as_deref()),
        (Some(11), Some("SIGSEGV"))
    );
    assert!(
        outcome.stdout.contains(": crashed: SIGSEGV"),
        "{}",
        outcome.stdout
    );
    victim.end();
}

#[test]
fn a_kill_is_told() {
    let mut victim = victim("glibc");
    let (outcome, death) = die(&mut victim, b"");
    assert_eq!((death.cause.as_str(), death.signal), ("signal", Some(9)));
    assert_eq!(death.core_dumped, Some(false));
    assert!(
        outcome.stdout.contains(": killed by SIGKILL\n"),
        "{}",
        outcome.stdout
    );
    victim.end();
}

#[test]
fn the_oom_killer_is_told() {
    for flavor in ["glibc", "musl"] {
        let cgroup = Group::of_memory(Some(LIMIT));
        let mut victim = victim(flavor);
        cgroup.add(victim.pid());
        let (outcome, death) = die(&mut victim, b"o");
        assert_out_of_memory(&death);
        let text = "killed by the OOM killer: its cgroup used 100.0 MiB of 100 MiB";
        assert!(outcome.stdout.contains(text), "{}", outcome.stdout);
        let large: u64 = outcome
            .report()
            .stacks
            .iter()
            .filter(|stack| stack.names()[0] == "leak_large")
            .map(|stack| stack.totals.live_count)
            .sum();
        assert!(large >= 3, "{large} large blocks");
        victim.end();
    }
}

fn assert_out_of_memory(death: &Death) {
    assert_eq!(death.cause, "oom_kill");
    assert_eq!(death.cgroup_limit_bytes, Some(LIMIT));
    // Linux tells the peak of a cgroup of version 2 since 5.19.
    let usage = death.cgroup_usage_bytes.expect("its usage is not known");
    assert!(usage > LIMIT - 4 * MIB && usage <= LIMIT + MIB, "{usage}");
}

/// Another process of the cgroup was chosen just now; this one was killed by somebody else.
#[test]
fn a_kill_beside_an_oom_kill_is_a_kill() {
    let cgroup = Group::of_memory(Some(LIMIT));
    let (mut other, victim) = (victim("glibc"), victim("glibc"));
    cgroup.add(other.pid());
    cgroup.add(victim.pid());
    let leakprobe = Leakprobe::attach(victim.pid(), &[]);
    other.order(b"o");
    other.end();
    victim.kill();
    let death = leakprobe.finish().report().death;
    assert_eq!(death.expect("nothing is said of its death").cause, "signal");
    victim.end();
}

/// Which one of two that are recorded the OOM killer chose; they are in cgroups with different limits.
#[test]
fn the_one_that_was_chosen() {
    let [limited, spacious] = [LIMIT, 4 * LIMIT].map(|limit| Group::of_memory(Some(limit)));
    let mut victims = [(); 3].map(|()| victim("glibc"));
    limited.add(victims[0].pid());
    limited.add(victims[1].pid());
    spacious.add(victims[2].pid());
    let pids = [0, 1, 2].map(|number: usize| victims[number].pid().to_string());
    let mut arguments = vec!["-o", "report.json"];
    arguments.extend(pids.iter().flat_map(|pid| ["--pid", pid]));
    let leakprobe = Leakprobe::start(&arguments);
    leakprobe.wait_until_recording();
    victims[1].order(b"o");
    leakprobe.wait_until_it_says(&format!("process {} ", pids[1]));
    victims[0].kill();
    victims[2].kill();
    let report = leakprobe.finish().report();
    let cause = |pid: &String| {
        let mut processes = report.processes.iter();
        let process = processes.find(|it| it.pid.to_string() == *pid);
        process.and_then(|it| it.cause.clone())
    };
    let expected = ["signal", "oom_kill", "signal"].map(|it| Some(it.to_owned()));
    assert_eq!(
        [0, 1, 2].map(|number: usize| cause(&pids[number])),
        expected
    );
    for victim in victims {
        victim.end();
    }
}

/// One of many that is killed has its report at once; the first of them, at the end.
#[test]
fn a_worker_is_killed() {
    let mut victim = Victim::spawn_with("glibc", "workers", &["2", "kill"]);
    let options = ["--follow", "--on-death", "dead-%e-%p.json"];
    let leakprobe = Leakprobe::attach(victim.pid(), &options);
    victim.go();
    let worker = victim.line();
    let worker = worker.split(' ').nth(1).expect("no PID").to_string();
    let name = format!("dead-workers-{worker}.json");
    leakprobe.wait_until_it_says(&format!("wrote {name}"));
    let report = leakprobe.report(&name);
    let death = report.death.expect("nothing is said of its death");
    assert_eq!(death.pid.to_string(), worker);
    assert_eq!((death.cause.as_str(), death.signal), ("signal", Some(9)));
    let killed = report.processes.iter().find(|it| it.pid == death.pid);
    let killed = killed.expect("it is not in the list");
    assert_eq!(killed.cause.as_deref(), Some("signal"));
    assert_eq!(
        (killed.totals.live_bytes, killed.totals.live_count),
        (1000, 1)
    );
    let pid = victim.pid();
    victim.line();
    victim.summary();
    victim.end_well();
    let outcome = leakprobe.finish();
    let report = outcome.report_in(&format!("dead-workers-{pid}.json"));
    let death = report.death.expect("nothing is said of its death");
    assert_eq!((death.pid, death.exit_status), (pid, Some(0)));
    // The second one died soon after the first: in the list, if not with a report of its own.
    let killed = report
        .processes
        .iter()
        .filter(|it| it.cause.as_deref() == Some("signal"));
    assert_eq!(killed.count(), 2);
}

#[test]
fn only_deaths_have_files_of_their_own() {
    let victim = victim("glibc");
    let leakprobe = Leakprobe::attach(victim.pid(), &["--on-death", "dead.json"]);
    assert_eq!(leakprobe.interrupt().files(), ["report.json"]);
    victim.end_well();
}

#[test]
fn a_folder_for_deaths_is_checked_before() {
    let victim = victim("glibc");
    let pid = victim.pid().to_string();
    let outcome = Leakprobe::start(&["--pid", &pid, "--on-death", "missing/%p.svg"]).end();
    assert_eq!(outcome.status.code(), Some(1));
    assert!(outcome.stderr.contains("--on-death"), "{}", outcome.stderr);
    victim.end_well();
}
