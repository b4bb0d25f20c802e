//! Who was recorded, and how they have ended; `leakprobe ps`.

use serde::Deserialize;

use super::Totals;

/// One of many processes.
#[derive(Clone, Debug, Deserialize)]
pub struct ProcessReport {
    /// PID as seen from outside.
    pub pid: u32,
    /// Who forked it.
    pub parent: Option<u32>,
    /// Nanoseconds after the start.
    pub from_ns: u64,
    /// Nanoseconds after the start at which it ended.
    pub until_ns: Option<u64>,
    /// Whether it executed another program then.
    pub exec: bool,
    /// Why it ended.
    pub cause: Option<String>,
    /// The signal, if that was why.
    pub signal: Option<u8>,
    /// Its blocks.
    #[serde(flatten)]
    pub totals: Totals,
    /// Bytes of which it has a copy.
    pub inherited_bytes: u64,
    /// Blocks of which it has a copy.
    pub inherited_count: u64,
    /// Blocks of these that it freed.
    pub inherited_freed_count: u64,
}

/// What of a stack is in one process.
#[derive(Clone, Debug, Deserialize)]
pub struct ProcessShare {
    /// Its PID.
    pub pid: u32,
    /// Bytes.
    pub live_bytes: u64,
    /// Blocks.
    pub live_count: u64,
}

/// Who was profiled.
#[derive(Clone, Debug, Deserialize)]
pub struct Target {
    /// PID as seen from outside.
    pub pid: u32,
    /// PID as the process sees it.
    pub ns_pid: u32,
    /// Name of the main thread.
    pub comm: String,
    /// Path of the executable.
    pub exe: Option<String>,
    /// Clock ticks since boot.
    pub start_time: u64,
    /// The container it is in.
    pub container: Option<Container>,
}

/// A container.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Container {
    /// Whole id.
    pub id: String,
    /// `docker` and so on.
    pub runtime: Option<String>,
    /// Its name.
    pub name: Option<String>,
    /// UID of its pod.
    pub pod_uid: Option<String>,
    /// Name of its pod.
    pub pod_name: Option<String>,
    /// Namespace of its pod.
    pub namespace: Option<String>,
}

/// What `leakprobe ps --format json` says.
#[derive(Clone, Debug, Deserialize)]
pub struct List {
    /// Version of the format: 1.
    pub schema: u32,
    /// Between the two looks, nanoseconds.
    pub interval_ns: u64,
    /// One each.
    pub processes: Vec<Listed>,
}

/// A process in a list.
#[derive(Clone, Debug, Deserialize)]
pub struct Listed {
    /// PID as seen from outside.
    pub pid: u32,
    /// Effective user.
    pub uid: u32,
    /// Name of that user.
    pub user: Option<String>,
    /// The container it is in.
    pub container: Option<Container>,
    /// What it allocates with.
    pub allocator: Option<String>,
    /// Resident memory, bytes.
    pub rss_bytes: u64,
    /// What that has grown, bytes.
    pub growth_bytes: i64,
    /// Name of the main thread.
    pub comm: String,
    /// Path of the executable.
    pub exe: Option<String>,
}

/// The end of a process.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Death {
    /// Whose.
    pub pid: u32,
    /// Nanoseconds after the start of the recording.
    pub at_ns: u64,
    /// `exit`, `signal`, `oom_kill` or `unknown`.
    pub cause: String,
    /// Of an exit.
    pub exit_status: Option<u8>,
    /// Its number.
    pub signal: Option<u8>,
    /// Its name.
    pub signal_name: Option<String>,
    /// Of a signal.
    pub core_dumped: Option<bool>,
    /// Of a process that was killed for want of memory.
    pub cgroup_limit_bytes: Option<u64>,
    /// Likewise.
    pub cgroup_usage_bytes: Option<u64>,
}
