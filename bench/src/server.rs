//! What a recording costs a service: a musl Node in a Docker container answers HTTP requests, and wrk
//! counts how many. Each measurement under leakprobe stands between two without it, a moment before
//! and after, and is put in relation to their mean: what disturbs the machine disturbs all three.
//!
//! Modes are rows of a table. One whose options this leakprobe does not know is an error, never left out.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use leakprobe_tests::Leakprobe;
use leakprobe_tests::node::{Target, output, script};

use crate::goal::{Goals, median, ratio};

/// A way to record.
struct Mode {
    name: &'static str,
    /// For leakprobe.
    options: &'static [&'static str],
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
        goal: 30.0,
        first_seconds: 1,
    },
    Mode {
        name: "sampled",
        options: &["--sample-bytes", "512KiB"],
        goal: 45.0,
        first_seconds: 1,
    },
    Mode {
        name: "budget",
        options: &["--max-overhead", "5"],
        goal: 93.0,
        first_seconds: 5,
    },
    Mode {
        name: "growth",
        options: &["--mode", "growth"],
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

/// What wrk has counted.
struct Load {
    requests: f64,
    per_second: f64,
}

/// One measurement under leakprobe.
struct Probed {
    /// Requests per second without it: the mean of before and after.
    unprobed: f64,
    per_second: f64,
    /// The same in the first seconds.
    first: f64,
    /// Traps per request.
    traps: f64,
    /// What leakprobe says it has cost, percent of the server's CPU time.
    overhead: f64,
}

/// Measures, prints a table, and gives the percentages kept.
///
/// # Errors
///
/// If the server or wrk cannot be run, a request fails, leakprobe does not know a mode, or its report
/// is not complete.
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
        "{:8} {:8} {:>9} {:>8}   {:>6} {:>15} {:>14}   {:>13} {:>11}",
        "request",
        "mode",
        "unprobed",
        "probed",
        "kept",
        "(lowest - most)",
        "first seconds",
        "traps/request",
        "overhead, %",
    );
    let mut goals = Goals::default();
    for request in &options.requests {
        let client = Client {
            server: server.pid,
            request,
            connections: options.connections,
        };
        client.load(WARM_UP_SECONDS)?;
        let mut rows: Vec<Vec<Probed>> = options.modes.iter().map(|_| Vec::new()).collect();
        let mut before = client.load(options.seconds)?.per_second;
        let mut unprobed = vec![before];
        for _ in 0..options.rounds {
            for (mode, row) in options.modes.iter().zip(&mut rows) {
                let mut probed = under_leakprobe(&client, mode, options.seconds)
                    .with_context(|| format!("no figure for `{}`", mode.name))?;
                let after = client.load(options.seconds)?.per_second;
                probed.unprobed = mean(before, after);
                row.push(probed);
                unprobed.push(after);
                before = after;
            }
        }
        // The same with one of the unprobed measurements in the middle: how far chance goes.
        let (kept, range) = ratio(
            unprobed
                .windows(3)
                .map(|it| it[1] / mean(it[0], it[2]))
                .collect(),
        );
        println!(
            "{request:8} {:8} {:>9.0} {:>8}   {kept:>6.3} {range:>15}",
            "unprobed",
            median(unprobed),
            ""
        );
        for (mode, row) in options.modes.iter().zip(&rows) {
            let column =
                |figure: &dyn Fn(&Probed) -> f64| row.iter().map(figure).collect::<Vec<_>>();
            let (kept, range) = ratio(column(&|it| it.per_second / it.unprobed));
            println!(
                "{request:8} {:8} {:>9.0} {:>8.0}   {kept:>6.3} {range:>15} {:>14.3}   {:>13.1} {:>11.0}",
                mode.name,
                median(column(&|it| it.unprobed)),
                median(column(&|it| it.per_second)),
                median(column(&|it| it.first / it.unprobed)),
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

fn mean(before: f64, after: f64) -> f64 {
    (before + after) / 2.0
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

/// Who asks, and for what.
struct Client<'a> {
    server: u32,
    request: &'a str,
    connections: u32,
}

impl Client<'_> {
    /// Lets wrk ask for some seconds, on the loopback of the server's own network namespace.
    ///
    /// # Errors
    ///
    /// If wrk cannot be run, or any answer was not the one wanted.
    fn load(&self, seconds: u32) -> Result<Load> {
        let said = output(
            Command::new("nsenter")
                .arg(format!("--net=/proc/{}/ns/net", self.server))
                .args(["wrk", "--threads", "1"])
                .arg(format!("--connections={}", self.connections))
                .arg(format!("--duration={seconds}s"))
                .arg(format!("http://127.0.0.1:8080/{}", self.request)),
        )
        .map_err(|error| anyhow::anyhow!("failed to load the server: {error}"))?;
        let load = parse(&said);
        load.with_context(|| format!("wrk was not content with the server: {said}"))
    }
}

/// What wrk has counted, unless it complains of errors.
fn parse(said: &str) -> Option<Load> {
    if said.contains("Socket errors") || said.contains("Non-2xx") {
        return None;
    }
    let mut words = said.lines().map(str::split_whitespace);
    let requests = words.clone().find_map(|mut line| {
        let number = line.next()?;
        (line.next()? == "requests").then_some(number)
    });
    let per_second = words.find_map(|mut line| {
        let is_it = line.next()? == "Requests/sec:";
        is_it.then(|| line.next())?
    });
    Some(Load {
        requests: requests?.parse().ok()?,
        per_second: per_second?.parse().ok()?,
    })
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
    if report.evidence.verdict != "complete" {
        bail!("leakprobe's report is not complete: {:?}", report.evidence);
    }
    // One that has let the server go, as its guard does, has measured nothing for a while.
    ensure!(
        Duration::from_nanos(report.duration_ns) >= recorded,
        "leakprobe's recording ended before the load: {:?}",
        report.evidence
    );
    let requests = first.requests + load.requests;
    let overhead = report.overhead.context("no overhead was measured")?;
    Ok(Probed {
        unprobed: f64::NAN, // known after the next measurement
        per_second: load.per_second,
        first: first.per_second,
        traps: overhead.hits as f64 / requests,
        overhead: overhead.percent as f64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "Running 4s test @ http://127.0.0.1:8080/small
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     3.08ms    8.78ms 172.79ms   97.51%
    Req/Sec    16.46k     7.85k   37.40k    65.00%
  65468 requests in 4.00s, 11.54MB read
Requests/sec:  16349.89
Transfer/sec:      2.88MB";

    #[test]
    fn the_count_of_wrk_is_read() {
        let load = parse(SAID).unwrap();
        assert_eq!((load.requests, load.per_second), (65468.0, 16349.89));
        assert!(parse("Requests/sec:  16349.89").is_none());
    }

    #[test]
    fn failed_requests_are_no_figure() {
        let errors = "  Socket errors: connect 0, read 1, write 0, timeout 0\n";
        assert!(parse(&format!("{errors}{SAID}")).is_none());
        assert!(parse(&format!("{SAID}\n  Non-2xx or 3xx responses: 7\n")).is_none());
    }
}
