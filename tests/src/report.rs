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
    /// What was probed; not in growth mode.
    pub allocator: Option<Allocator>,
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
    /// Only of a sample: where the live totals truly lie.
    pub interval: Option<Interval>,
    /// Complete or partial, and why.
    pub evidence: Evidence,
    /// Stacks, most live bytes first.
    pub stacks: Vec<Stack>,
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

/// One stack.
#[derive(Clone, Debug, Deserialize)]
pub struct Stack {
    /// Its bytes and blocks.
    #[serde(flatten)]
    pub totals: Totals,
    /// Only of a sample: where the live figures truly lie.
    pub interval: Option<Interval>,
    /// Only in growth mode: what it has mapped.
    pub mapped: Option<Mapped>,
    /// Age of the oldest live block in nanoseconds.
    pub oldest_ns: Option<u64>,
    /// Age of the newest live block in nanoseconds.
    pub newest_ns: Option<u64>,
    /// Why it is not whole; `None` if it is.
    pub end: Option<String>,
    /// Leaf first.
    pub frames: Vec<Frame>,
}

impl Stack {
    /// The names of its frames, leaf first; `?` where there is none.
    pub fn names(&self) -> Vec<&str> {
        self.frames
            .iter()
            .map(|frame| frame.function.as_deref().unwrap_or("?"))
            .collect()
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
