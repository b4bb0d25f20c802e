//! The processes of a control group and of those below it.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::entries::Entry;
use super::shown;
use crate::target::hierarchy::{CgroupMount, Membership};

/// The processes of the group that a path means, and the group in each hierarchy that has it: the path
/// of its directory, or the path that `/proc/PID/cgroup` shows, in whatever hierarchy.
///
/// # Errors
///
/// If there is no such group, or nothing is in it.
pub fn members(
    mounts: &[CgroupMount],
    entries: Vec<Entry>,
    path: &Path,
) -> Result<(Vec<Entry>, Vec<Membership>)> {
    let name = shown(&path.to_string_lossy());
    let groups = groups(mounts, path);
    if groups.is_empty() {
        let places: Vec<_> = mounts
            .iter()
            .map(|it| it.point.display().to_string())
            .collect();
        let places = match places.is_empty() {
            true => "no hierarchy is mounted here".to_owned(),
            false => format!("the hierarchies are at {}", super::list(&places)),
        };
        bail!(
            "there is no cgroup `{name}`: give the path of its directory, or one as \
             /proc/PID/cgroup shows it; {places}"
        );
    }
    let found = super::by(entries, |entry| entry.is_in(&groups));
    if found.is_empty() {
        bail!("no process is in the cgroup `{name}`, nor in one below it");
    }
    Ok((found, groups))
}

/// The groups that exist and that a path means: one, or one in each hierarchy.
fn groups(mounts: &[CgroupMount], path: &Path) -> Vec<Membership> {
    let directory = std::fs::canonicalize(path).unwrap_or_else(|_| PathBuf::from(path));
    let by_directory = mounts
        .iter()
        .filter(|mount| directory.starts_with(&mount.point));
    // Of mounts within one another the inner one counts.
    let by_directory = by_directory.max_by_key(|mount| mount.point.as_os_str().len());
    let candidates: Vec<_> = match by_directory {
        Some(mount) => mount
            .group(&directory)
            .map(|group| (mount, group))
            .into_iter()
            .collect(),
        None => mounts.iter().map(|mount| (mount, mount.at(path))).collect(),
    };
    let there = candidates
        .into_iter()
        .filter(|(mount, group)| mount.open(group).is_ok());
    there.map(|(_, group)| group).collect()
}

/// Whether a process in the groups `of` is in one of `groups`, or below it.
pub fn is_in(of: &[Membership], groups: &[Membership]) -> bool {
    let within = |of| groups.iter().any(|group| is_within(of, group));
    of.iter().any(within)
}

/// Whether a group is the other one, or below it.
pub fn is_within(of: &Membership, group: &Membership) -> bool {
    let same = match group.controllers.first() {
        None => of.is_unified(),
        Some(_) => of
            .controllers
            .iter()
            .any(|it| group.controllers.contains(it)),
    };
    same && of.path.starts_with(&group.path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_below_a_group_is_in_it() {
        let group = |controllers: &[&str], path: &str| Membership {
            controllers: controllers.iter().map(|&it| it.to_owned()).collect(),
            path: path.into(),
        };
        let v1 = group(&["rw", "cpu", "cpuacct"], "/a/b");
        assert!(is_within(&group(&["cpu"], "/a/b"), &v1));
        assert!(is_within(&group(&["cpuacct"], "/a/b/c"), &v1));
        assert!(!is_within(&group(&["cpuacct"], "/a/bc"), &v1));
        assert!(!is_within(&group(&["memory"], "/a/b"), &v1));
        assert!(!is_within(&group(&[], "/a/b"), &v1));
        assert!(is_within(&group(&[], "/a/b"), &group(&[], "/a")));
    }
}
