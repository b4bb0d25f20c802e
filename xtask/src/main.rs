//! `cargo xtask`: what cargo cannot do alone. One module per task; this file only names them.

use anyhow::Result;
use clap::{Parser, Subcommand};

mod cmd;
mod docker;
mod node;
mod packages;

/// What cargo cannot do alone, for leakprobe.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Make the musl Node that the tests profile: a root file system and a Docker image.
    Node,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    match cli.task {
        Task::Node => node::prepare(&cmd::root().join("target/fixtures")),
    }
}
