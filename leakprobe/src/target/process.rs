//! One process, held so that its PID cannot come to mean another one.
//!
//! A PID is a name that the kernel gives out again. The pidfd is opened first; everything that is
//! read by PID afterwards is trusted only while the pidfd says that the process is still there.

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::TargetInfo;

/// A process that was there when it was opened.
#[derive(Debug)]
pub struct Process {
    pid: u32,
    pidfd: OwnedFd,
    start_time: u64,
}

impl Process {
    /// Opens a process by the PID that the caller sees.
    ///
    /// # Errors
    ///
    /// One sentence each for: no such process, a thread that is not a process, a kernel thread, a
    /// zombie, a 32-bit program.
    pub fn open(pid: u32) -> Result<Self> {
        let pidfd = pidfd_open(pid).map_err(|error| match error.raw_os_error() {
            Some(libc::ESRCH) => {
                anyhow::anyhow!("there is no process {pid}: check the PID with `ps -e`")
            }
            Some(libc::EINVAL | libc::ENOENT) => anyhow::anyhow!(
                "{pid} is a thread, not a process: give the PID of its process, {}",
                thread_group(pid)
                    .map_or("the Tgid in /proc/PID/status".into(), |id| id.to_string())
            ),
            _ => anyhow::Error::new(error).context(format!("failed to open process {pid}")),
        })?;
        let stat = stat(pid)?;
        match stat.state {
            'Z' => bail!("process {pid} is a zombie: it has ended and has no memory any more"),
            'X' | 'x' => bail!("process {pid} has just ended"),
            _ => {}
        }
        let process = Self {
            pid,
            pidfd,
            start_time: stat.starttime,
        };
        if stat.flags & KERNEL_THREAD != 0 {
            bail!("process {pid} is a kernel thread: it has no malloc; give the PID of a program");
        }
        process.check_word_size()?;
        Ok(process)
    }

    /// PID as the caller sees it.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// File descriptor that becomes readable when the process ends.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Whether the process has ended. While it has not, its PID means this process.
    pub fn has_ended(&self) -> bool {
        let mut fds = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        matches!(poll(&mut fds, PollTimeout::ZERO), Ok(1..))
    }

    /// What a report says of it.
    pub fn info(&self) -> TargetInfo {
        let comm = fs::read(format!("/proc/{}/comm", self.pid)).unwrap_or_default();
        let comm = String::from_utf8_lossy(comm.strip_suffix(b"\n").unwrap_or(&comm)).into_owned();
        TargetInfo {
            pid: self.pid,
            ns_pid: self.ns_pid().unwrap_or(self.pid),
            comm,
            exe: self.exe().map(|path| path.to_string_lossy().into_owned()),
            start_time: self.start_time,
        }
    }

    /// Path of the executable, as in the target's mount namespace.
    pub fn exe(&self) -> Option<PathBuf> {
        fs::read_link(format!("/proc/{}/exe", self.pid)).ok()
    }

    /// Last field of `NSpid` in `/proc/PID/status`: the PID as the process itself sees it.
    fn ns_pid(&self) -> Option<u32> {
        status_field(self.pid, "NSpid:")?
            .split_whitespace()
            .last()?
            .parse()
            .ok()
    }

    /// leakprobe follows one calling convention; the class byte of the executable tells which one
    /// a process has.
    fn check_word_size(&self) -> Result<()> {
        let pid = self.pid;
        let mut header = [0; 5];
        let path = format!("/proc/{pid}/exe");
        let mut file = fs::File::open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => anyhow::anyhow!(
                "permission to look at process {pid} was denied: run leakprobe as root (it needs \
                 CAP_SYS_ADMIN and CAP_SYS_PTRACE)"
            ),
            _ => anyhow::Error::new(error).context(format!("failed to open `{path}`")),
        })?;
        file.read_exact(&mut header)
            .with_context(|| format!("failed to read `{path}`"))?;
        if header[..4] == *b"\x7fELF" && header[4] != 2 {
            bail!(
                "process {pid} is a 32-bit program, which leakprobe cannot follow: profile a \
                 64-bit build of it"
            );
        }
        Ok(())
    }
}

/// `PF_KTHREAD` of the kernel's `include/linux/sched.h`, as in field 9 of `/proc/PID/stat`.
const KERNEL_THREAD: u32 = 0x0020_0000;

fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: the system call takes two integers, and returns a new descriptor or an error.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn stat(pid: u32) -> Result<procfs::process::Stat> {
    procfs::process::Process::new(pid as i32)
        .and_then(|process| process.stat())
        .with_context(|| format!("failed to read `/proc/{pid}/stat`"))
}

fn thread_group(pid: u32) -> Option<u32> {
    status_field(pid, "Tgid:")?.trim().parse().ok()
}

/// A field of `/proc/PID/status`, by its name with the colon.
pub(super) fn status_field(pid: u32, name: &str) -> Option<String> {
    let status = fs::read(format!("/proc/{pid}/status")).ok()?;
    let status = String::from_utf8_lossy(&status);
    // The first line is the name, which may hold anything but a newline.
    status
        .lines()
        .skip(1)
        .find_map(|line| line.strip_prefix(name))
        .map(str::to_owned)
}

impl AsRawFd for Process {
    fn as_raw_fd(&self) -> i32 {
        self.pidfd.as_raw_fd()
    }
}
