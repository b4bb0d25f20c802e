//! What a malloc+free pair costs: unprobed, under empty probes (the floor), under leakprobe, which
//! records all or a sample, and unprobed again, in one process and in rounds, so that what disturbs
//! the machine disturbs them all alike. Ratios are taken within a round; what is printed are medians over rounds.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use leakprobe_tests::{Leakprobe, Victim};
use serde::Deserialize;

use crate::floor::Floor;
use crate::goal::{Goals, median, ratio};

/// Most that leakprobe may cost, as a multiple of the floor.
const GOAL: f64 = 2.0;

/// Most that a sample may cost, as a multiple of the floor of the entries alone.
const SAMPLED_GOAL: f64 = 1.15;

/// How long leakprobe measures the price of a trap, on the other processor, after it has attached.
const SETTLE: Duration = Duration::from_millis(500);

/// How much to measure.
#[derive(clap::Args)]
pub struct Options {
    /// Rounds for each libc and number of threads.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each of the 18 measurements of a round.
    #[arg(long, default_value_t = 0.2)]
    seconds: f64,
    /// Frames from the caller of malloc to main, 3 at the least.
    #[arg(long, default_value_t = 10)]
    frames: u32,
    /// Numbers of threads that call malloc at the same time.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2])]
    threads: Vec<u32>,
    /// The libcs: glibc, glibc-static, musl, musl-static.
    #[arg(long, value_delimiter = ',', default_values_t = ["glibc".to_owned(), "musl".to_owned()])]
    libc: Vec<String>,
}

/// The line that the victim writes.
#[derive(Deserialize)]
struct Measurement {
    pairs: u64,
    ns_per_pair: f64,
}

/// What a victim has measured in one state.
pub struct Measurements {
    /// The median.
    pub ns_per_pair: f64,
    /// Of all measurements.
    pairs: u64,
}

impl Measurements {
    /// Measurements per state and round, the first of which finds cold caches.
    pub const PER_STATE: usize = 3;
}

/// Nanoseconds per pair.
struct Round {
    before: f64,
    floor: f64,
    leakprobe: f64,
    /// Under empty probes at the entries alone: a sample needs no return of what it leaves out.
    entries: f64,
    sampled: f64,
    after: f64,
}

/// Measures, prints a table, and gives the ratios to the floor.
///
/// # Errors
///
/// If something cannot be probed, or leakprobe did not count every pair it was measured with.
pub fn run(options: &Options) -> Result<Goals> {
    let (rounds, seconds, frames) = (options.rounds, options.seconds, options.frames);
    println!(
        "ns per malloc+free pair, {frames} frames; medians of {rounds} rounds, {} \
         measurements of {seconds} s each\n",
        Measurements::PER_STATE
    );
    println!(
        "{:12} {:>7} {:>9} {:>7} {:>10} {:>8} {:>8} {:>9}   {:>15} {:>15}   {:>15} {:>15}",
        "libc",
        "threads",
        "unprobed",
        "floor",
        "leakprobe",
        "entries",
        "sampled",
        "unprobed",
        "leakprobe/floor",
        "(lowest - most)",
        "sampled/entries",
        "(lowest - most)",
    );
    let mut goals = Goals::default();
    for libc in &options.libc {
        for &threads in &options.threads {
            let done = measure(libc, threads, options)?;
            let column =
                |figure: &dyn Fn(&Round) -> f64| done.iter().map(figure).collect::<Vec<_>>();
            let (exact, range) = ratio(column(&|round| round.leakprobe / round.floor));
            let (sampled, sampled_range) = ratio(column(&|round| round.sampled / round.entries));
            println!(
                "{libc:12} {threads:>7} {:>9.1} {:>7.0} {:>10.0} {:>8.0} {:>8.0} {:>9.1}   {exact:>15.2} \
                 {range:>15}   {sampled:>15.2} {sampled_range:>15}",
                median(column(&|round| round.before)),
                median(column(&|round| round.floor)),
                median(column(&|round| round.leakprobe)),
                median(column(&|round| round.entries)),
                median(column(&|round| round.sampled)),
                median(column(&|round| round.after)),
            );
            goals.at_most(
                format!("sampled/entries, {libc}, threads: {threads}:"),
                sampled,
                SAMPLED_GOAL,
                "",
            );
            goals.at_most(
                format!("leakprobe/floor, {libc}, threads: {threads}:"),
                exact,
                GOAL,
                "",
            );
        }
    }
    Ok(goals)
}

fn measure(libc: &str, threads: u32, options: &Options) -> Result<Vec<Round>> {
    let arguments = [
        threads.to_string(),
        format!("{}s", options.seconds),
        options.frames.to_string(),
    ];
    let arguments = arguments.each_ref().map(String::as_str);
    let mut victim = Victim::spawn_with(libc, "pair", &arguments);
    let rounds = (0..options.rounds)
        .map(|_| {
            let before = state(&mut victim)?.ns_per_pair;
            let probes = Floor::place(victim.pid())?;
            let floor = state(&mut victim)?.ns_per_pair;
            drop(probes);
            let leakprobe = under_leakprobe(&mut victim)?;
            let probes = Floor::entries(victim.pid())?;
            let entries = state(&mut victim)?.ns_per_pair;
            drop(probes);
            let sampled = sampled(&mut victim)?;
            let after = state(&mut victim)?.ns_per_pair;
            Ok(Round {
                before,
                floor,
                leakprobe,
                entries,
                sampled,
                after,
            })
        })
        .collect();
    victim.end_well();
    rounds
}

/// Nanoseconds per pair while leakprobe records the victim.
///
/// # Errors
///
/// If it did not count every pair.
pub fn under_leakprobe(victim: &mut Victim) -> Result<f64> {
    let leakprobe = Leakprobe::attach(victim.pid(), &["--interval", "1h"]);
    sleep(SETTLE);
    let Measurements { ns_per_pair, pairs } = state(victim)?;
    let report = leakprobe.interrupt().report();
    // A probe that does not count costs less: such a figure would be worth nothing.
    let counted = (report.totals.allocated_count, report.totals.freed_count);
    ensure!(
        counted == (pairs, pairs) && report.evidence.verdict == "complete",
        "the victim made {pairs} pairs, but leakprobe says: {counted:?}, {:?}",
        report.evidence
    );
    Ok(ns_per_pair)
}

/// Nanoseconds per pair while leakprobe records a sample of the victim's blocks.
///
/// # Errors
///
/// If the sample tells of much more or much less than there was.
pub fn sampled(victim: &mut Victim) -> Result<f64> {
    let options = ["--interval", "1h", "--sample-bytes", "512KiB"];
    let leakprobe = Leakprobe::attach(victim.pid(), &options);
    sleep(SETTLE);
    let Measurements { ns_per_pair, pairs } = state(victim)?;
    let report = leakprobe.interrupt().report();
    let estimate = report.totals.allocated_count as f64;
    // A pair is 64 bytes. Few blocks are recorded where the host leaves little time.
    let recorded = pairs as f64 * 64.0 / f64::from(512 << 10);
    let tolerance = (5.0 / recorded.sqrt()).max(0.5);
    ensure!(
        report.evidence.verdict == "complete" && (estimate / pairs as f64 - 1.0).abs() < tolerance,
        "the victim made {pairs} pairs, but leakprobe's sample says: {estimate}, {:?}",
        report.evidence
    );
    Ok(ns_per_pair)
}

/// Lets the victim measure in the state it is in.
///
/// # Errors
///
/// If it does not answer as it should.
pub fn state(victim: &mut Victim) -> Result<Measurements> {
    let mut figures = Vec::new();
    let mut pairs = 0;
    for _ in 0..Measurements::PER_STATE {
        victim.go();
        let line = victim.line();
        let measurement: Measurement = serde_json::from_str(&line)
            .with_context(|| format!("the victim's line `{line}` cannot be read"))?;
        figures.push(measurement.ns_per_pair);
        pairs += measurement.pairs;
    }
    Ok(Measurements {
        ns_per_pair: median(figures),
        pairs,
    })
}
