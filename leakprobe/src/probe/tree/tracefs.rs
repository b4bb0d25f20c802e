//! The kernel's tracefs, in which trace events at code of a file can be defined: the only ones whose
//! perf events a forked child inherits. Where it is mounted nowhere it is mounted so that nobody but us
//! sees it, for as long as we have it open. What is done with the events is not known here.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::PathBuf;

use anyhow::{Context, Result};
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use procfs::process::Process;

/// The file with the definitions of all uprobe events: a line written defines or removes one.
const DEFINITIONS: &str = "uprobe_events";

/// Bytes of that file and of an event's number that are read, at most.
const MAX_TEXT: u64 = 16 << 20;

/// How often that file is read until it is the same twice; less than a millisecond each.
const MAX_READS: usize = 10_000;

/// An open tracefs in which events can be defined.
pub struct Tracefs {
    root: OwnedFd,
    definitions: File,
}

impl Tracefs {
    /// One that is mounted and lets itself be written to, or a mount of our own.
    ///
    /// # Errors
    ///
    /// If there is neither, with the kernel's reason.
    pub fn open() -> Result<Self> {
        for path in mounted() {
            match File::open(&path).and_then(|root| Self::at(root.into())) {
                Ok(tracefs) => return Ok(tracefs),
                Err(error) => log::debug!("the tracefs at `{}`: {error}", path.display()),
            }
        }
        mount_unseen()
            .and_then(Self::at)
            .context("failed to define trace events: tracefs cannot be mounted")
    }

    /// The one whose root is open.
    ///
    /// # Errors
    ///
    /// If it cannot be written to.
    pub fn at(root: OwnedFd) -> io::Result<Self> {
        let flags = OFlag::O_RDWR | OFlag::O_APPEND | OFlag::O_CLOEXEC;
        let definitions = openat(&root, DEFINITIONS, flags, Mode::empty())?;
        Ok(Self {
            root,
            definitions: definitions.into(),
        })
    }

    /// Its root, for another process.
    ///
    /// # Errors
    ///
    /// If the descriptor cannot be duplicated.
    pub fn root(&self) -> io::Result<OwnedFd> {
        self.root.try_clone()
    }

    /// Defines an event at an offset, bytes, in a file; its number. (In the kernel's list the file will
    /// stand with the name by which it was known to us; nothing is looked up by it.)
    ///
    /// # Errors
    ///
    /// What the kernel answers.
    pub fn define(
        &self,
        event: &Event,
        file: &File,
        offset: u64,
        at_return: bool,
    ) -> io::Result<u64> {
        let kind = if at_return { 'r' } else { 'p' };
        let Event { group, name } = event;
        let file = file.as_raw_fd();
        write_line(
            &self.definitions,
            &format!("{kind}:{group}/{name} /proc/self/fd/{file}:{offset:#x}\n"),
        )?;
        self.number(event).inspect_err(|_| {
            let _ = self.remove(event); // or the guardian does
        })
    }

    /// The number of an event.
    ///
    /// # Errors
    ///
    /// What the kernel answers.
    pub fn number(&self, event: &Event) -> io::Result<u64> {
        let path = format!("events/{}/{}/id", event.group, event.name);
        let file = openat(
            &self.root,
            path.as_str(),
            OFlag::O_RDONLY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )?;
        let text = read(&File::from(file))?;
        let number = text.trim().parse();
        number.map_err(|_| io::Error::other(format!("an event has the number `{text}`")))
    }

    /// Removes an event.
    ///
    /// # Errors
    ///
    /// What the kernel answers: EBUSY while a perf event is open, ENOENT if there is no such event.
    pub fn remove(&self, event: &Event) -> io::Result<()> {
        let Event { group, name } = event;
        write_line(&self.definitions, &format!("-:{group}/{name}\n"))
    }

    /// The events of all groups that `is_meant` picks.
    ///
    /// # Errors
    ///
    /// If the list cannot be read, or others never leave it alone.
    pub fn defined(&self, is_meant: impl Fn(&str) -> bool) -> io::Result<Vec<Event>> {
        // The kernel gives the list out by parts and counts where it was: when somebody removes an event
        // meanwhile, the next part begins too late. The same list twice has no such gap.
        let mut last = read(&self.definitions)?;
        for _ in 0..MAX_READS {
            let list = read(&self.definitions)?;
            if list == last {
                let mut events = parse(&list);
                events.retain(|event| is_meant(&event.group));
                return Ok(events);
            }
            last = list;
        }
        Err(io::Error::other(
            "the list of trace events changes all the time",
        ))
    }
}

/// The names of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Of the group; letters, digits and underscores, as the other one.
    pub group: String,
    /// Within the group. Of no other event: two of one name would be one to the kernel, which frees
    /// part of such an event while it is in use when it is told to remove it.
    pub name: String,
}

/// Lines as `p:GROUP/NAME FILE:0xOFFSET`.
fn parse(list: &str) -> Vec<Event> {
    list.lines()
        .filter_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (name, _) = rest.split_once(' ')?;
            let (group, name) = name.split_once('/')?;
            Some(Event {
                group: group.to_owned(),
                name: name.to_owned(),
            })
        })
        .collect()
}

fn write_line(mut file: &File, line: &str) -> io::Result<()> {
    match file.write(line.as_bytes())? {
        all if all == line.len() => Ok(()),
        _ => Err(io::ErrorKind::WriteZero.into()),
    }
}

/// All of it from the start, whoever else uses the descriptor.
fn read(file: &File) -> io::Result<String> {
    // Descriptors that are duplicates share their position.
    let own = File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    let mut text = String::new();
    own.take(MAX_TEXT).read_to_string(&mut text)?;
    Ok(text)
}

/// Where tracefs is mounted, as a whole.
fn mounted() -> Vec<PathBuf> {
    let mounts = Process::myself().and_then(|process| process.mountinfo());
    let mounts = mounts.map(|mounts| mounts.0).unwrap_or_default();
    mounts
        .into_iter()
        .filter(|mount| mount.fs_type == "tracefs" && mount.root == "/")
        .map(|mount| mount.mount_point)
        .collect()
}

/// A mount that is at no place in the tree of files.
fn mount_unseen() -> io::Result<OwnedFd> {
    // Numbers from the kernel's include/uapi/linux/mount.h.
    const FSOPEN_CLOEXEC: libc::c_uint = 1;
    const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
    const FSMOUNT_CLOEXEC: libc::c_uint = 1;
    // SAFETY: system calls with plain arguments and a name that ends with a zero.
    unsafe {
        let fs = new(libc::syscall(
            libc::SYS_fsopen,
            c"tracefs".as_ptr(),
            FSOPEN_CLOEXEC,
        ))?;
        let nothing = std::ptr::null::<libc::c_char>();
        let created = libc::syscall(
            libc::SYS_fsconfig,
            fs.as_raw_fd(),
            FSCONFIG_CMD_CREATE,
            nothing,
            nothing,
            0,
        );
        if created != 0 {
            return Err(io::Error::last_os_error());
        }
        let no_attributes = 0;
        new(libc::syscall(
            libc::SYS_fsmount,
            fs.as_raw_fd(),
            FSMOUNT_CLOEXEC,
            no_attributes,
        ))
    }
}

/// The descriptor that a system call has returned.
///
/// # Safety
///
/// It is new, or an error.
unsafe fn new(fd: libc::c_long) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the caller's promise.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_list_is_read() {
        let list = "p:a_1/malloc_0 /proc/self/fd/7:0x000000000008e7a0\n\
                    r:b/free /a: b/c d:0x0000000000000010(0x20) arg1=%ax\n\nnonsense\n";
        let event = |group: &str, name: &str| Event {
            group: group.into(),
            name: name.into(),
        };
        assert_eq!(parse(list), [event("a_1", "malloc_0"), event("b", "free")]);
    }

    #[test]
    fn it_is_there_or_the_reason_is_told() {
        match Tracefs::open() {
            Ok(tracefs) => {
                let none = tracefs.defined(|_| false).expect("the list");
                assert_eq!(none, []);
            }
            Err(error) => {
                assert!(!nix::unistd::geteuid().is_root(), "{error:#}");
                assert!(error.root_cause().is::<io::Error>(), "{error:#}");
            }
        }
    }
}
