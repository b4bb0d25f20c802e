//! The kernel's run-time statistics of programs, and the CPU time of a process. Only reads; when the
//! statistics are on, the meter decides.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};
use aya::sys::{Stats, enable_stats};

use crate::bpf::bpf;
use crate::capability::Capability;
use crate::probe::explain;

// Numbers from the kernel's include/uapi/linux/bpf.h.
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
/// Where in `struct bpf_prog_info` the time and the number of runs are, in words of 8 bytes.
const RUN_TIME: usize = 24;
const RUN_COUNT: usize = 25;

/// Has the kernel keep its statistics of all programs, until the descriptor is closed.
///
/// # Errors
///
/// If the kernel refuses; for lack of permission with the capability to give.
pub fn keep() -> Result<OwnedFd> {
    enable_stats(Stats::RunTime)
        .map_err(|error| explain(error, &[Capability::SysAdmin]))
        .context("failed to switch on the kernel's statistics of BPF programs")
}

/// Time in a program since it was loaded, nanoseconds, and the number of its runs: as far as the
/// statistics were on.
///
/// # Errors
///
/// What the kernel answers.
pub fn run_time(program: BorrowedFd<'_>) -> io::Result<(u64, u64)> {
    /// The part of `union bpf_attr`.
    #[repr(C)]
    struct InfoAttr {
        fd: u32,
        length: u32,
        info: u64,
    }
    // Zeros: no member that is a pointer asks for anything.
    let mut info = [0u64; RUN_COUNT + 1];
    let mut attr = InfoAttr {
        fd: program.as_raw_fd() as u32,
        length: size_of_val(&info) as u32,
        info: info.as_mut_ptr() as u64,
    };
    // SAFETY: the kernel writes no more than `length` bytes.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    Ok((info[RUN_TIME], info[RUN_COUNT]))
}

/// CPU time that all threads of a process have had, those that ended too, nanoseconds; `None` if it
/// is gone.
pub fn cpu_time(pid: u32) -> Option<u64> {
    let mut clock = 0;
    // SAFETY: writes one clock number.
    if unsafe { libc::clock_getcpuclockid(pid as libc::pid_t, &raw mut clock) } != 0 {
        return None;
    }
    clock_time(clock)
}

/// What a clock shows, nanoseconds.
pub fn clock_time(clock: libc::clockid_t) -> Option<u64> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: writes one time.
    let status = unsafe { libc::clock_gettime(clock, &raw mut time) };
    (status == 0).then_some(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_cpu_time_grows() {
        let me = std::process::id();
        let before = cpu_time(me).expect("a clock of this process");
        while cpu_time(me).expect("a clock of this process") <= before {}
        let mut child = std::process::Command::new("true").spawn().expect("true");
        child.wait().expect("its end");
        assert_eq!(cpu_time(child.id()), None);
    }
}
