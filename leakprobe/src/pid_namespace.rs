//! leakprobe once more, in another PID namespace: for a procfs whose PIDs mean something only there.
//!
//! Nobody can change his own PID namespace, only that of his children. So a child is started there with
//! the same arguments, which does the work; this process passes signals on and its exit status back.
//! Neither outlives the other.

use std::ffi::c_int;
use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitCode, ExitStatus};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, pthread_sigmask};
use nix::unistd::Pid;

/// Signals that are for the child.
const PASSED_ON: [Signal; 6] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// What `/proc/self/ns/pid` links to in the first one (`PROC_PID_INIT_INO` of the kernel's
/// include/linux/proc_ns.h).
const FIRST: &str = "pid:[4026531836]";

/// Whether leakprobe is in the PID namespace that the machine started with.
pub fn is_first() -> bool {
    std::fs::read_link("/proc/self/ns/pid").is_ok_and(|link| link.as_os_str() == FIRST)
}

/// What is to be said of process `pid` if its end is the end of leakprobe, too.
pub fn warning(pid: u32) -> Option<&'static str> {
    (pid == 1 && !is_first()).then_some(
        "when process 1 ends, the kernel ends all of its PID namespace, and so leakprobe, before \
         there is a report: to see that, run leakprobe in the PID namespace of the host",
    )
}

/// Runs leakprobe with the same arguments in `namespace`, to its end, and gives its exit status; 128
/// and the number of the signal if one ended it.
///
/// # Errors
///
/// If the namespace cannot be entered, or no child be started there.
pub fn enter(namespace: &File) -> Result<ExitCode> {
    setns(namespace, CloneFlags::CLONE_NEWPID).map_err(|errno| match errno {
        Errno::EPERM => anyhow::anyhow!(
            "the procfs that --proc names is of another PID namespace, and entering that needs \
             CAP_SYS_ADMIN: run leakprobe as root, or start it in that namespace"
        ),
        Errno::EINVAL => anyhow::anyhow!(
            "the procfs that --proc names is of a PID namespace that is not below leakprobe's own, \
             and Linux lets nobody attach there: start leakprobe in that namespace or above it"
        ),
        other => anyhow::Error::new(other)
            .context("failed to enter the PID namespace of the procfs that --proc names"),
    })?;
    // From here on no signal is lost: they wait until the child is there.
    let mut waited_for = SigSet::from_iter(PASSED_ON);
    waited_for.add(Signal::SIGCHLD);
    let mut before = SigSet::empty();
    pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&waited_for), Some(&mut before))
        .context("failed to block signals")?;
    let mut child = start(before).context("failed to start leakprobe in another PID namespace")?;
    let status = attend(&mut child, &waited_for)?;
    Ok(ExitCode::from(code(status)))
}

fn start(mask: SigSet) -> io::Result<Child> {
    let me = own_pidfd()?;
    let mut command = Command::new("/proc/self/exe");
    let mut words = std::env::args_os();
    if let Some(name) = words.next() {
        command.arg0(name);
    }
    command.args(words);
    // SAFETY: only system calls between fork and exec.
    unsafe {
        command.pre_exec(move || {
            pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&mask), None)?;
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            // The parent may have ended before that.
            let mut ended = [PollFd::new(me.as_fd(), PollFlags::POLLIN)];
            match poll(&mut ended, PollTimeout::ZERO)? {
                0 => Ok(()),
                _ => Err(Errno::ESRCH.into()),
            }
        });
    }
    command.spawn()
}

/// Passes signals on until the child has ended.
fn attend(child: &mut Child, signals: &SigSet) -> Result<ExitStatus> {
    let pid = Pid::from_raw(child.id() as i32);
    loop {
        let ended = child.try_wait();
        if let Some(status) = ended.context("failed to wait for a child")? {
            return Ok(status);
        }
        let (signal, code) = wait(signals).context("failed to wait for a signal")?;
        // What the terminal sends, the child gets as well.
        if signal != Signal::SIGCHLD && code != libc::SI_KERNEL {
            let _ = kill(pid, signal); // not waited for yet, so the PID is the child's
        }
    }
}

/// The next signal of a set, and who sent it (`si_code`).
fn wait(signals: &SigSet) -> io::Result<(Signal, c_int)> {
    // SAFETY: a structure of numbers.
    let mut info: libc::siginfo_t = unsafe { mem::zeroed() };
    // SAFETY: reads a set, writes one structure.
    let signal = unsafe { libc::sigwaitinfo(signals.as_ref(), &raw mut info) };
    match signal {
        -1 if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {
            Ok((Signal::SIGCHLD, 0)) // stopped and continued
        }
        -1 => Err(io::Error::last_os_error()),
        signal => Ok((Signal::try_from(signal)?, info.si_code)),
    }
}

fn own_pidfd() -> io::Result<OwnedFd> {
    // SAFETY: takes two integers, and returns a new descriptor or an error.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, std::process::id(), 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as c_int) })
}

fn code(status: ExitStatus) -> u8 {
    let by_signal = || 128 + status.signal().unwrap_or(0);
    status.code().unwrap_or_else(by_signal) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_as_a_shell_gives_them() {
        assert_eq!(code(ExitStatus::from_raw(0)), 0);
        assert_eq!(code(ExitStatus::from_raw(2 << 8)), 2);
        assert_eq!(code(ExitStatus::from_raw(libc::SIGKILL)), 137);
    }

    #[test]
    fn a_file_that_is_no_namespace_is_refused() {
        let file = File::open("/dev/null").unwrap();
        let error = format!("{:#}", enter(&file).unwrap_err());
        assert!(error.contains("PID namespace"), "{error}");
    }
}
