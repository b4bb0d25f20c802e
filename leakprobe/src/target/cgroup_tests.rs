//! The controller's files as kernels write them.

use std::fs;

use super::*;

#[test]
fn files_of_both_versions() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let open = |path: &Path| OwnedFd::from(File::open(path).unwrap());
    fs::create_dir(path("inner")).unwrap();
    let cgroup = |names| Cgroup {
        path: "/x".into(),
        directories: vec![open(&path("inner")), open(directory.path())],
        names,
    };
    fs::write(path("inner/memory.usage_in_bytes"), "4096\n").unwrap();
    fs::write(path("inner/memory.limit_in_bytes"), "9223372036854771712\n").unwrap();
    fs::write(
        path("inner/memory.oom_control"),
        "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
    )
    .unwrap();
    fs::write(path("memory.limit_in_bytes"), "9223372036854771712\n").unwrap();
    let memory = CgroupMemory {
        usage: 4096,
        limit: None,
        oom_kills: Some(3),
    };
    assert_eq!(cgroup(&VERSION_1).memory().unwrap(), memory);
    assert_eq!(cgroup(&VERSION_1).peak(), None);
    fs::write(path("inner/memory.max_usage_in_bytes"), "5000\n").unwrap();
    assert_eq!(cgroup(&VERSION_1).peak(), Some(5000));

    fs::write(path("inner/memory.current"), "8192\n").unwrap();
    fs::write(path("inner/memory.max"), "max\n").unwrap();
    fs::write(
        path("inner/memory.events"),
        "low 0\nhigh 0\nmax 7\noom 1\noom_kill 1\noom_group_kill 0\n",
    )
    .unwrap();
    fs::write(path("memory.current"), "12288\n").unwrap();
    fs::write(path("memory.max"), "65536\n").unwrap();
    let memory = CgroupMemory {
        usage: 12288,
        limit: Some(65536),
        oom_kills: Some(1),
    };
    assert_eq!(cgroup(&VERSION_2).memory().unwrap(), memory);
    fs::write(path("inner/memory.max"), "16384\n").unwrap();
    let memory = CgroupMemory {
        usage: 8192,
        limit: Some(16384),
        oom_kills: Some(1),
    };
    assert_eq!(cgroup(&VERSION_2).memory().unwrap(), memory);

    fs::remove_file(path("inner/memory.events")).unwrap();
    let error = cgroup(&VERSION_2).memory().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
}

#[test]
fn a_process_that_is_not_there() {
    let error = format!("{:#}", Cgroup::of(u32::MAX).unwrap_err());
    assert!(error.contains("cgroups of process 4294967295"), "{error}");
}

/// Where version 2 accounts for no memory, or nothing is mounted, that is said.
#[test]
fn this_process() {
    match Cgroup::of(std::process::id()) {
        Ok(own) => assert!(own.memory().unwrap().usage > 0, "{:?}", own.path()),
        Err(error) => assert!(error.to_string().contains("cgroup"), "{error}"),
    }
}
