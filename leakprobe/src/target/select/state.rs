//! Names of containers from the files that other runtimes than Docker keep: containerd's and
//! CRI-O's copies of each container's configuration, and the list of podman and CRI-O.
//!
//! A runtime that is not installed has none of them, and one that writes them in another way gives
//! no names; neither is an error. The files are read with a limit, since what they hold came from
//! whoever started the containers.

use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::target::root::open_regular;

/// Where containerd keeps the state of its tasks, by distribution; Docker's own containerd too.
pub const CONTAINERD: [&str; 4] = [
    "run/containerd",
    "run/k3s/containerd",
    "run/docker/containerd/daemon",
    "var/snap/microk8s/common/run/containerd",
];

/// Where podman and CRI-O keep containers.
const STORAGE: [&str; 4] = [
    "run/containers/storage/overlay-containers",
    "var/lib/containers/storage/overlay-containers",
    "run/containers/storage/vfs-containers",
    "var/lib/containers/storage/vfs-containers",
];

/// The lists in there. The second is of containers that go when they end (`podman run --rm`); older
/// podmans have one list for all.
const LISTS: [&str; 2] = ["containers.json", "volatile-containers.json"];

/// Namespaces of one containerd that are looked through. It leaves the folders of those that were removed.
const MAX_NAMESPACES: usize = 1000;

/// Bytes of a configuration or a list; the former has 10 to 50 thousand, the latter as much as
/// a thousand for each container.
const MAX_FILE: u64 = 16 << 20;

/// What the file of one container tells.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// `docker` or `containerd`, where the place of the file tells.
    pub runtime: Option<&'static str>,
    /// Its annotations.
    pub annotations: HashMap<String, String>,
}

/// A container in the list of podman and CRI-O, running or not.
#[derive(Debug, Deserialize)]
pub struct Stored {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Its names.
    #[serde(default)]
    pub names: Option<Vec<String>>,
}

/// The configuration of a container; `root` is `/` but in tests.
pub fn config(root: &Path, id: &str) -> Option<Config> {
    /// The little that is needed of an OCI runtime's config.json.
    #[derive(Deserialize)]
    struct Oci {
        #[serde(default)]
        annotations: Option<HashMap<String, String>>,
    }
    let of_containerd = CONTAINERD
        .iter()
        .flat_map(|place| folders(&root.join(place).join("io.containerd.runtime.v2.task")))
        .map(|(namespace, path)| {
            let runtime = match namespace == "moby" {
                true => "docker",
                false => "containerd",
            };
            (path.join(id).join("config.json"), Some(runtime))
        });
    let of_storage = STORAGE
        .iter()
        .map(|place| (root.join(place).join(id).join("userdata/config.json"), None));
    of_containerd.chain(of_storage).find_map(|(path, runtime)| {
        let oci: Oci = read(&path)?;
        Some(Config {
            runtime,
            annotations: oci.annotations.unwrap_or_default(),
        })
    })
}

/// The containers of podman and CRI-O.
pub fn stored(root: &Path) -> Vec<Stored> {
    STORAGE
        .iter()
        .flat_map(|place| LISTS.map(|list| root.join(place).join(list)))
        .filter_map(|list| read::<Vec<Stored>>(&list))
        .flatten()
        .collect()
}

/// The namespaces in a folder of containerd's, by name, and their folders.
pub fn folders(tasks: &Path) -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir(tasks).into_iter().flatten().flatten();
    let named = |entry: fs::DirEntry| Some((entry.file_name().into_string().ok()?, entry.path()));
    entries.take(MAX_NAMESPACES).filter_map(named).collect()
}

/// The first bytes of a file, `limit` at the most.
pub fn read_bounded(path: &Path, limit: u64) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    let file = open_regular(path).ok()?;
    file.take(limit).read_to_end(&mut text).ok()?;
    Some(text)
}

fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&read_bounded(path, MAX_FILE)?)
        .inspect_err(|error| log::debug!("{path:?} cannot be understood: {error}"))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn files_of_several_runtimes() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let task = "io.containerd.runtime.v2.task";
        write(
            root,
            &format!("run/k3s/containerd/{task}/k8s.io/aa/config.json"),
            r#"{"ociVersion":"1.1.0","process":{},"annotations":{"io.kubernetes.cri.container-name":"web"}}"#,
        );
        write(
            root,
            &format!("run/docker/containerd/daemon/{task}/moby/bb/config.json"),
            r#"{"ociVersion":"1.0.2"}"#,
        );
        write(
            root,
            "run/containers/storage/overlay-containers/cc/userdata/config.json",
            r#"{"annotations":{"io.kubernetes.container.name":"db"}}"#,
        );
        write(
            root,
            "var/lib/containers/storage/overlay-containers/containers.json",
            r#"[{"id":"cc","names":["k8s_db"],"layer":"x"},{"id":"dd"}]"#,
        );
        write(
            root,
            &format!("run/containerd/{task}/default/ee/config.json"),
            "[not json",
        );
        let annotation = |id, key: &str| config(root, id)?.annotations.remove(key);
        assert_eq!(config(root, "aa").unwrap().runtime, Some("containerd"));
        assert_eq!(
            annotation("aa", "io.kubernetes.cri.container-name").as_deref(),
            Some("web")
        );
        assert_eq!(config(root, "bb").unwrap().runtime, Some("docker"));
        assert_eq!(
            annotation("cc", "io.kubernetes.container.name").as_deref(),
            Some("db")
        );
        assert_eq!(config(root, "dd"), None);
        assert_eq!(config(root, "ee"), None);
        write(
            root,
            "var/lib/containers/storage/overlay-containers/volatile-containers.json",
            r#"[{"id":"ff","names":["passing"]}]"#,
        );
        let stored = stored(root);
        let ids: Vec<_> = stored.iter().map(|it| it.id.as_str()).collect();
        assert_eq!(ids, ["cc", "dd", "ff"]);
        assert_eq!(stored[0].names.as_deref(), Some(&["k8s_db".to_owned()][..]));
    }

    #[test]
    fn nothing_installed() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(config(directory.path(), "aa"), None);
        assert!(stored(directory.path()).is_empty());
    }
}
