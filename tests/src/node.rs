//! Programs of real runtimes as targets: a script under the victims' protocol in a Docker
//! container, in a root file system of its own, or straight on this machine, profiled once from
//! go to summary. What the figures have to be is for the tests to say. Every wait is bounded, and
//! whatever was started ends with the value that stands for it.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// How long one step of a target or of leakprobe may take before the test fails.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Name of the Docker image of the musl Node.
const IMAGE: &str = "leakprobe-node-musl:24";

/// A running program under the victims' protocol.
pub struct Target {
    process: Process,
    stdin: Option<ChildStdin>,
    /// PID as this machine sees it.
    pub pid: u32,
    /// PID as the program itself sees it.
    pub own_pid: u32,
    container: Option<Container>,
}

impl Target {
    /// Starts a command that becomes the program without a fork, and waits until it is ready.
    pub fn start(command: &mut Command) -> Result<Self> {
        let mut process = Process::start(command.stdin(Stdio::piped()))?;
        let ready = process.line(|line| line.starts_with("ready "))?;
        let own_pid = ready["ready ".len()..]
            .trim()
            .parse()
            .with_context(|| format!("the target says `{ready}`"))?;
        Ok(Self {
            stdin: process.child.stdin.take(),
            pid: process.child.id(),
            process,
            own_pid,
            container: None,
        })
    }

    /// Starts a script with the musl Node in a container without network.
    pub fn in_docker(script: &Path) -> Result<Self> {
        let container = Container(format!("leakprobe-test-{}", std::process::id()));
        let mut mount = std::ffi::OsString::from("type=bind,readonly,target=/leak.js,source=");
        mount.push(script);
        let mut target = Self::start(
            Command::new("docker")
                .args(["run", "--rm", "--interactive", "--network", "none"])
                .args(["--name", &container.0, "--mount"])
                .arg(mount)
                .args([IMAGE, "/usr/bin/node", "/leak.js"]),
        )?;
        let mut inspect = Command::new("docker");
        inspect.args(["inspect", "--format", "{{.State.Pid}}", &container.0]);
        target.pid = output(&mut inspect)?.parse()?;
        target.container = Some(container);
        Ok(target)
    }

    /// Starts a script with the musl Node in PID and mount namespaces of its own, its root file
    /// system a plain directory: a container without a container runtime.
    pub fn in_chroot(rootfs: &Path, script: &Path) -> Result<Self> {
        let inside = r#"mount --bind "$2" "$1/leak.js" && mount -t proc proc "$1/proc" &&
            exec chroot "$1" /usr/bin/node /leak.js"#;
        let mut target = Self::start(
            Command::new("unshare")
                .args(["--pid", "--mount", "--fork", "--kill-child"])
                .args(["sh", "-c", inside, "sh"])
                .args([rootfs, script]),
        )?;
        let unshare = target.pid;
        let children = std::fs::read_to_string(format!("/proc/{unshare}/task/{unshare}/children"))?;
        target.pid = children
            .trim()
            .parse()
            .with_context(|| format!("unshare has the children `{children}`"))?;
        Ok(target)
    }

    /// Lets the program leak and returns its summary.
    pub fn leak(&mut self) -> Result<Value> {
        self.go()?;
        let summary = self.process.line(|line| line.starts_with('{'))?;
        serde_json::from_str(&summary).with_context(|| format!("the target says `{summary}`"))
    }

    /// Lets the program end, and returns how it did.
    pub fn finish(mut self) -> Result<ExitStatus> {
        self.go()?;
        self.process.wait()
    }

    fn go(&mut self) -> Result<()> {
        let stdin = self.stdin.as_mut().context("the target has no stdin")?;
        stdin.write_all(b"\n").context("the target reads no more")
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

/// leakprobe, attached to a process.
pub struct Leakprobe {
    process: Process,
    files: PathBuf,
}

/// What leakprobe left behind.
pub struct Outcome {
    /// Its exit status.
    pub status: ExitStatus,
    /// The JSON report.
    pub json: Value,
    /// Path of the flamegraph.
    pub svg: PathBuf,
}

impl Leakprobe {
    /// Attaches to a process and waits until it counts. The reports go to the directory `files`.
    pub fn attach(pid: u32, files: &Path) -> Result<Self> {
        std::fs::create_dir_all(files)?;
        for file in ["report.json", "report.svg"] {
            let _ = std::fs::remove_file(files.join(file)); // of an earlier run, if any
        }
        let mut process = Process::start(
            Command::new(leakprobe())
                .args(["--pid", &pid.to_string()])
                .arg("-o")
                .arg(files.join("report.json"))
                .arg("-o")
                .arg(files.join("report.svg"))
                .stdin(Stdio::null()),
        )?;
        process.line(|line| line.starts_with("recording "))?;
        Ok(Self {
            process,
            files: files.to_path_buf(),
        })
    }

    /// Ends the recording as Ctrl-C does, and returns what was written.
    pub fn interrupt(mut self) -> Result<Outcome> {
        let pid = i32::try_from(self.process.child.id())?;
        kill(Pid::from_raw(pid), Signal::SIGINT).context("failed to interrupt leakprobe")?;
        let status = self.process.wait()?;
        let file = self.files.join("report.json");
        let json = std::fs::read_to_string(&file).with_context(|| {
            format!(
                "leakprobe ({status}) left no {}; it said:\n{}",
                file.display(),
                self.process.said.join("\n")
            )
        })?;
        Ok(Outcome {
            status,
            json: serde_json::from_str(&json).context("the JSON report is none")?,
            svg: self.files.join("report.svg"),
        })
    }
}

/// A child whose output, both streams, comes by lines. Killed when dropped.
struct Process {
    child: Child,
    what: String,
    lines: Receiver<String>,
    said: Vec<String>,
}

impl Process {
    fn start(command: &mut Command) -> Result<Self> {
        let what = format!("{command:?}");
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("failed to start {what}"))?;
        let (sender, lines) = channel();
        let stdout = child
            .stdout
            .take()
            .map(|out| Box::new(out) as Box<dyn Read + Send>);
        let stderr = child
            .stderr
            .take()
            .map(|err| Box::new(err) as Box<dyn Read + Send>);
        for stream in [stdout, stderr].into_iter().flatten() {
            let sender = sender.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
                    if sender
                        .send(String::from_utf8_lossy(&line).into_owned())
                        .is_err()
                    {
                        break;
                    }
                }
            });
        }
        Ok(Self {
            child,
            what,
            lines,
            said: Vec::new(),
        })
    }

    /// The next line that is wanted.
    fn line(&mut self, wanted: impl Fn(&str) -> bool) -> Result<String> {
        let deadline = Instant::now() + TIMEOUT;
        while let Ok(line) = self
            .lines
            .recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            if wanted(&line) {
                return Ok(line);
            }
            self.said.push(line);
        }
        let said = self.said.join("\n");
        bail!("{} ended or fell silent; it said:\n{said}", self.what);
    }

    fn wait(&mut self) -> Result<ExitStatus> {
        let deadline = Instant::now() + TIMEOUT;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                self.said.extend(self.lines.try_iter());
                return Ok(status);
            }
            sleep(Duration::from_millis(20));
        }
        bail!("{} did not end within {} s", self.what, TIMEOUT.as_secs());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended
        let _ = self.child.wait();
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

/// Whether everything is here: root, leakprobe, and the needs. If not, the test has to give up:
/// that is an error in CI, and elsewhere said on stderr, past the test harness's capture.
pub fn ready(test: &str, needs: &[Need]) -> Result<bool> {
    let mut missing: Vec<String> = needs.iter().filter_map(|need| need.missing()).collect();
    if !nix::unistd::geteuid().is_root() {
        missing.push("root".to_string());
    }
    if !leakprobe().is_file() {
        missing.push(format!("{} (cargo build)", leakprobe().display()));
    }
    if missing.is_empty() {
        return Ok(true);
    }
    let sentence = format!("NOT RUN: {test}: missing {}", missing.join(", "));
    ensure!(std::env::var_os("CI").is_none(), sentence);
    writeln!(std::io::stderr(), "\n{sentence}")?;
    Ok(false)
}

impl Need {
    fn missing(self) -> Option<String> {
        match self {
            Self::Rootfs if rootfs().join("usr/bin/node").is_file() => None,
            Self::Rootfs => Some(format!("{} (cargo xtask node)", rootfs().display())),
            Self::Image => output(Command::new("docker").args(["image", "inspect", IMAGE]))
                .err()
                .map(|_| format!("the Docker image {IMAGE} (cargo xtask node)")),
            Self::File(file) if Path::new(file).exists() => None,
            Self::File(file) => Some(file.to_string()),
        }
    }
}

/// The root file system of the musl Node.
pub fn rootfs() -> PathBuf {
    workspace().join("target/fixtures/node-musl-rootfs")
}

/// A victim's script by its name.
pub fn script(name: &str) -> PathBuf {
    workspace().join("tests/victims").join(name)
}

/// Runs a command to its end and returns its trimmed standard output.
pub fn output(command: &mut Command) -> Result<String> {
    let what = format!("{command:?}");
    let out = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("failed to start {what}"))?;
    let stderr = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success(), "{what} failed: {stderr}");
    Ok(String::from_utf8_lossy(&out.stdout).trim().to_string())
}

fn leakprobe() -> PathBuf {
    match std::env::var_os("LEAKPROBE_BIN") {
        Some(file) => PathBuf::from(file),
        None => workspace().join("target/debug/leakprobe"),
    }
}

fn workspace() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests).to_path_buf()
}
