//! Running other programs: every task does it, and every failure has to say which command failed
//! and how. Knows nothing about any task.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// The directory of the workspace.
pub fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_path_buf()
}

/// The program and its arguments as one would type them.
pub fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Runs a command to its end. An error unless it succeeds.
pub fn run(command: &mut Command) -> Result<()> {
    eprintln!("+ {}", show(command));
    let status = command
        .status()
        .with_context(|| format!("failed to start `{}`", show(command)))?;
    if !status.success() {
        bail!("`{}` failed ({status})", show(command));
    }
    Ok(())
}

/// Runs a command to its end and returns its trimmed standard output. An error, with the command's
/// standard error, unless it succeeds.
pub fn output(command: &mut Command) -> Result<String> {
    let out = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("failed to start `{}`", show(command)))?;
    if !out.status.success() {
        let stderr = String::from_utf8_lossy(&out.stderr);
        bail!("`{}` failed ({}): {stderr}", show(command), out.status);
    }
    Ok(String::from_utf8_lossy(&out.stdout).trim().to_string())
}

/// A cargo to start from inside `cargo xtask`. The outer cargo and rustup hand down variables that
/// choose a toolchain, flags and directories; none of that must reach another build.
pub fn cargo(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        let location = ["CARGO_HOME", "RUSTUP_HOME", "RUST_BACKTRACE"].contains(&&*name);
        let network = [
            "CARGO_HTTP",
            "CARGO_NET",
            "CARGO_REGISTR",
            "CARGO_SOURCE",
            "RUSTUP_AUTO",
        ]
        .iter()
        .any(|prefix| name.starts_with(prefix));
        if (name.starts_with("CARGO") || name.starts_with("RUST")) && !location && !network {
            command.env_remove(&*name);
        }
    }
    command.env_remove("LD_LIBRARY_PATH");
    command
}

/// The cargo that runs this xtask, for builds of the workspace with the same toolchain.
pub fn workspace_cargo() -> Command {
    let mut command = cargo(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    // `CARGO` is the toolchain's own binary: the compiler beside it, not a proxy's choice.
    if let Some(toolchain) = std::env::var_os("RUSTUP_TOOLCHAIN") {
        command.env("RUSTUP_TOOLCHAIN", toolchain);
    }
    command
}

/// The only target there are static programs for.
const STATIC_TARGET: &str = "x86_64-unknown-linux-gnu";

/// A cargo whose programs need no libc beside them. Its first word is the command.
pub fn static_cargo(words: &[&str]) -> Command {
    let mut cargo = workspace_cargo();
    cargo
        .args(words)
        .args(["--release", "--target", STATIC_TARGET]);
    // With a target given, the flag does not reach build scripts and macros, which cannot have it.
    cargo.env("RUSTFLAGS", "-C target-feature=+crt-static");
    cargo.env("CARGO_PROFILE_RELEASE_DEBUG", "false");
    cargo.arg("--target-dir").arg(static_dir());
    cargo
}

/// Where its programs are.
pub fn static_release() -> PathBuf {
    static_dir().join(STATIC_TARGET).join("release")
}

fn static_dir() -> PathBuf {
    root().join("target/static")
}

/// Finds a program in the directories of PATH.
pub fn which(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// Whether this process is root.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Where fixtures go: built, never committed.
pub fn fixtures() -> PathBuf {
    root().join("target/fixtures")
}
