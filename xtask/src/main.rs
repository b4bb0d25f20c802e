//! `cargo xtask`: what cargo cannot do alone. One module per task; this file only names them.

use anyhow::Result;
use clap::{Parser, Subcommand};

mod cmd;
mod ebpf;
mod packages;
mod toolchain;
mod victims;

/// What cargo cannot do alone, for leakprobe.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Rebuild the committed BPF object.
    Ebpf {
        /// Only check that the committed object is what its sources give.
        #[arg(long)]
        check: bool,
    },
    /// Compile the victims of the end-to-end tests into target/fixtures/victims.
    Victims,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    match cli.task {
        Task::Ebpf { check: true } => ebpf::check().map(drop),
        Task::Ebpf { check: false } => ebpf::update(),
        Task::Victims => victims::build(&cmd::fixtures().join("victims")),
    }
}
