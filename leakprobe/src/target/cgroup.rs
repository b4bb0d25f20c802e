//! What the memory controller says of a process's control group, whether it is of version 1 or 2.
//!
//! The directory is held open, so that its name cannot come to mean another group. A group goes
//! with its last process, if whoever made it removes it; then there are no figures any more.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::fcntl::{OFlag, OpenHow, openat2};

use super::hierarchy::{CgroupMount, Membership};

/// A limit of version 1 from here on is none: the kernel's largest is the largest `long`, rounded
/// down to a page (`PAGE_COUNTER_MAX` in include/linux/page_counter.h), and pages have 64 KiB at most.
const NO_LIMIT: u64 = i64::MAX as u64 - 0xffff;

/// The group that accounts for a process's memory, and those around it, held open.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    /// Its own first, then outwards; never empty.
    directories: Vec<OwnedFd>,
    names: &'static Names,
}

/// What the memory controller says, in bytes. Page cache and kernel memory of the group count too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CgroupMemory {
    /// In use by the group that has the limit; by the process's own where there is no limit.
    pub usage: u64,
    /// Limit of the nearest group outwards from the process's own that has one.
    pub limit: Option<u64>,
    /// Processes of the process's own group that the OOM killer has ended so far.
    pub oom_kills: Option<u64>,
}

/// The controller's files.
#[derive(Debug)]
struct Names {
    usage: &'static str,
    peak: &'static str,
    limit: &'static str,
    events: &'static str,
}

const VERSION_1: Names = Names {
    usage: "memory.usage_in_bytes",
    peak: "memory.max_usage_in_bytes",
    limit: "memory.limit_in_bytes",
    events: "memory.oom_control",
};

const VERSION_2: Names = Names {
    usage: "memory.current",
    peak: "memory.peak",
    limit: "memory.max",
    events: "memory.events",
};

impl Cgroup {
    /// Opens the group that a process is in now.
    ///
    /// # Errors
    ///
    /// If the process has ended, the memory controller is not there or not mounted here, or the
    /// process is in the root group of version 2, which has no figures.
    pub fn of(pid: u32) -> Result<Self> {
        let groups = Membership::of(pid)
            .with_context(|| format!("failed to read the cgroups of process {pid}"))?;
        let of_memory = |group: &&Membership| group.controllers.iter().any(|it| it == "memory");
        let group = groups
            .iter()
            .find(of_memory)
            .or_else(|| groups.iter().find(|group| group.is_unified()));
        let Some(group) = group else {
            bail!("process {pid} is in no cgroup that accounts for memory");
        };
        let names = match group.is_unified() {
            false => &VERSION_1,
            true => &VERSION_2,
        };
        let mounts = CgroupMount::all()?;
        let mut mounts = mounts.iter().filter(|mount| mount.shows(group));
        // In version 2 the controller may be enabled for a group further out only.
        let directories: Vec<_> = mounts
            .find_map(|mount| mount.open(group).ok().map(|own| (mount, own)))
            .into_iter()
            .flat_map(|(mount, own)| std::iter::once(own).chain(around(mount, group)))
            .skip_while(|directory| number(directory.as_fd(), names.usage).is_err())
            .collect();
        if directories.is_empty() {
            bail!(
                "no memory figures for the cgroup {:?} of process {pid}: its hierarchy is not mounted \
                 here, or the memory controller is not enabled for it",
                group.path
            );
        }
        Ok(Self {
            path: group.path.clone(),
            directories,
            names,
        })
    }

    /// Path as in `/proc/PID/cgroup`. May hold any bytes.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the controller says now.
    ///
    /// # Errors
    ///
    /// If the group is gone: one that is empty can be removed at any time.
    pub fn memory(&self) -> io::Result<CgroupMemory> {
        let mut directories = self.directories.iter().map(AsFd::as_fd);
        let own = directories.next().ok_or(io::ErrorKind::NotFound)?;
        let oom_kills = read(own, self.names.events)?
            .lines()
            .find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok());
        let limited = std::iter::once(own)
            .chain(directories)
            .find_map(|directory| Some((directory, self.limit(directory)?)));
        Ok(CgroupMemory {
            usage: number(
                limited.map_or(own, |(directory, _)| directory),
                self.names.usage,
            )?,
            limit: limited.map(|(_, limit)| limit),
            oom_kills,
        })
    }

    /// The most that the group of [`CgroupMemory::usage`] has used since it was made, in bytes; version 2
    /// tells since Linux 5.19.
    pub fn peak(&self) -> Option<u64> {
        let mut directories = self.directories.iter().map(AsFd::as_fd);
        let own = directories.next()?;
        let limited = std::iter::once(own)
            .chain(directories)
            .find(|directory| self.limit(*directory).is_some());
        number(limited.unwrap_or(own), self.names.peak).ok()
    }

    /// The limit of one group; `max` is no number.
    fn limit(&self, directory: BorrowedFd) -> Option<u64> {
        number(directory, self.names.limit)
            .ok()
            .filter(|&limit| limit < NO_LIMIT)
    }
}

/// The groups around one, outwards, as far as they are mounted.
fn around<'a>(
    mount: &'a CgroupMount,
    group: &'a Membership,
) -> impl Iterator<Item = OwnedFd> + use<'a> {
    group
        .path
        .ancestors()
        .skip(1)
        .map_while(|path| mount.open(&mount.at(path)).ok())
}

fn number(directory: BorrowedFd, name: &str) -> io::Result<u64> {
    let text = read(directory, name)?;
    text.trim()
        .parse()
        .map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Reads one of the kernel's small files.
fn read(directory: BorrowedFd, name: &str) -> io::Result<String> {
    let how = OpenHow::new().flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC);
    let mut text = String::new();
    File::from(openat2(directory, name, how)?)
        .take(4096)
        .read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
#[path = "cgroup_tests.rs"]
mod tests;
