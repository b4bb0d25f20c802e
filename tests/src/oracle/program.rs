//! Running programs for the oracle to look at: each waits until it is told to start, works, says
//! that it has, and stays until it is told to leave, so that its mappings can still be read.

use std::process::Command;

use crate::process::Process;

/// A running program; killed when dropped.
pub struct Program {
    process: Process,
    /// The process to look at, which need not be the one that was started.
    pub pid: u32,
    go: Vec<u8>,
    done: String,
}

impl Program {
    /// Starts a program under the protocol of the oracle's own programs: it writes `ready PID`,
    /// waits for a line, works, writes `done`, and waits for the end of its stdin.
    pub fn script(command: &mut Command) -> Program {
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
        }
    }

    /// Looks at another process than the one that was started.
    pub fn with_pid(self, pid: u32) -> Program {
        Program { pid, ..self }
    }

    /// Lets it work, and waits until it has.
    pub fn work(&mut self) {
        self.process.send(&self.go);
        self.process.stdout_line(&self.done);
    }

    /// Lets it leave. Panics unless it ends well: it was not harmed.
    pub fn end(mut self) {
        self.process.close_stdin();
        let (status, _, stderr) = self.process.end();
        assert!(
            status.success(),
            "the program ended with {status}: {stderr}"
        );
    }
}
