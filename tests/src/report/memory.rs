//! Where the memory is: what is mapped, the account of the resident memory, the allocator's heap.

use serde::Deserialize;

use super::{Frame, names};

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
