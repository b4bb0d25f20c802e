//! Servers that fork their workers: Debian's unicorn (Ruby) and gunicorn (Python), of which one path leaks
//! natively. The report names the worker and the stack.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use leakprobe_tests::{LIMIT, Leakprobe, leakprobe_path};

const WORKERS: usize = 4;
const LEAK: u64 = 65_536;
const REQUESTS: usize = 60;

/// The body of the answer to a request: the PID of the worker that gave it. `None` while nobody answers.
fn get(socket: &Path, path: &str) -> Option<u32> {
    let mut stream = UnixStream::connect(socket).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: x\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let body = answer.split("\r\n\r\n").nth(1)?;
    body.trim().parse().ok()
}

/// Runs a server under leakprobe, lets it leak, and compares; `of_leak` is the module of the stack's second
/// frame at most that stands for the leak.
fn check(command: &[&str], folder: &Path, module: &str) {
    let socket = folder.join("socket");
    let leakprobe = Leakprobe::start_by(
        Command::new(leakprobe_path())
            .args([
                "-o",
                "report.json",
                "--min-size",
                "65536",
                "--no-guard",
                "--",
            ])
            .args(command),
    );
    leakprobe.wait_until_recording();
    let end = Instant::now() + LIMIT;
    while get(&socket, "/").is_none() {
        assert!(Instant::now() < end, "the server does not answer");
        std::thread::yield_now();
    }
    let mut leaked: BTreeMap<u32, u64> = BTreeMap::new();
    for _ in 0..REQUESTS {
        let worker = get(&socket, "/leak").expect("an answer");
        *leaked.entry(worker).or_default() += LEAK;
        get(&socket, "/").expect("an answer");
    }
    let master = leaked
        .keys()
        .next()
        .and_then(|worker| parent_of(*worker))
        .expect("the master");
    // The server has leakprobe's output open: it has to end first, and then leakprobe does.
    end_server(master);
    let report = leakprobe.end().report();

    assert_eq!(report.evidence.verdict, "complete", "{:?}", report.evidence);
    assert_eq!(report.target.pid, master);
    let workers = report
        .processes
        .iter()
        .filter(|it| it.parent == Some(master));
    assert_eq!(workers.count(), WORKERS, "{:?}", report.processes);
    let mut found: BTreeMap<u32, u64> = BTreeMap::new();
    for stack in &report.stacks {
        let modules = stack.frames.iter().filter_map(|it| it.module.as_deref());
        if modules.take(3).any(|it| it.contains(module)) {
            for share in stack.processes.iter().filter(|it| it.pid != master) {
                *found.entry(share.pid).or_default() += share.live_bytes;
            }
        }
    }
    assert_eq!(found, leaked, "{:?}", report.stacks);
}

fn parent_of(pid: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    line.trim().parse().ok()
}

/// Ends the master, which ends its workers.
fn end_server(master: u32) {
    let pid = rustix::process::Pid::from_raw(master as i32).expect("a PID");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("the master is there");
}

fn victim(name: &str) -> String {
    format!("{}/victims/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn unicorn_names_the_worker_and_the_stack() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("unicorn.rb");
    let socket = folder.path().join("socket");
    let text = format!(
        "worker_processes {WORKERS}\nlisten {:?}\npreload_app true\n",
        socket.to_str().expect("UTF-8")
    );
    std::fs::write(&config, text).expect("the configuration");
    let config = config.to_str().expect("UTF-8");
    let app = victim("leak.ru");
    check(
        &["unicorn", "-E", "none", "-c", config, &app],
        folder.path(),
        "fiddle",
    );
}

#[test]
fn gunicorn_names_the_worker_and_the_stack() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = format!("unix:{}", folder.path().join("socket").display());
    let app = format!("{}/victims", env!("CARGO_MANIFEST_DIR"));
    let workers = WORKERS.to_string();
    let command = [
        "gunicorn",
        "--chdir",
        &app,
        "-w",
        &workers,
        "-b",
        &socket,
        "leak_wsgi:application",
    ];
    check(&command, folder.path(), "ffi");
}
