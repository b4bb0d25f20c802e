//! Control groups of version 1 and 2: in which ones a process is, and where their directories are.
//!
//! Paths of groups are as `/proc/PID/cgroup` shows them to us: from the root of our own cgroup
//! namespace on, with `..` for what lies above it. What is in the directories, others read
//! ([`super::Cgroup`]); nothing is ever written to.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, fstatfs};

use super::proc_fs;

/// Most bytes read of `/proc/self/mountinfo`; a machine with 10 000 mounts has about two million.
const MAX_MOUNTINFO: u64 = 64 << 20;

/// A group that a process is in, one for each hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// Controllers of the hierarchy, or `name=` and its name; empty in version 2.
    pub controllers: Vec<String>,
    /// Path from the root of our cgroup namespace. May hold any bytes.
    pub path: PathBuf,
}

impl Membership {
    /// All groups of a process, in the kernel's order.
    ///
    /// # Errors
    ///
    /// If the process has ended, or may not be looked at.
    pub fn of(pid: u32) -> io::Result<Vec<Self>> {
        Ok(Self::parse(&fs::read(proc_fs::pid(pid, "cgroup"))?))
    }

    /// Reads what `/proc/PID/cgroup` holds; lines of another form are left out.
    pub fn parse(text: &[u8]) -> Vec<Self> {
        text.split(|&byte| byte == b'\n')
            .filter_map(|line| {
                let mut fields = line.splitn(3, |&byte| byte == b':').skip(1);
                let controllers = String::from_utf8_lossy(fields.next()?);
                let path = fields.next()?;
                let path = path.strip_suffix(b" (deleted)").unwrap_or(path);
                path.starts_with(b"/").then(|| Self {
                    controllers: controllers
                        .split(',')
                        .filter(|name| !name.is_empty())
                        .map(str::to_owned)
                        .collect(),
                    path: OsStr::from_bytes(path).into(),
                })
            })
            .collect()
    }

    /// Whether it is of version 2, where all controllers share one hierarchy.
    pub fn is_unified(&self) -> bool {
        self.controllers.is_empty()
    }
}

/// Where a hierarchy, or a part of it, is mounted.
#[derive(Debug, PartialEq, Eq)]
pub struct CgroupMount {
    /// Controllers as in [`Membership`].
    controllers: Vec<String>,
    /// The group that the mount point shows.
    root: PathBuf,
    /// The mount point.
    pub point: PathBuf,
}

impl CgroupMount {
    /// All that are mounted in our own mount namespace.
    ///
    /// # Errors
    ///
    /// If `/proc/self/mountinfo` cannot be read.
    pub fn all() -> Result<Vec<Self>> {
        let mut text = Vec::new();
        File::open("/proc/self/mountinfo")
            .and_then(|file| file.take(MAX_MOUNTINFO).read_to_end(&mut text))
            .context("failed to read `/proc/self/mountinfo`: is /proc mounted?")?;
        Ok(text
            .split(|&byte| byte == b'\n')
            .filter_map(Self::parse)
            .collect())
    }

    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|&byte| byte == b' ');
        let (root, point) = (fields.nth(3)?, fields.next()?);
        fields.find(|&field| field == b"-")?;
        let controllers = match fields.next()? {
            b"cgroup2" => Vec::new(),
            b"cgroup" => String::from_utf8_lossy(fields.nth(1)?)
                .split(',')
                .filter(|option| !matches!(*option, "rw" | "ro"))
                .map(str::to_owned)
                .collect(),
            _ => return None,
        };
        Some(Self {
            controllers,
            root: unescape(root),
            point: unescape(point),
        })
    }

    /// Whether it is of the hierarchy that a group is in.
    pub fn shows(&self, group: &Membership) -> bool {
        match group.controllers.first() {
            // Version 1 always has a controller or a name.
            None => self.controllers.is_empty(),
            Some(controller) => self.controllers.contains(controller),
        }
    }

    /// Path of a group below the mount point; `None` if it is not in what is mounted.
    fn relative<'a>(&self, group: &'a Membership) -> Option<&'a Path> {
        let path = group.path.strip_prefix(&self.root).ok()?;
        let below = path
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        (self.shows(group) && below).then_some(path)
    }

    /// The group of this hierarchy at a path as `/proc/PID/cgroup` shows it.
    pub fn at(&self, path: &Path) -> Membership {
        Membership {
            controllers: self.controllers.clone(),
            path: path.to_owned(),
        }
    }

    /// The group that a path below the mount point names.
    pub fn group(&self, path: &Path) -> Option<Membership> {
        let mut group = self.root.clone();
        group.extend(path.strip_prefix(&self.point).ok()?);
        Some(self.at(&group))
    }

    /// Path of the directory of a group, if it is there.
    pub fn directory(&self, group: &Membership) -> Option<PathBuf> {
        self.open(group).ok()?;
        Some(self.point.join(self.relative(group)?))
    }

    /// Opens the directory of a group.
    ///
    /// # Errors
    ///
    /// If there is none, or it is not in what is mounted.
    pub fn open(&self, group: &Membership) -> io::Result<OwnedFd> {
        let path = self.relative(group).ok_or(io::ErrorKind::NotFound)?;
        let point = OpenHow::new().flags(DIRECTORY);
        let point = openat2(nix::fcntl::AT_FDCWD, &self.point, point)?;
        // Something else may be mounted over it.
        let kind = fstatfs(&point)?.filesystem_type();
        if kind != CGROUP_SUPER_MAGIC && kind != CGROUP2_SUPER_MAGIC {
            return Err(io::ErrorKind::NotFound.into());
        }
        if path.as_os_str().is_empty() {
            return Ok(point);
        }
        let below = OpenHow::new()
            .flags(DIRECTORY)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
        Ok(openat2(point.as_fd(), path, below)?)
    }
}

const DIRECTORY: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_CLOEXEC);

/// Undoes mountinfo's octal escapes (`\040`).
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        let code = (byte == b'\\').then(|| after.get(..3)).flatten();
        let code = code.and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(escaped) => {
                bytes.push(escaped);
                rest = &after[3..];
            }
            None => bytes.push(byte),
        }
    }
    OsStr::from_bytes(&bytes).into()
}

#[cfg(test)]
#[path = "hierarchy_tests.rs"]
mod tests;
