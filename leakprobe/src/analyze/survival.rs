//! How much of what a stack allocates is still there after a second, ten, a minute, ten minutes. Buffers of
//! requests are gone after the first, caches level off, a leak stays.

use leakprobe_common::{AGES, AGES_NS};
use serde::{Serialize, Serializer};

use crate::snapshot::Lifetimes;

/// Of the bytes that a stack allocates, the part that is live at an age, 0 to 1; `None` where the recording
/// cannot tell.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Survival {
    /// At 1 s.
    #[serde(rename = "1s", skip_serializing_if = "Option::is_none")]
    #[serde(serialize_with = "rounded")]
    pub second: Option<f64>,
    /// At 10 s.
    #[serde(rename = "10s", skip_serializing_if = "Option::is_none")]
    #[serde(serialize_with = "rounded")]
    pub ten_seconds: Option<f64>,
    /// At 1 min.
    #[serde(rename = "1min", skip_serializing_if = "Option::is_none")]
    #[serde(serialize_with = "rounded")]
    pub minute: Option<f64>,
    /// At 10 min.
    #[serde(rename = "10min", skip_serializing_if = "Option::is_none")]
    #[serde(serialize_with = "rounded")]
    pub ten_minutes: Option<f64>,
}

/// Estimates it in a recording of `duration` nanoseconds, as Kaplan and Meier do: what survives an age is
/// what survives each class of age before it, and of each class that is the part of what was at risk in it. Bytes
/// whose age lies in the class, live, count half: they were at risk in a part of it, which is what life tables
/// take. `None` if nothing can be told.
pub fn survival(lifetimes: &Lifetimes, duration: u64) -> Option<Survival> {
    let Lifetimes { freed, live } = lifetimes;
    let live = live.as_ref()?;
    let mut shares = [None; AGES];
    let mut survive = 1.0;
    for (class, share) in shares.iter_mut().enumerate() {
        let sum = |bytes: &[u64]| bytes.iter().map(|&bytes| bytes as f64).sum::<f64>();
        let older = sum(&freed[class + 1..]) + sum(&live[class + 1..]);
        let (died, lives) = (freed[class] as f64, live[class] as f64);
        let at_risk = died + lives / 2.0 + older;
        if at_risk > 0.0 {
            survive *= 1.0 - died / at_risk;
        }
        // If none has come so far and more may than have died, it is too early to tell. Nothing comes back.
        let is_known = older > 0.0 || died > lives || survive == 0.0;
        if AGES_NS[class] > duration || !is_known {
            break;
        }
        *share = Some(survive);
    }
    let [second, ten_seconds, minute, ten_minutes] = shares;
    let survival = Survival {
        second,
        ten_seconds,
        minute,
        ten_minutes,
    };
    second.map(|_| survival)
}

/// To four digits: more is noise.
fn rounded<S: Serializer>(share: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    share
        .map(|share| (share * 10_000.0).round() / 10_000.0)
        .serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3600 * 1_000_000_000;

    fn shares(freed: [u64; 5], live: [u64; 5], duration: u64) -> [Option<f64>; 4] {
        let lifetimes = Lifetimes {
            freed,
            live: Some(live),
        };
        survival(&lifetimes, duration).map_or([None; 4], |it| {
            [it.second, it.ten_seconds, it.minute, it.ten_minutes]
        })
    }

    #[test]
    fn without_a_living_one_it_is_what_was_counted() {
        let found = shares([50, 25, 15, 5, 5], [0; 5], HOUR);
        let expected = [0.5, 0.25, 0.1, 0.05];
        for (found, expected) in found.into_iter().zip(expected) {
            assert!((found.unwrap() - expected).abs() < 1e-12, "{found:?}");
        }
    }

    #[test]
    fn a_leak_survives_as_long_as_it_was_watched() {
        let leak = [10, 90, 500, 5400, 30_000];
        assert_eq!(shares([0; 5], leak, HOUR), [Some(1.0); 4]);
        let (all, none) = (Some(1.0), None);
        let young = [10, 90, 200, 0, 0];
        let found = shares([0; 5], young, 30_000_000_000);
        assert_eq!(found, [all, all, none, none]);
    }

    #[test]
    fn what_all_died_stays_dead() {
        let zero = Some(0.0);
        assert_eq!(shares([70, 0, 0, 0, 0], [0; 5], HOUR), [zero; 4]);
        // But not beyond what the recording has seen.
        let found = shares([70, 0, 0, 0, 0], [0; 5], 20_000_000_000);
        assert_eq!(found, [zero, zero, None, None]);
    }

    #[test]
    fn the_young_ones_count_half() {
        // At risk below 1 s: 60 freed, 40 that are older, and half of 40 that are live.
        let found = shares([60, 0, 0, 0, 0], [40, 40, 0, 0, 0], HOUR);
        assert_eq!(found, [Some(0.5), None, None, None]);
    }

    #[test]
    fn beyond_the_oldest_nothing_is_known() {
        assert_eq!(shares([0; 5], [40, 0, 0, 0, 0], HOUR), [None; 4]);
        assert_eq!(shares([0; 5], [0; 5], HOUR), [None; 4]);
        assert_eq!(shares([9; 5], [9; 5], 999_999_999), [None; 4]);
        // Some of the first second are gone, the others are too young to tell.
        assert_eq!(shares([10, 0, 0, 0, 0], [40, 0, 0, 0, 0], HOUR), [None; 4]);
        // Nearly all are gone: the few others do not matter.
        let found = shares([980, 0, 0, 0, 0], [40, 0, 0, 0, 0], HOUR);
        assert!((found[0].unwrap() - 0.02).abs() < 1e-12, "{found:?}");
        assert_eq!(found[1..], [None; 3]);
    }

    #[test]
    fn without_blocks_there_is_none() {
        let freed = [1, 2, 3, 4, 5];
        assert_eq!(survival(&Lifetimes { freed, live: None }, HOUR), None);
    }

    #[test]
    fn what_is_not_known_is_absent() {
        let survival = Survival {
            second: Some(1.0 / 3.0),
            ten_seconds: Some(0.0),
            minute: None,
            ten_minutes: None,
        };
        let json = serde_json::to_string(&survival).unwrap();
        assert_eq!(json, r#"{"1s":0.3333,"10s":0.0}"#);
    }
}
