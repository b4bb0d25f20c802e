//! What is ranked, drawn and said of growth: the figure of each stack by which they are sorted, and its words.

use super::escape::visible;
use super::{human, words};
use crate::analyze::growth::LiveGrowth;
use crate::analyze::rank::Rank;
use crate::analyze::trend::{Slope, Trend};
use crate::symbolize::{Profile, Stack, Suppressed};

/// What a flamegraph draws of a stack: bytes, bytes per second or blocks.
pub fn weight(profile: &Profile, stack: &Stack) -> u64 {
    match profile.sorted_by {
        Rank::Live => stack.totals.live_bytes,
        Rank::Peak => at_peak(stack),
        Rank::Count => stack.totals.live_count,
        Rank::Allocated => stack.totals.allocated_bytes,
        Rank::Growth => match stack.growth {
            Some(LiveGrowth {
                slope: Some(slope),
                trend: Trend::Growing,
            }) => slope.per_second.max(0.0).ceil() as u64,
            _ => 0,
        },
    }
}

/// Bytes at the moment of the process's peak; what is live, where no peak is kept.
pub fn at_peak(stack: &Stack) -> u64 {
    let peak = stack.peak.map(|peak| peak.at_peak_bytes);
    peak.unwrap_or(stack.totals.live_bytes)
}

/// Whether that is of live blocks, so that each is in one of the processes.
pub fn is_live(profile: &Profile) -> bool {
    profile.sorted_by == Rank::Live
}

/// What stacks are sorted by, and a flamegraph is of.
pub fn what(profile: &Profile) -> String {
    let terms = words::Terms::of(profile);
    match profile.sorted_by {
        Rank::Live => format!("{} bytes", terms.live),
        Rank::Growth => format!("growth of {} bytes", terms.live),
        Rank::Peak => "bytes at the peak".to_owned(),
        Rank::Allocated => format!("{} bytes", terms.allocated),
        Rank::Count => format!("{} {}", terms.live, terms.blocks),
    }
}

/// What a flamegraph counts.
pub fn unit(profile: &Profile) -> &'static str {
    match profile.sorted_by {
        Rank::Live | Rank::Peak | Rank::Allocated => "bytes",
        Rank::Growth => "bytes per second",
        Rank::Count => words::Terms::of(profile).blocks,
    }
}

/// Why there is nothing to draw or to list.
pub fn nothing(profile: &Profile) -> &'static str {
    match profile.sorted_by {
        Rank::Growth if profile.totals.live_count > 0 => "no stack is known to grow on",
        _ => words::nothing_live(profile),
    }
}

/// Whether a stack is worth a line. Blocks of zero bytes are live too.
pub fn is_shown(profile: &Profile, stack: &Stack) -> bool {
    match profile.sorted_by {
        Rank::Allocated => stack.totals.allocated_count > 0,
        Rank::Peak => at_peak(stack) > 0,
        _ => stack.totals.live_count > 0 || stack.mapped.is_some(),
    }
}

/// How fast: `+1.2 MiB/min (0.9 to 1.5)`.
pub fn rate(slope: &Slope) -> String {
    const TIMES: [(f64, &str); 3] = [(1.0, "s"), (60.0, "min"), (3600.0, "h")];
    const UNITS: [&str; 4] = ["B", "KiB", "MiB", "GiB"];
    // The shortest time in which it is a KiB; the unit is that of the largest of the three.
    let most = slope.per_second.abs().max(slope.high.abs());
    let (seconds, time) = match most {
        1048576.0.. => TIMES[0],
        17.1.. => TIMES[1],
        _ => TIMES[2],
    };
    let largest = [slope.per_second, slope.low, slope.high]
        .map(|it| it.abs() * seconds)
        .into_iter()
        .fold(0.0, f64::max);
    let power = (largest.max(1.0).log2() / 10.0) as usize;
    let power = power.min(UNITS.len() - 1);
    let scale = seconds / 1024f64.powi(power as i32);
    let figure = |value: f64| match power {
        0 => format!("{:.0}", value * scale + 0.0),
        _ => format!("{:.1}", value * scale + 0.0),
    };
    format!(
        "{}{} {}/{time} ({} to {})",
        if slope.per_second < 0.0 { "" } else { "+" },
        figure(slope.per_second),
        UNITS[power],
        figure(slope.low),
        figure(slope.high)
    )
}

/// How something has grown, as far as that is known: `+1.2 MiB/min (0.9 to 1.5), growing`.
pub fn growth(growth: Option<LiveGrowth>) -> Option<String> {
    let LiveGrowth { slope, trend } = growth?;
    match trend {
        Trend::Growing => Some(format!("{}, growing", rate(&slope?))),
        Trend::LevelledOff => Some("has grown, and levelled off".to_owned()),
        Trend::Flat => Some("does not grow".to_owned()),
        Trend::Unknown => None,
    }
}

/// What was left out of the list: a sentence, and one for each rule.
pub fn suppressed(suppressed: &Suppressed) -> Vec<String> {
    let stacks = |count: u64| match count {
        1 => "1 stack".to_owned(),
        count => format!("{} stacks", human::count(count)),
    };
    let mut lines = vec![format!(
        "suppressed: {} with {} live in {}",
        stacks(suppressed.stacks),
        human::bytes(suppressed.live_bytes),
        human::blocks(suppressed.live_count),
    )];
    lines.extend(suppressed.rules.iter().map(|rule| {
        let text = visible(&rule.rule);
        match rule.stacks {
            0 => format!("  `{text}`: matches nothing"),
            count => format!(
                "  `{text}`: {} with {}",
                stacks(count),
                human::bytes(rule.live_bytes)
            ),
        }
    }));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_as_people_say_them() {
        let mib = 1048576.0;
        for (per_second, low, high, expected) in [
            (
                mib / 50.0,
                mib / 66.0,
                mib / 40.0,
                "+1.2 MiB/min (0.9 to 1.5)",
            ),
            (2.0 * mib, mib, 3.0 * mib, "+2.0 MiB/s (1.0 to 3.0)"),
            (0.0, 0.0, 0.0, "+0 B/h (0 to 0)"),
            (0.1, 0.05, 0.2, "+360 B/h (180 to 720)"),
            (-100.0, -200.0, 1.0, "-5.9 KiB/min (-11.7 to 0.1)"),
            (10.0, -0.0, 20.0, "+0.6 KiB/min (0.0 to 1.2)"),
        ] {
            let slope = Slope {
                per_second,
                low,
                high,
            };
            assert_eq!(rate(&slope), expected, "{slope:?}");
        }
    }

    #[test]
    fn only_what_is_known_is_said() {
        assert_eq!(growth(None), None);
        assert_eq!(growth(Some(LiveGrowth::UNKNOWN)), None);
        let slope = Some(Slope {
            per_second: 1024.0,
            low: 512.0,
            high: 2048.0,
        });
        let say = |trend| growth(Some(LiveGrowth { slope, trend }));
        let growing = say(Trend::Growing);
        assert_eq!(
            growing.as_deref(),
            Some("+60.0 KiB/min (30.0 to 120.0), growing")
        );
        assert_eq!(say(Trend::Flat).as_deref(), Some("does not grow"));
        assert_eq!(say(Trend::Unknown), None);
    }
}
