//! What a recording costs a service: a musl Node in a Docker container answers HTTP requests, and wrk
//! counts how many. Each measurement under leakprobe stands between two without it, a moment before
//! and after, and is put in relation to their mean: what disturbs the machine disturbs all three.
//!
//! Modes are rows of a table. One whose options this leakprobe does not know is an error, never left out.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use leakprobe::snapshot::counts::Count;
use leakprobe_tests::Leakprobe;
use leakprobe_tests::node::{Target, script};

use crate::goal::{Goals, median, ratio};
use crate::wrk::{Client, Load};

/// A way to record.
struct Mode {
    name: &'static str,
    /// For leakprobe.
    options: &'static [&'static str],
    /// Losses that are by design where the first of them is: they make its report partial.
    losses: &'static [&'static str],
    /// Percent of the requests per second that are to be kept, at the least.
    goal: f64,
    /// Seconds under load before the measurement, which are measured on their own. A governor needs
    /// some; everything else has seen its stacks after one.
    first_seconds: u32,
}

const MODES: &[Mode] = &[
    Mode {
        name: "exact",
        options: &[],
        losses: &[],
        goal: 30.0,
        first_seconds: 1,
    },
    Mode {
        name: "sampled",
        options: &["--sample-bytes", "512KiB"],
        losses: &[],
        goal: 45.0,
        first_seconds: 1,
    },
    Mode {
        name: "budget",
        options: &["--max-overhead", "5"],
        losses: &["probes_away", "missed_frees", "unknown_frees"],
        goal: 93.0,
        first_seconds: 5,
    },
    Mode {
        name: "growth",
        options: &["--mode", "growth"],
        losses: &["pages_without_fault"],
        goal: 98.0,
        first_seconds: 1,
    },
];

/// What the server is asked for: a small answer, and one of some KB that is compressed.
const REQUESTS: &[&str] = &["small", "gzip"];

/// Seconds of load until Node has compiled what is hot, per kind of request.
const WARM_UP_SECONDS: u32 = 5;

/// How much to measure.
#[derive(clap::Args)]
pub struct Options {
    /// Rounds for each kind of request.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 4)]
    seconds: u32,
    /// Connections that ask at the same time.
    #[arg(long, default_value_t = 32)]
    connections: u32,
    /// The ways to record: exact, sampled, budget, growth.
    #[arg(long, value_delimiter = ',', value_parser = mode,
          default_values = MODES.iter().map(|mode| mode.name))]
    modes: Vec<&'static Mode>,
    /// The kinds of requests: small, gzip.
    #[arg(long, value_delimiter = ',', default_values = REQUESTS)]
    requests: Vec<String>,
}

fn mode(name: &str) -> Result<&'static Mode> {
    let found = MODES.iter().find(|mode| mode.name == name);
    found.with_context(|| format!("there is no mode `{name}`"))
}

/// One measurement under leakprobe.
struct Probed {
    load: Load,
    /// Requests per second of the first seconds.
    first: f64,
    /// Traps per request.
    traps: f64,
    /// What leakprobe says it has cost, percent of the server's CPU time.
    overhead: f64,
}

/// One measurement under leakprobe, relative to those without it before and after.
struct Figures {
    unprobed: f64,
    probed: f64,
    kept: f64,
    /// In the first seconds.
    kept_first: f64,
    /// The server's CPU time per request.
    cpu: f64,
    traps: f64,
    overhead: f64,
}

/// Measures, prints a table, and gives the percentages kept.
///
/// # Errors
///
/// If the server or wrk cannot be run, a request fails, leakprobe does not know a mode, or its report
/// is not complete for another reason than the mode.
pub fn run(options: &Options) -> Result<Goals> {
    let server = Target::in_docker(&script("server.js"));
    for mode in &options.modes {
        try_out(server.pid, mode).with_context(|| format!("no mode `{}`", mode.name))?;
    }
    println!(
        "requests per second of a musl Node in Docker, {} connections; medians of {} rounds of {} s\n",
        options.connections, options.rounds, options.seconds
    );
    println!(
        "{:8} {:8} {:>9} {:>8}   {:>6} {:>15} {:>14}   {:>13} {:>15} {:>13}",
        "request",
        "mode",
        "unprobed",
        "probed",
        "kept",
        "(lowest - most)",
        "first seconds",
        "CPU/unprobed",
        "traps/request",
        "estimated, %",
    );
    let mut goals = Goals::default();
    for request in &options.requests {
        let client = Client {
            server: server.pid,
            request,
            connections: options.connections,
        };
        client.load(WARM_UP_SECONDS)?;
        let mut unprobed = vec![client.load(options.seconds)?];
        let mut rows: Vec<Vec<Figures>> = options.modes.iter().map(|_| Vec::new()).collect();
        for _ in 0..options.rounds {
            for (mode, row) in options.modes.iter().zip(&mut rows) {
                let probed = under_leakprobe(&client, mode, options.seconds)
                    .with_context(|| format!("no figure for `{}`", mode.name))?;
                let after = client.load(options.seconds)?;
                row.push(Figures::new(&unprobed[unprobed.len() - 1], &probed, &after));
                unprobed.push(after);
            }
        }
        // The same with one of the unprobed measurements in the middle: how far chance goes.
        let chance = unprobed.windows(3).map(|it| {
            let around = it[0].per_second + it[2].per_second;
            it[1].per_second * 2.0 / around
        });
        let (kept, range) = ratio(chance.collect());
        println!(
            "{request:8} {:8} {:>9.0} {:>8}   {kept:>6.3} {range:>15}",
            "unprobed",
            median(unprobed.iter().map(|it| it.per_second).collect()),
            ""
        );
        for (mode, row) in options.modes.iter().zip(&rows) {
            let column =
                |figure: &dyn Fn(&Figures) -> f64| row.iter().map(figure).collect::<Vec<_>>();
            let (kept, range) = ratio(column(&|it| it.kept));
            println!(
                "{request:8} {:8} {:>9.0} {:>8.0}   {kept:>6.3} {range:>15} {:>14.3}   {:>13.2} {:>15.1} {:>13.0}",
                mode.name,
                median(column(&|it| it.unprobed)),
                median(column(&|it| it.probed)),
                median(column(&|it| it.kept_first)),
                median(column(&|it| it.cpu)),
                median(column(&|it| it.traps)),
                median(column(&|it| it.overhead)),
            );
            let what = format!("requests kept, {request}, {}:", mode.name);
            goals.at_least(what, kept * 100.0, mode.goal, " %");
        }
    }
    let end = server.end();
    ensure!(end.success(), "the server ended with {end}");
    Ok(goals)
}

impl Figures {
    fn new(before: &Load, probed: &Probed, after: &Load) -> Self {
        let mean = |figure: fn(&Load) -> f64| (figure(before) + figure(after)) / 2.0;
        let unprobed = mean(|load| load.per_second);
        Self {
            unprobed,
            probed: probed.load.per_second,
            kept: probed.load.per_second / unprobed,
            kept_first: probed.first / unprobed,
            cpu: probed.load.cpu_us / mean(|load| load.cpu_us),
            traps: probed.traps,
            overhead: probed.overhead,
        }
    }
}

/// Records the server for a moment: a mode that is not there ends this before anything was measured,
/// and the unwind information of the server is in leakprobe's cache after it.
///
/// # Errors
///
/// If this leakprobe cannot record so.
fn try_out(server: u32, mode: &Mode) -> Result<()> {
    let pid = server.to_string();
    let mut arguments = vec!["--pid", &pid, "--duration", "1s", "-o", "report.json"];
    arguments.extend(mode.options);
    let outcome = Leakprobe::start(&arguments).end();
    ensure!(
        outcome.status.success(),
        "leakprobe {} ended with {}: {}\nwithout this mode: --modes",
        mode.options.join(" "),
        outcome.status,
        outcome.stderr
    );
    Ok(())
}

/// Requests per second while leakprobe records the server.
fn under_leakprobe(client: &Client<'_>, mode: &Mode, seconds: u32) -> Result<Probed> {
    let mut arguments = vec!["--interval", "1h"];
    arguments.extend(mode.options);
    let leakprobe = Leakprobe::attach(client.server, &arguments);
    let start = Instant::now();
    let first = client.load(mode.first_seconds)?;
    let load = client.load(seconds)?;
    let recorded = start.elapsed();
    let report = leakprobe.interrupt().report();
    let losses = &report.evidence.losses;
    let by_design = mode
        .losses
        .first()
        .is_some_and(|it| losses.contains_key(*it))
        && losses
            .keys()
            .filter(|it| Count::find(it).is_none_or(|count| count.is_loss))
            .all(|it| mode.losses.contains(&it.as_str()));
    ensure!(
        report.evidence.verdict == "complete" || by_design,
        "leakprobe's report is not complete: {:?}",
        report.evidence
    );
    // One that has let the server go, as its guard does, has measured nothing for a while.
    ensure!(
        Duration::from_nanos(report.duration_ns) >= recorded,
        "leakprobe's recording ended before the load: {:?}",
        report.evidence
    );
    let requests = first.requests + load.requests;
    let overhead = report.overhead.context("no overhead was measured")?;
    Ok(Probed {
        first: first.per_second,
        traps: overhead.hits as f64 / requests,
        overhead: overhead.percent as f64,
        load,
    })
}
