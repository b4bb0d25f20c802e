//! Options for leaving leakprobe on: when to begin, which files to leave meanwhile and how many of them, and
//! what to write when the process ends. Checked here as far as words go.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ValueEnum, ValueHint, value_parser};

use super::condition::{Condition, condition};
use super::pattern::Pattern;
use super::{Output, UsageError, same_file, values};

/// The raw options.
#[derive(Debug, clap::Args)]
pub struct WatchingArgs {
    /// Only watch until this holds, then attach; repeatable
    ///
    /// Until then nothing is attached: the kernel's own figures are looked at ten times a second. With
    /// several, any one is enough. In quotes, because of the `>`: 'rss>500MiB'; 'rss-growth>50MiB/10m',
    /// above its lowest in the last ten minutes; 'cgroup>90%' of the limit, or 'cgroup>2GiB';
    /// 'alloc-rate>10MiB/s', memory that is new to the process, by its page faults and its RSS: what
    /// its allocator uses again is not in it. --duration counts from the attach.
    #[arg(long, value_parser = condition, value_name = "CONDITION", value_hint = ValueHint::Other, help_heading = "Leaving it on")]
    pub when: Vec<Condition>,

    /// Leave a numbered report this often
    ///
    /// The same as a final report, but of that moment: leak-001.svg, leak-002.svg and so on for
    /// `-o leak.svg`, beside the final one. Files of these names that exist are replaced.
    #[arg(long, value_parser = values::duration, value_name = "TIME", value_hint = ValueHint::Other, help_heading = "Leaving it on")]
    pub every: Option<Duration>,

    /// Leave a numbered report when leakprobe gets this signal
    ///
    /// Named and numbered as with --every.
    #[arg(
        long,
        value_enum,
        ignore_case = true,
        value_name = "SIGNAL",
        help_heading = "Leaving it on"
    )]
    pub snapshot_on: Option<SnapshotSignal>,

    /// Write a report when the process ends by itself; repeatable
    ///
    /// Whether it exits, crashes or is killed; beside what -o writes. The name may hold %p (its
    /// PID), %t (the time, as 20261121T150830Z), %e (its name) and %% (a percent sign).
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Leaving it on")]
    pub on_death: Vec<PathBuf>,

    /// Keep the newest N numbered reports only
    ///
    /// Of each -o. Older ones of this run are removed, no other files. Of each --on-death with %t in its
    /// name it keeps the newest N, also of earlier runs: files that bear such a name for a process of
    /// the same name.
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..), value_hint = ValueHint::Other, help_heading = "Leaving it on")]
    pub keep: Option<u32>,

    /// Keep all numbered reports of this run together below this size, such as 200MiB
    ///
    /// The oldest are removed first; the newest stays, however large it is.
    #[arg(long, value_parser = values::size, value_name = "BYTES", value_hint = ValueHint::Other, help_heading = "Leaving it on")]
    pub keep_size: Option<u64>,
}

/// A signal that means nothing else to leakprobe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SnapshotSignal {
    /// `kill -USR1`
    #[value(name = "SIGUSR1", alias = "USR1")]
    Usr1,
    /// `kill -USR2`
    #[value(name = "SIGUSR2", alias = "USR2")]
    Usr2,
    /// `kill -HUP`
    #[value(name = "SIGHUP", alias = "HUP")]
    Hup,
}

/// The checked options.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watching {
    /// Attach when any of these holds; at once if empty.
    pub when: Vec<Condition>,
    /// Between numbered reports; above zero.
    pub every: Option<Duration>,
    /// Upon which a numbered report is left.
    pub snapshot_on: Option<SnapshotSignal>,
    /// Written when the target ends by itself; all different.
    pub on_death: Vec<Pattern>,
    /// Numbered reports of each output that stay; at least 1.
    pub keep: Option<u32>,
    /// Bytes that numbered reports may take together.
    pub keep_size: Option<u64>,
}

impl Watching {
    /// Whether reports are left while the recording goes on.
    pub fn leaves_snapshots(&self) -> bool {
        self.every.is_some() || self.snapshot_on.is_some()
    }

    /// Checks what the options mean together.
    pub(super) fn validate(args: WatchingArgs) -> Result<Self, UsageError> {
        if args.every.is_some_and(|every| every.is_zero()) {
            return Err(UsageError::ZeroTime("--every"));
        }
        let mut on_death = Vec::<Pattern>::new();
        for path in args.on_death {
            let pattern = Pattern::new(path)?;
            let is_same = |other: &Pattern| same_file(other.path(), pattern.path());
            if on_death.iter().any(is_same) {
                return Err(UsageError::SameOutput(pattern.path().to_owned()));
            }
            on_death.push(pattern);
        }
        let watching = Self {
            when: args.when,
            every: args.every,
            snapshot_on: args.snapshot_on,
            on_death,
            keep: args.keep,
            keep_size: args.keep_size,
        };
        let leaves = watching.leaves_snapshots();
        if watching.keep.is_some() && !leaves && watching.on_death.is_empty() {
            return Err(UsageError::NothingToKeep(
                "--keep",
                "--every, --snapshot-on or --on-death",
            ));
        }
        if watching.keep_size.is_some() && !leaves {
            return Err(UsageError::NothingToKeep(
                "--keep-size",
                "--every or --snapshot-on",
            ));
        }
        Ok(watching)
    }
}

/// The name of the `number`th report of an output: `leak-001.svg`. Numbers above 999 are longer.
pub fn numbered(output: &Output, number: u32) -> Output {
    let stem = output.path.file_stem().unwrap_or_default();
    let mut name = stem.to_owned();
    name.push(format!("-{number:03}"));
    if let Some(extension) = output.path.extension() {
        name.push(".");
        name.push(extension);
    }
    Output {
        path: output.path.with_file_name(name),
        format: output.format,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Command, ParseError, parse};

    fn watching(line: &str) -> Result<Watching, String> {
        let words = ["leakprobe", "--pid", "1"].into_iter();
        match parse(words.chain(line.split_whitespace())).map(|order| order.command) {
            Ok(Command::Record(config)) => Ok(config.watching),
            Err(ParseError::Usage(error)) => Err(error.to_string()),
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn every_option_arrives() {
        let line = "--when rss>1GiB --when cgroup>90% --every 10m --snapshot-on SIGUSR1 \
                    --on-death /x/%p.svg --on-death %t.json --keep 5 --keep-size 200MiB";
        let expected = Watching {
            when: vec![
                condition("rss>1GiB").unwrap(),
                condition("cgroup>90%").unwrap(),
            ],
            every: Some(Duration::from_secs(600)),
            snapshot_on: Some(SnapshotSignal::Usr1),
            on_death: ["/x/%p.svg", "%t.json"]
                .map(|path| Pattern::new(path.into()).unwrap())
                .into(),
            keep: Some(5),
            keep_size: Some(200 << 20),
        };
        assert_eq!(watching(line), Ok(expected));
        assert_eq!(watching(""), Ok(Watching::default()));
        for (name, signal) in [
            ("usr2", SnapshotSignal::Usr2),
            ("SIGHUP", SnapshotSignal::Hup),
        ] {
            let watching = watching(&format!("--snapshot-on {name}")).unwrap();
            assert_eq!(watching.snapshot_on, Some(signal));
        }
    }

    #[test]
    fn each_mistake_gets_one_sentence() {
        for (line, part) in [
            ("--when rss", "in quotes"),
            ("--every 0s", "--every must be longer than zero"),
            ("--every 10", "with its unit"),
            ("--snapshot-on SIGTERM", "SIGUSR1, SIGUSR2, SIGHUP"),
            ("--on-death a.png", ".svg, .folded, .json, .txt"),
            ("--on-death a-%q.svg", "%p"),
            ("--on-death a.svg --on-death ./a.svg", "given twice"),
            ("--keep 0 --every 1s", "0"),
            ("--keep 3", "--keep only makes sense with --every"),
            (
                "--keep-size 1G --on-death a.svg",
                "--keep-size only makes sense",
            ),
        ] {
            let error = watching(line).unwrap_err();
            assert!(error.contains(part), "{line}: {error}");
            assert!(!error.contains('\n'), "{line}: {error}");
        }
    }

    #[test]
    fn numbers_stand_before_the_extension() {
        for (path, number, expected) in [
            ("leak.svg", 1, "leak-001.svg"),
            ("/x.y/a.b.json", 42, "/x.y/a.b-042.json"),
            ("leak.svg", 1000, "leak-1000.svg"),
        ] {
            let output = Output::new(path.into()).unwrap();
            assert_eq!(numbered(&output, number).path, PathBuf::from(expected));
        }
    }
}
