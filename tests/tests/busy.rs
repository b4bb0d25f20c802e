//! What happens while leakprobe is busy with something else is recorded all the same.

use std::fs::File;
use std::process::Command;
use std::time::Instant;

use leakprobe_tests::{LIMIT, Leakprobe, Victim, assert_exact, leakprobe_path};

/// Nobody reads what it prints, and meanwhile comes twice as much as the kernel keeps for it.
#[test]
fn nothing_is_lost_while_a_report_waits_for_its_reader() {
    let mut victim = Victim::spawn_with("glibc", "big", &["16384", "16384", "60"]);
    let full = "mkfifo full; exec 3<>full; head -c 65536 /dev/zero >&3; exec \"$@\" >&3";
    let mut command = Command::new("sh");
    command.args(["-c", full, "sh"]).arg(leakprobe_path());
    command.args(["--pid", &victim.pid().to_string(), "-o", "report.json"]);
    command.args(["--interval", "1s", "--no-guard"]);
    let leakprobe = Leakprobe::start_by(&mut command);
    leakprobe.wait_until_recording();
    let doing = format!("/proc/{}/syscall", leakprobe.pid());
    // Its first argument is stdout.
    let is_printing = |call: String| call.split(' ').nth(1) == Some("0x1");
    let begin = Instant::now();
    while !std::fs::read_to_string(&doing).is_ok_and(is_printing) {
        assert!(begin.elapsed() < LIMIT, "leakprobe prints nothing");
        std::thread::yield_now();
    }
    victim.go();
    let summary = victim.summary();
    let mut reader = File::open(leakprobe.folder().join("full")).expect("the pipe");
    std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
    let report = leakprobe.interrupt().report();
    assert_exact(&summary, &report);
    assert!(!report.evidence.losses.contains_key("stack_events_lost"));
    assert_eq!(report.stacks.len(), 16384);
    victim.end_well();
}
