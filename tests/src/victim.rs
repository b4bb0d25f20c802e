//! Victims: programs that allocate when told, and tell exactly what they did (tests/victims).

use std::process::{Command, ExitStatus};

use rustix::process::Signal;
use serde::Deserialize;

use crate::process::Process;
use crate::victim_path;

/// What a victim did between the go byte and its summary. Bytes are as requested.
#[derive(Clone, Debug, Deserialize)]
pub struct Summary {
    /// Its name.
    pub victim: String,
    /// Where it left blocks behind.
    pub leaks: Vec<Leak>,
    /// Bytes allocated.
    pub allocated_bytes: u64,
    /// Blocks allocated.
    pub allocated_count: u64,
    /// Bytes of those that were freed.
    pub freed_bytes: u64,
    /// Blocks of those that were freed.
    pub freed_count: u64,
    /// Frees of blocks from before the go byte.
    #[serde(default)]
    pub unknown_frees: u64,
}

/// Blocks left behind at one place.
#[derive(Clone, Debug, Deserialize)]
pub struct Leak {
    /// Function names, leaf first: a stack has to begin with them.
    pub stack: Vec<String>,
    /// The names may stand anywhere in the stack, but one after the other.
    #[serde(default)]
    pub anywhere: bool,
    /// Bytes left.
    pub bytes: u64,
    /// Blocks left.
    pub count: u64,
}

/// A running victim; killed when dropped.
pub struct Victim {
    process: Process,
}

impl Victim {
    /// Starts the victim `name` in the flavor `glibc`, `glibc-static`, `musl` or `musl-static`,
    /// and waits until it is ready.
    pub fn spawn(flavor: &str, name: &str) -> Victim {
        Victim::spawn_with(flavor, name, &[])
    }

    /// The same with arguments.
    pub fn spawn_with(flavor: &str, name: &str, args: &[&str]) -> Victim {
        Victim::start(Command::new(victim_path(flavor, name)).args(args))
    }

    /// Starts any command that keeps to the protocol, and waits until it is ready.
    pub fn start(command: &mut Command) -> Victim {
        let victim = Victim {
            process: Process::spawn(command),
        };
        victim.wait_until_ready();
        victim
    }

    /// Starts a command by which the victim gets another PID, such as `docker run`, and waits until it
    /// is ready. Its PID and signals are then those of the command.
    pub fn start_elsewhere(command: &mut Command) -> Victim {
        let victim = Victim {
            process: Process::spawn(command),
        };
        let line = victim.process.line("ready");
        assert!(line.starts_with("ready "), "the victim says `{line}`");
        victim
    }

    /// Waits for a `ready` line; a victim that executes another one says it twice.
    pub fn wait_until_ready(&self) {
        let line = self.process.line("ready");
        assert_eq!(line, format!("ready {}", self.pid()));
    }

    /// Its PID.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Sends the go byte.
    pub fn go(&mut self) {
        self.order(b"g");
    }

    /// Sends other bytes, to a victim that knows them.
    pub fn order(&mut self, bytes: &[u8]) {
        self.process.send(bytes);
    }

    /// Waits for one line that it writes.
    pub fn line(&self) -> String {
        self.process.line("the victim's summary")
    }

    /// Waits for the summary.
    pub fn summary(&self) -> Summary {
        let line = self.line();
        serde_json::from_str(&line)
            .unwrap_or_else(|error| panic!("the summary `{line}` cannot be read: {error}"))
    }

    /// Kills it.
    pub fn kill(&self) {
        self.process.signal(Signal::KILL);
    }

    /// Tells it to leave.
    pub fn close_stdin(&mut self) {
        self.process.close_stdin();
    }

    /// Lets it leave and waits for its end.
    pub fn end(mut self) -> ExitStatus {
        self.process.close_stdin();
        self.process.end().0
    }

    /// Lets it leave; panics unless it ends with 0.
    pub fn end_well(self) {
        let status = self.end();
        assert!(status.success(), "the victim ended with {status}");
    }
}
