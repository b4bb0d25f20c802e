//! Servers and runtimes at work that do not leak: whatever they do in ten minutes, leakprobe must not say that
//! they leak. All at the same time, since it takes so long.

use std::any::Any;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use leakprobe_tests::Leakprobe;
use leakprobe_tests::node::{Need, Target, output, ready};
use leakprobe_tests::postgres::Server;
use leakprobe_tests::process::Process;

/// How long each is watched.
const DURATION: &str = "10m";

/// A program at work.
struct Busy {
    name: &'static str,
    pid: u32,
    /// The program, and what keeps it at work: dropped in this order.
    _processes: Vec<Box<dyn Any>>,
}

fn source(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("scenarios")
        .join(name)
}

/// nginx, that serves a file in its compressed form. It has one process: nothing stays when that is killed.
fn nginx(folder: &Path) -> Busy {
    let config = format!(
        "daemon off; master_process off; user root; error_log stderr notice; pid {0}/nginx.pid; \
         events {{ worker_connections 64; }} http {{ access_log off; gzip on; gzip_types text/plain; \
         client_body_temp_path {0}/body; proxy_temp_path {0}/proxy; fastcgi_temp_path {0}/fastcgi; \
         uwsgi_temp_path {0}/uwsgi; scgi_temp_path {0}/scgi; \
         server {{ listen 127.0.0.1:18080; root {0}; }} }}",
        folder.display()
    );
    std::fs::write(folder.join("nginx.conf"), config).expect("the configuration");
    let text: String = (0..2000).map(|line| format!("line {line}\n")).collect();
    std::fs::write(folder.join("text.txt"), text).expect("a file to serve");
    let mut command = Command::new("/usr/sbin/nginx");
    let server = Process::spawn(command.arg("-c").arg(folder.join("nginx.conf")));
    let pid = server.pid();
    while TcpStream::connect(("127.0.0.1", 18080)).is_err() {
        std::thread::yield_now();
    }
    let load = Process::spawn(
        Command::new("sh")
            .arg("-c")
            // Some requests at a time and then none: the probes need a part of the CPUs.
            .arg("while :; do wrk -t1 -c8 -d2s -H 'Accept-Encoding: gzip' \"$0\" >/dev/null; sleep 3; done")
            .arg("http://127.0.0.1:18080/text.txt"),
    );
    Busy {
        name: "nginx",
        pid,
        _processes: vec![Box::new(load), Box::new(server)],
    }
}

/// A backend that serves pgbench.
fn postgres() -> Busy {
    let server = Server::start();
    output(server.client("pgbench").args(["-i", "-q", "postgres"])).expect("the tables are made");
    let load = Process::spawn(
        server
            .client("pgbench")
            .args(["-c", "1", "-R", "50", "-T", "900", "postgres"]),
    );
    let mut psql = server.client("psql");
    // One that has ended a transaction: pgbench's first connection only asks about the tables, and is closed then.
    psql.args(["-X", "-q", "-A", "-t", "-c"]).arg(
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'pgbench' AND query = 'END;'",
    );
    let pid = loop {
        let found = output(&mut psql).expect("the server answers");
        if let Ok(pid) = found.parse() {
            break pid;
        }
        std::thread::yield_now();
    };
    Busy {
        name: "postgres",
        pid,
        _processes: vec![Box::new(load), Box::new(server)],
    }
}

fn redis(folder: &Path) -> Busy {
    let mut command = Command::new("/usr/bin/redis-server");
    command
        .args(["--port", "16379", "--save", "", "--dir"])
        .arg(folder);
    let server = Process::spawn(&mut command);
    server.stdout_line_with("Ready to accept connections");
    let pid = server.pid();
    let load = Process::spawn(
        Command::new("sh")
            .arg("-c")
            .arg(
                "while :; do redis-benchmark -q -p 16379 -n 4000 -c 4 -r 1000 -d 200 -t set,get,lpush,lpop,sadd \
                 >/dev/null; sleep 3; done",
            ),
    );
    Busy {
        name: "redis",
        pid,
        _processes: vec![Box::new(load), Box::new(server)],
    }
}

fn python() -> Busy {
    let mut command = Command::new("/usr/bin/python3");
    let target = Target::start(command.arg(source("server.py")));
    Busy {
        name: "python",
        pid: target.pid,
        _processes: vec![Box::new(target)],
    }
}

fn node() -> Busy {
    let target = Target::in_chroot_as(&source("grows.js"), &["/leak.js", "steady"]);
    Busy {
        name: "node",
        pid: target.pid,
        _processes: vec![Box::new(target)],
    }
}

#[test]
fn no_leak_is_told_of_programs_that_do_not_leak() {
    let needs = [
        Need::File("/usr/sbin/nginx"),
        Need::File("/usr/bin/wrk"),
        Need::File("/usr/lib/postgresql/15/bin/pgbench"),
        Need::File("/usr/bin/redis-server"),
        Need::File("/usr/bin/python3"),
        Need::Rootfs,
    ];
    if !ready("no_leak_is_told_of_programs_that_do_not_leak", &needs) {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let busy = [
        nginx(folder.path()),
        postgres(),
        redis(folder.path()),
        python(),
        node(),
    ];
    let watched: Vec<_> = busy
        .iter()
        .map(|it| Leakprobe::attach(it.pid, &["--duration", DURATION]))
        .collect();
    for (busy, leakprobe) in busy.iter().zip(watched) {
        let report = leakprobe.finish_within(Duration::from_secs(900)).report();
        let verdict = report.verdict.expect("a verdict");
        println!("{}: {verdict:#?}", busy.name);
        assert_ne!(verdict.kind, "leak", "{}: {verdict:#?}", busy.name);
    }
}
