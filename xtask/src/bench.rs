//! Builds what the benchmarks need and starts them. They are a program of their own (bench/), so
//! that xtask does not have to be built with all of leakprobe.

use std::process::Command;

use anyhow::Result;

use crate::{cmd, node, packages, victims};

/// Benchmarks that have the musl Node as a target.
const WITH_NODE: &[&str] = &["self", "server"];

/// Runs the benchmark program with these arguments. Asks sudo for the rights to attach unless this
/// is root.
pub fn run(arguments: &[String]) -> Result<()> {
    packages::ensure(packages::BENCHMARKS)?;
    victims::build(&cmd::fixtures().join("victims"))?;
    if arguments.iter().any(|it| WITH_NODE.contains(&it.as_str())) {
        packages::ensure(packages::SERVER_BENCHMARKS)?;
        node::prepare(&cmd::fixtures())?;
    }
    let mut build = cmd::workspace_cargo();
    build.args(["build", "--release", "--package", "leakprobe"]);
    cmd::run(build.args(["--package", "leakprobe-bench"]))?;

    let program = cmd::root().join("target/release/leakprobe-bench");
    let mut command = if cmd::is_root() {
        Command::new(program)
    } else {
        let mut sudo = Command::new("sudo");
        sudo.arg("-E").arg(program);
        sudo
    };
    cmd::run(command.args(arguments))
}
