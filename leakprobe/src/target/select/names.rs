//! What is known of one container: put together from its control group, containerd, Docker's
//! answer, the files of its runtime and its monitor. Later ones add what is not known yet; labels of
//! Kubernetes go before all.

use std::collections::HashMap;
use std::path::Path;

use super::tasks::{self, Task};
use super::{conmon, docker, ids, state};
use crate::target::ContainerInfo;
use crate::target::hierarchy::Membership;

impl ContainerInfo {
    /// The container that a process is in, with its names, as far as they can be known.
    pub fn of(pid: u32) -> Option<Self> {
        let groups = Membership::of(pid).ok()?;
        let found = ids::of_groups(&groups).pop();
        let task = tasks::around(Path::new("/"), &groups).filter(|(_, its)| {
            let known = found.as_ref();
            known.is_none_or(|known| is_inside(its, &known.id))
        });
        let mut info = Self::default();
        let (id, task) = match (task, &found) {
            (Some((task, _)), _) => (task.id.clone(), Some(task)),
            (None, Some(found)) => (found.id.clone(), None),
            (None, None) => return None,
        };
        if let Some(found) = found.filter(|found| found.id == id) {
            info.add(found);
        }
        info.id = id;
        if let Some(task) = task {
            info.add_task(&task);
        }
        if !is_id(&info.id) {
            return Some(info);
        }
        info.name_by_files(Path::new("/"));
        let by_docker = |name: &Option<String>| name.as_deref().is_none_or(|it| it == "docker");
        if info.name.is_none() && by_docker(&info.runtime) {
            let known = docker::containers().unwrap_or_default();
            if let Some(known) = known.iter().find(|known| known.id == info.id) {
                info.add_docker(known);
            }
        }
        let stored = || state::stored(Path::new("/")).into_iter();
        if info.name.is_none() {
            let stored = stored().find(|it| it.id == info.id);
            let name = stored.and_then(|it| it.names?.into_iter().next());
            info.name = name.as_deref().map(bounded);
        }
        info.name_by_monitor(pid);
        Some(info)
    }

    /// Takes in what containerd told.
    pub(super) fn add_task(&mut self, task: &Task) {
        self.runtime.get_or_insert_with(|| "containerd".to_owned());
        if !self.is_in_pod() {
            self.namespace = Some(task.namespace.clone());
        }
    }

    /// Takes the name that the monitor of a process of its knows, if there is no other.
    pub(super) fn name_by_monitor(&mut self, pid: u32) {
        let has_monitor = matches!(self.runtime.as_deref(), Some("podman" | "cri-o"));
        if self.name.is_none() && has_monitor {
            self.name = conmon::name(&self.id, pid).as_deref().map(bounded);
        }
    }

    /// Whether it is one of a Kubernetes pod.
    pub(super) fn is_in_pod(&self) -> bool {
        self.pod_uid.is_some() || self.pod_name.is_some()
    }

    /// Takes in what Docker told.
    pub(super) fn add_docker(&mut self, known: &docker::DockerContainer) {
        self.runtime = Some("docker".to_owned());
        name_by_labels(self, &known.labels());
        let name = known.name().map(bounded);
        self.name = self.name.take().or(name);
    }

    /// Takes in what its runtime has written; `root` is `/` but in tests.
    pub(super) fn name_by_files(&mut self, root: &Path) {
        let Some(config) = state::config(root, &self.id) else {
            return;
        };
        let runtime = config.runtime.map(str::to_owned);
        self.runtime = self.runtime.take().or(runtime);
        name_by_labels(self, &config.annotations);
    }

    /// Takes in what a path told.
    pub(super) fn add(&mut self, found: ids::ContainerId) {
        let runtime = found.runtime.map(str::to_owned);
        self.runtime = self.runtime.take().or(runtime);
        self.pod_uid = self.pod_uid.take().or(found.pod_uid);
    }
}

/// Whether groups are those of a container, or below them.
pub fn is_inside(groups: &[Membership], id: &str) -> bool {
    ids::of_groups(groups).iter().any(|found| found.id == id)
}

/// Labels and annotations by which containerd, CRI-O and the kubelet tell what a container is.
fn name_by_labels(info: &mut ContainerInfo, labels: &HashMap<String, String>) {
    let label = |known: &mut Option<String>, keys: &[&str]| {
        let found = keys.iter().find_map(|&key| labels.get(key));
        *known = found.map(|value| bounded(value)).or(known.take());
    };
    label(
        &mut info.name,
        &[
            "io.kubernetes.cri.container-name",
            "io.kubernetes.container.name",
            "nerdctl/name",
        ],
    );
    label(
        &mut info.pod_name,
        &["io.kubernetes.cri.sandbox-name", "io.kubernetes.pod.name"],
    );
    label(
        &mut info.namespace,
        &[
            "io.kubernetes.cri.sandbox-namespace",
            "io.kubernetes.pod.namespace",
        ],
    );
    label(
        &mut info.pod_uid,
        &["io.kubernetes.cri.sandbox-uid", "io.kubernetes.pod.uid"],
    );
}

/// Whether it is an id as all runtimes choose them by themselves.
pub fn is_id(id: &str) -> bool {
    id.len() == 64 && id.bytes().all(|it| matches!(it, b'0'..=b'9' | b'a'..=b'f'))
}

/// The beginning of a name; no runtime allows longer ones.
pub fn bounded(name: &str) -> String {
    name.chars().take(256).collect()
}
