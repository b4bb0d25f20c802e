//! Docker containers of the two images that `cargo xtask image` makes: victims, and leakprobe itself.
//! It knows how to start them and by which PIDs they go; what leakprobe has to find is for the tests.
//! Nothing here skips: what is missing is a failure that says what to run.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::leakprobe::{Leakprobe, Outcome};
use crate::node::output;
use crate::process::Process;
use crate::victim::Summary;

/// The victims. No other image has their files, so nobody else pays for probes in them.
const VICTIMS: &str = "leakprobe-victims:1";

/// leakprobe; `LEAKPROBE_IMAGE` names another.
fn image() -> String {
    let own = concat!("leakprobe:", env!("CARGO_PKG_VERSION"));
    std::env::var("LEAKPROBE_IMAGE").unwrap_or_else(|_| own.to_owned())
}

/// A container by its name. Removed in the end, whatever happened.
#[derive(Debug)]
pub struct Container(String);

impl Container {
    fn new() -> Container {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Container(format!("leakprobe-box-{}-{number}", std::process::id()))
    }

    /// `docker run` without a network.
    fn run(&self, options: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.args(["run", "--rm", "--pull=never", "--interactive"]);
        command.args(["--network", "none"]);
        command.args(["--name", &self.0]).args(options);
        command
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // After a good run it is gone already: that it cannot be removed then is no error.
        let _ = output(Command::new("docker").args(["rm", "--force", &self.0]));
    }
}

/// A victim in a container.
pub struct Guest {
    /// Docker's client; dropped before the container.
    process: Process,
    container: Container,
    /// PID as this machine sees it.
    pub pid: u32,
    /// Its PIDs, from this machine's PID namespace down to its own.
    pub pids: Vec<u32>,
}

impl Guest {
    /// Starts the victim of a path such as `musl/malloc` and waits until it is ready. `options` are for
    /// `docker run`; `around` is a command that starts the victim as its child, or nothing.
    pub fn start(options: &[&str], around: &[&str], victim: &str) -> Guest {
        let container = Container::new();
        let mut command = container.run(options);
        command.arg(VICTIMS).args(around);
        command.arg(format!("/victims/{victim}"));
        let process = Process::spawn(&mut command);
        let line = process.line("ready");
        assert!(line.starts_with("ready "), "{line}");
        let mut inspect = Command::new("docker");
        inspect.args(["inspect", "--format", "{{.State.Pid}}", &container.0]);
        let first = output(&mut inspect).expect("Docker knows the container");
        let first = first.parse().expect("a PID");
        let pid = if around.is_empty() {
            first
        } else {
            only_child(first)
        };
        let pids = pids(pid);
        assert_eq!(line, format!("ready {}", pids[pids.len() - 1]));
        Guest {
            process,
            container,
            pid,
            pids,
        }
    }

    /// Its container's name, as `--pid container:NAME` wants it.
    pub fn share_pids(&self) -> String {
        format!("--pid=container:{}", self.container.0)
    }

    /// Its container's name.
    pub fn name(&self) -> &str {
        &self.container.0
    }

    /// Lets it do what this byte says, and does not wait for anything.
    pub fn order(&mut self, byte: u8) {
        self.process.send(&[byte]);
    }

    /// Waits until it ends, in whatever way.
    pub fn end(self) {
        self.process.end();
    }

    /// Lets it do what it does, and waits until it says what that was.
    pub fn go(&mut self) -> Summary {
        self.process.send(b"g");
        let line = self.process.line("the victim's summary");
        serde_json::from_str(&line)
            .unwrap_or_else(|error| panic!("the summary `{line}` cannot be read: {error}"))
    }

    /// Lets it execute the next victim, and waits until that is ready.
    pub fn step(&mut self) {
        self.process.send(b"g");
        let line = self.process.line("ready");
        assert!(line.starts_with("ready "), "{line}");
    }

    /// Lets it leave; panics unless it ends with 0.
    pub fn end_well(self) {
        let Guest { mut process, .. } = self;
        process.close_stdin();
        let (status, _, stderr) = process.end();
        assert!(status.success(), "the victim ended with {status}: {stderr}");
    }
}

/// leakprobe in a container of its own image.
pub struct Boxed {
    leakprobe: Leakprobe,
    /// Removed after leakprobe has ended.
    _container: Remains,
}

/// What is left of a container.
enum Remains {
    OfDocker { _container: Container },
    OfRunc { _bundle: Bundle },
}

impl Boxed {
    /// Starts it by Docker, with a report in JSON, and waits until it records. `options` are for
    /// `docker run`.
    pub fn attach(options: &[&str], args: &[&str]) -> Boxed {
        let container = Container::new();
        let folder = TempDir::new().expect("failed to make a temporary folder");
        let mut command = container.run(options);
        command.arg("--volume").arg(volume(folder.path()));
        command.arg(image()).args(args).args(REPORT);
        let leakprobe = Leakprobe::start_in(folder, &mut command);
        leakprobe.wait_until_recording();
        Boxed {
            leakprobe,
            _container: Remains::OfDocker {
                _container: container,
            },
        }
    }

    /// The same by runc, with these capabilities and no others, in the PID namespace of a process.
    /// Docker adds only the capabilities whose names it knows.
    pub fn attach_with(capabilities: &[&str], pid: u32, args: &[&str]) -> Boxed {
        let folder = TempDir::new().expect("failed to make a temporary folder");
        let args = [args, REPORT].concat();
        let bundle = Bundle::make(capabilities, pid, folder.path(), &args);
        let mut command = Command::new("runc");
        command.args(["run", "--bundle"]).arg(bundle.folder.path());
        let leakprobe = Leakprobe::start_in(folder, command.arg(&bundle.name));
        leakprobe.wait_until_recording();
        Boxed {
            leakprobe,
            _container: Remains::OfRunc { _bundle: bundle },
        }
    }

    /// Runs it by Docker to its end, without a report.
    pub fn run(options: &[&str], args: &[&str]) -> Outcome {
        let container = Container::new();
        Leakprobe::start_by(container.run(options).arg(image()).args(args)).end()
    }

    /// Waits until it ends, in whatever way.
    pub fn end(self) -> Outcome {
        self.leakprobe.end()
    }

    /// Ends it as Ctrl-C does; Docker's client and runc pass the signal on.
    pub fn interrupt(self) -> Outcome {
        self.leakprobe.signal(Signal::INT);
        self.leakprobe.finish()
    }
}

/// Where the report goes.
const REPORT: &[&str] = &["-o", "/out/report.json"];

/// What runc makes a container of: the files of the image, and a description.
struct Bundle {
    folder: TempDir,
    name: String,
}

impl Bundle {
    fn make(capabilities: &[&str], pid: u32, out: &Path, args: &[&str]) -> Bundle {
        let folder = TempDir::new().expect("failed to make a temporary folder");
        let run = |command: &mut Command| output(command).unwrap_or_else(|error| panic!("{error}"));
        let container = Container::new();
        run(Command::new("docker")
            .args(["create", "--network", "none", "--name", &container.0])
            .arg(image()));
        let root = folder.path().join("rootfs");
        std::fs::create_dir(&root).expect("failed to make a folder");
        let unpack = r#"docker export "$1" | tar -x -C "$2""#;
        run(Command::new("sh")
            .args(["-c", unpack, "sh", &container.0])
            .arg(&root));
        run(Command::new("runc")
            .args(["spec", "--bundle"])
            .arg(folder.path()));

        let path = folder.path().join("config.json");
        let text = std::fs::read_to_string(&path).expect("runc has made a description");
        let mut config: Value = serde_json::from_str(&text).expect("which is JSON");
        let sets = [
            "bounding",
            "effective",
            "permitted",
            "inheritable",
            "ambient",
        ];
        let sets = sets.map(|set| (set.to_owned(), json!(capabilities)));
        let process = &mut config["process"];
        process["capabilities"] = Value::Object(sets.into_iter().collect());
        process["terminal"] = json!(false);
        process["cwd"] = json!("/out");
        process["rlimits"] = json!([]);
        process["args"] = json!([&["/leakprobe"], args].concat());
        config["root"]["readonly"] = json!(true);
        let namespaces = config["linux"]["namespaces"].as_array_mut();
        for namespace in namespaces.expect("there are namespaces") {
            if namespace["type"] == "pid" {
                namespace["path"] = json!(format!("/proc/{pid}/ns/pid"));
            }
        }
        let mounts = config["mounts"].as_array_mut();
        mounts.expect("there are mounts").push(json!({
            "destination": "/out", "type": "bind", "source": out, "options": ["bind", "rw"]
        }));
        std::fs::write(&path, config.to_string()).expect("failed to write a description");
        let name = container.0.clone();
        Bundle { folder, name }
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        // As with Docker's.
        let _ = output(Command::new("runc").args(["delete", "--force", &self.name]));
    }
}

fn volume(folder: &Path) -> String {
    format!("{}:/out", folder.display())
}

/// The PIDs of a process, from this machine's PID namespace down to its own.
pub fn pids(pid: u32) -> Vec<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it has a status");
    let field = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    let numbers = field.expect("the status has NSpid").split_whitespace();
    numbers.map(|it| it.parse().expect("a PID")).collect()
}

/// The child of a process that has one.
pub fn only_child(pid: u32) -> u32 {
    let list = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let list = list.expect("the kernel tells the children of a process");
    list.trim()
        .parse()
        .unwrap_or_else(|_| panic!("`{list}` is not one child"))
}
