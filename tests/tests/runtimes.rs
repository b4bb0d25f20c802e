//! Containers that Docker knows nothing of: containerd's, by ids that may be any word, and podman's.

use leakprobe_tests::contained::{Contained, Engine, new_name};
use leakprobe_tests::containerd::Namespace;
use leakprobe_tests::report::{Container, List};
use leakprobe_tests::{Leakprobe, Report, Summary, Victim, assert_exact};

/// What is found by this name, as sorted PIDs.
fn found(name: &str) -> (Vec<u32>, Option<Container>) {
    let args = [
        "ps",
        "--format",
        "json",
        "--interval",
        "1ms",
        "--container",
        name,
    ];
    let outcome = Leakprobe::start(&args).finish();
    let list: List = serde_json::from_str(&outcome.stdout).expect("ps prints JSON");
    let mut pids: Vec<u32> = list.processes.iter().map(|listed| listed.pid).collect();
    pids.sort_unstable();
    (pids, list.processes[0].container.clone())
}

/// Panics unless leakprobe refuses this name in one sentence that has all these words.
fn refused(name: &str, words: &[&str]) {
    let outcome = Leakprobe::start(&["--container", name]).end();
    let stderr = &outcome.stderr;
    assert_eq!(outcome.status.code(), Some(1), "{name}: {stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    for word in words {
        assert!(
            stderr.contains(word),
            "{name}: nothing about `{word}`: {stderr}"
        );
    }
}

fn record(name: &str, go: impl FnOnce() -> Summary) -> Report {
    let leakprobe = Leakprobe::start(&["--container", name, "-o", "report.json"]);
    leakprobe.wait_until_recording();
    let summary = go();
    let report = leakprobe.interrupt().report();
    assert_exact(&summary, &report);
    report
}

fn summary(victim: &mut Victim) -> Summary {
    victim.go();
    victim.summary()
}

#[test]
fn a_container_of_containerd_by_a_word() {
    let namespace = Namespace::new();
    let id = format!("web.{}-1", std::process::id());
    let mut victim = namespace.run(&[], &id, "musl/malloc");
    let pid = namespace.pid(&id);
    let report = record(&id, || summary(&mut victim));
    assert_eq!((report.target.pid, report.target.ns_pid), (pid, 1));
    let container = report.target.container.expect("the container is known");
    let expected = Container {
        id: id.clone(),
        runtime: Some("containerd".to_owned()),
        name: None,
        pod_uid: None,
        pod_name: None,
        namespace: Some(namespace.name.clone()),
    };
    assert_eq!(container, expected);

    let later = namespace.exec(&id, "musl/nothing");
    let path = format!("{}/{id}", namespace.name);
    let beginning = &id[..id.len() - 2];
    for name in [&id, &path, &format!("containerd://{id}"), beginning] {
        let (pids, container) = found(name);
        assert_eq!(
            (pids.len(), container),
            (2, Some(expected.clone())),
            "{name}"
        );
        assert!(pids.contains(&pid), "{name}");
    }
    let unknown = format!("no-{id}");
    refused(&unknown, &["there is no container", "these run", &path]);
    later.end_well();
    victim.end_well();
    refused(&id, &["there is no container"]);
}

#[test]
fn a_container_of_containerd_by_digits() {
    let namespace = Namespace::new();
    let id = format!("{:0<64}", format!("fab{:08x}", std::process::id()));
    let mut victim = namespace.run(&[], &id, "musl/calloc");
    let report = record(&id[..20], || summary(&mut victim));
    assert_eq!(report.target.pid, namespace.pid(&id));
    let container = report.target.container.expect("the container is known");
    assert_eq!(
        (&container.id, container.runtime.as_deref()),
        (&id, Some("containerd"))
    );
    assert_eq!(container.namespace.as_ref(), Some(&namespace.name));
    assert_eq!(
        found(&format!("{}/{id}", namespace.name)).1,
        Some(container)
    );
    victim.end_well();
}

/// Its control group tells nothing of its id.
#[test]
fn a_container_of_containerd_in_another_control_group() {
    let namespace = Namespace::new();
    let id = format!("placed-{}", std::process::id());
    let group = format!("/{}/elsewhere", namespace.name);
    let mut victim = namespace.run(&["--cgroup", &group], &id, "musl/malloc");
    let report = record(&id, || summary(&mut victim));
    let container = report.target.container.expect("the container is known");
    assert_eq!((report.target.pid, container.id), (namespace.pid(&id), id));
    victim.end_well();
}

#[test]
fn one_id_in_two_namespaces() {
    let namespaces = [Namespace::new(), Namespace::new()];
    let id = format!("twin-{}", std::process::id());
    let paths = namespaces.each_ref().map(|it| format!("{}/{id}", it.name));
    let mut victim = namespaces[0].run(&[], &id, "musl/malloc");
    namespaces[1].run_detached(&id);
    refused(&id, &["can mean 2 containers", &paths[0], &paths[1]]);
    let report = record(&paths[0], || summary(&mut victim));
    assert_eq!(report.target.pid, namespaces[0].pid(&id));
    assert_eq!(found(&paths[1]).0, [namespaces[1].pid(&id)]);

    // One that does not run is none that could be meant; its PID is not believed.
    namespaces[1].stop(&id);
    assert_eq!(found(&id).0, [namespaces[0].pid(&id)]);
    let words = [
        &format!("container {} is not running", paths[1]),
        "start it first",
    ];
    refused(&paths[1], &words);
    victim.end_well();
}

/// Only its monitor tells its name.
#[test]
fn a_container_of_a_podman_elsewhere() {
    let name = new_name("malloc");
    let mut contained = Contained::start_by(Engine::PodmanElsewhere, &name, "malloc", &[]);
    let report = record(&name, || {
        contained.go();
        contained.summary()
    });
    let container = report.target.container.expect("the container is known");
    assert_eq!(
        (report.target.pid, &container.id),
        (contained.pid, &contained.id)
    );
    assert_eq!(container.name.as_ref(), Some(&name));
    assert_eq!(found(&contained.id[..12]).1, Some(container));
}

#[test]
fn a_container_of_podman() {
    let name = new_name("malloc");
    let mut contained = Contained::start_by(Engine::Podman, &name, "malloc", &[]);
    let report = record(&name, || {
        contained.go();
        contained.summary()
    });
    assert_eq!(
        (report.target.pid, report.target.ns_pid),
        (contained.pid, 1)
    );
    let container = report.target.container.expect("the container is known");
    assert_eq!(container.id, contained.id);
    assert_eq!(container.runtime.as_deref(), Some("podman"));
    assert_eq!(container.name.as_ref(), Some(&name));

    let later = contained.exec("malloc");
    for name in [&contained.name, &contained.id, &contained.id[..12]] {
        let (pids, known) = found(name);
        assert_eq!(
            (pids.len(), known.as_ref()),
            (2, Some(&container)),
            "{name}"
        );
        assert!(pids.contains(&contained.pid), "{name}");
    }
    later.end_well();

    // Docker does not know of podman's names.
    let docker = Contained::start_by(Engine::Docker, &name, "malloc", &[]);
    let ids = [&docker.id[..12], &contained.id[..12]];
    refused(&name, &["can mean 2 containers", ids[0], ids[1]]);
    drop(docker);

    contained.stop();
    let words = [name.as_str(), &contained.id[..12], "is not running"];
    refused(&name, &words);
    refused(&contained.id[..12], &words);
}
