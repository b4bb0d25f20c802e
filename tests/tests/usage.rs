//! Bad input: one clear sentence on stderr that says what to do, the right exit code (2 for what
//! is wrong with the command line, 1 for what is wrong with the world), and no output file.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use leakprobe_tests::process::Process;
use leakprobe_tests::{Leakprobe, Outcome, Victim, leakprobe_path, victim_path};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

/// Panics unless leakprobe refused with this code and a sentence that has all these words.
fn assert_refused(outcome: &Outcome, code: i32, words: &[&str]) {
    let stderr = outcome.stderr.as_str();
    assert_eq!(outcome.status.code(), Some(code), "{stderr}");
    assert_eq!(outcome.stdout, "", "stdout is for reports");
    assert_eq!(outcome.files(), Vec::<String>::new(), "{stderr}");
    let lines = stderr.lines().filter(|line| !line.trim().is_empty());
    assert!(
        (1..=3).contains(&lines.count()),
        "more than a sentence, or less: {stderr}"
    );
    assert!(!stderr.contains("panicked"), "{stderr}");
    for word in words {
        assert!(
            stderr.to_lowercase().contains(&word.to_lowercase()),
            "nothing about `{word}`: {stderr}"
        );
    }
}

fn refused(args: &[&str], code: i32, words: &[&str]) {
    assert_refused(&Leakprobe::start(args).end(), code, words);
}

fn refused_pid(pid: u32, words: &[&str]) {
    let pid = pid.to_string();
    refused(&["--pid", &pid], 1, &[&[pid.as_str()], words].concat());
}

#[test]
fn no_such_process() {
    let ended = Process::spawn(&mut Command::new("true"));
    let pid = ended.pid();
    ended.end();
    refused_pid(pid, &["no"]);
}

#[test]
fn kernel_thread() {
    refused_pid(kernel_thread_pid(), &["kernel thread"]);
}

/// Any thread of the kernel that is seen from here.
fn kernel_thread_pid() -> u32 {
    /// `PF_KTHREAD` of include/linux/sched.h.
    const KERNEL_THREAD: u64 = 0x0020_0000;
    let is_kernel_thread = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The flags are field 9; the name in field 2 may hold spaces.
        let flags = stat
            .rsplit(") ")
            .next()
            .and_then(|rest| rest.split(' ').nth(6));
        flags
            .and_then(|flags| flags.parse::<u64>().ok())
            .is_some_and(|flags| flags & KERNEL_THREAD != 0)
    };
    fs::read_dir("/proc")
        .expect("failed to list /proc")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .find(is_kernel_thread)
        .expect("no kernel thread is seen from here: run this outside of a container")
}

#[test]
fn zombie() {
    let zombie = Process::spawn(&mut Command::new("true"));
    let id = Pid::from_raw(zombie.pid() as i32).expect("a PID is not zero");
    // Its end is waited for without taking it away.
    waitid(
        WaitId::Pid(id),
        WaitIdOptions::EXITED | WaitIdOptions::NOWAIT,
    )
    .expect("failed to wait for a child");
    refused_pid(zombie.pid(), &["zombie"]);
}

#[test]
fn stripped_static_program() {
    for flavor in ["glibc-static", "musl-static"] {
        let victim = Victim::spawn(flavor, "stripped");
        refused_pid(victim.pid(), &["allocator", "stripped"]);
        victim.end_well();
    }
}

#[test]
fn program_of_32_bits() {
    let program = Process::spawn(&mut Command::new(victim_path("other", "loop32")));
    refused_pid(program.pid(), &["32-bit"]);
}

#[test]
fn not_root() {
    let victim = Victim::spawn("glibc", "malloc");
    let pid = victim.pid().to_string();
    // Where it was built nobody else may be able to go.
    let folder = tempfile::TempDir::new().expect("failed to make a temporary folder");
    let copy = folder.path().join("leakprobe");
    fs::copy(leakprobe_path(), &copy).expect("failed to copy leakprobe");
    for path in [folder.path(), &copy] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))
            .expect("failed to set permissions");
    }
    let outcome = Leakprobe::start_by(
        Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(&copy)
            .args(["--pid", &pid, "-o", "report.json"]),
    )
    .end();
    assert_refused(&outcome, 1, &["root", "CAP_"]);
    victim.end_well();
}

#[test]
fn no_such_command() {
    refused(&["--", "/no/such/command"], 1, &["/no/such/command"]);
}

#[test]
fn output_in_a_missing_folder() {
    let victim = Victim::spawn("glibc", "malloc");
    let pid = victim.pid().to_string();
    let words = ["missing/report.json", "missing"];
    refused(&["--pid", &pid, "-o", "missing/report.json"], 1, &words);
    // The good output beside it is not written either.
    let both = ["--pid", &pid, "-o", "good.svg", "-o", "missing/report.json"];
    refused(&both, 1, &words);
    victim.end_well();
}

#[test]
fn output_is_a_folder() {
    let victim = Victim::spawn("glibc", "malloc");
    let pid = victim.pid().to_string();
    let parent = tempfile::TempDir::new().expect("failed to make a temporary folder");
    let folder = parent.path().join("folder.svg");
    fs::create_dir(&folder).expect("failed to make a folder");
    let folder = folder.to_str().expect("a temporary path is text");
    refused(&["--pid", &pid, "-o", folder], 1, &[folder, "directory"]);
    victim.end_well();
}

/// Found before anything is attached: the process need not be one that could be profiled.
#[test]
fn unknown_extension() {
    for name in ["report.xyz", "report", "json"] {
        refused(&["--pid", "1", "-o", name], 2, &[name, ".svg", ".json"]);
    }
}

#[test]
fn conflicting_options() {
    refused(&["--pid", "1", "--", "true"], 2, &["--pid", "command"]);
    refused(&["--pid", "1", "-q", "-v"], 2, &["quiet", "verbose"]);
    refused(&["--pid", "1", "--user", "nobody"], 2, &["--user"]);
    let sizes = ["--min-size", "2KiB", "--max-size", "1KiB"];
    refused(
        &[&["--pid", "1"], &sizes[..]].concat(),
        2,
        &["--min-size", "--max-size"],
    );
}

#[test]
fn nothing_to_profile() {
    refused(&[], 2, &["--pid"]);
}

#[test]
fn values_that_are_none() {
    refused(&["--pid", "0"], 2, &["0"]);
    refused(&["--pid", "me"], 2, &["me"]);
    refused(
        &["--pid", "1", "--duration", "5 parsecs"],
        2,
        &["--duration", "parsecs"],
    );
    refused(
        &["--pid", "1", "--min-size", "much"],
        2,
        &["--min-size", "much"],
    );
    refused(&["--pid", "1", "--max-live", "0"], 2, &["--max-live"]);
    refused(&["--no-such-option"], 2, &["--no-such-option"]);
}

#[test]
fn doctor_says_no_for_a_process_that_is_none() {
    let outcome = Leakprobe::start(&["doctor", "--pid", &kernel_thread_pid().to_string()]).end();
    assert_eq!(outcome.status.code(), Some(1), "{}", outcome.stderr);
    assert_eq!(outcome.files(), Vec::<String>::new());
}
