//! Debian packages the tasks need. What is missing is installed.

use std::process::Command;

use anyhow::Result;

use crate::cmd;

/// Makes sure that all of these packages are here.
pub fn ensure(packages: &[&str]) -> Result<()> {
    let mut query = Command::new("dpkg-query");
    query.args(["-W", "-f", "${db:Status-Status}\n"]);
    let status = cmd::output(query.args(packages)).unwrap_or_default();
    if status.lines().filter(|line| *line == "installed").count() == packages.len() {
        return Ok(());
    }
    cmd::run(Command::new("apt-get").args(["-q", "update"]))?;
    cmd::run(
        Command::new("apt-get")
            .args(["-q", "install", "-y", "--no-install-recommends"])
            .args(packages)
            .env("DEBIAN_FRONTEND", "noninteractive"),
    )
}
