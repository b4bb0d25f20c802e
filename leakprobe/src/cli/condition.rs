//! Conditions of `--when`: what they are, how they are written and read. Whether one holds is found out by
//! [`crate::record`], from figures that the kernel keeps anyway.

use std::fmt;
use std::time::Duration;

use super::values;

/// The shortest time that a growth or a rate can be of: the figures are looked at ten times a second.
const SHORTEST: Duration = Duration::from_secs(1);

/// A condition, such as `rss>500MiB`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// As it was written.
    text: String,
    /// What it says.
    pub limit: Limit,
}

/// What must be exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Resident memory, bytes.
    Rss(u64),
    /// How much more memory is resident than at its lowest in the time before.
    RssGrowth {
        /// Bytes.
        bytes: u64,
        /// The time before, at least a second.
        within: Duration,
    },
    /// Memory that the cgroup uses, bytes.
    Cgroup(u64),
    /// The same, in hundredths of a percent of its limit.
    CgroupShare(u32),
    /// Memory that the kernel gives the process for the first time.
    AllocRate {
        /// Bytes.
        bytes: u64,
        /// Within this time, at least a second.
        within: Duration,
    },
}

/// What can be asked for, for an error message.
const ADVICE: &str = "write for example 'rss>500MiB', 'rss-growth>50MiB/10m', 'cgroup>90%' or \
                      'alloc-rate>10MiB/s', in quotes, because the shell would redirect to a file at `>`";

/// Reads a condition. Spaces around its parts do not count.
pub fn condition(text: &str) -> Result<Condition, String> {
    let (name, value) = text.split_once('>').ok_or(ADVICE)?;
    let (name, value) = (name.trim(), value.trim());
    let limit = match name.to_ascii_lowercase().as_str() {
        "rss" => Limit::Rss(size(name, value)?),
        "rss-growth" => {
            let (bytes, within) = bytes_within(name, value, "50MiB/10m")?;
            Limit::RssGrowth { bytes, within }
        }
        "cgroup" if value.ends_with('%') => Limit::CgroupShare(share(value)?),
        "cgroup" => Limit::Cgroup(size(name, value)?),
        "alloc-rate" => {
            let (bytes, within) = bytes_within(name, value, "10MiB/s")?;
            Limit::AllocRate { bytes, within }
        }
        _ => return Err(ADVICE.to_string()),
    };
    Ok(Condition {
        text: format!("{name}>{value}"),
        limit,
    })
}

/// Reads what a figure is compared with, bytes.
pub(super) fn size(name: &str, value: &str) -> Result<u64, String> {
    values::size(value).map_err(|advice| format!("`{name}` is compared with a size: {advice}"))
}

/// Reads `50MiB/10m`, or `10MiB/s` with a unit of time alone.
pub(super) fn bytes_within(
    name: &str,
    value: &str,
    example: &str,
) -> Result<(u64, Duration), String> {
    let (bytes, within) = value.split_once('/').ok_or_else(|| {
        format!("`{name}` needs the time in which it counts: write for example '{name}>{example}'")
    })?;
    let bytes = size(name, bytes.trim())?;
    let within = within.trim();
    let one = within.starts_with(|c: char| c.is_ascii_alphabetic());
    let within = match one {
        true => values::duration(&format!("1{within}")),
        false => values::duration(within),
    };
    let within = within.map_err(|advice| format!("the time of `{name}`: {advice}"))?;
    if within < SHORTEST {
        return Err(format!(
            "the time of `{name}` is too short to be watched: write 1s or longer"
        ));
    }
    Ok((bytes, within))
}

fn share(value: &str) -> Result<u32, String> {
    values::hundredths(value)
        .filter(|share| (1..10_000).contains(share))
        .ok_or_else(|| {
            "a cgroup's share of its limit is above 0 % and below 100 %: write for example 'cgroup>90%'"
                .to_string()
        })
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_people_write_them() {
        let seconds = Duration::from_secs;
        for (text, limit) in [
            ("rss>500MiB", Limit::Rss(500 << 20)),
            (" RSS > 1.5 GiB ", Limit::Rss(3 << 29)),
            ("rss>0", Limit::Rss(0)),
            (
                "rss-growth>50MiB/10m",
                Limit::RssGrowth {
                    bytes: 50 << 20,
                    within: seconds(600),
                },
            ),
            (
                "rss-growth > 1 / h",
                Limit::RssGrowth {
                    bytes: 1,
                    within: seconds(3600),
                },
            ),
            ("cgroup>90%", Limit::CgroupShare(9000)),
            ("cgroup>99.5 %", Limit::CgroupShare(9950)),
            ("cgroup>2GiB", Limit::Cgroup(2 << 30)),
            (
                "alloc-rate>10MiB/s",
                Limit::AllocRate {
                    bytes: 10 << 20,
                    within: seconds(1),
                },
            ),
            (
                "alloc-rate>10MB/1m30s",
                Limit::AllocRate {
                    bytes: 10_000_000,
                    within: seconds(90),
                },
            ),
        ] {
            assert_eq!(condition(text).unwrap().limit, limit, "{text}");
        }
        assert_eq!(
            condition(" cgroup  > 90% ").unwrap().to_string(),
            "cgroup>90%"
        );
    }

    #[test]
    fn each_mistake_gets_advice() {
        for (text, part) in [
            ("", "in quotes"),
            ("rss", "redirect"),
            ("rss<5MiB", "rss>500MiB"),
            ("vsz>5MiB", "rss>500MiB"),
            (">5MiB", "rss>500MiB"),
            ("rss>", "`rss` is compared with a size"),
            ("rss>much", "64KiB"),
            ("rss>=5MiB", "64KiB"),
            ("rss>90%", "64KiB"),
            ("rss>5MiB>6MiB", "64KiB"),
            ("rss-growth>50MiB", "rss-growth>50MiB/10m"),
            ("rss-growth>50MiB/", "number with its unit"),
            ("rss-growth>50MiB/10", "number with its unit"),
            ("rss-growth>50MiB/999ms", "1s or longer"),
            ("rss-growth>10%/1m", "64KiB"),
            ("alloc-rate>5MiB", "alloc-rate>10MiB/s"),
            ("alloc-rate>5MiB/fortnight", "number with its unit"),
            ("alloc-rate>5MiB/0s", "1s or longer"),
            ("cgroup>100%", "below 100 %"),
            ("cgroup>0%", "above 0 %"),
            ("cgroup>-1%", "above 0 %"),
            ("cgroup>%", "above 0 %"),
            ("cgroup>nan%", "above 0 %"),
            ("cgroup>most", "64KiB"),
        ] {
            let error = condition(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
            assert!(!error.contains('\n'), "{text}: {error}");
        }
    }
}
