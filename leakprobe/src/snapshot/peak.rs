//! The most that was live, put together from what the kernel side has kept: of each stack, and of all stacks
//! at the moment when they had the most. It looks at totals only, never at blocks.

use leakprobe_common::StackTotals;
use serde::Serialize;

/// The most that a stack had live, and what it had when all stacks together had the most. Of a sample these are
/// estimates as the totals are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Peak {
    /// Bytes. Of stacks of several programs that are told as one, the sum: they need not have had it at the
    /// same time.
    pub peak_bytes: u64,
    /// Bytes it had live at the moment of [`WholePeak`].
    pub at_peak_bytes: u64,
}

/// The most that all stacks together had live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WholePeak {
    /// Bytes: the sum of what each stack had then. It may be too low by 64 KiB for each processor, and the
    /// moment be another one in which as much was live.
    pub bytes: u64,
    /// When, in ns of [`crate::clock::now`]; `None` if it was too little to note that.
    pub time: Option<u64>,
}

/// The moment of the peak, as far as the stacks are concerned.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    /// The epoch that began then; `None` if it is now.
    epoch: Option<u64>,
    whole: WholePeak,
}

impl Moment {
    /// Finds it, in what the kernel side knows of all stacks, and the totals of each.
    pub(super) fn find<'a>(
        peak: &leakprobe_common::Peak,
        stacks: impl Iterator<Item = &'a StackTotals>,
    ) -> Self {
        let (mut then, mut now) = (0u64, 0u64);
        for totals in stacks {
            then = then.saturating_add(at(totals, peak.epoch));
            now = now.saturating_add(live(totals));
        }
        // What has risen since by less than the kernel side tells.
        let is_now = now >= then;
        Self {
            epoch: (!is_now).then_some(peak.epoch),
            whole: WholePeak {
                bytes: now.max(then),
                time: (peak.time > 0).then_some(peak.time),
            },
        }
    }

    /// What all stacks had.
    pub(super) fn whole(&self) -> WholePeak {
        self.whole
    }

    /// What one of them had.
    pub(super) fn of(&self, totals: &StackTotals) -> Peak {
        let live = live(totals);
        let at_peak_bytes = self.epoch.map_or(live, |epoch| at(totals, epoch));
        Peak {
            // The reading may have come between two of the kernel side's steps.
            peak_bytes: totals.peak_bytes.max(live).max(at_peak_bytes),
            at_peak_bytes,
        }
    }
}

/// What a stack had live when an epoch began that is its last, or came after it.
fn at(totals: &StackTotals, epoch: u64) -> u64 {
    match totals.epoch >= epoch {
        true => totals.at_peak_bytes,
        false => live(totals), // no change since
    }
}

fn live(totals: &StackTotals) -> u64 {
    totals.allocated_bytes.saturating_sub(totals.freed_bytes)
}

/// Adds up what two stacks had, or parts of one.
pub(super) fn add(sum: &mut StackTotals, more: &StackTotals) {
    let epoch = sum.epoch.max(more.epoch);
    sum.at_peak_bytes = at(sum, epoch).saturating_add(at(more, epoch));
    sum.epoch = epoch;
    sum.peak_bytes = sum.peak_bytes.saturating_add(more.peak_bytes);
    sum.allocated_bytes += more.allocated_bytes;
    sum.allocated_count += more.allocated_count;
    sum.freed_bytes += more.freed_bytes;
    sum.freed_count += more.freed_count;
    for (sum, more) in sum.freed_by_age.iter_mut().zip(more.freed_by_age) {
        *sum += more;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(allocated: u64, freed: u64, peak: u64, (epoch, at_peak): (u64, u64)) -> StackTotals {
        StackTotals {
            allocated_bytes: allocated,
            freed_bytes: freed,
            peak_bytes: peak,
            epoch,
            at_peak_bytes: at_peak,
            ..StackTotals::default()
        }
    }

    fn peak(epoch: u64, time: u64) -> leakprobe_common::Peak {
        leakprobe_common::Peak {
            epoch,
            time,
            ..Default::default()
        }
    }

    fn at_peak(moment: &Moment, stacks: &[StackTotals]) -> Vec<u64> {
        let of = |totals| moment.of(totals).at_peak_bytes;
        stacks.iter().map(of).collect()
    }

    #[test]
    fn a_stack_that_has_not_changed_since_has_what_it_had() {
        let stacks = [
            stack(50, 50, 50, (7, 50)), // freed since
            stack(9, 4, 6, (3, 1)),     // its last change was before
            stack(2, 0, 2, (7, 0)),     // has come since
        ];
        let moment = Moment::find(&peak(7, 1000), stacks.iter());
        let expected = WholePeak {
            bytes: 55,
            time: Some(1000),
        };
        assert_eq!(moment.whole(), expected);
        assert_eq!(at_peak(&moment, &stacks), [50, 5, 0]);
        assert_eq!(moment.of(&stacks[1]).peak_bytes, 6);
    }

    #[test]
    fn what_has_risen_since_is_the_peak() {
        let stacks = [stack(50, 0, 50, (7, 50)), stack(2, 0, 2, (7, 0))];
        let moment = Moment::find(&peak(7, 1000), stacks.iter());
        assert_eq!(moment.whole().bytes, 52);
        assert_eq!(at_peak(&moment, &stacks), [50, 2]);
    }

    #[test]
    fn a_little_is_all_there_ever_was() {
        let stacks = [stack(50, 20, 40, (0, 0))];
        let moment = Moment::find(&peak(0, 0), stacks.iter());
        let expected = WholePeak {
            bytes: 30,
            time: None,
        };
        assert_eq!(moment.whole(), expected);
        let found = moment.of(&stacks[0]);
        assert_eq!((found.peak_bytes, found.at_peak_bytes), (40, 30));
    }

    /// Whatever the epoch at the end: the sum of two has what the two have.
    #[test]
    fn sums_have_what_their_parts_have() {
        let parts = [
            stack(90, 30, 70, (5, 40)),
            stack(8, 2, 8, (3, 7)),
            stack(4, 0, 4, (5, 1)),
        ];
        let mut sum = StackTotals::default();
        parts.iter().for_each(|part| add(&mut sum, part));
        for epoch in 5..7 {
            let expected: u64 = parts.iter().map(|part| at(part, epoch)).sum();
            assert_eq!(at(&sum, epoch), expected, "epoch {epoch}");
        }
        assert_eq!((sum.peak_bytes, live(&sum)), (82, 70));
    }
}
