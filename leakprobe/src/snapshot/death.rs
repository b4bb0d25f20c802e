//! How a process ended, as plain data. Where it is known from is not said here: a wait status is the same
//! from whoever tells it.

use std::time::Duration;

use serde::{Serialize, Serializer};

/// The end of a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Death {
    /// PID as the user of leakprobe sees it.
    pub pid: u32,
    /// When, from the first probe counting on; serialized in nanoseconds.
    #[serde(rename = "at_ns", serialize_with = "nanoseconds")]
    pub at: Duration,
    /// Why.
    #[serde(flatten)]
    pub cause: Cause,
}

/// Why a process ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "cause", rename_all = "snake_case")]
pub enum Cause {
    /// By itself, with this status.
    Exit {
        /// 0 to 255.
        exit_status: u8,
    },
    /// By a signal.
    Signal {
        /// Its number.
        signal: u8,
        /// Its name, if it has one.
        #[serde(rename = "signal_name", skip_serializing_if = "Option::is_none")]
        name: Option<&'static str>,
        /// Whether the kernel wrote a core dump.
        core_dumped: bool,
    },
    /// The OOM killer chose it.
    OomKill {
        /// What is known of its cgroup.
        #[serde(flatten)]
        oom: Oom,
    },
    /// Nobody told.
    Unknown,
}

/// The cgroup of a process that the OOM killer ended, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Oom {
    /// What it may use; `None` if there is no limit or it is not known.
    #[serde(rename = "cgroup_limit_bytes", skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// The most that it used.
    #[serde(rename = "cgroup_usage_bytes", skip_serializing_if = "Option::is_none")]
    pub usage: Option<u64>,
}

impl Cause {
    /// From a status as wait(2) gives it (the low 16 bits), and what is known of an OOM killer that was at
    /// work. That ends processes by SIGKILL only.
    pub fn from_wait_status(status: u32, oom: Option<Oom>) -> Self {
        let signal = (status & 0x7f) as u8;
        match (signal, oom) {
            (0, _) => Cause::Exit {
                exit_status: (status >> 8) as u8,
            },
            (KILL, Some(oom)) => Cause::OomKill { oom },
            (signal, _) => Cause::Signal {
                signal,
                name: name(signal),
                core_dumped: status & 0x80 != 0,
            },
        }
    }
}

const KILL: u8 = libc::SIGKILL as u8;

/// The name of a signal; real-time signals have none.
fn name(signal: u8) -> Option<&'static str> {
    nix::sys::signal::Signal::try_from(i32::from(signal))
        .ok()
        .map(nix::sys::signal::Signal::as_str)
}

fn nanoseconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OOM: Option<Oom> = Some(Oom {
        limit: Some(157_286_400),
        usage: Some(157_282_304),
    });

    fn json(status: u32, oom: Option<Oom>) -> String {
        let death = Death {
            pid: 7,
            at: Duration::from_millis(1500),
            cause: Cause::from_wait_status(status, oom),
        };
        serde_json::to_string(&death).unwrap()
    }

    #[test]
    fn statuses_of_wait() {
        for (status, oom, expected) in [
            (0x0000, None, r#""cause":"exit","exit_status":0"#),
            (0x0300, None, r#""cause":"exit","exit_status":3"#),
            (0xff00, OOM, r#""cause":"exit","exit_status":255"#),
            (
                0x0009,
                None,
                r#""cause":"signal","signal":9,"signal_name":"SIGKILL","core_dumped":false"#,
            ),
            (
                0x008b,
                OOM,
                r#""cause":"signal","signal":11,"signal_name":"SIGSEGV","core_dumped":true"#,
            ),
            (
                0x0025,
                None,
                r#""cause":"signal","signal":37,"core_dumped":false"#,
            ),
            (
                0x0009,
                OOM,
                r#""cause":"oom_kill","cgroup_limit_bytes":157286400,"cgroup_usage_bytes":157282304"#,
            ),
            (0x0009, Some(Oom::default()), r#""cause":"oom_kill""#),
        ] {
            let expected = format!(r#"{{"pid":7,"at_ns":1500000000,{expected}}}"#);
            assert_eq!(json(status, oom), expected);
        }
    }

    #[test]
    fn what_nobody_told() {
        let json = serde_json::to_string(&Cause::Unknown).unwrap();
        assert_eq!(json, r#"{"cause":"unknown"}"#);
    }
}
