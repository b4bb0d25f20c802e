//! The JSON report as an outsider reads it (docs/json.md): its own types, not leakprobe's, so that
//! the format cannot change unnoticed.

mod cost;
mod memory;
mod processes;
mod verdict;

use std::collections::BTreeMap;

use serde::Deserialize;

pub use cost::*;
pub use memory::*;
pub use processes::*;
pub use verdict::*;

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

/// The names of frames; `?` where there is none.
pub fn names(frames: &[Frame]) -> Vec<&str> {
    let names = frames.iter().map(|frame| frame.function.as_deref());
    names.map(|name| name.unwrap_or("?")).collect()
}
