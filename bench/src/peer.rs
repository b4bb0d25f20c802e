//! What a malloc+free pair costs under the way in which it is usually done: probes at the first
//! instruction of malloc and free and at the return of malloc, a hash of sizes by thread, one of
//! blocks by address, and a stack by frame pointers. That is a script of bpftrace, which does what
//! memleak does; leakprobe is measured in the same run.

use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use leakprobe::probe::functions;
use leakprobe::target::{Allocator, Process};
use leakprobe_tests::Victim;

use crate::goal::{Goals, median};
use crate::pair::{sampled, state, under_leakprobe};

/// How many times cheaper leakprobe is to be, at the least.
const GOAL: f64 = 5.0;
/// The same for a sample.
const SAMPLED_GOAL: f64 = 9.0;

/// Until bpftrace has placed its probes, at most.
const PATIENCE: Duration = Duration::from_secs(20);

/// How much to measure.
#[derive(clap::Args)]
pub struct Options {
    /// Rounds for each libc.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 0.2)]
    seconds: f64,
    /// Frames from the caller of malloc to main, 3 at the least.
    #[arg(long, default_value_t = 10)]
    frames: u32,
    /// The libcs: glibc, musl.
    #[arg(long, value_delimiter = ',', default_values_t = ["glibc".to_owned(), "musl".to_owned()])]
    libc: Vec<String>,
}

/// bpftrace at work; ended when dropped.
struct Naive(Child);

impl Naive {
    /// Starts it on a victim that takes `unprobed` nanoseconds per pair, and waits for its probes.
    fn attach(victim: &mut Victim, unprobed: f64) -> Result<Self> {
        let process = Process::open(victim.pid())?;
        let allocators = Allocator::find(&process, &functions::names())?;
        let file = allocators.first().context("no allocator")?.object().path();
        let script = format!(
            "uprobe:{file}:malloc {{ @size[tid] = arg0; }}
             uretprobe:{file}:malloc /@size[tid]/ {{
                 $size = @size[tid];
                 delete(@size[tid]);
                 @blocks[retval] = ($size, nsecs, ustack);
                 @stacks[ustack] = sum($size);
             }}
             uprobe:{file}:free /arg0/ {{ delete(@blocks[arg0]); }}"
        );
        let child = Command::new("bpftrace")
            .args(["-p", &victim.pid().to_string(), "-e", &script])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("failed to start bpftrace")?;
        let naive = Self(child);
        let start = Instant::now();
        // Three traps take longer than any libc; it does not say when it is ready.
        while state(victim)?.ns_per_pair < unprobed + 1000.0 {
            if start.elapsed() > PATIENCE {
                bail!("bpftrace has placed no probe within {PATIENCE:?}");
            }
            sleep(Duration::from_millis(100));
        }
        sleep(Duration::from_secs(1)); // the other two
        Ok(naive)
    }
}

impl Drop for Naive {
    fn drop(&mut self) {
        // It has nothing to tell, and the kernel removes its probes.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Measures, prints a table, and gives how many times cheaper leakprobe is.
///
/// # Errors
///
/// If bpftrace or leakprobe cannot probe the victim.
pub fn run(options: &Options) -> Result<Goals> {
    println!(
        "ns per malloc+free pair, {} frames; medians of {} rounds\n",
        options.frames, options.rounds
    );
    println!(
        "{:12} {:>9} {:>10} {:>10} {:>8} {:>17} {:>15}",
        "libc", "unprobed", "bpftrace", "leakprobe", "sampled", "times cheaper", "sampled, times"
    );
    let mut goals = Goals::default();
    for libc in &options.libc {
        let seconds = format!("{}s", options.seconds);
        let frames = options.frames.to_string();
        let mut victim = Victim::spawn_with(libc, "pair", &["1", &seconds, &frames]);
        let mut columns: [Vec<f64>; 6] = Default::default();
        for _ in 0..options.rounds {
            let unprobed = state(&mut victim)?.ns_per_pair;
            let naive = Naive::attach(&mut victim, unprobed)?;
            let bpftrace = state(&mut victim)?.ns_per_pair;
            drop(naive);
            let leakprobe = under_leakprobe(&mut victim)?;
            let sampled = sampled(&mut victim)?;
            let round = [
                unprobed,
                bpftrace,
                leakprobe,
                sampled,
                bpftrace / leakprobe,
                bpftrace / sampled,
            ];
            for (column, figure) in columns.iter_mut().zip(round) {
                column.push(figure);
            }
        }
        victim.end_well();
        let [unprobed, bpftrace, leakprobe, sampled, times, sampled_times] = columns.map(median);
        println!(
            "{libc:12} {unprobed:>9.1} {bpftrace:>10.0} {leakprobe:>10.0} {sampled:>8.0} {times:>17.1} \
             {sampled_times:>15.1}"
        );
        goals.at_least(format!("bpftrace/leakprobe, {libc}:"), times, GOAL, "");
        goals.at_least(
            format!("bpftrace/sampled, {libc}:"),
            sampled_times,
            SAMPLED_GOAL,
            "",
        );
    }
    Ok(goals)
}
