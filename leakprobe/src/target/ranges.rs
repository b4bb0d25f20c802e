//! Names of address ranges, of which a later one replaces what it overlaps.
//!
//! A JIT compiler puts new code where old code was. What an address is called is what was said of it
//! last.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Most ranges that are kept. V8 names some 100 000 functions in a large application.
const MAX_RANGES: usize = 1 << 20;

/// Most bytes that names take together.
const MAX_NAME_BYTES: usize = 256 << 20;

/// Ranges by their first address; they do not overlap.
#[derive(Debug, Default)]
pub struct Ranges {
    by_start: BTreeMap<u64, Range>,
    name_bytes: usize,
}

#[derive(Clone, Debug)]
struct Range {
    /// Last address; not the one after, which the highest range has none of.
    last: u64,
    name: Arc<str>,
}

impl Ranges {
    /// Names `size` bytes from `start`. False if there is no room for more, and then the name is
    /// not known, but the old one is not taken for it either.
    pub fn insert(&mut self, start: u64, size: u64, name: &str) -> bool {
        let Some(more) = size.checked_sub(1) else {
            return true; // no byte has this name
        };
        let last = start.saturating_add(more);
        self.clear(start, last);
        if self.by_start.len() >= MAX_RANGES || self.name_bytes + name.len() > MAX_NAME_BYTES {
            return false;
        }
        self.name_bytes += name.len();
        let name = name.into();
        self.by_start.insert(start, Range { last, name });
        true
    }

    /// Makes all addresses from `start` to `last` nameless.
    fn clear(&mut self, start: u64, last: u64) {
        let before = self.by_start.range_mut(..start).next_back();
        if let Some((_, range)) = before.filter(|(_, range)| range.last >= start) {
            let end = std::mem::replace(&mut range.last, start - 1);
            if end > last {
                let rest = Range {
                    last: end,
                    name: Arc::clone(&range.name),
                };
                self.name_bytes += rest.name.len();
                self.by_start.insert(last + 1, rest);
            }
        }
        while let Some((&at, _)) = self.by_start.range(start..=last).next()
            && let Some(range) = self.by_start.remove(&at)
        {
            if range.last > last {
                self.by_start.insert(last + 1, range);
            } else {
                self.name_bytes -= range.name.len();
            }
        }
    }

    /// What an address is called.
    pub fn find(&self, address: u64) -> Option<&Arc<str>> {
        let (_, range) = self.by_start.range(..=address).next_back()?;
        (address <= range.last).then_some(&range.name)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(ranges: &Ranges, addresses: impl Iterator<Item = u64>) -> Vec<Option<String>> {
        addresses
            .map(|address| ranges.find(address).map(|name| name.to_string()))
            .collect()
    }

    proptest! {
        /// The naive model: of all that hold the address, the last one.
        #[test]
        fn the_newest_name_of_an_address_wins(
            given in prop::collection::vec((0u64..200, 0u64..60), 0..60),
            top in any::<bool>(),
        ) {
            let base = if top { u64::MAX - 220 } else { 0 };
            let mut ranges = Ranges::default();
            for (index, (start, size)) in given.iter().enumerate() {
                prop_assert!(ranges.insert(base + start, *size, &index.to_string()));
            }
            let model = |address: u64| {
                given.iter().enumerate().rev()
                    .find(|(_, (start, size))| (*start..start + size).contains(&address))
                    .map(|(index, _)| index.to_string())
            };
            let last = if top { 220 } else { 300 };
            prop_assert_eq!(
                names(&ranges, (0..=last).map(|at| base + at)),
                (0..=last).map(model).collect::<Vec<_>>()
            );
            let bytes: usize = ranges.by_start.values().map(|range| range.name.len()).sum();
            prop_assert_eq!(ranges.name_bytes, bytes);
        }
    }

    #[test]
    fn ends_of_the_address_space_do_not_overflow() {
        let mut ranges = Ranges::default();
        assert!(ranges.insert(u64::MAX, u64::MAX, "top"));
        assert!(ranges.insert(0, 1, "bottom"));
        assert!(ranges.insert(5, 0, "nothing"));
        assert_eq!(ranges.find(u64::MAX).map(|name| &**name), Some("top"));
        assert_eq!(ranges.find(0).map(|name| &**name), Some("bottom"));
        assert_eq!(ranges.find(5), None);
        assert!(ranges.insert(0, u64::MAX, "all"));
        assert_eq!(ranges.find(u64::MAX - 1).map(|name| &**name), Some("all"));
        assert_eq!(ranges.find(u64::MAX).map(|name| &**name), Some("top"));
    }

    #[test]
    fn what_has_no_room_leaves_no_wrong_name() {
        let mut ranges = Ranges::default();
        let long = "x".repeat(MAX_NAME_BYTES / 2);
        assert!(ranges.insert(0, 10, &long));
        assert!(ranges.insert(10, 10, &long));
        assert!(!ranges.insert(5, 10, "new"));
        assert_eq!(ranges.find(4).map(|name| name.len()), Some(long.len()));
        assert_eq!(ranges.find(5), None);
    }
}
