//! All tests: unit tests, end-to-end tests on this machine, and their core on other kernels; with
//! the committed BPF object and, when its bytes differ, with a rebuilt one. Sums up what ran.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::ebpf::{self, Rebuilt};
use crate::sum::Sum;
use crate::{cmd, image, kernels, musl, node, oracle, packages, victims};

/// What to leave out, and what to test.
#[derive(clap::Args)]
pub struct Options {
    /// Do not boot other kernels.
    #[arg(long)]
    no_kernels: bool,
    /// Test this BPF object, and neither the committed one nor one rebuilt from source.
    #[arg(long)]
    object: Option<PathBuf>,
}

/// Runs them, and prints `N passed, M failed` over all of them alone on the last line.
pub fn run(options: &Options) -> Result<()> {
    packages::ensure(packages::TESTS)?;
    victims::build(&cmd::fixtures().join("victims"))?;
    node::prepare(&cmd::fixtures())?;
    image::victims(&cmd::fixtures())?;
    musl::prepare(&cmd::fixtures().join("musl-debug"))?;
    oracle::build(&cmd::fixtures())?;

    let mut total = Sum::default();
    for object in objects(options.object.as_deref())? {
        let object = object.as_deref();
        total.add(here(object)?);
        total.add(at_length(object, !options.no_kernels)?);
    }
    println!("{total}");
    total.into_result()
}

/// The BPF objects to test; `None` is the committed one.
fn objects(chosen: Option<&Path>) -> Result<Vec<Option<PathBuf>>> {
    if let Some(object) = chosen {
        let object = object
            .canonicalize()
            .with_context(|| format!("failed to find `{}`", object.display()))?;
        return Ok(vec![Some(object)]);
    }
    Ok(match ebpf::check()? {
        Rebuilt::Identical => {
            eprintln!("the rebuilt BPF object is the committed one: testing it once");
            vec![None]
        }
        Rebuilt::OtherCompiler(object) => {
            eprintln!("testing the committed BPF object and the rebuilt one");
            vec![None, Some(object)]
        }
    })
}

/// A cargo with arguments, which builds with a BPF object.
fn cargo(object: Option<&Path>, words: &[&str]) -> Command {
    let mut cargo = cmd::workspace_cargo();
    cargo.args(words);
    if let Some(object) = object {
        cargo.env("LEAKPROBE_BPF_OBJECT", object);
    }
    cargo
}

/// Runs what cargo knows to be tests, but not [`LONG`], with victims and a leakprobe in release mode.
fn here(object: Option<&Path>) -> Result<Sum> {
    let cargo = |words: &[&str]| cargo(object, words);
    cmd::run(&mut cargo(&[
        "build",
        "--release",
        "--package",
        "leakprobe",
    ]))?;
    image::build(object)?;

    let mut sum = run_tests(cargo(&[
        "test",
        "--workspace",
        "--release",
        "--no-fail-fast",
        "--",
        "--skip",
        LONG.test,
    ]))?;
    // Older kernels than this one may have no other way to attach.
    let mut single = cargo(&["test", "--release", "--package", "leakprobe-tests"]);
    single
        .args(["--test", "victims"])
        .env("LEAKPROBE_ATTACH", "single");
    eprintln!("the victims once more, with each probe attached on its own");
    sum.add(run_tests(single)?);
    Ok(sum)
}

/// The test that waits most of its time.
const LONG: Long = Long {
    program: "steady",
    test: "no_leak_is_told_of_programs_that_do_not_leak",
};

struct Long {
    program: &'static str,
    test: &'static str,
}

/// Runs [`LONG`], and the tests on other kernels beside it.
fn at_length(object: Option<&Path>, kernels: bool) -> Result<Sum> {
    let arguments = [
        "test",
        "--release",
        "--package",
        "leakprobe-tests",
        "--test",
    ];
    let mut long = cargo(object, &arguments);
    long.arg(LONG.program);
    let (long, others) = std::thread::scope(|scope| {
        let long = scope.spawn(|| run_tests(long));
        let others = match kernels {
            true => kernels::run(None, object),
            false => Ok(Sum::default()),
        };
        (long.join(), others)
    });
    let mut sum = long.unwrap_or_else(|_| bail!("the thread of the long test panicked"))?;
    sum.add(others?);
    Ok(sum)
}

/// Runs `cargo test` and sums up what its programs say.
fn run_tests(mut tests: Command) -> Result<Sum> {
    tests
        .env(
            "LEAKPROBE_BIN",
            cmd::root().join("target/release/leakprobe"),
        )
        .env("LEAKPROBE_VICTIMS", cmd::fixtures().join("victims"))
        .env("LEAKPROBE_FIXTURES", cmd::fixtures())
        .stdout(Stdio::piped());
    if !cmd::is_root() {
        tests.env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER", "sudo -E");
    }
    eprintln!("+ {}", cmd::show(&tests));
    let mut running = tests.spawn().context("failed to start cargo")?;
    let stdout = running.stdout.take().context("cargo has no output")?;
    let mut sum = Sum::default();
    for line in BufReader::new(stdout).lines() {
        let line = line.context("failed to read the tests' output")?;
        println!("{line}");
        if let Some(part) = Sum::parse(&line) {
            sum.add(part);
        }
    }
    let status = running.wait().context("failed to wait for cargo")?;
    if !status.success() && sum.failed == 0 {
        bail!("`{}` failed ({status})", cmd::show(&tests));
    }
    Ok(sum)
}
