//! Lines as kernels and container runtimes write them.

use super::*;

fn group(controllers: &str, path: &str) -> Membership {
    Membership {
        controllers: controllers
            .split(',')
            .filter(|it| !it.is_empty())
            .map(str::to_owned)
            .collect(),
        path: path.into(),
    }
}

#[test]
fn memberships() {
    let text =
        b"13:cpu,cpuacct:/docker/ab\n1:name=systemd:/a:b\n0::/x y (deleted)\nnonsense\n2:cpu:x\n\n";
    assert_eq!(
        Membership::parse(text),
        [
            group("cpu,cpuacct", "/docker/ab"),
            group("name=systemd", "/a:b"),
            group("", "/x y"),
        ]
    );
    let strange = Membership::parse(b"0::/\xff\n");
    assert_eq!(strange[0].path.as_os_str().as_bytes(), b"/\xff");
}

#[test]
fn mounts() {
    let parse = |line: &str| CgroupMount::parse(line.as_bytes());
    let v1 = parse("35 31 0:32 /docker/ab /sys/fs/cgroup/mem\\040ory ro - cgroup cgroup rw,memory");
    let v1 = v1.unwrap();
    assert_eq!(v1.point, Path::new("/sys/fs/cgroup/mem ory"));
    for (path, below) in [
        ("/docker/ab/child", Some("child")),
        ("/docker/ab", Some("")),
        ("/docker/abc", None),
        ("/docker/ab/../cd", None),
        ("/", None),
    ] {
        let group = group("memory", path);
        assert_eq!(v1.relative(&group), below.map(Path::new), "{path}");
    }
    assert_eq!(v1.relative(&group("", "/docker/ab")), None);
    assert_eq!(
        v1.group(Path::new("/sys/fs/cgroup/mem ory/child"))
            .unwrap()
            .path,
        Path::new("/docker/ab/child")
    );
    // The host's hierarchy, seen from inside of a cgroup namespace.
    let v2 = parse("41 31 0:38 /../.. /host rw,nosuid shared:4 master:1 - cgroup2 cgroup2 rw");
    let v2 = v2.unwrap();
    assert_eq!(
        v2.relative(&group("", "/../../docker/ab")),
        Some(Path::new("docker/ab"))
    );
    assert_eq!(v2.relative(&group("", "/..")), None);
    assert_eq!(v2.relative(&group("memory", "/../../x")), None);
    for line in [
        "",
        "1 2 3",
        "1 2 0:1 / /x rw - tmpfs tmpfs rw",
        "1 2 0:1 / /x rw - cgroup",
    ] {
        assert_eq!(parse(line), None, "{line}");
    }
}

#[test]
fn escapes_of_mountinfo() {
    for (field, path) in [
        ("/a\\040b", "/a b"),
        ("/a\\134", "/a\\"),
        ("\\04", "\\04"),
        ("\\999", "\\999"),
    ] {
        assert_eq!(unescape(field.as_bytes()), Path::new(path));
    }
}
