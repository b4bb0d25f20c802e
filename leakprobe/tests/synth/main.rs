//! Rules made of instructions, next to the unwind information of real objects.
//!
//! Objects that have it are analysed as if they had none, with nothing but their code, the symbols
//! that survive stripping, and their relocations. What counts is the rule at calls: it is the one by
//! which a stack is walked. There a rule may be missing, but hardly ever be wrong.

mod compare;
mod oracle;

use std::fs::File;
use std::path::{Path, PathBuf};

use compare::{Report, compare};
use leakprobe::unwind::image::Image;
use leakprobe::unwind::{END, NONE, RuleAt, SIGNAL, cfi, rules};
use oracle::Subject;

/// Reads the first of `paths` that is there, and compares.
fn of(package: &str, paths: &[&str]) -> (PathBuf, Vec<u8>, Report) {
    let path = paths.iter().map(Path::new).find(|path| path.exists());
    let path =
        path.unwrap_or_else(|| panic!("none of {paths:?}: install Debian package {package}"));
    let data = std::fs::read(path).expect("a readable library");
    let report = compare(&data);
    print(path, &report);
    (path.to_path_buf(), data, report)
}

fn print(path: &Path, report: &Report) {
    println!(
        "{}: {} rows in {:?}\n  calls {:?}\n  all {:?}",
        path.display(),
        report.rows,
        report.time,
        report.calls,
        report.places
    );
    for (address, what, ours, theirs) in report.differences.iter().take(200) {
        println!("  {address:#x} {what}: {ours:?}, not {theirs:?}");
    }
}

/// Per mille of calls with the right rule.
fn right(report: &Report) -> usize {
    let calls = &report.calls;
    (calls.equal + calls.alike + calls.other_register) * 1000 / calls.all.max(1)
}

#[test]
fn glibc() {
    let paths = [
        "/lib/x86_64-linux-gnu/libc.so.6",
        "/lib64/libc.so.6",
        "/usr/lib/libc.so.6",
    ];
    let (_, data, report) = of("libc6", &paths);
    assert!(report.calls.all > 10_000);
    assert!(right(&report) >= 995);
    // When started as a program it prints its version; whoever calls that function, it is at the
    // ELF file's entry, and its callers are taken for nobody.
    let entry = object::Object::entry(&Subject::new(&data).file);
    let wrong = report.differences.iter().filter(|(address, what, ..)| {
        *what == "wrong" && !(entry..entry + 64).contains(address) && report.is_call(*address)
    });
    assert_eq!(wrong.count(), 0);
}

#[test]
fn libstdcxx() {
    let (_, _, report) = of("libstdc++6", &["/usr/lib/x86_64-linux-gnu/libstdc++.so.6"]);
    assert!(report.calls.all > 3_000);
    assert!(right(&report) >= 995);
    assert_eq!(report.calls.wrong, 0);
}

fn fixtures() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    std::env::var_os("LEAKPROBE_FIXTURES")
        .map_or_else(|| own.join("../target/fixtures"), PathBuf::from)
}

/// musl has no unwind information but in its debug file, so it is built here with that: as Debian
/// does, and for size, as musl does by itself, without any padding between functions.
#[track_caller]
fn musl(variant: &str) {
    let path = fixtures().join("musl-debug").join(variant).join("libc.so");
    let data = std::fs::read(&path).unwrap_or_else(|error| {
        panic!("{}: {error}: run `cargo xtask musl-debug`", path.display())
    });
    let report = compare(&data);
    print(&path, &report);
    assert!(report.calls.all > 4_000);
    assert!(right(&report) >= 998);

    // musl makes its assembly's unwind information with a script, which is wrong about these: in
    // __clone threads end, to __restore_rt signal handlers return, and what expl and exp2l push
    // before a call is not counted.
    let subject = Subject::new(&data);
    for (address, what, ..) in &report.differences {
        let name = subject.function_at(*address);
        let known = ["__clone", "__restore_rt", "exp2l", "expl"];
        assert!(
            *what != "wrong" || known.contains(&name.as_str()),
            "{address:#x} in {name}"
        );
    }
    let rule_in = |name| {
        let mut found = report.differences.iter().filter(|(address, ..)| {
            subject.function_at(*address) == name && (name != "__clone" || report.is_call(*address))
        });
        found.next().map(|(_, _, ours, _)| *ours)
    };
    assert_eq!(rule_in("__clone"), Some(END));
    assert_eq!(rule_in("__restore_rt"), Some(SIGNAL));
}

#[test]
fn musl_as_debian_builds_it() {
    musl("O2");
}

#[test]
fn musl_for_size() {
    musl("Os");
}

/// A stripped musl whose debug file is at hand: its functions are unwound by that, but for where
/// threads end and signal handlers return, which it is wrong about.
#[test]
fn musl_with_its_debug_file() {
    let path = fixtures().join("musl-debug/O2/libc.so");
    let stripped = std::env::temp_dir().join(format!("leakprobe-musl-{}", std::process::id()));
    let status = std::process::Command::new("strip")
        .arg("-o")
        .args([&stripped, &path])
        .status()
        .expect("strip of binutils");
    assert!(status.success());
    let open = |path: &Path| Image::open(&File::open(path).expect("a file")).expect("an image");
    let (image, debug) = (open(&stripped), open(&path));
    std::fs::remove_file(&stripped).expect("removed");

    let told = cfi::debuggers(&debug, 2).expect("rules").rows;
    assert!(told.len() > 4_000);
    let rules = rules(&image, Some(&debug), 2).expect("rules").all;
    let rule_at = |rows: &[RuleAt], address| {
        let after = rows.partition_point(|row| row.address <= address);
        after.checked_sub(1).map(|row| rows[row].rule)
    };
    let data = std::fs::read(&path).expect("a library");
    let subject = Subject::new(&data);
    let (mut other, mut ends, mut signals) = (Vec::new(), 0, 0);
    for row in told.iter().filter(|row| row.rule != NONE) {
        match rule_at(&rules, row.address) {
            Some(END) => ends += 1,
            Some(SIGNAL) => signals += 1,
            rule if rule == Some(row.rule) => {}
            _ => other.push(subject.function_at(row.address)),
        }
    }
    assert_eq!(other, Vec::<String>::new());
    assert!(
        ends > 0 && signals > 0,
        "{ends} ends, {signals} signal frames"
    );
}
