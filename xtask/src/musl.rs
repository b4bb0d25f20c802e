//! musl with its unwind information: Debian's package has none, so it is compiled from Debian's
//! source, verified by apt. Only the tests of unwinding compare with it; nothing runs it.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::debian::Release;
use crate::{cmd, packages};

/// Folder, and how it is optimised: as Debian does, and as musl does by itself, which Alpine keeps.
const VARIANTS: &[(&str, &str)] = &[("O2", "-g -O2"), ("Os", "-g -Os")];

/// Compiles `VARIANT/libc.so` into a folder. What is there already is left alone.
pub fn prepare(out: &Path) -> Result<()> {
    let made = |(variant, _): &(&str, &str)| out.join(variant).join("libc.so").is_file();
    if VARIANTS.iter().all(made) {
        return Ok(());
    }
    packages::ensure(packages::MUSL_DEBUG)?;
    let work = out.join("work");
    let _ = fs::remove_dir_all(&work);
    let source = work.join("source");
    create(&source)?;
    let archive = Release::open("trixie", &work.join("apt"))?.source("musl", &work)?;
    cmd::run(
        Command::new("tar")
            .args(["--extract", "--strip-components=1", "--directory"])
            .arg(&source)
            .arg("--file")
            .arg(&archive),
    )?;
    for (variant, flags) in VARIANTS {
        let build = work.join(variant);
        create(&build)?;
        cmd::run(
            Command::new(source.join("configure"))
                .args(["--disable-static", "--prefix=/usr"])
                .env("CFLAGS", flags)
                .current_dir(&build),
        )?;
        cmd::run(
            Command::new("make")
                .args(["--silent", "--jobs=2", "lib/libc.so"])
                .current_dir(&build),
        )?;
        create(&out.join(variant))?;
        let library = out.join(variant).join("libc.so");
        fs::copy(build.join("lib/libc.so"), &library)
            .with_context(|| format!("failed to write `{}`", library.display()))?;
    }
    fs::remove_dir_all(&work).with_context(|| format!("failed to remove `{}`", work.display()))
}

fn create(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("failed to create `{}`", dir.display()))
}
