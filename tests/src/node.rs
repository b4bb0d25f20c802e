//! Programs of real runtimes as targets: a script under the victims' protocol in a Docker
//! container, in a root file system of its own, or straight on this machine. Unlike a victim such a
//! target may have another PID than the process that was started, and another one in its own eyes.
//! It knows how to start them; what leakprobe has to find in them is for the tests to say.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use serde::Deserialize;

use crate::process::Process;
use crate::target_dir;

/// Name of the Docker image of the musl Node.
const IMAGE: &str = "leakprobe-node-musl:24";

/// A running program under the victims' protocol; killed when dropped.
pub struct Target {
    process: Process,
    /// PID as this machine sees it.
    pub pid: u32,
    /// PID as the program itself sees it.
    pub own_pid: u32,
    /// Dropped after the process, which is only Docker's client.
    container: Option<Container>,
}

/// What a program says it kept.
#[derive(Clone, Debug, Deserialize)]
pub struct Kept {
    /// Bytes, the runtime's own ones aside.
    pub kept_bytes: u64,
    /// The same by the name of a way to allocate, if the program has several.
    #[serde(default)]
    pub paths: std::collections::BTreeMap<String, Kept>,
}

impl Target {
    /// Starts a command that becomes the program without a fork, and waits until it is ready.
    pub fn start(command: &mut Command) -> Target {
        let process = Process::spawn(command);
        let line = process.line("ready");
        let own_pid = line
            .strip_prefix("ready ")
            .and_then(|pid| pid.parse().ok())
            .unwrap_or_else(|| panic!("the target is not ready, it says `{line}`"));
        Target {
            pid: process.pid(),
            process,
            own_pid,
            container: None,
        }
    }

    /// Starts a script with the musl Node in a container without network.
    pub fn in_docker(script: &Path) -> Target {
        let container = Container(format!("leakprobe-test-{}", std::process::id()));
        let mut mount = std::ffi::OsString::from("type=bind,readonly,target=/leak.js,source=");
        mount.push(script);
        let mut target = Target::start(
            Command::new("docker")
                .args(["run", "--rm", "--interactive", "--network", "none"])
                .args(["--name", &container.0, "--mount"])
                .arg(mount)
                .args([IMAGE, "/usr/bin/node", "/leak.js"]),
        );
        let mut inspect = Command::new("docker");
        inspect.args(["inspect", "--format", "{{.State.Pid}}", &container.0]);
        target.pid = number(&output(&mut inspect).expect("Docker knows the container"));
        target.container = Some(container);
        target
    }

    /// Starts a script with the musl Node in PID and mount namespaces of its own, its root file
    /// system a plain directory: a container without a container runtime.
    pub fn in_chroot(script: &Path) -> Target {
        Target::in_chroot_with(script, &[])
    }

    /// The same with options for Node.
    pub fn in_chroot_with(script: &Path, options: &[&str]) -> Target {
        let words: Vec<_> = options.iter().chain(&["/leak.js"]).copied().collect();
        Target::in_chroot_as(script, &words)
    }

    /// The same with all of Node's arguments, among them `/leak.js`, which the script is inside.
    pub fn in_chroot_as(script: &Path, words: &[&str]) -> Target {
        let inside = r#"root=$1 && mount --bind "$2" "$1/leak.js" && mount -t proc proc "$1/proc" &&
            mount -t tmpfs tmpfs "$1/tmp" && shift 2 &&
            exec chroot "$root" /usr/bin/node "$@""#;
        let mut target = Target::start(
            Command::new("unshare")
                .args(["--pid", "--mount", "--fork", "--kill-child"])
                .args(["sh", "-c", inside, "sh"])
                .arg(rootfs())
                .arg(script)
                .args(words),
        );
        let unshare = target.pid;
        let children = std::fs::read_to_string(format!("/proc/{unshare}/task/{unshare}/children"))
            .expect("failed to read the children of unshare");
        target.pid = number(&children);
        target
    }

    /// Lets the program go on.
    pub fn go(&mut self) {
        self.process.send(b"g");
    }

    /// Lets the program leak and waits until it says what it kept.
    pub fn leak(&mut self) -> Kept {
        self.go();
        let line = self.process.line("the target's summary");
        serde_json::from_str(&line)
            .unwrap_or_else(|error| panic!("the summary `{line}` cannot be read: {error}"))
    }

    /// Lets the program leave and waits for its end.
    pub fn end(self) -> ExitStatus {
        let Target { mut process, .. } = self;
        process.send(b"g");
        process.close_stdin();
        process.end().0
    }
}

/// A container by its name. Removed in the end, whatever happened.
struct Container(String);

impl Drop for Container {
    fn drop(&mut self) {
        // After a good run it is gone already: that it cannot be removed then is no error.
        let _ = output(Command::new("docker").args(["rm", "--force", &self.0]));
    }
}

/// Something that a test needs and that this machine may not have.
#[derive(Clone, Copy)]
pub enum Need {
    /// The root file system of the musl Node.
    Rootfs,
    /// A Docker daemon with the image of the musl Node.
    Image,
    /// A file: a program, or a script.
    File(&'static str),
}

/// Whether the test can run: as root, with all these. A test that cannot has to return at once;
/// that is said on stderr past the test harness's capture, and with `CI` set it is a failure.
pub fn ready(test: &str, needs: &[Need]) -> bool {
    let mut missing: Vec<String> = needs.iter().filter_map(|need| need.missing()).collect();
    if !rustix::process::geteuid().is_root() {
        missing.push("root".to_string());
    }
    if missing.is_empty() {
        return true;
    }
    let sentence = format!("NOT RUN: {test}: missing {}", missing.join(", "));
    assert!(std::env::var_os("CI").is_none(), "{sentence}");
    writeln!(std::io::stderr(), "\n{sentence}").expect("failed to write to stderr");
    false
}

impl Need {
    fn missing(self) -> Option<String> {
        match self {
            Need::Rootfs if rootfs().join("usr/bin/node").is_file() => None,
            Need::Rootfs => Some(format!("{} (cargo xtask node)", rootfs().display())),
            Need::Image => output(Command::new("docker").args(["image", "inspect", IMAGE]))
                .err()
                .map(|_| format!("the Docker image {IMAGE} (cargo xtask node)")),
            Need::File(file) if Path::new(file).exists() => None,
            Need::File(file) => Some(file.to_string()),
        }
    }
}

/// The path of a script among the victims.
pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("victims")
        .join(name)
}

/// Runs a command to its end and gives its trimmed standard output, or its standard error as the
/// error.
pub fn output(command: &mut Command) -> Result<String, String> {
    let out = command.stdin(Stdio::null()).output();
    let out = out.map_err(|error| format!("failed to start {command:?}: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_string();
    match out.status.success() {
        true => Ok(text(&out.stdout)),
        false => Err(text(&out.stderr)),
    }
}

/// The root file system of the musl Node: an absolute path, `LEAKPROBE_FIXTURES` or xtask's.
pub fn rootfs() -> PathBuf {
    let fixtures = match std::env::var_os("LEAKPROBE_FIXTURES") {
        Some(folder) => folder.into(),
        None => target_dir().join("fixtures"),
    };
    let path = fixtures.join("node-musl-rootfs");
    path.canonicalize().unwrap_or(path)
}

fn number(text: &str) -> u32 {
    text.trim()
        .parse()
        .unwrap_or_else(|error| panic!("`{text}` is not one PID: {error}"))
}
