//! The command `leakprobe`: parses its arguments, does what they say, and turns the outcome into
//! an exit code: 0 report written, 1 failed, 2 wrong usage.

use std::io;
use std::process::ExitCode;

use anyhow::{Context, Result};
use leakprobe::cli::{self, Command, Order};
use leakprobe::probe::{guardian, tree};
use leakprobe::target::proc_fs::{self, Shows};
use leakprobe::{doctor, overhead, pid_namespace, ps, record};

fn main() -> ExitCode {
    // Not for people, and so not among the subcommands.
    let mut words = std::env::args_os().skip(1);
    let (first, second) = (words.next().unwrap_or_default(), words.next());
    let second = second.unwrap_or_default();
    let child = match first.to_str() {
        Some(overhead::CHILD) => Some(overhead::run_child(&second.to_string_lossy())),
        Some(guardian::GUARDIAN) => Some(guardian::run_guardian(&second.to_string_lossy())),
        Some(tree::GUARDIAN) => Some(tree::run_guardian(&second.to_string_lossy())),
        _ => None,
    };
    if let Some(ended) = child {
        return ended.map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS);
    }
    let order = match cli::parse(std::env::args_os()) {
        Ok(order) => order,
        Err(error) => return error.report(),
    };
    match run(&order) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(order: &Order) -> Result<ExitCode> {
    if let Some(path) = &order.proc
        && let Shows::Other(namespace) = proc_fs::choose(path)?
    {
        return pid_namespace::enter(&namespace);
    }
    let mut out = io::stdout().lock();
    match &order.command {
        Command::Record(config) => {
            drop(out);
            if config.verbose {
                env_logger::Builder::new()
                    .filter_level(log::LevelFilter::Warn)
                    .filter_module("leakprobe", log::LevelFilter::Debug)
                    .init();
            }
            record::run(config)
        }
        Command::Doctor { pid } => Ok(match doctor::run(*pid, &mut out)? {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        }),
        Command::Ps(config) => {
            ps::run(config, &mut out)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Completions(shell) => {
            cli::write_completions(*shell, &mut out).context("failed to write to stdout")?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Man => {
            cli::write_man(&mut out).context("failed to write to stdout")?;
            Ok(ExitCode::SUCCESS)
        }
    }
}
