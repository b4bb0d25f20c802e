//! Compares the oracle's stacks with those of a report: the same set, frame by frame. It counts and
//! groups what differs; whether that is good enough is for the test to say.
//!
//! A report has no times and no threads, so a stack of the oracle is looked for among all of the
//! report's. Where no equal one is, the one that agrees for the most frames, from the leaf and from
//! the start of the thread on, is taken for it; what is between counts as different.

use std::cmp::Reverse;
use std::collections::HashSet;

use super::outcome::Outcome;
use super::unwind::{End, Frame, Stack};
use crate::report;

/// A frame as both sides can know it: module, and address in it. Code without a file has no address
/// but in memory, and its mapping may have grown at its start since; its place in its page stays.
type Key<'a> = (&'a str, u64);

fn key<'a>(module: Option<&'a str>, offset: Option<u64>) -> Key<'a> {
    let offset = offset.unwrap_or(u64::MAX);
    match module {
        Some(name @ "[anonymous]") => (name, offset & 0xfff),
        Some(name) => (name, offset),
        None => ("?", offset),
    }
}

/// The frames of a reported stack without the inlined ones.
fn keys_of(stack: &report::Stack) -> Vec<Key<'_>> {
    let frames = stack.frames.iter().filter(|frame| !frame.inlined);
    frames
        .map(|frame| key(frame.module.as_deref(), frame.offset))
        .collect()
}

/// Compares the oracle's stacks with the report. `name` gives the function at a frame of the oracle's.
pub fn compare(
    oracle: &[Stack],
    lost: u64,
    report: &report::Report,
    name: impl Fn(&Frame) -> String,
) -> Outcome {
    let reported = Sorted::new(report);
    let mut outcome = Outcome {
        lost,
        live_bytes: report.totals.live_bytes,
        ..Outcome::default()
    };
    let mut seen = HashSet::new();
    let mut bottoms = HashSet::new();
    for stack in oracle {
        let keys: Vec<Key<'_>> = stack
            .frames
            .iter()
            .map(|frame| key(Some(&frame.module), Some(frame.offset)))
            .collect();
        match &stack.end {
            End::Trampoline if !stack.has_signal => {
                outcome.nested += 1;
                continue;
            }
            End::Start => {
                bottoms.extend(keys.last().copied());
                outcome.samples += 1;
            }
            End::Depth => outcome.samples += 1,
            End::Trampoline | End::GaveUp(_) => {}
        }
        if !seen.insert((keys.clone(), &stack.end)) {
            continue;
        }
        let (best, equal) = closest(&reported, &keys);
        let from_leaf = best.map_or(0, |(other, _)| common(&keys, other));
        let reason = match &stack.end {
            End::Start | End::Depth => None,
            End::Trampoline => Some("a signal handler inside of an allocator call"),
            End::GaveUp(why) => Some(&**why),
        };
        if let Some(reason) = reason {
            outcome.gave_up += 1;
            *outcome.reasons.entry(reason.to_string()).or_default() += 1;
            if from_leaf == keys.len() {
                outcome.gave_up_agrees += 1;
                continue;
            }
        } else {
            let len = best.map_or(0, |(keys, _)| keys.len()).max(keys.len());
            outcome.stacks += 1;
            outcome.frames += len as u64;
            outcome.equal_frames += equal as u64;
            if equal == len {
                outcome.equal_stacks += 1;
                continue;
            }
        }
        let best = best.map(|(_, stack)| *stack);
        outcome.differs(stack, best, from_leaf, equal, &name);
    }
    for (keys, stack) in &reported.by_leaf {
        let is_whole = matches!(stack.end.as_deref(), None | Some("start"));
        let live = stack.totals.live_bytes;
        if is_whole && keys.last().is_some_and(|key| bottoms.contains(key)) {
            outcome.whole_bytes += live;
        } else if live > 0 {
            let last = stack.frames.last().map_or(String::new(), describe);
            let end = format!("{} at {last}", stack.end.as_deref().unwrap_or("start"));
            *outcome.cut_bytes.entry(end).or_default() += live;
        }
    }
    outcome
}

type Reported<'a> = (Vec<Key<'a>>, &'a report::Stack);

/// The stacks of a report.
struct Sorted<'a> {
    by_leaf: Vec<Reported<'a>>,
    /// The frames the other way round, and which one of the others it is.
    by_start: Vec<(Vec<Key<'a>>, usize)>,
}

impl<'a> Sorted<'a> {
    fn new(report: &'a report::Report) -> Sorted<'a> {
        let stacks = report.stacks.iter();
        let mut by_leaf: Vec<Reported<'a>> = stacks.map(|stack| (keys_of(stack), stack)).collect();
        by_leaf.sort_by(|(a, _), (b, _)| a.cmp(b));
        let backwards = |keys: &[Key<'a>]| keys.iter().rev().copied().collect();
        let mut by_start: Vec<(Vec<Key<'a>>, usize)> = by_leaf
            .iter()
            .enumerate()
            .map(|(at, (keys, _))| (backwards(keys), at))
            .collect();
        by_start.sort();
        Sorted { by_leaf, by_start }
    }

    /// The stack with exactly these frames.
    fn find(&self, keys: &[Key<'_>]) -> Option<&Reported<'a>> {
        let by_keys = |(other, _): &Reported<'_>| other.as_slice().cmp(keys);
        let at = self.by_leaf.binary_search_by(by_keys).ok()?;
        self.by_leaf.get(at)
    }
}

/// The reported stack that is `keys`; else the longest one that ends early and is the beginning of
/// `keys`; else the one that has the most frames in common with it, from the leaf and from the start of
/// the thread on. And how many are in common.
fn closest<'r, 'a>(
    reported: &'r Sorted<'a>,
    keys: &[Key<'a>],
) -> (Option<&'r Reported<'a>>, usize) {
    if let Some(whole) = reported.find(keys) {
        return (Some(whole), keys.len());
    }
    let early = (1..keys.len()).rev().find_map(|len| {
        let stack = reported.find(&keys[..len])?;
        stack.1.end.is_some().then_some((Some(stack), len))
    });
    if let Some(early) = early {
        return early;
    }
    let backwards: Vec<Key<'a>> = keys.iter().rev().copied().collect();
    let at = reported
        .by_leaf
        .partition_point(|(other, _)| other.as_slice() < keys);
    let back = reported
        .by_start
        .partition_point(|(other, _)| *other < backwards);
    // Sorted, those with the most in common at one end are neighbours of where the keys would be.
    let by_start = [back.checked_sub(1), Some(back)].into_iter().flatten();
    let by_start = by_start.filter_map(|at| reported.by_start.get(at).map(|&(_, at)| at));
    let by_leaf = [Some(at), at.checked_sub(1)].into_iter().flatten();
    by_start
        .chain(by_leaf)
        .filter_map(|at| reported.by_leaf.get(at))
        .map(|stack| {
            let shorter = keys.len().min(stack.0.len());
            let from_leaf = common(keys, &stack.0);
            let rest = shorter - from_leaf;
            let from_start = common(keys.iter().rev(), stack.0.iter().rev());
            (Some(stack), from_leaf + from_start.min(rest))
        })
        .max_by_key(|&(stack, equal)| (equal, Reverse(stack.map_or(0, |(other, _)| other.len()))))
        .unwrap_or((None, 0))
}

fn common<'k, T: PartialEq + 'k>(
    one: impl IntoIterator<Item = &'k T>,
    other: impl IntoIterator<Item = &'k T>,
) -> usize {
    let pairs = one.into_iter().zip(other);
    pairs.take_while(|(one, other)| one == other).count()
}

/// A frame of a report, for a person.
fn describe(frame: &report::Frame) -> String {
    let module = frame.module.as_deref().unwrap_or("?");
    let function = frame.function.as_deref().unwrap_or("?");
    format!("{module} {function}")
}

impl Outcome {
    fn differs(
        &mut self,
        oracle: &Stack,
        reported: Option<&report::Stack>,
        from_leaf: usize,
        equal: usize,
        name: &impl Fn(&Frame) -> String,
    ) {
        let end = |stack: &report::Stack| stack.end.clone().unwrap_or("start".to_string());
        let oracles = oracle.frames.iter().map(name).collect::<Vec<_>>();
        let reports: Vec<String> = reported
            .into_iter()
            .flat_map(|stack| &stack.frames)
            .filter(|frame| !frame.inlined)
            .map(describe)
            .collect();
        let short = |names: &[String], at: usize, end: String| {
            names.get(at).cloned().unwrap_or_else(|| format!("<{end}>"))
        };
        let before = from_leaf.checked_sub(1).map_or("", |at| &oracles[at]);
        let place = format!(
            "after {before}: oracle {}, report {}",
            short(&oracles, from_leaf, format!("{:?}", oracle.end)),
            short(
                &reports,
                from_leaf,
                reported.map_or("none".to_string(), end)
            )
        );
        let mismatch = self.mismatches.entry(place).or_default();
        mismatch.stacks += 1;
        mismatch.frames += (oracles.len().max(reports.len()) - equal) as u64;
        if mismatch.example.is_empty() {
            let from = from_leaf.saturating_sub(3);
            let address = oracle.frames.get(from_leaf);
            let address = address.map_or("its end".to_string(), |frame| {
                format!("{:#x}", frame.address)
            });
            mismatch.example = format!(
                "frame {from_leaf}, of the oracle's at {}\n      oracle: {} ({:?})\n      report: {} ({})",
                address,
                some(&oracles, from),
                oracle.end,
                some(&reports, from),
                reported.map_or("none".to_string(), end)
            );
        }
    }
}

/// A few frames of a stack.
fn some(names: &[String], from: usize) -> String {
    let few = &names[from.min(names.len())..names.len().min(from + 10)];
    let more = if from + 10 < names.len() {
        " < ..."
    } else {
        ""
    };
    few.join(" < ") + more
}
