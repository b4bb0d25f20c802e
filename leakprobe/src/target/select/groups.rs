//! The control groups that containers and `--cgroup` were found to mean, to be looked through again
//! while a recording lasts: others may have come into them.
//!
//! No runtime is asked again, and where the groups' directories can be seen, not all of `/proc` is
//! read either. What a name means is not looked up anew: the container is the same until the end.

use std::fs;
use std::path::{Path, PathBuf};

use super::entries::{Entry, own_pid};
use crate::target::Process;
use crate::target::hierarchy::{CgroupMount, Membership};

/// Levels of groups below one that are looked through; the kernel allows more, nobody uses them.
const MAX_DEPTH: usize = 32;

/// Where to look for processes.
#[derive(Debug, Default)]
pub struct Groups {
    /// Directories of control groups.
    directories: Vec<PathBuf>,
    /// Groups whose directories cannot be seen from here.
    unseen: Vec<Membership>,
}

impl Groups {
    /// Whether there is nothing to look through.
    pub fn is_empty(&self) -> bool {
        self.directories.is_empty() && self.unseen.is_empty()
    }

    /// Takes in groups that exist.
    pub fn add(&mut self, mounts: &[CgroupMount], groups: &[Membership]) {
        let directory = |group| mounts.iter().find_map(|mount| mount.directory(group));
        self.directories.extend(groups.iter().filter_map(directory));
    }

    /// Takes in the groups of a container.
    pub fn add_container(&mut self, mounts: &[CgroupMount], groups: Vec<Membership>) {
        // Its processes are in its groups of all hierarchies: one is enough.
        let directory = |group| mounts.iter().find_map(|mount| mount.directory(group));
        match groups.iter().find_map(directory) {
            Some(directory) => self.directories.push(directory),
            None => self.unseen.extend(groups),
        }
    }

    /// The processes that are in them now and can be profiled. What ends meanwhile is not among them.
    pub fn processes(&self) -> Vec<Process> {
        let mut pids = Vec::new();
        for directory in &self.directories {
            list(directory, MAX_DEPTH, &mut pids);
        }
        if !self.unseen.is_empty() {
            let entries = Entry::all().unwrap_or_default();
            let within = entries.iter().filter(|it| it.is_in(&self.unseen));
            pids.extend(within.map(|entry| entry.pid));
        }
        pids.sort_unstable();
        pids.dedup();
        let own = own_pid();
        pids.into_iter()
            .filter(|&pid| Some(pid) != own)
            .filter_map(|pid| Process::open(pid).ok())
            .collect()
    }
}

/// The group of a container that a group is in or below, by its 64 digits.
pub fn up_to(group: &Membership, id: &str) -> Option<Membership> {
    let holds = |path: &&Path| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().contains(id))
    };
    // The outermost: groups below it may repeat the id.
    let path = group.path.ancestors().filter(holds).last()?;
    Some(Membership {
        controllers: group.controllers.clone(),
        path: path.to_owned(),
    })
}

/// The PIDs in a group and in those below it.
fn list(directory: &Path, depth: usize, pids: &mut Vec<u32>) {
    let procs = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    // 0 is a process that has no PID here.
    pids.extend(
        procs
            .lines()
            .filter_map(|line| line.parse().ok())
            .filter(|&pid: &u32| pid > 0),
    );
    if depth == 0 {
        return;
    }
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            list(&entry.path(), depth - 1, pids);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_of_a_container() {
        let id = "60fac30309e92d9b647b026a82dd3024b7711796ba34bbb164b2a9d89237b521";
        let group = |path: &str| Membership {
            controllers: vec!["memory".to_owned()],
            path: path.replace("ID64", id).into(),
        };
        for (path, expected) in [
            ("/docker/ID64", Some("/docker/ID64")),
            ("/docker/ID64/a/b", Some("/docker/ID64")),
            (
                "/x/libpod-ID64.scope/libpod-ID64",
                Some("/x/libpod-ID64.scope"),
            ),
            ("/../docker-ID64.scope", Some("/../docker-ID64.scope")),
            ("/docker", None),
            ("/", None),
        ] {
            assert_eq!(up_to(&group(path), id), expected.map(group), "{path}");
        }
    }

    #[test]
    fn pids_in_and_below() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::create_dir_all(path("a/b")).unwrap();
        fs::write(path("cgroup.procs"), "1\n0\n20\n").unwrap();
        fs::write(path("a/b/cgroup.procs"), "300\n").unwrap();
        let listed = |depth| {
            let mut pids = Vec::new();
            list(directory.path(), depth, &mut pids);
            pids
        };
        assert_eq!(listed(MAX_DEPTH), [1, 20, 300]);
        assert_eq!(listed(1), [1, 20]);
    }
}
