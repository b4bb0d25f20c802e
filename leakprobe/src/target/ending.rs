//! How a process ended. The kernel tells its parent; everybody else finds it out in time or not at all.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;

use super::{Process, proc_fs};

impl Process {
    /// How it ended, as in wait(2). `None` while it has not; and where nobody told: another process took
    /// the status, and the kernel (before Linux 6.15) does not keep it for us.
    pub fn wait_status(&self) -> Option<u32> {
        if !self.has_ended() {
            return None;
        }
        // In this order nothing is missed if its parent takes the status between two of them.
        self.of_child()
            .or_else(|| self.of_zombie())
            .or_else(|| self.of_reaped())
    }

    /// If it is our own child. The status stays for whoever waits for it.
    fn of_child(&self) -> Option<u32> {
        let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
        let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        let pidfd = self.as_raw_fd() as libc::id_t;
        // SAFETY: the kernel writes a `siginfo_t`.
        let result = unsafe { libc::waitid(libc::P_PIDFD, pidfd, info.as_mut_ptr(), options) };
        // SAFETY: zeroes are one.
        let info = unsafe { info.assume_init() };
        // SAFETY: what waitid fills in are the fields of a child.
        let (pid, status) = unsafe { (info.si_pid(), info.si_status() as u32) };
        if result != 0 || pid == 0 {
            return None;
        }
        match info.si_code {
            libc::CLD_EXITED => Some((status & 0xff) << 8),
            libc::CLD_KILLED => Some(status & 0x7f),
            libc::CLD_DUMPED => Some(status & 0x7f | 0x80),
            _ => None,
        }
    }

    /// While its parent has not taken the status: the last field of `/proc/PID/stat`.
    fn of_zombie(&self) -> Option<u32> {
        let stat = proc_fs::process(self.pid())
            .and_then(|process| process.stat())
            .ok()?;
        // Another process may have its PID by now.
        let is_it = matches!(stat.state, 'Z' | 'X') && stat.starttime == self.info().start_time;
        stat.exit_code
            .filter(|_| is_it)
            .and_then(|status| u32::try_from(status).ok())
    }

    /// After that the kernel tells whoever has held its pidfd, since Linux 6.15.
    fn of_reaped(&self) -> Option<u32> {
        // SAFETY: zeroes are one.
        let mut info: libc::pidfd_info = unsafe { std::mem::zeroed() };
        info.mask = libc::PIDFD_INFO_EXIT.into();
        // SAFETY: the kernel reads and writes as many bytes as the command says.
        let result = unsafe { libc::ioctl(self.as_raw_fd(), libc::PIDFD_GET_INFO, &raw mut info) };
        if result != 0 {
            log::debug!("PIDFD_GET_INFO: {}", io::Error::last_os_error());
            return None;
        }
        let is_told = info.mask & u64::from(libc::PIDFD_INFO_EXIT) != 0;
        is_told.then_some(info.exit_code as u32)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Child, Command, Stdio};

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;

    /// A shell that does what it is told once its input ends.
    fn shell(script: &str) -> (Child, Process) {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("read x; {script}")]);
        let child = command.stdin(Stdio::piped()).spawn().unwrap();
        let process = Process::open(child.id()).unwrap();
        (child, process)
    }

    fn wait_for_end(process: &Process) {
        let mut fds = [PollFd::new(process.pidfd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, PollTimeout::NONE), Ok(1));
    }

    #[test]
    fn of_a_child() {
        for (script, status) in [
            ("exit 3", 0x300),
            ("exit 0", 0),
            ("kill -TERM $$", 15),
            ("kill -KILL $$", 9),
        ] {
            let (mut child, process) = shell(script);
            assert_eq!(process.wait_status(), None, "it still runs");
            drop(child.stdin.take());
            wait_for_end(&process);
            assert_eq!(process.of_child(), Some(status), "{script}");
            assert_eq!(process.of_zombie(), Some(status), "{script}");
            assert_eq!(process.wait_status(), Some(status), "{script}");
            // It was not taken away from its parent.
            assert_eq!(child.wait().unwrap().into_raw(), status as i32);
            assert_eq!(process.of_child(), None);
            assert_eq!(process.of_zombie(), None);
            // Older kernels have forgotten it.
            let reaped = process.wait_status();
            assert!(reaped.is_none() || reaped == Some(status), "{reaped:?}");
        }
    }
}
