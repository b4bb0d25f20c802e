//! Whether a return probe is safe for a target under a seccomp filter.
//!
//! Since Linux 6.11 the code that a return probe puts in the way of a returning function is a
//! system call, `uretprobe`, made by the target. Kernels before 6.14, 6.13.3 and 6.12.14 pass it
//! through the target's seccomp filter; one that does not know the call, such as Docker's
//! default of that time, fails it, and the target crashes. Distributions have the remedy under
//! other version numbers, so it is tried: a child process that has forbidden itself the call makes
//! it. This module answers for the kernel; whether the target has a filter is for others to look up.

use std::io;

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

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
    let program = libc::sock_fprog {
        len: filter.len() as libc::c_ushort,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: system calls with plain arguments; the filter outlives the call that copies it.
    unsafe {
        // The death is part of the plan and not worth a core dump.
        libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0);
        libc::signal(libc::SIGILL, libc::SIG_DFL);
        if forbid
            && (libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
                || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) != 0)
        {
            libc::_exit(libc::ENOSYS);
        }
        libc::syscall(libc::c_long::from(SYS_URETPROBE));
        libc::_exit(*libc::__errno_location())
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
mod tests {
    use super::*;

    #[test]
    fn this_kernel_gives_an_answer() {
        let answer = return_probes().expect("child processes");
        assert!(is_filtered() || answer != ReturnProbes::Unknown);
    }
}
