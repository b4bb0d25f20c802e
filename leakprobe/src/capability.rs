//! The capabilities that leakprobe can make use of: what each of them is for, which of them it has, and
//! the sentence for a refusal that one of them would lift. Found by trying (docs/containers.md), not by
//! what the kernel's manual pages say.

use std::fmt;

/// A right that the kernel gives or not (capabilities(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// Loads programs and maps.
    Bpf,
    /// Lets them look at other processes and at the kernel.
    Perfmon,
    /// Lets us look at other users' processes.
    SysPtrace,
    /// Lets us read other users' files.
    DacReadSearch,
    /// Opens the very files that a process has mapped.
    CheckpointRestore,
    /// Has nearly all of the others in it.
    SysAdmin,
}

use Capability::{Bpf, CheckpointRestore, DacReadSearch, Perfmon, SysAdmin, SysPtrace};

impl Capability {
    /// All of them, the needed ones first.
    pub const ALL: [Capability; 6] = [
        Bpf,
        Perfmon,
        SysPtrace,
        DacReadSearch,
        CheckpointRestore,
        SysAdmin,
    ];

    /// Without these there is no profile of another user's process.
    pub const NEEDED: [Capability; 3] = [Bpf, Perfmon, SysPtrace];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Bpf => "CAP_BPF",
            Perfmon => "CAP_PERFMON",
            SysPtrace => "CAP_SYS_PTRACE",
            DacReadSearch => "CAP_DAC_READ_SEARCH",
            CheckpointRestore => "CAP_CHECKPOINT_RESTORE",
            SysAdmin => "CAP_SYS_ADMIN",
        }
    }

    /// What leakprobe does with it.
    pub const fn purpose(self) -> &'static str {
        match self {
            Bpf => "loads BPF programs and maps",
            Perfmon => "attaches them to other processes",
            SysPtrace => "reads the mappings, the memory and the files of other users' processes",
            DacReadSearch => {
                "opens programs and libraries that only their owners may read; growth mode needs it \
                 for other users' processes"
            }
            CheckpointRestore => {
                "opens what a process has mapped where that is not, or not to be told as, what is \
                 at its path by now (deleted; on overlays of older kernels)"
            }
            SysAdmin => {
                "measures the overhead; follows forked children; attaches on kernels without \
                 uprobe_multi; enters the PID namespace of --proc"
            }
        }
    }

    /// Bit in a set of capabilities (the kernel's include/uapi/linux/capability.h).
    const fn bit(self) -> u32 {
        match self {
            DacReadSearch => 2,
            SysPtrace => 19,
            SysAdmin => 21,
            Perfmon => 38,
            Bpf => 39,
            CheckpointRestore => 40,
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of capabilities, as in `/proc/PID/status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities(pub u64);

impl Capabilities {
    /// Those of leakprobe; none if it cannot be told.
    pub fn own() -> Self {
        let status = procfs::process::Process::myself().and_then(|process| process.status());
        Self(status.map_or(0, |status| status.capeff))
    }

    /// Whether this one is among them, or one that stands for it: the kernel takes CAP_SYS_ADMIN for
    /// the younger ones that were once a part of it.
    pub fn have(self, capability: Capability) -> bool {
        let has = |capability: Capability| self.0 & (1 << capability.bit()) != 0;
        has(capability)
            || (matches!(capability, Bpf | Perfmon | CheckpointRestore) && has(SysAdmin))
    }

    /// Which of these are not among them, as `CAP_A and CAP_B`; `None` if all are.
    pub fn lack(self, wanted: &[Capability]) -> Option<String> {
        let lacking: Vec<&str> = wanted
            .iter()
            .filter(|&&capability| !self.have(capability))
            .map(|capability| capability.name())
            .collect();
        match lacking.split_last() {
            None => None,
            Some((last, [])) => Some((*last).to_owned()),
            Some((last, others)) => Some(format!("{} and {last}", others.join(", "))),
        }
    }
}

/// What to do about a permission that the kernel denied, and that all of these would have given.
pub fn advice(wanted: &[Capability]) -> String {
    advise(Capabilities::own(), wanted)
}

/// What to do where a process, or a file of it, may not be looked at. Whose file it is matters only once
/// the process may be looked at.
pub fn advice_to_look() -> String {
    let own = Capabilities::own();
    match own.have(SysPtrace) {
        false => advise(own, &[SysPtrace]),
        true => advise(own, &[DacReadSearch]),
    }
}

fn advise(own: Capabilities, wanted: &[Capability]) -> String {
    match own.lack(wanted) {
        Some(lacking) => format!(
            "run leakprobe as root, or give it {lacking} (`leakprobe doctor` tells what it has)"
        ),
        None => "leakprobe has the capabilities for it, so a seccomp filter (of a container), a \
                 security module or the way the kernel was built forbids it"
            .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(capabilities: &[Capability]) -> Capabilities {
        Capabilities(capabilities.iter().map(|it| 1 << it.bit()).sum())
    }

    #[test]
    fn the_old_one_stands_for_the_young_ones() {
        let admin = set(&[SysAdmin]);
        assert!(admin.have(Bpf) && admin.have(Perfmon) && admin.have(CheckpointRestore));
        assert!(!admin.have(SysPtrace) && !admin.have(DacReadSearch));
        assert!(!set(&[Bpf, Perfmon]).have(SysAdmin));
    }

    #[test]
    fn what_is_lacking_is_named() {
        let lack = |held: &[Capability]| set(held).lack(&Capability::NEEDED);
        assert_eq!(lack(&[Bpf, Perfmon, SysPtrace]), None);
        assert_eq!(lack(&[SysAdmin]).as_deref(), Some("CAP_SYS_PTRACE"));
        assert_eq!(
            lack(&[SysPtrace]).as_deref(),
            Some("CAP_BPF and CAP_PERFMON")
        );
        assert_eq!(
            lack(&[]).as_deref(),
            Some("CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE")
        );
    }

    #[test]
    fn advice_is_for_what_is_lacking() {
        assert_eq!(
            advise(set(&[Bpf]), &[Bpf, Perfmon]),
            "run leakprobe as root, or give it CAP_PERFMON (`leakprobe doctor` tells what it has)"
        );
        assert!(advise(set(&[SysAdmin]), &[Bpf, Perfmon]).contains("seccomp filter"));
    }
}
