//! The figures behind an overhead: how often each function was called, by the kernel side's own
//! count, how long a program runs, by the kernel's statistics while they are on, and the CPU time of
//! the target. Reads when asked; when that is, the meter and the budget decide.

use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result};
use aya::maps::{MapData, PerCpuArray};
use leakprobe_common::{Calls, MAX_FUNCTIONS, SYSTEM_CALLS};

use super::statistics::run_time;
use super::{CpuTime, FunctionCost, Overhead, Price, Traps};
use crate::probe::functions::FUNCTIONS;
use crate::probe::{Program, Runs};

/// Reads what a recording takes.
pub struct Gauge {
    cpu: CpuTime,
    programs: Vec<Measured>,
    calls: PerCpuArray<MapData, [u64; 2]>,
    price: Price,
    first_cpu: u64,
    last_cpu: u64,
    last_calls: [Calls; MAX_FUNCTIONS],
    /// By function, nanoseconds: in programs, and for traps.
    spent: [(u64, u64); MAX_FUNCTIONS],
    hits: u64,
}

/// A program, and how long it runs.
struct Measured {
    program: Program,
    fd: OwnedFd,
    /// The kernel's statistics at the last look: nanoseconds, runs.
    last: (u64, u64),
    /// Nanoseconds of a run, at the last look that saw one.
    mean: u64,
}

/// What happened between two looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// CPU time of the target, nanoseconds.
    pub cpu_ns: u64,
    /// Of that, for probes.
    pub overhead_ns: u64,
    /// Of that, for those at system calls.
    pub system_calls_ns: u64,
    /// Calls that ask for a block.
    pub asked: u64,
    /// Of these, calls that were followed to their return.
    pub followed: u64,
}

impl Share {
    /// What the probes took, 0 to 100.
    pub fn percent(&self) -> Option<u64> {
        (self.cpu_ns > 0).then(|| percent(self.overhead_ns, self.cpu_ns))
    }
}

impl Gauge {
    /// Of `programs` in processes with this CPU time, which have no calls yet.
    pub fn new(
        cpu: CpuTime,
        programs: Vec<(Program, OwnedFd)>,
        calls: PerCpuArray<MapData, [u64; 2]>,
    ) -> Self {
        let first_cpu = cpu.now();
        let measured = |(program, fd)| Measured {
            program,
            fd,
            last: (0, 0),
            mean: 0,
        };
        Self {
            cpu,
            programs: programs.into_iter().map(measured).collect(),
            calls,
            price: Price::default(),
            first_cpu,
            last_cpu: first_cpu,
            last_calls: Default::default(),
            spent: Default::default(),
            hits: 0,
        }
    }

    /// From now on a trap has this price.
    pub fn set_price(&mut self, price: Price) {
        self.price = price;
    }

    /// Takes in how long programs have run since the last time, as far as the statistics were on.
    ///
    /// # Errors
    ///
    /// If the kernel does not tell.
    pub fn weigh(&mut self) -> Result<()> {
        for Measured { fd, last, mean, .. } in &mut self.programs {
            let now = run_time(fd.as_fd()).context("failed to read the statistics of a program")?;
            let (time, runs) = (now.0.saturating_sub(last.0), now.1.saturating_sub(last.1));
            *mean = time.checked_div(runs).unwrap_or(*mean);
            *last = now;
        }
        Ok(())
    }

    /// What happened since the last look.
    ///
    /// # Errors
    ///
    /// If the calls cannot be read.
    pub fn look(&mut self) -> Result<Share> {
        let cpu = self.cpu.now();
        let mut share = Share {
            cpu_ns: cpu.saturating_sub(self.last_cpu),
            ..Share::default()
        };
        self.last_cpu = cpu;
        let mut new = [(0, 0, 0); MAX_FUNCTIONS];
        let mut handlers = 0u64;
        let mut hits = 0;
        for (number, function) in FUNCTIONS.iter().enumerate() {
            let gives = function.kind.gives();
            let calls = self.calls(number)?;
            let last = std::mem::replace(&mut self.last_calls[number], calls);
            let entered = calls.entered.saturating_sub(last.entered);
            let followed = calls.followed.saturating_sub(last.followed);
            let (entry, back) = (
                self.mean(gives, Runs::Entry),
                self.mean(gives, Runs::Return),
            );
            let returned = match back {
                None => 0,
                Some((Runs::Both, _)) => followed,
                Some(_) => entered,
            };
            let mean = |program: Option<(Runs, u64)>| program.map_or(0, |(_, mean)| mean);
            let handler = entered.saturating_mul(mean(entry));
            let handler = handler.saturating_add(returned.saturating_mul(mean(back)));
            new[number] = (entered, returned, handler);
            handlers = handlers.saturating_add(handler);
            hits += entered + returned;
            if gives {
                share.asked += entered;
                share.followed += followed;
            }
        }
        let calls = self.calls(SYSTEM_CALLS)?;
        let last = std::mem::replace(&mut self.last_calls[SYSTEM_CALLS], calls);
        let entered = calls.entered.saturating_sub(last.entered);
        let mean = self.mean(false, Runs::SystemCall).map_or(0, |it| it.1);
        let handler = entered.saturating_mul(mean);
        new[SYSTEM_CALLS] = (entered, 0, handler);
        handlers = handlers.saturating_add(handler);
        hits += entered;
        self.hits += hits;
        let traps = self.traps(share.cpu_ns.saturating_sub(handlers), &new, hits);
        for (number, spent) in self.spent.iter_mut().enumerate() {
            let (handler, trap) = (new[number].2, cost(&traps, number, &new[number]));
            if number == SYSTEM_CALLS {
                share.system_calls_ns = handler.saturating_add(trap);
            }
            spent.0 = spent.0.saturating_add(handler);
            spent.1 = spent.1.saturating_add(trap);
            share.overhead_ns = share
                .overhead_ns
                .saturating_add(handler)
                .saturating_add(trap);
        }
        Ok(share)
    }

    /// Of the whole recording; `None` if the target has not run.
    pub fn overhead(&self) -> Option<Overhead> {
        let cpu_ns = self.last_cpu.saturating_sub(self.first_cpu);
        if cpu_ns == 0 {
            return None;
        }
        let mut overhead = Overhead {
            hits: self.hits,
            cpu_ns,
            ..Overhead::default()
        };
        let names = FUNCTIONS.iter().map(|it| it.name).enumerate();
        for (number, function) in names.chain([(SYSTEM_CALLS, "system calls")]) {
            let (handler_ns, trap_ns) = self.spent[number];
            overhead.handler_ns = overhead.handler_ns.saturating_add(handler_ns);
            overhead.trap_ns = overhead.trap_ns.saturating_add(trap_ns);
            let Calls { entered, followed } = self.last_calls[number];
            if entered > 0 {
                overhead.functions.push(FunctionCost {
                    function,
                    calls: entered,
                    followed,
                    overhead_ns: handler_ns.saturating_add(trap_ns),
                });
            }
        }
        overhead
            .functions
            .sort_by_key(|it| std::cmp::Reverse(it.overhead_ns));
        let taken = overhead.handler_ns.saturating_add(overhead.trap_ns);
        overhead.percent = percent(taken, cpu_ns);
        Some(overhead)
    }

    /// The program for the functions that give blocks, or for the others, at one end of a call: where
    /// it runs, and how long.
    fn mean(&self, gives: bool, end: Runs) -> Option<(Runs, u64)> {
        let wanted = |it: &&Measured| {
            it.program.gives == gives && (it.program.runs == end || it.program.runs == Runs::Both)
        };
        let measured = self.programs.iter().find(wanted)?;
        Some((measured.program.runs, measured.mean))
    }

    /// What traps have cost among so many nanoseconds of work and of traps.
    fn traps(&self, cpu_ns: u64, calls: &[(u64, u64, u64)], hits: u64) -> Traps {
        let alone = self.price.alone;
        let calls = calls.iter().enumerate();
        let least: u64 = calls.map(|(number, it)| cost(&alone, number, it)).sum();
        let work = cpu_ns.saturating_sub(least).checked_div(hits);
        self.price.at(work.unwrap_or_default())
    }

    fn calls(&self, number: usize) -> Result<Calls> {
        let by_cpu = self.calls.get(&(number as u32), 0);
        let by_cpu = by_cpu.context("failed to read the numbers of calls")?;
        let add = |sum: Calls, &[entered, followed]: &[u64; 2]| Calls {
            entered: sum.entered + entered,
            followed: sum.followed + followed,
        };
        Ok(by_cpu.iter().fold(Calls::default(), add))
    }
}

/// What the traps of a function's entries and returns cost, nanoseconds.
fn cost(traps: &Traps, number: usize, &(entered, returned, _): &(u64, u64, u64)) -> u64 {
    match number {
        SYSTEM_CALLS => entered.saturating_mul(traps.stepped_ns),
        _ => traps.cost(entered, returned),
    }
}

/// A part in percent, rounded. The estimate may be above what is possible, the figure not.
fn percent(part: u64, whole: u64) -> u64 {
    let (part, whole) = (u128::from(part), u128::from(whole.max(1)));
    ((part * 100 + whole / 2) / whole).min(100) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_above_a_hundred() {
        assert_eq!(percent(90, 100), 90);
        assert_eq!(percent(u64::MAX, 1), 100);
        assert_eq!(percent(1, 0), 100);
        assert_eq!(percent(4, 1000), 0);
        assert_eq!(percent(5, 1000), 1);
    }

    #[test]
    fn nothing_is_known_of_a_target_that_did_not_run() {
        assert_eq!(Share::default().percent(), None);
    }
}
