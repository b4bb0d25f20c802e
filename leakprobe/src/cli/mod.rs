//! The command line: from words to a checked [`Order`]. Parsing touches nothing but the words
//! themselves; whether the process, the user or the command exist is found out by those who need
//! them. Beside it, what else the words decide: the report files ([`output`]) and how stdout looks.

mod args;
pub mod choosing;
pub mod condition;
mod error;
mod generate;
pub mod output;
pub mod pattern;
mod targets;
mod values;
pub mod watching;

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;

use self::args::{Action, Args};
pub use self::args::{Color, Mode, StdoutFormat};
use self::choosing::Choosing;
pub use self::error::{ParseError, UsageError};
pub use self::generate::{write_completions, write_man};
pub use self::output::{Output, check_files, check_outputs, write_atomically};
use self::targets::PsArgs;
pub use self::targets::Sort;
use self::watching::Watching;
use crate::report;
use crate::target::Selector;
pub use clap_complete::Shell;

/// One page in so many is recorded if nothing else is asked for.
const DEFAULT_SAMPLE_PAGES: u64 = 64;

/// A command line that makes sense.
#[derive(Debug)]
pub struct Order {
    /// Where the procfs is that shows the processes, if not at `/proc`.
    pub proc: Option<PathBuf>,
    /// What to do.
    pub command: Command,
}

/// What to do.
#[derive(Debug)]
pub enum Command {
    /// Record a process and report.
    Record(Box<Config>),
    /// Check the machine and, if given, a process.
    Doctor {
        /// PID as the user sees it.
        pid: Option<u32>,
    },
    /// List processes.
    Ps(PsConfig),
    /// Print the completion script of a shell: [`write_completions`].
    Completions(Shell),
    /// Print the manual page: [`write_man`].
    Man,
}

/// A checked order for a list of processes.
#[derive(Debug, PartialEq, Eq)]
pub struct PsConfig {
    /// Which processes; all, if empty.
    pub selectors: Vec<Selector>,
    /// Between the two looks; above zero.
    pub interval: Duration,
    /// What comes first.
    pub sort: Sort,
    /// Format on stdout.
    pub format: StdoutFormat,
}

/// A checked recording order.
#[derive(Debug, PartialEq, Eq)]
pub struct Config {
    /// What to watch.
    pub source: Source,
    /// Whether to watch what the target starts, too.
    pub follow: Follow,
    /// When to begin, what to leave meanwhile and at the end.
    pub watching: Watching,
    /// What of the stacks is shown, and what of it is a failure.
    pub choosing: Choosing,
    /// When to stop by itself; above zero.
    pub duration: Option<Duration>,
    /// Between prints of the top stacks; above zero.
    pub interval: Duration,
    /// Report files, all different. Empty: one SVG named after the PID.
    pub outputs: Vec<Output>,
    /// Directories with debug information, to be searched first.
    pub debug_dirs: Vec<PathBuf>,
    /// Whether to look up inlined functions and source lines.
    pub inlines: bool,
    /// Stacks to print on stdout.
    pub top: usize,
    /// Blocks younger than this are left out of the live figures.
    pub min_age: Option<Duration>,
    /// Blocks smaller than this are not recorded, bytes.
    pub min_size: u64,
    /// Blocks larger than this are not recorded, bytes; `u64::MAX` when not asked for.
    pub max_size: u64,
    /// What to record.
    pub mode: Mode,
    /// In growth mode one in so many pages is recorded, a power of two.
    pub sample_pages: u64,
    /// Entries of the live-block map; at least 1.
    pub max_live: u32,
    /// One block is recorded in about so many bytes, at most 1 GiB; 0 records every block.
    pub sample_bytes: u64,
    /// What recording may take of the target's CPU time, in hundredths of a percent, 10 to 9000.
    pub max_overhead: Option<u32>,
    /// Whether to tell what the program maps beside its allocator.
    pub mappings: bool,
    /// Whether to stop by itself when the probes take nearly all of the target's time.
    pub guard: bool,
    /// Format of the report on stdout.
    pub stdout_format: StdoutFormat,
    /// Only the final report and errors.
    pub quiet: bool,
    /// More on stderr; never together with `quiet`.
    pub verbose: bool,
    /// When to use colours.
    pub color: Color,
}

impl Config {
    /// How text looks on stdout: as wide as its terminal and in colours, if it is one.
    pub fn stdout_options(&self) -> report::Options {
        report::Options {
            top: self.top,
            color: self.color.enabled(std::io::stdout().is_terminal()),
            width: stdout_width(),
        }
    }

    /// How text looks in a file.
    pub fn file_options(&self) -> report::Options {
        report::Options {
            top: self.top,
            color: false,
            width: report::Options::WIDTH,
        }
    }
}

/// Columns that text may take on stdout.
pub fn stdout_width() -> usize {
    /// In longer lines the eye gets lost.
    const MAX_WIDTH: usize = 160;
    terminal_size::terminal_size_of(std::io::stdout())
        .map_or(report::Options::WIDTH, |(columns, _)| {
            MAX_WIDTH.min(columns.0.into())
        })
}

/// Whether what the target forks and executes is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follow {
    /// It is not.
    No,
    /// It is, where this kernel lets it be.
    ByDefault,
    /// It must be.
    Asked,
}

/// What to watch.
#[derive(Debug, PartialEq, Eq)]
pub enum Source {
    /// Running processes; never empty.
    Processes(Vec<Selector>),
    /// A command to start.
    Command {
        /// Program and arguments; never empty.
        argv: Vec<OsString>,
        /// User to run it as, by name; not yet looked up.
        user: Option<String>,
        /// Exit with the command's own status.
        pass_exit_status: bool,
    },
}

impl Source {
    /// Whether what it starts is part of what is meant.
    fn is_tree(&self) -> bool {
        match self {
            Source::Command { .. } => true,
            Source::Processes(selectors) => selectors
                .iter()
                .any(|it| matches!(it, Selector::Container(_) | Selector::Cgroup(_))),
        }
    }
}

/// Reads the words of a command line, the first being the program's own name.
///
/// Errors: [`ParseError::Help`] when help or the version was asked for, [`ParseError::Usage`]
/// otherwise; [`ParseError::report`] says either to the user.
pub fn parse<T: Into<OsString> + Clone>(
    words: impl IntoIterator<Item = T>,
) -> Result<Order, ParseError> {
    let mut args = Args::try_parse_from(words).map_err(ParseError::from)?;
    let proc = args.proc.take();
    let command = match args.action.take() {
        Some(Action::Doctor { pid }) => Command::Doctor { pid },
        Some(Action::Ps(args)) => Command::Ps(validate_ps(args)?),
        Some(Action::Completions { shell }) => Command::Completions(shell),
        Some(Action::Man) => Command::Man,
        None if proc.is_some() && !args.command.is_empty() => {
            return Err(UsageError::ProcOfCommand.into());
        }
        None => Command::Record(Box::new(validate(args)?)),
    };
    Ok(Order { proc, command })
}

fn validate_ps(args: PsArgs) -> Result<PsConfig, UsageError> {
    if args.interval.is_zero() {
        return Err(UsageError::ZeroTime("--interval"));
    }
    Ok(PsConfig {
        selectors: args.targets.selectors(),
        interval: args.interval,
        sort: args.sort,
        format: args.format,
    })
}

/// Checks what the options mean together.
fn validate(args: Args) -> Result<Config, UsageError> {
    let for_command = [
        (args.user.is_some(), "--user"),
        (args.exit_status_of_command, "--exit-status-of-command"),
    ];
    let needs_command = for_command.iter().find(|(given, _)| *given);
    let selectors = args.targets.selectors();
    let source = match (selectors.is_empty(), args.command.is_empty()) {
        (false, false) => return Err(UsageError::TwoTargets),
        (_, true) if let Some((_, option)) = needs_command => {
            return Err(UsageError::NeedsCommand(option));
        }
        (true, true) => return Err(UsageError::NoTarget),
        (false, true) => Source::Processes(selectors),
        (true, false) => Source::Command {
            argv: args.command,
            user: args.user,
            pass_exit_status: args.exit_status_of_command,
        },
    };
    if args.duration.is_some_and(|duration| duration.is_zero()) {
        return Err(UsageError::ZeroTime("--duration"));
    }
    if args.interval.is_zero() {
        return Err(UsageError::ZeroTime("--interval"));
    }
    let of_heap = [
        (args.follow, "--follow"),
        (args.min_size.is_some(), "--min-size"),
        (args.max_size.is_some(), "--max-size"),
        (args.sample_bytes.is_some(), "--sample-bytes"),
        (args.max_overhead.is_some(), "--max-overhead"),
    ];
    let (others, mode) = match args.mode {
        Mode::Heap => (
            &[(args.sample_pages.is_some(), "--sample-pages")][..],
            "growth",
        ),
        Mode::Growth => (&of_heap[..], "heap"),
    };
    if let Some(&(_, option)) = others.iter().find(|(given, _)| *given) {
        return Err(UsageError::OtherMode { option, mode });
    }
    let (min_size, max_size) = (
        args.min_size.unwrap_or(0),
        args.max_size.unwrap_or(u64::MAX),
    );
    if min_size > max_size {
        return Err(UsageError::EmptySizes { min_size, max_size });
    }
    if args.quiet && args.verbose {
        return Err(UsageError::QuietAndVerbose);
    }
    let mut outputs = Vec::<Output>::new();
    for path in args.outputs {
        let output = Output::new(path)?;
        if outputs
            .iter()
            .any(|other| same_file(&other.path, &output.path))
        {
            return Err(UsageError::SameOutput(output.path));
        }
        outputs.push(output);
    }
    let follow = match (args.mode, args.no_follow) {
        (Mode::Growth, _) | (_, true) => Follow::No,
        (Mode::Heap, false) if args.follow => Follow::Asked,
        (Mode::Heap, false) if source.is_tree() => Follow::ByDefault,
        (Mode::Heap, false) => Follow::No,
    };
    Ok(Config {
        source,
        follow,
        watching: Watching::validate(args.watching)?,
        choosing: args.choosing,
        duration: args.duration,
        interval: args.interval,
        outputs,
        debug_dirs: args.debug_dirs,
        inlines: !args.no_inlines,
        top: args.top as usize,
        min_age: args.min_age,
        min_size,
        max_size,
        max_live: args.max_live,
        sample_bytes: args.sample_bytes.unwrap_or(0),
        mode: args.mode,
        sample_pages: args.sample_pages.unwrap_or(DEFAULT_SAMPLE_PAGES),
        max_overhead: args.max_overhead,
        mappings: !args.no_mappings,
        guard: !args.no_guard,
        stdout_format: args.format,
        quiet: args.quiet,
        verbose: args.verbose,
        color: args.color,
    })
}

/// Whether two paths are spelled as the same file. Links are seen through by [`check_outputs`].
fn same_file(a: &Path, b: &Path) -> bool {
    // `absolute` needs the current directory; where that is gone the spelling has to do.
    match (std::path::absolute(a), std::path::absolute(b)) {
        (Ok(a), Ok(b)) => a == b,
        _ => a == b,
    }
}

#[cfg(test)]
mod tests;
