//! Where memory goes in real programs whose truth is known, each to be run by its name, such as
//! `cargo xtask test a_java_map_that_grows`: leakprobe has to come to the right verdict.
//!
//! What decides is memory that grows for a time, so each of them takes half a minute or more.

use std::path::{Path, PathBuf};
use std::process::Command;

use leakprobe_tests::node::{Need, Target, output, ready};
use leakprobe_tests::postgres::Server;
use leakprobe_tests::process::Process;
use leakprobe_tests::report::{Verdict, names};
use leakprobe_tests::{Leakprobe, Report, Victim, victim_path};

/// How long a program is watched.
const DURATION: &str = "40s";

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("scenarios")
        .join(name)
}

/// Watches a program for a while; it must be unharmed then.
fn watch(pid: u32) -> Report {
    let leakprobe = Leakprobe::attach(pid, &["--duration", DURATION, "--no-guard"]);
    leakprobe.finish().report()
}

/// The verdict, if it is of this kind.
fn verdict<'a>(report: &'a Report, kind: &str) -> &'a Verdict {
    let verdict = report.verdict.as_ref().expect("a verdict");
    assert_eq!(verdict.kind, kind, "{verdict:#?}\n{:#?}", report.account);
    verdict
}

/// The leaking stack that is named first.
fn first(verdict: &Verdict) -> String {
    let first = verdict.stacks.first().expect("a stack");
    names(&first.frames).join(" < ")
}

fn java(what: &str) -> Report {
    let folder = tempfile::tempdir().expect("a folder");
    let mut compile = Command::new("/usr/bin/javac");
    compile
        .arg("-d")
        .arg(folder.path())
        .arg(source("Grows.java"));
    output(&mut compile).expect("the program is compiled");
    let mut command = Command::new("/usr/bin/java");
    command
        .args(["-XX:+UseSerialGC", "-Xms32m", "-Xmn16m", "-Xmx1g", "-cp"])
        .arg(folder.path())
        .args(["Grows", what]);
    let target = Target::start(&mut command);
    watch(target.pid)
}

#[test]
fn a_java_map_that_grows() {
    if !ready("a_java_map_that_grows", &[Need::File("/usr/bin/javac")]) {
        return;
    }
    let report = java("map");
    let verdict = verdict(&report, "runtime_heap");
    assert_eq!(verdict.runtime.as_deref(), Some("jvm"));
}

#[test]
fn direct_buffers_of_java() {
    if !ready("direct_buffers_of_java", &[Need::File("/usr/bin/javac")]) {
        return;
    }
    let report = java("direct");
    let found = first(verdict(&report, "leak"));
    assert!(found.contains("Unsafe_AllocateMemory"), "{found}");
}

#[test]
fn classes_of_java() {
    if !ready("classes_of_java", &[Need::File("/usr/bin/javac")]) {
        return;
    }
    let report = java("classes");
    let verdict = verdict(&report, "runtime_heap");
    assert_eq!(verdict.runtime.as_deref(), Some("metaspace"));
}

fn node(what: &str) -> Report {
    let target = Target::in_chroot_as(&source("grows.js"), &["/leak.js", what]);
    watch(target.pid)
}

#[test]
fn objects_of_the_musl_node() {
    if !ready("objects_of_the_musl_node", &[Need::Rootfs]) {
        return;
    }
    let report = node("heap");
    let verdict = verdict(&report, "runtime_heap");
    assert_eq!(verdict.runtime.as_deref(), Some("v8"));
}

#[test]
fn buffers_of_the_musl_node() {
    if !ready("buffers_of_the_musl_node", &[Need::Rootfs]) {
        return;
    }
    let report = node("buffers");
    let found = first(verdict(&report, "leak"));
    assert!(found.contains("node::Buffer::"), "{found}");
}

/// Live bytes stay, what is resident climbs; the stack whose blocks keep it is named.
fn fragments(flavor: &str) {
    let mut victim = Victim::spawn(flavor, "fragments");
    let leakprobe = Leakprobe::attach(victim.pid(), &["--no-guard"]);
    victim.go();
    let summary = victim.summary();
    let report = leakprobe.interrupt().report();
    victim.end_well();
    assert_eq!(report.totals.live_bytes, summary.leaks[0].bytes);
    verdict(&report, "retained_by_allocator");
    let heap = report.heap.as_ref().expect("the allocator's books");
    let pin = heap.pins.first().expect("a stack that pins");
    assert_eq!(names(&pin.frames)[..2], ["pin", "main"], "{:#?}", heap.pins);
}

#[test]
fn fragments_of_glibc() {
    fragments("glibc");
}

#[test]
fn fragments_of_musl() {
    fragments("musl");
}

/// What the program itself has from the kernel; the verdict names who took it.
fn hoards(flavor: &str, what: &str, by: &str) {
    let mut target = Target::start(Command::new(victim_path(flavor, "hoards")).arg(what));
    target.go();
    let report = watch(target.pid);
    let verdict = verdict(&report, "leak");
    assert!(verdict.is_mapped, "{verdict:#?}");
    let found = first(verdict);
    assert!(found.contains(by), "{found}");
}

#[test]
fn mappings_in_part() {
    for flavor in ["glibc", "musl"] {
        hoards(flavor, "mappings", "hoard_mapping < main");
    }
}

#[test]
fn threads_that_never_end() {
    for flavor in ["glibc", "musl"] {
        hoards(flavor, "threads", "hoard_thread < main");
    }
}

/// All types of the database are fetched for the type of one column, and freed again.
#[test]
fn a_peak_of_php() {
    let needs = [
        Need::File("/usr/bin/php8.2"),
        Need::File("/usr/lib/postgresql/15/bin/postgres"),
    ];
    if !ready("a_peak_of_php", &needs) {
        return;
    }
    let server = Server::start();
    let domains = "DO $$ BEGIN FOR i IN 1..60000 LOOP \
                   EXECUTE 'CREATE DOMAIN type_of_an_application_' || i || ' AS integer'; \
                   IF i % 2000 = 0 THEN COMMIT; END IF; END LOOP; END $$";
    output(server.client("psql").args(["-X", "-q", "-c", domains])).expect("types are made");
    let connection = format!("host={} user=postgres", server.folder().display());
    let mut command = Command::new("/usr/bin/php8.2");
    command.arg(source("fields.php")).arg(connection);
    let mut process = Process::spawn(&mut command);
    process.stdout_line("ready ");
    let leakprobe = Leakprobe::attach(process.pid(), &["--sort", "peak"]);
    process.send(b"\n");
    process.stdout_line("int4");
    let report = leakprobe.interrupt().report();
    verdict(&report, "peak");
    // Debian's files name only what other files call: libpq's PQexec jumps to a function without a name, and the
    // extension's pg_field_type has none either.
    let modules: Vec<_> = report.stacks[0]
        .frames
        .iter()
        .map(|frame| frame.module.as_deref())
        .collect();
    let place = |module: &str| {
        modules
            .iter()
            .position(|it| it.is_some_and(|it| it.starts_with(module)))
    };
    let (libpq, extension) = (place("libpq.so"), place("pgsql.so"));
    assert_eq!(libpq, Some(0), "{modules:?}");
    assert!(
        extension > libpq && place("php8.2") > extension,
        "{modules:?}"
    );
}
