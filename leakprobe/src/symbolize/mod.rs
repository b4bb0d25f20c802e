//! From addresses to frames, or the reason why not.

mod budget;
mod image;
mod lookup;
mod names;
mod profile;
mod symbols;

pub use budget::{Budget, BudgetStep};
pub use names::Names;
pub use profile::{Header, profile};

use serde::Serialize;

use crate::overhead::Overhead;
use crate::sampling::Interval;
use crate::snapshot::{Evidence, Mapped, Totals, Unconfirmed};
use crate::target::{AllocatorInfo, TargetInfo};

/// One frame. Absent facts are `None`, never invented. Names may hold any characters: whoever
/// prints them escapes them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Frame {
    /// Demangled function name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function: Option<String>,
    /// File name (no folders) of the object the code is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub module: Option<String>,
    /// Address within the module as its own ELF file counts (what `addr2line -e` takes), bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// Source file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Line in the source file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// Whether the compiler inlined this function into the next frame.
    pub inlined: bool,
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
    /// Why the frames end before the thread's start; `None` for a whole stack.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<&'static str>,
    /// Frames, leaf first: the first is the caller of the allocator function.
    pub frames: Vec<Frame>,
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
    /// What was probed; `None` in growth mode, where nothing is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allocator: Option<AllocatorInfo>,
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
    /// Sums over all stacks.
    pub totals: Totals,
    /// What of the live figures may have been freed unseen; only if the probes were away for a time.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub unconfirmed: Option<Unconfirmed>,
    /// Where the live totals truly lie; only of a sample whose blocks were read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<Interval>,
    /// Complete or partial, and why.
    pub evidence: Evidence,
    /// Stacks, sorted by live bytes, most first.
    pub stacks: Vec<Stack>,
}
