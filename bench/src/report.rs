//! What the final report costs when there is much to report: from the signal to the last file, or from the
//! target's death, and the most memory that leakprobe ever had. What the kernel keeps for it in maps is not in that.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use leakprobe_tests::process::Process;
use leakprobe_tests::report::Evidence;
use leakprobe_tests::{Victim, leakprobe_path};
use nix::sys::resource::{UsageWho, getrusage};
use rustix::process::Signal;
use serde::Deserialize;
use serde::de::IgnoredAny;
use tempfile::TempDir;

use crate::goal::{Goals, median};

/// Most seconds from the signal until all files are there.
const GOAL_SECONDS: f64 = 3.0;

/// Most seconds from the death of the target: whoever ended it may take everything away soon.
const GOAL_SECONDS_OF_DEATH: f64 = 2.0;

/// Most memory, in megabytes.
const GOAL_MEGABYTES: f64 = 300.0;

const FILES: &[&str] = &["report.svg", "report.json", "report.folded"];

/// How much to measure.
#[derive(clap::Args)]
pub struct Options {
    /// Runs, each with a target and a leakprobe of its own.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Live blocks.
    #[arg(long, default_value_t = 1_000_000)]
    blocks: u64,
    /// Distinct stacks they are from, 16384 at the most.
    #[arg(long, default_value_t = 10_000)]
    stacks: usize,
    /// The libc: glibc, glibc-static, musl, musl-static.
    #[arg(long, default_value = "glibc")]
    libc: String,
}

/// What is checked of a JSON report. The stacks are only counted: they would take more memory here
/// than in leakprobe.
#[derive(Deserialize)]
struct Report {
    totals: Totals,
    evidence: Evidence,
    stacks: Vec<IgnoredAny>,
}

#[derive(Deserialize)]
struct Totals {
    live_count: u64,
}

/// What ends the recording.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// leakprobe gets SIGINT.
    Interrupt,
    /// The target gets SIGKILL.
    Death,
}

/// Seconds since the signal.
struct Run {
    files: f64,
    end: f64,
}

/// Measures, prints what it took, and gives the figures that have goals.
///
/// # Errors
///
/// If a report is not of exactly the blocks and stacks that there are.
pub fn run(options: &Options) -> Result<Goals> {
    println!(
        "report of {} live blocks over {} stacks, {}, {}\n",
        options.blocks,
        options.stacks,
        options.libc,
        FILES.join(", ")
    );
    // They end when all is measured: the memory of ended children is asked for below, and until
    // then only leakprobe has ended.
    let mut victims = Vec::new();
    let mut runs = Vec::new();
    let mut deaths = Vec::new();
    for _ in 0..options.runs {
        for (end, what, runs) in [
            (End::Interrupt, "SIGINT", &mut runs),
            (End::Death, "the target's death", &mut deaths),
        ] {
            let (victim, run) = once(options, end)?;
            println!(
                "{:.2} s from {what} to the last file, {:.2} s to the end of leakprobe",
                run.files, run.end
            );
            victims.push(victim);
            runs.push(run.files);
        }
    }
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).context("failed to ask for used memory")?;
    // In kibibytes, see getrusage(2).
    let megabytes = usage.max_rss() as f64 * 1024.0 / 1e6;
    println!("{megabytes:.0} MB at the most in leakprobe");
    for victim in victims {
        let _ = victim.end();
    }

    let mut goals = Goals::default();
    let (files, death) = (median(runs), median(deaths));
    goals.at_most("SIGINT to the last file", files, GOAL_SECONDS, " s");
    let goal = GOAL_SECONDS_OF_DEATH;
    goals.at_most("the target's death to the last file", death, goal, " s");
    goals.at_most("peak memory", megabytes, GOAL_MEGABYTES, " MB");
    Ok(goals)
}

fn once(options: &Options, end: End) -> Result<(Victim, Run)> {
    let arguments = [options.blocks.to_string(), options.stacks.to_string()];
    let arguments = arguments.each_ref().map(String::as_str);
    let mut victim = Victim::spawn_with(&options.libc, "big", &arguments);

    let folder = TempDir::new().context("failed to make a temporary folder")?;
    let mut command = Command::new(leakprobe_path());
    command.current_dir(folder.path());
    command.args(["--interval", "1h", "--pid", &victim.pid().to_string()]);
    command.args(FILES.iter().flat_map(|file| ["-o", file]));
    let leakprobe = Process::spawn(&mut command);
    leakprobe.stderr_line("recording ");
    victim.go();
    victim.summary();

    let signal = Instant::now();
    match end {
        End::Interrupt => leakprobe.signal(Signal::INT),
        End::Death => victim.kill(),
    }
    for file in FILES {
        leakprobe.stderr_line(&format!("wrote {file}"));
    }
    let files = signal.elapsed().as_secs_f64();
    let (status, _, stderr) = leakprobe.end();
    let end = signal.elapsed().as_secs_f64();
    ensure!(status.success(), "leakprobe ended with {status}: {stderr}");
    check(&folder.path().join("report.json"), options)?;
    Ok((victim, Run { files, end }))
}

fn check(path: &Path, options: &Options) -> Result<()> {
    let file = File::open(path).context("leakprobe left no report.json")?;
    let report: Report =
        serde_json::from_reader(BufReader::new(file)).context("failed to read report.json")?;
    let (blocks, stacks) = (report.totals.live_count, report.stacks.len());
    ensure!(
        (blocks, stacks) == (options.blocks, options.stacks)
            && report.evidence.verdict == "complete",
        "the report is of {blocks} blocks over {stacks} stacks: {:?}",
        report.evidence
    );
    Ok(())
}
