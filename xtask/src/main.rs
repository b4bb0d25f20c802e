//! `cargo xtask`: what cargo cannot do alone. One module per task; this file only names them.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

mod bench;
mod cmd;
mod debian;
mod demo;
mod docker;
mod ebpf;
mod image;
mod initramfs;
mod kernels;
mod musl;
mod node;
mod oracle;
mod packages;
mod qemu;
mod sum;
mod test;
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
    /// Profile a real leaking program for ten seconds and leave flamegraph.svg here.
    Demo,
    /// Install what the tests need, and run all tests. Those that attach need root.
    Test(test::Options),
    /// Run the core of the tests on other kernels in QEMU.
    Kernels {
        /// Version of the only kernel to run, such as 6.1.
        name: Option<String>,
        /// BPF object to test instead of the committed one.
        #[arg(long)]
        object: Option<PathBuf>,
    },
    /// Rebuild the committed BPF object.
    Ebpf {
        /// Only check that the committed object is what its sources give.
        #[arg(long)]
        check: bool,
    },
    /// Measure what leakprobe costs: `pair`, `peer`, `scale`, `server` and `unwind` its target, `neighbour`
    /// a process beside it, `report` and `self` itself. Needs root.
    #[command(disable_help_flag = true)]
    Bench {
        /// The benchmark and its options; `--help` lists them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        arguments: Vec<String>,
    },
    /// Compile the victims of the end-to-end tests into target/fixtures/victims.
    Victims,
    /// Build the programs whose stacks the tests compare with another unwinder's.
    Oracle,
    /// Make the musl Node that the tests profile: a root file system and a Docker image.
    Node,
    /// Build the container image leakprobe:VERSION, FROM scratch, and for the tests one of the victims.
    Image,
    /// Compile musl with unwind information, for the tests of rules made of instructions.
    MuslDebug,
}

fn main() -> ExitCode {
    match run(Cli::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    match task {
        Task::Demo => demo::run(),
        Task::Test(options) => test::run(&options),
        Task::Kernels { name, object } => {
            kernels::run(name.as_deref(), object.as_deref())?.into_result()
        }
        Task::Ebpf { check: true } => ebpf::check().map(drop),
        Task::Ebpf { check: false } => ebpf::update(),
        Task::Bench { arguments } => bench::run(&arguments),
        Task::Victims => victims::build(&cmd::fixtures().join("victims")),
        Task::MuslDebug => musl::prepare(&cmd::fixtures().join("musl-debug")),
        Task::Oracle => oracle::build(&cmd::fixtures()),
        Task::Image => {
            image::victims(&cmd::fixtures())?;
            image::build(None)
        }
        Task::Node => node::prepare(&cmd::fixtures()),
    }
}
