//! The processes there are to choose from: one look at `/proc`.
//!
//! Left out is what nobody can want to profile: kernel threads, processes that have ended and were
//! not waited for, and leakprobe itself.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{cgroups, shown};
use crate::target::ContainerInfo;
use crate::target::debug_files::undeleted;
use crate::target::hierarchy::Membership;
use crate::target::proc_fs;
use crate::target::process::{KERNEL_THREAD, stat};

/// A process as it was when it was looked at.
#[derive(Clone, Debug)]
pub struct Entry {
    /// PID as the caller sees it.
    pub pid: u32,
    /// Name of the main thread. May hold any characters.
    pub comm: String,
    /// In clock ticks since boot. With the PID, it means one process.
    pub start_time: u64,
    /// The control groups it is in; empty if they may not be looked at.
    pub groups: Vec<Membership>,
}

impl Entry {
    /// All processes, by PID.
    ///
    /// # Errors
    ///
    /// If `/proc` cannot be listed.
    pub fn all() -> Result<Vec<Self>> {
        let own = own_pid();
        let named = proc_fs::named().display();
        let mut pids: Vec<u32> = fs::read_dir(proc_fs::root())
            .with_context(|| format!("failed to list `{named}`: is it mounted?"))?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter(|&pid| Some(pid) != own)
            .collect();
        pids.sort_unstable();
        // Whatever ends meanwhile is not there.
        Ok(pids.into_iter().filter_map(Self::read).collect())
    }

    fn read(pid: u32) -> Option<Self> {
        let stat = stat(pid).ok()?;
        if stat.flags & KERNEL_THREAD != 0 || matches!(stat.state, 'Z' | 'X' | 'x') {
            return None;
        }
        Some(Self {
            pid,
            comm: stat.comm,
            start_time: stat.starttime,
            groups: Membership::of(pid).unwrap_or_default(),
        })
    }

    /// Whether it is in one of these control groups, or below it.
    pub fn is_in(&self, groups: &[Membership]) -> bool {
        cgroups::is_in(&self.groups, groups)
    }

    /// Path of the executable, as in the process's own mount namespace.
    pub fn exe(&self) -> Option<PathBuf> {
        fs::read_link(proc_fs::pid(self.pid, "exe")).ok()
    }

    /// Whether it executes a file: by the path as the process sees it, or because it is the very file.
    pub fn executes(&self, path: &Path, file: Option<(u64, u64)>) -> bool {
        let link = proc_fs::pid(self.pid, "exe");
        self.exe().is_some_and(|exe| undeleted(&exe) == path)
            || (file.is_some() && file_id(&link) == file)
    }

    /// Whether it has not ended since.
    pub fn is_there(&self) -> bool {
        stat(self.pid).is_ok_and(|stat| stat.starttime == self.start_time && stat.state != 'Z')
    }

    /// PID, name, executable and container, for an error.
    pub fn describe(&self, container: Option<&ContainerInfo>) -> String {
        let exe = self.exe().map(|exe| exe.to_string_lossy().into_owned());
        let exe = exe.map_or(String::new(), |exe| format!(", {}", shown(&exe)));
        let container = container.map_or(String::new(), |container| {
            format!(", container {}", shown(&container.label()))
        });
        format!("{} ({}{exe}{container})", self.pid, shown(&self.comm))
    }
}

/// leakprobe's own PID in the PID namespace of `/proc`, which need not be its own.
pub fn own_pid() -> Option<u32> {
    fs::read_link(proc_fs::root().join("self"))
        .ok()?
        .to_str()?
        .parse()
        .ok()
}

/// Device and inode of the file at a path, as this machine has it.
pub fn file_id(path: &Path) -> Option<(u64, u64)> {
    let found = fs::metadata(path).ok()?;
    Some((found.dev(), found.ino()))
}
