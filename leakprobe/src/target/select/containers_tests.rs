//! Containers as their runtimes tell of them, without any of these runtimes.

use super::*;

/// An id that begins with some digits.
fn id(beginning: &str) -> String {
    format!("{beginning:0<64}")
}

fn entry(pid: u32, path: &str) -> Entry {
    Entry {
        pid,
        comm: "x".to_owned(),
        start_time: pid.into(),
        groups: vec![Membership {
            controllers: Vec::new(),
            path: path.into(),
        }],
    }
}

fn docker_says(list: &str) -> Result<Vec<docker::DockerContainer>> {
    Ok(serde_json::from_str(list)?)
}

/// Four that run, of which `web` holds another one, and one that does not.
fn world() -> Containers {
    let mut containers = Containers::default();
    let (web, inner) = (id("abc1"), id("dddd"));
    containers.add_groups(&[
        entry(1, "/"),
        entry(10, &format!("/docker/{web}")),
        entry(11, &format!("/docker/{web}/docker/{inner}")),
        entry(20, &format!("/docker/{}", id("abc2"))),
        entry(
            30,
            &format!(
                "/kubepods/besteffort/podd5ad1b0a0f9c0f1c3d3a4f2b1c0d9e8f/{}",
                id("eee")
            ),
        ),
    ]);
    containers.add_files(Path::new("/nonexistent"));
    containers.add_docker(docker_says(&format!(
        r#"[{{"Id":"{web}","Names":["/web"],"State":"running"}},
            {{"Id":"{}","Names":["/abc1"],"State":"running"}},
            {{"Id":"{}","Names":["/k8s_app_shop_prod_1_0"],"State":"running","Labels":
                {{"io.kubernetes.container.name":"app","io.kubernetes.pod.name":"shop",
                  "io.kubernetes.pod.namespace":"prod","io.kubernetes.pod.uid":"u"}}}},
            {{"Id":"{}","Names":["/old"],"State":"exited"}},
            {{"Id":"{}","Names":["/elsewhere"],"State":"running"}},
            {{"Id":"../etc","Names":["/bad"],"State":"running"}}]"#,
        id("abc2"),
        id("eee"),
        id("abc3"),
        id("fff"),
    )));
    containers
}

fn found(containers: &Containers, wanted: &str) -> Result<Vec<Vec<u32>>, String> {
    let found = containers.find(wanted).map_err(|error| error.to_string())?;
    Ok(found.into_iter().map(|it| it.pids.clone()).collect())
}

#[test]
fn by_id_by_name_and_by_the_beginning_of_an_id() {
    let containers = world();
    for (wanted, pids) in [
        ("web", &[10, 11][..]),
        ("/web", &[10, 11]),
        (&id("abc1"), &[10, 11]),
        (&format!("docker://{}", id("abc2")), &[20]),
        // A name goes before the beginning of an id.
        ("abc1", &[20]),
        ("abc10", &[10, 11]),
        ("ABC2", &[20]),
        ("ddd", &[11]),
        ("app", &[30]),
        ("shop/app", &[30]),
        ("k8s_app_shop_prod_1_0", &[30]),
    ] {
        assert_eq!(
            found(&containers, wanted),
            Ok(vec![pids.to_vec()]),
            "{wanted}"
        );
    }
    // Of those that begin like this, one does not run.
    assert_eq!(found(&containers, "abc"), Ok(vec![vec![10, 11], vec![20]]));
    assert_eq!(containers.of_process(11).unwrap().id, id("dddd"));
    assert_eq!(containers.of_process(1), None);
}

#[test]
fn what_is_known_of_a_pod() {
    let containers = world();
    let info = containers.of_process(30).unwrap();
    let expected = ContainerInfo {
        id: id("eee"),
        runtime: Some("docker".to_owned()),
        name: Some("app".to_owned()),
        pod_uid: Some("u".to_owned()),
        pod_name: Some("shop".to_owned()),
        namespace: Some("prod".to_owned()),
    };
    assert_eq!(*info, expected);
    assert_eq!(info.label(), "shop/app");
}

#[test]
fn what_cannot_be_found() {
    let containers = world();
    for (wanted, part) in [
        (
            "old",
            "container old (abc300000000) is not running (exited)",
        ),
        (&id("abc3"), "is not running (exited)"),
        (
            "elsewhere",
            "no process of container elsewhere (fff000000000) can be seen from here",
        ),
        ("bad", "there is no container `bad`: these run: "),
        (
            "nothing",
            "these run: abc1 (abc200000000), dddd00000000, shop/app (eee000000000), web (abc100000000)",
        ),
        ("ab", "at least 3 digits are needed"),
        ("a\x1b[2J\n", "there is no container `a\\u{1b}[2J\\n`"),
    ] {
        let error = found(&containers, wanted).unwrap_err();
        assert!(error.contains(part), "{wanted}: {error}");
        assert!(!error.contains(['\n', '\x1b']), "{error}");
    }
}

#[test]
fn without_docker() {
    let mut containers = Containers::default();
    containers.add_docker(Err(anyhow::anyhow!("no socket")));
    let error = found(&containers, "web").unwrap_err();
    assert_eq!(
        error,
        "there is no container `web`: no container is seen to run here; no names from Docker: no socket"
    );
    let many: Vec<_> = (10..25)
        .map(|n| entry(n, &format!("/docker/{}", id(&n.to_string()))))
        .collect();
    containers.add_groups(&many);
    let error = found(&containers, "web").unwrap_err();
    assert!(
        error.contains("190000000000 and 5 more; no names"),
        "{error}"
    );
    assert_eq!(found(&containers, "100"), Ok(vec![vec![10]]));
}

#[test]
fn a_stored_name_is_one_to_go_by() {
    let directory = tempfile::tempdir().unwrap();
    let storage = directory
        .path()
        .join("var/lib/containers/storage/overlay-containers");
    std::fs::create_dir_all(&storage).unwrap();
    let list = format!(
        r#"[{{"id":"{}","names":["db"]}},{{"id":"x","names":["y"]}}]"#,
        id("123")
    );
    std::fs::write(storage.join("containers.json"), list).unwrap();
    let mut containers = Containers::default();
    containers.add_groups(&[entry(
        5,
        &format!("/machine.slice/libpod-{}.scope", id("123")),
    )]);
    containers.add_files(directory.path());
    assert_eq!(found(&containers, "db"), Ok(vec![vec![5]]));
    let info = containers.of_process(5).unwrap();
    assert_eq!(
        (info.runtime.as_deref(), info.label().as_str()),
        (Some("podman"), "db")
    );
    assert_eq!(containers.all.len(), 1);
}

/// Tasks of containerd as (namespace, id, PID), and where the first process of each is.
fn with_tasks(entries: &[Entry], tasks: &[(&str, &str, u32)]) -> Containers {
    let mut containers = Containers::default();
    containers.add_groups(entries);
    let tasks = tasks.iter().map(|(namespace, id, pid)| Task {
        namespace: (*namespace).to_owned(),
        id: (*id).to_owned(),
        pid: Some(*pid),
    });
    let first = |pid| {
        let entry = entries.iter().find(|entry| entry.pid == pid)?;
        Some(First {
            groups: entry.groups.clone(),
            of_shim: None,
        })
    };
    containers.add_tasks(entries, tasks.collect(), first);
    containers.add_files(Path::new("/nonexistent"));
    containers
}

#[test]
fn an_id_of_containerd_may_be_any_word() {
    let inner = id("dddd");
    let hex = id("abc1");
    let containers = with_tasks(
        &[
            entry(1, "/"),
            entry(10, "/lp/web-1"),
            entry(11, "/lp/web-1/below"),
            entry(12, &format!("/lp/web-1/docker/{inner}")),
            entry(20, "/other/web-1"),
            entry(30, "/lp/db"),
            entry(40, "/elsewhere"),
            entry(50, &format!("/default/{hex}")),
        ],
        &[
            ("lp", "web-1", 10),
            ("other", "web-1", 20),
            ("lp", "db", 30),
            // Its PID is another process's by now.
            ("lp", "stale", 40),
            ("lp", "gone", 77),
            ("default", &hex, 50),
        ],
    );
    for (wanted, pids) in [
        ("lp/web-1", &[10, 11, 12][..]),
        ("containerd://other/web-1", &[20]),
        ("db", &[30]),
        ("lp/db", &[30]),
        ("ddd", &[12]),
        (&hex, &[50]),
        ("ABC", &[50]),
        (&format!("default/{hex}"), &[50]),
    ] {
        let expected = Ok(vec![pids.to_vec()]);
        assert_eq!(found(&containers, wanted), expected, "{wanted}");
    }
    let both = Ok(vec![vec![10, 11, 12], vec![20]]);
    assert_eq!(found(&containers, "web-1"), both);
    assert_eq!(found(&containers, "web"), both);
    for (wanted, part) in [
        ("stale", "container lp/stale is not running: start it first"),
        ("lp/gone", "container lp/gone is not running"),
        (
            "WEB",
            "there is no container `WEB`: these run: abc100000000, dddd00000000, lp/db, lp/web-1, other/web-1",
        ),
        ("we", "there is no container"),
        ("other/db", "there is no container"),
    ] {
        let error = found(&containers, wanted).unwrap_err();
        assert!(error.contains(part), "{wanted}: {error}");
    }

    let web = containers.of_process(11).unwrap();
    let namespace = |it: &ContainerInfo| it.namespace.clone().unwrap();
    assert_eq!(
        (web.id.as_str(), web.label()),
        ("web-1", "web-1".to_owned())
    );
    assert_eq!(
        (web.runtime.as_deref(), namespace(web)),
        (Some("containerd"), "lp".to_owned())
    );
    assert_eq!(containers.of_process(12).unwrap().id, inner);
    assert_eq!(namespace(containers.of_process(50).unwrap()), "default");
    assert_eq!(containers.of_process(40), None);
}

/// The groups by which they are looked through again.
#[test]
fn the_groups_of_a_container() {
    let hex = id("abc1");
    let entries = [
        entry(10, "/lp/web-1/below"),
        entry(20, &format!("/docker/{hex}/below")),
    ];
    let containers = with_tasks(&entries, &[("lp", "web-1", 10)]);
    for (wanted, entry, path) in [
        ("web-1", &entries[0], "/lp/web-1".to_owned()),
        ("abc1", &entries[1], format!("/docker/{hex}")),
    ] {
        let groups = containers.find(wanted).unwrap()[0].groups(entry);
        let paths: Vec<_> = groups.iter().map(|it| it.path.to_str().unwrap()).collect();
        assert_eq!(paths, [path]);
    }
}

/// A container of containerd in one of Docker's, whose control groups are ours, too.
#[test]
fn the_innermost_is_what_a_process_is_in() {
    let outer = id("abc1");
    let path = format!("/docker/{outer}/lp/web-1");
    let containers = with_tasks(
        &[entry(10, &path), entry(11, &path)],
        &[("lp", "web-1", 10)],
    );
    assert_eq!(containers.of_process(11).unwrap().id, "web-1");
    assert_eq!(found(&containers, "abc1"), Ok(vec![vec![10, 11]]));
}
