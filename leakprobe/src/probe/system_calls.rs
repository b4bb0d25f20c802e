//! Where the target's own code makes the system calls that change what it has mapped: places for probes.
//!
//! Nobody else is slowed by those, unlike by the kernel's tracepoints of system calls. Looked at is the code
//! from each function's first byte on, as far as symbols tell where that is; what `syscall()` is asked to
//! call, and code that a JIT compiler makes, is not seen. Here is how an object is looked through; what its
//! instructions mean, [`super::arch`] knows.

use std::ops::Range;

use anyhow::Result;
use leakprobe_common::{MappingSite, mapping_call};

use super::arch::x86_64_calls::{SYSCALL, SystemCall, system_calls};
use crate::unwind::image::Image;

/// Bytes of code of one object that are looked through, at most. What is larger is a program with a C library
/// to call.
const MAX_CODE: u64 = 32 << 20;

/// Bytes of one function, and of what follows it without a name.
const MAX_FUNCTION: u64 = 256 << 10;

/// A place for a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// Offset of the instruction in the file, bytes.
    pub offset: u64,
    /// What the program is told there, see [`MappingSite`].
    pub cookie: u64,
}

/// What was found in an object.
#[derive(Clone, Debug, Default)]
pub struct Sites {
    /// The calls that change mappings.
    pub calls: Vec<SystemCall>,
    /// Of those, how many cannot be probed behind them.
    pub hidden: usize,
    /// System calls whose number is no constant.
    pub unknown: usize,
    /// The probes to place.
    pub points: Vec<Point>,
}

/// Looks through the code of an object.
///
/// # Errors
///
/// If it cannot be read.
pub fn find(image: &Image) -> Result<Sites> {
    let mut sites = Sites::default();
    let mut starts = None;
    for segment in image.segments() {
        let range = segment.address..segment.address + segment.file_size;
        if segment.file_size > MAX_CODE {
            continue;
        }
        let code = image.code(range.clone())?;
        let hits = || code.windows(2).enumerate().filter(|(_, it)| *it == SYSCALL);
        if hits().next().is_none() {
            continue;
        }
        let starts = match &starts {
            Some(starts) => starts,
            None => starts.insert(function_starts(image)?),
        };
        let mut done = range.start;
        for (at, _) in hits() {
            let hit = range.start + at as u64;
            let Some(function) = around(starts, hit, &range).filter(|_| hit >= done) else {
                continue;
            };
            done = function.end;
            let within = |address: u64| (address - range.start) as usize;
            let bytes = &code[within(function.start)..within(function.end)];
            let found = system_calls(bytes, function.start);
            sites.unknown += found.unknown;
            let wanted = found.known.into_iter();
            for call in wanted.filter(|it| mapping_call::ALL.contains(&it.number)) {
                let offset = |address| segment.offset + (address - segment.address);
                sites.hidden += usize::from(call.after.is_none());
                sites.points.extend(points(&call, offset));
                sites.calls.push(call);
            }
        }
    }
    Ok(sites)
}

/// The probes for a call; none if what it returns cannot be seen.
fn points(call: &SystemCall, offset: impl Fn(u64) -> u64) -> Vec<Point> {
    let number = u64::from(call.number);
    let Some(after) = call.after else {
        return Vec::new();
    };
    let behind = Point {
        offset: offset(after),
        cookie: number,
    };
    // What these take away another thread may be given before they return.
    let takes = matches!(call.number, mapping_call::MUNMAP | mapping_call::MREMAP);
    let before = call.before.filter(|_| takes).map(|before| {
        let [first, second] = before.arguments.map(u64::from);
        Point {
            offset: offset(before.address),
            cookie: number
                | MappingSite::BEFORE
                | first << MappingSite::FIRST_SHIFT
                | second << MappingSite::SECOND_SHIFT,
        }
    });
    [behind].into_iter().chain(before).collect()
}

/// Where functions start, sorted.
fn function_starts(image: &Image) -> Result<Vec<u64>> {
    let functions = image.functions()?;
    let functions = functions.list().iter();
    let mut starts: Vec<u64> = functions.map(|function| function.address).collect();
    starts.dedup();
    Ok(starts)
}

/// From the start of the function that holds an address to that of the next.
fn around(starts: &[u64], address: u64, within: &Range<u64>) -> Option<Range<u64>> {
    let after = starts.partition_point(|&start| start <= address);
    let start = *starts.get(after.checked_sub(1)?)?;
    let end = starts
        .get(after)
        .copied()
        .unwrap_or(within.end)
        .min(within.end);
    let end = end.min(start.saturating_add(MAX_FUNCTION));
    (within.contains(&start) && address < end).then_some(start..end)
}
