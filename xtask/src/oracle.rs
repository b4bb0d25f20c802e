//! Builds the programs of the unwinder's oracle (tests/oracle) and a musl of which the unwind
//! information is known: musl never has any, but built with -g it has debug information from which
//! the oracle takes what the stripped copy, which the programs run on, does not tell leakprobe.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::cmd;
use crate::debian::Release;

/// The release of Debian whose musl it is, as in the musl Node's root file system.
const MUSL: &str = "trixie";

/// What every C and C++ program is compiled with.
const FLAGS: &[&str] = &[
    "-O2",
    "-fomit-frame-pointer",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-pthread",
];

/// Builds all of them into `fixtures/oracle`; what is newer than its source is left alone.
///
/// Errors: a compiler is missing, or something does not compile.
pub fn build(fixtures: &Path) -> Result<()> {
    let out = fixtures.join("oracle");
    fs::create_dir_all(&out).context("failed to create the oracle's folder")?;
    let out = out
        .canonicalize()
        .context("failed to find the oracle's folder")?;
    let sources = cmd::root().join("tests/oracle");
    let source = |name: &str| sources.join(name);
    let musl = musl(&out)?;

    let c = |compiler: &str, standard: &str| {
        let mut command = Command::new(compiler);
        command.arg(standard).args(FLAGS);
        command
    };
    let mut glibc = c("gcc", "-std=gnu11");
    make(&mut glibc, &source("libc.c"), &out.join("libc-glibc"))?;
    let mut on_musl = c("musl-gcc", "-std=gnu11");
    on_musl.arg(format!("-Wl,--dynamic-linker={}", musl.display()));
    make(&mut on_musl, &source("libc.c"), &out.join("libc-musl"))?;
    let mut cpp = c("g++", "-std=c++20");
    make(&mut cpp, &source("cpp.cpp"), &out.join("cpp"))?;
    let mut rust = Command::new(std::env::var_os("RUSTC").unwrap_or("rustc".into()));
    rust.args(["--edition", "2024", "-C", "opt-level=3", "-C", "lto=fat"]);
    rust.args(["-C", "codegen-units=1", "-C", "panic=unwind"]);
    make(&mut rust, &source("lto.rs"), &out.join("lto"))?;
    let java = source("Nested.java");
    if !is_newer(&out.join("Nested.class"), &java) {
        let mut javac = Command::new("javac");
        cmd::run(javac.args(["-nowarn", "-d"]).arg(&out).arg(&java))?;
    }
    Ok(())
}

/// Builds musl, and gives the path of the stripped one.
fn musl(out: &Path) -> Result<PathBuf> {
    let (stripped, full) = (out.join("musl/libc.so"), out.join("musl/libc.so.debug"));
    let stamp = out.join("musl/version");
    if fs::read_to_string(&stamp).is_ok_and(|found| found == MUSL) {
        return Ok(stripped);
    }
    let work = out.join("musl-work");
    let _ = fs::remove_dir_all(&work);
    let tree = work.join("source");
    let release = Release::open(MUSL, &work.join("apt"))?;
    release.unpack_source("musl", &tree)?;
    cmd::run(
        Command::new("./configure")
            .args(["--disable-static", "CFLAGS=-O2 -g"])
            .arg("LDFLAGS=-Wl,--build-id")
            .current_dir(&tree),
    )?;
    cmd::run(
        Command::new("make")
            .args(["-s", "-j2", "lib/libc.so"])
            .current_dir(&tree),
    )?;
    fs::create_dir_all(out.join("musl")).context("failed to create musl's folder")?;
    let built = tree.join("lib/libc.so");
    fs::copy(&built, &full).with_context(|| format!("failed to copy `{}`", built.display()))?;
    let mut strip = Command::new("strip");
    cmd::run(strip.arg("-o").arg(&stripped).arg(&full))?;
    fs::write(&stamp, MUSL).context("failed to write musl's version")?;
    let _ = fs::remove_dir_all(&work);
    Ok(stripped)
}

/// Compiles a source, unless what came of it is newer.
fn make(compiler: &mut Command, source: &Path, out: &Path) -> Result<()> {
    if is_newer(out, source) {
        return Ok(());
    }
    cmd::run(compiler.args([OsStr::new("-o"), out.as_os_str(), source.as_os_str()]))
}

/// Whether a file is newer than its source, than the header they share, and than this task.
fn is_newer(file: &Path, source: &Path) -> bool {
    let modified = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified());
    let header = cmd::root().join("tests/oracle/protocol.h");
    let task = cmd::root().join("xtask/src/oracle.rs");
    let Ok(made) = modified(file) else {
        return false;
    };
    [source, &header, &task]
        .into_iter()
        .all(|path| modified(path).is_ok_and(|time| time < made))
}
