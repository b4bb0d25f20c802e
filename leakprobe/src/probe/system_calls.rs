//! Where the target's own code makes the system calls that change what it has mapped: places for probes.
//!
//! Nobody else is slowed by those, unlike by the kernel's tracepoints of system calls. Looked at is the code that
//! can be got to from the functions that symbols and unwind information tell of; what `syscall()` is asked to
//! call, and code that a JIT compiler makes, is not seen. Here is how an object is looked through; what its
//! instructions mean, [`super::arch`] knows.

use anyhow::Result;
use leakprobe_common::{MappingSite, mapping_call};

use super::arch::x86_64_calls::{SYSCALL, SystemCall, system_calls};
use crate::unwind::cfi;
use crate::unwind::image::Image;

/// Bytes of code of one object that are looked through, at most. What is larger is a program with a C library
/// to call.
const MAX_CODE: u64 = 16 << 20;

/// Which system calls are to be probed, and for what.
#[derive(Debug)]
pub struct Wanted {
    /// Their numbers.
    pub calls: &'static [u32],
    /// Whether also in front of those that take memory away: another thread may be given that before they return.
    pub in_front: bool,
    /// The program that the probes run.
    pub program: &'static str,
    /// What these calls do, for a reader.
    pub purpose: &'static str,
}

/// What changes mappings.
pub static MAPPINGS: Wanted = Wanted {
    calls: &mapping_call::ALL,
    in_front: true,
    program: "map_call",
    purpose: "map memory",
};

/// What moves pages.
pub static MOVES: Wanted = Wanted {
    calls: &[mapping_call::MREMAP],
    in_front: false,
    program: "move_call",
    purpose: "move pages",
};

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
    /// The calls that are wanted.
    pub calls: Vec<SystemCall>,
    /// Of those, how many cannot be probed behind them.
    pub hidden: usize,
    /// System calls whose number is no constant.
    pub unknown: usize,
    /// How often there are the bytes of a system call in code that nothing was seen to lead to, or in data.
    pub unreached: usize,
    /// The probes to place.
    pub points: Vec<Point>,
}

/// Looks through the code of an object.
///
/// # Errors
///
/// If it cannot be read.
pub fn find(image: &Image, wanted: &Wanted) -> Result<Sites> {
    let mut sites = Sites::default();
    let mut functions = None;
    for segment in image.segments() {
        if segment.file_size > MAX_CODE {
            continue;
        }
        let code = image.code(segment.address..segment.address + segment.file_size)?;
        if !code.windows(SYSCALL.len()).any(|it| it == SYSCALL) {
            continue;
        }
        let functions = match &functions {
            Some(functions) => functions,
            None => functions.insert(function_starts(image)?),
        };
        let found = system_calls(&code, segment.address, functions);
        sites.unknown += found.unknown;
        sites.unreached += found.unreached;
        let known = found.known.into_iter();
        for call in known.filter(|it| wanted.calls.contains(&it.number)) {
            let offset = |address| segment.offset + (address - segment.address);
            sites.hidden += usize::from(call.after.is_none());
            sites.points.extend(points(&call, wanted.in_front, offset));
            sites.calls.push(call);
        }
    }
    Ok(sites)
}

/// The probes for a call; none if what it returns cannot be seen.
fn points(call: &SystemCall, in_front: bool, offset: impl Fn(u64) -> u64) -> Vec<Point> {
    let number = u64::from(call.number);
    let Some(after) = call.after else {
        return Vec::new();
    };
    let behind = Point {
        offset: offset(after),
        cookie: number,
    };
    let takes = matches!(call.number, mapping_call::MUNMAP | mapping_call::MREMAP);
    let before = call.before.filter(|_| takes && in_front).map(|before| {
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

/// Where functions start, as far as symbols and unwind information tell.
fn function_starts(image: &Image) -> Result<Vec<u64>> {
    let functions = image.functions()?;
    let named = functions.list().iter().map(|function| function.address);
    let mut starts: Vec<u64> = named.chain([image.entry()]).collect();
    match cfi::functions(image) {
        Ok(unwound) => starts.extend(unwound),
        Err(error) => log::debug!("no functions by unwind information: {error:#}"),
    }
    Ok(starts)
}
