//! What containerd leaves in its folders, and which processes it may claim.

use super::*;

const TASKS: &str = "run/containerd/io.containerd.runtime.v2.task";

fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn group(path: &str) -> Membership {
    Membership {
        controllers: vec!["cpu".to_owned()],
        path: path.into(),
    }
}

fn task(namespace: &str, id: &str, pid: Option<u32>) -> Task {
    Task {
        namespace: namespace.to_owned(),
        id: id.to_owned(),
        pid,
    }
}

#[test]
fn folders_of_all_places() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    assert_eq!(tasks(root), []);
    write(root, &format!("{TASKS}/lp/web-1/init.pid"), "4021");
    write(root, &format!("{TASKS}/lp/created/config.json"), "{}");
    write(root, &format!("{TASKS}/moby/docker/init.pid"), "5");
    let docker = "run/docker/containerd/daemon/io.containerd.runtime.v2.task";
    write(root, &format!("{docker}/lp/db/init.pid"), "77\n");
    let mut found = tasks(root);
    found.sort_by(|a, b| a.id.cmp(&b.id));
    let expected = [
        task("lp", "created", None),
        task("lp", "db", Some(77)),
        task("lp", "web-1", Some(4021)),
    ];
    assert_eq!(found, expected);
}

#[test]
fn what_makes_no_sense_is_left_out() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    for (id, pid) in [
        ("a", "0"),
        ("b", "-1"),
        ("c", "12345678901234567890"),
        ("d", "1 2"),
        ("e", ""),
    ] {
        write(root, &format!("{TASKS}/lp/{id}/init.pid"), pid);
    }
    assert!(tasks(root).iter().all(|task| task.pid.is_none()));
    assert_eq!(tasks(root).len(), 5);
    let fifo = root.join(TASKS).join("lp/a/init.pid");
    fs::remove_file(&fifo).unwrap();
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
    assert_eq!(tasks(root).len(), 5);

    write(root, &format!("{TASKS}/x\x1b[2J/web/init.pid"), "1");
    write(root, &format!("{TASKS}/lp/we\nb/init.pid"), "1");
    write(root, &format!("{TASKS}/lp/.hidden/init.pid"), "1");
    write(
        root,
        &format!("{TASKS}/lp/{}/init.pid", "x".repeat(77)),
        "1",
    );
    assert_eq!(tasks(root).len(), 5);
}

#[test]
fn where_containerd_puts_them() {
    let web = task("lp", "web-1", Some(1));
    for (path, expected) in [
        ("/lp/web-1", Some("/lp/web-1")),
        ("/lp/web-1/init.scope", Some("/lp/web-1")),
        ("/docker/x/lp/web-1", Some("/docker/x/lp/web-1")),
        ("/../lp/web-1", Some("/../lp/web-1")),
        // Anything else: the PID was used again.
        ("/lp/web-11", None),
        ("/xlp/web-1", None),
        ("/other/web-1", None),
        ("/lp", None),
        ("/", None),
    ] {
        let first = First {
            groups: vec![group(path)],
            of_shim: None,
        };
        let expected: Vec<_> = expected.into_iter().map(group).collect();
        assert_eq!(web.groups(&first), expected, "{path}");
    }
}

#[test]
fn somewhere_else_it_is_known_by_its_shim() {
    let web = task("lp", "web-1", Some(1));
    let groups = |path, shim: &[&str]| {
        web.groups(&First {
            groups: vec![group(path)],
            of_shim: Some(shim.iter().map(|path| group(path)).collect()),
        })
    };
    let service = "/system.slice/containerd.service";
    assert_eq!(groups("/mine", &[service]), [group("/mine")]);
    assert_eq!(groups("/lp/web-1/x", &[service]), [group("/lp/web-1")]);
    // Not one of its own: half the machine would be in the container.
    assert_eq!(groups("/system.slice", &[service]), []);
    assert_eq!(groups(service, &[service]), []);
    assert_eq!(groups("/", &["/"]), []);
    assert_eq!(groups("/mine", &[]), []);
}

#[test]
fn the_parent_of_this_process_is_no_shim() {
    assert_eq!(shim(std::process::id()), None);
    let first = First::of(std::process::id()).unwrap();
    assert!(first.of_shim.is_none());
    assert_eq!(task("lp", "web-1", None).groups(&first), []);
}
