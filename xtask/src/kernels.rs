//! The core of the end-to-end tests on other kernels than the machine's: a kernel from a Debian
//! package boots in QEMU with an initramfs that holds a static leakprobe, the static tests and the
//! victims. Emulated, because that runs anywhere. It measures nothing; time means nothing in there.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::debian::Release;
use crate::sum::Sum;
use crate::{cmd, image, initramfs, packages, qemu, victims};

/// A kernel to test on.
struct Kernel {
    /// Version, as `uname -r` starts.
    name: &'static str,
    /// Debian release that has it.
    suite: &'static str,
    /// Metapackage that depends on the package with the kernel.
    package: &'static str,
}

/// The matrix.
#[rustfmt::skip]
const KERNELS: &[Kernel] = &[
    Kernel { name: "6.1", suite: "bookworm", package: "linux-image-amd64" },
    Kernel { name: "6.12", suite: "trixie", package: "linux-image-amd64" },
];

/// The programs of tests that run in there.
const TESTS: [&str; 5] = ["victims", "tree", "death", "harm", "growth"];

/// Boot and tests together may take this long.
const LIMIT: Duration = Duration::from_secs(2400);

/// Runs the tests on one kernel or on all, with the committed BPF object or another one.
/// Prints a line `KERNEL 6.1: N passed, M failed` for each. An error only if they could not run.
pub fn run(only: Option<&str>, object: Option<&Path>) -> Result<Sum> {
    let chosen: Vec<&Kernel> = KERNELS
        .iter()
        .filter(|kernel| only.is_none_or(|name| name == kernel.name))
        .collect();
    if chosen.is_empty() {
        let names: Vec<&str> = KERNELS.iter().map(|kernel| kernel.name).collect();
        bail!(
            "there is no such kernel in the list; it has {}",
            names.join(", ")
        );
    }
    packages::ensure(packages::KERNELS)?;
    let fixtures = cmd::fixtures();
    victims::build(&fixtures.join("victims"))?;
    let initrd = fixtures.join("kernels/initramfs");
    let tests = TESTS.map(tests).into_iter().collect::<Result<Vec<_>>>()?;
    initramfs::build(&initrd, &image::program(object)?, &tests)?;

    // Each needs one CPU.
    let sums = std::thread::scope(|scope| {
        let boot = |kernel: &&'static Kernel| {
            let kernel = *kernel;
            let (fixtures, initrd) = (&fixtures, &initrd);
            scope.spawn(move || kernel.test(fixtures, initrd))
        };
        let machines: Vec<_> = chosen.iter().map(boot).collect();
        let ended = machines.into_iter().map(|it| it.join());
        let panicked = |_| bail!("the thread of a kernel panicked");
        ended
            .map(|it| it.unwrap_or_else(panicked))
            .collect::<Vec<_>>()
    });
    let mut total = Sum::default();
    for sum in sums {
        total.add(sum?);
    }
    Ok(total)
}

impl Kernel {
    /// Boots it, and lets it run the tests of an initramfs.
    fn test(&self, fixtures: &Path, initrd: &Path) -> Result<Sum> {
        let name = self.name;
        let image = self.image(&fixtures.join("kernels").join(name))?;
        let outcome = qemu::boot(name, &image, initrd, LIMIT)
            .with_context(|| format!("failed to boot kernel {name}"))?;
        let release = outcome.release.as_deref().unwrap_or("none");
        if !release.starts_with(&format!("{name}.")) {
            bail!("kernel {name} did not get to its tests (release: {release})");
        }
        let Some(exit) = outcome.exit else {
            let limit = LIMIT.as_secs();
            bail!("kernel {name}: the tests did not end within {limit} s");
        };
        let Some(sum) = outcome.sum.filter(|sum| sum.passed > 0) else {
            bail!("kernel {name}: no test passed");
        };
        // A program of tests that is killed has no figures, and its tests are in none.
        if exit != "0" && sum.failed == 0 {
            bail!("kernel {name}: a program of tests did not get to its end (exit status {exit})");
        }
        println!("KERNEL {name}: {sum}");
        Ok(sum)
    }

    /// The kernel's image, downloaded when it is not there.
    fn image(&self, dir: &Path) -> Result<PathBuf> {
        if let Some(image) = find_image(dir) {
            return Ok(image);
        }
        let apt = dir.join("apt");
        let release = Release::open(self.suite, &apt)?;
        let package = release.dependency(self.package)?;
        let unpacked = dir.join("unpacked");
        release.unpack(&package, &unpacked)?;
        let image = find_image(&unpacked.join("boot"))
            .with_context(|| format!("the package `{package}` has no boot/vmlinuz-*"))?;
        let name = image.file_name().context("a kernel has a name")?;
        std::fs::rename(&image, dir.join(name)).context("failed to move the kernel's image")?;
        for scratch in [apt, unpacked] {
            std::fs::remove_dir_all(&scratch)
                .with_context(|| format!("failed to remove `{}`", scratch.display()))?;
        }
        find_image(dir).context("the kernel's image is gone")
    }
}

fn find_image(dir: &Path) -> Option<PathBuf> {
    let entries = dir.read_dir().ok()?.filter_map(|entry| entry.ok());
    entries.map(|entry| entry.path()).find(|path| {
        let name = path.file_name().unwrap_or_default();
        name.to_string_lossy().starts_with("vmlinuz-")
    })
}

/// Builds tests as a program that runs without cargo; its name and where it is.
fn tests(name: &'static str) -> Result<(&'static str, PathBuf)> {
    let mut cargo = cmd::static_cargo(&["test", "--no-run", "--package", "leakprobe-tests"]);
    // Nobody waits for these programs as long as for their compiler.
    cargo.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1");
    cargo.args([
        "--test",
        name,
        "--message-format",
        "json-render-diagnostics",
    ]);
    eprintln!("+ {}", cmd::show(&cargo));
    let messages = cmd::output(cargo.stderr(std::process::Stdio::inherit()))?;
    let path = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == name)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .with_context(|| format!("cargo named no executable for the tests `{name}`"))?;
    Ok((name, path))
}
