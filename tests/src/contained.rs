//! Victims in containers of Docker and podman: an image that holds nothing but one static victim,
//! containers of it, and their removal. What leakprobe has to say of them is for the tests.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::node::output;
use crate::{Summary, Victim, victim_path};

/// What runs containers. Both understand the same words.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// The daemon.
    Docker,
    /// Of root, with its state at the usual places.
    Podman,
    /// With its state in a folder that only it knows of. For one container at a time.
    PodmanElsewhere,
}

impl Engine {
    /// Its command, to which words are to be added.
    pub fn command(self) -> Command {
        if self == Engine::Docker {
            return Command::new("docker");
        }
        let mut command = Command::new("podman");
        // The runtime that Docker needs anyway.
        command.args(["--runtime", "runc"]);
        // In a container there may be no overlays on the file system of a container.
        static HAS_OVERLAY: OnceLock<bool> = OnceLock::new();
        let has_overlay =
            *HAS_OVERLAY.get_or_init(|| output(Command::new("podman").arg("info")).is_ok());
        if self == Engine::PodmanElsewhere || !has_overlay {
            command.args(["--storage-driver", "vfs"]);
        }
        if self == Engine::PodmanElsewhere {
            let folder = elsewhere();
            command.arg("--root").arg(folder.join("root"));
            command.arg("--runroot").arg(folder.join("run"));
        }
        command
    }

    /// Options for `run` and `create`. podman wants to raise limits, which not even root may everywhere.
    fn options(self) -> &'static [&'static str] {
        match self {
            Engine::Docker => &[],
            _ => &["--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"],
        }
    }
}

/// A victim in a container of its own, without a network; both are removed when dropped.
pub struct Contained {
    engine: Engine,
    victim: Victim,
    /// The container's name.
    pub name: String,
    /// The container's whole id.
    pub id: String,
    /// PID as this machine sees it.
    pub pid: u32,
}

impl Contained {
    /// Starts the static musl victim of this name by Docker and waits until it is ready.
    pub fn start(victim: &str, arguments: &[&str]) -> Contained {
        Contained::start_by(Engine::Docker, &new_name(victim), victim, arguments)
    }

    /// The same by any engine, in a container of this name.
    pub fn start_by(engine: Engine, name: &str, victim: &str, arguments: &[&str]) -> Contained {
        import(engine, victim, name);
        let program = format!("/{victim}");
        let mut command = engine.command();
        command.args(["run", "--interactive", "--network", "none", "--name", name]);
        command.args(engine.options());
        command
            .args(["--pull", "never", name, &program])
            .args(arguments);
        let victim = Victim::start_elsewhere(&mut command);
        let inspect = |what: &str| {
            output(engine.command().args(["inspect", "--format", what, name]))
                .expect("the container is known")
        };
        let pid = inspect("{{.State.Pid}}")
            .parse()
            .expect("a container that runs has a PID");
        Contained {
            id: inspect("{{.Id}}"),
            engine,
            victim,
            name: name.to_owned(),
            pid,
        }
    }

    /// Starts the victim once more, as a process that comes into the container.
    pub fn exec(&self, victim: &str) -> Victim {
        let mut command = self.engine.command();
        command.args(["exec", "--interactive", &self.name]);
        Victim::start_elsewhere(command.arg(format!("/{victim}")))
    }

    /// Sends the go byte.
    pub fn go(&mut self) {
        self.victim.go();
    }

    /// Waits for the summary.
    pub fn summary(&self) -> Summary {
        self.victim.summary()
    }

    /// Lets the victim leave; the container stays, stopped.
    pub fn stop(&mut self) {
        self.victim.close_stdin();
        output(self.engine.command().args(["wait", &self.name])).expect("the container ends");
    }
}

impl Drop for Contained {
    fn drop(&mut self) {
        // What is gone already cannot be removed, and need not.
        let _ = output(self.engine.command().args(["rm", "--force", &self.name]));
        let _ = output(self.engine.command().args(["rmi", "--force", &self.name]));
        if self.engine == Engine::PodmanElsewhere {
            let _ = std::fs::remove_dir_all(elsewhere());
        }
    }
}

fn elsewhere() -> PathBuf {
    std::env::temp_dir().join(format!("leakprobe-podman-{}", std::process::id()))
}

/// A name for a container that no other has.
pub fn new_name(victim: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("leakprobe-{victim}-{}-{count}", std::process::id())
}

/// Makes an image of a static victim, by the name of the image.
fn import(engine: Engine, victim: &str, image: &str) {
    let path = victim_path("musl-static", victim);
    let mut tar = Command::new("tar")
        .arg("-C")
        .arg(path.parent().expect("a victim is in a folder"))
        .args(["-c", victim])
        .stdout(Stdio::piped())
        .spawn()
        .expect("failed to start tar");
    let archive = tar.stdout.take().expect("stdout is a pipe");
    let import = engine
        .command()
        .args(["import", "-", image])
        .stdin(archive)
        .output()
        .expect("failed to start docker or podman");
    let packed = tar.wait().expect("failed to wait for tar");
    let error = String::from_utf8_lossy(&import.stderr);
    assert!(packed.success() && import.status.success(), "{error}");
}
