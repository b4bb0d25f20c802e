//! Feeds mutated files to what reads files that nobody vouches for, and stops at the first input
//! that makes a reader panic, take too long or take too much memory.
//!
//! `cargo run --profile fuzz --example fuzz -- [--seconds N] [--seed S] [--only NUMBER] READER`
//!
//! Input number N of a seed is the same in every run, so a failure is repeated with `--only N`. It
//! does not watch which code is reached, as libFuzzer does: that needs a nightly compiler. Instead
//! its mutations know where numbers are, and its inputs are small.

use std::cell::Cell;
use std::fs;
use std::panic;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::time::{ClockId, clock_gettime};

mod memory;
mod mutate;
mod others;
mod readers;
#[path = "../../src/unwind/test_elf.rs"]
mod test_elf;

use mutate::Random;
use readers::READERS;

/// Time of the processor that a reader may take for one input.
const CPU_LIMIT: Duration = Duration::from_secs(2);
/// After that time it is stuck, however busy the machine may be.
const WALL_LIMIT: Duration = Duration::from_secs(120);
/// Bytes that a reader may have allocated at one time.
const MEMORY_LIMIT: usize = 512 << 20;

/// The input that is being read, for whoever reports that it failed.
static INPUT: Mutex<Vec<u8>> = Mutex::new(Vec::new());
/// How many inputs there have been: progress, for the watchdog.
static NUMBER: AtomicU64 = AtomicU64::new(0);

fn main() -> Result<()> {
    let (mut seconds, mut seed, mut only, mut name) = (10, 1, None, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || -> Result<u64> {
            let value = arguments.next().unwrap_or_default();
            value
                .parse()
                .with_context(|| format!("{argument} takes a number"))
        };
        match argument.as_str() {
            "--seconds" => seconds = number()?,
            "--seed" => seed = number()?,
            "--only" => only = Some(number()?),
            _ => name = Some(argument),
        }
    }
    let reader = READERS
        .iter()
        .find(|reader| Some(reader.name) == name.as_deref());
    let Some(reader) = reader else {
        let names: Vec<_> = READERS.iter().map(|reader| reader.name).collect();
        bail!("name one of the readers: {}", names.join(", "));
    };
    let seeds = (reader.seeds)().context("failed to make the seeds")?;
    ensure!(!seeds.is_empty(), "there are no seeds");
    panic::set_hook(Box::new(|info| {
        fail(&format!("the reader panicked: {info}"))
    }));
    thread::spawn(watch);

    let end = Instant::now() + Duration::from_secs(seconds);
    let mut slowest = Duration::ZERO;
    let mut largest = 0;
    let (mut accepted, mut made) = (0, 0);
    let first = only.unwrap_or(0);
    let mut number = first;
    while Instant::now() < end && only.is_none_or(|only| number == only) {
        NUMBER.store(number, Ordering::Relaxed);
        let input = mutate::input(&seeds, &mut Random::new(seed, number));
        INPUT
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .clone_from(&input);
        let before = memory::start();
        let start = cpu_time()?;
        if let Ok(count) = (reader.read)(&input) {
            accepted += 1;
            made += count;
        }
        let took = cpu_time()?.saturating_sub(start);
        let used = memory::peak().saturating_sub(before);
        if took > CPU_LIMIT {
            fail(&format!("the reader took {took:?}"));
        }
        if used > MEMORY_LIMIT {
            fail(&format!("the reader took {used} bytes"));
        }
        slowest = slowest.max(took);
        largest = largest.max(used);
        number += 1;
    }
    println!(
        "{}: {} inputs, {accepted} of them without an error, which made {made} items; \
         slowest {slowest:.1?}, most memory {} KiB",
        reader.name,
        number - first,
        largest >> 10
    );
    Ok(())
}

fn cpu_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?.into())
}

/// Ends the process if one input takes forever.
fn watch() {
    let mut last = (u64::MAX, Instant::now());
    loop {
        thread::sleep(Duration::from_secs(1));
        let number = NUMBER.load(Ordering::Relaxed);
        if number != last.0 {
            last = (number, Instant::now());
        } else if last.1.elapsed() > WALL_LIMIT {
            fail("the reader is stuck");
        }
    }
}

/// Says what is wrong with the input, keeps it, and ends.
fn fail(what: &str) -> ! {
    thread_local!(static FAILING: Cell<bool> = const { Cell::new(false) });
    if FAILING.replace(true) {
        std::process::abort();
    }
    let number = NUMBER.load(Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("leakprobe-fuzz-{number}"));
    let kept = INPUT
        .lock()
        .is_ok_and(|input| fs::write(&path, &*input).is_ok());
    let path = if kept { path } else { PathBuf::from("nowhere") };
    eprintln!("input {number}: {what}\nThe input is in {}", path.display());
    std::process::exit(1);
}
