//! Where the C libraries of this machine make the system calls that map memory, against what `objdump` prints:
//! a probe in the middle of an instruction corrupts the target, and one that is missing makes mappings wrong.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::process::Command;

use leakprobe::probe::system_calls::{MAPPINGS, find};
use leakprobe::unwind::image::Image;
use leakprobe_common::mapping_call::{ALL, BRK, MADVISE, MMAP, MREMAP, MUNMAP};

/// Instructions by address.
fn listing(path: &Path) -> BTreeMap<u64, String> {
    let output = Command::new("objdump")
        .args(["-d", "--no-show-raw-insn"])
        .arg(path)
        .output()
        .expect("objdump, of Debian package binutils");
    let text = String::from_utf8_lossy(&output.stdout);
    let line = |line: &str| {
        let (address, text) = line.trim_start().split_once(":\t")?;
        let address = u64::from_str_radix(address, 16).ok()?;
        Some((address, text.trim().to_owned()))
    };
    text.lines().filter_map(line).collect()
}

/// The number that the code right in front of a `syscall` loads, as its text says.
fn number(lines: &BTreeMap<u64, String>, address: u64) -> Option<u32> {
    for (_, text) in lines.range(..address).rev().take(8) {
        let load = text.strip_prefix("mov    $0x");
        if let Some((number, register)) = load.and_then(|it| it.split_once(','))
            && register == "%eax"
        {
            return u32::from_str_radix(number, 16).ok();
        }
    }
    None
}

/// How many of each call there are in the first of `paths` that is there.
fn compare(package: &str, paths: &[&str]) -> BTreeMap<u32, usize> {
    let path = paths.iter().map(Path::new).find(|path| path.exists());
    let path = path.unwrap_or_else(|| panic!("none of {paths:?}: install {package}"));
    let image = Image::open(&File::open(path).expect("a library")).expect("an ELF file");
    let began = std::time::Instant::now();
    let sites = find(&image, &MAPPINGS).expect("code");
    println!("{:?}", began.elapsed());
    let lines = listing(path);
    let mut counts = BTreeMap::new();
    for call in &sites.calls {
        let what = || format!("{call:x?} in {}", path.display());
        assert_eq!(lines[&call.address], "syscall", "{}", what());
        let next = lines.range(call.address + 1..).next().map(|(at, _)| *at);
        assert_eq!(call.after, next, "{}", what());
        let last = lines.range(..call.address).next_back().map(|(at, _)| *at);
        assert_eq!(call.before.map(|it| it.address), last, "{}", what());
        *counts.entry(call.number).or_default() += 1;
    }
    let system_calls = lines.iter().filter(|(_, text)| *text == "syscall");
    for (&address, _) in system_calls {
        if number(&lines, address).is_some_and(|number| ALL.contains(&number)) {
            let is_found = sites.calls.iter().any(|call| call.address == address);
            assert!(is_found, "{address:#x} in {}", path.display());
        }
    }
    println!(
        "{}: {counts:?}, {} of unknown number, {} not reached",
        path.display(),
        sites.unknown,
        sites.unreached
    );
    assert_eq!(sites.hidden, 0);
    counts
}

#[test]
fn glibc() {
    let counts = compare(
        "libc6",
        &["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/libc.so.6"],
    );
    assert_eq!(
        counts,
        [(MMAP, 1), (MUNMAP, 1), (BRK, 1), (MREMAP, 1), (MADVISE, 2)].into()
    );
}

#[test]
fn glibc_dynamic_linker() {
    let counts = compare("libc6", &["/lib64/ld-linux-x86-64.so.2"]);
    assert_eq!(counts, [(MMAP, 1), (MUNMAP, 1), (BRK, 1)].into());
}

/// Its allocator asks for more of the heap with system calls of its own.
#[test]
fn musl() {
    let paths = [
        "/lib/ld-musl-x86_64.so.1",
        "/usr/lib/x86_64-linux-musl/libc.so",
    ];
    let counts = compare("musl", &paths);
    assert_eq!((counts[&MMAP], counts[&MREMAP]), (1, 1));
    assert_eq!((counts[&MUNMAP], counts[&BRK]), (2, 4));
    assert_eq!(counts[&MADVISE], 2);
}
