//! Whether a process pays for probes that are not its own: one that has the same libc, from the same file,
//! as another one beside it that is recorded. Containers of one image share their files in this way.

use anyhow::{Context, Result};
use leakprobe_tests::{Leakprobe, Victim};
use serde::Deserialize;

use crate::goal::{Goals, median, ratio};

/// Most that a pair may cost the neighbour, as a multiple of what it costs while nobody is recorded.
const GOAL: f64 = 1.02;

/// How much to measure.
#[derive(clap::Args)]
pub struct Options {
    /// Rounds for each libc.
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 0.5)]
    seconds: f64,
    /// The libcs: glibc, musl.
    #[arg(long, value_delimiter = ',', default_values_t = ["glibc".to_owned(), "musl".to_owned()])]
    libc: Vec<String>,
}

/// The line that a victim writes.
#[derive(Deserialize)]
struct Measurement {
    pairs: u64,
    cpu_ns: u64,
}

/// Measures, prints a table, and gives the ratios.
///
/// # Errors
///
/// If something cannot be recorded, or a victim's line cannot be read.
pub fn run(options: &Options) -> Result<Goals> {
    println!(
        "CPU ns per malloc+free pair of a process that is not recorded, beside one that is; medians of {} \
         rounds of {} s\n",
        options.rounds, options.seconds
    );
    println!(
        "{:8} {:10} {:>10} {:>8}   {:>6} {:>15}",
        "libc", "beside", "unprobed", "probed", "ratio", "(lowest - most)"
    );
    let mut goals = Goals::default();
    for libc in &options.libc {
        for (how, extra) in [("one", &[][..]), ("a tree", &["--follow"][..])] {
            let seconds = format!("{}s", options.seconds);
            let spawn = || Victim::spawn_with(libc, "pair", &["1", &seconds, "10"]);
            let (mut recorded, mut neighbour) = (spawn(), spawn());
            let mut rows = Vec::new();
            for _ in 0..options.rounds {
                let before = measure(&mut recorded, &mut neighbour)?;
                let mut arguments = vec!["--interval", "1h", "--no-guard"];
                arguments.extend_from_slice(extra);
                let leakprobe = Leakprobe::attach(recorded.pid(), &arguments);
                let beside = measure(&mut recorded, &mut neighbour)?;
                leakprobe.interrupt();
                let after = measure(&mut recorded, &mut neighbour)?;
                rows.push((f64::midpoint(before, after), beside));
            }
            let column = |figure: &dyn Fn(&(f64, f64)) -> f64| rows.iter().map(figure).collect();
            let (more, range) = ratio(column(&|(alone, beside)| beside / alone));
            println!(
                "{libc:8} {how:10} {:>10.2} {:>8.2}   {more:>6.3} {range:>15}",
                median(column(&|(alone, _)| *alone)),
                median(column(&|(_, beside)| *beside)),
            );
            goals.at_most(format!("beside/alone, {libc}, {how}"), more, GOAL, "");
            recorded.end_well();
            neighbour.end_well();
        }
    }
    Ok(goals)
}

/// CPU time per pair of the neighbour, nanoseconds, while both are busy.
fn measure(recorded: &mut Victim, neighbour: &mut Victim) -> Result<f64> {
    recorded.go();
    neighbour.go();
    let line = neighbour.line();
    recorded.line();
    let one: Measurement = serde_json::from_str(&line)
        .with_context(|| format!("the victim's line `{line}` cannot be read"))?;
    Ok(one.cpu_ns as f64 / one.pairs as f64)
}
