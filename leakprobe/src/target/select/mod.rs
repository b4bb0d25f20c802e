//! Choosing processes: by PID, container, control group, name or executable.
//!
//! A container and a control group mean all their processes. A name or an executable means one
//! process; where there are several, guessing would profile the wrong one, so it is an error that
//! lists them. What a name means is looked up once; what comes into a container or a control group later,
//! [`Groups`] finds.

mod cgroups;
mod conmon;
mod containers;
mod docker;
mod entries;
mod groups;
mod hidden;
mod ids;
mod names;
mod state;
mod tasks;

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use anyhow::{Result, bail};

pub use containers::Containers;
pub use entries::Entry;
pub use groups::Groups;
pub use hidden::{advice as hidden_advice, hidden_by};

use super::hierarchy::CgroupMount;
use super::{Process, proc_fs};
use entries::{file_id, own_pid};

/// Candidates that an error lists; the rest is counted.
const MAX_LISTED: usize = 10;

/// Bytes of a process's name (`TASK_COMM_LEN` of include/linux/sched.h, less the final zero).
const MAX_COMM: usize = 15;

/// One way to say which process is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// PID as the user sees it.
    Pid(u32),
    /// All processes of a container, by its name, id, or the beginning of its id; or `NAMESPACE/ID` of containerd's.
    Container(String),
    /// All processes of a control group and those below it, by a path under a mount point or as in
    /// `/proc/PID/cgroup`.
    Cgroup(PathBuf),
    /// The one process whose main thread has this name.
    Comm(OsString),
    /// The one process that executes this file.
    Exe(PathBuf),
}

/// What was chosen.
#[derive(Debug)]
pub struct Selection {
    /// Each of them once, never none; those of a container or a control group oldest first.
    pub processes: Vec<Process>,
    /// Processes of a container or control group that cannot be profiled: one sentence each.
    pub left_out: Vec<String>,
    /// The containers and control groups, to be looked through again.
    pub groups: Groups,
}

/// Finds and opens what is meant.
///
/// # Errors
///
/// If a selector means no process, or more than one where it has to be one; with what there is and
/// what to write instead.
pub fn select(selectors: &[Selector]) -> Result<Selection> {
    let mut chosen = Selection {
        processes: Vec::new(),
        left_out: Vec::new(),
        groups: Groups::default(),
    };
    let mut world = World::default();
    for selector in selectors {
        if let Selector::Pid(pid) = selector {
            chosen.add(open(*pid)?);
            continue;
        }
        let mut found = world.find(selector)?;
        world.require_one(selector, &found)?;
        found.sort_by_key(|entry| (entry.start_time, entry.pid));
        for entry in found {
            match open(entry.pid) {
                Ok(process) if process.start_time() == entry.start_time => chosen.add(process),
                // It has ended since.
                Ok(_) => {}
                Err(_) if !proc_fs::pid(entry.pid, "").exists() => {}
                Err(error) => chosen.left_out.push(format!("{error:#}")),
            }
        }
    }
    chosen.groups = world.groups;
    match (chosen.processes.is_empty(), chosen.left_out.first()) {
        (false, _) => Ok(chosen),
        (true, Some(reason)) => bail!("{reason}"),
        (true, None) => bail!("the process has ended before it could be looked at: choose again"),
    }
}

impl From<Process> for Selection {
    fn from(process: Process) -> Self {
        Self {
            processes: vec![process],
            left_out: Vec::new(),
            groups: Groups::default(),
        }
    }
}

impl Selection {
    fn add(&mut self, process: Process) {
        if self
            .processes
            .iter()
            .all(|known| known.pid() != process.pid())
        {
            self.processes.push(process);
        }
    }
}

fn open(pid: u32) -> Result<Process> {
    if own_pid() == Some(pid) {
        bail!("process {pid} is leakprobe itself: give the PID of another one");
    }
    Process::open(pid).map_err(|error| match hidden_by() {
        Some(option) => error.context(hidden_advice(&option)),
        None => error,
    })
}

/// What there is to choose from, looked at when it is first needed.
#[derive(Default)]
pub struct World {
    entries: Option<Vec<Entry>>,
    containers: Option<Containers>,
    /// Of the selectors so far.
    groups: Groups,
}

impl World {
    /// All processes.
    ///
    /// # Errors
    ///
    /// If they cannot be listed, or some of them are hidden.
    pub fn entries(&mut self) -> Result<&[Entry]> {
        if self.entries.is_none() {
            if let Some(option) = hidden_by() {
                bail!("{}", hidden_advice(&option));
            }
            self.entries = Some(Entry::all()?);
        }
        Ok(self.entries.as_deref().unwrap_or_default())
    }

    /// All containers.
    ///
    /// # Errors
    ///
    /// As [`Self::entries`].
    pub fn containers(&mut self) -> Result<&Containers> {
        let containers = match self.containers.take() {
            Some(known) => known,
            None => Containers::of(self.entries()?),
        };
        Ok(self.containers.insert(containers))
    }

    /// All processes that a selector can mean.
    ///
    /// # Errors
    ///
    /// If there is none, with what to do about it.
    pub fn find(&mut self, selector: &Selector) -> Result<Vec<Entry>> {
        let entries = self.entries()?.to_vec();
        let found: Vec<Entry> = match selector {
            Selector::Pid(pid) => {
                open(*pid)?;
                by(entries, |entry| entry.pid == *pid)
            }
            Selector::Comm(name) => {
                let name = name.as_bytes();
                let name = String::from_utf8_lossy(&name[..name.len().min(MAX_COMM)]);
                by(entries, |entry| entry.comm == name)
            }
            Selector::Exe(path) => {
                let file = file_id(path);
                by(entries, |entry| entry.executes(path, file))
            }
            Selector::Cgroup(path) => {
                let mounts = CgroupMount::all()?;
                let (found, groups) = cgroups::members(&mounts, entries, path)?;
                self.groups.add(&mounts, &groups);
                found
            }
            Selector::Container(name) => {
                let mounts = CgroupMount::all()?;
                let mut groups = std::mem::take(&mut self.groups);
                let mut pids = Vec::new();
                for container in self.containers()?.find(name)? {
                    let inside = |entry: &&Entry| container.pids.contains(&entry.pid);
                    if let Some(entry) = entries.iter().find(inside) {
                        groups.add_container(&mounts, container.groups(entry));
                    }
                    pids.extend_from_slice(&container.pids);
                }
                self.groups = groups;
                by(entries, |entry| pids.contains(&entry.pid))
            }
        };
        match (selector, found.is_empty()) {
            (Selector::Comm(name), true) => bail!(
                "no process is called `{}`: `leakprobe ps` shows those there are",
                shown(&name.to_string_lossy())
            ),
            (Selector::Exe(path), true) => bail!(
                "no process executes `{}`: give the whole path, as in the container; `leakprobe ps` \
                 shows the processes there are",
                shown(&path.to_string_lossy())
            ),
            (_, true) => bail!("the process has ended before it could be looked at: choose again"),
            (_, false) => Ok(found),
        }
    }

    /// A selector that means one process must not have found several, nor one that means a container.
    fn require_one(&mut self, selector: &Selector, found: &[Entry]) -> Result<()> {
        let what = match selector {
            Selector::Container(name) => return self.require_one_container(name),
            Selector::Comm(name) => format!("are called `{}`", shown(&name.to_string_lossy())),
            Selector::Exe(path) => format!("execute `{}`", shown(&path.to_string_lossy())),
            Selector::Pid(_) | Selector::Cgroup(_) => return Ok(()),
        };
        if found.len() < 2 {
            return Ok(());
        }
        let containers = self.containers()?;
        let candidates: Vec<_> = found
            .iter()
            .map(|entry| entry.describe(containers.of_process(entry.pid)))
            .collect();
        bail!(
            "{} processes {what}: {}; choose with --pid, which can be given several times",
            found.len(),
            list(&candidates)
        )
    }

    fn require_one_container(&mut self, name: &str) -> Result<()> {
        let found = self.containers()?.find(name)?;
        if found.len() < 2 {
            return Ok(());
        }
        let candidates: Vec<_> = found.iter().map(|it| it.describe(name.len() + 4)).collect();
        let advice = match found.iter().any(|it| it.has_word()) {
            true => "give one of them as it stands here",
            false => "give more of the id",
        };
        bail!(
            "`{}` can mean {} containers: {}; {advice}",
            shown(name),
            found.len(),
            list(&candidates)
        )
    }
}

fn by(mut entries: Vec<Entry>, wanted: impl Fn(&Entry) -> bool) -> Vec<Entry> {
    entries.retain(wanted);
    entries
}

/// A name for an error: it may come from a container, and hold anything.
fn shown(name: &str) -> String {
    const MAX: usize = 100;
    let cut = name.chars().count() > MAX;
    let beginning: String = name.chars().take(MAX).collect();
    format!("{}{}", beginning.escape_debug(), if cut { "…" } else { "" })
}

/// `a, b and 3 more`.
fn list(candidates: &[String]) -> String {
    let listed = candidates[..candidates.len().min(MAX_LISTED)].join(", ");
    match candidates.len().saturating_sub(MAX_LISTED) {
        0 => listed,
        more => format!("{listed} and {more} more"),
    }
}

#[cfg(test)]
mod tests;
