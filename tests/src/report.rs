//! The JSON report as an outsider reads it (docs/json.md): its own types, not leakprobe's, so that
//! the format cannot change unnoticed.

use std::collections::BTreeMap;

use serde::Deserialize;

/// A report of schema 1.
#[derive(Clone, Debug, Deserialize)]
pub struct Report {
    /// Version of the format: 1.
    pub schema: u32,
    /// The process.
    pub target: Target,
    /// From the first probe counting to the snapshot, in nanoseconds.
    pub duration_ns: u64,
    /// How the process ended, if it did.
    pub death: Option<Death>,
    /// What was probed; not in growth mode.
    pub allocator: Option<Allocator>,
    /// Others that were probed.
    #[serde(default)]
    pub other_allocators: Vec<Allocator>,
    /// Only in growth mode: how it was recorded.
    pub growth: Option<Growth>,
    /// Only of a sample: how it was taken.
    pub sampling: Option<Sampling>,
    /// What the recording has cost; `None` where it was not measured.
    pub overhead: Option<Overhead>,
    /// What was done to keep it within a budget.
    pub budget: Option<Budget>,
    /// Live bytes that may have been freed unseen.
    pub unconfirmed_bytes: Option<u64>,
    /// Sums over all stacks.
    pub totals: Totals,
    /// How all live bytes have changed.
    #[serde(default)]
    pub live_growth: LiveGrowth,
    /// What was left out, if something was to be.
    pub suppressed: Option<Suppressed>,
    /// What the stacks are sorted by.
    #[serde(default)]
    pub sorted_by: String,
    /// The most that was live; not in growth mode.
    pub peak: Option<Peak>,
    /// Only of a sample: where the live totals truly lie.
    pub interval: Option<Interval>,
    /// What becomes of the memory.
    pub verdict: Option<Verdict>,
    /// Where the resident memory is.
    pub account: Option<Account>,
    /// What the allocator has and keeps.
    pub heap: Option<Heap>,
    /// How much was resident over time.
    pub rss: Option<Rss>,
    /// Complete or partial, and why.
    pub evidence: Evidence,
    /// The processes, if many were recorded.
    #[serde(default)]
    pub processes: Vec<ProcessReport>,
    /// Stacks, the first ones first.
    pub stacks: Vec<Stack>,
    /// What is mapped beside the blocks.
    pub mappings: Option<Mappings>,
}

/// What is mapped beside the blocks.
#[derive(Clone, Debug, Deserialize)]
pub struct Mappings {
    /// Sum of the program's.
    pub program: Mapped,
    /// Sum of the allocator's.
    pub allocator: Mapped,
    /// What the kernel was told that it may take back.
    pub advised: Advised,
    /// What was not seen, bytes.
    pub unexplained_bytes: Option<u64>,
    /// By stack.
    pub stacks: Vec<MappedStack>,
}

/// What the kernel was told that it may take back.
#[derive(Clone, Debug, Deserialize)]
pub struct Advised {
    /// By the program.
    pub program: Mapped,
    /// By an allocator.
    pub allocator: Mapped,
}

/// What a stack has mapped.
#[derive(Clone, Debug, Deserialize)]
pub struct MappedStack {
    /// `program`, `allocator` or `runtime`.
    pub owner: String,
    /// How much.
    #[serde(flatten)]
    pub mapped: Mapped,
    /// What of it is memory.
    pub resident_bytes: Option<u64>,
    /// Leaf first.
    pub frames: Vec<Frame>,
}

impl MappedStack {
    /// The names of its frames, leaf first.
    pub fn names(&self) -> Vec<&str> {
        names(&self.frames)
    }
}

/// The names of frames; `?` where there is none.
pub fn names(frames: &[Frame]) -> Vec<&str> {
    let names = frames.iter().map(|frame| frame.function.as_deref());
    names.map(|name| name.unwrap_or("?")).collect()
}

/// Where the resident memory of a process is.
#[derive(Clone, Debug, Deserialize)]
pub struct Account {
    /// When, nanoseconds after the start.
    pub at_ns: u64,
    /// By the kernel's counters.
    pub rss_bytes: u64,
    /// At the start.
    pub start_rss_bytes: Option<u64>,
    /// What it is made of.
    pub lines: Vec<AccountLine>,
    /// The rest.
    pub unexplained_bytes: i64,
    /// Sentences.
    pub notes: Vec<String>,
}

/// A line of an account.
#[derive(Clone, Debug, Deserialize)]
pub struct AccountLine {
    /// What it is about.
    pub kind: String,
    /// Resident bytes.
    pub bytes: u64,
    /// At the start.
    pub start_bytes: Option<u64>,
    /// Of thread stacks: threads beside the first.
    pub count: Option<u64>,
    /// At the start.
    pub start_count: Option<u64>,
}

impl Account {
    /// Bytes of all lines of these kinds.
    pub fn bytes(&self, kinds: &[&str]) -> u64 {
        let lines = self.lines.iter();
        let lines = lines.filter(|line| kinds.contains(&line.kind.as_str()));
        lines.map(|line| line.bytes).sum()
    }

    /// By how much they have grown since the start.
    pub fn growth(&self, kinds: &[&str]) -> i64 {
        let lines = self.lines.iter();
        let lines = lines.filter(|line| kinds.contains(&line.kind.as_str()));
        let start = lines.map(|line| line.start_bytes.expect("an account of the start"));
        self.bytes(kinds) as i64 - start.sum::<u64>() as i64
    }
}

/// Resident memory over time.
#[derive(Clone, Debug, Deserialize)]
pub struct Rss {
    /// At the start.
    pub start_bytes: u64,
    /// At the end.
    pub end_bytes: u64,
    /// The most.
    pub peak_bytes: u64,
    /// Limit of the control group.
    pub limit_bytes: Option<u64>,
    /// Nanoseconds, resident and live bytes.
    pub series: Vec<[u64; 3]>,
}

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

/// A recording of growth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Growth {
    /// One page in so many was recorded.
    pub sample_pages: u64,
    /// The process's own memory at the attach, bytes.
    pub own_bytes_before: u64,
    /// At the end.
    pub own_bytes: u64,
    /// What is mapped.
    pub mapped: Option<Mapped>,
}

/// Addresses that were mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Mapped {
    /// Bytes still mapped.
    pub bytes: u64,
    /// Calls of which something is.
    pub count: u64,
}

/// The allocator.
#[derive(Clone, Debug, Deserialize)]
pub struct Allocator {
    /// `glibc`, `musl`, or a file name.
    pub name: String,
    /// Where it is.
    pub path: String,
}

/// Bytes and blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Totals {
    /// Bytes allocated and not freed.
    pub live_bytes: u64,
    /// Blocks allocated and not freed.
    pub live_count: u64,
    /// Bytes allocated.
    pub allocated_bytes: u64,
    /// Blocks allocated.
    pub allocated_count: u64,
    /// Bytes of those that were freed.
    pub freed_bytes: u64,
    /// Blocks of those that were freed.
    pub freed_count: u64,
}

impl std::ops::AddAssign for Totals {
    fn add_assign(&mut self, other: Totals) {
        self.live_bytes += other.live_bytes;
        self.live_count += other.live_count;
        self.allocated_bytes += other.allocated_bytes;
        self.allocated_count += other.allocated_count;
        self.freed_bytes += other.freed_bytes;
        self.freed_count += other.freed_count;
    }
}

/// How live bytes have changed.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct LiveGrowth {
    /// How fast; `None` if too little was seen.
    pub bytes_per_second: Option<f64>,
    /// Not less than this.
    pub low: Option<f64>,
    /// Not more than this.
    pub high: Option<f64>,
    /// `growing`, `levelled_off`, `flat` or `unknown`.
    pub trend: String,
}

/// Known stacks that were left out.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Suppressed {
    /// How many.
    pub stacks: u64,
    /// Live bytes of theirs.
    pub live_bytes: u64,
    /// Live blocks of theirs.
    pub live_count: u64,
    /// By rule.
    pub rules: Vec<RuleUse>,
}

/// What a rule has left out.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct RuleUse {
    /// As it was written.
    pub rule: String,
    /// How many stacks.
    pub stacks: u64,
    /// Live bytes of theirs.
    pub live_bytes: u64,
}

/// The most that was live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Peak {
    /// Bytes.
    pub live_bytes: u64,
    /// Nanoseconds after the start of the recording.
    pub at_ns: Option<u64>,
}

/// How a sample was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Sampling {
    /// One block was recorded in about so many bytes.
    pub sample_bytes: u64,
    /// Whether that was another number before.
    pub changed: bool,
}

/// What was done to keep a budget.
#[derive(Clone, Debug, Deserialize)]
pub struct Budget {
    /// What was allowed.
    pub percent: f64,
    /// What was changed, and when.
    pub steps: Vec<BudgetStep>,
    /// How often the probes were taken away.
    pub windows: u64,
    /// Of the work, in which the probes were in place.
    pub seen_percent: f64,
}

/// A change.
#[derive(Clone, Debug, Deserialize)]
pub struct BudgetStep {
    /// Nanoseconds after the start.
    pub at_ns: u64,
    /// One block is recorded in so many bytes.
    pub sample_bytes: u64,
    /// Whether the probes are in place now and then only.
    pub windows: bool,
}

/// What a function has cost.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct FunctionCost {
    /// Its name.
    pub function: String,
    /// How often it was called.
    pub calls: u64,
    /// How often that was followed.
    pub followed: u64,
    /// Nanoseconds.
    pub overhead_ns: u64,
}

/// What a recording has cost the process, estimated.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Overhead {
    /// Of its CPU time.
    pub percent: u64,
    /// Time in programs, nanoseconds.
    pub handler_ns: u64,
    /// Time for traps, nanoseconds.
    pub trap_ns: u64,
    /// Traps.
    pub hits: u64,
    /// CPU time, nanoseconds.
    pub cpu_ns: u64,
    /// By function.
    pub functions: Vec<FunctionCost>,
}

/// Low and high ends of what a sample tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Interval {
    /// Bytes.
    pub live_bytes: (u64, u64),
    /// Blocks.
    pub live_count: (u64, u64),
}

/// What speaks for and against the figures.
#[derive(Clone, Debug, Deserialize)]
pub struct Evidence {
    /// `complete` or `partial`.
    pub verdict: String,
    /// Counts above zero by name.
    pub losses: BTreeMap<String, u64>,
    /// Sentences.
    pub notes: Vec<String>,
}

/// What becomes of the memory.
#[derive(Clone, Debug, Deserialize)]
pub struct Verdict {
    /// `leak`, `retained_by_allocator`, `runtime_heap`, `peak`, `steady` or `not_enough_evidence`.
    pub kind: String,
    /// `low`, `medium` or `high`.
    pub confidence: String,
    /// Stacks that leak.
    #[serde(default)]
    pub stacks: Vec<Suspect>,
    /// How many there are.
    pub leaking_stacks: u64,
    /// Whether it is of mappings.
    pub is_mapped: bool,
    /// Of a runtime's heap: `v8`, `jvm` or `metaspace`.
    pub runtime: Option<String>,
    /// Seconds until the control group's limit is reached.
    pub seconds_until_limit: Option<f64>,
}

/// A stack that leaks.
#[derive(Clone, Debug, Deserialize)]
pub struct Suspect {
    /// Its frames, leaf first.
    pub frames: Vec<Frame>,
    /// Bytes.
    pub live_bytes: u64,
}

/// What the allocator has and keeps, as far as tests look at it.
#[derive(Clone, Debug, Deserialize)]
pub struct Heap {
    /// Whose blocks keep free memory from going back.
    pub pins: Vec<Pin>,
}

/// A stack whose blocks do that.
#[derive(Clone, Debug, Deserialize)]
pub struct Pin {
    /// How many blocks.
    pub blocks: u64,
    /// Of free memory, bytes.
    pub resident_bytes: u64,
    /// Leaf first.
    pub frames: Vec<Frame>,
}

/// One stack.
#[derive(Clone, Debug, Deserialize)]
pub struct Stack {
    /// Its bytes and blocks.
    #[serde(flatten)]
    pub totals: Totals,
    /// The most it had live; not in growth mode.
    pub peak_bytes: Option<u64>,
    /// What it had live when all stacks together had the most.
    pub at_peak_bytes: Option<u64>,
    /// Of what it allocates, the part that is live at an age.
    pub survival: Option<BTreeMap<String, f64>>,
    /// Only of a sample: where the live figures truly lie.
    pub interval: Option<Interval>,
    /// Only in growth mode: what it has mapped.
    pub mapped: Option<Mapped>,
    /// Age of the oldest live block in nanoseconds.
    pub oldest_ns: Option<u64>,
    /// Age of the newest live block in nanoseconds.
    pub newest_ns: Option<u64>,
    /// Whose its live blocks are, if many processes were recorded.
    #[serde(default)]
    pub processes: Vec<ProcessShare>,
    /// How its live bytes have changed.
    #[serde(default)]
    pub growth: LiveGrowth,
    /// Why it is not whole; `None` if it is.
    pub end: Option<String>,
    /// Leaf first.
    pub frames: Vec<Frame>,
}

impl Stack {
    /// The names of its frames, leaf first; `?` where there is none.
    pub fn names(&self) -> Vec<&str> {
        names(&self.frames)
    }
}

/// One frame; what is not known is left out.
#[derive(Clone, Debug, Deserialize)]
pub struct Frame {
    /// Demangled name.
    pub function: Option<String>,
    /// File name of the object.
    pub module: Option<String>,
    /// Address in the object's file.
    pub offset: Option<u64>,
    /// Source file.
    pub file: Option<String>,
    /// Source line.
    pub line: Option<u32>,
    /// Inlined into the next frame.
    pub inlined: bool,
}
