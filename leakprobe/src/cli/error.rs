//! Everything that can be wrong with a command line: one sentence each, that says what was wrong and
//! what to do.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::CommandFactory;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::args::Args;
use crate::report::Format;

/// Options that are each well-formed but make no sense together.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// Neither a process nor a command.
    #[error(
        "nothing to profile: give a process with --pid PID, a container with --container NAME, or a command after `--` (`leakprobe ps` shows what runs)"
    )]
    NoTarget,
    /// Both a process and a command.
    #[error(
        "a running process (--pid, --container) and a command were both given: leave one of them out"
    )]
    TwoTargets,
    /// An option that only concerns a command, without one.
    #[error(
        "{0} only makes sense for a command that leakprobe starts: add `-- COMMAND`, or leave it out"
    )]
    NeedsCommand(&'static str),
    /// `--proc` with a command.
    #[error(
        "--proc only makes sense for processes that run already: a command that leakprobe starts is in /proc; leave it out"
    )]
    ProcOfCommand,
    /// A time of zero.
    #[error("{0} must be longer than zero: write for example `{0} 5s`")]
    ZeroTime(&'static str),
    /// No size can pass.
    #[error(
        "--min-size ({min_size} bytes) is larger than --max-size ({max_size} bytes), so that no block would count: swap them or leave one out"
    )]
    EmptySizes {
        /// Bytes.
        min_size: u64,
        /// Bytes.
        max_size: u64,
    },
    /// An option of the other mode.
    #[error("{option} only makes sense with `--mode {mode}`: leave it out, or choose that mode")]
    OtherMode {
        /// The option.
        option: &'static str,
        /// The mode it belongs to.
        mode: &'static str,
    },
    /// `-q` and `-v`.
    #[error("--quiet and --verbose contradict each other: leave one of them out")]
    QuietAndVerbose,
    /// An extension that names no format.
    #[error("the extension of `{}` names no report format: use one of {}", .0.display(), extensions())]
    UnknownExtension(PathBuf),
    /// Standard output as a report file.
    #[error(
        "`-o -` is not a file: the report is always printed on stdout, and --format json prints it as JSON"
    )]
    OutputIsStdout,
    /// The same file twice.
    #[error("the output `{}` was given twice: give each report its own name", .0.display())]
    SameOutput(PathBuf),
    /// Something after a `%` that stands for nothing.
    #[error(
        "in `{}` there is a % that stands for nothing: there are %p (PID), %t (time), %e (name of the process) and %% (a percent sign)", .0.display()
    )]
    UnknownPlaceholder(PathBuf),
    /// A placeholder where it could not be checked.
    #[error(
        "in `{}` there is a % in the name of a folder: placeholders belong in the name of the file, so that the folder can be checked now", .0.display()
    )]
    PlaceholderInFolder(PathBuf),
    /// A limit on files of which there are none.
    #[error("{0} only makes sense with {1}: add one of them, or leave it out")]
    NothingToKeep(&'static str, &'static str),
    /// What clap found, as one sentence.
    #[error("{0}")]
    Syntax(String),
}

/// The extensions there are, for an error message.
fn extensions() -> String {
    let known: Vec<_> = Format::EXTENSIONS
        .iter()
        .map(|(name, _)| format!(".{name}"))
        .collect();
    known.join(", ")
}

/// Why a command line gives no [`super::Order`].
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// Help or the version was asked for and is inside.
    #[error("{0}")]
    Help(clap::Error),
    /// The command line is wrong.
    #[error(transparent)]
    Usage(#[from] UsageError),
}

impl ParseError {
    /// Tells the user, help on stdout and errors on stderr, and gives the status to exit with:
    /// 0 for help, 2 for wrong usage.
    pub fn report(&self) -> ExitCode {
        match self {
            // A reader that went away (`| head`) is no reason to complain.
            ParseError::Help(text) => {
                let _ = text.print();
                ExitCode::SUCCESS
            }
            ParseError::Usage(error) => {
                eprintln!("error: {error}");
                ExitCode::from(2)
            }
        }
    }
}

impl From<clap::Error> for ParseError {
    fn from(error: clap::Error) -> Self {
        match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ParseError::Help(error),
            _ => UsageError::Syntax(one_sentence(&error)).into(),
        }
    }
}

/// clap's message, the tips that help here, and where to read more, in one line; without the usage
/// that it repeats every time and that buries the reason.
fn one_sentence(error: &clap::Error) -> String {
    let text = error.to_string();
    let mut paragraphs = text.split("\n\n");
    let reason = paragraphs.next().unwrap_or_default();
    let reason = reason.strip_prefix("error: ").unwrap_or(reason);
    let mut parts = vec![reason.split_whitespace().collect::<Vec<_>>().join(" ")];
    parts.extend(
        paragraphs
            .flat_map(str::lines)
            .filter_map(|line| line.trim().strip_prefix("tip: "))
            // clap would have every mistyped option go after `--`, where it becomes a command.
            .filter(|tip| !tip.starts_with("to pass "))
            .map(str::to_string),
    );
    let unexpected = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(word)) if error.kind() == ErrorKind::UnknownArgument => word,
        _ => "",
    };
    if Args::command().find_subcommand(unexpected).is_some() {
        parts.push(format!(
            "write `leakprobe {unexpected}` first and its options after it"
        ));
    } else if !unexpected.is_empty() && !unexpected.starts_with('-') {
        parts.push("a command to run goes after `--`".to_string());
    }
    format!("{} (see `leakprobe --help`)", parts.join("; "))
}
