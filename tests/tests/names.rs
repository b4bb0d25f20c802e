//! Names: of functions that only debug information knows, wherever that is, and of JIT code.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::process::Command;

use leakprobe_tests::report::Frame;
use leakprobe_tests::{Leakprobe, Report, Victim, assert_exact, victim_path};

/// The victim `names`, with its symbols taken away in one of several ways.
fn spawn(how: &str) -> Victim {
    Victim::start(&mut Command::new(victim_path("other", how)))
}

/// Lets it leak and gives the report.
fn report(how: &str, options: &[&str]) -> Report {
    let mut victim = spawn(how);
    let leakprobe = Leakprobe::attach(victim.pid(), options);
    victim.go();
    victim.summary();
    let report = leakprobe.interrupt().report();
    assert_eq!(report.evidence.verdict, "complete", "{:?}", report.evidence);
    victim.end_well();
    report
}

/// Bytes that the victim leaves behind in the inlined function, and in another one.
const INLINED: u64 = 48;
const PLAIN: u64 = 80;

/// The frames of the victim's stack with so many bytes.
fn frames(report: &Report, bytes: u64) -> &[Frame] {
    let mut stacks = report.stacks.iter();
    let stack = stacks.find(|stack| stack.totals.live_bytes == bytes);
    &stack.expect("the victim's stack is in the report").frames
}

fn names(frames: &[Frame]) -> Vec<&str> {
    let name = |frame: &'_ Frame| frame.function.clone().unwrap_or("?".into()).leak() as &str;
    frames.iter().map(name).collect()
}

/// Names, lines and the inlined function are all there.
fn assert_all_known(report: &Report) {
    let stack = frames(report, INLINED);
    assert_eq!(names(&stack[..3]), ["leak_inlined", "leak_outer", "main"]);
    assert_eq!(names(&frames(report, PLAIN)[..2]), ["leak_plain", "main"]);
    let inlined: Vec<bool> = stack[..3].iter().map(|frame| frame.inlined).collect();
    assert_eq!(inlined, [true, false, false]);
    for frame in &stack[..3] {
        let file = frame.file.as_deref().unwrap_or_default();
        assert!(
            file.ends_with("names.c") && frame.line.is_some(),
            "{frame:?}"
        );
        assert!(frame.offset.is_some(), "{frame:?}");
    }
    assert_eq!(stack[0].offset, stack[1].offset);
}

/// Only the names of the functions that were compiled.
fn assert_symbols_known(report: &Report) {
    let stack = frames(report, INLINED);
    assert_eq!(names(&stack[..2]), ["leak_outer", "main"]);
    assert_eq!(names(&frames(report, PLAIN)[..2]), ["leak_plain", "main"]);
    // The C library may have debug information here.
    let mut own = stack[..2].iter().chain(&frames(report, PLAIN)[..2]);
    assert!(own.all(|frame| !frame.inlined && frame.file.is_none() && frame.line.is_none()));
}

fn assert_nothing_known(report: &Report, module: &str) {
    for frame in &frames(report, INLINED)[..2] {
        assert_eq!(frame.function, None);
        assert_eq!(frame.module.as_deref(), Some(module));
        assert!(frame.offset.is_some());
    }
}

fn debug_dir() -> String {
    let dir = victim_path("other", "debug");
    dir.to_str().expect("the path is UTF-8").to_owned()
}

#[test]
fn a_stripped_program_has_places() {
    assert_nothing_known(&report("names-nothing", &[]), "names-nothing");
    // Debug information of another build does not help it.
    let report = report("names-nothing", &["--debug-dir", &debug_dir()]);
    assert_nothing_known(&report, "names-nothing");
}

#[test]
fn debug_information_is_found_by_build_id() {
    assert_nothing_known(&report("names-build-id", &[]), "names-build-id");
    let options = [
        "--debug-dir",
        "/nowhere/../proc",
        "--debug-dir",
        &debug_dir(),
    ];
    assert_all_known(&report("names-build-id", &options[2..]));
    assert_all_known(&report(
        "names-build-id",
        &["--debug-dir", "/proc", "--debug-dir", &debug_dir()],
    ));
}

#[test]
fn without_inlines_there_are_symbols() {
    let options = ["--no-inlines", "--debug-dir", &debug_dir()];
    assert_symbols_known(&report("names-build-id", &options));
}

#[test]
fn mini_debug_info_has_symbols() {
    assert_symbols_known(&report("names-mini", &[]));
}

#[test]
fn debug_information_that_is_linked_is_held_open() {
    for damaged in [false, true] {
        let folder = tempfile::tempdir().expect("failed to make a temporary folder");
        let program = folder.path().join("names-link");
        let debug = folder.path().join(".debug/names-link.dbg");
        let original = victim_path("other", "names-link");
        fs::create_dir(folder.path().join(".debug")).expect("failed to make a folder");
        fs::copy(&original, &program).expect("failed to copy the victim");
        let link = original.with_file_name(".debug/names-link.dbg");
        let mut bytes = fs::read(link).expect("failed to read the debug information");
        if damaged {
            bytes.push(0);
        }
        fs::write(&debug, bytes).expect("failed to copy the debug information");

        let mut victim = Victim::start(&mut Command::new(&program));
        let leakprobe = Leakprobe::attach(victim.pid(), &[]);
        // As with a container that goes: the files first, then the process.
        fs::remove_dir_all(folder.path()).expect("failed to remove the victim's folder");
        victim.go();
        victim.summary();
        victim.kill();
        let report = leakprobe.finish().report();
        if damaged {
            assert_nothing_known(&report, "names-link");
        } else {
            assert_all_known(&report);
        }
    }
}

#[test]
fn a_debug_dir_that_is_none_is_an_error() {
    let victim = spawn("names-nothing");
    let pid = victim.pid().to_string();
    let outcome = Leakprobe::start(&["--pid", &pid, "--debug-dir", "/nowhere"]).end();
    assert_eq!(outcome.status.code(), Some(1), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("`/nowhere`"), "{}", outcome.stderr);
    victim.end_well();
}

/// The newest name of an address is right, and only for what is seen from then on.
#[test]
fn jit_code_has_the_name_it_had() {
    for flavor in ["glibc", "musl"] {
        let mut victim = Victim::spawn(flavor, "jit");
        let leakprobe = Leakprobe::attach(victim.pid(), &["--interval", "50ms"]);
        victim.go();
        victim.summary();
        leakprobe.wait_for_output("jit:first");
        victim.go();
        victim.summary();
        leakprobe.wait_for_output("jit:second");
        victim.go();
        let summary = victim.summary();
        victim.end_well();
        let report = leakprobe.finish().report();
        assert_exact(&summary, &report);
        let mut frames = report.stacks.iter().flat_map(|stack| &stack.frames);
        let jit = frames.find(|frame| frame.function.as_deref() == Some("jit:second"));
        assert_eq!(jit.and_then(|frame| frame.module.as_deref()), Some("[jit]"));
        assert!(!Path::new(&format!("/tmp/perf-{}.map", report.target.pid)).exists());
    }
}

/// Opening a FIFO waits for its other end, which a hostile target never opens.
#[test]
fn a_fifo_for_a_map_stops_nothing() {
    let mut victim = Victim::spawn("glibc", "jit");
    let map = format!("/tmp/perf-{}.map", victim.pid());
    fs::remove_file(&map).expect("the victim has made its map");
    let made = Command::new("mkfifo").arg(&map).status();
    assert!(made.is_ok_and(|status| status.success()));
    let leakprobe = Leakprobe::attach(victim.pid(), &[]);
    victim.go();
    victim.summary();
    let report = leakprobe.interrupt().report();
    assert!(fs::metadata(&map).is_ok_and(|map| map.file_type().is_fifo()));
    fs::remove_file(&map).expect("failed to remove the FIFO");
    victim.kill();
    let stack = &report.stacks[0];
    assert_eq!(names(&stack.frames[..3]), ["leak_first", "?", "main"]);
    assert_eq!(stack.frames[1].module.as_deref(), Some("[anonymous]"));
    let notes = report.evidence.notes.join("\n");
    assert!(
        notes.contains(&map) && notes.contains("regular file"),
        "{notes}"
    );
}
