//! Keeps the overhead within a budget: decides, from figures alone, when to record a smaller sample
//! and when to take the probes away for a while. Who does it is the recording.
//!
//! If the probes at system calls that map memory take a good part of the budget, and it is exceeded, they go
//! for good. Else the sample gets smaller, until hardly any call is followed. What is left then are the traps
//! themselves, and of these only fewer help: the probes are in place for a part of the target's work
//! (its CPU time without the probes'), for a window in each cycle. Why work and not time: so the
//! part that is seen is known, however slow the target is meanwhile.

use std::time::Duration;

use super::Share;

/// The sample that an exact recording changes to, bytes.
const FIRST_SAMPLE: u64 = 512 << 10;
/// How much smaller each next one is.
const FACTOR: u64 = 8;
/// No sample is smaller than one block in so many bytes.
const LAST_SAMPLE: u64 = 256 << 20;
/// If fewer than one in so many calls are followed, the traps are what costs.
const FEW: u64 = 50;
/// Probes at system calls may take one part of the budget in so many.
const SYSTEM_CALLS: f64 = 5.0;
/// CPU time to look at before anything is decided, nanoseconds.
const EVIDENCE: u64 = 20_000_000;
/// CPU time of a window, with what the probes take, nanoseconds.
const WINDOW: u64 = 100_000_000;
/// Part of the budget that is planned for: a window may meet more than the last one did, and what it
/// takes besides what can be estimated, caches for instance, is to fit in as well.
const MARGIN: f64 = 0.7;
/// What may be saved for a burst: the budget of so much CPU time, nanoseconds.
const SAVINGS: f64 = 1e9;
/// How long the overhead has to be far below the budget until more is recorded again. It doubles each
/// time, so that what was too much is tried again ever more rarely.
const PATIENCE: Duration = Duration::from_secs(10);
const MOST_PATIENCE: Duration = Duration::from_secs(600);

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Nothing.
    Keep,
    /// Record one block in so many bytes; 0 records all.
    Sample(u64),
    /// Take those at system calls away, for good.
    NoSystemCalls,
    /// Take the probes away.
    Away,
    /// Put them back, and tell when they are ([`Governor::placed`]).
    Back,
}

/// Decides.
#[derive(Debug)]
pub struct Governor {
    /// The budget, as a part of the target's CPU time.
    budget: f64,
    /// The sample asked for; nothing larger is recorded.
    asked: u64,
    sample: u64,
    /// Whether system calls may be probed; for a moment they are after the order.
    system_calls: bool,
    state: State,
    /// CPU time that the probes may take, nanoseconds; below 0 after they took too much.
    savings: f64,
    /// Since the last order.
    seen: Share,
    calm: Calm,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    /// In place for good.
    Constant,
    /// In place, until so much work was done.
    Window { until: f64, done: f64 },
    /// Not in place, until so much work was done. What a window took of its CPU time last.
    Away { until: f64, done: f64, taken: f64 },
}

/// How long little was taken.
#[derive(Debug)]
struct Calm {
    since: Option<Duration>,
    patience: Duration,
}

impl Governor {
    /// Keeps the overhead below `percent`, and starts with a sample of one block in `asked` bytes.
    pub fn new(percent: f64, asked: u64) -> Self {
        let budget = percent / 100.0;
        Self {
            budget,
            asked,
            sample: asked,
            system_calls: true,
            state: State::Constant,
            savings: budget * SAVINGS / 4.0,
            seen: Share::default(),
            calm: Calm {
                since: None,
                patience: PATIENCE,
            },
        }
    }

    /// One block in so many bytes is recorded; 0: all.
    pub fn sample(&self) -> u64 {
        self.sample
    }

    /// How soon to look again.
    pub fn pace(&self) -> Duration {
        match self.state {
            State::Constant if self.part_taken() < self.budget => Duration::from_millis(50),
            State::Constant | State::Window { .. } => Duration::from_millis(10),
            State::Away { .. } => Duration::from_millis(25),
        }
    }

    /// The target executes another program, in which the probes are in place.
    pub fn start_over(&mut self) {
        self.state = State::Constant;
        self.seen = Share::default();
    }

    /// The probes are back after `share` since the last look, but do not count yet. For which part of the
    /// target's work they are, in 2^-32; 0: for good.
    pub fn placed(&mut self, share: Share) -> u64 {
        let State::Away { done, taken, .. } = self.state else {
            return 0;
        };
        let away = done + self.pay(share);
        self.seen = Share::default();
        if taken < self.budget * MARGIN {
            self.state = State::Constant;
            return 0;
        }
        // Not more than was saved: after a long time away so long a window would exceed the budget.
        let affordable = self.savings.max(cost_of_window(taken) / 2.0) * (1.0 - taken) / taken;
        let until = affordable.min(away * ratio(self.budget, taken));
        self.state = State::Window { until, done: 0.0 };
        let duty = until / (until + away);
        ((duty * (1u64 << 32) as f64) as u64).clamp(1, u64::from(u32::MAX))
    }

    /// Takes in what was taken, and tells the work that was done besides.
    fn pay(&mut self, share: Share) -> f64 {
        let (cpu, overhead) = (share.cpu_ns as f64, share.overhead_ns as f64);
        self.savings += self.budget * cpu - overhead;
        let most = self.budget * SAVINGS;
        self.savings = self.savings.min(match self.state {
            State::Constant => most,
            _ => most.max(WINDOW as f64),
        });
        (cpu - overhead).max(0.0)
    }

    /// What to do after `share` since the last look, at a time since the start.
    pub fn look(&mut self, at: Duration, share: Share) -> Order {
        let work = self.pay(share);
        self.seen.cpu_ns += share.cpu_ns;
        self.seen.overhead_ns += share.overhead_ns;
        self.seen.asked += share.asked;
        self.seen.followed += share.followed;
        self.seen.system_calls_ns += share.system_calls_ns;
        match &mut self.state {
            State::Constant => self.constant(at),
            State::Away { until, done, taken } => {
                *done += work;
                let over = *done >= *until && self.savings >= cost_of_window(*taken);
                if self.seen.cpu_ns >= WINDOW && self.system_calls_take_much() {
                    self.no_system_calls()
                } else if over {
                    Order::Back
                } else {
                    Order::Keep
                }
            }
            State::Window { until, done } => {
                *done += work;
                let (until, done) = (*until, *done);
                if self.seen.cpu_ns >= EVIDENCE
                    && let Some(sample) = self.smaller()
                {
                    return self.take(sample);
                }
                // Twice what it was to take: a window is not to go on for ever.
                let is_expensive = self.savings < -(WINDOW as f64);
                // Nearest to the plan, which now and then is passed by half of a look.
                if done + work / 2.0 < until && !is_expensive {
                    return Order::Keep;
                }
                self.away()
            }
        }
    }

    fn constant(&mut self, at: Duration) -> Order {
        if self.seen.cpu_ns < EVIDENCE {
            return Order::Keep;
        }
        // What was spent on finding out is paid back by and by, not by a further step.
        if self.savings < 0.0 && self.part_taken() > self.budget {
            self.calm.since = None;
            if self.system_calls_take_much() {
                return self.no_system_calls();
            }
            return match self.smaller() {
                Some(sample) => self.take(sample),
                None => self.away(),
            };
        }
        let little = self.part_taken() < self.budget / 4.0;
        if !little {
            self.calm.since = None;
        } else if self.sample > self.asked {
            let since = *self.calm.since.get_or_insert(at);
            if at.saturating_sub(since) >= self.calm.patience {
                self.calm.since = None;
                self.calm.patience = (self.calm.patience * 2).min(MOST_PATIENCE);
                let larger = match self.sample {
                    FIRST_SAMPLE => 0,
                    sample => sample / FACTOR,
                };
                return self.take(larger.max(self.asked));
            }
        }
        if self.seen.cpu_ns > 50 * EVIDENCE {
            self.seen = Share::default(); // of late, not of all times
        }
        Order::Keep
    }

    /// The next smaller sample, if the calls that are followed are what costs.
    fn smaller(&self) -> Option<u64> {
        let next = match self.sample {
            sample if sample < FIRST_SAMPLE => FIRST_SAMPLE,
            sample => sample.saturating_mul(FACTOR),
        };
        let many = self.seen.followed.saturating_mul(FEW) > self.seen.asked;
        (many && next <= LAST_SAMPLE).then_some(next)
    }

    fn take(&mut self, sample: u64) -> Order {
        self.sample = sample;
        self.seen = Share::default();
        Order::Sample(sample)
    }

    /// Whether the probes at system calls took more than is well spent on them, since the last order.
    fn system_calls_take_much(&self) -> bool {
        let taken = self.seen.system_calls_ns as f64;
        self.system_calls && taken * SYSTEM_CALLS > self.budget * self.seen.cpu_ns as f64
    }

    fn no_system_calls(&mut self) -> Order {
        self.system_calls = false;
        self.seen = Share::default();
        Order::NoSystemCalls
    }

    /// The probes' part of the CPU time since the last order.
    fn part_taken(&self) -> f64 {
        self.seen.overhead_ns as f64 / self.seen.cpu_ns.max(1) as f64
    }

    /// Away, until a window like the one just seen fits the budget.
    fn away(&mut self) -> Order {
        let taken = self.part_taken().clamp(0.0, 0.99);
        let work = WINDOW as f64 * (1.0 - taken);
        let until = work / ratio(self.budget, taken);
        self.seen = Share::default();
        self.state = State::Away {
            until,
            done: 0.0,
            taken,
        };
        Order::Away
    }
}

/// What a window takes, nanoseconds, if the probes take a part `taken` of the CPU time.
fn cost_of_window(taken: f64) -> f64 {
    taken * WINDOW as f64
}

/// How much work may be done with the probes for each work without, if they take a part `taken` of
/// the CPU time, so that all in all they take as much as the budget.
fn ratio(budget: f64, taken: f64) -> f64 {
    let budget = budget * MARGIN;
    // Per unit of work with the probes: what they take, and what it takes in all.
    let (overhead, all) = (taken / (1.0 - taken), 1.0 / (1.0 - taken));
    let rest = overhead - budget * all;
    if rest <= 0.0 {
        return 1e3; // always would do
    }
    (budget / rest).min(1e3)
}

#[cfg(test)]
#[path = "governor_tests.rs"]
mod tests;
