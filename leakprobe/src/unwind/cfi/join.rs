//! Brings the rows of single functions into one order, and says where no function is.

use std::collections::BTreeMap;

use super::{Table, Unsupported};
use crate::unwind::{NONE, RuleAt};

/// What one thread made of its functions.
#[derive(Default)]
pub(super) struct Part {
    /// The functions.
    pub ranges: Vec<Range>,
    /// Their rows.
    pub rows: Vec<RuleAt>,
    /// See [`Table::unsupported`].
    pub unsupported: BTreeMap<Unsupported, usize>,
}

/// A function.
#[derive(Clone, Copy)]
pub(super) struct Range {
    /// First address.
    pub start: u64,
    /// Address after the last.
    pub end: u64,
    /// Number of its first row.
    pub first: usize,
    /// How many rows it has.
    pub count: usize,
}

/// Joins what the threads made, in the order in which the section has it. Where functions overlap,
/// the one counts that starts first, or of those that start together, the one that stands first.
pub(super) fn join(parts: Vec<Part>) -> Table {
    let mut table = Table::default();
    // What is sorted has its key with it: looking that up elsewhere takes most of the time.
    let mut order = Vec::with_capacity(parts.iter().map(|part| part.ranges.len()).sum());
    for (part, found) in parts.iter().enumerate() {
        let ranges = found.ranges.iter().enumerate();
        order.extend(ranges.map(|(number, range)| (range.start, part as u32, number as u32)));
        for (&reason, count) in &found.unsupported {
            *table.unsupported.entry(reason).or_default() += count;
        }
    }
    order.sort_by_key(|(start, ..)| *start);
    let rows = parts.iter().map(|part| part.rows.len()).sum::<usize>();
    table.rows.reserve_exact(rows + order.len());
    let mut end = None;
    for (_, part, number) in order {
        let part = &parts[part as usize];
        let range = part.ranges[number as usize];
        if let Some(end) = end.filter(|&end| end < range.start) {
            let row = RuleAt {
                address: end,
                rule: NONE,
            };
            push(&mut table.rows, row);
        }
        let start = end.map_or(range.start, |end| range.start.max(end));
        if range.end <= start {
            continue;
        }
        for row in &part.rows[range.first..range.first + range.count] {
            let address = row.address.max(start);
            push(&mut table.rows, RuleAt { address, ..*row });
        }
        end = Some(range.end);
    }
    if let Some(address) = end {
        let rule = NONE;
        push(&mut table.rows, RuleAt { address, rule });
    }
    table
}

/// Adds a row, unless it says what the one before it says. Of two at one address the later counts.
pub(super) fn push(rows: &mut Vec<RuleAt>, row: RuleAt) {
    if rows.last().is_some_and(|last| last.address >= row.address) {
        rows.pop();
    }
    if rows.last().is_none_or(|last| last.rule != row.rule) {
        rows.push(row);
    }
}
