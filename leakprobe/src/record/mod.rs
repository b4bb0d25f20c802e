//! `leakprobe --pid PID` and `leakprobe -- COMMAND`: the whole pipeline on one screen.

mod command;
mod progress;
mod session;

use std::fs::File;
use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::cli::{self, Config, Mode, Output, Source, StdoutFormat};
use crate::report::{self, Format};
use crate::symbolize::Profile;
use crate::target::Process;
use command::Command;
use progress::Progress;
use session::Session;

/// Records a process and writes its reports. The exit code is 0, or the command's own if that was
/// asked for.
///
/// # Errors
///
/// One sentence on what could not be done and what to do about it. No report is written then.
pub fn run(config: &Config) -> Result<ExitCode> {
    require_descriptors()?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to start the event loop")?
        .block_on(pipeline(config))
}

async fn pipeline(config: &Config) -> Result<ExitCode> {
    cli::check_outputs(&config.outputs)?;
    let mut command = match &config.source {
        Source::Pid(_) => None,
        Source::Command { argv, user, .. } => Some(Command::start(argv, user.as_deref())?),
    };
    let process = match &config.source {
        Source::Pid(pid) => Process::open(*pid)?,
        Source::Command { .. } => Process::open(command.as_ref().map_or(0, Command::pid))?,
    };
    let outputs = match config.outputs.as_slice() {
        [] => vec![Output::default_for(process.pid())],
        outputs => outputs.to_vec(),
    };
    cli::check_outputs(&outputs)?;

    let mut progress = Progress::new(config.quiet)
        .suggest_sampling(config.mode == Mode::Heap && config.sample_bytes == 0);
    let mut session = Session::attach(process, command.as_mut(), config)?;
    progress.attached(&session);
    session
        .record(config, &mut progress, &mut print_interval)
        .await?;
    let profile = session.finish(config.min_age.unwrap_or_default())?;
    progress.clear();

    for output in &outputs {
        write(&profile, output, config)?;
        progress.say(&format!("wrote {}", output.path.display()));
    }
    print(&profile, config)?;
    session.wait_for_detach(&mut progress);
    match (command, &config.source) {
        (
            Some(command),
            Source::Command {
                pass_exit_status: true,
                ..
            },
        ) => command.wait(),
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn write(profile: &Profile, output: &Output, config: &Config) -> Result<()> {
    cli::write_atomically(&output.path, |out| {
        report::write(output.format, profile, config.file_options(), out)
    })
}

fn print(profile: &Profile, config: &Config) -> Result<()> {
    let format = match config.stdout_format {
        StdoutFormat::Json => Format::Json,
        StdoutFormat::Text => Format::Text,
    };
    let mut out = io::stdout().lock();
    report::write(format, profile, config.stdout_options(), &mut out)
        .and_then(|()| out.flush())
        .or_else(ignore_closed)
        .context("failed to write the report to stdout")
}

fn print_interval(profile: &Profile, config: &Config) -> Result<()> {
    if config.quiet || config.stdout_format == StdoutFormat::Json {
        return Ok(()); // one JSON document, not several
    }
    let mut out = io::stdout().lock();
    report::text::write_top(profile, config.stdout_options(), &mut out)
        .and_then(|()| out.flush())
        .or_else(ignore_closed)
        .context("failed to write to stdout")
}

/// The event loop opens descriptors of its own where it cannot report a failure.
fn require_descriptors() -> Result<()> {
    (0..16)
        .map(|_| File::open("/dev/null"))
        .collect::<io::Result<Vec<_>>>()
        .map(drop)
        .context("too few file descriptors are left: allow more with `ulimit -n 1024`")
}

/// A reader that went away (`| head`) is no failure.
fn ignore_closed(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Ok(()),
        _ => Err(error),
    }
}
