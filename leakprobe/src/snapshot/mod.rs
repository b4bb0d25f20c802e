//! Plain data read from the kernel maps: nothing in here reads the kernel again.

pub mod counts;
mod death;
mod events;
pub mod growth;
mod live;
mod many;
pub mod mappings;
mod peak;
pub mod ranges;
mod reader;
mod stacks;

pub use crate::clock::now;
pub use death::{Cause, Death, Oom};
pub use events::Event;
pub use live::{ByAge, Lifetimes};
pub use many::{Remains, Space, Spaces};
pub use peak::{Peak, WholePeak};
pub use reader::{Ages, LiveBlocks, LiveStack, Maps, Share, Snapshot, Unconfirmed};
pub use stacks::{Address, REFRESH, Stacks, Trace};

use std::collections::BTreeMap;

use serde::Serialize;

/// Bytes and blocks, live, allocated and freed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Bytes allocated and not freed.
    pub live_bytes: u64,
    /// Blocks allocated and not freed.
    pub live_count: u64,
    /// Bytes allocated since the attach.
    pub allocated_bytes: u64,
    /// Blocks allocated since the attach.
    pub allocated_count: u64,
    /// Bytes of those that were freed.
    pub freed_bytes: u64,
    /// Blocks of those that were freed.
    pub freed_count: u64,
}

impl std::ops::AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.live_bytes += other.live_bytes;
        self.live_count += other.live_count;
        self.allocated_bytes += other.allocated_bytes;
        self.allocated_count += other.allocated_count;
        self.freed_bytes += other.freed_bytes;
        self.freed_count += other.freed_count;
    }
}

/// Addresses that system calls gave out and that are still mapped. They may hold memory or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Mapped {
    /// Bytes still mapped.
    pub bytes: u64,
    /// System calls of which something is.
    pub count: u64,
}

impl std::ops::AddAssign for Mapped {
    fn add_assign(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.count += other.count;
    }
}

/// Whether everything that happened is in the figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Completeness {
    /// Nothing was lost.
    Complete,
    /// Something was lost; [`Evidence::losses`] and [`Evidence::notes`] say what.
    Partial,
}

/// What speaks for and against the figures.
#[derive(Clone, Debug, Serialize)]
pub struct Evidence {
    /// Complete or partial.
    pub verdict: Completeness,
    /// Counts above zero, by name. Not all of them make the result partial: what a count means for
    /// it, [`counts::Count`] says.
    pub losses: BTreeMap<String, u64>,
    /// Sentences for a person.
    pub notes: Vec<String>,
}
