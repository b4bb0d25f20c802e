//! Containers of containerd, by what it keeps of each: a folder NAMESPACE/ID with the PID of the first
//! process. Ids of Kubernetes and nerdctl are found without ([`super::ids`]); but containerd takes any word
//! for one (`ctr run … web-1`), and in the path of a control group that could be anything.
//!
//! The file is no proof: it stays when containerd is killed, and the PID may be another process's by
//! then. So the process has to be where containerd puts one of this id ([`Task::groups`]). The container is that
//! control group, whoever is in it: also what `ctr task exec` started.

use std::fs;
use std::path::Path;

use super::cgroups::is_in;
use super::state::{CONTAINERD, folders, read_bounded};
use crate::target::hierarchy::Membership;
use crate::target::process::{stat, status_field};

/// The namespace of Docker's containers, which has their ids and names from Docker.
const DOCKER: &str = "moby";

/// Containers of one namespace that are looked at.
const MAX_TASKS: usize = 10_000;

/// Bytes of an id or a namespace that containerd takes (`maxLength` of its pkg/identifiers).
const MAX_WORD: usize = 76;

/// Bytes of a file with a PID.
const MAX_PID: u64 = 16;

/// Names of the processes that start containers: `containerd-shim-runc-v2`, cut by the kernel.
const SHIM: &str = "containerd-shim";

/// A container that containerd has started and not yet removed.
#[derive(Debug, PartialEq, Eq)]
pub struct Task {
    /// containerd's namespace.
    pub namespace: String,
    /// A word, or 64 hexadecimal digits.
    pub id: String,
    /// Its first process, if it has been started and the file is to be believed.
    pub pid: Option<u32>,
}

/// What there is to be known of a process for [`Task::groups`].
#[derive(Debug, Default)]
pub struct First {
    /// Its control groups.
    pub groups: Vec<Membership>,
    /// If it is the first process of a PID namespace below ours, and a shim of containerd has started it: the
    /// shim's control groups.
    pub of_shim: Option<Vec<Membership>>,
}

/// All but Docker's; `root` is `/` but in tests.
pub fn tasks(root: &Path) -> Vec<Task> {
    let namespaces = CONTAINERD
        .iter()
        .flat_map(|place| folders(&root.join(place).join("io.containerd.runtime.v2.task")))
        .filter(|(name, _)| name != DOCKER && is_word(name));
    namespaces
        .flat_map(|(name, path)| of_namespace(&name, &path))
        .collect()
}

fn of_namespace(namespace: &str, path: &Path) -> Vec<Task> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let named = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let ids = named.filter(|id| is_word(id)).take(MAX_TASKS);
    ids.map(|id| Task {
        pid: pid(&path.join(&id).join("init.pid")),
        namespace: namespace.to_owned(),
        id,
    })
    .collect()
}

fn pid(file: &Path) -> Option<u32> {
    let text = String::from_utf8(read_bounded(file, MAX_PID)?).ok()?;
    text.trim().parse().ok().filter(|&pid| pid > 0)
}

/// What containerd takes for an id or a namespace: letters, digits and `._-`. So it is no path, either.
fn is_word(text: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    text.len() <= MAX_WORD
        && text.bytes().all(is_part)
        && text
            .bytes()
            .next()
            .is_some_and(|byte| byte.is_ascii_alphanumeric())
}

impl Task {
    /// The control groups of the container, one for each hierarchy that has one; none if `first` is not
    /// its first process. That one is in `/NAMESPACE/ID`, where clients put a container unless told
    /// otherwise; or it is known by the shim that has started it, and in a group that the shim is not in.
    pub fn groups(&self, first: &First) -> Vec<Membership> {
        let named: Vec<_> = first
            .groups
            .iter()
            .filter_map(|of| self.up_to(of))
            .collect();
        match &first.of_shim {
            Some(shim) if named.is_empty() && !shim.is_empty() => {
                let shared = |group| is_in(shim, std::slice::from_ref(group));
                let own = first.groups.iter().filter(|group| !shared(group));
                own.cloned().collect()
            }
            _ => named,
        }
    }

    fn up_to(&self, group: &Membership) -> Option<Membership> {
        let name = Path::new(&self.namespace).join(&self.id);
        let paths = group.path.ancestors().filter(|path| path.ends_with(&name));
        Some(Membership {
            controllers: group.controllers.clone(),
            // The outermost, as with other ids.
            path: paths.last()?.to_owned(),
        })
    }
}

/// Of all tasks the innermost that a process in these control groups is in, and that one's groups.
pub fn around(root: &Path, groups: &[Membership]) -> Option<(Task, Vec<Membership>)> {
    let known = tasks(root).into_iter().filter_map(|task| {
        let its = task.groups(&First::of(task.pid?)?);
        Some((task, its))
    });
    let around = known.filter(|(_, its)| is_in(groups, its));
    around.max_by_key(|(_, its)| depth(its))
}

/// How deep groups are: of a container in a container the inner one's are deeper.
pub fn depth(groups: &[Membership]) -> usize {
    let depths = groups.iter().map(|group| group.path.components().count());
    depths.max().unwrap_or_default()
}

impl First {
    /// Looks at a process; `None` if there is none.
    pub fn of(pid: u32) -> Option<Self> {
        Some(Self {
            groups: Membership::of(pid).ok()?,
            of_shim: shim(pid).and_then(|shim| Membership::of(shim).ok()),
        })
    }
}

/// The parent of a process, if that is a shim, and the process the first in a PID namespace below ours.
fn shim(pid: u32) -> Option<u32> {
    let numbers = status_field(pid, "NSpid:")?;
    let is_first = numbers.split_whitespace().skip(1).last() == Some("1");
    let parent = u32::try_from(stat(pid).ok()?.ppid).ok()?;
    (is_first && stat(parent).ok()?.comm.starts_with(SHIM)).then_some(parent)
}

#[cfg(test)]
#[path = "tasks_tests.rs"]
mod tests;
