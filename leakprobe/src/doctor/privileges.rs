//! Checks of what leakprobe may do here: its capabilities, and the walls of the container it is in.

use std::fs;
use std::path::Path;

use super::{Check, Status};
use crate::capability::{Capabilities, Capability};
use crate::pid_namespace;
use crate::target::proc_fs;
use crate::unwind::Cache;

/// All of them.
pub fn checks() -> Vec<Check> {
    let user = fs::read_link("/proc/self/ns/user").ok();
    let own = Capabilities::own();
    let mut checks: Vec<Check> = Capability::ALL
        .into_iter()
        .map(|capability| check(own, capability))
        .collect();
    let status = procfs::process::Process::myself().and_then(|process| process.status());
    checks.push(user_namespace(user.as_deref().and_then(Path::to_str)));
    checks.push(pid_namespace(pid_namespace::is_first()));
    checks.push(seccomp(status.ok().and_then(|status| status.seccomp)));
    checks.push(cache());
    checks
}

fn check(own: Capabilities, capability: Capability) -> Check {
    let (name, purpose) = (capability.name(), capability.purpose());
    if own.have(capability) {
        return Check::ok(name, purpose);
    }
    let needed = Capability::NEEDED.contains(&capability);
    Check {
        name: name.to_owned(),
        status: match needed {
            true => Status::Missing,
            false => Status::Degraded,
        },
        found: format!("not given; it {purpose}"),
        advice: Some(
            match needed {
                true => "run leakprobe with sudo, or give it the capability (docs/containers.md)",
                false => "nothing has to be done unless that is wanted (docs/containers.md)",
            }
            .to_owned(),
        ),
    }
}

/// `namespace` is what `/proc/self/ns/user` links to.
fn user_namespace(namespace: Option<&str>) -> Check {
    // `PROC_USER_INIT_INO` of the kernel's include/linux/proc_ns.h.
    const FIRST: &str = "user:[4026531837]";
    match namespace {
        Some(namespace) if namespace != FIRST => Check::missing(
            "user namespace",
            "leakprobe runs in a user namespace of its own, where capabilities do not count",
            "run it on the host (it finds its way into containers), or in a privileged container",
        ),
        _ => Check::ok(
            "user namespace",
            "the first one, in which capabilities count",
        ),
    }
}

fn pid_namespace(is_first: bool) -> Check {
    let shown = proc_fs::named().display();
    let found = match is_first {
        true => "the first one: all processes can be attached to",
        false => "one of its own: only processes in it and below it can be attached to",
    };
    Check::ok(
        "PID namespace",
        format!("{found}; they are looked for in {shown}"),
    )
}

/// `mode` is `Seccomp` of `/proc/self/status`.
fn seccomp(mode: Option<u32>) -> Check {
    Check::ok(
        "seccomp",
        match mode {
            Some(0) => "leakprobe is under no filter",
            _ => {
                "leakprobe is under a filter, which may refuse what its capabilities allow \
                 (Docker's does not)"
            }
        },
    )
}

fn cache() -> Check {
    let name = "cache";
    let place = Cache::open().and_then(|cache| Ok(cache.check()?.display().to_string()));
    match place {
        Ok(place) => Check::ok(name, format!("unwind tables are kept in {place}")),
        Err(error) => Check::degraded(
            name,
            format!("unwind tables cannot be kept: {error:#}"),
            "nothing has to be done, but they are made anew each time, which takes seconds for \
             programs with 100 MB of code",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status::{Degraded, Missing, Ok};

    #[test]
    fn each_capability_is_told_with_its_purpose() {
        let none = Capabilities(0);
        for capability in Capability::ALL {
            let found = check(none, capability);
            let needed = Capability::NEEDED.contains(&capability);
            assert_eq!(found.status, if needed { Missing } else { Degraded });
            assert!(found.found.ends_with(capability.purpose()), "{found:?}");
            assert_eq!(check(Capabilities(u64::MAX), capability).status, Ok);
        }
    }

    #[test]
    fn other_user_namespaces_do_not_count() {
        assert_eq!(user_namespace(Some("user:[4026531837]")).status, Ok);
        assert_eq!(user_namespace(Some("user:[4026532193]")).status, Missing);
        assert_eq!(user_namespace(None).status, Ok);
    }

    #[test]
    fn other_pid_namespaces_are_narrower() {
        assert!(pid_namespace(true).found.starts_with("the first one"));
        assert!(pid_namespace(false).found.starts_with("one of its own"));
        assert!(seccomp(Some(0)).found.contains("no filter"));
        assert!(seccomp(Some(2)).found.contains("under a filter"));
    }
}
