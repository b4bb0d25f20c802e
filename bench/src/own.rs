//! What leakprobe itself takes: time to attach and to detach, CPU time while its target makes events
//! or holds much, and memory, its own and the kernel's for its maps. What it costs the target is
//! measured by the other benchmarks, how long a report takes by `report`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use leakprobe_tests::node::{Target, script};
use leakprobe_tests::{Leakprobe, Victim, leakprobe_path};
use nix::time::ClockId;
use nix::unistd::Pid;
use rustix::process::Signal;
use serde::Deserialize;
use tempfile::TempDir;

use crate::goal::{Goals, median};

/// Most percent of one processor that leakprobe may use itself, at so many events per second.
const GOAL: f64 = 5.0;
const GOAL_EVENTS: f64 = 500_000.0;

/// Events of a pair: malloc and free.
const EVENTS_PER_PAIR: f64 = 2.0;

/// From the first probe until leakprobe has measured what a trap costs: it uses more by then.
const START: Duration = Duration::from_secs(2);

/// How much to measure.
#[derive(clap::Args)]
pub struct Options {
    /// Times to attach to each target without and with a cache of its unwind information.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Seconds over which CPU time is measured; leakprobe reports every 5.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Numbers of threads that make events at the same time.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2])]
    threads: Vec<u32>,
    /// Live blocks at most.
    #[arg(long, default_value_t = 1_000_000)]
    blocks: u64,
    /// Distinct stacks they are from, 16384 at the most.
    #[arg(long, default_value_t = 10_000)]
    stacks: usize,
    /// The libc of the victims: glibc, glibc-static, musl, musl-static.
    #[arg(long, default_value = "glibc")]
    libc: String,
}

/// Measures, prints the figures, and gives those that have goals.
///
/// # Errors
///
/// If something cannot be probed, or leakprobe did not count every pair.
pub fn run(options: &Options) -> Result<Goals> {
    println!(
        "attaching and detaching, ms: medians of {} runs\n",
        options.runs
    );
    println!(
        "{:12} {:>12} {:>8} {:>14}",
        "target", "attach first", "cached", "SIGINT to end"
    );
    let victim = Victim::spawn_with(&options.libc, "big", &[]);
    attach(&options.libc, victim.pid(), options.runs)?;
    victim.end_well();
    let node = Target::in_docker(&script("server.js"));
    attach("musl Node", node.pid, options.runs)?;
    let end = node.end();
    ensure!(end.success(), "the server ended with {end}");

    let mut goals = Goals::default();
    println!(
        "\nCPU time of leakprobe, % of one processor over {} s\n",
        options.seconds
    );
    println!(
        "{:>7} {:>14} {:>7} {:>23}",
        "threads", "events/s", "CPU, %", "in proportion to 500k/s"
    );
    for &threads in &options.threads {
        let busy = busy(threads, options)?;
        // What does not depend on the events must not look smaller than it is.
        let proportion = busy.percent * (GOAL_EVENTS / busy.events_per_second).max(1.0);
        println!(
            "{threads:>7} {:>14.0} {:>7.2} {proportion:>23.2}",
            busy.events_per_second, busy.percent
        );
        let what = format!("leakprobe's CPU at {GOAL_EVENTS} events/s, threads: {threads}:");
        goals.at_most(what, proportion, GOAL, " %");
    }
    memory(options)?;
    Ok(goals)
}

/// Attaches to an idle target several times and prints what it took.
fn attach(name: &str, pid: u32, runs: usize) -> Result<()> {
    let mut columns: [Vec<f64>; 3] = Default::default();
    for _ in 0..runs {
        let cache = TempDir::new().context("failed to make a temporary folder")?;
        for cached in [false, true] {
            let start = Instant::now();
            let leakprobe = start_with_cache(cache.path(), pid);
            leakprobe.wait_until_recording();
            columns[usize::from(cached)].push(milliseconds(start));
            let signal = Instant::now();
            leakprobe.signal(Signal::INT);
            let end = leakprobe.end();
            columns[2].push(milliseconds(signal));
            ensure!(end.status.success(), "leakprobe ended with {}", end.status);
        }
    }
    let [first, cached, end] = columns.map(median);
    println!("{name:12} {first:>12.0} {cached:>8.0} {end:>14.0}");
    Ok(())
}

/// Starts leakprobe with this folder in place of root's cache, whatever that holds.
fn start_with_cache(cache: &Path, pid: u32) -> Leakprobe {
    let script = r#"mkdir -p /var/cache/leakprobe && mount --bind "$1" /var/cache/leakprobe &&
        shift && exec "$@""#;
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(cache);
    command.arg(leakprobe_path());
    command.args(["--pid", &pid.to_string(), "-o", "report.json"]);
    Leakprobe::start_by(&mut command)
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

/// What leakprobe used while its target made events.
struct Busy {
    events_per_second: f64,
    percent: f64,
}

/// The line that the victim writes.
#[derive(Deserialize)]
struct Measurement {
    pairs: u64,
}

fn busy(threads: u32, options: &Options) -> Result<Busy> {
    let seconds = START.as_secs() + options.seconds;
    let arguments = [threads.to_string(), format!("{seconds}s"), "10".to_owned()];
    let arguments = arguments.each_ref().map(String::as_str);
    let mut victim = Victim::spawn_with(&options.libc, "pair", &arguments);
    // The guard would let go of a target that does nothing but malloc and free.
    let leakprobe = Leakprobe::attach(victim.pid(), &["--no-guard"]);
    victim.go();
    sleep(START);
    let percent = cpu_percent(&leakprobe, options.seconds)?;
    let line = victim.line();
    let Measurement { pairs } = serde_json::from_str(&line)
        .with_context(|| format!("the victim's line `{line}` cannot be read"))?;
    let report = leakprobe.interrupt().report();
    let counted = (report.totals.allocated_count, report.totals.freed_count);
    ensure!(
        counted == (pairs, pairs) && report.evidence.verdict == "complete",
        "the victim made {pairs} pairs, but leakprobe says: {counted:?}, {:?}",
        report.evidence
    );
    victim.end_well();
    Ok(Busy {
        events_per_second: pairs as f64 * EVENTS_PER_PAIR / seconds as f64,
        percent,
    })
}

/// CPU time of all threads of leakprobe over some seconds, percent of one processor.
fn cpu_percent(leakprobe: &Leakprobe, seconds: u64) -> Result<f64> {
    let pid = Pid::from_raw(leakprobe.pid().try_into()?);
    let clock = ClockId::pid_cpu_clock_id(pid).context("failed to find leakprobe's CPU clock")?;
    let cpu = || clock.now().context("failed to read leakprobe's CPU clock");
    let (start, before) = (Instant::now(), cpu()?);
    sleep(Duration::from_secs(seconds));
    let used = Duration::from(cpu()? - before);
    Ok(used.as_secs_f64() / start.elapsed().as_secs_f64() * 100.0)
}

/// Prints memory and CPU time at rest, of few blocks and of many.
fn memory(options: &Options) -> Result<()> {
    let arguments = [options.blocks.to_string(), options.stacks.to_string()];
    let arguments = arguments.each_ref().map(String::as_str);
    let mut victim = Victim::spawn_with(&options.libc, "big", &arguments);
    println!("\nat rest, {} distinct stacks in the end\n", options.stacks);
    println!(
        "{:>11} {:>7} {:>15} {:>8} {:>10}",
        "live blocks", "CPU, %", "leakprobe, MB", "maps, MB", "programs, MB"
    );
    let leakprobe = Leakprobe::attach(victim.pid(), &[]);
    sleep(START);
    rest(&leakprobe, 0, options.seconds)?;
    victim.go();
    victim.summary();
    rest(&leakprobe, options.blocks, options.seconds)?;
    let report = leakprobe.interrupt().report();
    ensure!(
        report.totals.live_count == options.blocks && report.evidence.verdict == "complete",
        "the victim left {} blocks, but leakprobe says: {:?}, {:?}",
        options.blocks,
        report.totals,
        report.evidence
    );
    victim.end_well();
    Ok(())
}

fn rest(leakprobe: &Leakprobe, blocks: u64, seconds: u64) -> Result<()> {
    let percent = cpu_percent(leakprobe, seconds)?;
    let pid = leakprobe.pid();
    let (own, kernel) = (resident(pid)?, Kernel::of(pid)?);
    println!(
        "{blocks:>11} {percent:>7.2} {:>15.1} {:>8.1} {:>10.1}",
        own as f64 / 1e6,
        kernel.maps as f64 / 1e6,
        kernel.programs as f64 / 1e6
    );
    Ok(())
}

/// Bytes a process has resident now.
fn resident(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("failed to read `{path}`"))?;
    let value = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes: u64 = value
        .and_then(|value| value.trim().strip_suffix(" kB")?.parse().ok())
        .with_context(|| format!("`{path}` names no VmRSS"))?;
    Ok(kibibytes * 1024)
}

/// Bytes that the kernel keeps for a process's maps and programs.
struct Kernel {
    maps: u64,
    programs: u64,
}

impl Kernel {
    /// By the descriptors that the process has open; several may be of the same map.
    fn of(pid: u32) -> Result<Self> {
        let folder = format!("/proc/{pid}/fdinfo");
        let mut found: BTreeMap<(&str, u64), u64> = BTreeMap::new();
        for entry in fs::read_dir(&folder).with_context(|| format!("failed to list `{folder}`"))? {
            // It may have been closed by now.
            let Ok(info) = fs::read_to_string(entry?.path()) else {
                continue;
            };
            let field = |name: &str| -> Option<u64> {
                let value = info.lines().find_map(|line| line.strip_prefix(name))?;
                value.trim().parse().ok()
            };
            for kind in ["map_id:", "prog_id:"] {
                if let (Some(id), Some(bytes)) = (field(kind), field("memlock:")) {
                    found.insert((kind, id), bytes);
                }
            }
        }
        let sum = |wanted: &str| {
            let of_kind = found.iter().filter(|((kind, _), _)| *kind == wanted);
            of_kind.map(|(_, bytes)| bytes).sum()
        };
        let kernel = Self {
            maps: sum("map_id:"),
            programs: sum("prog_id:"),
        };
        ensure!(kernel.maps > 0, "leakprobe has no maps open in `{folder}`");
        Ok(kernel)
    }
}
