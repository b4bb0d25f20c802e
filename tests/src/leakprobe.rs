//! Running leakprobe as a command, in a folder of its own.

use std::ffi::OsStr;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::process::Process;
use crate::report::Report;
use crate::{LIMIT, leakprobe_path};

/// A running leakprobe; killed when dropped.
pub struct Leakprobe {
    process: Process,
    folder: TempDir,
}

impl Leakprobe {
    /// Attaches to a process, with a JSON report as output, and waits until it records.
    pub fn attach(pid: u32, extra: &[&str]) -> Leakprobe {
        let pid = pid.to_string();
        let mut args = vec!["--pid", &pid, "-o", "report.json"];
        args.extend_from_slice(extra);
        let leakprobe = Leakprobe::start(&args);
        leakprobe.wait_until_recording();
        leakprobe
    }

    /// Starts it with these arguments in a new folder, and does not wait for anything.
    pub fn start(args: &[&str]) -> Leakprobe {
        Leakprobe::start_by(Command::new(leakprobe_path()).args(args))
    }

    /// The same for a command that ends up in leakprobe, such as `setpriv`.
    pub fn start_by(command: &mut Command) -> Leakprobe {
        let folder = TempDir::new().expect("failed to make a temporary folder");
        Leakprobe::start_in(folder, command)
    }

    /// The same in this folder.
    pub fn start_in(folder: TempDir, command: &mut Command) -> Leakprobe {
        // Also for a leakprobe that is run as another user.
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o777))
            .expect("failed to set permissions");
        let mut process = Process::spawn(command.current_dir(folder.path()));
        process.close_stdin();
        Leakprobe { process, folder }
    }

    /// Its PID.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The folder it runs in.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Waits until it says that all probes count.
    pub fn wait_until_recording(&self) {
        self.process.stderr_line("recording ");
    }

    /// Waits until it prints a line with this text in it.
    pub fn wait_for_output(&self, text: &str) {
        while !self.process.line(text).contains(text) {}
    }

    /// Waits until it says a line on stderr that starts like this; gives the whole line.
    pub fn wait_until_it_says(&self, start: &str) -> String {
        self.process.stderr_line(start)
    }

    /// Waits until it says something on stderr with this in it.
    pub fn wait_until_it_mentions(&self, part: &str) -> String {
        self.process.stderr_line_with(part)
    }

    /// The JSON report of this name that it has left already.
    pub fn report(&self, name: &str) -> Report {
        read_report(&self.folder.path().join(name))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Ends it as Ctrl-C does. Panics unless it ends with 0.
    pub fn interrupt(self) -> Outcome {
        self.signal(Signal::INT);
        self.finish()
    }

    /// Waits until it ends by itself. Panics unless it ends with 0.
    pub fn finish(self) -> Outcome {
        self.finish_within(LIMIT)
    }

    /// The same for a recording that takes longer.
    pub fn finish_within(self, limit: Duration) -> Outcome {
        let outcome = self.end_within(limit);
        assert_eq!(
            outcome.status.code(),
            Some(0),
            "leakprobe ended with {}; its stderr:\n{}",
            outcome.status,
            outcome.stderr
        );
        outcome
    }

    /// Waits until it ends, in whatever way.
    pub fn end(self) -> Outcome {
        self.end_within(LIMIT)
    }

    fn end_within(self, limit: Duration) -> Outcome {
        let (status, stdout, stderr) = self.process.end_within(limit);
        Outcome {
            status,
            stdout,
            stderr,
            folder: self.folder,
        }
    }
}

/// What is left of a leakprobe that has ended.
pub struct Outcome {
    /// How it ended.
    pub status: ExitStatus,
    /// All it wrote on stdout.
    pub stdout: String,
    /// All it wrote on stderr.
    pub stderr: String,
    folder: TempDir,
}

impl Outcome {
    /// The folder it ran in and wrote to.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The names of the files it wrote, sorted.
    pub fn files(&self) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.folder())
            .expect("failed to list the temporary folder")
            .map(|entry| {
                let name = entry.expect("failed to list the temporary folder");
                OsStr::to_string_lossy(&name.file_name()).into_owned()
            })
            .collect();
        names.sort();
        names
    }

    /// The text of a file it wrote.
    pub fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder().join(name)).unwrap_or_else(|error| {
            panic!(
                "leakprobe left no readable `{name}` ({error}), but {:?}; its stderr:\n{}",
                self.files(),
                self.stderr
            )
        })
    }

    /// The JSON report.
    pub fn report(&self) -> Report {
        self.report_in("report.json")
    }

    /// The JSON report of another name.
    pub fn report_in(&self, name: &str) -> Report {
        self.file(name); // says more if there is none
        read_report(&self.folder().join(name))
    }
}

fn read_report(path: &Path) -> Report {
    let text = std::fs::read_to_string(path)
        .unwrap_or_else(|error| panic!("{} cannot be read: {error}", path.display()));
    serde_json::from_str(&text)
        .unwrap_or_else(|error| panic!("{} cannot be read: {error}", path.display()))
}
