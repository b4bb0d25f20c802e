//! `leakprobe doctor`: what profiling needs, what is here, and what to do about the difference.
//!
//! For the person whose attach has just failed, or who wants to know before the night it matters.
//! The doctor only looks: it changes no setting and attaches nothing to the target. Collectors
//! fill in a list of [`Check`]s, one module per subject; the module `format` makes text of it.

mod bpf;
mod format;
mod privileges;
mod system;
mod target;
mod unwinding;

use std::io::Write;

use anyhow::{Context, Result};

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// As it should be.
    Ok,
    /// Profiling works, but not as well as it could.
    Degraded,
    /// Profiling does not work.
    Missing,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What was looked at.
    pub name: String,
    /// How it came out.
    pub status: Status,
    /// What is here. May hold any characters.
    pub found: String,
    /// What to do, if there is something to do.
    pub advice: Option<String>,
}

impl Check {
    /// All is well.
    fn ok(name: &str, found: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            status: Status::Ok,
            found: found.into(),
            advice: None,
        }
    }

    /// Works, not so well.
    fn degraded(name: &str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        let advice = Some(advice.into());
        Self {
            name: name.into(),
            status: Status::Degraded,
            found: found.into(),
            advice,
        }
    }

    /// Does not work.
    fn missing(name: &str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        let advice = Some(advice.into());
        Self {
            name: name.into(),
            status: Status::Missing,
            found: found.into(),
            advice,
        }
    }
}

/// Looks at the machine, and at process `pid` if there is one, and writes to `out` what it found.
/// The result tells whether profiling would work.
///
/// # Errors
///
/// If `out` cannot be written to. All that is wrong with machine and target is part of the result.
pub fn run(pid: Option<u32>, out: &mut dyn Write) -> Result<bool> {
    let mut sections = vec![("this machine".to_owned(), machine_checks())];
    if let Some(pid) = pid {
        sections.push((format!("process {pid}"), target::checks(pid)));
    }
    let text = format::report(&sections);
    out.write_all(text.as_bytes())
        .context("failed to write the result of the checks")?;
    Ok(sections.iter().all(|(_, checks)| would_work(checks)))
}

fn would_work(checks: &[Check]) -> bool {
    checks.iter().all(|check| check.status != Status::Missing)
}

fn machine_checks() -> Vec<Check> {
    let mut checks = system::checks();
    checks.extend(privileges::checks());
    checks.extend(bpf::checks());
    checks.push(bpf::way());
    checks.push(bpf::following());
    // Whatever is missing would only be told a second time.
    if would_work(&checks) {
        checks.push(bpf::programs());
        checks.push(bpf::growth());
    }
    checks
}
