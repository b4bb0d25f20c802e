//! `cargo xtask`: what cargo cannot do alone. One module per task; this file only names them.

mod victims;

use std::path::{Path, PathBuf};

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
enum Task {
    /// Compiles the victims of the end-to-end tests into target/fixtures/victims.
    Victims,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    match cli.task {
        Task::Victims => victims::build(&fixtures().join("victims")),
    }
}

/// Where fixtures go: built, never committed.
fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/fixtures")
}
