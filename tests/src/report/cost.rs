//! What the recording has cost, and what of it is an estimate.

use serde::Deserialize;

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
    /// Whether system calls that map memory were probed.
    pub system_calls: bool,
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
