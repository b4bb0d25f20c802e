//! Plain data read from the kernel maps: nothing in here reads the kernel again.

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

/// Whether everything that happened is in the figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Nothing was lost.
    Complete,
    /// Something was lost; [`Evidence::losses`] and [`Evidence::notes`] say what.
    Partial,
}

/// What speaks for and against the figures.
#[derive(Clone, Debug, Serialize)]
pub struct Evidence {
    /// Complete or partial.
    pub verdict: Verdict,
    /// Loss name to count; only counts above zero.
    pub losses: BTreeMap<String, u64>,
    /// Sentences for a person.
    pub notes: Vec<String>,
}
