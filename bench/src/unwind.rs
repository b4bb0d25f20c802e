//! What a frame costs: a malloc+free pair under leakprobe at two depths of the stack, and an empty
//! probe in the same run to measure it by. The victim keeps no frame pointers.

use anyhow::Result;
use leakprobe_tests::Victim;

use crate::floor::Floor;
use crate::goal::{Goals, median};
use crate::pair::{Measurements, state, under_leakprobe};

/// Most that a frame may cost, as a part of an empty probe.
const GOAL: f64 = 0.22;

/// Frames of the shallow stack, which are there whatever the depth: the victim's least.
const SHALLOW: u32 = 3;

/// How much to measure.
#[derive(clap::Args)]
pub struct Options {
    /// Rounds for each libc.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 0.2)]
    seconds: f64,
    /// Frames that the deep stack has more than the shallow one.
    #[arg(long, default_value_t = 30)]
    frames: u32,
    /// The libcs: glibc, glibc-static, musl, musl-static.
    #[arg(long, value_delimiter = ',', default_values_t = ["glibc".to_owned(), "musl".to_owned()])]
    libc: Vec<String>,
}

/// Measures, prints a table, and gives the cost of a frame relative to an empty probe.
///
/// # Errors
///
/// If something cannot be probed, or leakprobe did not count every pair it was measured with.
pub fn run(options: &Options) -> Result<Goals> {
    let Options {
        rounds,
        seconds,
        frames,
        libc,
    } = options;
    println!(
        "ns per malloc+free pair; medians of {rounds} rounds of {} measurements of {seconds} s\n",
        Measurements::PER_STATE
    );
    println!(
        "{:12} {:>9} {:>12} {:>10} {:>10} {:>10} {:>18}",
        "libc",
        "unprobed",
        "empty probe",
        format!("{SHALLOW} frames"),
        format!("{} frames", SHALLOW + frames),
        "per frame",
        "frame/empty probe"
    );
    let mut goals = Goals::default();
    for libc in libc {
        let mut shallow = spawn(libc, SHALLOW, *seconds);
        let mut deep = spawn(libc, SHALLOW + frames, *seconds);
        let mut columns: [Vec<f64>; 6] = Default::default();
        for _ in 0..*rounds {
            let unprobed = state(&mut shallow)?.ns_per_pair;
            let probe = Floor::entry_of_malloc(shallow.pid())?;
            let empty = state(&mut shallow)?.ns_per_pair - unprobed;
            drop(probe);
            let low = under_leakprobe(&mut shallow)?;
            let high = under_leakprobe(&mut deep)?;
            let frame = (high - low) / f64::from(*frames);
            let row = [unprobed, empty, low, high, frame, frame / empty];
            for (column, figure) in columns.iter_mut().zip(row) {
                column.push(figure);
            }
        }
        shallow.end_well();
        deep.end_well();
        let [unprobed, empty, low, high, frame, ratio] = columns.map(median);
        println!(
            "{libc:12} {unprobed:>9.1} {empty:>12.0} {low:>10.0} {high:>10.0} {frame:>10.1} {ratio:>18.3}"
        );
        goals.at_most(
            format!("cost of a frame/empty probe, {libc}:"),
            ratio,
            GOAL,
            "",
        );
    }
    Ok(goals)
}

fn spawn(libc: &str, frames: u32, seconds: f64) -> Victim {
    let arguments = ["1".to_owned(), format!("{seconds}s"), frames.to_string()];
    let arguments = arguments.each_ref().map(String::as_str);
    Victim::spawn_with(libc, "pair", &arguments)
}
