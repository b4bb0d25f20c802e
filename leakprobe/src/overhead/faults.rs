//! What growth mode costs: the time in its programs, by the kernel's statistics. There are no traps, as
//! the faults are the target's own. The statistics are on for one look in ten: they cost some 50 ns
//! a run themselves.

use std::os::fd::{AsFd, OwnedFd};

use super::Overhead;
use super::statistics::{self, cpu_time, run_time};

/// Looks, of which the statistics are on up to the next one at the first.
const LOOKS: u32 = 10;

/// CPU time of the target while the statistics are on, at the least, nanoseconds.
const LEAST: u64 = 10_000_000;

/// A measurement that goes on.
pub struct Faults {
    pid: u32,
    programs: Vec<OwnedFd>,
    first_cpu: u64,
    last_cpu: u64,
    looks: u32,
    window: Option<Window>,
    /// In all windows: nanoseconds in programs, their runs, nanoseconds of CPU time.
    sum: [u64; 3],
    last: Option<u64>,
    failure: Option<String>,
}

/// A time in which the statistics are on, and the figures when it began.
struct Window {
    _on: OwnedFd,
    before: [u64; 3],
}

impl Faults {
    /// Of process `pid`. Measures at once.
    pub fn start(pid: u32, programs: Vec<OwnedFd>) -> Self {
        let cpu = cpu_time(pid).unwrap_or(0);
        let mut faults = Self {
            pid,
            programs,
            first_cpu: cpu,
            last_cpu: cpu,
            looks: 0,
            window: None,
            sum: [0; 3],
            last: None,
            failure: None,
        };
        faults.look();
        faults
    }

    /// To be called once a second. Of the last window, percent.
    pub fn look(&mut self) -> Option<u64> {
        let figures = self.figures();
        if let (Some(Window { before, .. }), Some(now)) = (&self.window, figures)
            && now[2].saturating_sub(before[2]) < LEAST
        {
            return self.last; // too little yet to mean something
        }
        if let (Some(Window { before, .. }), Some(now)) = (self.window.take(), figures) {
            let mut part = [0; 3];
            for index in 0..part.len() {
                part[index] = now[index].saturating_sub(before[index]);
                self.sum[index] += part[index];
            }
            self.last = share(part[0], part[2]);
        }
        if self.looks.is_multiple_of(LOOKS) {
            let on = statistics::keep();
            if let Err(error) = &on {
                self.failure = Some(format!("{error:#}"));
            }
            let window = on.ok().zip(figures);
            self.window = window.map(|(on, before)| Window { _on: on, before });
        }
        self.looks += 1;
        self.last
    }

    /// What all of it has cost so far; `None` if the target had no CPU time while it was measured.
    pub fn overall(&self) -> Option<Overhead> {
        let [time, runs, cpu] = self.sum;
        let all = self.last_cpu.saturating_sub(self.first_cpu).max(cpu);
        let scale = |part: u64| {
            let whole = u128::from(part) * u128::from(all) / u128::from(cpu.max(1));
            u64::try_from(whole).unwrap_or(u64::MAX)
        };
        share(time, cpu).map(|percent| Overhead {
            percent,
            handler_ns: scale(time),
            hits: scale(runs),
            cpu_ns: all,
            ..Overhead::default()
        })
    }

    /// Why nothing is known, if so.
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    fn figures(&mut self) -> Option<[u64; 3]> {
        let mut sum = [0, 0, cpu_time(self.pid)?];
        self.last_cpu = sum[2];
        for program in &self.programs {
            let (time, runs) = run_time(program.as_fd()).ok()?;
            sum[0] += time;
            sum[1] += runs;
        }
        Some(sum)
    }
}

/// Percent, rounded, 100 at the most.
fn share(part: u64, whole: u64) -> Option<u64> {
    let (part, all) = (u128::from(part), u128::from(whole));
    (whole > 0).then(|| ((part * 100 + all / 2) / all).min(100) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_of_cpu_time() {
        assert_eq!(share(0, 0), None);
        assert_eq!(share(1, 1000), Some(0));
        assert_eq!(share(1, 100), Some(1));
        assert_eq!(share(5, 1), Some(100));
    }
}
