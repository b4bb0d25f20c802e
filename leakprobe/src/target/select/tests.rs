//! Choosing among the processes of this machine, of which this test is one.

use super::*;

fn error(selector: Selector) -> String {
    format!("{:#}", select(&[selector]).unwrap_err())
}

/// A process of our own with a name that no other has.
fn sleeper() -> (std::process::Child, tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(format!("lp-{}", std::process::id()));
    std::fs::copy("/bin/sleep", &path).unwrap();
    let child = std::process::Command::new(&path)
        .arg("600")
        .spawn()
        .unwrap();
    (child, directory, path)
}

#[test]
fn one_by_name_or_executable() {
    let (mut child, directory, path) = sleeper();
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let name = path.file_name().unwrap().to_owned();
    for selector in [
        Selector::Pid(child.id()),
        Selector::Comm(name.clone()),
        Selector::Exe(path.clone()),
        Selector::Exe(link),
    ] {
        let found = select(&[selector.clone(), Selector::Pid(child.id())]).unwrap();
        let pids: Vec<_> = found.processes.iter().map(Process::pid).collect();
        assert_eq!(pids, [child.id()], "{selector:?}");
        assert_eq!(found.left_out, Vec::<String>::new());
    }

    let mut twin = std::process::Command::new(&path)
        .arg("600")
        .spawn()
        .unwrap();
    for selector in [Selector::Comm(name), Selector::Exe(path.clone())] {
        let error = error(selector);
        for part in [
            format!("{} (lp-", child.id()),
            format!("{} (lp-", twin.id()),
            format!(", {})", path.display()),
            "2 processes ".to_owned(),
            "choose with --pid".to_owned(),
        ] {
            assert!(error.contains(&part), "{part}: {error}");
        }
    }
    for child in [&mut child, &mut twin] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(error(Selector::Exe(path)).contains("no process executes"));
}

#[test]
fn what_is_not_there() {
    for (selector, part) in [
        (
            Selector::Comm("no-such\x1b[2J".into()),
            "no process is called `no-such\\u{1b}[2J`",
        ),
        // A kernel thread.
        (Selector::Comm("kthreadd".into()), "no process is called"),
        (
            Selector::Exe("/no/such/file".into()),
            "no process executes `/no/such/file`",
        ),
        (
            Selector::Cgroup("/no/such".into()),
            "there is no cgroup `/no/such`: give the path",
        ),
        (Selector::Pid(std::process::id()), "leakprobe itself"),
    ] {
        let error = error(selector);
        assert!(error.contains(part), "{error}");
        assert!(!error.contains(['\n', '\x1b']), "{error}");
    }
}

#[test]
fn this_process_is_not_among_them() {
    let entries = Entry::all().unwrap();
    assert!(entries.iter().all(|entry| entry.pid != std::process::id()));
    assert!(entries.is_sorted_by_key(|entry| entry.pid));
}

#[test]
fn names_and_lists_have_an_end() {
    assert_eq!(shown("a`b\u{202e}"), "a`b\\u{202e}");
    assert_eq!(shown(&"x".repeat(1000)).chars().count(), 101);
    let names: Vec<_> = (0..12).map(|n| n.to_string()).collect();
    assert_eq!(list(&names[..2]), "0, 1");
    assert_eq!(list(&names), "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more");
}
