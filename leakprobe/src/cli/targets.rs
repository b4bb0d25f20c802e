//! Which processes are meant: the options that recording and `leakprobe ps` share, and those of
//! `leakprobe ps`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, ValueEnum, ValueHint};

use super::args::StdoutFormat;
use super::values;
use crate::target::Selector;

/// Running processes, in any of the ways to say which.
#[derive(Debug, Args)]
pub struct TargetArgs {
    /// Process to attach to; repeatable
    ///
    /// The number as `ps` shows it here, outside of any container the process may be in. All its
    /// threads are watched.
    #[arg(short, long = "pid", value_name = "PID", value_parser = values::pid, value_hint = ValueHint::Other, help_heading = "Target")]
    pub pids: Vec<u32>,

    /// All processes of this container
    ///
    /// By its id or the beginning of it, at least three characters: of Docker, containerd, CRI-O and podman,
    /// also as Kubernetes shows it (`containerd://...`), and of containerd as NAMESPACE/ID. By its name where
    /// the runtime tells it: Docker's socket (DOCKER_HOST=unix://PATH names another), or the files of the
    /// others.
    #[arg(long, value_name = "NAME|ID", value_parser = NonEmptyStringValueParser::new(), value_hint = ValueHint::Other, help_heading = "Target")]
    pub container: Option<String>,

    /// All processes of this control group, and of those below it
    ///
    /// The path of its directory, or its path as /proc/PID/cgroup shows it. Version 1 or 2.
    #[arg(long, value_name = "PATH", value_hint = ValueHint::DirPath, help_heading = "Target")]
    pub cgroup: Option<PathBuf>,

    /// The process of this name
    ///
    /// The name of its main thread, as `ps -o comm` shows it: 15 bytes at the most. If there are
    /// several, they are listed, to choose from with --pid.
    #[arg(long, value_name = "NAME", value_hint = ValueHint::CommandName, help_heading = "Target")]
    pub comm: Option<OsString>,

    /// The process that executes this file
    ///
    /// The whole path, as in its container; or a file of this machine. If there are several, they
    /// are listed, to choose from with --pid.
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath, help_heading = "Target")]
    pub exe: Option<PathBuf>,
}

impl TargetArgs {
    /// What was given, in this order.
    pub fn selectors(self) -> Vec<Selector> {
        let pids = self.pids.into_iter().map(Selector::Pid);
        pids.chain(self.container.map(Selector::Container))
            .chain(self.cgroup.map(Selector::Cgroup))
            .chain(self.comm.map(Selector::Comm))
            .chain(self.exe.map(Selector::Exe))
            .collect()
    }
}

/// What there is to say to `leakprobe ps`.
#[derive(Debug, Args)]
pub struct PsArgs {
    /// The processes to list; all, if none is named.
    #[command(flatten)]
    pub targets: TargetArgs,

    /// Time between the two looks
    ///
    /// What a process has grown is the difference of its resident memory between them.
    #[arg(long, value_parser = values::duration, value_name = "TIME", default_value = "2s", value_hint = ValueHint::Other, help_heading = "List")]
    pub interval: Duration,

    /// What comes first
    #[arg(
        long,
        value_enum,
        value_name = "BY",
        default_value = "rss",
        help_heading = "List"
    )]
    pub sort: Sort,

    /// Format of the list on stdout
    #[arg(long, value_enum, default_value = "text", help_heading = "List")]
    pub format: StdoutFormat,
}

/// What the list of processes is sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Sort {
    /// The most resident memory
    Rss,
    /// The most growth
    Growth,
}
