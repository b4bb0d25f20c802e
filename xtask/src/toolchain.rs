//! Finds a Rust toolchain that can build for BPF: the target has no prebuilt `core`, so the compiler
//! must come with the library's sources, and the linker borrows an LLVM 22 from it. A rustup nightly
//! with the component rust-src is the usual one; Debian's rustc-web is the one a bare machine can
//! install from its distribution.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::{cmd, packages};

/// Chooses the toolchain: `debian`, or the name of a rustup toolchain.
pub const OVERRIDE: &str = "LEAKPROBE_BPF_TOOLCHAIN";

/// Version of bpf-linker. Later ones must be compiled against LLVM's development files.
const LINKER_VERSION: &str = "0.10.1";
/// Major version of the LLVM that this bpf-linker was made for.
const LLVM_MAJOR: &str = "22";

/// Everything a build of the kernel side is made with.
pub struct Toolchain {
    cargo: PathBuf,
    rustc: PathBuf,
    /// Where the compiler's own files are.
    pub sysroot: PathBuf,
    /// Version of compiler and LLVM; two builds with the same one must give the same bytes.
    pub compiler: String,
    /// Version of the linker.
    pub linker: String,
    /// Holds one link to bpf-linker and one to LLVM.
    tools: PathBuf,
}

impl Toolchain {
    /// Finds a toolchain, or installs one on Debian as root. `tools` is a directory for it to use.
    pub fn find(tools: &Path) -> Result<Toolchain> {
        let sysroot = match std::env::var(OVERRIDE) {
            Ok(name) if name == "debian" => debian()?,
            Ok(name) => rustup_sysroot(&name)
                .filter(|sysroot| is_complete(sysroot))
                .with_context(|| {
                    format!("{OVERRIDE}={name} is not a rustup toolchain with the component rust-src and LLVM {LLVM_MAJOR}")
                })?,
            Err(_) => match rustup_nightly() {
                Some(sysroot) => sysroot,
                None => debian()?,
            },
        };
        let llvm = find_llvm(&sysroot).with_context(|| {
            format!(
                "found no LLVM {LLVM_MAJOR} library of the toolchain in `{}`",
                sysroot.display()
            )
        })?;
        let linker = linker(tools)?;

        // The linker loads the first libLLVM it meets in its library path, of any version, so that
        // path has to hold exactly one. And the compiler must not meet a rustup proxy in PATH.
        let links = tools.join("links");
        let _ = std::fs::remove_dir_all(&links);
        std::fs::create_dir_all(&links)
            .with_context(|| format!("failed to create `{}`", links.display()))?;
        for (file, name) in [(&llvm, "libLLVM.so"), (&linker, "bpf-linker")] {
            std::os::unix::fs::symlink(file, links.join(name))
                .with_context(|| format!("failed to link to `{}`", file.display()))?;
        }

        let rustc = sysroot.join("bin/rustc");
        let verbose = cmd::output(cmd::cargo(&rustc).arg("-vV"))?;
        let llvm_version = verbose
            .lines()
            .find_map(|line| line.strip_prefix("LLVM version: "))
            .unwrap_or("unknown");
        let compiler = format!(
            "{}, LLVM {llvm_version}",
            verbose.lines().next().unwrap_or("unknown")
        );
        Ok(Toolchain {
            cargo: sysroot.join("bin/cargo"),
            rustc,
            sysroot,
            compiler,
            linker: format!("bpf-linker {LINKER_VERSION}"),
            tools: links,
        })
    }

    /// A cargo of this toolchain, allowed to use the unstable flags that building `core` needs.
    pub fn cargo(&self) -> Command {
        let mut path = OsString::from(&self.tools);
        path.push(":");
        path.push(self.rustc.parent().unwrap_or(Path::new("/usr/bin")));
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into()));
        let mut cargo = cmd::cargo(&self.cargo);
        cargo
            .env("PATH", path)
            .env("LD_LIBRARY_PATH", &self.tools)
            .env("RUSTC", &self.rustc)
            .env("RUSTC_BOOTSTRAP", "1");
        cargo
    }
}

fn debian() -> Result<PathBuf> {
    packages::ensure(packages::BPF_TOOLCHAIN).context(
        "found no toolchain that can build for BPF; install one of\n\
         - rustup toolchain install nightly --component rust-src\n\
         - Debian's rustc-web, cargo-web and rust-web-src",
    )?;
    Ok(PathBuf::from("/usr"))
}

fn rustup_nightly() -> Option<PathBuf> {
    let list = cmd::output(cmd::cargo("rustup").args(["toolchain", "list", "--quiet"])).ok()?;
    list.lines()
        .filter(|name| name.starts_with("nightly"))
        .filter_map(rustup_sysroot)
        .find(|sysroot| is_complete(sysroot))
}

fn rustup_sysroot(toolchain: &str) -> Option<PathBuf> {
    let mut rustc = cmd::cargo("rustup");
    rustc.args(["run", toolchain, "rustc", "--print", "sysroot"]);
    cmd::output(&mut rustc).ok().map(PathBuf::from)
}

fn is_complete(sysroot: &Path) -> bool {
    sysroot.join("lib/rustlib/src/rust/library/core").exists() && find_llvm(sysroot).is_some()
}

/// The LLVM library the compiler itself runs on: in its own `lib`, or, for a distribution's
/// compiler, in the multiarch directory below it.
fn find_llvm(sysroot: &Path) -> Option<PathBuf> {
    let lib = sysroot.join("lib");
    let multiarch = lib.join(format!("{}-linux-gnu", std::env::consts::ARCH));
    [lib, multiarch].iter().find_map(|dir| {
        let mut files: Vec<PathBuf> = dir
            .read_dir()
            .ok()?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|file| {
                let name = file.file_name().unwrap_or_default().to_string_lossy();
                name.starts_with(&format!("libLLVM.so.{LLVM_MAJOR}"))
            })
            .collect();
        files.sort();
        files.into_iter().next()
    })
}

/// The right bpf-linker: from PATH, from an earlier installation, or compiled now.
fn linker(tools: &Path) -> Result<PathBuf> {
    let own = tools.join("bin/bpf-linker");
    for file in [cmd::which("bpf-linker"), Some(own.clone())]
        .into_iter()
        .flatten()
    {
        let version = cmd::output(Command::new(&file).arg("--version")).unwrap_or_default();
        if version == format!("bpf-linker {LINKER_VERSION}") {
            return Ok(file);
        }
    }
    let mut install = cmd::workspace_cargo();
    install
        .args([
            "install",
            "bpf-linker",
            "--locked",
            "--version",
            LINKER_VERSION,
            "--root",
        ])
        .arg(tools);
    cmd::run(&mut install)?;
    if !own.is_file() {
        bail!("`cargo install bpf-linker` left no `{}`", own.display());
    }
    Ok(own)
}
