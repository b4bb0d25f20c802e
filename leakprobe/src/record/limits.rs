//! `--fail-on` and `--suppressions`: what a test suite holds a program to. Which stacks grow is decided
//! elsewhere; here a finished profile is compared with what was asked for.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};

use crate::analyze::trend::Trend;
use crate::analyze::verdict::{Kind, SHORTEST};
use crate::cli::choosing::{Bound, FailOn};
use crate::report::{escape, human, ranking, verdict};
use crate::symbolize::{Profile, Suppressions};

/// A file of rules is not larger.
const MOST_BYTES: u64 = 1 << 20;

/// Reads a file of suppressions; none without one.
///
/// # Errors
///
/// If it cannot be read, or a line in it is no rule.
pub fn suppressions(path: Option<&Path>) -> Result<Suppressions> {
    let Some(path) = path else {
        return Ok(Suppressions::default());
    };
    let shown = path.display();
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(MOST_BYTES + 1).read_to_string(&mut text))
        .with_context(|| format!("failed to read the suppressions `{shown}`: check the path"))?;
    if text.len() as u64 > MOST_BYTES {
        bail!("the suppressions `{shown}` are larger than 1 MiB: that is no file of rules");
    }
    Suppressions::parse(&text).map_err(|why| {
        let why = escape::visible(&why);
        anyhow!("in the suppressions `{shown}`, {why}")
    })
}

/// The first of the conditions that holds, and why, in one sentence; `None` if the profile passes.
pub fn broken(profile: &Profile, conditions: &[FailOn]) -> Option<String> {
    conditions
        .iter()
        .find_map(|it| Some(format!("`--fail-on {it}`: {}", reason(profile, it.bound)?)))
}

/// Why a condition holds, or cannot be told not to.
fn reason(profile: &Profile, bound: Bound) -> Option<String> {
    let live = live(profile);
    let growth = profile.live_growth;
    let is_known = growth.is_some_and(|growth| growth.slope.is_some());
    match bound {
        Bound::Live(limit) => {
            (live > limit).then(|| format!("{} are live at the end", human::bytes(live)))
        }
        // Nothing stays, so nothing grows, however short it was.
        _ if live == 0 => None,
        _ if !is_known => Some(too_short(profile, "5s")),
        _ if were_away(profile) => Some(
            "this cannot be told where the probes were taken away to keep the budget: allow more with \
             `--max-overhead`, or record a sample with `--sample-bytes`"
                .to_owned(),
        ),
        Bound::Growth { bytes, within } => {
            let growth = growth.filter(|it| it.trend == Trend::Growing)?;
            let slope = growth.slope?;
            let limit = bytes as f64 / within.as_secs_f64();
            (slope.low > limit).then(|| format!("live bytes grow by {}", ranking::rate(&slope)))
        }
        Bound::Leak if profile.duration_ns < SHORTEST => {
            Some(is_leak(profile).unwrap_or_else(|| too_short(profile, "10s")))
        }
        Bound::Leak => is_leak(profile),
    }
}

/// Whether blocks may have been freed unseen.
fn were_away(profile: &Profile) -> bool {
    let unconfirmed = profile.unconfirmed;
    unconfirmed.is_some_and(|it| it.unconfirmed_bytes > 0)
}

/// That a pass would be worth nothing.
fn too_short(profile: &Profile, enough: &str) -> String {
    format!(
        "this cannot be told of {}, and {} are live at the end: record for at least {enough}",
        human::duration(profile.duration_ns),
        human::bytes(live(profile))
    )
}

/// Bytes live at the end that are not suppressed.
fn live(profile: &Profile) -> u64 {
    let suppressed = profile.suppressed.as_ref().map_or(0, |it| it.live_bytes);
    profile.totals.live_bytes.saturating_sub(suppressed)
}

/// Whether something leaks, and what, as the end of a sentence.
fn is_leak(profile: &Profile) -> Option<String> {
    let found = profile.verdict.as_ref()?;
    (found.finding.kind == Kind::Leak).then(|| verdict::sentence(profile, found))
}

#[cfg(test)]
#[path = "limits_tests.rs"]
mod tests;
