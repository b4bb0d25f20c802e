//! `cargo xtask`: what cargo cannot do alone. One module per task; this file only names them.

use anyhow::Result;
use clap::{Parser, Subcommand};

/// What cargo cannot do alone, for leakprobe.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {}

fn main() -> Result<()> {
    let cli = Cli::parse();
    match cli.task {}
}
