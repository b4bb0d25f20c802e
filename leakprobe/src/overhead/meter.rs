//! Measures while a recording goes on, in a thread of its own. The kernel's statistics cost some 50 ns
//! a run themselves, and are kept for all programs of the machine; so they are on for a tenth of
//! each second only, each time another one, lest a target that does something every second always
//! be met at the same moment.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::trap::{self, Calibration};
use super::{Gauge, Guard, Overhead, statistics};
use anyhow::{Result, anyhow};

/// How long the statistics are on.
const WINDOW: Duration = Duration::from_millis(100);
/// In each such time.
const PERIOD: Duration = Duration::from_secs(1);
/// How long the end of a very short recording waits for the price of a trap.
const LAST_CHANCE: Duration = Duration::from_secs(1);

/// What is known so far.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// Of the last second alone, percent.
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
    /// Measures by `gauge`, at a price of traps that is found out first.
    pub fn start(gauge: Gauge, calibration: Calibration) -> Self {
        let reading = Arc::new(Mutex::new(Reading::default()));
        let (stop, stopped) = channel();
        let mut work = Work {
            gauge,
            guard: Guard::default(),
            reading: Arc::clone(&reading),
        };
        let thread = thread::spawn(move || {
            if let Err(error) = work.run(&calibration, &stopped) {
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
    gauge: Gauge,
    guard: Guard,
    reading: Arc<Mutex<Reading>>,
}

impl Work {
    fn run(&mut self, calibration: &Calibration, stopped: &Receiver<()>) -> Result<()> {
        let (send, price) = channel();
        let calibration = *calibration;
        // Its end, which removes the probes from the child, is not waited for.
        thread::spawn(move || trap::calibrate(calibration, &send));
        let start = Instant::now();
        let (mut period, mut over, mut priced) = (0u32, false, false);
        let mut last = start;
        while !over {
            over = sleep(stopped, start + begin(period));
            if !over || period == 0 {
                over |= self.window(stopped)?;
            }
            // What happened up to here is looked at once it has a price; a better one may follow.
            let wait = match over && !priced {
                true => LAST_CHANCE,
                false => Duration::ZERO,
            };
            match price.recv_timeout(wait) {
                Ok(price) => {
                    self.gauge.set_price(price?);
                    priced = true;
                }
                Err(RecvTimeoutError::Disconnected) if !priced => {
                    return Err(anyhow!("the thread that measures traps panicked"));
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
            if priced {
                let now = Instant::now();
                self.publish(now - start, now - last)?;
                last = now;
            }
            period = period.saturating_add(1);
        }
        Ok(())
    }

    /// Has the kernel keep its statistics for a while. Whether the end came in between.
    fn window(&mut self, stopped: &Receiver<()>) -> Result<bool> {
        let on = statistics::keep()?;
        let over = sleep(stopped, Instant::now() + WINDOW);
        drop(on);
        self.gauge.weigh()?;
        Ok(over)
    }

    fn publish(&mut self, at: Duration, since_last: Duration) -> Result<()> {
        let share = self.gauge.look()?;
        let percent = share.percent();
        let busy = u128::from(share.cpu_ns) * 100 / since_last.as_nanos().max(1);
        let mut reading = lock(&self.reading);
        reading.now = percent;
        reading.overall = self.gauge.overhead();
        reading.too_much |= self.guard.look(at, percent, busy as u64);
        Ok(())
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
