//! Whether a series grows, how fast, and how sure that is.
//!
//! The slope is the median of the slopes between all pairs of points (Theil and Sen), which a few wild points do
//! not move; its interval is by ranks (Sen 1968, "Estimates of the regression coefficient based on
//! Kendall's tau"), so that nothing is assumed of how the noise is distributed. It is of the least of each stretch
//! of time: what a program falls back to between bursts.

use serde::{Serialize, Serializer};

use super::series::Point;

/// Points that a trend is told from at the least.
pub const FEWEST: usize = 6;

/// 97.5 % of a normal distribution are below so many standard deviations.
const TWO_SIDED_95: f64 = 1.96;

/// 99.95 % are below so many. There are hundreds of stacks in a busy program: of as many that only go up and
/// down, one in forty would seem to grow at 95 %.
const TWO_SIDED_99_9: f64 = 3.29;

/// What rises less often is steps, of which a program makes some before it is warm.
const FEWEST_RISES: usize = 4;

/// A growth, in bytes per second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Slope {
    /// The best estimate.
    #[serde(rename = "bytes_per_second", serialize_with = "thousandths")]
    pub per_second: f64,
    /// With 95 % confidence it is in between this.
    #[serde(serialize_with = "thousandths")]
    pub low: f64,
    /// And this.
    #[serde(serialize_with = "thousandths")]
    pub high: f64,
}

/// More digits than can be meant only make a report long.
fn thousandths<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((value * 1000.0).round() / 1000.0)
}

/// What becomes of a stack's live bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Trend {
    /// There are too few points to tell.
    Unknown,
    /// It grows on.
    Growing,
    /// It grew, and does not any more.
    LevelledOff,
    /// It does not grow.
    Flat,
}

/// The slopes between all pairs of points, sorted.
struct Slopes {
    slopes: Vec<f64>,
    /// Standard deviation of Kendall's score, without ties.
    deviation: f64,
}

impl Slopes {
    /// `None` if there are too few points, or they are all at one moment.
    fn of(points: &[Point]) -> Option<Self> {
        if points.len() < FEWEST {
            return None;
        }
        let mut slopes = Vec::with_capacity(points.len() * (points.len() - 1) / 2);
        for (index, first) in points.iter().enumerate() {
            for second in &points[index + 1..] {
                let seconds = second.at.saturating_sub(first.at) as f64 / 1e9;
                if seconds > 0.0 {
                    slopes.push((second.low as f64 - first.low as f64) / seconds);
                }
            }
        }
        // Most stacks of most programs do not move at all.
        if points.windows(2).any(|pair| pair[0].low != pair[1].low) {
            slopes.sort_unstable_by(f64::total_cmp);
        }
        let n = points.len() as f64;
        let deviation = (n * (n - 1.0) * (2.0 * n + 5.0) / 18.0).sqrt();
        (!slopes.is_empty()).then_some(Self { slopes, deviation })
    }

    /// The median, and an interval of so many standard deviations.
    fn within(&self, deviations: f64) -> Slope {
        let last = self.slopes.len() - 1;
        let middle = last as f64 / 2.0;
        let reach = deviations * self.deviation / 2.0;
        let at = |place: f64| self.slopes[(place.round().max(0.0) as usize).min(last)];
        Slope {
            per_second: (at(middle.floor()) + at(middle.ceil())) / 2.0,
            low: at(middle - reach),
            high: at(middle + reach + 1.0),
        }
    }
}

/// The slope of these points; `None` if there are too few, or they are all at one moment.
pub fn slope(points: &[Point]) -> Option<Slope> {
    Some(Slopes::of(points)?.within(TWO_SIDED_95))
}

/// Whether the series of these points goes on to grow.
pub fn trend(points: &[Point]) -> Trend {
    judge(points).1
}

/// Both. What grew in the first half alone has levelled off: a cache that is full, a program that has warmed up.
pub fn judge(points: &[Point]) -> (Option<Slope>, Trend) {
    let Some(slopes) = Slopes::of(points) else {
        return (None, Trend::Unknown);
    };
    let told = slopes.within(TWO_SIDED_95);
    let (earlier, later) = points.split_at(points.len() / 2);
    let (Some(earlier), Some(later)) = (slope(earlier), Slopes::of(later)) else {
        return (Some(told), Trend::Unknown);
    };
    let (all, later) = (slopes.within(TWO_SIDED_99_9), later.within(TWO_SIDED_99_9));
    let grows = all.low > 0.0;
    // A tenth of what it was is the tail of a curve that bends.
    let goes_on = later.low > (earlier.per_second / 10.0).max(0.0);
    // Half of the points may be too few to be sure of what all of them say.
    let may_go_on = later.per_second > all.per_second / 2.0;
    let rises = points.windows(2).filter(|pair| pair[0].low < pair[1].low);
    let trend = match (grows, goes_on && rises.count() >= FEWEST_RISES) {
        (true, true) => Trend::Growing,
        (true, false) if goes_on || may_go_on => Trend::Unknown,
        (false, _) if earlier.low <= 0.0 => Trend::Flat,
        _ => Trend::LevelledOff,
    };
    (Some(told), trend)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// Points a second apart.
    fn points(low: impl Fn(u64) -> u64) -> Vec<Point> {
        let point = |second| Point {
            at: second * SECOND,
            low: low(second),
            last: low(second),
        };
        (1..=40).map(point).collect()
    }

    /// Numbers below `most` that are the same each time.
    pub fn noise(seed: u64, most: u64) -> u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d;
        for _ in 0..3 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
        }
        state % most
    }

    #[test]
    fn a_straight_line() {
        let slope = slope(&points(|second| 1000 * second)).unwrap();
        assert_eq!(
            (slope.per_second, slope.low, slope.high),
            (1000.0, 1000.0, 1000.0)
        );
        assert_eq!(trend(&points(|second| 1000 * second)), Trend::Growing);
    }

    #[test]
    fn a_leak_in_noise() {
        let leak = points(|second| 500 * second + noise(second, 4000));
        let slope = slope(&leak).unwrap();
        assert!(
            slope.low > 0.0 && slope.low < 500.0 && slope.high > 500.0,
            "{slope:?}"
        );
        assert_eq!(trend(&leak), Trend::Growing);
    }

    #[test]
    fn noise_alone_does_not_grow() {
        let growing = (0..1000).filter(|seed| {
            let noisy = points(|second| 1_000_000 + noise(seed * 1000 + second, 100_000));
            trend(&noisy) == Trend::Growing
        });
        // One in two thousand looks as if it did, by the definition of the interval.
        let growing = growing.count();
        assert!(growing <= 2, "{growing}");
    }

    #[test]
    fn a_full_cache_has_levelled_off() {
        let cache = points(|second| 100_000 * second.min(12));
        assert_eq!(trend(&cache), Trend::LevelledOff);
        let warm = points(|second| (1e6 * (1.0 - (-(second as f64) / 4.0).exp())) as u64);
        assert_eq!(trend(&warm), Trend::LevelledOff);
    }

    #[test]
    fn warming_up_in_noise_is_no_growth() {
        let growing = (0..300).filter(|seed| {
            let filled = |second: u64| 100_000.0 * (1.0 - (-(second as f64) / 5.0).exp());
            let warm = points(|second| filled(second) as u64 + noise(seed * 1000 + second, 10_000));
            trend(&warm) == Trend::Growing
        });
        assert_eq!(growing.count(), 0);
    }

    #[test]
    fn steps_are_growth() {
        let steps = points(|second| second / 5 * 65_536);
        assert_eq!(trend(&steps), Trend::Growing);
    }

    #[test]
    fn few_steps_are_not() {
        let steps = points(|second| second / 11 * 65_536);
        assert_eq!(trend(&steps), Trend::Unknown);
    }

    #[test]
    fn too_little_to_tell() {
        assert_eq!(trend(&points(|second| second)[..11]), Trend::Unknown);
        assert_eq!(slope(&[]), None);
    }
}
