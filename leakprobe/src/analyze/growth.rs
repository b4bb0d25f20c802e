//! What each stack had live over time, and whether it grows.
//!
//! All stacks are looked at together, so their points are of the same moments and only the lows differ: a history
//! of 10 000 stacks takes 5 MB, however long the recording is. It begins with short stretches of time, so
//! that a short recording tells something too.
//!
//! That live bytes have grown is no leak yet: a program with more and more to do has more and more blocks at a time,
//! all of them young. What leaks stays, so growth counts only as far as blocks from before are still there.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

use leakprobe_common::StackKey;
use serde::Serialize;

use super::series::Point;
use super::trend::{FEWEST, Slope, Trend, judge};

/// Points of a history at the most. Then each two become one, of twice the time.
const MOST_POINTS: usize = 64;
/// Stacks of which there is a history at the most.
const MOST_STACKS: usize = 10_000;
/// Between looks, at first.
const SHORTEST: Duration = Duration::from_millis(250);
/// And later.
const USUAL: Duration = Duration::from_secs(1);

/// How the live bytes of a stack, or of all, have changed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LiveGrowth {
    /// How fast they grow; `None` where too little was seen to tell anything.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub slope: Option<Slope>,
    /// Whether they grow on.
    pub trend: Trend,
}

impl LiveGrowth {
    /// Nothing is known.
    pub const UNKNOWN: Self = Self {
        slope: None,
        trend: Trend::Unknown,
    };
}

/// What is there at the end of those blocks that tell a leak from traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// Live bytes at the end.
    pub live: u64,
    /// Those of them in blocks from before `until`; `None` if blocks were not looked at.
    pub old: Option<u64>,
    /// Nanoseconds after the start.
    pub until: u64,
}

/// Lows of live bytes, by stack.
#[derive(Debug, Default)]
pub struct History {
    /// Ends of the stretches, nanoseconds after the start.
    times: Vec<u64>,
    whole: Vec<u64>,
    stacks: HashMap<StackKey, Lows>,
    /// Stacks that there was no room for, or not any more. Their pasts are not known.
    left_out: HashSet<StackKey>,
    /// What has more live bytes than this is followed again: a leak may be small at first.
    bar: u64,
    /// Looks that make a point.
    each: u32,
    /// Looks in the last point.
    looks: u32,
    period: Option<Duration>,
}

#[derive(Debug, Default)]
struct Lows {
    /// As many as there are times.
    lows: Vec<u64>,
    /// The first of them that is known.
    since: usize,
    /// Whether it was in the look that goes on.
    seen: bool,
}

impl Lows {
    fn take_in(&mut self, live: u64) {
        if let Some(low) = self.lows.last_mut() {
            *low = live.min(*low);
        }
        self.seen = true;
    }
}

impl History {
    /// Between looks, as of now.
    pub fn period(&self) -> Duration {
        self.period.unwrap_or(SHORTEST)
    }

    /// When it begins, as far as it is known: nanoseconds after the start.
    pub fn since(&self) -> u64 {
        self.times.first().copied().unwrap_or(0)
    }

    /// Stacks that there is no history of for lack of room.
    pub fn left_out(&self) -> u64 {
        self.left_out.len() as u64
    }

    /// Takes in what each stack has live at a moment; stacks that are not told have nothing. Each is told
    /// once. `whole` is their sum, or less where something does not count.
    pub fn look(&mut self, at: u64, whole: u64, live: impl Iterator<Item = (StackKey, u64)>) {
        self.begin(at, whole);
        let mut newcomers = Vec::new();
        for (key, bytes) in live {
            match self.stacks.get_mut(&key) {
                Some(lows) => lows.take_in(bytes),
                None if bytes == 0 => {}
                None if !self.left_out.contains(&key) => newcomers.push((key, bytes, 0)),
                None if bytes > self.bar => newcomers.push((key, bytes, self.times.len() - 1)),
                None => {}
            }
        }
        for lows in self.stacks.values_mut() {
            if !std::mem::take(&mut lows.seen) {
                lows.take_in(0);
                lows.seen = false;
            }
        }
        for (key, bytes, since) in newcomers {
            // Whatever comes later had nothing before, nor at the other looks of this point.
            let mut lows = vec![0; self.times.len()];
            if (self.looks == 1 || since > 0)
                && let Some(last) = lows.last_mut()
            {
                *last = bytes;
            }
            self.left_out.remove(&key);
            let seen = false;
            self.stacks.insert(key, Lows { lows, since, seen });
        }
        if self.stacks.len() > MOST_STACKS {
            self.make_room();
        }
    }

    /// A look begins: another one of the last point, or the first of the next.
    fn begin(&mut self, at: u64, whole: u64) {
        let each = self.each.max(1);
        if self.looks < each && !self.times.is_empty() {
            self.looks += 1;
            if let (Some(time), Some(low)) = (self.times.last_mut(), self.whole.last_mut()) {
                (*time, *low) = (at, whole.min(*low));
            }
            return;
        }
        if self.times.len() >= MOST_POINTS {
            self.halve();
        }
        self.looks = 1;
        self.times.push(at);
        self.whole.push(whole);
        for lows in self.stacks.values_mut() {
            lows.lows.push(u64::MAX);
        }
    }

    /// Each two points become one. As long as looks can become rarer, they do instead of being put together.
    fn halve(&mut self) {
        let lows = |lows: &[u64]| -> Vec<u64> {
            let pairs = lows.chunks(2);
            pairs
                .filter_map(|pair| pair.iter().min().copied())
                .collect()
        };
        self.times = self
            .times
            .chunks(2)
            .map(|pair| pair[pair.len() - 1])
            .collect();
        self.whole = lows(&self.whole);
        for stack in self.stacks.values_mut() {
            stack.lows = lows(&stack.lows);
            stack.since = stack.since.div_ceil(2);
        }
        // What has had nothing for so long begins anew when it has.
        self.stacks
            .retain(|_, stack| stack.since > 0 || stack.lows.iter().any(|&low| low > 0));
        match self.period() {
            period if period < USUAL => self.period = Some((period * 2).min(USUAL)),
            _ => self.each = self.each.max(1) * 2,
        }
    }

    /// Leaves out the stacks with the least live bytes, some more than has to be.
    fn make_room(&mut self) {
        let last = |lows: &Lows| lows.lows.last().copied().unwrap_or(0);
        let mut all: Vec<_> = self
            .stacks
            .iter()
            .map(|(key, it)| (last(it), *key))
            .collect();
        all.sort_unstable_by_key(|&(live, key)| (Reverse(live), key.program, key.id));
        let smallest = all.get(MOST_STACKS * 9 / 10 - 1);
        // Twice as much, so that what goes up and down does not come and go.
        self.bar = smallest.map_or(0, |(live, _)| live * 2);
        for (_, key) in all.drain(MOST_STACKS * 9 / 10..) {
            self.stacks.remove(&key);
            self.left_out.insert(key);
        }
    }

    /// How a stack has grown.
    pub fn of(&self, key: &StackKey, settled: Settled) -> LiveGrowth {
        match self.stacks.get(key) {
            Some(lows) => self.judge(&lows.lows, lows.since, settled),
            None if self.left_out.contains(key) => LiveGrowth::UNKNOWN,
            None => self.judge(&vec![0; self.times.len()], 0, settled),
        }
    }

    /// How these stacks together have grown; not known if it is not of one of them.
    pub fn of_sum<'a>(
        &self,
        keys: impl Iterator<Item = &'a StackKey>,
        settled: Settled,
    ) -> LiveGrowth {
        let (mut sum, mut since) = (vec![0; self.times.len()], 0);
        for key in keys {
            match self.stacks.get(key) {
                Some(lows) => {
                    since = since.max(lows.since);
                    for (sum, low) in sum.iter_mut().zip(&lows.lows) {
                        *sum += *low;
                    }
                }
                None if self.left_out.contains(key) => return LiveGrowth::UNKNOWN,
                None => {}
            }
        }
        self.judge(&sum, since, settled)
    }

    /// How all stacks together have grown, but for these.
    pub fn of_all_but<'a>(
        &self,
        others: impl Iterator<Item = &'a StackKey>,
        settled: Settled,
    ) -> LiveGrowth {
        let mut whole = self.whole.clone();
        for lows in others.filter_map(|key| self.stacks.get(key)) {
            for (sum, low) in whole.iter_mut().zip(&lows.lows) {
                *sum = sum.saturating_sub(*low);
            }
        }
        self.judge(&whole, 0, settled)
    }

    fn judge(&self, lows: &[u64], since: usize, settled: Settled) -> LiveGrowth {
        let points: Vec<Point> = self
            .times
            .iter()
            .zip(lows)
            .skip(since)
            .map(|(&at, &low)| Point { at, low, last: low })
            .collect();
        if points.len() < 2 * FEWEST {
            return LiveGrowth::UNKNOWN;
        }
        let (slope, trend) = judge(&points);
        let trend = match trend {
            Trend::Growing => settled.confirm(&points),
            other => other,
        };
        LiveGrowth { slope, trend }
    }
}

impl Settled {
    /// What grows by its series grows if what has grown is still there.
    fn confirm(&self, points: &[Point]) -> Trend {
        let before = points.iter().take_while(|point| point.at <= self.until);
        let low_then = before.last().map_or(0, |point| point.low);
        let grown = low_then.saturating_sub(points.first().map_or(0, |point| point.low));
        let last = points.last().map_or(0, |point| point.low);
        match self.old {
            _ if self.live < last / 2 => Trend::Flat, // it was freed at the end
            Some(old) if old == 0 || old < grown / 2 => Trend::Unknown,
            _ => Trend::Growing,
        }
    }
}

#[cfg(test)]
#[path = "growth_tests.rs"]
mod tests;
