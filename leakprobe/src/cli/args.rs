//! The raw command line, as clap reads it. Only what concerns a single option is checked here;
//! what options mean together is checked by [`super::validate`].

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum, ValueHint, value_parser};
use clap_complete::Shell;

use super::choosing::Choosing;
use super::targets::{PsArgs, TargetArgs};
use super::values;
use super::watching::WatchingArgs;

/// Most live blocks that can be asked for: the kernel refuses hash maps whose bucket array, a power
/// of two of 16-byte buckets, does not fit in 4 GiB (`htab_map_alloc` in kernel/bpf/hashtab.c).
const MAX_LIVE_LIMIT: i64 = 1 << 27;

/// Examples at the end of `--help` and in the manual page: command and purpose.
pub const EXAMPLES: &[(&str, &str)] = &[
    (
        "sudo leakprobe --pid 1234",
        "Watch process 1234 until Ctrl-C, then print the top stacks and write leakprobe-1234.svg.",
    ),
    (
        "sudo leakprobe --pid 1234 --duration 5m --min-age 1m -o leak.svg -o leak.json",
        "Watch it for five minutes; count only what has been live for a minute, and write two reports.",
    ),
    (
        "sudo leakprobe --user www-data -o php.svg -- php -S 127.0.0.1:8000",
        "Start a command as another user and watch it from its first instruction.",
    ),
    (
        "sudo leakprobe ps --sort growth",
        "List all processes with their containers, those that grow the most first.",
    ),
    (
        "sudo leakprobe --container web",
        "Watch all processes of the container `web`.",
    ),
    (
        "sudo leakprobe --pid 1234 --when 'rss>500MiB' --on-death /var/tmp/%e-%p-%t.svg",
        "Leave process 1234 alone until it has 500 MiB, then record it; if it ends by itself, write a file for that.",
    ),
    (
        "sudo leakprobe doctor --pid 1234",
        "Say whether process 1234 can be profiled on this machine, and if not, what is missing.",
    ),
];

/// Exit statuses and what they mean.
pub const EXIT_STATUS: &[(&str, &str)] = &[
    (
        "0",
        "The report was written. It may be PARTIAL, or shorter than asked for (--no-guard); then it says why. \
         Or leakprobe was asked to stop (Ctrl-C, SIGTERM) before what --when waits for; then there is none.",
    ),
    ("1", "Something failed; the reason is on stderr."),
    ("2", "The command line was wrong."),
    (
        "3",
        "The report was written, and what --fail-on names holds; the reason is on stderr.",
    ),
];

/// Find what a running process has allocated and not freed, by stack.
///
/// Attaches to a running, unmodified process, in a container or not, or starts a command, and
/// records each block that its allocator gives out and takes back. At the end it prints the stacks
/// that hold the most memory on stdout, and draws them as a flamegraph.
///
/// The end is Ctrl-C, SIGTERM, the end of --duration or the end of the process; each gives the full
/// report. Needs root, or the capabilities that `leakprobe doctor` names.
#[derive(Debug, Parser)]
#[command(
    name = "leakprobe",
    version,
    after_long_help = examples(),
    after_help = "--help says more and gives examples.",
    override_usage = "leakprobe [OPTIONS] --pid <PID>\n       leakprobe [OPTIONS] --container <NAME|ID>\n       leakprobe [OPTIONS] -- <COMMAND> [ARGS]...\n       leakprobe ps [OPTIONS]\n       leakprobe doctor [--pid <PID>]",
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true,
    max_term_width = 100
)]
pub struct Args {
    /// Running processes.
    #[command(flatten)]
    pub targets: TargetArgs,

    /// Command to start and watch from its first instruction
    ///
    /// Everything after `--` is the command and its arguments.
    #[arg(last = true, num_args = 1.., value_hint = ValueHint::CommandWithArguments, help_heading = "Target")]
    pub command: Vec<OsString>,

    /// Run the command as this user
    ///
    /// With the user's groups, as `sudo -u` does.
    #[arg(long, value_name = "NAME", value_hint = ValueHint::Username, help_heading = "Target")]
    pub user: Option<String>,

    /// Exit with the status of the command
    ///
    /// Once the report is written, exit with the status the command exited with (128 and the number
    /// of the signal if one ended it) instead of 0.
    #[arg(long, help_heading = "Target")]
    pub exit_status_of_command: bool,

    /// Also watch the processes that the target starts
    ///
    /// Children that it forks, and theirs, also when they execute other programs. This is so without
    /// the option for a command that leakprobe starts, for --container and for --cgroup.
    #[arg(long, conflicts_with = "no_follow", help_heading = "Target")]
    pub follow: bool,

    /// Do not watch the processes that the target starts
    ///
    /// This is so without the option for --pid, --comm and --exe, and with `--mode growth`.
    #[arg(long, help_heading = "Target")]
    pub no_follow: bool,

    /// Stop after this time, such as 30s or 5m
    ///
    /// Without it, runs until Ctrl-C, SIGTERM or the end of the process.
    #[arg(long, value_parser = values::duration, value_name = "TIME", value_hint = ValueHint::Other, help_heading = "Recording")]
    pub duration: Option<Duration>,

    /// Print the top stacks this often
    ///
    /// With `--format json` only the final report is printed.
    #[arg(long, value_parser = values::duration, value_name = "TIME", default_value = "5s", value_hint = ValueHint::Other, help_heading = "Recording")]
    pub interval: Duration,

    /// What to record
    ///
    /// `heap` follows the allocator: each block, from when it is given out until it is given back.
    /// `growth` probes nothing, and costs little where page faults are few: it takes the stacks of the
    /// faults by which the process gets memory from the kernel, and reports what is still resident.
    #[arg(
        long,
        value_enum,
        value_name = "MODE",
        default_value = "heap",
        help_heading = "Recording"
    )]
    pub mode: Mode,

    /// Record one in so many pages, in growth mode [default: 64]
    ///
    /// A power of two; any other number is rounded up to one. 1 records every page. Huge pages
    /// are always recorded.
    #[arg(long, value_parser = values::sample_pages, value_name = "N", value_hint = ValueHint::Other, help_heading = "Recording")]
    pub sample_pages: Option<u64>,

    /// Ignore blocks smaller than this, such as 64KiB
    ///
    /// Such blocks are not recorded at all. Units: K, KiB (1024), KB (1000), and so on with M, G, T.
    #[arg(long, value_parser = values::size, value_name = "BYTES", value_hint = ValueHint::Other, help_heading = "Recording")]
    pub min_size: Option<u64>,

    /// Ignore blocks larger than this
    ///
    /// Such blocks are not recorded at all. Units as for --min-size.
    #[arg(long, value_parser = values::size, value_name = "BYTES", value_hint = ValueHint::Other, help_heading = "Recording")]
    pub max_size: Option<u64>,

    /// Record at most this many live blocks
    ///
    /// Further blocks are lost, which is counted and makes the result PARTIAL. The memory is
    /// taken as blocks come, but for 16 bytes an entry (64 MiB of kernel memory at the default).
    #[arg(long, value_name = "N", default_value_t = 4_194_304, value_parser = value_parser!(u32).range(1..=MAX_LIVE_LIMIT), value_hint = ValueHint::Other, help_heading = "Recording")]
    pub max_live: u32,

    /// Record a sample only: one block in about so many bytes, such as 512KiB [default: 0]
    ///
    /// Each block is recorded with a probability that grows with its size, 1 - e^(-size/BYTES); large
    /// ones always. Calls whose blocks are not recorded cost the process much less. All figures are then
    /// estimates for all blocks, with 95 % intervals; stacks that hold less than three times BYTES
    /// may not appear at all. 0 records every block. Up to 1GiB, units as for --min-size.
    #[arg(long, value_parser = values::sample_bytes, value_name = "BYTES", value_hint = ValueHint::Other, help_heading = "Recording")]
    pub sample_bytes: Option<u64>,

    /// Keep what recording takes of the target's CPU time below this, such as 5 (percent)
    ///
    /// Records as much as the budget allows: first everything (or the sample asked for), then smaller
    /// samples, then the probes are in place for a part of the time only. What is mapped is given up if
    /// it takes much of the budget. Each change is in the report. Blocks freed while the probes were away are marked as unconfirmed. From 0.1 to 90.
    #[arg(long, value_parser = values::percent, value_name = "PERCENT", value_hint = ValueHint::Other, help_heading = "Recording")]
    pub max_overhead: Option<u32>,

    /// Go on even if the target hardly does anything but run into probes
    ///
    /// Without it, the recording ends by itself, with a report and a note, when the probes have taken
    /// more than 80 % of the CPU time of a busy target for 10 seconds.
    #[arg(long, help_heading = "Recording")]
    pub no_guard: bool,

    /// Do not tell what the program maps beside its allocator
    ///
    /// Without it, probes in the program's own code follow mmap, munmap, mremap and brk, and the report
    /// has a list of what each stack has mapped and not unmapped. Only where one process is recorded.
    #[arg(long, help_heading = "Recording")]
    pub no_mappings: bool,

    /// Report only blocks that have been live for at least this long
    ///
    /// Leaves out what was allocated shortly before the report and may still be freed. Only the
    /// live figures are filtered; allocated and freed count everything.
    #[arg(long, value_parser = values::duration, value_name = "TIME", value_hint = ValueHint::Other, help_heading = "Report")]
    pub min_age: Option<Duration>,

    /// Write a report file; repeatable [default: leakprobe-PID.svg]
    ///
    /// Its extension chooses the format: .svg is a flamegraph, .folded is collapsed stacks for other
    /// tools, .json is everything for programs, .txt is what stdout shows. A file that exists is
    /// replaced. Without any -o it is leakprobe-PID.svg in the current directory.
    #[arg(short, long = "output", value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Report")]
    pub outputs: Vec<PathBuf>,

    /// Look for debug information here first; repeatable
    ///
    /// By build id in DIR/.build-id/xx/yyy.debug, or by name: DIR/usr/bin/NAME.debug and
    /// DIR/NAME.debug for /usr/bin/NAME. Debug information that was not made with the program is
    /// not used.
    #[arg(long = "debug-dir", value_name = "DIR", value_hint = ValueHint::DirPath, help_heading = "Report")]
    pub debug_dirs: Vec<PathBuf>,

    /// Leave out inlined functions and source lines
    ///
    /// Reading debug information takes time and memory. Without it frames are named by the symbols
    /// of their files alone.
    #[arg(long, help_heading = "Report")]
    pub no_inlines: bool,

    /// Stacks to print on stdout
    ///
    /// The first ones by --sort; the report files hold all.
    #[arg(long, value_name = "N", default_value_t = 10, value_hint = ValueHint::Other, help_heading = "Report")]
    pub top: u32,

    /// Format of the report on stdout
    #[arg(long, value_enum, default_value = "text", help_heading = "Report")]
    pub format: StdoutFormat,

    /// Colours on stdout and stderr
    ///
    /// `auto` colours what goes to a terminal, unless NO_COLOR is set or TERM is dumb.
    #[arg(
        long,
        value_enum,
        value_name = "WHEN",
        default_value = "auto",
        help_heading = "Report"
    )]
    pub color: Color,

    /// Print only the final report and errors
    #[arg(short, long, help_heading = "Report")]
    pub quiet: bool,

    /// Say more on stderr, with messages of the kernel side
    #[arg(short, long, help_heading = "Report")]
    pub verbose: bool,

    /// Look for processes in the procfs that is mounted there
    ///
    /// For a container in which /proc shows no others, such as /host/proc. PIDs are those that PATH
    /// shows. If it is of a PID namespace below leakprobe's own, leakprobe enters that, which needs
    /// CAP_SYS_ADMIN; one above cannot be entered.
    #[arg(long, global = true, value_name = "PATH", value_hint = ValueHint::DirPath, help_heading = "Target")]
    pub proc: Option<PathBuf>,

    /// When to begin, what to leave meanwhile and at the end.
    #[command(flatten)]
    pub watching: WatchingArgs,

    /// What of the stacks is shown, and what of it is a failure.
    #[command(flatten)]
    pub choosing: Choosing,

    /// Something else than recording.
    #[command(subcommand)]
    pub action: Option<Action>,
}

/// What there is beside recording.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Say whether profiling works here, and what is missing
    ///
    /// Checks the kernel, the privileges and, with --pid, the process. Exits with 0 only if
    /// profiling would work.
    Doctor {
        /// Process to check as well
        #[arg(short, long, value_parser = values::pid, value_hint = ValueHint::Other)]
        pid: Option<u32>,
    },
    /// List processes with container, allocator, memory and growth
    ///
    /// To see whom to probe: the largest first. Looks twice, and shows what each has grown in between.
    Ps(PsArgs),
    /// Print the completion script of a shell
    ///
    /// For bash: leakprobe completions bash > /etc/bash_completion.d/leakprobe
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page
    ///
    /// To read it: leakprobe man > leakprobe.1 && man ./leakprobe.1
    Man,
}

/// What is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Blocks of the allocator
    Heap,
    /// Pages from the kernel
    Growth,
}

/// Format of the report on stdout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StdoutFormat {
    /// For people
    Text,
    /// For programs; see docs/json.md
    Json,
}

/// When to use colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal
    Auto,
    /// In files and pipes too
    Always,
    /// Nowhere
    Never,
}

impl Color {
    /// Whether to colour what goes to a stream that is a terminal or not. Reads `NO_COLOR`
    /// (no-color.org) and `TERM`.
    pub fn enabled(self, is_terminal: bool) -> bool {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = || std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        match self {
            Color::Auto => is_terminal && !set("NO_COLOR") && !dumb(),
            Color::Always => true,
            Color::Never => false,
        }
    }
}

/// The end of `--help`.
fn examples() -> String {
    let mut text = String::from("Examples:\n");
    for (command, purpose) in EXAMPLES {
        text.push_str(&format!("  {command}\n      {purpose}\n\n"));
    }
    text.push_str("Exit status:\n");
    for (status, meaning) in EXIT_STATUS {
        text.push_str(&format!("  {status}  {meaning}\n"));
    }
    text
}
