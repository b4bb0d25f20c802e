//! A first look: a small server that leaks (demo/server.c) runs, leakprobe watches it for ten
//! seconds, and a flamegraph is left behind.

use std::process::{Child, Command};

use anyhow::{Context as _, Result};

use crate::{cmd, packages};

/// The flamegraph, in the current directory.
const FLAMEGRAPH: &str = "flamegraph.svg";

/// leakprobe walks frame pointers.
const C_FLAGS: &[&str] = &[
    "-O1",
    "-g",
    "-fno-omit-frame-pointer",
    "-fno-optimize-sibling-calls",
];

/// A process that ends with this program, however this program ends its work.
struct Background(Child);

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs it. Asks sudo for the rights to attach unless this is root.
pub fn run() -> Result<()> {
    packages::ensure(packages::DEMO)?;
    let mut build = cmd::workspace_cargo();
    cmd::run(build.args(["build", "--release", "--package", "leakprobe"]))?;
    let root = cmd::root();
    let server = root.join("target/fixtures/demo-server");
    std::fs::create_dir_all(cmd::fixtures()).context("failed to create target/fixtures")?;
    cmd::run(
        Command::new("cc")
            .args(C_FLAGS)
            .arg(root.join("demo/server.c"))
            .arg("-o")
            .arg(&server),
    )?;

    let leaking = Command::new(&server)
        .spawn()
        .with_context(|| format!("failed to start `{}`", server.display()))?;
    let leaking = Background(leaking);
    let leakprobe = root.join("target/release/leakprobe");
    let mut command = if cmd::is_root() {
        Command::new(leakprobe)
    } else {
        let mut sudo = Command::new("sudo");
        sudo.arg(leakprobe);
        sudo
    };
    command.args(["--pid", &leaking.0.id().to_string()]);
    command.args(["--duration", "10s", "--top", "5", "-o", FLAMEGRAPH]);
    cmd::run(&mut command)?;
    eprintln!("\nopen {FLAMEGRAPH} in a browser");
    Ok(())
}
