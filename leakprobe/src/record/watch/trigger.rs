//! Whether a condition holds, as arithmetic on readings: nothing here looks at a process or a clock.

use std::collections::VecDeque;
use std::time::Duration;

use crate::cli::condition::{Condition, Limit};
use crate::report::human;
use crate::target::CgroupMemory;

/// In so many parts a time is remembered, however long it is. The lowest of each part is kept; a part is
/// forgotten as a whole, so that what counts is of no more than the time, and of at most one part less.
const PARTS: u32 = 64;

/// What is known of a process at a moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reading {
    /// Since any one moment.
    pub at: Duration,
    /// Resident memory, bytes.
    pub rss: u64,
    /// Memory by page faults since the process began, bytes.
    pub faulted: u64,
    /// Of its cgroup.
    pub cgroup: Option<CgroupMemory>,
}

/// How far things are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// Bytes.
    pub value: u64,
    /// Bytes that must be exceeded.
    pub limit: u64,
}

impl Level {
    /// Whether the condition holds.
    pub fn holds(self) -> bool {
        self.value > self.limit
    }
}

/// A condition, and what it has to remember.
#[derive(Clone, Debug)]
pub struct Trigger {
    condition: Condition,
    rss: Lowest,
    faulted: Lowest,
}

impl Trigger {
    /// Nothing has been read yet.
    pub fn new(condition: Condition) -> Self {
        Self {
            condition,
            rss: Lowest::default(),
            faulted: Lowest::default(),
        }
    }

    /// The condition.
    pub fn condition(&self) -> &Condition {
        &self.condition
    }

    /// Takes in a reading; `None` where it lacks what the condition is about. Readings come in order.
    pub fn look(&mut self, reading: &Reading) -> Option<Level> {
        let Reading {
            at, rss, faulted, ..
        } = *reading;
        let level = |value, limit| Some(Level { value, limit });
        match self.condition.limit {
            Limit::Rss(bytes) => level(rss, bytes),
            Limit::RssGrowth { bytes, within } => {
                level(rss - self.rss.with(at, rss, within), bytes)
            }
            Limit::AllocRate { bytes, within } => {
                let grown = rss - self.rss.with(at, rss, within);
                let faulted = faulted - self.faulted.with(at, faulted, within);
                // A huge page is one fault, and a page that was given back and taken anew is no growth.
                level(grown.max(faulted), bytes)
            }
            Limit::Cgroup(bytes) => level(reading.cgroup?.usage, bytes),
            Limit::CgroupShare(share) => {
                let CgroupMemory { usage, limit, .. } = reading.cgroup?;
                let share = u128::from(limit?) * u128::from(share) / 10_000;
                level(usage, share.try_into().unwrap_or(u64::MAX))
            }
        }
    }

    /// A level in words, such as `RSS 12.0 MiB`.
    pub fn describe(&self, level: Level) -> String {
        let value = human::bytes(level.value);
        match self.condition.limit {
            Limit::Rss(_) => format!("RSS {value}"),
            Limit::RssGrowth { within, .. } => {
                format!("RSS grown by {value} within {}", short(within))
            }
            Limit::Cgroup(_) | Limit::CgroupShare(_) => format!("cgroup {value}"),
            Limit::AllocRate { within, .. } => format!("{value} new within {}", short(within)),
        }
    }
}

/// `10m`, `1s`.
fn short(time: Duration) -> String {
    humantime::format_duration(time).to_string()
}

/// The lowest of the values within some time.
#[derive(Clone, Debug, Default)]
struct Lowest {
    /// When each part began, and its lowest value.
    parts: VecDeque<(Duration, u64)>,
}

impl Lowest {
    /// Takes in a value, and gives the lowest one with it.
    fn with(&mut self, at: Duration, value: u64, within: Duration) -> u64 {
        while let Some((began, _)) = self.parts.front()
            && at.saturating_sub(*began) > within
        {
            self.parts.pop_front();
        }
        match self.parts.back_mut() {
            Some((began, lowest)) if at.saturating_sub(*began) < within / PARTS => {
                *lowest = value.min(*lowest);
            }
            _ => self.parts.push_back((at, value)),
        }
        let lowest = self.parts.iter().map(|(_, lowest)| *lowest).min();
        lowest.map_or(value, |lowest| lowest.min(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::condition::condition;

    const MIB: u64 = 1 << 20;

    fn trigger(text: &str) -> Trigger {
        Trigger::new(condition(text).unwrap())
    }

    /// Seconds and MiB of RSS and of faults.
    fn reading((seconds, rss, faulted): (u64, u64, u64)) -> Reading {
        Reading {
            at: Duration::from_secs(seconds),
            rss: rss * MIB,
            faulted: faulted * MIB,
            cgroup: None,
        }
    }

    /// When a condition first holds in a series, and with how many MiB.
    fn first(text: &str, series: impl IntoIterator<Item = (u64, u64, u64)>) -> Option<(u64, u64)> {
        let mut trigger = trigger(text);
        series.into_iter().find_map(|point| {
            let level = trigger.look(&reading(point)).unwrap();
            level.holds().then_some((point.0, level.value / MIB))
        })
    }

    #[test]
    fn rss_must_be_above() {
        let series = [(0, 499, 0), (1, 500, 0), (2, 501, 0)];
        assert_eq!(first("rss>500MiB", series), Some((2, 501)));
        assert_eq!(first("rss>501MiB", series), None);
    }

    #[test]
    fn growth_is_above_the_lowest_in_the_time() {
        // 1 MiB a minute is 10 in ten minutes, for hours.
        let slow = || (0..360).map(|minute| (60 * minute, 100 + minute, 0));
        assert_eq!(first("rss-growth>10MiB/10m", slow()), None);
        assert_eq!(first("rss-growth>9MiB/10m", slow()), Some((600, 10)));
        // Up and down by 30 MiB, and then up.
        let saw = |second: u64| (second, 100 + second % 31, 0);
        let jump = (0..1000)
            .map(saw)
            .chain((1000..1100).map(|second| (second, second - 870, 0)));
        assert_eq!(first("rss-growth>30MiB/1m", (0..1000).map(saw)), None);
        assert_eq!(first("rss-growth>30MiB/1m", jump), Some((1001, 31)));
        // At once, long before the time is over.
        let sudden = [(0, 10, 0), (1, 100, 0)];
        assert_eq!(first("rss-growth>50MiB/1d", sudden), Some((1, 90)));
        // What has shrunk has not grown.
        let shrunk = [(0, 100, 0), (1, 10, 0), (2, 60, 0), (3, 61, 0)];
        assert_eq!(first("rss-growth>50MiB/1m", shrunk), Some((3, 51)));
    }

    #[test]
    fn what_is_too_old_does_not_count() {
        // Ten readings a second.
        let mut trigger = trigger("rss-growth>5MiB/64s");
        let mut highest = 0;
        for tenth in 0..100_000u64 {
            let level = trigger.look(&Reading {
                at: Duration::from_millis(tenth * 100),
                rss: tenth * MIB / 10,
                ..Reading::default()
            });
            highest = level.unwrap().value.max(highest);
        }
        // In 64 parts of a second each.
        assert_eq!(highest, 64 * MIB);
        assert!(trigger.rss.parts.len() <= PARTS as usize + 1);
        // After a pause nothing is known.
        let level = trigger.look(&reading((1_000_000, 5_000_000, 0)));
        assert_eq!(level.unwrap().value, 0);
    }

    #[test]
    fn rates_are_of_faults_or_of_rss() {
        // The same memory, given back and taken again: many faults, no growth.
        let faults = [(0, 100, 1000), (1, 100, 1010), (2, 100, 1021)];
        assert_eq!(first("alloc-rate>10MiB/s", faults), Some((2, 11)));
        assert_eq!(first("alloc-rate>20MiB/2s", faults), Some((2, 21)));
        assert_eq!(first("alloc-rate>21MiB/2s", faults), None);
        // A huge page is one fault.
        let huge = [(0, 100, 1000), (1, 120, 1001)];
        assert_eq!(first("alloc-rate>10MiB/s", huge), Some((1, 20)));
        // Faults from before do not count.
        assert_eq!(first("alloc-rate>10MiB/s", [(0, 900, 9000)]), None);
        // After an exec the RSS is small, and the kernel counts faults on.
        let exec = [(0, 900, 9000), (1, 1, 9001)];
        assert_eq!(first("alloc-rate>10MiB/s", exec), None);
    }

    #[test]
    fn shares_of_a_cgroup() {
        let look = |text: &str, usage, limit| {
            let cgroup = Some(CgroupMemory {
                usage,
                limit,
                oom_kills: None,
            });
            let reading = Reading {
                cgroup,
                ..Reading::default()
            };
            trigger(text).look(&reading).map(Level::holds)
        };
        assert_eq!(look("cgroup>90%", 90, Some(100)), Some(false));
        assert_eq!(look("cgroup>90%", 91, Some(100)), Some(true));
        assert_eq!(look("cgroup>99.99%", u64::MAX, Some(u64::MAX)), Some(true));
        assert_eq!(look("cgroup>90%", 91, None), None);
        assert_eq!(look("cgroup>90", 91, None), Some(true));
        let nothing = trigger("cgroup>90").look(&Reading::default());
        assert_eq!(nothing, None);
    }

    #[test]
    fn levels_in_words() {
        let level = Level {
            value: 12 * MIB,
            limit: 0,
        };
        for (text, words) in [
            ("rss>1", "RSS 12.0 MiB"),
            ("rss-growth>1/10m", "RSS grown by 12.0 MiB within 10m"),
            ("cgroup>90%", "cgroup 12.0 MiB"),
            ("alloc-rate>1/s", "12.0 MiB new within 1s"),
        ] {
            assert_eq!(trigger(text).describe(level), words);
        }
    }
}
