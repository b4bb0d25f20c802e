//! What stacks are sorted by, and with it what a flamegraph draws.

use std::cmp::Reverse;

use clap::ValueEnum;
use serde::Serialize;

use super::growth::LiveGrowth;
use super::trend::Trend;
use crate::snapshot::LiveStack;

/// What comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Rank {
    /// The most live bytes
    #[default]
    Live,
    /// The surest growth
    Growth,
    /// The most bytes at the process's peak
    Peak,
    /// The most bytes allocated, freed since or not
    Allocated,
    /// The most live blocks
    Count,
}

/// Sorts stacks, of which this is the growth. Equal ones stay in their order, which is by live bytes.
pub fn sort(
    stacks: &mut [&LiveStack],
    rank: Rank,
    mut growth: impl FnMut(&LiveStack) -> LiveGrowth,
) {
    match rank {
        Rank::Live => {}
        Rank::Growth => {
            let keys = stacks
                .iter()
                .map(|stack| (by_growth(growth(stack)), *stack));
            let mut keys: Vec<_> = keys.collect();
            keys.sort_by(|(a, _), (b, _)| a.0.cmp(&b.0).then(b.1.total_cmp(&a.1)));
            for (place, (_, stack)) in stacks.iter_mut().zip(keys) {
                *place = stack;
            }
        }
        Rank::Peak => stacks.sort_by_key(|stack| Reverse(at_peak(stack))),
        Rank::Allocated => stacks.sort_by_key(|stack| Reverse(stack.totals.allocated_bytes)),
        Rank::Count => stacks.sort_by_key(|stack| Reverse(stack.totals.live_count)),
    }
}

/// Bytes at the process's peak; what is live, where no peak is kept.
fn at_peak(stack: &LiveStack) -> u64 {
    let peak = stack.peak.map(|peak| peak.at_peak_bytes);
    peak.unwrap_or(stack.totals.live_bytes)
}

/// What grows on comes before what does not; then by the low end of the interval, so that a certain growth comes
/// before one that may be none.
fn by_growth(growth: LiveGrowth) -> (u8, f64) {
    let class = match growth.trend {
        Trend::Growing => 0,
        Trend::Unknown => 1,
        Trend::LevelledOff | Trend::Flat => 2,
    };
    (class, growth.slope.map_or(f64::MIN, |slope| slope.low))
}
