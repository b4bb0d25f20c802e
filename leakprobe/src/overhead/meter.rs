//! Measures while a recording goes on, in a thread of its own. The kernel's statistics cost some 50 ns
//! a run themselves, and are kept for all programs of the machine; so they are on for a tenth of
//! each second only, each time another one, lest a target that does something every second always
//! be met at the same moment.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use aya::sys::{Stats, enable_stats};

use super::statistics::{cpu_time, run_time};
use super::trap::{self, Calibration};
use super::{Counted, Guard, Overhead, Traps};
use crate::probe::Runs;

/// How long the statistics are on.
const WINDOW: Duration = Duration::from_millis(100);
/// In each such time.
const PERIOD: Duration = Duration::from_secs(1);
/// How long the end of a very short recording waits for the price of a trap.
const LAST_CHANCE: Duration = Duration::from_millis(300);

/// What is known so far.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// Of the last window alone, percent.
    pub now: Option<u64>,
    /// Of the whole recording.
    pub overall: Option<Overhead>,
    /// Whether the guard says that it is time to stop.
    pub too_much: bool,
    /// Why nothing is known.
    pub failure: Option<String>,
}

/// A measurement that goes on until it is dropped.
#[derive(Debug)]
pub struct Meter {
    reading: Arc<Mutex<Reading>>,
    /// Closed when the measurement is to end.
    stop: Option<Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Meter {
    /// Measures what `programs` take of process `pid`. Without a `calibration` nothing but the programs
    /// costs anything. A `sample` takes few of the returns of
    /// programs that run at both ends of a call.
    pub fn start(
        pid: u32,
        programs: Vec<(Runs, OwnedFd)>,
        calibration: Option<Calibration>,
        sample: bool,
    ) -> Self {
        let reading = Arc::new(Mutex::new(Reading::default()));
        let (stop, stopped) = channel();
        let mut work = Work {
            pid,
            programs,
            sample,
            first_cpu: cpu_time(pid).unwrap_or(0),
            last_cpu: 0,
            sum: Counted::default(),
            traps: None,
            guard: Guard::default(),
            reading: Arc::clone(&reading),
        };
        let thread = thread::spawn(move || {
            if let Err(error) = work.run(calibration, &stopped) {
                log::debug!("overhead: {error:#}");
                lock(&work.reading).failure = Some(format!("{error:#}"));
            }
        });
        Self {
            reading,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// What is known so far.
    pub fn reading(&self) -> Reading {
        lock(&self.reading).clone()
    }

    /// Ends the measurement, and does not wait for its last reading.
    pub fn end(&mut self) {
        drop(self.stop.take());
    }

    /// Ends the measurement, with its last reading.
    pub fn stop(&mut self) {
        self.end();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // a panic leaves the last reading
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What the thread has.
struct Work {
    pid: u32,
    programs: Vec<(Runs, OwnedFd)>,
    sample: bool,
    first_cpu: u64,
    last_cpu: u64,
    sum: Counted,
    traps: Option<Traps>,
    guard: Guard,
    reading: Arc<Mutex<Reading>>,
}

impl Work {
    fn run(&mut self, calibration: Option<Calibration>, stopped: &Receiver<()>) -> Result<()> {
        let (send, traps) = channel();
        match calibration {
            None => self.traps = Some(Traps::default()),
            // Its end, which removes the probes from the child, is not waited for.
            Some(calibration) => drop(thread::spawn(move || trap::calibrate(calibration, &send))),
        }
        let start = Instant::now();
        let (mut period, mut over) = (0u32, false);
        while !over {
            over = sleep(stopped, start + begin(period));
            if over && self.sum.cpu_ns > 0 {
                self.last_cpu = cpu_time(self.pid).unwrap_or(self.last_cpu);
                break;
            }
            let (window, took);
            (window, took, over) = self.window(stopped)?;
            if self.traps.is_none() {
                let wait = if over { LAST_CHANCE } else { Duration::ZERO };
                match traps.recv_timeout(wait) {
                    Ok(price) => self.traps = Some(price?),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => {
                        return Err(anyhow!("the thread that measures traps panicked"));
                    }
                }
            }
            self.publish(start.elapsed(), window, took);
            period = period.saturating_add(1);
        }
        self.publish_overall();
        Ok(())
    }

    /// Counts for a while. Also how long, and whether the end came in between.
    fn window(&mut self, stopped: &Receiver<()>) -> Result<(Option<Counted>, Duration, bool)> {
        let on = enable_stats(Stats::RunTime).context("failed to switch on the statistics")?;
        let began = Instant::now();
        let (cpu, before) = (cpu_time(self.pid), self.runs()?);
        let over = sleep(stopped, began + WINDOW);
        let (cpu_after, after) = (cpu_time(self.pid), self.runs()?);
        let took = began.elapsed();
        drop(on);
        let (Some(cpu), Some(cpu_after)) = (cpu, cpu_after) else {
            return Ok((None, took, over)); // the target has ended
        };
        self.last_cpu = cpu_after;
        let window = Counted {
            handler_ns: after.handler_ns.saturating_sub(before.handler_ns),
            entries: after.entries.saturating_sub(before.entries),
            returns: after.returns.saturating_sub(before.returns),
            cpu_ns: cpu_after.saturating_sub(cpu),
        };
        self.sum += window;
        Ok((Some(window), took, over))
    }

    /// Time in all programs, and their runs, so far.
    fn runs(&self) -> Result<Counted> {
        let mut sum = Counted::default();
        for (runs, program) in &self.programs {
            let (time, count) =
                run_time(program.as_fd()).context("failed to read the statistics of a program")?;
            sum.handler_ns += time;
            match runs {
                Runs::Entry => sum.entries += count,
                Runs::Return => sum.returns += count,
                // Nobody counts them apart. Nearly every call returns to the program, unless it is
                // not in the sample.
                Runs::Both if self.sample => sum.entries += count,
                Runs::Both => {
                    sum.returns += count / 2;
                    sum.entries += count - count / 2;
                }
            }
        }
        Ok(sum)
    }

    fn publish(&mut self, at: Duration, window: Option<Counted>, took: Duration) {
        self.publish_overall();
        let Some(traps) = self.traps else { return };
        let cpu = window.map_or(0, |window| window.cpu_ns);
        let now = window.and_then(|window| window.extrapolate(traps, cpu));
        let percent = now.map(|now| now.percent);
        let busy = u128::from(cpu) * 100 / took.as_nanos().max(1);
        let mut reading = lock(&self.reading);
        reading.now = percent;
        reading.too_much |= self.guard.look(at, percent, busy as u64);
    }

    fn publish_overall(&self) {
        let cpu = self.last_cpu.saturating_sub(self.first_cpu);
        let overall = self.traps.and_then(|it| self.sum.extrapolate(it, cpu));
        lock(&self.reading).overall = overall;
    }
}

/// When the window of a period begins, after the start. The golden ratio's multiples spread evenly.
fn begin(period: u32) -> Duration {
    const GOLDEN: u64 = 0x9e37_79b9;
    let phase = (u64::from(period) * GOLDEN) as u32;
    let room = (PERIOD - WINDOW).as_nanos() as u64;
    let phase = (u128::from(phase) * u128::from(room)) >> 32;
    PERIOD * period + Duration::from_nanos(phase as u64)
}

/// Sleeps, unless it is time to end: whether it is.
fn sleep(stopped: &Receiver<()>, until: Instant) -> bool {
    let left = until.saturating_duration_since(Instant::now());
    !matches!(stopped.recv_timeout(left), Err(RecvTimeoutError::Timeout))
}

fn lock(reading: &Mutex<Reading>) -> std::sync::MutexGuard<'_, Reading> {
    reading.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_window_in_each_period_everywhere_in_it() {
        assert_eq!(begin(0), Duration::ZERO);
        let mut tenths = [false; 9];
        for period in 0..30 {
            let begin = begin(period) - PERIOD * period;
            assert!(begin + WINDOW <= PERIOD, "{period}: {begin:?}");
            tenths[(begin.as_millis() / 100) as usize] = true;
        }
        assert_eq!(tenths, [true; 9]);
    }
}
