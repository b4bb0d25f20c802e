//! What is left of ranges of addresses that were given out: arithmetic, nothing is read here.

use std::collections::BTreeMap;

/// A range that a system call gave out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First address.
    pub start: u64,
    /// Bytes.
    pub size: u64,
    /// When; of two that overlap the later one counts.
    pub time: u64,
    /// To whom.
    pub stack: u64,
}

/// How many bytes of each range are still its own and in one of the `mapped` ranges (sorted, first
/// address and the one after the last). Those of which nothing is left are left out.
pub fn left(mut ranges: Vec<Range>, mapped: &[(u64, u64)]) -> Vec<(Range, u64)> {
    ranges.sort_unstable_by_key(|range| std::cmp::Reverse(range.time));
    let mut taken = Taken::default();
    ranges
        .into_iter()
        .filter_map(|range| {
            let end = range.start.saturating_add(range.size);
            let own = taken.take(range.start, end);
            let left = own.into_iter().map(|own| overlap(own, mapped)).sum();
            (left > 0).then_some((range, left))
        })
        .collect()
}

/// Bytes of a range that are in one of the others.
fn overlap((start, end): (u64, u64), others: &[(u64, u64)]) -> u64 {
    let first = others.partition_point(|&(_, other)| other <= start);
    others[first..]
        .iter()
        .take_while(|&&(other, _)| other < end)
        .map(|&(from, to)| to.min(end) - from.max(start))
        .sum()
}

/// Addresses that belong to somebody: start to end, no two of which touch.
#[derive(Default)]
struct Taken(BTreeMap<u64, u64>);

impl Taken {
    /// Takes a range; the parts of it that were nobody's before.
    fn take(&mut self, start: u64, end: u64) -> Vec<(u64, u64)> {
        let (mut from, mut to, mut at) = (start, end, start);
        let mut free = Vec::new();
        while let Some((&other, &other_end)) = self.0.range(..=to).next_back() {
            if other_end < from {
                break;
            }
            self.0.remove(&other);
            (from, to) = (from.min(other), to.max(other_end));
            free.push((other, other_end));
        }
        self.0.insert(from, to);
        // `free` holds what was taken, last first.
        let mut parts = Vec::new();
        for (other, other_end) in free.into_iter().rev() {
            if other > at {
                parts.push((at, other.min(end)));
            }
            at = at.max(other_end);
        }
        if at < end {
            parts.push((at, end));
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64, time: u64) -> Range {
        Range {
            start,
            size: end - start,
            time,
            stack: time,
        }
    }

    /// Time and bytes left, by time.
    fn left_of(ranges: &[Range], mapped: &[(u64, u64)]) -> Vec<(u64, u64)> {
        let mut left: Vec<_> = left(ranges.to_vec(), mapped)
            .iter()
            .map(|(range, left)| (range.time, *left))
            .collect();
        left.sort_unstable();
        left
    }

    #[test]
    fn what_is_not_mapped_any_more_is_gone() {
        let ranges = [range(10, 20, 1), range(30, 40, 2), range(50, 60, 3)];
        assert_eq!(left_of(&ranges, &[(0, 100)]), [(1, 10), (2, 10), (3, 10)]);
        assert_eq!(left_of(&ranges, &[(15, 17), (18, 35)]), [(1, 4), (2, 5)]);
        assert_eq!(left_of(&ranges, &[]), []);
    }

    #[test]
    fn the_later_of_two_counts() {
        let ranges = [range(10, 50, 1), range(20, 30, 2), range(25, 60, 3)];
        assert_eq!(left_of(&ranges, &[(0, 100)]), [(1, 10), (2, 5), (3, 35)]);
        let inside = [range(10, 20, 3), range(30, 40, 2), range(0, 50, 1)];
        assert_eq!(left_of(&inside, &[(0, 100)]), [(1, 30), (2, 10), (3, 10)]);
        let all = [range(0, 50, 2), range(10, 20, 1)];
        assert_eq!(left_of(&all, &[(0, 100)]), [(2, 50)]);
    }

    #[test]
    fn every_address_counts_once() {
        // Against a table of single addresses.
        let mut seed = 1u64;
        let mut next = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % below
        };
        for _ in 0..200 {
            let ranges: Vec<_> = (1..20)
                .map(|time| {
                    let start = next(90);
                    range(start, start + 1 + next(10), time)
                })
                .collect();
            let mapped = [(5, 40), (45, 46), (60, 95)];
            let mut owner = [0; 100];
            for range in &ranges {
                owner[range.start as usize..(range.start + range.size) as usize].fill(range.time);
            }
            let mut expected: BTreeMap<u64, u64> = BTreeMap::new();
            for (address, &time) in (0u64..).zip(&owner) {
                let is_mapped = mapped
                    .iter()
                    .any(|(from, to)| (*from..*to).contains(&address));
                if time != 0 && is_mapped {
                    *expected.entry(time).or_default() += 1;
                }
            }
            assert_eq!(
                left_of(&ranges, &mapped),
                expected.into_iter().collect::<Vec<_>>()
            );
        }
    }
}
