//! Checks of what the kernel's BPF can do.

use std::time::Instant;

use super::{Check, Status};
use crate::probe::feature::{Feature, is_supported};
use crate::probe::growth::{self, Pages};
use crate::probe::way::{self, Choice};
use crate::probe::{Limits, Probes};
use crate::report::escape::shorten;
use crate::target::Process;
use anyhow::Result;

/// A feature, what it is called here, and what its absence means.
struct Wanted {
    feature: Feature,
    name: &'static str,
    absence: Status,
    without: &'static str,
    advice: &'static str,
}

const NEWER: &str = "boot Linux 6.1 or later with CONFIG_BPF_SYSCALL and CONFIG_BPF_EVENTS";

const WANTED: [Wanted; 9] = [
    Wanted {
        feature: Feature::RingBuffer,
        name: "ring buffer",
        absence: Status::Missing,
        without: "new stacks could not be told",
        advice: NEWER,
    },
    Wanted {
        feature: Feature::GrowingHash,
        name: "growing hash",
        absence: Status::Missing,
        without: "live blocks could not be kept without reserving memory for all",
        advice: NEWER,
    },
    Wanted {
        feature: Feature::RawTracepoint,
        name: "raw tracepoints",
        absence: Status::Missing,
        without: "the target's execs and signals could not be followed",
        advice: NEWER,
    },
    Wanted {
        feature: Feature::Loop,
        name: "bpf_loop",
        absence: Status::Missing,
        without: "stacks could not be walked",
        advice: NEWER,
    },
    Wanted {
        feature: Feature::ReadKernel,
        name: "reading the kernel",
        absence: Status::Missing,
        without: "signal handlers that allocate could not be told apart",
        advice: "boot with lockdown=integrity, or none",
    },
    Wanted {
        feature: Feature::AttachCookie,
        name: "attach cookies",
        absence: Status::Degraded,
        without: "leakprobe does without",
        advice: "nothing has to be done",
    },
    Wanted {
        feature: Feature::UprobeMulti,
        name: "uprobe_multi",
        absence: Status::Degraded,
        without: "each probe is attached on its own, which costs more and takes longer",
        advice: "Linux 6.6 and later have it; nothing has to be done",
    },
    Wanted {
        feature: Feature::UprobeMultiOfProcess,
        name: "uprobe_multi by PID",
        absence: Status::Degraded,
        without: "each probe is attached on its own, which costs more and takes longer",
        advice: "Linux 6.6.35, 6.9.5, 6.10 and later have it; nothing has to be done",
    },
    Wanted {
        feature: Feature::UprobeSession,
        name: "uprobe sessions",
        absence: Status::Degraded,
        without: "calls within calls cost a return probe each",
        advice: "Linux 6.13 and later have them; nothing has to be done",
    },
];

/// All of them; a single one if the kernel answers none of the questions.
pub fn checks() -> Vec<Check> {
    let answers: Vec<_> = WANTED
        .iter()
        .map(|wanted| is_supported(wanted.feature))
        .collect();
    judge(answers)
}

/// In which way probes would be attached, and why not in a better one.
pub fn way() -> Check {
    let name = "attaching";
    match way::choose(false) {
        Ok(Choice { way, why: None }) => Check::ok(name, way.to_string()),
        Ok(Choice {
            way,
            why: Some(why),
        }) => Check::ok(name, format!("{way}: {why}")),
        Err(error) => Check::missing(
            name,
            format!("{error:#}"),
            format!("unset {}", way::VARIABLE),
        ),
    }
}

/// Whether what a process forks can be followed.
pub fn following() -> Check {
    let name = "following";
    match way::cannot_follow() {
        None => Check::ok(
            name,
            "forked children and what they execute, by trace events",
        ),
        Some(why) => Check::degraded(
            name,
            format!("forked children cannot be followed: {}", shorten(&why, 400)),
            "record each process by itself; nothing else needs it",
        ),
    }
}

/// Whether the kernel accepts leakprobe's own programs: its verifier has the last word, whatever
/// features there are. They are loaded for leakprobe itself, which none of them gets to see.
pub fn programs() -> Check {
    let name = "programs";
    let start = Instant::now();
    match load() {
        Ok(count) => {
            let took = start.elapsed().as_millis();
            Check::ok(
                name,
                format!("{count} accepted by the verifier, in {took} ms"),
            )
        }
        // The verifier's log can have thousands of lines; the first and the last ones matter.
        Err(error) => Check::missing(
            name,
            shorten(&format!("{error:#}").replace('\n', " "), 400),
            "tell the makers of leakprobe, with the kernel's release name",
        ),
    }
}

/// Whether `--mode growth` works, and all of it.
pub fn growth() -> Check {
    let name = "growth mode";
    let loaded = unattached(Some(Pages::draw(1))).and_then(|mut probes| {
        growth::load(probes.ebpf())?;
        Ok(growth::attach_system_calls(probes.ebpf()))
    });
    match loaded {
        Ok(Ok(_)) => Check::ok(name, "page faults, brk and mmap".to_owned()),
        Ok(Err(error)) => Check::ok(
            name,
            shorten(
                &format!("page faults; not brk and mmap: {error:#}").replace('\n', " "),
                400,
            ),
        ),
        Err(error) => Check::degraded(
            name,
            shorten(&format!("{error:#}").replace('\n', " "), 400),
            "only `--mode growth` needs it",
        ),
    }
}

fn load() -> Result<usize> {
    unattached(None)?.load_all()
}

/// For leakprobe itself.
fn unattached(pages: Option<Pages>) -> Result<Probes> {
    let process = Process::open(std::process::id())?;
    let limits = Limits {
        max_live: 1,
        min_size: 0,
        max_size: u64::MAX,
        sample_bytes: 0,
        pages,
        changing: false,
        many: false,
        follow: false,
    };
    Probes::load(&process, limits, false)
}

/// `answers` in the order of [`WANTED`].
fn judge(answers: Vec<Result<bool>>) -> Vec<Check> {
    if answers.iter().all(Result::is_err)
        && let Some(Err(error)) = answers.first()
    {
        return vec![Check::missing(
            "BPF",
            format!(
                "the kernel does not tell what it can do: {}",
                error.root_cause()
            ),
            "see CAP_BPF and CAP_PERFMON; in a container, its seccomp filter must allow bpf",
        )];
    }
    WANTED
        .iter()
        .zip(answers)
        .map(|(wanted, answer)| check(wanted, answer))
        .collect()
}

fn check(wanted: &Wanted, supported: Result<bool>) -> Check {
    let (found, advice) = match supported {
        Ok(true) => return Check::ok(wanted.name, "supported"),
        Ok(false) => (format!("not supported: {}", wanted.without), wanted.advice),
        Err(error) => (
            format!("the kernel does not tell: {}", error.root_cause()),
            "see CAP_BPF and CAP_PERFMON",
        ),
    };
    let advice = Some(advice.into());
    Check {
        name: wanted.name.into(),
        status: wanted.absence,
        found,
        advice,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(feature: Feature) -> &'static Wanted {
        WANTED
            .iter()
            .find(|wanted| wanted.feature == feature)
            .unwrap()
    }

    #[test]
    fn what_is_needed_is_told_from_what_is_welcome() {
        let status = |feature, supported| check(wanted(feature), supported).status;
        assert_eq!(status(Feature::Loop, Ok(true)), Status::Ok);
        assert_eq!(status(Feature::Loop, Ok(false)), Status::Missing);
        assert_eq!(status(Feature::UprobeMulti, Ok(false)), Status::Degraded);
        assert_eq!(
            status(Feature::Loop, Err(anyhow::anyhow!("no"))),
            Status::Missing
        );
    }

    fn refusal() -> Result<bool> {
        let error = anyhow::Error::new(std::io::Error::from_raw_os_error(libc::EPERM));
        Err(error.context("failed to load"))
    }

    #[test]
    fn a_refusal_is_not_called_unsupported() {
        let check = check(wanted(Feature::Loop), refusal());
        assert_eq!(
            check.found,
            "the kernel does not tell: Operation not permitted (os error 1)"
        );
    }

    #[test]
    fn refusals_are_told_once() {
        let checks = judge(WANTED.iter().map(|_| refusal()).collect());
        assert_eq!(checks.len(), 1);
        assert_eq!(checks[0].status, Status::Missing);
    }
}
