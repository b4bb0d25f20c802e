//! Starts a command so that it is observed from its first allocation.
//!
//! The command is traced until the dynamic linker has mapped an object that defines `malloc`,
//! one system call after the other. There it waits, with none of that object's code run yet, while
//! the probes go in. Then it is traced until all objects are mapped, of which others may define
//! `malloc` too; then tracing ends and the command runs by itself.

use std::ffi::{CString, OsString};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{self, Child, ExitCode};

use anyhow::{Context, Result, bail};
use nix::sys::ptrace;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, User};

use crate::target::{Allocator, Mapping, Process};

/// System calls that a dynamic linker may take until the C library is mapped. One with hundreds of
/// libraries takes a few thousand.
const MAX_STOPS: usize = 100_000;

/// A started command; not yet running freely until [`Command::release`].
pub struct Command {
    child: Child,
    name: String,
    /// Whether other objects are mapped than the program.
    is_dynamic: bool,
    released: bool,
}

/// System calls by which dynamic linkers find objects, map them, and get ready.
const LOADING: [i64; 20] = [
    libc::SYS_access,
    libc::SYS_arch_prctl,
    libc::SYS_brk,
    libc::SYS_close,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_munmap,
    libc::SYS_newfstatat,
    libc::SYS_open,
    libc::SYS_openat,
    libc::SYS_pread64,
    libc::SYS_prlimit64,
    libc::SYS_read,
    libc::SYS_readlink,
    libc::SYS_rseq,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_stat,
];

impl Command {
    /// Starts a command, stopped before its first instruction, as `user` if one is named.
    ///
    /// # Errors
    ///
    /// If it cannot be started or there is no such user.
    pub fn start(argv: &[OsString], user: Option<&str>) -> Result<Self> {
        let (program, arguments) = argv.split_first().context("no command given")?;
        let name = program.to_string_lossy().into_owned();
        let user = user.map(find_user).transpose()?;
        let mut command = process::Command::new(program);
        command.args(arguments);
        if let Some(user) = &user {
            command
                .env("HOME", &user.dir)
                .env("USER", &user.name)
                .env("LOGNAME", &user.name);
        }
        let ids = user
            .map(|user| Ok::<_, anyhow::Error>((CString::new(user.name)?, user.uid, user.gid)))
            .transpose()?;
        // SAFETY: only system calls between fork and exec.
        unsafe {
            command.pre_exec(move || {
                if let Some((name, uid, gid)) = &ids {
                    nix::unistd::initgroups(name, *gid)?;
                    nix::unistd::setgid(*gid)?;
                    nix::unistd::setuid(*uid)?;
                }
                ptrace::traceme()?;
                Ok(())
            });
        }
        let child = command.spawn().with_context(|| {
            format!(
                "failed to start `{name}`: check the command's name and that it can be executed"
            )
        })?;
        let command = Self {
            child,
            name,
            is_dynamic: false,
            released: false,
        };
        match waitpid(command.traced(), None)? {
            WaitStatus::Stopped(..) => {}
            status => bail!("`{}` ended before it began: {status:?}", command.name),
        }
        // Should leakprobe fail before it lets go, the command must not stay behind, stopped.
        let options = ptrace::Options::PTRACE_O_TRACESYSGOOD | ptrace::Options::PTRACE_O_EXITKILL;
        ptrace::setoptions(command.traced(), options).context("failed to trace the command")?;
        Ok(command)
    }

    /// PID as the caller sees it.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn traced(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    /// Lets the command run until an object is mapped in which something is `found`.
    ///
    /// # Errors
    ///
    /// If it ends before, or is a static program in which it is not.
    pub fn run_until_mapped<T>(
        &mut self,
        process: &Process,
        mut found: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let mut known = Vec::new();
        for stop in 0..MAX_STOPS {
            let mapped: Vec<_> = Allocator::objects(process)?
                .iter()
                .map(Mapping::identity)
                .collect();
            if mapped != known {
                known = mapped;
                self.is_dynamic = known.len() > 1;
                if let Some(found) = found()? {
                    return Ok(found);
                }
                if stop == 0 && !self.is_dynamic {
                    // No dynamic linker beside the program: nothing else will be mapped.
                    return Err(Allocator::none(process));
                }
            }
            self.next_system_call()?;
        }
        bail!(
            "`{}` has made {MAX_STOPS} system calls without mapping an object that defines \
             `malloc`: a program with an allocator of its own cannot be profiled yet",
            self.name
        )
    }

    /// Lets the command run to its next system call, if its dynamic linker may be about to map other
    /// objects; `false` once it is not. If that goes unnoticed, the command is traced for a while longer.
    ///
    /// # Errors
    ///
    /// If it ends meanwhile.
    pub fn is_loading(&mut self) -> Result<bool> {
        if !self.is_dynamic {
            return Ok(false);
        }
        self.next_system_call()?;
        let info = ptrace::syscall_info(self.traced()).context("failed to trace the command")?;
        if info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
            return Ok(true);
        }
        // SAFETY: an entry is what this is.
        let entry = unsafe { info.u.entry };
        // Once all objects are mapped, they are relocated, and then parts of them protected.
        let protects =
            entry.nr == libc::SYS_mprotect as u64 && entry.args[2] & libc::PROT_READ as u64 != 0;
        Ok(!protects && LOADING.contains(&(entry.nr as i64)))
    }

    fn next_system_call(&mut self) -> Result<()> {
        let mut signal = None;
        loop {
            ptrace::syscall(self.traced(), signal).context("failed to continue the command")?;
            match waitpid(self.traced(), None)? {
                WaitStatus::PtraceSyscall(_) => return Ok(()),
                WaitStatus::Stopped(_, other) => signal = Some(other),
                WaitStatus::Exited(_, status) => bail!(
                    "`{}` ended with status {status} before its objects were mapped, an allocator among \
                     them; nothing was recorded",
                    self.name
                ),
                WaitStatus::Signaled(_, signal, _) => {
                    bail!(
                        "`{}` was killed by {signal} before its objects were mapped; nothing was recorded",
                        self.name
                    )
                }
                _ => {}
            }
        }
    }

    /// Ends the tracing: the command runs by itself.
    ///
    /// # Errors
    ///
    /// If the command has ended in between.
    pub fn release(&mut self) -> Result<()> {
        ptrace::detach(self.traced(), None).context("failed to let the command run")?;
        self.released = true;
        Ok(())
    }

    /// Whether it runs by itself.
    pub fn is_released(&self) -> bool {
        self.released
    }

    /// Waits for the command to end; its status as a shell gives it: 128 and the signal's number
    /// if it was killed.
    ///
    /// # Errors
    ///
    /// If its status cannot be had.
    pub fn wait(mut self) -> Result<ExitCode> {
        let status = self
            .child
            .wait()
            .context("failed to wait for the command")?;
        let code = status
            .code()
            .unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        Ok(ExitCode::from(code as u8))
    }
}

fn find_user(name: &str) -> Result<User> {
    User::from_name(name)
        .with_context(|| format!("failed to look up the user `{name}`"))?
        .with_context(|| format!("there is no user `{name}`: check --user"))
}
