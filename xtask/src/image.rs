//! leakprobe as a container image, FROM scratch and without a registry, and the image with the victims
//! that the tests run beside it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

use crate::{cmd, docker, packages, victims};

/// Name and version of the image.
const IMAGE: &str = concat!("leakprobe:", env!("CARGO_PKG_VERSION"));

/// What the tests run in a container, and where they find it.
const VICTIMS: &str = "leakprobe-victims:1";
const VICTIMS_FILES: &[(&str, &str)] = &[
    ("/lib/ld-musl-x86_64.so.1", "lib/ld-musl-x86_64.so.1"),
    ("/bin/busybox", "bin/busybox"),
];
const VICTIMS_FLAVORS: &[&str] = &["musl", "musl-static"];

/// Builds the static program and the image `leakprobe:VERSION` of it, with the committed BPF object
/// or another one.
pub fn build(object: Option<&Path>) -> Result<()> {
    docker::ensure_daemon(&cmd::fixtures().join("dockerd.log"))?;
    let program = program(object)?;
    let context = cmd::root().join("target/image");
    renew(&context)?;
    copy(&program, &context.join("leakprobe"))?;
    // With BuildKit or without: nothing in it needs either.
    cmd::run(
        Command::new("docker")
            .args(["build", "--quiet", "--network", "none", "--tag", IMAGE])
            .arg("--file")
            .arg(cmd::root().join("packaging/Containerfile"))
            .arg(&context),
    )?;
    let size = fs::metadata(&program).context("failed to look at leakprobe")?;
    eprintln!("{IMAGE}: {:.1} MiB", size.len() as f64 / (1 << 20) as f64);
    Ok(())
}

/// leakprobe without a libc beside it.
pub fn program(object: Option<&Path>) -> Result<PathBuf> {
    let mut cargo = cmd::static_cargo(&["build", "--package", "leakprobe", "--bin", "leakprobe"]);
    cargo.env("CARGO_PROFILE_RELEASE_STRIP", "symbols");
    if let Some(object) = object {
        let object = object
            .canonicalize()
            .with_context(|| format!("failed to find `{}`", object.display()))?;
        cargo.env("LEAKPROBE_BPF_OBJECT", object);
    }
    cmd::run(&mut cargo)?;
    Ok(cmd::static_release().join("leakprobe"))
}

/// Imports the victims as an image, in which they are in `/victims`, as they are on the machine.
pub fn victims(fixtures: &Path) -> Result<()> {
    packages::ensure(&["busybox-static", "musl"])?;
    victims::build(&fixtures.join("victims"))?;
    docker::ensure_daemon(&fixtures.join("dockerd.log"))?;
    let rootfs = fixtures.join("victims-rootfs");
    renew(&rootfs)?;
    for dir in ["dev", "etc", "proc", "sys", "tmp"] {
        create(&rootfs.join(dir))?;
    }
    for (from, to) in VICTIMS_FILES {
        copy(Path::new(from), &rootfs.join(to))?;
    }
    for flavor in VICTIMS_FLAVORS {
        let from = fixtures.join("victims").join(flavor);
        let entries = fs::read_dir(&from);
        let entries = entries.with_context(|| format!("failed to list `{}`", from.display()))?;
        for entry in entries {
            let entry = entry.context("failed to list the victims")?;
            let to = rootfs.join("victims").join(flavor).join(entry.file_name());
            copy(&entry.path(), &to)?;
        }
    }
    docker::import(&rootfs, VICTIMS, &hash(&rootfs)?)
}

/// Of the names and contents of all files.
fn hash(folder: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let mut entries =
            entries.with_context(|| format!("failed to list `{}`", folder.display()))?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            hash.update(entry.file_name().as_encoded_bytes());
            match path.is_dir() {
                true => folders.push(path),
                false => hash.update(
                    fs::read(&path)
                        .with_context(|| format!("failed to read `{}`", path.display()))?,
                ),
            }
        }
    }
    let bytes = hash.finalize();
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// An empty folder.
fn renew(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)
            .with_context(|| format!("failed to remove `{}`", folder.display()))?;
    }
    create(folder)
}

fn create(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("failed to create `{}`", folder.display()))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    create(to.parent().unwrap_or(to))?;
    fs::copy(from, to)
        .map(drop)
        .with_context(|| format!("failed to copy `{}`", from.display()))
}
