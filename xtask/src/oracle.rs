//! Builds the programs of the unwinder's oracle (tests/oracle). Those on musl run on a stripped copy
//! of the one that `musl` compiles: the oracle knows its unwind information, leakprobe has to do without.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::{cmd, musl};

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
    musl::prepare(&fixtures.join("musl-debug"))?;

    let c = |compiler: &str, standard: &str| {
        let mut command = Command::new(compiler);
        command.arg(standard).args(FLAGS);
        command
    };
    let mut glibc = c("gcc", "-std=gnu11");
    make(&mut glibc, &source("libc.c"), &out.join("libc-glibc"))?;
    for variant in ["O2", "Os"] {
        let full = fixtures.join("musl-debug").join(variant).join("libc.so");
        let musl = strip(&full, &out.join("musl").join(variant))?;
        let mut on_musl = c("musl-gcc", "-std=gnu11");
        on_musl.arg(format!("-Wl,--dynamic-linker={}", musl.display()));
        let program = out.join(format!("libc-musl-{variant}"));
        make(&mut on_musl, &source("libc.c"), &program)?;
    }
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

/// Strips a musl to run programs on, and gives its path.
fn strip(full: &Path, out: &Path) -> Result<PathBuf> {
    fs::create_dir_all(out).with_context(|| format!("failed to create `{}`", out.display()))?;
    let stripped = out.join("libc.so");
    if !is_newer(&stripped, full) {
        cmd::run(Command::new("strip").arg("-o").arg(&stripped).arg(full))?;
    }
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
