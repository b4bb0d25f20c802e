//! All rules of one object: from its unwind information, and from its code where there is none.

use std::ops::Range;

use anyhow::Result;

use super::image::Image;
use super::synth::{self, Code};
use super::{END, NONE, RuleAt, SIGNAL, cfi};

/// Less than this between two functions is what aligns the second one.
const MIN_GAP: u64 = 16;

/// The rules of an object, each list sorted by address.
pub struct Rules {
    /// Those that its unwind information gives.
    pub informed: Vec<RuleAt>,
    /// Those and the ones made of its code.
    pub all: Vec<RuleAt>,
}

/// Reads or makes the rules of an object; `debug` is its debug file, if there is one.
///
/// # Errors
///
/// If it cannot be read, or has more than the limits allow.
pub fn rules(image: &Image, debug: Option<&Image>, threads: usize) -> Result<Rules> {
    let run_time = cfi::run_time(image, threads)?.rows;
    let made = made(image, &run_time);
    let own = cfi::debuggers(image, threads)?.rows;
    // A debug file that cannot be read is no reason to do without the rest.
    let debug = debug.and_then(|debug| cfi::table(debug, threads).ok());
    let debuggers = cfi::fill(&own, &debug.map(|debug| debug.rows).unwrap_or_default());
    // What debuggers are told of assembly comes from scripts (musl's), which know neither of ends
    // nor of signals.
    let ends: Vec<RuleAt> = made
        .iter()
        .map(|row| match row.rule {
            END | SIGNAL => *row,
            _ => RuleAt { rule: NONE, ..*row },
        })
        .collect();
    let informed = cfi::fill(&cfi::fill(&run_time, &ends), &debuggers);
    let all = cfi::fill(&informed, &made);
    // Without debuggers' rules the ends are found, not told.
    let informed = if debuggers.is_empty() {
        run_time
    } else {
        informed
    };
    Ok(Rules { informed, all })
}

/// Rules made from the code that unwind information does not cover.
fn made(image: &Image, known: &[RuleAt]) -> Vec<RuleAt> {
    let gaps = gaps(image, known);
    if gaps.is_empty() {
        return Vec::new();
    }
    // A symbol table that cannot be read is no reason to do without the rest.
    let symbols = image.functions().unwrap_or_default();
    let functions: Vec<Range<u64>> = symbols
        .list()
        .iter()
        .filter(|function| function.typed && is_within(&gaps, function.address))
        .map(|function| function.address..function.address.saturating_add(function.size))
        .collect();
    let framed: Vec<u64> = symbols
        .list()
        .iter()
        .filter(|symbol| is_within(&gaps, symbol.address))
        .filter(|symbol| symbols.name(symbol).starts_with(EMBEDDED_BUILTINS))
        .map(|symbol| symbol.address)
        .collect();
    synth::rows(&Code {
        read: &|range| image.bytes(range).ok(),
        gaps: &gaps,
        functions: &functions,
        entry: image.entry(),
        pointers: &[],
        framed: &framed,
    })
}

/// Where V8's embedded builtins begin.
const EMBEDDED_BUILTINS: &[u8] = b"v8_Default_embedded_blob_code_";

/// Parts of the executable segments that no rule is about.
fn gaps(image: &Image, known: &[RuleAt]) -> Vec<Range<u64>> {
    let mut segments: Vec<Range<u64>> = image
        .segments()
        .iter()
        .map(|segment| segment.address..segment.address + segment.file_size)
        .collect();
    segments.sort_by_key(|segment| segment.start);
    let mut gaps = Vec::new();
    for segment in segments {
        let first = known.partition_point(|row| row.address < segment.start);
        let last = known.partition_point(|row| row.address < segment.end);
        let before = first
            .checked_sub(1)
            .map_or(NONE, |before| known[before].rule);
        let mut unknown_since = (before == NONE).then_some(segment.start);
        let end = RuleAt {
            address: segment.end,
            rule: super::UNSUPPORTED,
        };
        for row in known[first..last].iter().chain([&end]) {
            match (row.rule == NONE, unknown_since) {
                (true, None) => unknown_since = Some(row.address),
                (false, Some(start)) => {
                    if row.address.saturating_sub(start) >= MIN_GAP {
                        gaps.push(start..row.address);
                    }
                    unknown_since = None;
                }
                _ => {}
            }
        }
    }
    gaps
}

fn is_within(gaps: &[Range<u64>], address: u64) -> bool {
    let after = gaps.partition_point(|gap| gap.start <= address);
    after
        .checked_sub(1)
        .is_some_and(|gap| gaps[gap].contains(&address))
}
