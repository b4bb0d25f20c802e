//! The arithmetic of a sample: with which probability each size is recorded, and what the recorded
//! blocks tell about all of them. The kernel side draws, by the table made here; nothing in here
//! reads a map or knows a process. docs/sampling.md has the reasons.

use leakprobe_common::{
    CERTAIN, COUNT_FRACTION_BITS, Chances, SIZE_CLASSES, scaled_bytes, scaled_count, size_class,
};
use serde::Serialize;

/// The 97.5 % quantile of the normal distribution: 95 % lie within as many standard deviations.
const Z: f64 = 1.959_963_984_540_054;

/// The probabilities by size class for one recorded block in about `rate` bytes: 1 - e^(-size/rate)
/// for the size in the middle of the class, as it would come of marking each byte with the
/// probability 1/rate and recording the blocks with a mark. None is 0: a block of no bytes is taken
/// for one of 1. A rate of 0 makes all certain.
pub fn chances(rate: u64) -> Box<Chances> {
    let mut chances = Box::new([u32::MAX; SIZE_CLASSES]);
    for (class, chance) in chances.iter_mut().enumerate() {
        let Some((first, last)) = sizes(class as u64) else {
            break; // sizes that do not exist
        };
        let middle = (first as f64 + last as f64) / 2.0;
        let probability = -(-middle.max(1.0) / rate as f64).exp_m1();
        let scaled = (probability * CERTAIN as f64).round() as u64;
        *chance = (scaled.clamp(1, CERTAIN) - 1) as u32;
    }
    chances
}

/// First and last size of a class, bytes; `None` beyond the last class in use. The inverse of
/// [`size_class`].
fn sizes(class: u64) -> Option<(u64, u64)> {
    if class > size_class(u64::MAX) {
        return None;
    }
    if class < 16 {
        return Some((class, class));
    }
    // A class has a 16th of its power of two.
    let shift = (class >> 4) - 1;
    let first = (16 | class & 15) << shift;
    Some((first, first + ((1 << shift) - 1)))
}

/// Blocks of a sum that was kept in parts ([`COUNT_FRACTION_BITS`]), rounded to the nearest.
pub const fn whole_blocks(parts: u64) -> u64 {
    let half = 1 << (COUNT_FRACTION_BITS - 1);
    parts.saturating_add(half) >> COUNT_FRACTION_BITS
}

/// Bytes that a recorded block stands for, as on the kernel side: 0 is no chance that it can have had, and stands
/// for certainty.
pub const fn stands_for(size: u64, chance: u64) -> u64 {
    match chance {
        1..CERTAIN => scaled_bytes(size, chance),
        _ => size,
    }
}

/// Where the truth lies in 95 of 100 cases. Low and high end; the estimate is between them, or
/// equal to both when nothing was left to chance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Interval {
    /// Bytes allocated and not freed.
    pub live_bytes: (u64, u64),
    /// Blocks allocated and not freed.
    pub live_count: (u64, u64),
}

/// What recorded blocks tell about all blocks of a stack, or of several.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Estimate {
    bytes: Sum,
    /// Its `scaled` is in parts of a block.
    count: Sum,
}

impl Estimate {
    /// Adds a recorded block of `size` bytes that was recorded with the probability `chance`, in
    /// 2^-32; 0 is none that it can have had, and stands for certainty as on the kernel side.
    pub fn add(&mut self, size: u64, chance: u64) {
        let chance = match chance {
            1..CERTAIN => chance,
            _ => CERTAIN,
        };
        self.bytes.add(size, scaled_bytes(size, chance), chance);
        self.count.add(1, scaled_count(chance), chance);
    }

    /// Adds the blocks of another stack.
    pub fn merge(&mut self, other: &Self) {
        self.bytes.merge(&other.bytes);
        self.count.merge(&other.count);
    }

    /// Estimated bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes.scaled
    }

    /// Estimated blocks.
    pub fn count(&self) -> u64 {
        whole_blocks(self.count.scaled)
    }

    /// The 95 % intervals of both.
    pub fn interval(&self) -> Interval {
        Interval {
            live_bytes: self.bytes.interval(self.bytes()),
            live_count: self.count.interval(self.count()),
        }
    }
}

/// A sum over recorded blocks of a quantity x, which is the block's bytes or 1, with p its
/// probability.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sum {
    /// Sum of x: what is there for certain.
    recorded: u64,
    /// Sum of x/p, the Horvitz-Thompson estimate of the sum over all blocks.
    scaled: u64,
    /// Sum of (1-p) (x/p)², the estimate of its variance.
    variance: f64,
    /// Sum of (1-p)² (x/p)³.
    skew: f64,
}

impl Sum {
    fn add(&mut self, x: u64, scaled: u64, chance: u64) {
        self.recorded = self.recorded.saturating_add(x);
        self.scaled = self.scaled.saturating_add(scaled);
        if chance == CERTAIN {
            return; // no variance; in an exact recording that is each of millions
        }
        let probability = chance as f64 / CERTAIN as f64;
        let (weight, missed) = (x as f64 / probability, 1.0 - probability);
        self.variance += missed * weight.powi(2);
        self.skew += missed.powi(2) * weight.powi(3);
    }

    fn merge(&mut self, other: &Self) {
        self.recorded = self.recorded.saturating_add(other.recorded);
        self.scaled = self.scaled.saturating_add(other.scaled);
        self.variance += other.variance;
        self.skew += other.skew;
    }

    /// The interval around `estimate`: all truths from which the estimate is no more than 1.96 of
    /// the standard deviations that it would have under that truth. (A normal interval takes the
    /// one it has under itself, which is too small when few blocks happened to be recorded.) The
    /// variance is taken to grow with the truth by `step` for each unit. When all blocks have one
    /// size this is the score interval of the binomial distribution.
    fn interval(&self, estimate: u64) -> (u64, u64) {
        if self.variance == 0.0 {
            return (estimate, estimate);
        }
        // What one recorded block adds to the estimate beyond itself, on the average of the
        // variance. Blocks that are as good as certain do not count in it, however large.
        let step = self.skew / self.variance;
        let middle = estimate as f64 + step * Z * Z / 2.0;
        let half = Z * (self.variance + (step * Z / 2.0).powi(2)).sqrt();
        let low = (middle - half).floor() as u64;
        let high = (middle + half).ceil() as u64;
        (
            low.max(self.recorded).min(estimate),
            high.max(estimate), // for figures a double does not hold exactly
        )
    }
}

#[cfg(test)]
mod tests;
