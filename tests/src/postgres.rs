//! A PostgreSQL server of a test's own, in a temporary folder, which it reaches by a socket there.

use std::os::unix::fs::chown;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::node::output;
use crate::process::Process;

const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";

/// A running server; killed when dropped.
pub struct Server {
    /// Dropped before its folder.
    process: Process,
    folder: TempDir,
}

impl Server {
    /// Makes a cluster and waits until its server can be asked.
    pub fn start() -> Server {
        let folder = TempDir::new().expect("failed to make a temporary folder");
        let number_of = |option| {
            let number = output(Command::new("id").args([option, "postgres"]));
            let number = number.expect("there is a user postgres");
            number.parse().expect("an id is a number")
        };
        let (user, group) = (number_of("-u"), number_of("-g"));
        chown(folder.path(), Some(user), Some(group)).expect("failed to give a folder away");
        output(as_postgres("initdb", folder.path()).args([
            "-D",
            "data",
            "--auth=trust",
            "--no-sync",
            "--locale=C.UTF-8",
        ]))
        .expect("initdb makes a cluster");
        let process = Process::spawn(
            as_postgres("postgres", folder.path())
                .args(["-D", "data", "-F", "-h", "", "-k"])
                .arg(folder.path()),
        );
        process.stderr_line_with("ready to accept connections");
        Server { process, folder }
    }

    /// PID of the server's first process.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Where its socket is.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A client of this name that is told how to reach it.
    pub fn client(&self, name: &str) -> Command {
        let mut command = Command::new(Path::new(PROGRAMS).join(name));
        command.args(["-U", "postgres", "-h"]).arg(self.folder());
        command
    }
}

fn as_postgres(program: &str, folder: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=postgres", "--regid=postgres", "--clear-groups"])
        .arg(Path::new(PROGRAMS).join(program))
        .current_dir(folder);
    command
}
