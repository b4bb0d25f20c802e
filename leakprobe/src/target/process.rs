//! One process, held so that its PID cannot come to mean another one.
//!
//! A PID is a name that the kernel gives out again. The pidfd is opened first; everything that is
//! read by PID afterwards is trusted only while the pidfd says that the process is still there.

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{ContainerInfo, TargetInfo, proc_fs};
use crate::capability::advice_to_look;

/// A process that was there when it was opened.
#[derive(Debug)]
pub struct Process {
    pid: u32,
    pidfd: OwnedFd,
    start_time: u64,
    /// Asked for once: whoever is asked may take seconds to answer.
    container: OnceLock<Option<ContainerInfo>>,
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
            container: OnceLock::new(),
        };
        if stat.flags & KERNEL_THREAD != 0 {
            bail!("process {pid} is a kernel thread: it has no malloc; give the PID of a program");
        }
        process.check_word_size()?;
        Ok(process)
    }

    /// Opens a process that was forked just now by one that is known; `None` if it has ended.
    pub fn open_child(pid: u32) -> Option<Self> {
        let pidfd = pidfd_open(pid).ok()?;
        Some(Self {
            pid,
            pidfd,
            start_time: stat(pid).map_or(0, |stat| stat.starttime),
            container: OnceLock::new(),
        })
    }

    /// The same process once more, for another thread.
    ///
    /// # Errors
    ///
    /// If there is no file descriptor left.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            pid: self.pid,
            pidfd: self.pidfd.try_clone()?,
            start_time: self.start_time,
            container: self.container.clone(),
        })
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

    /// Bytes of code that it has mapped, beside its executable, as the kernel keeps count: reading it takes
    /// no lock of the process's memory map. `None` if it has ended.
    pub fn code_size(&self) -> Option<u64> {
        let kib: u64 = status_field(self.pid, "VmLib:")?
            .strip_suffix("kB")?
            .trim()
            .parse()
            .ok()?;
        kib.checked_mul(1024)
    }

    /// Start in clock ticks since boot, field 22 of `/proc/PID/stat`.
    pub fn start_time(&self) -> u64 {
        self.start_time
    }

    /// The container it is in. Asks the container's runtime for its name.
    pub fn container(&self) -> Option<&ContainerInfo> {
        self.container
            .get_or_init(|| ContainerInfo::of(self.pid))
            .as_ref()
    }

    /// What a report says of a child, whose container is that of its parent.
    pub fn info_of_child(&self, parent: &TargetInfo) -> TargetInfo {
        self.container.get_or_init(|| parent.container.clone());
        self.info()
    }

    /// What a report says of it.
    pub fn info(&self) -> TargetInfo {
        let comm = fs::read(proc_fs::pid(self.pid, "comm")).unwrap_or_default();
        let comm = String::from_utf8_lossy(comm.strip_suffix(b"\n").unwrap_or(&comm)).into_owned();
        TargetInfo {
            pid: self.pid,
            ns_pid: self.ns_pid().unwrap_or(self.pid),
            comm,
            exe: self.exe().map(|path| path.to_string_lossy().into_owned()),
            start_time: self.start_time,
            container: self.container().cloned(),
        }
    }

    /// Path of the executable, as in the target's mount namespace.
    pub fn exe(&self) -> Option<PathBuf> {
        fs::read_link(proc_fs::pid(self.pid, "exe")).ok()
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
        let path = proc_fs::pid(pid, "exe");
        let mut file = fs::File::open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => anyhow::anyhow!(
                "permission to look at process {pid} was denied: {}",
                advice_to_look()
            ),
            _ => anyhow::Error::new(error).context(format!("failed to open `{}`", path.display())),
        })?;
        file.read_exact(&mut header)
            .with_context(|| format!("failed to read `{}`", path.display()))?;
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
pub(super) const KERNEL_THREAD: u32 = 0x0020_0000;

fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: the system call takes two integers, and returns a new descriptor or an error.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

pub(super) fn stat(pid: u32) -> Result<procfs::process::Stat> {
    proc_fs::process(pid)
        .and_then(|process| process.stat())
        .with_context(|| format!("failed to read `{}`", proc_fs::pid(pid, "stat").display()))
}

fn thread_group(pid: u32) -> Option<u32> {
    status_field(pid, "Tgid:")?.trim().parse().ok()
}

/// A field of `/proc/PID/status`, by its name with the colon.
pub(super) fn status_field(pid: u32, name: &str) -> Option<String> {
    let status = fs::read(proc_fs::pid(pid, "status")).ok()?;
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
