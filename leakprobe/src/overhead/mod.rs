//! What a recording costs its target: the time in leakprobe's programs by the kernel's own statistics,
//! and the traps that lead there, at a price found out on a child of our own, as a share of the
//! target's CPU time. An estimate: both are measured, but not for every call. Which function costs
//! what is not known here, as the kernel's statistics are by program.

mod guard;
mod meter;
mod statistics;
mod trap;

use serde::Serialize;

pub use guard::Guard;
pub use meter::{Meter, Reading};
pub use trap::{Calibration, run_child};

/// The word on the command line that makes leakprobe the child that is measured.
pub const CHILD: &str = "trap-child";

/// What a recording has cost, estimated for all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
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
}

/// Nanoseconds that a trap takes with a program that does nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traps {
    /// At an entry.
    pub entry_ns: u64,
    /// What a return costs on top.
    pub return_ns: u64,
}

/// What was counted in the windows in which the statistics were on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Time in programs, nanoseconds.
    pub handler_ns: u64,
    /// Runs at entries.
    pub entries: u64,
    /// Runs at returns.
    pub returns: u64,
    /// The target's CPU time in the same windows, nanoseconds.
    pub cpu_ns: u64,
}

impl std::ops::AddAssign for Counted {
    fn add_assign(&mut self, other: Self) {
        self.handler_ns += other.handler_ns;
        self.entries += other.entries;
        self.returns += other.returns;
        self.cpu_ns += other.cpu_ns;
    }
}

impl Counted {
    /// What follows for all of the target's CPU time; `None` if it had none in the windows. By CPU
    /// time, not by the clock: then a window that met a busy moment does not count for idle ones.
    pub fn extrapolate(&self, traps: Traps, cpu_ns: u64) -> Option<Overhead> {
        if self.cpu_ns == 0 {
            return None;
        }
        let cpu_ns = cpu_ns.max(self.cpu_ns);
        let scale = |part: u64| {
            let whole = u128::from(part) * u128::from(cpu_ns) / u128::from(self.cpu_ns);
            u64::try_from(whole).unwrap_or(u64::MAX)
        };
        let trap_ns = self.entries.saturating_mul(traps.entry_ns);
        let trap_ns = trap_ns.saturating_add(self.returns.saturating_mul(traps.return_ns));
        let (handler_ns, trap_ns) = (scale(self.handler_ns), scale(trap_ns));
        let taken = u128::from(handler_ns) + u128::from(trap_ns);
        let cpu = u128::from(cpu_ns);
        Some(Overhead {
            // The estimate may be above what is possible, the figure not.
            percent: ((taken * 100 + cpu / 2) / cpu).min(100) as u64,
            handler_ns,
            trap_ns,
            hits: scale(self.entries.saturating_add(self.returns)),
            cpu_ns,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRAPS: Traps = Traps {
        entry_ns: 1000,
        return_ns: 500,
    };

    #[test]
    fn a_tenth_stands_for_all() {
        let counted = Counted {
            handler_ns: 10_000_000,
            entries: 8_000,
            returns: 4_000,
            cpu_ns: 100_000_000,
        };
        let overhead = counted.extrapolate(TRAPS, 1_000_000_000).unwrap();
        let expected = Overhead {
            percent: 20,
            handler_ns: 100_000_000,
            trap_ns: 100_000_000,
            hits: 120_000,
            cpu_ns: 1_000_000_000,
        };
        assert_eq!(overhead, expected);
    }

    #[test]
    fn never_above_a_hundred() {
        let counted = Counted {
            handler_ns: 90,
            entries: 1,
            returns: 0,
            cpu_ns: 100,
        };
        assert_eq!(counted.extrapolate(TRAPS, 0).unwrap().percent, 100);
        let huge = Counted {
            handler_ns: u64::MAX,
            entries: u64::MAX,
            returns: u64::MAX,
            cpu_ns: 1,
        };
        assert_eq!(huge.extrapolate(TRAPS, u64::MAX).unwrap().percent, 100);
    }

    #[test]
    fn nothing_is_known_of_a_target_that_did_not_run() {
        assert_eq!(Counted::default().extrapolate(TRAPS, 5), None);
    }
}
