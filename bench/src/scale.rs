//! Whether a malloc+free pair costs more when many threads, or many processes each with its own
//! leakprobe, are probed at once; and beside it, whether empty probes do. There are more of them than processors, so a pair's CPU time counts:
//! time by the clock would grow with their number, probed or not.

use anyhow::{Context, Result, ensure};
use leakprobe_tests::{Leakprobe, Victim};
use serde::Deserialize;

use crate::floor::Floor;
use crate::goal::{Goals, median, ratio};
use crate::pair::Measurements;

/// Most that a pair may cost, as a multiple of what it costs one thread of one process.
const GOAL: f64 = 1.2;

/// How much to measure.
#[derive(clap::Args)]
pub struct Options {
    /// Rounds for each libc.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 0.5)]
    seconds: f64,
    /// Frames from the caller of malloc to main, 3 at the least.
    #[arg(long, default_value_t = 10)]
    frames: u32,
    /// Numbers of threads of one process.
    #[arg(long, value_delimiter = ',', default_values_t = [8])]
    threads: Vec<u32>,
    /// Numbers of processes of one thread, probed at once.
    #[arg(long, value_delimiter = ',', default_values_t = [2, 4, 8])]
    processes: Vec<usize>,
    /// The libcs: glibc, glibc-static, musl, musl-static.
    #[arg(long, value_delimiter = ',', default_values_t = ["glibc".to_owned(), "musl".to_owned()])]
    libc: Vec<String>,
}

/// The line that a victim writes.
#[derive(Deserialize)]
struct Measurement {
    pairs: u64,
    cpu_ns: u64,
}

/// Victims that run at the same time.
struct Crowd {
    threads: u32,
    victims: Vec<Victim>,
}

/// CPU time per pair, nanoseconds.
struct Figures {
    unprobed: f64,
    /// Under empty probes.
    floor: f64,
    leakprobe: f64,
    /// What probing costs in it, as a multiple of the same for one thread in the same round.
    ratio: f64,
    floor_ratio: f64,
}

/// Measures, prints a table, and gives the ratios to one thread of one process.
///
/// # Errors
///
/// If something cannot be probed, or a leakprobe did not count every pair of its process.
pub fn run(options: &Options) -> Result<Goals> {
    println!(
        "CPU ns per malloc+free pair, {} frames; medians of {} rounds, {} measurements of {} s each\n",
        options.frames,
        options.rounds,
        Measurements::PER_STATE,
        options.seconds
    );
    println!(
        "{:12} {:>9} {:>7} {:>9} {:>7} {:>9}   {:>16} {:>15}   {:>12} {:>15}",
        "libc",
        "processes",
        "threads",
        "unprobed",
        "floor",
        "leakprobe",
        "its cost/one's",
        "(lowest - most)",
        "floor/one's",
        "(lowest - most)",
    );
    let mut goals = Goals::default();
    for libc in &options.libc {
        let mut crowds = vec![Crowd::spawn(libc, 1, 1, options)];
        for &threads in &options.threads {
            crowds.push(Crowd::spawn(libc, 1, threads, options));
        }
        for &processes in &options.processes {
            crowds.push(Crowd::spawn(libc, processes, 1, options));
        }
        let mut rows: Vec<Vec<Figures>> = crowds.iter().map(|_| Vec::new()).collect();
        for _ in 0..options.rounds {
            let mut one = None;
            for (crowd, row) in crowds.iter_mut().zip(&mut rows) {
                let unprobed = crowd.measure()?.cpu_ns_per_pair;
                let place = |victim: &Victim| Floor::place(victim.pid());
                let probes: Vec<_> = crowd.victims.iter().map(place).collect::<Result<_>>()?;
                let floor = crowd.measure()?.cpu_ns_per_pair;
                drop(probes);
                let leakprobe = crowd.under_leakprobe()?;
                let costs = (leakprobe - unprobed, floor - unprobed);
                let (one, floor_of_one) = *one.get_or_insert(costs);
                row.push(Figures {
                    unprobed,
                    floor,
                    leakprobe,
                    ratio: costs.0 / one,
                    floor_ratio: costs.1 / floor_of_one,
                });
            }
        }
        for (crowd, row) in crowds.into_iter().zip(rows) {
            let column =
                |figure: &dyn Fn(&Figures) -> f64| row.iter().map(figure).collect::<Vec<_>>();
            let (processes, threads) = (crowd.victims.len(), crowd.threads);
            let (more, range) = ratio(column(&|it| it.ratio));
            let (floor, floor_range) = ratio(column(&|it| it.floor_ratio));
            println!(
                "{libc:12} {processes:>9} {threads:>7} {:>9.1} {:>7.0} {:>9.0}   {more:>16.2} {range:>15}   {floor:>12.2} {floor_range:>15}",
                median(column(&|it| it.unprobed)),
                median(column(&|it| it.floor)),
                median(column(&|it| it.leakprobe)),
            );
            if processes > 1 || threads > 1 {
                let what = format!("{libc}, processes: {processes}, threads: {threads}:");
                goals.at_most(format!("cost/one thread's, {what}"), more, GOAL, "");
            }
            crowd.victims.into_iter().for_each(Victim::end_well);
        }
    }
    Ok(goals)
}

/// What a crowd has measured in one state.
struct Measured {
    /// The median.
    cpu_ns_per_pair: f64,
    /// Of all measurements, by victim.
    pairs: Vec<u64>,
}

impl Crowd {
    fn spawn(libc: &str, processes: usize, threads: u32, options: &Options) -> Self {
        let arguments = [
            threads.to_string(),
            format!("{}s", options.seconds),
            options.frames.to_string(),
        ];
        let arguments = arguments.each_ref().map(String::as_str);
        let spawn = |_| Victim::spawn_with(libc, "pair", &arguments);
        Self {
            threads,
            victims: (0..processes).map(spawn).collect(),
        }
    }

    /// Lets all measure at the same time in the state they are in.
    fn measure(&mut self) -> Result<Measured> {
        let mut figures = Vec::new();
        let mut pairs = vec![0; self.victims.len()];
        for _ in 0..Measurements::PER_STATE {
            self.victims.iter_mut().for_each(Victim::go);
            let (mut all_pairs, mut all_ns) = (0, 0);
            for (victim, pairs) in self.victims.iter().zip(&mut pairs) {
                let line = victim.line();
                let one: Measurement = serde_json::from_str(&line)
                    .with_context(|| format!("the victim's line `{line}` cannot be read"))?;
                *pairs += one.pairs;
                all_pairs += one.pairs;
                all_ns += one.cpu_ns;
            }
            figures.push(all_ns as f64 / all_pairs as f64);
        }
        Ok(Measured {
            cpu_ns_per_pair: median(figures),
            pairs,
        })
    }

    /// CPU time per pair while each is recorded by a leakprobe of its own.
    ///
    /// # Errors
    ///
    /// If one did not count every pair.
    fn under_leakprobe(&mut self) -> Result<f64> {
        let attach =
            |victim: &Victim| Leakprobe::attach(victim.pid(), &["--interval", "1h", "--no-guard"]);
        let leakprobes: Vec<_> = self.victims.iter().map(attach).collect();
        let measured = self.measure()?;
        for (leakprobe, pairs) in leakprobes.into_iter().zip(measured.pairs) {
            let report = leakprobe.interrupt().report();
            let counted = (report.totals.allocated_count, report.totals.freed_count);
            ensure!(
                counted == (pairs, pairs) && report.evidence.verdict == "complete",
                "a victim made {pairs} pairs, but its leakprobe says: {counted:?}, {:?}",
                report.evidence
            );
        }
        Ok(measured.cpu_ns_per_pair)
    }
}
