//! Choosing processes by container, control group, name and executable, and listing them: with real
//! containers, real groups, and names that two of them share.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use leakprobe_tests::cgroup::{Group, hierarchies};
use leakprobe_tests::contained::Contained;
use leakprobe_tests::report::{List, Listed};
use leakprobe_tests::{LIMIT, Leakprobe, Victim, assert_exact, leakprobe_path, victim_path};
use tempfile::TempDir;

/// What `leakprobe ps` lists with these options.
fn ps(args: &[&str]) -> Vec<Listed> {
    let mut all = vec!["ps", "--format", "json", "--interval", "1ms"];
    all.extend_from_slice(args);
    list(Leakprobe::start(&all))
}

fn list(leakprobe: Leakprobe) -> Vec<Listed> {
    let outcome = leakprobe.finish();
    let list: List = serde_json::from_str(&outcome.stdout).expect("ps prints JSON");
    assert_eq!(list.schema, 1);
    assert!(list.interval_ns >= 1_000_000);
    list.processes
}

fn pids(list: &[Listed]) -> Vec<u32> {
    let mut pids: Vec<u32> = list.iter().map(|listed| listed.pid).collect();
    pids.sort_unstable();
    pids
}

fn sorted(mut pids: Vec<u32>) -> Vec<u32> {
    pids.sort_unstable();
    pids
}

/// Panics unless leakprobe refuses these options in one sentence that has all these words.
fn refused(args: &[&str], words: &[&str]) {
    let outcome = Leakprobe::start(args).end();
    let stderr = &outcome.stderr;
    assert_eq!(outcome.status.code(), Some(1), "{args:?}: {stderr}");
    assert_eq!(
        (outcome.stdout.as_str(), stderr.lines().count()),
        ("", 1),
        "{stderr}"
    );
    assert_eq!(outcome.files(), Vec::<String>::new());
    for word in words {
        assert!(
            stderr.contains(word),
            "{args:?}: nothing about `{word}`: {stderr}"
        );
    }
}

/// A victim whose executable and name no other process has.
struct Named {
    victim: Victim,
    path: PathBuf,
    _folder: TempDir,
}

impl Named {
    fn start(name: impl AsRef<OsStr>) -> Named {
        let folder = TempDir::new().expect("failed to make a temporary folder");
        let path = folder.path().join(name.as_ref());
        fs::copy(victim_path("glibc", "malloc"), &path).expect("failed to copy a victim");
        Named {
            victim: Victim::start(&mut Command::new(&path)),
            path,
            _folder: folder,
        }
    }
}

#[test]
fn a_docker_container_by_name_and_by_id() {
    let mut contained = Contained::start("malloc", &[]);
    let leakprobe = Leakprobe::start(&["--container", &contained.name, "-o", "report.json"]);
    leakprobe.wait_until_recording();
    contained.go();
    let summary = contained.summary();
    let outcome = leakprobe.interrupt();
    let report = outcome.report();
    assert_exact(&summary, &report);
    assert_eq!(
        (report.target.pid, report.target.ns_pid),
        (contained.pid, 1)
    );
    let container = report.target.container.expect("the container is known");
    assert_eq!(container.id, contained.id);
    assert_eq!(container.runtime.as_deref(), Some("docker"));
    assert_eq!(container.name.as_deref(), Some(contained.name.as_str()));
    let header = format!(
        "docker container {} ({})",
        contained.name,
        &contained.id[..12]
    );
    assert!(outcome.stdout.contains(&header), "{}", outcome.stdout);

    for name in [
        &contained.id,
        &contained.id[..12],
        &format!("docker://{}", contained.id),
    ] {
        let list = ps(&["--container", name]);
        assert_eq!(pids(&list), [contained.pid], "{name}");
        assert_eq!(list[0].container.as_ref(), Some(&container));
        assert_eq!(list[0].allocator.as_deref(), Some("built in"));
        assert_eq!((list[0].uid, list[0].comm.as_str()), (0, "malloc"));
    }
    // By control group alone, without Docker.
    let mut command = Command::new(leakprobe_path());
    command.args(["ps", "--format", "json", "--interval", "1ms", "--container"]);
    command
        .arg(&contained.id[..20])
        .env("DOCKER_HOST", "unix:///nonexistent");
    assert_eq!(
        pids(&list(Leakprobe::start_by(&mut command))),
        [contained.pid]
    );

    let unknown = format!("no-{}", contained.name);
    let words = [&*unknown, "these run", &contained.name, &contained.id[..12]];
    refused(&["--container", &unknown], &words);

    contained.stop();
    let words = [contained.name.as_str(), "is not running (exited)"];
    refused(&["--container", &contained.name], &words);
    refused(&["--container", &contained.id[..40]], &words);
    refused(&["ps", "--container", &contained.name], &words);
}

/// `docker exec` starts processes that none of the container's has forked.
#[test]
fn what_comes_into_a_container_later() {
    let contained = Contained::start("malloc", &[]);
    let leakprobe = Leakprobe::start(&["--container", &contained.name, "-o", "report.json"]);
    leakprobe.wait_until_recording();
    let mut command = Command::new("docker");
    command.args(["exec", "--interactive", &contained.name, "/malloc"]);
    let _later = Victim::start_elsewhere(&mut command);
    let all = pids(&ps(&["--container", &contained.name]));
    assert_eq!(all.len(), 2);
    for pid in &all {
        wait_until_held(leakprobe.pid(), *pid);
    }
    let report = leakprobe.interrupt().report();
    let recorded = report.processes.iter().map(|process| process.pid);
    assert_eq!(sorted(recorded.collect()), all);
    assert_eq!(report.evidence.losses.get("fork_gap"), Some(&1));
}

/// Waits until a leakprobe has a pidfd of a process.
fn wait_until_held(leakprobe: u32, pid: u32) {
    let until = Instant::now() + LIMIT;
    let line = format!("Pid:\t{pid}\n");
    let held = || {
        let infos = fs::read_dir(format!("/proc/{leakprobe}/fdinfo")).expect("leakprobe runs");
        infos
            .flatten()
            .any(|info| fs::read_to_string(info.path()).is_ok_and(|it| it.contains(&line)))
    };
    while !held() {
        assert!(
            Instant::now() < until,
            "leakprobe does not find process {pid}"
        );
        std::thread::yield_now();
    }
}

#[test]
fn ids_that_begin_alike() {
    let hierarchy = &hierarchies()[0];
    // Nothing but control groups tells of these containers.
    let beginning = format!("abc{:08x}", std::process::id());
    let folder = format!("leakprobe-{}/docker", std::process::id());
    let group = |end: &str| Group::new(hierarchy, &format!("{folder}/{beginning}{end:0<53}"));
    let (first, second) = (group("1"), group("2"));
    let victims = [(); 3].map(|()| Victim::spawn("glibc", "nothing"));
    Group::enter(&first.path, victims[0].pid());
    Group::enter(&first.child("inner"), victims[1].pid());
    Group::enter(&second.path, victims[2].pid());

    let ids = [format!("{beginning}1"), format!("{beginning}2")];
    let words = ["can mean 2 containers", &ids[0], &ids[1], "more of the id"];
    refused(&["--container", &beginning], &words);
    let list = ps(&["--container", &ids[0]]);
    assert_eq!(
        pids(&list),
        sorted(vec![victims[0].pid(), victims[1].pid()])
    );
    let container = list[0].container.as_ref().expect("the id is known");
    assert!(container.id.starts_with(&ids[0]), "{container:?}");
    assert_eq!(container.name, None);
    assert_eq!(ps(&["--container", &beginning]).len(), 3);
    refused(&["--container", "ab"], &["at least 3 digits"]);
}

#[test]
fn a_control_group_of_every_hierarchy() {
    for hierarchy in hierarchies() {
        let name = format!("leakprobe {}", std::process::id());
        let group = Group::new(&hierarchy, &name);
        let path = group.path.to_str().expect("the path is text").to_owned();
        refused(
            &["--cgroup", &path],
            &["no process is in the cgroup", &name],
        );

        let victims = [(); 3].map(|()| Victim::spawn("glibc", "nothing"));
        Group::enter(&group.path, victims[0].pid());
        Group::enter(&group.child("a/b"), victims[1].pid());
        let sibling = Group::new(&hierarchy, &format!("{name}x"));
        Group::enter(&sibling.path, victims[2].pid());
        let both = sorted(vec![victims[0].pid(), victims[1].pid()]);
        for way in [&path, &format!("{path}/"), &group.name()] {
            assert_eq!(pids(&ps(&["--cgroup", way])), both, "{way}");
        }
        assert_eq!(
            pids(&ps(&["--cgroup", &format!("{path}/a")])),
            [victims[1].pid()]
        );
        refused(
            &["--cgroup", &format!("{path}/c")],
            &["there is no cgroup", "the hierarchies are at"],
        );
    }
    refused(&["--cgroup", "no/such"], &["there is no cgroup `no/such`"]);
    refused(&["--cgroup", "/usr"], &["there is no cgroup `/usr`"]);
}

#[test]
fn the_one_process_of_a_name_or_an_executable() {
    let name = format!("lp-{}", std::process::id());
    let mut one = Named::start(&name);
    let path = one.path.to_str().expect("the path is text").to_owned();
    for (option, value) in [("--comm", &name), ("--exe", &path)] {
        assert_eq!(pids(&ps(&[option, value])), [one.victim.pid()]);
    }
    let leakprobe = Leakprobe::start(&["--exe", &path, "-o", "report.json"]);
    leakprobe.wait_until_recording();
    one.victim.go();
    let summary = one.victim.summary();
    assert_exact(&summary, &leakprobe.interrupt().report());

    let twins: Vec<_> = (0..11)
        .map(|_| Victim::start(&mut Command::new(&path)))
        .collect();
    for (option, value) in [("--comm", &name), ("--exe", &path)] {
        let first = format!("{} ({name}, {path})", one.victim.pid());
        let words = ["12 processes", &first, "and 2 more", "choose with --pid"];
        refused(&[option, value], &words);
        let all = twins.iter().map(Victim::pid).chain([one.victim.pid()]);
        assert_eq!(pids(&ps(&[option, value])), sorted(all.collect()));
    }
    refused(
        &["--comm", "no such name"],
        &["no process is called `no such name`"],
    );
    refused(&["--exe", "/no/such"], &["no process executes `/no/such`"]);
}

/// A file name may hold any bytes, and so may the name of the process that executes it.
#[test]
fn names_of_strange_bytes() {
    let mut bytes = b"\x1b[2J\n\xff".to_vec();
    bytes.extend_from_slice(std::process::id().to_string().as_bytes());
    let name = OsStr::from_bytes(&bytes);
    let one = Named::start(name);
    let mut command = Command::new(leakprobe_path());
    command
        .args(["ps", "--interval", "1ms", "--comm"])
        .arg(name);
    let text = Leakprobe::start_by(&mut command).finish().stdout;
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(
        !text.contains(|c: char| c.is_control() && c != '\n'),
        "{text:?}"
    );
    assert!(text.contains(&format!("{}  ", one.victim.pid())), "{text}");
    assert!(text.contains("\\x1b[2J\\x0a"), "{text}");

    let _twin = Named::start(name);
    let mut command = Command::new(leakprobe_path());
    let outcome = Leakprobe::start_by(command.arg("--comm").arg(name)).end();
    assert!(
        outcome.stderr.starts_with("error: 2 processes are called"),
        "{}",
        outcome.stderr
    );
    assert_eq!(outcome.stderr.lines().count(), 1, "{}", outcome.stderr);
    assert!(!outcome.stderr.contains('\x1b'), "{}", outcome.stderr);
}

#[test]
fn what_has_grown_between_two_looks() {
    /// What the C library touches beside the pages that the victim tells of.
    const OWN: i64 = 1 << 20;
    let mut contained = Contained::start("growth", &[]);
    let mut victim = Victim::spawn("glibc", "growth");
    let mut preloaded = Command::new(victim_path("glibc", "nothing"));
    preloaded.env("LD_PRELOAD", "/usr/lib/x86_64-linux-gnu/libjemalloc.so.2");
    let jemalloc = Victim::start(&mut preloaded);
    let musl = Victim::spawn("musl", "nothing");
    let args = [victim.pid(), jemalloc.pid(), musl.pid()].map(|pid| pid.to_string());
    let mut words = vec![
        "ps",
        "--interval",
        "6s",
        "--sort",
        "growth",
        "--format",
        "json",
    ];
    words.extend(["--container", &contained.name]);
    words.extend(args.iter().flat_map(|pid| ["--pid", pid]));
    let leakprobe = Leakprobe::start(&words);
    wait_until_asleep(leakprobe.pid());
    contained.go();
    victim.go();
    let grown = [contained.summary(), victim.summary()].map(|summary| {
        summary
            .leaks
            .iter()
            .map(|leak| leak.bytes.cast_signed())
            .sum::<i64>()
    });
    let list = list(leakprobe);
    let found = |pid: u32| {
        list.iter()
            .find(|listed| listed.pid == pid)
            .expect("it is listed")
    };
    // The static one has no malloc, since it calls none.
    let growing = [(contained.pid, None), (victim.pid(), Some("glibc"))];
    for ((pid, allocator), grown) in growing.into_iter().zip(grown) {
        let listed = found(pid);
        assert!(
            list[..2].iter().any(|it| it.pid == pid),
            "not in front: {list:?}"
        );
        assert_eq!(listed.allocator.as_deref(), allocator);
        assert!(
            (grown..grown + OWN).contains(&listed.growth_bytes),
            "{grown}: {listed:?}"
        );
        assert!(listed.rss_bytes.cast_signed() >= grown);
    }
    for (pid, allocator) in [(jemalloc.pid(), "jemalloc"), (musl.pid(), "musl")] {
        let listed = found(pid);
        assert_eq!(listed.allocator.as_deref(), Some(allocator));
        assert_eq!(listed.container, None);
    }
    let container = found(contained.pid)
        .container
        .as_ref()
        .expect("it is in one");
    assert_eq!(container.name.as_deref(), Some(contained.name.as_str()));
}

/// Waits until a process has called clock_nanosleep: its first look is over then.
fn wait_until_asleep(pid: u32) {
    const CLOCK_NANOSLEEP: &str = "230 ";
    let until = Instant::now() + LIMIT;
    let path = format!("/proc/{pid}/syscall");
    while !fs::read_to_string(&path).is_ok_and(|it| it.starts_with(CLOCK_NANOSLEEP)) {
        assert!(
            Instant::now() < until,
            "leakprobe does not wait for its second look"
        );
        std::thread::yield_now();
    }
}

#[test]
fn a_proc_that_hides_others() {
    let inside = r#"mount -t proc -o hidepid=invisible proc /proc && exec setpriv --reuid 65534 \
        --regid 65534 --clear-groups "$@""#;
    for args in [&["--comm", "x"][..], &["--pid", "1"], &["ps"]] {
        let mut command = Command::new("unshare");
        command.args([
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            inside,
            "sh",
        ]);
        command.arg(leakprobe_path()).args(args);
        let outcome = Leakprobe::start_by(&mut command).end();
        assert_eq!(outcome.status.code(), Some(1), "{}", outcome.stderr);
        assert_eq!(outcome.stderr.lines().count(), 1, "{}", outcome.stderr);
        for word in [
            "hidepid=invisible",
            "hides the processes of others",
            "as root",
        ] {
            assert!(outcome.stderr.contains(word), "{}", outcome.stderr);
        }
    }
}
