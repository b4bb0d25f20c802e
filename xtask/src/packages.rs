//! Debian packages the tasks need, in one table. What is missing is installed on Debian as root;
//! anywhere else the error says what to install. Nothing is ever removed, or upgraded but where a new
//! package asks for it.

use std::path::Path;
use std::process::Command;
use std::sync::Once;

use anyhow::{Result, bail};

use crate::cmd;

/// Rebuilding the BPF object when no rustup toolchain can do it.
pub const BPF_TOOLCHAIN: &[&str] = &["rustc-web", "cargo-web", "rust-web-src", "gcc", "libc6-dev"];

/// Running the tests on other kernels.
pub const KERNELS: &[&str] = &[
    "busybox-static",
    "cpio",
    "dpkg",
    "gcc",
    "libc6-dev",
    "musl-tools",
    "qemu-system-x86",
];
/// Running the tests on this machine.
pub const TESTS: &[&str] = &[
    "bash",
    "binutils",
    "containerd",
    "docker.io",
    "g++",
    "gcc",
    "git",
    "gunicorn",
    "libc6-dev",
    "libjemalloc2",
    "libmimalloc2.0",
    "libtcmalloc-minimal4",
    "libxml2-utils",
    "musl",
    "musl-tools",
    "nginx-light",
    "nodejs",
    "openjdk-17-jdk-headless",
    "php8.2-cli",
    "php8.2-pgsql",
    "podman",
    "postgresql-15",
    "python3",
    "redis-server",
    "sqlite3",
    "unicorn",
    "util-linux",
    "wrk",
    "xz-utils",
];
/// Compiling musl with unwind information.
pub const MUSL_DEBUG: &[&str] = &["gcc", "libc6-dev", "make", "tar"];
/// Running the benchmarks.
pub const BENCHMARKS: &[&str] = &["bpftrace", "gcc", "libc6-dev", "musl-tools"];
/// Running those of them that have a server.
pub const SERVER_BENCHMARKS: &[&str] = &["util-linux", "wrk"];
/// Running the demonstration.
pub const DEMO: &[&str] = &["gcc", "libc6-dev"];

/// Debian package, and what shows that it is here: a command, or the path of a file.
const MARKERS: &[(&str, &str)] = &[
    ("binutils", "objdump"),
    ("bpftrace", "bpftrace"),
    ("cargo-web", "/usr/bin/cargo"),
    ("containerd", "ctr"),
    ("cpio", "cpio"),
    (
        "debian-archive-keyring",
        "/usr/share/keyrings/debian-archive-keyring.gpg",
    ),
    ("docker.io", "dockerd"),
    ("dpkg", "dpkg-deb"),
    ("g++", "g++"),
    ("gcc", "gcc"),
    ("git", "git"),
    ("libc6-dev", "/usr/include/stdlib.h"),
    ("libxml2-utils", "/usr/bin/xmllint"),
    ("make", "make"),
    ("musl-tools", "musl-gcc"),
    ("nginx-light", "/usr/sbin/nginx"),
    ("nodejs", "/usr/bin/node"),
    ("openjdk-17-jdk-headless", "/usr/bin/javac"),
    ("php8.2-cli", "/usr/bin/php8.2"),
    ("php8.2-pgsql", "/usr/lib/php/20220829/pgsql.so"),
    ("podman", "podman"),
    ("postgresql-15", "/usr/lib/postgresql/15/bin/postgres"),
    ("python3", "/usr/bin/python3"),
    ("qemu-system-x86", "qemu-system-x86_64"),
    ("rust-web-src", "/usr/lib/rustlib/src/rust/library/core"),
    ("rustc-web", "/usr/bin/rustc"),
    ("sqlite3", "/usr/bin/sqlite3"),
    ("tar", "tar"),
    ("util-linux", "setpriv"),
    ("wrk", "wrk"),
    ("xz-utils", "xz"),
];

/// Makes sure that all of these packages, or the same programs from elsewhere, are here.
pub fn ensure(packages: &[&str]) -> Result<()> {
    let missing = missing(packages);
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if cmd::which("apt-get").is_none() {
        bail!("these programs are missing (names of Debian packages): {list}");
    }
    if !cmd::is_root() {
        bail!(
            "these packages are missing: {list}\nrun: sudo apt-get install --no-install-recommends {list}"
        );
    }
    static UPDATE: Once = Once::new();
    let mut updated = Ok(());
    UPDATE.call_once(|| updated = cmd::run(Command::new("apt-get").args(["-q", "update"])));
    updated?;
    cmd::run(
        Command::new("apt-get")
            .args(["-q", "install", "-y", "--no-install-recommends"])
            .args(&missing)
            .env("DEBIAN_FRONTEND", "noninteractive"),
    )?;
    let missing = self::missing(packages);
    if !missing.is_empty() {
        bail!("still missing after installing: {}", missing.join(" "));
    }
    Ok(())
}

fn missing<'a>(packages: &[&'a str]) -> Vec<&'a str> {
    packages
        .iter()
        .copied()
        .filter(|package| !is_here(package))
        .collect()
}

fn is_here(package: &str) -> bool {
    match MARKERS.iter().find(|(name, _)| *name == package) {
        Some((_, file)) if file.starts_with('/') => Path::new(file).exists(),
        Some((_, command)) => cmd::which(command).is_some(),
        None => {
            let mut query = Command::new("dpkg-query");
            query.args(["-W", "-f", "${db:Status-Status}", package]);
            cmd::output(&mut query).is_ok_and(|status| status == "installed")
        }
    }
}
