//! Leaving leakprobe on: `--when` attaches only once its condition holds, `--every` and `--snapshot-on` leave
//! whole reports meanwhile.

use std::fs;
use std::process::Command;

use leakprobe_tests::cgroup::Group;
use leakprobe_tests::code::patched_code;
use leakprobe_tests::process::Process;
use leakprobe_tests::{
    Leakprobe, Outcome, Report, Summary, Victim, assert_exact, leakprobe_path, victim_path,
};
use rustix::process::Signal;

const MIB: u64 = 1 << 20;

fn victim(flavor: &str) -> Victim {
    Victim::spawn(flavor, "orders")
}

/// Gives one order, and what the victim has done since it last forgot.
fn order(victim: &mut Victim, byte: u8) -> Summary {
    victim.order(&[byte]);
    victim.summary()
}

/// Starts leakprobe on a victim with `--when`, and waits until it watches.
fn watch(victim: &Victim, conditions: &[&str]) -> Leakprobe {
    let pid = victim.pid().to_string();
    let mut args = vec!["--pid", &pid, "-o", "report.json"];
    args.extend(
        conditions
            .iter()
            .flat_map(|condition| ["--when", condition]),
    );
    let leakprobe = Leakprobe::start(&args);
    let line = leakprobe.wait_until_it_says("watching ");
    for condition in conditions {
        assert!(line.contains(condition), "{line}");
    }
    leakprobe
}

/// What of the kernel's a process holds by file descriptors.
fn held(pid: u32) -> Vec<String> {
    let folder = format!("/proc/{pid}/fd");
    let entries = fs::read_dir(folder).expect("failed to list file descriptors");
    entries
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .map(|path| path.to_string_lossy().into_owned())
        .filter(|name| name.contains("bpf") || name.contains("perf_event"))
        .collect()
}

/// Nothing is in the victim's code, nothing loaded into the kernel.
fn assert_untouched(victim: &Victim, leakprobe: &Leakprobe) {
    assert_eq!(patched_code(victim.pid()), []);
    assert_eq!(held(leakprobe.pid()), Vec::<String>::new());
}

/// Whether a note of the report names the condition and its value.
fn assert_begun_by(report: &Report, condition: &str, level: &str) {
    let note = report
        .evidence
        .notes
        .iter()
        .find(|note| note.starts_with("attached because"));
    let note = note.unwrap_or_else(|| panic!("no note: {:?}", report.evidence.notes));
    for part in [condition, level, "after watching for", "Z"] {
        assert!(note.contains(part), "{note}");
    }
}

#[test]
fn rss_grows_above() {
    for flavor in ["glibc", "musl"] {
        let mut victim = victim(flavor);
        let leakprobe = watch(&victim, &["rss>30MiB"]);
        order(&mut victim, b'g');
        assert_untouched(&victim, &leakprobe);
        order(&mut victim, b'm');
        leakprobe.wait_until_it_says("rss>30MiB holds ");
        leakprobe.wait_until_recording();
        assert_ne!(patched_code(victim.pid()), []);
        assert_ne!(held(leakprobe.pid()), Vec::<String>::new());
        order(&mut victim, b'r');
        let summary = order(&mut victim, b'g');
        let report = leakprobe.interrupt().report();
        assert_exact(&summary, &report);
        assert_begun_by(&report, "`--when rss>30MiB`", "RSS 3");
        assert_eq!(report.death, None);
        victim.end_well();
    }
}

#[test]
fn any_of_several_conditions() {
    for (holds, level) in [
        ("rss-growth>20MiB/1h", "RSS grown by "),
        ("alloc-rate>20MiB/1m", " new within 1m"),
    ] {
        let mut victim = victim("glibc");
        let leakprobe = watch(&victim, &["rss>1TiB", holds]);
        order(&mut victim, b'm');
        leakprobe.wait_until_recording();
        assert_begun_by(&leakprobe.interrupt().report(), holds, level);
        victim.end_well();
    }
}

#[test]
fn a_share_of_its_cgroup() {
    let cgroup = Group::of_memory(Some(100 * MIB));
    let mut victim = victim("glibc");
    cgroup.add(victim.pid());
    let leakprobe = watch(&victim, &["cgroup>50%"]);
    order(&mut victim, b'm');
    assert_untouched(&victim, &leakprobe);
    order(&mut victim, b'm');
    leakprobe.wait_until_recording();
    assert_begun_by(&leakprobe.interrupt().report(), "cgroup>50%", "cgroup ");
    victim.end_well();
}

#[test]
fn a_share_of_no_limit() {
    let cgroup = Group::of_memory(None);
    let victim = victim("glibc");
    cgroup.add(victim.pid());
    let pid = victim.pid().to_string();
    let outcome = Leakprobe::start(&["--pid", &pid, "--when", "cgroup>90%"]).end();
    assert_eq!(outcome.status.code(), Some(1));
    for part in ["cgroup>90%", "no memory limit", "cgroup>2GiB"] {
        assert!(outcome.stderr.contains(part), "{}", outcome.stderr);
    }
    victim.end_well();
}

/// The time of --duration begins with the recording.
#[test]
fn a_duration_counts_from_the_attach() {
    let mut victim = victim("glibc");
    let pid = victim.pid().to_string();
    let args = [
        "--when",
        "rss>30MiB",
        "--duration",
        "300ms",
        "-o",
        "report.json",
    ];
    let leakprobe = Leakprobe::start(&[&["--pid", pid.as_str()], &args[..]].concat());
    leakprobe.wait_until_it_says("watching ");
    order(&mut victim, b'm');
    let report = leakprobe.finish().report();
    assert!(report.duration_ns >= 300_000_000, "{}", report.duration_ns);
    victim.end_well();
}

#[test]
fn asked_to_stop_before_the_condition_holds() {
    for signal in [Signal::INT, Signal::TERM] {
        let victim = victim("glibc");
        let leakprobe = watch(&victim, &["rss>1TiB"]);
        leakprobe.signal(signal);
        let outcome = leakprobe.finish();
        assert_nothing_left(&outcome);
        assert!(outcome.stderr.contains("nothing was recorded"));
        victim.end_well();
    }
}

#[test]
fn the_process_ends_before_the_condition_holds() {
    let mut victim = victim("glibc");
    let leakprobe = watch(&victim, &["rss>1TiB"]);
    victim.order(b"e");
    let outcome = leakprobe.end();
    assert_eq!(outcome.status.code(), Some(1));
    assert_nothing_left(&outcome);
    let sentence = format!("process {} has ended (exit status 3)", victim.pid());
    assert!(outcome.stderr.contains(&sentence), "{}", outcome.stderr);
    assert_eq!(victim.end().code(), Some(3));
}

fn assert_nothing_left(outcome: &Outcome) {
    assert_eq!(outcome.files(), Vec::<String>::new());
    assert_eq!(outcome.stdout, "");
}

/// A command runs while it is watched, and is recorded like a process that was there.
#[test]
fn a_command_is_watched() {
    let folder = tempfile::TempDir::new().expect("failed to make a temporary folder");
    let mut command = Command::new(leakprobe_path());
    command.current_dir(folder.path());
    command.args(["--when", "rss>30MiB", "-o", "report.json", "--"]);
    // What it reads and writes is leakprobe's.
    let mut leakprobe = Process::spawn(command.arg(victim_path("glibc", "orders")));
    leakprobe.stderr_line("watching ");
    leakprobe.send(b"m");
    leakprobe.stderr_line("recording ");
    leakprobe.send(b"rge");
    let (status, stdout, stderr) = leakprobe.end();
    assert!(status.success(), "{stderr}");
    let mut summaries = stdout
        .lines()
        .filter(|line| line.starts_with("{\"victim\""));
    let last = summaries.next_back().expect("no summary");
    let summary = serde_json::from_str(last).expect("the summary cannot be read");
    let text = fs::read(folder.path().join("report.json")).expect("no report");
    let report: Report = serde_json::from_slice(&text).expect("the report cannot be read");
    assert_exact(&summary, &report);
    let death = report.death.expect("nothing is said of its death");
    assert_eq!(death.exit_status, Some(3));
}

#[test]
fn snapshots_are_whole_and_exact() {
    for signal in ["SIGUSR1", "SIGUSR2", "SIGHUP"] {
        let mut victim = victim("glibc");
        let leakprobe = Leakprobe::attach(victim.pid(), &["--snapshot-on", signal]);
        let mut summaries = Vec::new();
        for number in 1..=3 {
            summaries.push(order(&mut victim, b'g'));
            leakprobe.signal(match signal {
                "SIGUSR1" => Signal::USR1,
                "SIGUSR2" => Signal::USR2,
                _ => Signal::HUP,
            });
            let name = format!("report-{number:03}.json");
            leakprobe.wait_until_it_says(&format!("wrote {name}"));
            let report = leakprobe.report(&name);
            assert_exact(&summaries[number - 1], &report);
            assert_eq!(report.death, None);
        }
        let last = order(&mut victim, b'g');
        let outcome = leakprobe.interrupt();
        assert_exact(&last, &outcome.report());
        // Written once, and never touched again.
        assert_exact(&summaries[0], &outcome.report_in("report-001.json"));
        victim.end_well();
    }
}

#[test]
fn in_growth_mode_too() {
    let mut victim = victim("glibc");
    let options = [
        "--mode",
        "growth",
        "--sample-pages",
        "1",
        "--snapshot-on",
        "SIGHUP",
    ];
    let leakprobe = Leakprobe::attach(victim.pid(), &options);
    order(&mut victim, b'm');
    leakprobe.signal(Signal::HUP);
    leakprobe.wait_until_it_says("wrote report-001.json");
    let report = leakprobe.report("report-001.json");
    assert!(report.totals.live_bytes >= 32 * MIB, "{:?}", report.totals);
    let report = leakprobe.interrupt().report();
    assert!(report.totals.live_bytes >= 32 * MIB, "{:?}", report.totals);
    victim.end_well();
}

#[test]
fn every_so_often_and_only_the_newest() {
    let mut victim = victim("glibc");
    let options = ["--every", "50ms", "--keep", "2", "-o", "b.folded"];
    let leakprobe = Leakprobe::attach(victim.pid(), &options);
    let summary = order(&mut victim, b'g');
    leakprobe.wait_until_it_says("wrote report-005.json");
    let outcome = leakprobe.interrupt();
    let mut files = outcome.files();
    files.retain(|name| name.starts_with("report-"));
    assert_eq!(files.len(), 2, "{files:?}");
    for name in &files {
        assert_exact(&summary, &outcome.report_in(name));
    }
    let number = |name: &str| name[7..10].parse::<u32>().expect("no number");
    assert_eq!(number(&files[0]) + 1, number(&files[1]));
    assert!(number(&files[1]) >= 5, "{files:?}");
    let all = outcome.files();
    assert_eq!(all.iter().filter(|it| it.starts_with("b-")).count(), 2);
    assert_eq!(all.len(), 6, "{all:?}");
    victim.end_well();
}

#[test]
fn below_a_size_altogether() {
    let mut victim = victim("glibc");
    let options = ["--every", "50ms", "--keep-size", "1"];
    let leakprobe = Leakprobe::attach(victim.pid(), &options);
    order(&mut victim, b'g');
    leakprobe.wait_until_it_says("wrote report-003.json");
    let files = leakprobe.interrupt().files();
    assert_eq!(files.len(), 2, "the newest and the final one: {files:?}");
    victim.end_well();
}
