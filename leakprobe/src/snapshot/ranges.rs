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
    ranges.sort_by_key(|range| range.time);
    let mut owners = RangeMap::default();
    for (number, range) in ranges.iter().enumerate() {
        owners.put(range.start, range.start.saturating_add(range.size), number);
    }
    let mut left = vec![0; ranges.len()];
    for (start, end, number) in owners.iter() {
        left[number] += overlap((start, end), mapped);
    }
    let all = ranges.into_iter().zip(left);
    all.filter(|(_, left)| *left > 0).collect()
}

/// Bytes of a range that are in one of the others.
pub fn overlap((start, end): (u64, u64), others: &[(u64, u64)]) -> u64 {
    let first = others.partition_point(|&(_, other)| other <= start);
    others[first..]
        .iter()
        .take_while(|&&(other, _)| other < end)
        .map(|&(from, to)| to.min(end) - from.max(start))
        .sum()
}

/// Ranges of addresses that do not overlap, and what is known of each. Two that touch stay two.
#[derive(Clone, Debug)]
pub struct RangeMap<T>(BTreeMap<u64, (u64, T)>);

impl<T> Default for RangeMap<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

/// A part of it: from one address to before another.
pub type Piece<T> = (u64, u64, T);

impl<T: Copy> RangeMap<T> {
    /// Takes out what is in a range; what is not, stays.
    pub fn take(&mut self, start: u64, end: u64) -> Vec<Piece<T>> {
        let inside = self.within(start, end);
        for &(from, to, value) in &inside {
            // It may begin before.
            let (at, (whole, _)) = match self.0.range(..=from).next_back() {
                Some((&at, &range)) => (at, range),
                None => continue,
            };
            self.0.remove(&at);
            if at < from {
                self.0.insert(at, (from, value));
            }
            if to < whole {
                self.0.insert(to, (whole, value));
            }
        }
        inside
    }

    /// Puts a range in place of what is there.
    pub fn put(&mut self, start: u64, end: u64, value: T) {
        if start < end {
            self.take(start, end);
            self.0.insert(start, (end, value));
        }
    }

    /// Puts a range where nothing is.
    pub fn fill(&mut self, start: u64, end: u64, value: T) {
        let mut at = start;
        for (from, to, _) in self.within(start, end) {
            if at < from {
                self.0.insert(at, (from, value));
            }
            at = to;
        }
        if at < end {
            self.0.insert(at, (end, value));
        }
    }

    /// What is in a range, in order.
    pub fn within(&self, start: u64, end: u64) -> Vec<Piece<T>> {
        if start >= end {
            return Vec::new();
        }
        let before = self.0.range(..start).next_back();
        let before = before.filter(|(_, (to, _))| *to > start);
        let ranges = before.into_iter().chain(self.0.range(start..end));
        ranges
            .map(|(&from, &(to, value))| (from.max(start), to.min(end), value))
            .collect()
    }

    /// All of it, in order.
    pub fn iter(&self) -> impl Iterator<Item = Piece<T>> {
        self.0.iter().map(|(&from, &(to, value))| (from, to, value))
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
