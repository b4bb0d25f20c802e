//! Container ids and pods, as container runtimes write them into the paths of control groups.
//!
//! That is the one place where every runtime leaves them, under the cgroupfs driver and under
//! systemd's, and where no socket is needed to read them. Anybody who may make control groups can
//! write such a path, so what is found is a name to show and to choose by, and no more.

use std::path::Path;

use crate::target::hierarchy::Membership;

/// A container that a path of a control group leads through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerId {
    /// 64 hexadecimal digits.
    pub id: String,
    /// The runtime, if the path tells.
    pub runtime: Option<&'static str>,
    /// The Kubernetes pod around it.
    pub pod_uid: Option<String>,
}

/// What stands before the id in a name under systemd (`docker-ID.scope`), or before it in the path
/// (`/docker/ID`, `…slice:cri-containerd:ID`).
const RUNTIMES: [(&str, &str); 6] = [
    ("docker", "docker"),
    ("cri-containerd", "containerd"),
    ("nerdctl", "containerd"),
    ("crio", "cri-o"),
    ("libpod", "podman"),
    // In the group of a systemd unit (`--cgroups=split`), as Quadlet starts them.
    ("libpod-payload", "podman"),
];

/// The containers that a process is in, the outermost first. Hierarchies may differ; the one that
/// leads through the most tells.
pub fn of_groups(groups: &[Membership]) -> Vec<ContainerId> {
    let found = groups.iter().map(|group| in_path(&group.path));
    found.max_by_key(Vec::len).unwrap_or_default()
}

/// The containers in one path, the outermost first.
fn in_path(path: &Path) -> Vec<ContainerId> {
    let path = path.to_string_lossy();
    let mut found: Vec<ContainerId> = Vec::new();
    let (mut pod_uid, mut before) = (None, "");
    for part in path.split(['/', ':']) {
        if let Some(uid) = pod(part) {
            pod_uid = Some(uid);
        } else if let Some((id, prefix)) = id(part)
            && found.iter().all(|known| known.id != id)
        {
            let word = prefix.unwrap_or(before);
            let runtime = RUNTIMES.iter().find(|(known, _)| *known == word);
            found.push(ContainerId {
                id: id.to_owned(),
                runtime: runtime.map(|&(_, name)| name),
                pod_uid: pod_uid.take(),
            });
        }
        before = part;
    }
    found
}

/// `ID`, `docker-ID` or `docker-ID.scope`: the id and what stands before it. A runtime's monitor
/// (`crio-conmon-ID`) is not in the container.
fn id(part: &str) -> Option<(&str, Option<&str>)> {
    let part = part.strip_suffix(".scope").unwrap_or(part);
    let (prefix, id) = match part.rsplit_once('-') {
        Some((prefix, id)) => (Some(prefix), id),
        None => (None, part),
    };
    let known = |prefix| RUNTIMES.iter().any(|(known, _)| *known == prefix);
    let is_id = id.len() == 64 && id.bytes().all(is_lower_hex);
    (is_id && prefix.is_none_or(known)).then_some((id, prefix))
}

/// `podUID`, or `kubepods-burstable-podUID.slice` with `_` for `-`: the UID.
fn pod(part: &str) -> Option<String> {
    let part = part.strip_suffix(".slice").unwrap_or(part);
    let (before, uid) = part.rsplit_once("pod")?;
    let is_uid = (32..=64).contains(&uid.len())
        && uid
            .bytes()
            .all(|it| is_lower_hex(it) || matches!(it, b'-' | b'_'));
    let is_pod = is_uid && (before.is_empty() || before.ends_with('-'));
    is_pod.then(|| uid.replace('_', "-"))
}

fn is_lower_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "60fac30309e92d9b647b026a82dd3024b7711796ba34bbb164b2a9d89237b521";
    const B: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const UID: &str = "8c1a7ec6-3f0d-4e62-9c3a-5a0a6a3f2b11";

    /// The innermost container of a path, where `A`, `UID` and `U_I_D` stand for real ones.
    fn innermost(path: &str) -> Option<(String, Option<&'static str>, Option<String>)> {
        let path = path
            .replace("ID64", A)
            .replace("U_I_D", &UID.replace('-', "_"))
            .replace("UUID", UID);
        let found = in_path(Path::new(&path)).pop()?;
        Some((found.id, found.runtime, found.pod_uid))
    }

    #[test]
    fn paths_of_all_runtimes() {
        for (path, runtime, in_pod) in [
            ("/docker/ID64", Some("docker"), false),
            ("/system.slice/docker-ID64.scope", Some("docker"), false),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/docker-ID64.scope",
                Some("docker"),
                false,
            ),
            ("/../docker-ID64.scope", Some("docker"), false),
            ("/../ID64", None, false),
            ("/ecs/49e0ca2d6a3c4a3f8a7d1c1b5d5e8f11/ID64", None, false),
            ("/kubepods/burstable/podUUID/ID64", None, true),
            ("/kubepods/podUUID/ID64", None, true),
            (
                "/kubepods/besteffort/podUUID/crio-ID64",
                Some("cri-o"),
                true,
            ),
            (
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podU_I_D.slice/docker-ID64.scope",
                Some("docker"),
                true,
            ),
            (
                "/kubepods.slice/kubepods-podU_I_D.slice/cri-containerd-ID64.scope",
                Some("containerd"),
                true,
            ),
            (
                "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-podU_I_D.slice/cri-containerd-ID64.scope",
                Some("containerd"),
                true,
            ),
            (
                "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podU_I_D.slice/crio-ID64.scope",
                Some("cri-o"),
                true,
            ),
            (
                "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podU_I_D.slice/crio-ID64.scope/container",
                Some("cri-o"),
                true,
            ),
            (
                "/system.slice/containerd.service/kubepods-burstable-podU_I_D.slice:cri-containerd:ID64",
                Some("containerd"),
                true,
            ),
            (
                "/system.slice/nerdctl-ID64.scope",
                Some("containerd"),
                false,
            ),
            ("/default/ID64", None, false),
            ("/machine.slice/libpod-ID64.scope", Some("podman"), false),
            (
                "/machine.slice/libpod-ID64.scope/container/init.scope",
                Some("podman"),
                false,
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID64.scope",
                Some("podman"),
                false,
            ),
            ("/libpod_parent/libpod-ID64", Some("podman"), false),
            (
                "/system.slice/web.service/libpod-payload-ID64",
                Some("podman"),
                false,
            ),
        ] {
            let pod_uid = in_pod.then(|| UID.to_owned());
            assert_eq!(
                innermost(path),
                Some((A.to_owned(), runtime, pod_uid)),
                "{path}"
            );
        }
        // The uid of a static pod is a hash.
        let uid = "d5ad1b0a0f9c0f1c3d3a4f2b1c0d9e8f";
        let found = innermost(&format!("/kubepods/burstable/pod{uid}/ID64"));
        assert_eq!(found.unwrap().2.as_deref(), Some(uid));
    }

    #[test]
    fn paths_without_a_container() {
        for path in [
            "/",
            "/init.scope",
            "/system.slice/docker.service",
            "/system.slice/containerd.service",
            "/kubepods/burstable/podUUID",
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podU_I_D.slice/crio-conmon-ID64.scope",
            "/machine.slice/libpod-conmon-ID64.scope",
            "/machine.slice/machine-libpod_pod_ID64.slice",
            "/docker/60fac30309e9",
            "/docker/ID64a",
            "/docker/buildkit",
            "/x-ID64.scope",
        ] {
            assert_eq!(innermost(path), None, "{path}");
        }
    }

    #[test]
    fn a_container_in_a_container_is_in_both() {
        let group = |path: String| Membership {
            controllers: Vec::new(),
            path: path.into(),
        };
        let groups = [
            group("/".to_owned()),
            group(format!("/docker/{A}/docker/{B}")),
            group(format!("/docker/{A}")),
        ];
        let ids: Vec<_> = of_groups(&groups).into_iter().map(|it| it.id).collect();
        assert_eq!(ids, [A, B]);
        assert_eq!(of_groups(&[]), []);
    }
}
