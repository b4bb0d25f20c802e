//! The oracle: stacks of a running process by means that share no code with leakprobe, to compare
//! its report with. The kernel's perf events copy registers and stack at the allocator's entries
//! ([`sampler`]), framehop unwinds the copies ([`unwind`]), and [`compare`] counts what is equal.
//!
//! Where framehop does not know how to go on, the oracle says so, and such a stack never counts as
//! equal. What it cannot tell: whether leakprobe gave a stack to the wrong block; tests with victims do.

pub mod cfi;
pub mod compare;
#[cfg(test)]
mod compare_tests;
pub mod image;
pub mod outcome;
pub mod program;
pub mod programs;
mod ring;
pub mod sampler;
pub mod space;
pub mod tracefs;
pub mod unwind;

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use outcome::Outcome;
use sampler::{Place, Sampler, Samples};
use space::Space;
use unwind::{Frame, Stack, Walker};

use crate::report::Report;

/// Where to sample.
const FUNCTIONS: &[&str] = &["malloc", "calloc", "realloc", "posix_memalign"];

/// A sampler of one process.
pub struct Oracle {
    pid: u32,
    debug: Vec<PathBuf>,
    sampler: Sampler,
}

/// The stacks of one process, and what is needed to name their frames.
pub struct Stacks {
    space: Space,
    stacks: Vec<Stack>,
    lost: u64,
}

impl Oracle {
    /// Samples every `period`-th call of each allocator function of a process from now on. `debug`
    /// are files with what was stripped from its files. Panics when it is gone or has no malloc.
    pub fn attach(pid: u32, period: u64, debug: Vec<PathBuf>) -> Oracle {
        let space = Space::read(pid, &debug, &BTreeSet::new());
        let places: Vec<Place> = FUNCTIONS
            .iter()
            .filter_map(|name| {
                let (mapping, offset) = space.with_function(name).next()?;
                let path = mapping.path.clone();
                Some(Place { path, offset })
            })
            .collect();
        assert!(!places.is_empty(), "process {pid} has no malloc");
        Oracle {
            sampler: Sampler::start(pid, &places, period),
            pid,
            debug,
        }
    }

    /// Stops sampling. The process has to live until [`Sampled::unwind`].
    pub fn stop(self) -> Sampled {
        Sampled {
            pid: self.pid,
            debug: self.debug,
            samples: self.sampler.finish(),
        }
    }
}

/// Samples of a process that still lives.
pub struct Sampled {
    pid: u32,
    debug: Vec<PathBuf>,
    samples: Samples,
}

impl Sampled {
    /// Unwinds all samples. Panics when the process is gone.
    pub fn unwind(self) -> Stacks {
        let space = Space::read(self.pid, &self.debug, &self.samples.generated);
        let memory = File::open(format!("/proc/{}/mem", self.pid))
            .unwrap_or_else(|error| panic!("failed to open the target's memory: {error}"));
        let code = |address| {
            let mut bytes = [0; 9];
            memory.read_exact_at(&mut bytes, address).ok()?;
            Some(bytes)
        };
        let mut walker = Walker::new(&space, code);
        let samples = &self.samples.kept;
        let stacks = samples.iter().map(|sample| walker.walk(sample)).collect();
        drop(walker);
        Stacks {
            stacks,
            lost: self.samples.lost,
            space,
        }
    }
}

impl Stacks {
    /// Compares them with a report of the same process over at least the same time.
    pub fn compare(&self, report: &Report) -> Outcome {
        let name = |frame: &Frame| self.space.describe(frame);
        compare::compare(&self.stacks, self.lost, report, name)
    }
}
