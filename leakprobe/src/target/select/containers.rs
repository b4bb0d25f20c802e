//! The containers there are: which processes are in each, and what its runtime calls it.
//!
//! The processes come from control groups alone, so that containers are found by id where no
//! runtime can be asked; only where an id may be any word, containerd's state tells which group it means. Names
//! come from Docker's socket, and from the files and monitors of the others.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Result, bail};

use super::entries::Entry;
use super::names::{bounded, is_id, is_inside};
use super::tasks::{self, First, Task};
use super::{docker, groups, ids, list, shown, state};
use crate::target::ContainerInfo;
use crate::target::hierarchy::Membership;

/// Characters of an id that are needed to go by it.
const MIN_DIGITS: usize = 3;

/// A container, running or not.
#[derive(Debug, Default)]
pub struct Container {
    /// Id and names.
    pub info: ContainerInfo,
    /// Its processes and those of containers inside of it; empty if it does not run.
    pub pids: Vec<u32>,
    /// Its control groups, where they do not show its id.
    groups: Vec<Membership>,
    /// Other names it is known by.
    aliases: Vec<String>,
    /// What Docker says of it, such as `exited`.
    state: Option<String>,
}

impl Container {
    /// Its name and the beginning of its id, for people; `digits` of the id at least.
    pub fn describe(&self, digits: usize) -> String {
        let id = &self.info.id;
        if self.has_word() {
            return shown(&self.path().unwrap_or_else(|| id.clone()));
        }
        let id = id.get(..digits.max(12)).unwrap_or(id);
        match self.info.name {
            Some(_) => format!("{} ({id})", shown(&self.info.label())),
            None => id.to_owned(),
        }
    }

    /// Its control groups, by one of its processes.
    pub fn groups(&self, entry: &Entry) -> Vec<Membership> {
        if !self.groups.is_empty() {
            return self.groups.clone();
        }
        let up_to = |of| groups::up_to(of, &self.info.id);
        entry.groups.iter().filter_map(up_to).collect()
    }

    /// Whether its id is a word that others may have, too: in another namespace of containerd.
    pub fn has_word(&self) -> bool {
        !is_id(&self.info.id)
    }

    /// `NAMESPACE/ID`, outside of pods.
    fn path(&self) -> Option<String> {
        let namespace = self.info.namespace.as_ref();
        let namespace = namespace.filter(|_| !self.info.is_in_pod());
        namespace.map(|it| format!("{it}/{}", self.info.id))
    }

    fn has_id(&self, wanted: &str) -> bool {
        let is_path = self.path().is_some_and(|path| path == wanted);
        is_path
            || match self.has_word() {
                true => self.info.id == wanted,
                false => self.info.id.eq_ignore_ascii_case(wanted),
            }
    }

    fn begins_with(&self, wanted: &str) -> bool {
        let beginning = self.info.id.get(..wanted.len());
        wanted.len() >= MIN_DIGITS
            && beginning.is_some_and(|beginning| match self.has_word() {
                true => beginning == wanted,
                false => beginning.eq_ignore_ascii_case(wanted),
            })
    }

    fn is_called(&self, name: &str) -> bool {
        self.info.name.as_deref() == Some(name)
            || self.info.label() == name
            || self.aliases.iter().any(|alias| alias == name)
    }

    /// Takes in what Docker knows. Its own name is one to go by even where Kubernetes has another.
    fn learn(&mut self, known: &docker::DockerContainer) {
        self.state = Some(bounded(&known.state));
        self.aliases.extend(known.name().map(bounded));
        self.info.add_docker(known);
    }
}

/// All containers that can be seen from here.
#[derive(Debug, Default)]
pub struct Containers {
    all: Vec<Container>,
    by_id: HashMap<String, usize>,
    /// The innermost container of a process.
    by_pid: HashMap<u32, usize>,
    /// Why Docker told no names.
    without_docker: Option<String>,
}

impl Containers {
    /// Those that processes are in, and those that runtimes tell of.
    pub fn of(entries: &[Entry]) -> Self {
        let mut this = Self::default();
        this.add_groups(entries);
        this.add_tasks(entries, tasks::tasks(Path::new("/")), First::of);
        this.add_files(Path::new("/"));
        this.add_docker(docker::containers());
        this
    }

    fn add_groups(&mut self, entries: &[Entry]) {
        for entry in entries {
            for found in ids::of_groups(&entry.groups) {
                let at = self.entry(&found.id);
                let container = &mut self.all[at];
                container.pids.push(entry.pid);
                container.info.add(found);
                self.by_pid.insert(entry.pid, at);
            }
        }
    }

    /// Takes in what containerd runs, whatever the id; `first` looks at a process.
    fn add_tasks(
        &mut self,
        entries: &[Entry],
        tasks: Vec<Task>,
        first: impl Fn(u32) -> Option<First>,
    ) {
        let is_known = |id: &str| {
            let at = self.by_id.get(id);
            at.is_some_and(|&at| !self.all[at].pids.is_empty())
        };
        let looked_at = |task: Task| {
            let pid = task.pid.filter(|_| !is_known(&task.id));
            let first = pid.and_then(&first).unwrap_or_default();
            (task.groups(&first), task)
        };
        let mut found: Vec<_> = tasks.into_iter().map(looked_at).collect();
        // The innermost last: what is in it is in no other one.
        found.sort_by_key(|(groups, _)| tasks::depth(groups));
        for (groups, task) in found {
            let at = match is_id(&task.id) {
                true => self.entry(&task.id),
                false => self.push(&task.id),
            };
            self.all[at].info.add_task(&task);
            if !self.all[at].pids.is_empty() {
                continue;
            }
            for entry in entries.iter().filter(|entry| entry.is_in(&groups)) {
                self.all[at].pids.push(entry.pid);
                let known = self.by_pid.get(&entry.pid).map(|&known| &self.all[known]);
                if known.is_none_or(|known| known.has_word() || is_inside(&groups, &known.info.id))
                {
                    self.by_pid.insert(entry.pid, at);
                }
            }
            self.all[at].groups = groups;
        }
    }

    /// Takes the names from files; `root` is `/` but in tests.
    fn add_files(&mut self, root: &Path) {
        for stored in state::stored(root).into_iter().filter(|it| is_id(&it.id)) {
            let at = self.entry(&stored.id);
            let names = stored.names.unwrap_or_default();
            self.all[at].aliases = names.iter().map(|name| bounded(name)).collect();
        }
        for container in &mut self.all {
            container.info.name_by_files(root);
            let first = container.aliases.first().cloned();
            container.info.name = container.info.name.take().or(first);
            if let Some(&pid) = container.pids.first() {
                container.info.name_by_monitor(pid);
            }
        }
    }

    fn add_docker(&mut self, known: Result<Vec<docker::DockerContainer>>) {
        match known {
            Ok(known) => {
                for known in known.iter().filter(|known| is_id(&known.id)) {
                    let at = self.entry(&known.id);
                    self.all[at].learn(known);
                }
            }
            Err(error) => self.without_docker = Some(format!("{error:#}")),
        }
    }

    /// The container of an id, made if there is none yet.
    fn entry(&mut self, id: &str) -> usize {
        if let Some(&at) = self.by_id.get(id) {
            return at;
        }
        let at = self.push(id);
        self.by_id.insert(id.to_owned(), at);
        at
    }

    fn push(&mut self, id: &str) -> usize {
        self.all.push(Container::default());
        let last = self.all.len() - 1;
        self.all[last].info.id = id.to_owned();
        last
    }

    /// The innermost container that a process is in.
    pub fn of_process(&self, pid: u32) -> Option<&ContainerInfo> {
        self.by_pid.get(&pid).map(|&at| &self.all[at].info)
    }

    /// The containers that a name, an id or the beginning of one can mean: in that order, the first
    /// that gives any; and of those, what runs.
    ///
    /// # Errors
    ///
    /// If there is none, with the names of some that run; or none of them runs.
    pub fn find(&self, wanted: &str) -> Result<Vec<&Container>> {
        // `containerd://ID` is what Kubernetes shows.
        let wanted = wanted.split_once("://").map_or(wanted, |(_, id)| id);
        let wanted = wanted.strip_prefix('/').unwrap_or(wanted);
        let find = |matches: &dyn Fn(&Container) -> bool| {
            let found: Vec<_> = self.all.iter().filter(|it| matches(it)).collect();
            (!found.is_empty()).then_some(found)
        };
        let found = find(&|it| it.has_id(wanted))
            .or_else(|| find(&|it| it.is_called(wanted)))
            .or_else(|| find(&|it| it.begins_with(wanted)));
        let Some(mut found) = found else {
            return Err(self.none(wanted));
        };
        if let Some(stopped) = found
            .first()
            .filter(|_| found.iter().all(|it| it.pids.is_empty()))
        {
            bail!("{}", not_running(stopped));
        }
        found.retain(|container| !container.pids.is_empty());
        Ok(found)
    }

    fn none(&self, wanted: &str) -> anyhow::Error {
        let mut running: Vec<_> = self
            .all
            .iter()
            .filter(|container| !container.pids.is_empty())
            .map(|container| container.describe(12))
            .collect();
        running.sort();
        let running = match running.len() {
            0 => "no container is seen to run here".to_owned(),
            _ => format!("these run: {}", list(&running)),
        };
        let is_short = wanted.len() < MIN_DIGITS && wanted.bytes().all(|it| it.is_ascii_hexdigit());
        let short = match is_short {
            true => format!("; of an id at least {MIN_DIGITS} digits are needed"),
            false => String::new(),
        };
        let docker = self.without_docker.as_ref();
        let docker = docker.map_or(String::new(), |why| {
            format!("; no names from Docker: {why}")
        });
        anyhow::anyhow!(
            "there is no container `{}`: {running}{short}{docker}",
            shown(wanted)
        )
    }
}

fn not_running(container: &Container) -> String {
    let name = container.describe(12);
    match container.state.as_deref() {
        Some(state @ ("running" | "paused" | "restarting")) => format!(
            "no process of container {name} can be seen from here, though Docker says that it is \
             {state}: leakprobe has to run in the PID namespace of the host, or one around the \
             container's"
        ),
        Some(state) if !state.is_empty() => {
            format!(
                "container {name} is not running ({}): start it first",
                shown(state)
            )
        }
        _ => format!("container {name} is not running: start it first"),
    }
}

#[cfg(test)]
#[path = "containers_tests.rs"]
mod tests;
