//! What a recording costs its target: the time in leakprobe's programs by the kernel's own statistics,
//! and the traps that lead there, at a price found out on a child of our own, as a share of the
//! target's CPU time. An estimate: calls are counted, but what one takes is an average.

mod faults;
mod gauge;
mod governor;
mod guard;
mod meter;
mod statistics;
mod trap;

use serde::Serialize;

pub use faults::Faults;
pub use gauge::{Gauge, Share};
pub use governor::{Governor, Order};
pub use guard::Guard;
pub use meter::{Meter, Reading};
pub use trap::{Calibration, price, run_child};

/// The word on the command line that makes leakprobe the child that is measured.
pub const CHILD: &str = "trap-child";

/// What a recording has cost, estimated for all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Overhead {
    /// Of the target's CPU time, 0 to 100.
    pub percent: u64,
    /// Time in leakprobe's programs, nanoseconds.
    pub handler_ns: u64,
    /// Time for the traps that lead there, nanoseconds.
    pub trap_ns: u64,
    /// How many traps.
    pub hits: u64,
    /// CPU time of all threads of the target, with the two above, nanoseconds.
    pub cpu_ns: u64,
    /// The functions that were called, the most expensive first.
    pub functions: Vec<FunctionCost>,
}

/// What a probed function has cost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FunctionCost {
    /// Its symbol; one that shares another's code is counted there.
    pub function: &'static str,
    /// Calls while it was probed, nested ones too.
    pub calls: u64,
    /// Calls that were followed to their return, or had a block on record.
    pub followed: u64,
    /// Time for all calls, in programs and for traps, nanoseconds.
    pub overhead_ns: u64,
}

/// Nanoseconds that a trap takes with a program that does nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traps {
    /// At an entry.
    pub entry_ns: u64,
    /// What a return costs on top.
    pub return_ns: u64,
}
