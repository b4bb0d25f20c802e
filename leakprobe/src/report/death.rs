//! How a process ended, in words.

use super::human;
use crate::snapshot::{Cause, Oom};

/// Signals that end a process because of what it did itself; SIGQUIT and the limits come from outside.
const CRASHES: [i32; 7] = [
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGABRT,
    libc::SIGTRAP,
    libc::SIGSYS,
];

/// `exit status 3`, `killed by SIGKILL`, `crashed: SIGSEGV (core dumped)`.
pub fn cause(cause: &Cause) -> String {
    match *cause {
        Cause::Exit { exit_status } => format!("exit status {exit_status}"),
        Cause::Signal {
            signal,
            name,
            core_dumped,
        } => {
            let name = name.map_or_else(|| format!("signal {signal}"), str::to_owned);
            let core = if core_dumped { " (core dumped)" } else { "" };
            match CRASHES.contains(&signal.into()) {
                true => format!("crashed: {name}{core}"),
                false => format!("killed by {name}{core}"),
            }
        }
        Cause::OomKill { oom } => {
            let cgroup = match oom {
                Oom {
                    usage: Some(usage),
                    limit: Some(limit),
                } => format!(
                    ": its cgroup used {} of {}",
                    human::bytes(usage),
                    human::round_bytes(limit)
                ),
                Oom {
                    usage: Some(usage), ..
                } => format!(
                    ": its cgroup, without a limit, used {}",
                    human::bytes(usage)
                ),
                Oom {
                    limit: Some(limit), ..
                } => format!(": its cgroup's limit is {}", human::round_bytes(limit)),
                Oom { .. } => String::new(),
            };
            format!("killed by the OOM killer{cgroup}")
        }
        Cause::Unknown => "nobody told how".to_owned(),
    }
}

/// Whether it was killed for want of memory or by SIGKILL, or has crashed; not what a server does to its
/// workers in good order.
pub fn is_violent(cause: &Cause) -> bool {
    match cause {
        Cause::Signal { signal, .. } => {
            let signal = i32::from(*signal);
            signal == libc::SIGKILL || CRASHES.contains(&signal)
        }
        Cause::OomKill { .. } => true,
        Cause::Exit { .. } | Cause::Unknown => false,
    }
}

/// Whether it ended as programs do that are done.
pub fn is_well(cause: &Cause) -> bool {
    *cause == (Cause::Exit { exit_status: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes() {
        let oom = |usage, limit| Some(Oom { limit, usage });
        let mib = |count: u64| Some(count << 20);
        for (status, oom, expected) in [
            (0x300, None, "exit status 3"),
            (0x9, None, "killed by SIGKILL"),
            (0x8b, None, "crashed: SIGSEGV (core dumped)"),
            (0x6, None, "crashed: SIGABRT"),
            (0x83, None, "killed by SIGQUIT (core dumped)"),
            (0x25, None, "killed by signal 37"),
            (
                0x9,
                oom(mib(150), mib(150)),
                "killed by the OOM killer: its cgroup used 150.0 MiB of 150 MiB",
            ),
            (
                0x9,
                oom(mib(150), None),
                "killed by the OOM killer: its cgroup, without a limit, used 150.0 MiB",
            ),
            (
                0x9,
                oom(None, mib(150)),
                "killed by the OOM killer: its cgroup's limit is 150 MiB",
            ),
            (0x9, oom(None, None), "killed by the OOM killer"),
        ] {
            assert_eq!(cause(&Cause::from_wait_status(status, oom)), expected);
        }
        assert_eq!(cause(&Cause::Unknown), "nobody told how");
    }

    #[test]
    fn only_one_end_is_well() {
        assert!(is_well(&Cause::from_wait_status(0, None)));
        for status in [0x100, 0x9, 0x8b] {
            assert!(!is_well(&Cause::from_wait_status(status, None)));
        }
        assert!(!is_well(&Cause::Unknown));
        let violent = [0x9, 0x8b, 0x6].map(|status| Cause::from_wait_status(status, None));
        assert!(violent.iter().all(is_violent));
        let orderly = [0x0, 0x100, 0xf, 0x2].map(|status| Cause::from_wait_status(status, None));
        assert!(!orderly.iter().any(is_violent));
    }
}
