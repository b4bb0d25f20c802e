//! Running programs for the oracle to look at: each waits until it is told to start, works, says
//! that it has, and stays until it is told to leave, so that its mappings can still be read.

use std::any::Any;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::Process;
use crate::target_dir;

/// A running program; killed when dropped.
pub struct Program {
    process: Process,
    /// The process to look at, which need not be the one that was started.
    pub pid: u32,
    go: Vec<u8>,
    done: String,
    /// Files and other processes that it needs; dropped after it.
    needs: Vec<Box<dyn Any>>,
}

impl Program {
    /// Starts a program under the protocol of the oracle's own programs: it writes `ready PID`,
    /// waits for a line, works, writes `done`, and waits for the end of its stdin.
    pub fn scripted(command: &mut Command) -> Program {
        let process = Process::spawn(command);
        process.stdout_line("ready");
        Program::talking(process, b"g\n".to_vec(), "done")
    }

    /// A process that reads its work from stdin, and has worked when it writes a line that starts
    /// with `done`.
    pub fn talking(process: Process, go: Vec<u8>, done: &str) -> Program {
        Program {
            pid: process.pid(),
            process,
            go,
            done: done.to_string(),
            needs: Vec::new(),
        }
    }

    /// Looks at another process than the one that was started.
    pub fn with_pid(self, pid: u32) -> Program {
        Program { pid, ..self }
    }

    /// Keeps something until the program has ended.
    pub fn with(mut self, needed: impl Any) -> Program {
        self.needs.push(Box::new(needed));
        self
    }

    /// Lets it work, and waits until it has.
    pub fn work(&mut self) {
        self.process.send(&self.go);
        self.process.stdout_line(&self.done);
    }

    /// Lets it leave. Panics unless it ends well: it was not harmed.
    pub fn end(self) {
        let Program {
            mut process, needs, ..
        } = self;
        process.close_stdin();
        let (status, _, stderr) = process.end();
        assert!(
            status.success(),
            "the program ended with {status}: {stderr}"
        );
        drop(needs);
    }
}

/// A source of the oracle's programs.
pub fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("oracle")
        .join(name)
}

/// One of the oracle's programs that `cargo xtask oracle` built.
pub fn built(name: &str) -> PathBuf {
    fixture(&format!("oracle/{name}"))
}

/// What was stripped from the musl that some of them run on.
pub fn debug_files() -> Vec<PathBuf> {
    let variants = ["O2", "Os"].into_iter();
    variants
        .map(|variant| fixture(&format!("musl-debug/{variant}/libc.so")))
        .collect()
}

fn fixture(name: &str) -> PathBuf {
    let fixtures = match std::env::var_os("LEAKPROBE_FIXTURES") {
        Some(folder) => folder.into(),
        None => target_dir().join("fixtures"),
    };
    let path = fixtures.join(name);
    path.canonicalize().unwrap_or_else(|error| {
        panic!(
            "there is no {} ({error}): run `cargo xtask oracle`",
            path.display()
        )
    })
}
