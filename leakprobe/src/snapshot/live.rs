//! What is live of one stack, counted block by block, and at which ages its blocks go.

use leakprobe_common::{AGES, Block, StackTotals, age_class};

use crate::sampling::{Estimate, stands_for};

/// Bytes by class of age ([`age_class`]).
pub type ByAge = [u64; AGES + 1];

/// How old blocks of a stack were when they were freed, and how old those are that live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// Bytes freed.
    pub freed: ByAge,
    /// Bytes live, also in blocks that are too young to count; `None` if no blocks were read. Of a process that
    /// has ended, as of its end.
    pub live: Option<ByAge>,
}

impl Lifetimes {
    /// Those of two stacks together.
    pub fn and(&self, other: &Self) -> Self {
        let sum = |one: &ByAge, other: &ByAge| std::array::from_fn(|age| one[age] + other[age]);
        Self {
            freed: sum(&self.freed, &other.freed),
            live: self
                .live
                .zip(other.live)
                .map(|(one, other)| sum(&one, &other)),
        }
    }

    /// From what the kernel side keeps.
    pub(super) fn new(totals: &StackTotals, live: Option<ByAge>) -> Self {
        let mut freed = [0; AGES + 1];
        freed[..AGES].copy_from_slice(&totals.freed_by_age);
        let younger = freed.iter().sum();
        freed[AGES] = totals.freed_bytes.saturating_sub(younger);
        Self { freed, live }
    }
}

/// Adds bytes to bytes of the same age.
pub(super) fn add_by_age(sum: &mut ByAge, more: &ByAge) {
    for (sum, more) in sum.iter_mut().zip(more) {
        *sum = sum.saturating_add(*more);
    }
}

/// Live bytes and blocks of one stack, and when its oldest and newest block were given out.
#[derive(Clone, Copy, Default)]
pub(super) struct Live {
    pub(super) estimate: Estimate,
    pub(super) unconfirmed: Estimate,
    pub(super) settled: Estimate,
    pub(super) by_age: ByAge,
    /// 0 if there is none.
    oldest: u64,
    newest: u64,
}

impl Live {
    /// Adds a block, of an age as of `now`; one from before `unseen` may have been freed, one from before `settled`
    /// has settled.
    pub(super) fn add(&mut self, block: &Block, now: u64, unseen: Option<u64>, settled: u64) {
        self.estimate.add(block.size, block.chance);
        if unseen.is_some_and(|unseen| block.time < unseen) {
            self.unconfirmed.add(block.size, block.chance);
        } else if block.time <= settled {
            self.settled.add(block.size, block.chance);
        }
        let class = &mut self.by_age[age_class(now.saturating_sub(block.time))];
        *class = class.saturating_add(stands_for(block.size, block.chance));
        self.note(block.time, block.time);
    }

    /// Adds others.
    pub(super) fn merge(&mut self, other: &Self) {
        self.estimate.merge(&other.estimate);
        self.unconfirmed.merge(&other.unconfirmed);
        self.settled.merge(&other.settled);
        add_by_age(&mut self.by_age, &other.by_age);
        self.note(other.oldest, other.newest);
    }

    fn note(&mut self, oldest: u64, newest: u64) {
        self.oldest = match self.oldest {
            0 => oldest,
            known => known.min(oldest),
        };
        self.newest = self.newest.max(newest);
    }

    /// Ages of the oldest and the newest, nanoseconds.
    pub(super) fn ages(&self, now: u64) -> (u64, u64) {
        (
            now.saturating_sub(self.oldest),
            now.saturating_sub(self.newest),
        )
    }
}

#[cfg(test)]
mod tests {
    use leakprobe_common::CERTAIN;

    use super::*;

    #[test]
    fn blocks_are_told_apart_by_age() {
        const SECOND: u64 = 1_000_000_000;
        let now = 1000 * SECOND;
        let mut live = Live::default();
        for (age, size) in [(0, 1), (999_999_999, 2), (SECOND, 4), (599 * SECOND, 8)] {
            let block = Block {
                size,
                time: now - age,
                chance: CERTAIN,
                ..Block::default()
            };
            live.add(&block, now, None, 0);
        }
        let sampled = Block {
            size: 16,
            time: now - 600 * SECOND,
            chance: CERTAIN / 2,
            ..Block::default()
        };
        let mut other = Live::default();
        other.add(&sampled, now, None, 0);
        live.merge(&other);
        assert_eq!(live.by_age, [3, 4, 0, 8, 32]);
    }

    #[test]
    fn what_may_be_gone_has_not_settled() {
        let mut live = Live::default();
        for (time, size) in [(10, 1), (20, 2), (30, 4)] {
            let block = Block {
                size,
                time,
                chance: CERTAIN,
                ..Block::default()
            };
            live.add(&block, 40, Some(20), 20);
        }
        assert_eq!((live.unconfirmed.bytes(), live.settled.bytes()), (1, 2));
    }

    #[test]
    fn what_was_older_than_any_class_is_the_rest() {
        let totals = StackTotals {
            freed_bytes: 100,
            freed_by_age: [40, 30, 20, 5],
            ..StackTotals::default()
        };
        assert_eq!(Lifetimes::new(&totals, None).freed, [40, 30, 20, 5, 5]);
    }
}
