//! Options for what is shown of the stacks, and what of it makes leakprobe fail: so that a test suite can hold
//! a program to it. Checked here as far as words go.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueHint;

use super::condition::{bytes_within, size};
use crate::analyze::rank::Rank;

/// The raw options.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub struct Choosing {
    /// What comes first in the reports
    ///
    /// For all formats, and for what is printed meanwhile; --top cuts after it. `growth` puts first what
    /// certainly grows, by the low end of its interval. A flamegraph and collapsed stacks are of that
    /// figure, too: of growth per second, of bytes at the peak, of all that was allocated, of blocks.
    #[arg(
        long,
        value_enum,
        value_name = "BY",
        default_value = "live",
        help_heading = "Report"
    )]
    pub sort: Rank,

    /// Leave out the known stacks that this file names
    ///
    /// One rule a line, # begins a comment: function:NAME, module:NAME (or its path), re:REGEX, or
    /// leak:PATTERN as for LeakSanitizer. A stack of which any frame matches is in no ranking and makes
    /// nothing fail; the reports count such stacks by rule.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Report")]
    pub suppressions: Option<PathBuf>,

    /// Exit with 3 if this holds at the end; repeatable
    ///
    /// 'live>10MiB', what is live at the end; 'growth>1MiB/min', if live bytes grow on and certainly
    /// faster than that; `leak`, if a stack leaks. In quotes, because of the `>`. The reports are
    /// written as always, the reason is on stderr. What was recorded too short a time to tell fails, too.
    #[arg(long, value_parser = fail_on, value_name = "CONDITION", value_hint = ValueHint::Other, help_heading = "Report")]
    pub fail_on: Vec<FailOn>,
}

/// A condition on a profile, such as `growth>1MiB/min`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailOn {
    /// As it was written.
    text: String,
    /// What it says.
    pub bound: Bound,
}

/// What must not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// More live bytes than this.
    Live(u64),
    /// Live bytes that grow faster.
    Growth {
        /// Bytes.
        bytes: u64,
        /// Within this time, at least a second.
        within: Duration,
    },
    /// A leak.
    Leak,
}

/// What can be asked for, for an error message.
const ADVICE: &str = "write `leak`, or for example 'growth>1MiB/min' or 'live>10MiB', in quotes, because \
                      the shell would redirect to a file at `>`";

/// Reads a condition. Spaces around its parts do not count.
pub fn fail_on(text: &str) -> Result<FailOn, String> {
    let text = text.trim();
    if text.eq_ignore_ascii_case("leak") {
        return Ok(FailOn {
            text: text.to_owned(),
            bound: Bound::Leak,
        });
    }
    let (name, value) = text.split_once('>').ok_or(ADVICE)?;
    let (name, value) = (name.trim(), value.trim());
    let bound = match name.to_ascii_lowercase().as_str() {
        "live" => Bound::Live(size(name, value)?),
        "growth" => {
            let (bytes, within) = bytes_within(name, value, "1MiB/min")?;
            Bound::Growth { bytes, within }
        }
        _ => return Err(ADVICE.to_owned()),
    };
    Ok(FailOn {
        text: format!("{name}>{value}"),
        bound,
    })
}

impl fmt::Display for FailOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_people_write_them() {
        let minute = Duration::from_secs(60);
        for (text, bound) in [
            ("leak", Bound::Leak),
            (" LEAK ", Bound::Leak),
            ("live>10MiB", Bound::Live(10 << 20)),
            ("live > 0", Bound::Live(0)),
            (
                "growth>1MiB/min",
                Bound::Growth {
                    bytes: 1 << 20,
                    within: minute,
                },
            ),
            (
                "Growth > 0 / 60s",
                Bound::Growth {
                    bytes: 0,
                    within: minute,
                },
            ),
        ] {
            assert_eq!(fail_on(text).unwrap().bound, bound, "{text}");
        }
        assert_eq!(fail_on("live > 1K").unwrap().to_string(), "live>1K");
    }

    #[test]
    fn each_mistake_gets_advice() {
        for (text, part) in [
            ("", "in quotes"),
            ("leaks", "write `leak`"),
            ("leak>0", "write `leak`"),
            ("rss>1MiB", "live>10MiB"),
            ("live", "redirect"),
            ("live>", "`live` is compared with a size"),
            ("live>1MiB/min", "64KiB"),
            ("growth>1MiB", "growth>1MiB/min"),
            ("growth>1MiBs/min", "64KiB"),
            ("growth>1MiB/fortnight", "number with its unit"),
            ("growth>1MiB/1ms", "1s or longer"),
        ] {
            let error = fail_on(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
            assert!(!error.contains('\n'), "{text}: {error}");
        }
    }
}
