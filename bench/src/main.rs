//! What leakprobe costs: `pair`, `peer`, `scale`, `server` and `unwind` measure the target, `neighbour` a
//! process beside it, `report` and `self` leakprobe itself.
//!
//! A program of its own, not a part of xtask, because it uses the library that leakprobe is made of
//! and xtask has to stay quick to build. How to read the figures is in docs/performance.md.

mod floor;
mod goal;
mod machine;
mod neighbour;
mod own;
mod pair;
mod peer;
mod report;
mod scale;
mod server;
mod unwind;
mod wrk;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use goal::Goals;
use machine::Processors;

/// What leakprobe costs.
#[derive(Parser)]
#[command(name = "cargo xtask bench")]
struct Cli {
    #[command(subcommand)]
    benchmark: Benchmark,
    /// End with 1 if a goal is missed.
    #[arg(long, global = true)]
    check: bool,
}

#[derive(Subcommand)]
enum Benchmark {
    /// A malloc+free pair unprobed, under empty probes, and under leakprobe.
    Pair(pair::Options),
    /// A process beside one that is recorded, with the same libc: whether it pays for that.
    Neighbour(neighbour::Options),
    /// A malloc+free pair under a script of bpftrace that does the same, beside leakprobe.
    Peer(peer::Options),
    /// The report of a million live blocks: how long it takes, and in how much memory.
    Report(report::Options),
    /// Many threads, and many processes at once: whether a malloc+free pair costs more then.
    Scale(scale::Options),
    /// Leakprobe itself: attaching, detaching, CPU time, memory.
    #[command(name = "self")]
    Own(own::Options),
    /// A Node HTTP server in a container: the requests per second that it keeps under each mode.
    Server(server::Options),
    /// A frame of the stack, measured by an empty probe.
    Unwind(unwind::Options),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli.benchmark) {
        Ok(goals) if cli.check && !goals.reached() => ExitCode::FAILURE,
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(benchmark: &Benchmark) -> Result<Goals> {
    println!("{}", machine::describe()?);
    let processors = Processors::read()?;
    let goals = match benchmark {
        Benchmark::Neighbour(options) => neighbour::run(options)?,
        Benchmark::Pair(options) => pair::run(options)?,
        Benchmark::Peer(options) => peer::run(options)?,
        Benchmark::Report(options) => report::run(options)?,
        Benchmark::Scale(options) => scale::run(options)?,
        Benchmark::Own(options) => own::run(options)?,
        Benchmark::Server(options) => server::run(options)?,
        Benchmark::Unwind(options) => unwind::run(options)?,
    };
    let stolen = processors.stolen_since()?;
    println!("\nthe host took {stolen:.1} % of the processor time that was wanted");
    print!("\n{goals}");
    Ok(goals)
}
