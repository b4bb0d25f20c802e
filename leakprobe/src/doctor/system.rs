//! Checks of the machine that need no BPF: kernel, capabilities, settings, probes.

use std::fs;
use std::io;

use super::Check;
use crate::probe::danger::{ReturnProbes, return_probes};
use crate::probe::trial;
use crate::probe::version::Version;

/// All of them.
pub fn checks() -> Vec<Check> {
    let status = procfs::process::Process::myself().and_then(|process| process.status());
    // Without an answer: none, so that the advice is given.
    let capabilities = Capabilities(status.map_or(0, |status| status.capeff));
    let release = setting("/proc/sys/kernel/osrelease").unwrap_or_default();
    let namespace = fs::read_link("/proc/self/ns/user").ok();
    let mut checks = vec![
        kernel(&release),
        processor(std::env::consts::ARCH),
        capabilities.check(),
        user_namespace(namespace.as_deref().and_then(|path| path.to_str())),
        lockdown(setting("/sys/kernel/security/lockdown").as_deref()),
        perf_event_paranoid(setting("/proc/sys/kernel/perf_event_paranoid").as_deref()),
        unprivileged_bpf(setting("/proc/sys/kernel/unprivileged_bpf_disabled").as_deref()),
        btf(),
        uprobes(trial::uprobe_on_self()),
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

/// A set of capabilities, as in `/proc/PID/status`.
#[derive(Clone, Copy)]
struct Capabilities(u64);

impl Capabilities {
    // Bits from the kernel's include/uapi/linux/capability.h.
    const SYS_PTRACE: u32 = 19;
    const SYS_ADMIN: u32 = 21;

    fn has(self, bit: u32) -> bool {
        self.0 & (1 << bit) != 0
    }

    /// CAP_SYS_ADMIN has CAP_BPF, CAP_PERFMON and CAP_CHECKPOINT_RESTORE in it, and nothing less
    /// may place a uprobe through perf events.
    fn check(self) -> Check {
        let needed = [
            (Self::SYS_ADMIN, "CAP_SYS_ADMIN"),
            (Self::SYS_PTRACE, "CAP_SYS_PTRACE"),
        ];
        let lacking: Vec<&str> = needed
            .iter()
            .filter(|(bit, _)| !self.has(*bit))
            .map(|(_, name)| *name)
            .collect();
        if lacking.is_empty() {
            return Check::ok("capabilities", "CAP_SYS_ADMIN, CAP_SYS_PTRACE");
        }
        Check::missing(
            "capabilities",
            format!("leakprobe does not have {}", lacking.join(", ")),
            "run leakprobe with sudo, or give its file CAP_SYS_ADMIN and CAP_SYS_PTRACE with setcap",
        )
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
            "boot a kernel with CONFIG_DEBUG_INFO_BTF, and have sysfs mounted at /sys",
        ),
    }
}

fn uprobes(tried: anyhow::Result<()>) -> Check {
    let Err(error) = tried else {
        return Check::ok("uprobes", "a probe on leakprobe itself was allowed");
    };
    let advice = match error
        .root_cause()
        .downcast_ref::<io::Error>()
        .map(io::Error::kind)
    {
        Some(io::ErrorKind::PermissionDenied) => {
            "see capabilities; in a container, its seccomp filter must allow perf_event_open"
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
