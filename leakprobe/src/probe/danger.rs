//! Whether a return probe would kill its target, which two kinds of kernel do.
//!
//! Since Linux 6.11 the code that a return probe puts in the way of a returning function is a
//! system call, `uretprobe`, made by the target. Kernels before 6.14, 6.13.3 and 6.12.14 pass it
//! through the target's seccomp filter; one that does not know the call, such as Docker's
//! default of that time, fails it, and the target crashes. Distributions have the remedy under
//! other version numbers, so it is tried: a child process that has forbidden itself the call makes
//! it. And before 6.11, a return probe did not tell a shadow stack of the new return address.

use std::fmt;
use std::fs;
use std::io;
use std::sync::OnceLock;

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

use super::version::Version;
use crate::target::proc_fs;

/// What return probes do to a target under a seccomp filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReturnProbes {
    /// No harm: the kernel does not use a system call for them.
    NoSystemCall,
    /// No harm: no filter gets to see the system call.
    Unfiltered,
    /// The target may crash at its first return from a probed function.
    Filtered,
    /// It could not be tried, for example because leakprobe is itself under a filter.
    Unknown,
}

/// Number of the system call `uretprobe` on x86-64, the only architecture that has it.
const SYS_URETPROBE: u32 = 335;

/// Why return probes would kill a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Danger {
    /// It has a seccomp filter, and this kernel shows it the probe's system call.
    Seccomp,
    /// It has a seccomp filter, and kernels of this version show it the call. It could not be tried.
    SeccompByVersion,
    /// It has a shadow stack, of which this kernel's return probes know nothing.
    ShadowStack,
}

impl Danger {
    /// What would happen, and why.
    pub const fn reason(self) -> &'static str {
        match self {
            Danger::Seccomp => {
                "this kernel would kill the process at its first return from a probed function, \
                 because the process is under a seccomp filter"
            }
            Danger::SeccompByVersion => {
                "going by its version, this kernel would kill the process at its first return \
                 from a probed function, because the process is under a seccomp filter"
            }
            Danger::ShadowStack => {
                "this kernel would kill the process at its first return from a probed function, \
                 because the process has a shadow stack"
            }
        }
    }

    /// What to do instead.
    pub const fn advice(self) -> &'static str {
        match self {
            Danger::Seccomp => {
                "use `--mode growth`, which places no probes; or boot Linux 6.12.14, 6.13.3, 6.14 \
                 or later; or run the process without a seccomp filter"
            }
            Danger::SeccompByVersion => {
                "use `--mode growth`, which places no probes; or boot Linux 6.12.14, 6.13.3, 6.14 \
                 or later; or run leakprobe itself without a seccomp filter (docker run \
                 --security-opt seccomp=unconfined), so that it can try whether this kernel has \
                 their remedy"
            }
            Danger::ShadowStack => {
                "use `--mode growth`, which places no probes; or boot Linux 6.11 or later; or run \
                 the process without a shadow stack (GLIBC_TUNABLES)"
            }
        }
    }
}

impl fmt::Display for Danger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason(), self.advice())
    }
}

impl std::error::Error for Danger {}

/// Why process `pid` must not get return probes, if so. A kernel that could not be tried counts as
/// dangerous if its version speaks for it.
pub fn danger(pid: u32) -> Option<Danger> {
    decide(kernel(), Version::running(), protection(pid))
}

/// What follows from what was tried, from the kernel's version, and from what the process has: a
/// seccomp filter, a shadow stack.
fn decide(
    tried: ReturnProbes,
    version: Option<Version>,
    (filter, shadow_stack): (bool, bool),
) -> Option<Danger> {
    if filter && is_harmful(tried, version) {
        return Some(match tried {
            ReturnProbes::Unknown => Danger::SeccompByVersion,
            _ => Danger::Seccomp,
        });
    }
    let old = version.is_some_and(|version| version < Version::new(6, 11, 0));
    (shadow_stack && old).then_some(Danger::ShadowStack)
}

fn is_harmful(tried: ReturnProbes, version: Option<Version>) -> bool {
    match tried {
        ReturnProbes::Filtered => true,
        ReturnProbes::Unknown => version.is_some_and(Version::filters_return_probes),
        ReturnProbes::NoSystemCall | ReturnProbes::Unfiltered => false,
    }
}

/// Whether return probes kill processes under a seccomp filter.
pub fn filters_return_probes() -> bool {
    is_harmful(kernel(), Version::running())
}

/// What is to be said of processes that are recorded although they are not in danger now.
pub fn warning() -> Option<&'static str> {
    filters_return_probes().then_some(
        "this kernel would kill a process that puts itself under a seccomp filter while it is \
         recorded: boot Linux 6.12.14, 6.13.3, 6.14 or later, or use `--mode growth`",
    )
}

/// What was found out about the running kernel, at the first call.
fn kernel() -> ReturnProbes {
    static TRIED: OnceLock<ReturnProbes> = OnceLock::new();
    *TRIED.get_or_init(|| return_probes().unwrap_or(ReturnProbes::Unknown))
}

/// Whether any thread of a process has a seccomp filter, and any a shadow stack.
fn protection(pid: u32) -> (bool, bool) {
    let mut found = (false, false);
    let threads = fs::read_dir(proc_fs::pid(pid, "task"))
        .into_iter()
        .flatten()
        .flatten();
    for thread in threads {
        // A thread that has just ended is no longer in danger.
        let status = fs::read(thread.path().join("status")).unwrap_or_default();
        let (filter, shadow_stack) = parse_status(&String::from_utf8_lossy(&status));
        found = (found.0 || filter, found.1 || shadow_stack);
    }
    found
}

/// The same for one thread, from its `/proc/PID/status`.
fn parse_status(status: &str) -> (bool, bool) {
    let field = |name: &str| {
        // The first line is the name, which may hold anything but a line end.
        status
            .lines()
            .skip(1)
            .find_map(|line| line.strip_prefix(name))
            .unwrap_or_default()
    };
    let filter = !matches!(field("Seccomp:").trim(), "" | "0");
    let shadow_stack = field("x86_Thread_features:")
        .split_whitespace()
        .any(|it| it == "shstk");
    (filter, shadow_stack)
}

/// Tries what the running kernel does. Forks twice; the children end at once.
///
/// # Errors
///
/// When no child process could be made.
pub fn return_probes() -> io::Result<ReturnProbes> {
    if !cfg!(target_arch = "x86_64") {
        return Ok(ReturnProbes::NoSystemCall);
    }
    // Made outside the trampoline, an existing call ends in SIGILL, whatever the version.
    Ok(match (call_in_child(false)?, call_in_child(true)?) {
        (Outcome::Error(libc::ENOSYS), _) if !is_filtered() => ReturnProbes::NoSystemCall,
        (Outcome::Killed, Outcome::Killed) => ReturnProbes::Unfiltered,
        (Outcome::Killed, Outcome::Error(libc::EPERM)) => ReturnProbes::Filtered,
        _ => ReturnProbes::Unknown,
    })
}

/// Whether leakprobe itself is under a filter, whose answers cannot be told from the kernel's.
fn is_filtered() -> bool {
    let status = procfs::process::Process::myself().and_then(|process| process.status());
    status.map_or(true, |status| status.seccomp != Some(0))
}

enum Outcome {
    Killed,
    Error(i32),
}

fn call_in_child(forbid: bool) -> io::Result<Outcome> {
    // SAFETY: the child only makes system calls and ends, which any thread's child may do.
    match unsafe { fork() }? {
        // SAFETY: as above.
        ForkResult::Child => unsafe { child(forbid) },
        ForkResult::Parent { child } => Ok(match waitpid(child, None)? {
            WaitStatus::Exited(_, code) => Outcome::Error(code),
            _ => Outcome::Killed,
        }),
    }
}

/// Makes the call, with a filter against it if `forbid`, and exits with the error number.
///
/// # Safety
///
/// Only to be called in a child process.
unsafe fn child(forbid: bool) -> ! {
    // Classic BPF: load the system call's number; if it is the one, EPERM; else allow.
    let mut filter = [
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        instruction(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            1,
            SYS_URETPROBE,
        ),
        instruction(
            libc::BPF_RET,
            0,
            libc::SECCOMP_RET_ERRNO | libc::EPERM as u32,
        ),
        instruction(libc::BPF_RET, 0, libc::SECCOMP_RET_ALLOW),
    ];
    // SAFETY: system calls with plain arguments.
    unsafe {
        // The death is part of the plan and not worth a core dump.
        libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0);
        libc::signal(libc::SIGILL, libc::SIG_DFL);
        if forbid && install(&mut filter).is_err() {
            libc::_exit(libc::ENOSYS);
        }
        libc::syscall(libc::c_long::from(SYS_URETPROBE));
        libc::_exit(*libc::__errno_location())
    }
}

/// Puts this process under a filter. Only makes system calls.
fn install(filter: &mut [libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: filter.len() as libc::c_ushort,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: plain arguments; the filter outlives the call that copies it.
    let installed = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) == 0
    };
    match installed {
        true => Ok(()),
        false => Err(io::Error::last_os_error()),
    }
}

fn instruction(code: u32, skip_if_false: u8, value: u32) -> libc::sock_filter {
    libc::sock_filter {
        code: code as libc::c_ushort,
        jt: 0,
        jf: skip_if_false,
        k: value,
    }
}

#[cfg(test)]
#[path = "danger_tests.rs"]
mod tests;
