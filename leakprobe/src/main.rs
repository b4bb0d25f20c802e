//! The command `leakprobe`: parses its arguments, does what they say, and turns the outcome into
//! an exit code: 0 report written, 1 failed, 2 wrong usage.

use std::io;
use std::process::ExitCode;

use anyhow::{Context, Result};
use leakprobe::cli::{self, Command};
use leakprobe::{doctor, overhead, record};

fn main() -> ExitCode {
    // Not for people, and so not among the subcommands.
    let mut words = std::env::args_os().skip(1);
    if words.next().is_some_and(|word| word == overhead::CHILD) {
        let ended = overhead::run_child(&words.next().unwrap_or_default().to_string_lossy());
        return ended.map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS);
    }
    let command = match cli::parse(std::env::args_os()) {
        Ok(command) => command,
        Err(error) => return error.report(),
    };
    match run(&command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: &Command) -> Result<ExitCode> {
    let mut out = io::stdout().lock();
    match command {
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
