//! Keeps what a recording takes within the user's budget: does what the governor orders, and keeps an
//! account of it.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::{Session, Subject};
use crate::overhead::{Gauge, Governor, Order, Overhead, Share};
use crate::record::progress::Progress;
use crate::report::human;
use crate::snapshot::counts::{MAPPINGS_NOT_PROBED, PROBES_AWAY};
use crate::snapshot::now;
use crate::symbolize::{Budget, BudgetStep, Sampling};

/// A recording with a budget.
pub(super) struct Governed {
    governor: Governor,
    gauge: Gauge,
    /// Kept on all the time: the governor has to know at once.
    _statistics: OwnedFd,
    next_look: Instant,
    /// Of this second and of the last one.
    second: Share,
    last_second: Option<u64>,
    account: Budget,
    /// Whether figures are estimates by now.
    estimates: bool,
    /// Whether the probes are in place for windows only.
    windows: bool,
    /// Whether system calls that map memory are probed.
    system_calls: bool,
    /// `CLOCK_MONOTONIC` nanoseconds since when the probes are away.
    away_since: Option<u64>,
    /// Up to when something may have been freed unseen, likewise.
    unseen: Option<u64>,
    /// CPU time without what the probes took, nanoseconds: with the probes in place, and in all.
    seen_work: f64,
    work: f64,
}

impl Governed {
    /// With a budget in hundredths of a percent, for a recording that starts with a sample of one block
    /// in so many bytes, while the kernel keeps statistics.
    pub(super) fn new(
        hundredths: u32,
        sample_bytes: u64,
        gauge: Gauge,
        statistics: OwnedFd,
        system_calls: bool,
    ) -> Self {
        let percent = f64::from(hundredths) / 100.0;
        Self {
            governor: Governor::new(percent, sample_bytes),
            gauge,
            _statistics: statistics,
            next_look: Instant::now(),
            second: Share::default(),
            last_second: None,
            account: Budget {
                percent,
                ..Budget::default()
            },
            estimates: false,
            windows: false,
            system_calls,
            away_since: None,
            unseen: None,
            seen_work: 0.0,
            work: 0.0,
        }
    }

    /// What happened up to here was not recorded.
    ///
    /// # Errors
    ///
    /// If the kernel does not tell.
    pub(super) fn begin(&mut self) -> Result<()> {
        self.gauge.weigh()?;
        self.gauge.look().map(drop)
    }

    /// When to look again.
    pub(super) fn next_look(&self) -> Instant {
        self.next_look
    }

    /// What was taken in the last second, percent.
    pub(super) fn second(&mut self) -> Option<u64> {
        self.last_second = std::mem::take(&mut self.second).percent();
        self.last_second
    }

    /// What was taken of the whole recording.
    pub(super) fn overall(&self) -> Option<Overhead> {
        self.gauge.overhead()
    }

    /// Whether the probes are away.
    pub(super) fn is_away(&self) -> bool {
        self.away_since.is_some()
    }

    /// Blocks from before this moment may have been freed unseen.
    pub(super) fn unseen(&self) -> Option<u64> {
        self.unseen
    }

    /// What was done for the budget.
    pub(super) fn account(&self) -> Budget {
        let seen = self.seen_work * 100.0 / self.work.max(1.0);
        Budget {
            seen_percent: (seen * 10.0).round() / 10.0,
            ..self.account.clone()
        }
    }

    /// The sample as it is, after one that was asked for.
    pub(super) fn sampling(&self, asked: Option<Sampling>) -> Option<Sampling> {
        if !self.estimates {
            return asked;
        }
        Some(Sampling {
            sample_bytes: self.governor.sample().max(1),
            changed: true,
        })
    }

    /// The target executes another program, in which the probes are in place.
    pub(super) fn start_over(&mut self) {
        self.governor.start_over();
        (self.windows, self.away_since, self.unseen) = (false, None, None);
    }

    /// Takes in what happened since the last look.
    ///
    /// # Errors
    ///
    /// If the kernel does not tell.
    pub(super) fn look(&mut self) -> Result<Share> {
        self.gauge.weigh()?;
        let share = self.gauge.look()?;
        let work = share.cpu_ns.saturating_sub(share.overhead_ns) as f64;
        self.work += work;
        if !self.is_away() {
            self.seen_work += work;
        }
        self.second.cpu_ns += share.cpu_ns;
        self.second.overhead_ns += share.overhead_ns;
        Ok(share)
    }

    fn step(&mut self, at: Duration) {
        self.account.step(BudgetStep {
            at_ns: at.as_nanos() as u64,
            sample_bytes: self.governor.sample(),
            windows: self.windows,
            system_calls: self.system_calls,
        });
    }
}

impl Session {
    /// Looks what the probes take, and does what the governor says.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub(super) fn keep_budget(&mut self, progress: &mut Progress) -> Result<()> {
        let searching = self.is_searching();
        let (Some(governed), Subject::Heap(heap)) = (&mut self.governed, &self.subject) else {
            return Ok(());
        };
        governed.next_look = Instant::now() + governed.governor.pace();
        // In a new program nothing is in place yet; and the probes do not come back before the last
        // one has gone, or some calls would be counted twice.
        if searching || (governed.is_away() && !self.probes.is_detached()) {
            return Ok(());
        }
        let at = self.began.elapsed();
        let share = governed.look()?;
        let percent = governed.account.percent;
        log::trace!("budget: {share:?}");
        match governed.governor.look(at, share) {
            Order::Keep => {}
            Order::Sample(bytes) => {
                governed.estimates = true;
                governed.step(at);
                self.probes.set_sample(bytes)?;
                let what = match bytes {
                    0 => "every block is recorded again".to_owned(),
                    bytes => format!("one block per {} is recorded", human::round_bytes(bytes)),
                };
                self.say_step(progress, at, &what, percent);
            }
            Order::NoSystemCalls => {
                governed.system_calls = false;
                governed.step(at);
                self.probes.detach_calls_at_once();
                self.mapped = None;
                *self
                    .losses
                    .entry(MAPPINGS_NOT_PROBED.name.to_owned())
                    .or_default() += 1;
                let what = "what the program maps is not followed any more";
                self.say_step(progress, at, what, percent);
            }
            Order::Away => {
                governed.account.windows += 1;
                let first = !std::mem::replace(&mut governed.windows, true);
                governed.estimates = true;
                if first {
                    governed.step(at);
                }
                self.probes.record(false)?;
                let time = now()?;
                governed.away_since = Some(time);
                governed.unseen = Some(time);
                self.probes.detach_at_once();
                for member in self.members.alive_mut() {
                    member.placed.clear();
                }
                log::debug!("budget: the probes are away after a window with {share:?}");
                *self.losses.entry(PROBES_AWAY.name.to_owned()).or_default() += 1;
                if first {
                    let what = "the probes are in place only now and then";
                    self.say_step(progress, at, what, percent);
                }
            }
            Order::Back => {
                for member in self.members.alive_mut() {
                    let Some(process) = &member.process else {
                        continue;
                    };
                    let mut found = member.allocators.iter().filter_map(|&it| heap.get(it));
                    let placed = found
                        .try_for_each(|it| self.probes.attach(process, &it.allocator, &it.points));
                    match placed {
                        Ok(()) => member.placed.clone_from(&member.allocators),
                        Err(_) if process.has_ended() => {}
                        Err(error) => return Err(error),
                    }
                }
                let share = governed.look()?;
                log::debug!(
                    "budget: the probes are back after {:?}, {share:?}",
                    self.began.elapsed() - at
                );
                let duty = governed.governor.placed(share);
                governed.unseen = Some(now()?);
                governed.away_since = None;
                self.probes.set_duty(duty)?;
                self.probes.record(true)?;
                if duty == 0 {
                    governed.windows = false;
                    governed.step(at);
                    self.say_step(progress, at, "the probes are in place again", percent);
                }
            }
        }
        Ok(())
    }

    /// Tells of a step, and notes it for the report unless there were many.
    fn say_step(&mut self, progress: &mut Progress, at: Duration, what: &str, percent: f64) {
        const MOST_NOTES: usize = 20;
        let at = human::duration(at.as_nanos() as u64);
        let note = format!("{at} after the start: {what}, to keep the overhead below {percent} %");
        progress.say(&note);
        if self.notes.len() < MOST_NOTES {
            self.notes.push(note);
        }
    }
}
