//! leakprobe on real runtimes: the musl Node in a container and in a bare root file system, and
//! the glibc Node and Python of this machine. A runtime allocates for itself all the time, so the
//! figures are compared with what the script kept within 2 %; exact figures are for the victims.

use std::process::Command;

use leakprobe_tests::node::{Kept, Need, Target, output, ready, script};
use leakprobe_tests::{Leakprobe, Outcome, Report};

const XMLLINT: Need = Need::File("/usr/bin/xmllint");
const MUSL: &str = "/lib/ld-musl-x86_64.so.1";

/// The script's paths into C++, and a function that the musl Node's stack of each has.
const NODE_PATHS: &[(&str, &str)] = &[
    (
        "unsafe",
        "node::Buffer::(anonymous namespace)::CreateUnsafeArrayBuffer",
    ),
    ("zeroed", "v8::internal::Builtin_ArrayBufferConstructor"),
    ("secret", "node::crypto::KeyObjectHandle::Init"),
];

#[test]
fn musl_node_in_a_docker_container() {
    if !ready("musl_node_in_a_docker_container", &[Need::Image, XMLLINT]) {
        return;
    }
    let run = Run::new(Target::in_docker(&script("leak.js")));
    assert_ne!(run.pid, run.own_pid, "the container has no PID namespace");
    run.check();
    run.check_allocator("musl", |path| path == MUSL);
    run.check_musl_node();
}

#[test]
fn musl_node_in_namespaces_without_docker() {
    let needs = [Need::Rootfs, XMLLINT];
    if !ready("musl_node_in_namespaces_without_docker", &needs) {
        return;
    }
    let run = Run::new(Target::in_chroot(&script("leak.js")));
    assert_eq!(run.own_pid, 1, "the target has no PID namespace");
    run.check();
    // The kernel shows the path from the root of the mount namespace, not from the process's.
    run.check_allocator("musl", |path| path.ends_with(MUSL));
    run.check_musl_node();
}

#[test]
fn glibc_node() {
    if !ready("glibc_node", &[Need::File("/usr/bin/node"), XMLLINT]) {
        return;
    }
    let mut command = Command::new("/usr/bin/node");
    let run = Run::new(Target::start(command.arg(script("leak.js"))));
    run.check();
    run.check_allocator("glibc", |path| path.ends_with("/libc.so.6"));
    run.check_svg("node::");
}

/// What V8 writes beside the map.
const V8_LOG: &str = "/tmp/leakprobe-test-v8.log";

/// Node options that give every JS function code of its own, and names of it.
const PERF_MAP: &[&str] = &[
    "--perf-basic-prof",
    "--interpreted-frames-native-stack",
    "--no-logfile-per-isolate",
    "--logfile=/tmp/leakprobe-test-v8.log",
];

#[test]
fn javascript_of_the_glibc_node_has_names() {
    let test = "javascript_of_the_glibc_node_has_names";
    if !ready(test, &[Need::File("/usr/bin/node"), XMLLINT]) {
        return;
    }
    let mut command = Command::new("/usr/bin/node");
    let command = command.args(PERF_MAP).arg(script("leak.js"));
    let run = Run::new(Target::start(command));
    let map = format!("/tmp/perf-{}.map", run.pid);
    for file in [&*map, V8_LOG] {
        std::fs::remove_file(file).unwrap_or_else(|error| panic!("{file}: {error}"));
    }
    run.check();
    run.check_javascript();
}

/// The map is in the target's own `/tmp`, under the PID that it has in its own namespace.
#[test]
fn javascript_of_the_musl_node_has_names() {
    let test = "javascript_of_the_musl_node_has_names";
    if !ready(test, &[Need::Rootfs, XMLLINT]) {
        return;
    }
    let run = Run::new(Target::in_chroot_with(&script("leak.js"), PERF_MAP));
    run.check();
    run.check_musl_node();
    run.check_javascript();
}

#[test]
fn python() {
    if !ready("python", &[Need::File("/usr/bin/python3"), XMLLINT]) {
        return;
    }
    let mut command = Command::new("/usr/bin/python3");
    let run = Run::new(Target::start(command.arg(script("leak.py"))));
    run.check();
    run.check_allocator("glibc", |path| path.ends_with("/libc.so.6"));
    run.check_svg("python");
}

/// The JVM names its code when it is asked to, which may be long after the stacks were seen.
#[test]
fn java_methods_have_names() {
    let jcmd = "/usr/bin/jcmd";
    if !ready("java_methods_have_names", &[Need::File(jcmd)]) {
        return;
    }
    let mut command = Command::new("/usr/bin/java");
    command.args(["-XX:+PreserveFramePointer", "-XX:CompileCommand=quiet"]);
    // The victim's methods are compiled before they first run, and nothing else is.
    command.args(["-Xcomp", "-XX:TieredStopAtLevel=1"]);
    command.args(["-XX:CompileCommand=compileonly,Leak.*"]);
    command.args(["-XX:CompileCommand=dontinline,Leak.*"]);
    let mut target = Target::start(command.arg(script("Leak.java")));
    let leakprobe = Leakprobe::attach(target.pid, &[]);
    let kept = target.leak().kept_bytes;
    let pid = target.pid.to_string();
    output(Command::new(jcmd).args([&pid, "Compiler.perfmap"])).expect("the JVM writes its map");
    let report = leakprobe.interrupt().report();
    assert!(target.end().success());
    std::fs::remove_file(format!("/tmp/perf-{pid}.map")).expect("the JVM has written its map");
    let stacks = report.stacks.iter();
    let named = stacks.filter(|stack| stack.names().contains(&"void Leak.keep()"));
    assert_close(
        "keep",
        named.map(|stack| stack.totals.live_bytes).sum(),
        kept,
    );
}

/// A target and what leakprobe found in it.
struct Run {
    pid: u32,
    own_pid: u32,
    kept: Kept,
    outcome: Outcome,
    report: Report,
}

impl Run {
    /// Attaches, lets the target leak, interrupts leakprobe, and lets the target end.
    fn new(mut target: Target) -> Run {
        let leakprobe = Leakprobe::attach(target.pid, &["-o", "report.svg"]);
        let kept = target.leak();
        let outcome = leakprobe.interrupt();
        let (pid, own_pid) = (target.pid, target.own_pid);
        let end = target.end();
        assert!(end.success(), "the target was harmed, it ended with {end}");
        Run {
            pid,
            own_pid,
            kept,
            report: outcome.report(),
            outcome,
        }
    }

    /// What holds for every target.
    fn check(&self) {
        let Report {
            target,
            evidence,
            totals,
            ..
        } = &self.report;
        assert_eq!(evidence.verdict, "complete", "{evidence:?}");
        assert_eq!((target.pid, target.ns_pid), (self.pid, self.own_pid));
        assert_close("all", totals.live_bytes, self.kept.kept_bytes);
        assert_eq!(self.live_bytes(|_| true), totals.live_bytes);
    }

    fn check_allocator(&self, name: &str, is_path: impl Fn(&str) -> bool) {
        let allocator = self.report.allocator.as_ref();
        let allocator = allocator.expect("an allocator");
        assert_eq!(allocator.name, name);
        assert!(is_path(&allocator.path), "{}", allocator.path);
    }

    /// The musl Node has its symbols and keeps frame pointers: each of the script's paths has its
    /// function in the stacks, with its bytes, and zlib's blocks come from another thread.
    fn check_musl_node(&self) {
        for (path, function) in NODE_PATHS {
            let found = self.live_bytes(|name| name.contains(function));
            assert_close(path, found, self.kept.paths[*path].kept_bytes);
        }
        let zlib = self.live_bytes(|name| name.contains("ZlibContext::DoThreadPoolWork"));
        assert!(zlib > 0, "no live block of zlib");
        // The script's garbage was as large as what it kept.
        let (freed, kept) = (self.report.totals.freed_bytes, self.kept.kept_bytes);
        assert!(freed >= kept, "{freed} bytes freed, {kept} kept");
        self.check_svg("node::NodeArrayBufferAllocator::Allocate");
    }

    /// The script's own functions are in the stacks, each with its bytes, in code without a file.
    fn check_javascript(&self) {
        for path in ["unsafe", "zeroed", "secret"] {
            let is_it = |name: &str| {
                let rest = name.strip_prefix("JS:").unwrap_or_default();
                let rest = rest.trim_start_matches(['~', '^', '+', '*']);
                rest.starts_with(&format!("{path} /")) && rest.contains("leak.js:")
            };
            let found = self.live_bytes(is_it);
            assert_close(path, found, self.kept.paths[path].kept_bytes);
        }
        let builtin = self.live_bytes(|name| name.starts_with("Builtins_"));
        assert!(builtin > 0, "no builtin of V8 has a name");
        let mut frames = self.report.stacks.iter().flat_map(|stack| &stack.frames);
        let js = frames.find(|frame| {
            frame
                .function
                .as_ref()
                .is_some_and(|name| name.starts_with("JS:"))
        });
        assert_eq!(js.and_then(|frame| frame.module.as_deref()), Some("[jit]"));
    }

    fn check_svg(&self, symbol: &str) {
        let svg = self.outcome.folder().join("report.svg");
        let mut lint = Command::new("/usr/bin/xmllint");
        lint.args(["--noout", "--nonet", "--huge"]).arg(svg);
        output(&mut lint).expect("the flamegraph is well-formed XML");
        let text = self.outcome.file("report.svg");
        assert!(text.contains(symbol), "`{symbol}` is not in the flamegraph");
    }

    /// Live bytes of the stacks that have a wanted function in them; `?` is one without a name.
    fn live_bytes(&self, wanted: impl Fn(&str) -> bool) -> u64 {
        let stacks = self.report.stacks.iter();
        stacks
            .filter(|stack| stack.names().into_iter().any(&wanted))
            .map(|stack| stack.totals.live_bytes)
            .sum()
    }
}

/// Panics unless the bytes found are within 2 % of the bytes kept.
fn assert_close(what: &str, found: u64, kept: u64) {
    println!("{what}: {found} bytes found, {kept} kept");
    assert!(
        found.abs_diff(kept) * 50 <= kept,
        "{what}: {found} bytes found, {kept} kept"
    );
}
