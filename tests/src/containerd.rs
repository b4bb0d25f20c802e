//! Victims in containers of containerd, started by its own `ctr` under whatever id. The containerd is
//! the one that Docker uses; the victims' image (`cargo xtask image`) is lent to a namespace of the
//! test's own. What leakprobe has to say of them is for the tests.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::Victim;
use crate::cgroup;
use crate::node::output;

/// Where a containerd of the machine's listens, and one that dockerd has started.
const SOCKETS: [&str; 2] = [
    "/run/containerd/containerd.sock",
    "/run/docker/containerd/containerd.sock",
];

/// Where these have folders for each namespace.
const FOLDERS: [&str; 4] = [
    "/run/containerd",
    "/run/docker/containerd/daemon",
    "/var/lib/containerd",
    "/var/lib/docker/containerd/daemon",
];

/// As Docker saves it.
const IMAGE: &str = "leakprobe-victims:1";
const IMPORTED: &str = "docker.io/library/leakprobe-victims:1";

const PREFIX: &str = "leakprobe-test-";

/// A namespace of containerd with the victims' image. Removed when dropped, with all that is in it.
pub struct Namespace {
    socket: &'static str,
    /// Its name.
    pub name: String,
}

/// Options of `ctr run` for file systems that need nothing of the kernel.
const RUN: [&str; 3] = ["run", "--snapshotter", "native"];

impl Namespace {
    /// Makes one. What killed tests have left is removed before.
    pub fn new() -> Namespace {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let socket = SOCKETS
            .into_iter()
            .find(|it| UnixStream::connect(it).is_ok());
        let socket = socket.expect("no containerd answers: run `cargo xtask image`");
        let at = |name: String| Namespace { socket, name };
        let namespace = at(format!("{PREFIX}{}-{number}", std::process::id()));
        let all = namespace.ctr(&["namespaces", "list", "--quiet"]);
        let left = all.lines().filter(|name| is_left(name));
        left.for_each(|name| drop(at(name.to_owned())));

        let mut save = Command::new("docker")
            .args(["save", IMAGE])
            .stdout(Stdio::piped())
            .spawn()
            .expect("failed to start docker");
        let mut import = namespace.command(&["images", "import", "--snapshotter", "native", "-"]);
        let import = import.stdin(save.stdout.take().expect("stdout is a pipe"));
        let import = import.output().expect("failed to start ctr");
        let saved = save.wait().expect("failed to wait for docker");
        let error = String::from_utf8_lossy(&import.stderr);
        assert!(
            saved.success() && import.status.success(),
            "there is no image {IMAGE} (`cargo xtask image`), or: {error}"
        );
        namespace
    }

    /// Starts a victim such as `musl/malloc` in a container of this id and waits until it is ready;
    /// `options` are for `ctr run`.
    pub fn run(&self, options: &[&str], id: &str, victim: &str) -> Victim {
        let mut command = self.command(&RUN);
        command.args(options).args([IMPORTED, id]);
        Victim::start_elsewhere(command.arg(format!("/victims/{victim}")))
    }

    /// Starts a container that waits, and comes back.
    pub fn run_detached(&self, id: &str) {
        let wait = ["/bin/busybox", "sleep", "600"];
        self.ctr(&[&RUN[..], &["--detach", "--null-io", IMPORTED, id], &wait].concat());
    }

    /// Starts a victim as a process that comes into a container.
    pub fn exec(&self, id: &str, victim: &str) -> Victim {
        let mut command = self.command(&["tasks", "exec", "--exec-id", "later", id]);
        Victim::start_elsewhere(command.arg(format!("/victims/{victim}")))
    }

    /// PID of the first process of a container.
    pub fn pid(&self, id: &str) -> u32 {
        let list = self.ctr(&["tasks", "list"]);
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect();
        let mut lines = list.lines().map(words);
        let line: Option<Vec<String>> = lines.find(|line: &Vec<String>| line[0] == id);
        let line = line.unwrap_or_else(|| panic!("no {id} in: {list}"));
        line[1].parse().expect("a PID")
    }

    /// Kills the processes of a container and waits until it has stopped; it is not removed.
    pub fn stop(&self, id: &str) {
        self.ctr(&["tasks", "kill", "--all", "--signal", "SIGKILL", id]);
        let until = std::time::Instant::now() + crate::LIMIT;
        while !self.ctr(&["tasks", "list"]).contains("STOPPED") {
            assert!(std::time::Instant::now() < until, "{id} does not stop");
        }
    }

    fn ctr(&self, words: &[&str]) -> String {
        self.try_ctr(words)
            .unwrap_or_else(|error| panic!("ctr {words:?}: {error}"))
    }

    fn try_ctr(&self, words: &[&str]) -> Result<String, String> {
        output(&mut self.command(words))
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("ctr");
        command.args(["--address", self.socket, "--namespace", &self.name]);
        command.args(words);
        command
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // What is gone already cannot be removed, and need not.
        let list = |kind| self.try_ctr(&[kind, "list", "--quiet"]).unwrap_or_default();
        for id in list("tasks").lines() {
            let _ = self.try_ctr(&["tasks", "kill", "--all", "--signal", "SIGKILL", id]);
            let _ = self.try_ctr(&["tasks", "delete", "--force", id]);
        }
        for id in list("containers").lines() {
            let _ = self.try_ctr(&["containers", "delete", id]);
        }
        for image in list("images").lines() {
            let _ = self.try_ctr(&["images", "delete", "--sync", image]);
        }
        let _ = self.try_ctr(&["namespaces", "remove", &self.name]);
        // containerd removes the groups and folders of containers, and not the namespace's around them.
        cgroup::remove(&self.name);
        for folder in FOLDERS {
            let tasks = Path::new(folder).join("io.containerd.runtime.v2.task");
            let _ = std::fs::remove_dir(tasks.join(&self.name));
        }
    }
}

/// Whether a namespace is that of a test that runs no more.
fn is_left(name: &str) -> bool {
    let pid = name
        .strip_prefix(PREFIX)
        .and_then(|it| it.split('-').next());
    pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists())
}
