//! Control groups of the tests' own, in whatever hierarchies this machine has mounted.

use std::fs;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

/// A new group; its processes go back to the root and it is removed, with those below it, when dropped.
pub struct Group {
    root: PathBuf,
    /// Its directory.
    pub path: PathBuf,
}

impl Group {
    /// Makes a group of a name below the root of a hierarchy.
    pub fn new(hierarchy: &Path, name: &str) -> Group {
        let path = hierarchy.join(name);
        fs::create_dir_all(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Group {
            root: hierarchy.to_owned(),
            path,
        }
    }

    /// Makes a group below this one.
    pub fn child(&self, name: &str) -> PathBuf {
        let path = self.path.join(name);
        fs::create_dir_all(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        path
    }

    /// Its path as `/proc/PID/cgroup` shows it.
    pub fn name(&self) -> String {
        let below = self
            .path
            .strip_prefix(&self.root)
            .expect("it is below the root");
        format!("/{}", below.display())
    }

    /// Makes a group at the top of the memory controller's hierarchy, where nobody else's limit counts, with a
    /// limit in bytes of its own or none.
    pub fn of_memory(limit: Option<u64>) -> Group {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let hierarchies = hierarchies();
        // Version 1 if that has the controller: it is in one of them only.
        let of_memory = hierarchies.iter().find(|path| {
            let is_one = path.join("memory.limit_in_bytes").exists();
            is_one || enabled(path).split_whitespace().any(|it| it == "memory")
        });
        let hierarchy = of_memory.expect("the memory controller is not enabled");
        let name = format!("leakprobe-test-{}-{number}", process::id());
        let group = Group::new(hierarchy, &name);
        let write = |name: &str, text: &str| {
            let path = group.path.join(name);
            fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        };
        let limit = limit.map(|limit| limit.to_string());
        if group.path.join("memory.limit_in_bytes").exists() {
            write("memory.limit_in_bytes", limit.as_deref().unwrap_or("-1"));
            write("memory.swappiness", "0");
        } else {
            write("memory.max", limit.as_deref().unwrap_or("max"));
            if group.path.join("memory.swap.max").exists() {
                write("memory.swap.max", "0");
            }
        }
        group
    }

    /// Moves a process into this group.
    pub fn add(&self, pid: u32) {
        Group::enter(&self.path, pid);
    }

    /// Moves a process into the group of a directory.
    pub fn enter(directory: &Path, pid: u32) {
        fs::write(directory.join("cgroup.procs"), pid.to_string())
            .unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    }
}

/// The controllers that groups below have.
fn enabled(hierarchy: &Path) -> String {
    fs::read_to_string(hierarchy.join("cgroup.subtree_control")).unwrap_or_default()
}

impl Drop for Group {
    fn drop(&mut self) {
        empty(&self.path, &self.root);
        // The folders above it are the tests' own, too, if nothing else is in them.
        let above = self.path.ancestors().skip(1);
        for path in above.take_while(|path| *path != self.root) {
            let _ = fs::remove_dir(path);
        }
    }
}

/// Removes a group with all below it; what cannot be removed stays, and harms nobody.
fn empty(group: &Path, root: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            empty(&entry.path(), root);
        }
    }
    let procs = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    for pid in procs.lines() {
        let _ = fs::write(root.join("cgroup.procs"), pid);
    }
    let _ = fs::remove_dir(group);
}

/// Mount points of the hierarchies here in which the memory of processes, or processes alone, can be
/// put into groups: version 2, and the memory controller of version 1.
pub fn hierarchies() -> Vec<PathBuf> {
    let found = mounted(|kind, options| {
        kind == "cgroup2" || options.split(',').any(|option| option == "memory")
    });
    assert!(
        !found.is_empty(),
        "no hierarchy of control groups is mounted"
    );
    found
}

/// Removes an empty group at the top of all hierarchies, if it is there.
pub fn remove(name: &str) {
    for hierarchy in mounted(|_, _| true) {
        let _ = fs::remove_dir(hierarchy.join(name));
    }
}

/// Mount points of hierarchies of a kind and with options that are wanted.
fn mounted(wanted: impl Fn(&str, &str) -> bool) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
    let point = |line: &str| {
        let (before, after) = line.split_once(" - ")?;
        let mut after = after.split(' ');
        let (kind, options) = (after.next()?, after.nth(1)?);
        let is_one = kind.starts_with("cgroup") && wanted(kind, options);
        is_one.then(|| before.split(' ').nth(4).map(PathBuf::from))?
    };
    mounts.lines().filter_map(point).collect()
}
