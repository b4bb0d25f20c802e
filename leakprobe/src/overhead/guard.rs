//! When probing has to stop by itself: the target hardly does anything else. Decides from figures
//! alone; who stops is the recording.

use std::time::Duration;

/// Percent of the target's CPU time above which it makes no progress worth the name.
const LIMIT: u64 = 80;

/// How long in a row.
const PATIENCE: Duration = Duration::from_secs(10);

/// CPU time, in percent of one processor, below which a target waits more than it works. What probes
/// take of so little delays nobody.
const BUSY: u64 = 10;

/// Looks at each measurement.
#[derive(Debug, Default)]
pub struct Guard {
    /// Since when it has been too much without a break.
    since: Option<Duration>,
}

impl Guard {
    /// Whether to stop now. `at` is the time since the start, `percent` the probes' part of the
    /// target's CPU time (`None`: not known), `busy` the CPU time in percent of one processor.
    pub fn look(&mut self, at: Duration, percent: Option<u64>, busy: u64) -> bool {
        if percent.is_none_or(|percent| percent <= LIMIT) || busy < BUSY {
            self.since = None;
            return false;
        }
        at.saturating_sub(*self.since.get_or_insert(at)) >= PATIENCE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The second in which it stops, if one after the other has these figures.
    fn stops(figures: impl IntoIterator<Item = (Option<u64>, u64)>) -> Option<u64> {
        let mut guard = Guard::default();
        let mut seconds = (0..).zip(figures);
        let stop = seconds.find(|&(second, (percent, busy))| {
            guard.look(Duration::from_secs(second), percent, busy)
        });
        stop.map(|(second, _)| second)
    }

    #[test]
    fn stops_after_ten_seconds_in_a_row() {
        assert_eq!(stops(vec![(Some(81), 100); 60]), Some(10));
        assert_eq!(stops(vec![(Some(80), 100); 60]), None);
    }

    #[test]
    fn a_break_starts_it_anew() {
        for pause in [(Some(50), 100), (Some(99), 5), (None, 100)] {
            let mut figures = vec![(Some(99), 100); 9];
            figures.push(pause);
            figures.extend(vec![(Some(99), 100); 60]);
            assert_eq!(stops(figures), Some(20), "{pause:?}");
        }
    }

    #[test]
    fn leaves_a_target_alone_that_mostly_waits() {
        assert_eq!(stops(vec![(Some(99), 9); 60]), None);
    }
}
