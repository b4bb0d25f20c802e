//! `leakprobe --pid PID` and `leakprobe -- COMMAND`: the whole pipeline on one screen.

mod command;
mod fate;
mod files;
mod limits;
mod progress;
mod session;
mod snapshots;
mod watch;

use std::fs::File;
use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::cli::{Config, Follow, Mode, Source, StdoutFormat};
use crate::pid_namespace;
use crate::probe::{danger, way};
use crate::report::{self, Format};
use crate::symbolize::{Choice, Profile};
use crate::target::{self, Process, Selection};
use command::Command;
use files::Files;
use progress::Progress;
use session::{Again, Session, Wanted};
use snapshots::Snapshots;

/// What `--fail-on` names holds.
const FAILED_ON: u8 = 3;

/// Records a process and writes its reports. The exit code is 0; 3 if what `--fail-on` names holds; or else the
/// command's own if that was asked for.
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
    files::check(&config.outputs, &config.watching.on_death)?;
    let choice = Choice {
        rank: config.choosing.sort,
        suppressions: limits::suppressions(config.choosing.suppressions.as_deref())?,
    };
    let mut command = match &config.source {
        Source::Processes(_) => None,
        Source::Command { argv, user, .. } => Some(Command::start(argv, user.as_deref())?),
    };
    let Selection {
        processes,
        left_out,
        groups,
    } = match &config.source {
        Source::Processes(selectors) => target::select(selectors)?,
        Source::Command { .. } => Process::open(command.as_ref().map_or(0, Command::pid))?.into(),
    };
    let first = processes.first().map_or(0, Process::pid);
    if config.mode == Mode::Growth && processes.len() > 1 {
        bail!(
            "`--mode growth` records one process, and {} were chosen: name one with `--pid`",
            processes.len()
        );
    }
    let mut files = Files::new(config, first)?;
    let mut snapshots = Snapshots::new(&config.watching)?;

    let mut progress = Progress::new(config.quiet)
        .suggest_sampling(config.mode == Mode::Heap && config.sample_bytes == 0);
    if let Some(sentence) = files.left_out() {
        progress.say(sentence);
    }
    for reason in &left_out {
        progress.say(&format!("warning: left out: {reason}"));
    }
    let (follow, warning) = follows(config)?;
    if let Some(warning) = &warning {
        progress.say(&format!("warning: {warning}"));
    }
    let danger = danger::warning().filter(|_| config.mode == Mode::Heap);
    if let Some(warning) = danger {
        progress.say(&format!("warning: {warning}"));
    }
    let mut wanted = Wanted {
        processes,
        follow,
        notes: left_out
            .into_iter()
            .chain(warning)
            .chain(danger.map(str::to_owned))
            .collect(),
        again: (follow && !groups.is_empty())
            .then(|| -> Again { Box::new(move || groups.processes()) }),
        choice,
    };
    if !config.watching.when.is_empty() {
        match command.as_mut() {
            Some(command) => command.release()?,
            // Nobody should wait for days to learn that it cannot be recorded.
            None => Session::check(&wanted.processes, config)?,
        }
        let conditions = &config.watching.when;
        match watch::wait(&mut wanted, conditions, &mut snapshots, &mut progress).await? {
            Some(why) => wanted.notes.push(why),
            None => return exit_code(command, config),
        }
    }
    let stopped = command.as_mut().filter(|command| !command.is_released());
    let mut session = Session::attach(wanted, stopped, config)?;
    progress.attached(&session);
    if let Some(warning) = pid_namespace::warning(first) {
        progress.say(&format!("warning: {warning}"));
    }
    snapshots.begin();
    session
        .record(
            config,
            &mut progress,
            &mut snapshots,
            &mut files,
            &mut print_interval,
        )
        .await?;
    let profile = session.finish(config.min_age.unwrap_or_default())?;
    progress.clear();

    let written = files.write_final(&profile, config, &mut |path| progress.wrote(path));
    print(&profile, config)?;
    session.wait_for_detach(&mut progress);
    written?;
    if let Some(why) = limits::broken(&profile, &config.choosing.fail_on) {
        eprintln!("failed: {why}");
        return Ok(ExitCode::from(FAILED_ON));
    }
    exit_code(command, config)
}

/// The command's own, if that was asked for.
fn exit_code(command: Option<Command>, config: &Config) -> Result<ExitCode> {
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

/// Whether children are followed; what is to be said if not, although it would be so by itself.
fn follows(config: &Config) -> Result<(bool, Option<String>)> {
    match config.follow {
        Follow::No => Ok((false, None)),
        Follow::Asked => Ok((true, None)),
        Follow::ByDefault => Ok(match way::cannot_follow() {
            None => (true, None),
            Some(why) => (
                false,
                Some(format!("what the target forks is not recorded: {why}")),
            ),
        }),
    }
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
