//! The order of the analysis: what is known to be functions first, then what only looks so, then
//! what is left over; and rules from what that has shown.

use std::ops::Range;

use iced_x86::FlowControl;

use super::discover::Discovery;
use super::flow::{Flow, Path};
use super::functions::Trust;
use super::states::{ENTRY, Id, NEVER};
use super::text::{Bytes, INSIDE, padding};
use super::{Code, special};
use crate::unwind::{FRAME_POINTER, NONE, Rule, RuleAt};

/// States that code behind an unknown indirect jump is tried with, at most.
const MAX_TRIES: usize = 4;

/// Jumps whose states are looked at for that, at most.
const MAX_JUMPS: usize = 64;

/// See [`super::rows`].
pub(super) fn make(code: &Code<'_>) -> Vec<RuleAt> {
    let (framed, gaps): (Vec<_>, Vec<_>) = code
        .gaps
        .iter()
        .filter(|gap| !gap.is_empty())
        .cloned()
        .partition(|gap| is_framed(code, gap));
    let mut rows: Vec<RuleAt> = Vec::new();
    rows.extend(gaps.iter().map(|gap| row(gap.start, NONE)));
    rows.extend(framed.iter().map(|gap| row(gap.start, FRAME_POINTER)));

    let code = Code {
        gaps: &gaps,
        ..*code
    };
    let bytes = Bytes::read(&code);
    let mut found = Discovery::new(&code, &bytes);
    let mut flow = Flow::new(&mut found);
    let mut done = 0;
    certain(&code, &mut flow, &mut done);
    pointed(&code, &mut flow, &mut done);
    left_over(&mut flow, |flow, address| try_branch(&code, flow, address));
    left_over(&mut flow, |flow, address| {
        try_function(flow, address, Trust::LeftOver, &mut done)
    });
    collect(&code, &flow, &mut rows);

    // What was found out comes after the first row of its gap, and takes its place.
    rows.sort_by_key(|row| row.address);
    rows.reverse();
    rows.dedup_by_key(|row| row.address);
    rows.reverse();
    rows
}

fn path(address: u64, state: Id) -> Path {
    Path {
        address,
        state,
        via: None,
    }
}

fn row(address: u64, rule: Rule) -> RuleAt {
    RuleAt { address, rule }
}

/// Whether all of a gap keeps frame pointers. Dense prologues alone do not show that where functions
/// have symbols: C libraries built with frame pointers have other code, too.
fn is_framed(code: &Code<'_>, gap: &Range<u64>) -> bool {
    let size = gap.end.saturating_sub(gap.start);
    let named = || code.framed.iter().any(|address| gap.contains(address));
    let has_functions = || {
        let after = code
            .functions
            .partition_point(|range| range.start < gap.start);
        let first = code.functions.get(after);
        first.is_some_and(|range| range.start < gap.end)
    };
    let dense = || {
        let bytes = (code.read)(gap.start..gap.start + size.min(special::LARGE));
        bytes.is_some_and(|bytes| special::keeps_frame_pointers(&bytes))
    };
    size >= special::LARGE && (named() || !has_functions() && dense())
}

/// Functions that have a symbol, or are called by others.
fn certain(code: &Code<'_>, flow: &mut Flow<'_, '_>, done: &mut usize) {
    let mut entries: Vec<u64> = code.functions.iter().map(|range| range.start).collect();
    entries.push(code.entry);
    flow.found.follow(&entries, Trust::Known);
    flow.found.learn();
    follow_new(flow, done);
}

/// Follows the functions that were found since.
fn follow_new(flow: &mut Flow<'_, '_>, done: &mut usize) {
    while *done < flow.found.functions.list.len() {
        let function = &flow.found.functions.list[*done];
        let (entry, trust, broken) = (function.entry, function.trust, function.broken);
        *done += 1;
        let hopeless = trust != Trust::Known && (broken || !flow.is_new(entry));
        if hopeless || !flow.follow(path(entry, ENTRY), trust) {
            flow.found.forget(entry);
        }
    }
    flow.follow_last();
}

/// Functions that pointers lead to.
fn pointed(code: &Code<'_>, flow: &mut Flow<'_, '_>, done: &mut usize) {
    for &pointer in code.pointers {
        try_function(flow, pointer, Trust::Pointed, done);
    }
    // The list grows meanwhile.
    let mut next = 0;
    while let Some(&pointer) = flow.found.pointers.get(next) {
        try_function(flow, pointer, Trust::Pointed, done);
        next += 1;
    }
}

/// Takes an address for a function's entry if that makes sense; whether it does.
fn try_function(flow: &mut Flow<'_, '_>, address: u64, trust: Trust, done: &mut usize) -> bool {
    if !flow.is_new(address) {
        return false;
    }
    flow.found.follow(&[address], trust);
    follow_new(flow, done);
    !flow.is_new(address)
}

/// Gives code that nothing is known to lead to, piece by piece, to what may know what it is.
fn left_over(flow: &mut Flow<'_, '_>, mut known: impl FnMut(&mut Flow<'_, '_>, u64) -> bool) {
    let gaps: Vec<_> = flow.found.text.gaps().collect();
    for (addresses, indices) in gaps {
        let mut at = 0;
        while at < indices.len() {
            let index = indices.start + at;
            if flow.at[index] != NEVER || flow.found.text.marks[index] & INSIDE != 0 {
                at += 1;
                continue;
            }
            let address = addresses.start + at as u64;
            let rest = flow.found.text.bytes(index..indices.end);
            match padding(rest, address) {
                0 if known(flow, address) => {}
                0 => at += sense(flow, address),
                bytes => at += bytes,
            }
        }
    }
}

/// Takes an address for a place that an indirect jump of the function around it goes to, if that
/// makes sense; whether it does.
fn try_branch(code: &Code<'_>, flow: &mut Flow<'_, '_>, address: u64) -> bool {
    let around = flow.found.functions.around(address);
    let symbol = code
        .functions
        .partition_point(|range| range.start <= address);
    let within = symbol.checked_sub(1).map(|index| &code.functions[index]);
    let around = match within {
        Some(range) if range.contains(&address) => range.clone(),
        _ => around,
    };
    let jumps = flow.jumps.range(around).take(MAX_JUMPS);
    let mut states: Vec<Id> = jumps.map(|(_, &state)| state).collect();
    states.sort_unstable();
    states.dedup();
    states.retain(|&state| state != ENTRY);
    states.truncate(MAX_TRIES);
    if states.is_empty() {
        return false;
    }
    flow.found.follow(&[address], Trust::LeftOver);
    flow.found.forget(address);
    states
        .into_iter()
        .any(|state| flow.follow(path(address, state), Trust::Pointed))
}

/// How many bytes from here on make no sense: to where a function could begin.
fn sense(flow: &Flow<'_, '_>, address: u64) -> usize {
    /// Instructions to look at, at most.
    const ENOUGH: usize = 256;
    let mut next = address;
    for i in flow
        .found
        .text
        .decoder(address)
        .into_iter()
        .flatten()
        .take(ENOUGH)
    {
        next = i.next_ip();
        let ends = matches!(
            i.flow_control(),
            FlowControl::Return | FlowControl::UnconditionalBranch | FlowControl::IndirectBranch
        );
        if ends || i.is_invalid() || !flow.is_new(next) {
            break;
        }
    }
    (next.wrapping_sub(address) as usize).max(1)
}

/// Makes rows of what was found out.
fn collect(code: &Code<'_>, flow: &Flow<'_, '_>, rows: &mut Vec<RuleAt>) {
    let text = &flow.found.text;
    let rules = flow.states.rules();
    let mut special = special::rules(text, code.entry, &flow.last_calls);
    special.sort_by_key(|(range, _)| range.start);
    let mut special = special.into_iter().peekable();
    let mut over: Option<(Range<u64>, Rule)> = None;
    for (addresses, indices) in text.gaps() {
        let (mut known, mut last) = (NONE, None);
        for (address, index) in addresses.zip(indices) {
            let id = flow.at[index];
            if id != NEVER {
                known = rules[usize::from(id)];
            } else if text.marks[index] & INSIDE == 0 {
                known = NONE;
            }
            while special
                .peek()
                .is_some_and(|(range, _)| range.start <= address)
            {
                over = special.next();
            }
            let rule = match &over {
                Some((range, rule)) if range.contains(&address) => *rule,
                _ => known,
            };
            if last != Some(rule) {
                rows.push(row(address, rule));
                last = Some(rule);
            }
        }
    }
}
