//! From addresses to frames, or the reason why not.

mod budget;
mod heap;
mod image;
mod lookup;
mod mappings;
mod names;
mod profile;
mod suppress;
mod symbols;
mod verdict;

pub use budget::{Budget, BudgetStep};
pub use heap::{HeapReport, NamedPin};
pub use mappings::{MappedStack, Mappings, Owner};
pub use names::Names;
pub use profile::{Choice, Header, View, profile};
pub use suppress::{RuleUse, Suppressed, Suppressions};
pub use verdict::{NamedSuspect, Verdict};

use std::sync::Arc;

use serde::Serialize;

use crate::analyze::account::Account;
use crate::analyze::growth::LiveGrowth;
use crate::analyze::rank::Rank;
use crate::analyze::rss::Rss;
use crate::analyze::survival::Survival;
use crate::overhead::Overhead;
use crate::sampling::Interval;
use crate::snapshot::{Cause, Death, Evidence, Mapped, Peak, Totals, Unconfirmed};
use crate::target::{AllocatorInfo, TargetInfo};

/// One frame. Absent facts are `None`, never invented. Names may hold any characters: whoever
/// prints them escapes them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Frame {
    /// Demangled function name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function: Option<Arc<str>>,
    /// File name (no folders) of the object the code is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub module: Option<Arc<str>>,
    /// Address within the module as its own ELF file counts (what `addr2line -e` takes), bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// Source file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<Arc<str>>,
    /// Line in the source file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// Whether the compiler inlined this function into the next frame.
    pub inlined: bool,
}

/// One of many processes that were recorded together.
#[derive(Clone, Debug, Serialize)]
pub struct ProcessReport {
    /// The process.
    #[serde(flatten)]
    pub target: TargetInfo,
    /// Number of its address space, as in the kernel side's keys.
    #[serde(skip)]
    pub space: u64,
    /// PID of the process that forked it, if that was recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<u32>,
    /// When it came, nanoseconds after the start.
    pub from_ns: u64,
    /// When it ended, nanoseconds after the start; `None` if it has not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until_ns: Option<u64>,
    /// Whether it ended by executing another program, which has an entry of its own.
    pub exec: bool,
    /// Why it ended; `None` if it has not, or executed another program.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// Its bytes and blocks.
    #[serde(flatten)]
    pub totals: Totals,
    /// Bytes that were live in its parent when it was forked: its copy of them is in no other figure.
    pub inherited_bytes: u64,
    /// Blocks likewise.
    pub inherited_count: u64,
    /// Bytes of those that it freed.
    pub inherited_freed_bytes: u64,
    /// Blocks likewise.
    pub inherited_freed_count: u64,
}

/// What of a stack's live blocks is in one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ProcessShare {
    /// Its PID.
    pub pid: u32,
    /// Bytes.
    pub live_bytes: u64,
    /// Blocks.
    pub live_count: u64,
}

/// One stack that allocated.
#[derive(Clone, Debug, Serialize)]
pub struct Stack {
    /// Its bytes and blocks.
    #[serde(flatten)]
    pub totals: Totals,
    /// Where its live figures truly lie; only of a sample whose blocks were read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<Interval>,
    /// The most that it had live; `None` in growth mode.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub peak: Option<Peak>,
    /// What becomes of what it allocates; only when blocks were read, and `None` in growth mode.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub survival: Option<Survival>,
    /// In growth mode: addresses it has mapped and not given back, which is not memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mapped: Option<Mapped>,
    /// What of it may have been freed unseen; only if the probes were away for a time.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub unconfirmed: Option<Unconfirmed>,
    /// Age of its oldest live block in nanoseconds; `None` when none is live.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_ns: Option<u64>,
    /// Age of its newest live block in nanoseconds; `None` when none is live.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub newest_ns: Option<u64>,
    /// Whose its live blocks are, most bytes first; empty if only one process was recorded.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub processes: Vec<ProcessShare>,
    /// How its live bytes have changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub growth: Option<LiveGrowth>,
    /// Why the frames end before the thread's start; `None` for a whole stack.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<&'static str>,
    /// Frames, leaf first: the first is the caller of the allocator function.
    pub frames: Vec<Frame>,
}

/// The most that all stacks together had live ([`crate::snapshot::WholePeak`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PeakReport {
    /// Bytes, which are the sum of [`Peak::at_peak_bytes`] of all stacks.
    pub live_bytes: u64,
    /// When, nanoseconds after the start; `None` if it was too little to note that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_ns: Option<u64>,
}

/// A recording that is a sample (docs/sampling.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Sampling {
    /// One block was recorded in about so many bytes, at the end; above 0.
    pub sample_bytes: u64,
    /// Whether it was another number before; [`Budget::steps`] has them.
    pub changed: bool,
}

impl Sampling {
    /// As asked for on the command line: `None` for 0.
    pub fn of(sample_bytes: u64) -> Option<Self> {
        (sample_bytes > 0).then_some(Self {
            sample_bytes,
            changed: false,
        })
    }
}

/// A recording of growth: of pages instead of blocks (docs/growth.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Growth {
    /// One in so many pages was recorded, a power of two; 1 is every page.
    pub sample_pages: u64,
    /// Memory that the process had for itself at the attach, resident or swapped out, bytes.
    pub own_bytes_before: u64,
    /// The same at the end, bytes.
    pub own_bytes: u64,
    /// Sum of what the stacks have mapped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mapped: Option<Mapped>,
}

/// All a report is made of. Serialized, it is the JSON report of schema 1 (docs/json.md).
#[derive(Clone, Debug, Serialize)]
pub struct Profile {
    /// Version of the JSON format: 1.
    pub schema: u32,
    /// The process.
    pub target: TargetInfo,
    /// From the first probe counting to the snapshot, in nanoseconds.
    pub duration_ns: u64,
    /// How the process ended; `None` if it had not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub death: Option<Death>,
    /// What was probed; `None` in growth mode, where nothing is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allocator: Option<AllocatorInfo>,
    /// Other objects that define `malloc` and were probed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub other_allocators: Vec<AllocatorInfo>,
    /// In growth mode, in which a block is a page, how that was recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub growth: Option<Growth>,
    /// How the sample was taken; `None` when every block was recorded. Then all figures of blocks
    /// and bytes are estimates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sampling: Option<Sampling>,
    /// What the recording has cost the target, estimated; `None` where it could not be measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overhead: Option<Overhead>,
    /// What the overhead was allowed to be, and what was done for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
    /// Sums over all stacks, suppressed ones included.
    pub totals: Totals,
    /// How the live bytes of all stacks together have changed, but for suppressed ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub live_growth: Option<LiveGrowth>,
    /// Stacks that are known and left out of everything but the totals; only if some were named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suppressed: Option<Suppressed>,
    /// The most that was live; `None` in growth mode.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak: Option<PeakReport>,
    /// What of the live figures may have been freed unseen; only if the probes were away for a time.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub unconfirmed: Option<Unconfirmed>,
    /// Where the live totals truly lie; only of a sample whose blocks were read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<Interval>,
    /// Where the resident memory is; `None` if that could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<Account>,
    /// What its allocator has and keeps; `None` where its books could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heap: Option<HeapReport>,
    /// How much was resident over time; `None` if that could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rss: Option<Rss>,
    /// What becomes of the memory; `None` in the short form that is printed meanwhile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// Complete or partial, and why.
    pub evidence: Evidence,
    /// The processes, in the order in which they came; empty if only one was recorded.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub processes: Vec<ProcessReport>,
    /// What the stacks are sorted by.
    pub sorted_by: Rank,
    /// Stacks, the first ones first.
    pub stacks: Vec<Stack>,
    /// What is mapped beside the blocks; `None` if that was not followed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mappings: Option<Mappings>,
}
