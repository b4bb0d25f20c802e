//! What a recording costs its target: the time in leakprobe's programs by the kernel's own statistics,
//! and the traps that lead there, at a price found out on a child of our own, as a share of the
//! target's CPU time. An estimate: calls are counted, but what one takes is an average.

mod cpu;
mod faults;
mod gauge;
mod governor;
mod guard;
mod meter;
mod statistics;
mod trap;

use serde::Serialize;

pub use cpu::CpuTime;
pub use faults::Faults;
pub use gauge::{Gauge, Share};
pub use governor::{Governor, Order};
pub use guard::Guard;
pub use meter::{Meter, Reading};
pub use statistics::keep as keep_statistics;
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
    /// Its symbol; one that shares another's code is counted there. `system calls`: those that map memory.
    pub function: &'static str,
    /// Calls while it was probed, nested ones too; of system calls, hits of the probes in front of them and
    /// behind them.
    pub calls: u64,
    /// Calls that were followed to their return, or had a block on record.
    pub followed: u64,
    /// Time for all calls, in programs and for traps, nanoseconds.
    pub overhead_ns: u64,
}

/// What traps cost, by what the target does between them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Price {
    /// Nothing else.
    pub alone: Traps,
    /// Work, as most programs do.
    pub among_work: Traps,
}

impl Price {
    /// Work between two traps, nanoseconds, after which the caches hold little of the last one.
    const FULL: u64 = 4000;

    /// Where there is so much work between two traps, nanoseconds.
    pub fn at(&self, work_ns: u64) -> Traps {
        let work = work_ns.min(Self::FULL);
        let mix =
            |alone: u64, among: u64| (alone * (Self::FULL - work) + among * work) / Self::FULL;
        Traps {
            entry_ns: mix(self.alone.entry_ns, self.among_work.entry_ns),
            return_ns: mix(self.alone.return_ns, self.among_work.return_ns),
            stepped_ns: mix(self.alone.stepped_ns, self.among_work.stepped_ns),
        }
    }
}

/// Nanoseconds that a trap takes with a program that does nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traps {
    /// At an entry.
    pub entry_ns: u64,
    /// What a return costs on top.
    pub return_ns: u64,
    /// At an instruction that the kernel steps over, as those beside system calls are.
    pub stepped_ns: u64,
}

impl Traps {
    /// Of so many entries and returns, nanoseconds.
    fn cost(self, entries: u64, returns: u64) -> u64 {
        let entries = entries.saturating_mul(self.entry_ns);
        entries.saturating_add(returns.saturating_mul(self.return_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_work_the_more_a_trap_costs() {
        let traps = |entry_ns, return_ns| Traps {
            entry_ns,
            return_ns,
            stepped_ns: 2 * entry_ns,
        };
        let price = Price {
            alone: traps(1000, 800),
            among_work: traps(2000, 1000),
        };
        assert_eq!(price.at(0), price.alone);
        assert_eq!(price.at(2000), traps(1500, 900));
        assert_eq!(price.at(u64::MAX), price.among_work);
    }
}
