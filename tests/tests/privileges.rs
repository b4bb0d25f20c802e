//! leakprobe with less than root, and on a machine with less than usual: it works with what
//! docs/containers.md says is enough, and names what is missing where it is not.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::Command;

use leakprobe_tests::{
    Leakprobe, Report, Victim, assert_exact, leakprobe_path, target_dir, victim_path,
};

/// Programs that only their owner may read need one more.
#[test]
fn a_file_of_another_user() {
    let folder = tempfile::TempDir::new().expect("failed to make a temporary folder");
    let program = folder.path().join("malloc");
    fs::copy(victim_path("musl-static", "malloc"), &program).expect("failed to copy a victim");
    fs::set_permissions(&program, Permissions::from_mode(0o700)).expect("its mode");
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("its folder's");
    chown(&program, Some(VICTIM), Some(VICTIM)).expect("its owner");
    let mut victim = Victim::start(as_user(VICTIM, &[]).arg(&program));
    let pid = victim.pid().to_string();
    let start = |capabilities: &[&str]| {
        let leakprobe = folder.path().join("leakprobe");
        if !leakprobe.exists() {
            fs::copy(leakprobe_path(), &leakprobe).expect("failed to copy leakprobe");
        }
        let mut command = as_user(PROFILER, capabilities);
        command
            .arg(leakprobe)
            .args(["--pid", &pid, "-o", "report.json"]);
        Leakprobe::start_by(&mut command)
    };
    let few = ["bpf", "perfmon", "sys_ptrace"];
    for (capabilities, missing) in [
        (&[][..], "CAP_SYS_PTRACE"),
        (&few[..2], "CAP_SYS_PTRACE"),
        (&few, "CAP_DAC_READ_SEARCH"),
        (&["bpf", "sys_ptrace", "dac_read_search"], "CAP_PERFMON"),
        (&["perfmon", "sys_ptrace", "dac_read_search"], "CAP_BPF"),
    ] {
        let outcome = start(capabilities).end();
        let stderr = &outcome.stderr;
        assert_eq!(outcome.status.code(), Some(1), "{capabilities:?}: {stderr}");
        assert!(stderr.contains(missing), "{capabilities:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{capabilities:?}: {stderr}");
    }
    let leakprobe = start(&["bpf", "perfmon", "sys_ptrace", "dac_read_search"]);
    leakprobe.wait_until_recording();
    victim.go();
    let summary = victim.summary();
    assert_exact(&summary, &leakprobe.interrupt().report());
    victim.end_well();
}

/// Each needs something that the others do not; the one without it is told.
#[test]
fn what_needs_the_administrator() {
    let victim = Victim::spawn("glibc", "malloc");
    let pid = victim.pid().to_string();
    let few = ["bpf", "perfmon", "sys_ptrace", "dac_read_search"];
    let refused = |variable: &str, args: &[&str]| {
        let mut command = as_root(&few);
        command
            .arg(leakprobe_path())
            .args(["--pid", &pid])
            .args(args);
        command.env("LEAKPROBE_ATTACH", variable);
        let outcome = Leakprobe::start_by(&mut command).end();
        assert_eq!(outcome.status.code(), Some(1), "{}", outcome.stderr);
        let stderr = outcome.stderr;
        assert!(stderr.contains("CAP_SYS_ADMIN"), "{args:?}: {stderr}");
    };
    refused("single", &["-o", "report.json"]);
    refused("", &["--max-overhead", "5", "-o", "report.json"]);
    refused("", &["--follow", "-o", "report.json"]);
    victim.end_well();
}

/// Nothing that can be written to, no tracefs, no BPF file system, no environment: as bare as a container
/// can be.
#[test]
fn where_there_is_nothing() {
    let mut victim = Victim::spawn("musl", "malloc");
    let (folder, mut command) = bare("/sys/fs /sys/kernel/debug /tmp /var", victim.pid());
    let leakprobe = Leakprobe::start_by(&mut command);
    leakprobe.wait_until_recording();
    victim.go();
    let summary = victim.summary();
    let outcome = leakprobe.interrupt();
    let report = fs::read_to_string(folder.path().join("report.json")).expect("there is a report");
    let report: Report = serde_json::from_str(&report).expect("it can be read");
    assert_exact(&summary, &report);
    let stderr = &outcome.stderr;
    assert!(stderr.contains("unwind tables are not kept"), "{stderr}");
    victim.end_well();
}

/// Without sysfs the kernel does not say how it is built.
#[test]
fn where_there_is_no_sysfs() {
    let victim = Victim::spawn("musl", "malloc");
    let (_folder, mut command) = bare("/sys", victim.pid());
    let outcome = Leakprobe::start_by(&mut command).end();
    assert_eq!(outcome.status.code(), Some(1), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("have sysfs mounted at /sys"));
    victim.end_well();
}

/// leakprobe with empty folders that cannot be written to at these places, without an environment; and the
/// folder it runs in.
fn bare(places: &str, pid: u32) -> (tempfile::TempDir, Command) {
    const SCRIPT: &str = r#"
        mount --bind "$1" /mnt || exit 9
        for place in $2; do mount -t tmpfs -o ro none $place || exit 9; done
        cd /mnt && exec env -i /mnt/leakprobe --pid $3 -v -o report.json"#;
    let folder = tempfile::TempDir::new().expect("failed to make a folder");
    fs::copy(leakprobe_path(), folder.path().join("leakprobe")).expect("failed to copy leakprobe");
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", SCRIPT, "sh"]);
    command.arg(folder.path()).arg(places).arg(pid.to_string());
    (folder, command)
}

/// Docker's storage of most machines, which this one may not use: files have another inode and device
/// in it than below it.
#[test]
fn a_program_on_an_overlay() {
    const OVERLAY: &str = r#"
        mount -t overlay overlay -o "lowerdir=$1/lower,upperdir=$1/upper,workdir=$1/work" "$1/all" &&
        exec "$1/all/malloc""#;
    let folder = tempfile::TempDir::new_in(target_dir()).expect("failed to make a folder");
    for name in ["lower", "upper", "work", "all"] {
        fs::create_dir(folder.path().join(name)).expect("failed to make a folder");
    }
    let program = folder.path().join("lower/malloc");
    fs::copy(victim_path("musl-static", "malloc"), program).expect("failed to copy a victim");
    let path = folder.path().canonicalize().expect("its path");
    let few = ["bpf", "perfmon", "sys_ptrace"];
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "sh", "-c", OVERLAY, "sh"]);
    let mut victim = Victim::start(unshare.arg(path));
    let pid = victim.pid().to_string();
    let mut command = as_root(&few);
    command
        .arg(leakprobe_path())
        .args(["--pid", &pid, "-o", "report.json"]);
    let leakprobe = Leakprobe::start_by(&mut command);
    leakprobe.wait_until_recording();
    victim.go();
    let summary = victim.summary();
    assert_exact(&summary, &leakprobe.interrupt().report());
    victim.end_well();
}

/// Whoever is nobody else on this machine.
const VICTIM: u32 = 61_001;
const PROFILER: u32 = 61_002;

/// Runs what is added to it as another user with these capabilities.
fn as_user(user: u32, capabilities: &[&str]) -> Command {
    let mut command = Command::new("setpriv");
    let set = set(capabilities);
    command.arg(format!("--reuid={user}"));
    command.arg(format!("--regid={user}"));
    command.args(["--clear-groups", "--inh-caps", &set, "--ambient-caps", &set]);
    command
}

/// The same as root with these capabilities and no others.
fn as_root(capabilities: &[&str]) -> Command {
    let mut command = Command::new("setpriv");
    let set = set(capabilities);
    command.args(["--inh-caps", &set, "--bounding-set", &set]);
    command
}

fn set(capabilities: &[&str]) -> String {
    let added = capabilities.iter().map(|name| format!(",+{name}"));
    std::iter::once("-all".to_owned()).chain(added).collect()
}
