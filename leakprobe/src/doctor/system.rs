//! Checks of the machine that need no BPF: kernel, settings, probes.

use std::fs;
use std::io;

use super::Check;
use crate::probe::danger::{ReturnProbes, return_probes};
use crate::probe::trial;
use crate::probe::version::Version;
use crate::probe::way::{self, Way};

/// All of them.
pub fn checks() -> Vec<Check> {
    let release = setting("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut checks = vec![
        kernel(&release),
        processor(std::env::consts::ARCH),
        lockdown(setting("/sys/kernel/security/lockdown").as_deref()),
        perf_event_paranoid(setting("/proc/sys/kernel/perf_event_paranoid").as_deref()),
        unprivileged_bpf(setting("/proc/sys/kernel/unprivileged_bpf_disabled").as_deref()),
        btf(),
        uprobes(trial::uprobe_on_self(), single_is_needed()),
        return_probes_check(return_probes().unwrap_or(ReturnProbes::Unknown), &release),
    ];
    checks.extend(jit(setting("/proc/sys/net/core/bpf_jit_enable").as_deref()));
    checks
}

/// Content of a small file, trimmed; `None` if it is not there or not readable.
fn setting(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

fn kernel(release: &str) -> Check {
    let needed = Version::OLDEST;
    match Version::parse(release) {
        Some(version) if version >= needed => Check::ok(
            "kernel",
            format!("Linux {release} ({needed} or later is needed)"),
        ),
        Some(_) => Check::missing(
            "kernel",
            format!("Linux {release} is too old"),
            format!("boot Linux {needed} or later"),
        ),
        None => Check::degraded(
            "kernel",
            format!("the release name `{release}` tells no version"),
            format!("make sure that it is Linux {needed} or later"),
        ),
    }
}

fn processor(name: &str) -> Check {
    if name == "x86_64" {
        return Check::ok("processor", "x86-64");
    }
    let found = format!("{name}: leakprobe cannot place probes there yet");
    Check::missing("processor", found, "profile on an x86-64 machine")
}

/// `content` is that of `/sys/kernel/security/lockdown`, with the mode that holds in brackets.
fn lockdown(content: Option<&str>) -> Check {
    match content.and_then(|content| content.split(['[', ']']).nth(1)) {
        Some("confidentiality") => Check::missing(
            "lockdown",
            "confidentiality: BPF programs may not read kernel memory",
            "boot with lockdown=integrity, or none",
        ),
        Some(mode) => Check::ok("lockdown", format!("{mode}, which allows what is needed")),
        None => Check::ok("lockdown", "not in use, or not to be seen here"),
    }
}

fn perf_event_paranoid(value: Option<&str>) -> Check {
    let name = "perf_event_paranoid";
    match value {
        Some(value) => Check::ok(name, format!("{value} (CAP_PERFMON overrules any value)")),
        None => Check::missing(
            name,
            "not there: the kernel was built without perf events",
            "boot a kernel with CONFIG_PERF_EVENTS, and have procfs mounted at /proc",
        ),
    }
}

/// `disabled` is `/proc/sys/kernel/unprivileged_bpf_disabled`, absent in kernels without BPF.
fn unprivileged_bpf(disabled: Option<&str>) -> Check {
    let name = "unprivileged BPF";
    match disabled {
        Some("0") => Check::ok(name, "enabled (CAP_BPF is needed all the same)"),
        Some(_) => Check::ok(name, "disabled (CAP_BPF overrules that)"),
        None => Check::missing(
            name,
            "no setting for it: the kernel was built without BPF",
            "boot a kernel with CONFIG_BPF_SYSCALL, and have procfs mounted at /proc",
        ),
    }
}

fn btf() -> Check {
    const PATH: &str = "/sys/kernel/btf/vmlinux";
    match fs::File::open(PATH) {
        Ok(_) => Check::ok("BTF", PATH),
        Err(error) => Check::missing(
            "BTF",
            format!("{PATH}: {error}"),
            "have sysfs mounted at /sys, and boot a kernel with CONFIG_DEBUG_INFO_BTF",
        ),
    }
}

/// Whether probes would be attached as perf events.
fn single_is_needed() -> bool {
    !matches!(way::choose(false), Ok(choice) if choice.way != Way::Single)
}

fn uprobes(tried: anyhow::Result<()>, needed: bool) -> Check {
    let Err(error) = tried else {
        return Check::ok("uprobes", "a probe on leakprobe itself was allowed");
    };
    if !needed {
        let found = format!("not as perf events, which are not needed here: {error:#}");
        return Check::ok("uprobes", found);
    }
    let advice = match error
        .root_cause()
        .downcast_ref::<io::Error>()
        .map(io::Error::kind)
    {
        Some(io::ErrorKind::PermissionDenied) => {
            "give leakprobe CAP_SYS_ADMIN; in a container, its seccomp filter must allow \
             perf_event_open"
        }
        Some(io::ErrorKind::NotFound) => {
            "boot a kernel with CONFIG_UPROBE_EVENTS, and have sysfs mounted at /sys"
        }
        _ => "look into the kernel's log (dmesg) and the rules of its security modules",
    };
    Check::missing("uprobes", format!("{error:#}"), advice)
}

fn return_probes_check(tried: ReturnProbes, release: &str) -> Check {
    let by_version = Version::parse(release).is_some_and(Version::filters_return_probes);
    let (found, harmful) = match tried {
        ReturnProbes::NoSystemCall | ReturnProbes::Unfiltered => {
            ("no harm to targets under a seccomp filter", false)
        }
        ReturnProbes::Filtered => (
            "this kernel may kill a probed process that is under a seccomp filter",
            true,
        ),
        ReturnProbes::Unknown if by_version => (
            "going by its version, this kernel may kill a probed process that is under a \
             seccomp filter",
            true,
        ),
        ReturnProbes::Unknown => ("no harm, going by the kernel's version", false),
    };
    if !harmful {
        return Check::ok("return probes", found);
    }
    Check::degraded(
        "return probes",
        found,
        "boot Linux 6.12.14, 6.13.3, 6.14 or later; until then, do not profile a process under \
         seccomp (most in containers are)",
    )
}

/// `value` is that of `/proc/sys/net/core/bpf_jit_enable`, which only root may read.
fn jit(value: Option<&str>) -> Option<Check> {
    Some(match value? {
        "0" => Check::degraded(
            "BPF JIT",
            "off: BPF programs are interpreted, and the target slows down",
            "sudo sysctl net.core.bpf_jit_enable=1",
        ),
        _ => Check::ok("BPF JIT", "on"),
    })
}

#[cfg(test)]
#[path = "system_tests.rs"]
mod tests;
