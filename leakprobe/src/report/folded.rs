//! Collapsed stacks: one line per stack, `root;...;leaf BYTES`, as flamegraph.pl, inferno and
//! speedscope read it. See docs/formats.md.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};

use super::escape::shorten;
use super::{ranking, words};
use crate::symbolize::{Frame, Profile, Stack};
use crate::target::TargetInfo;

/// Longest name of a frame, in characters. Some C++ names have ten thousands; the JSON has them whole.
const MAX_NAME: usize = 400;

/// Writes the figure of each stack by which they are sorted: live bytes, if nothing else was asked for. Stacks of
/// which it is zero are left out.
///
/// Errors: only those of `out`.
pub fn write(profile: &Profile, out: &mut dyn Write) -> io::Result<()> {
    for (stack, bytes) in stacks(profile) {
        writeln!(out, "{stack} {bytes}")?;
    }
    Ok(())
}

/// Collapsed stacks and their figures; stacks of the same names are added up.
pub fn stacks(profile: &Profile) -> BTreeMap<String, u64> {
    let target = root(&profile.target);
    // Of many processes each block is under the name of the one that has it.
    let processes = profile.processes.iter();
    let names: HashMap<u32, String> = processes
        .map(|it| (it.target.pid, root(&it.target)))
        .collect();
    let weights = profile.stacks.iter();
    let weights = weights.map(|stack| (stack, ranking::weight(profile, stack)));
    let drawn = weights.filter(|(_, weight)| *weight > 0);
    let by_process = ranking::is_live(profile);
    let collapsed = sum(drawn.flat_map(|(stack, weight)| {
        let mut rest = weight;
        let mut parts = Vec::new();
        let shares = stack.processes.iter();
        for share in shares.filter(|it| by_process && it.live_bytes > 0) {
            let name = names.get(&share.pid).map_or(OTHERS, String::as_str);
            rest = rest.saturating_sub(share.live_bytes);
            parts.push((collapse(name, stack), share.live_bytes));
        }
        if rest > 0 {
            let name = match parts.is_empty() {
                true => target.as_str(),
                false => OTHERS, // not all are told
            };
            parts.push((collapse(name, stack), rest));
        }
        parts
    }));
    // Stacks that the current one begins with, shortest first.
    let mut prefixes: Vec<&str> = Vec::new();
    let mut unambiguous = Vec::with_capacity(collapsed.len());
    for (stack, &bytes) in &collapsed {
        while prefixes
            .pop_if(|prefix| !stack.starts_with(*prefix))
            .is_some()
        {}
        unambiguous.push((without_ambiguity(stack, &prefixes), bytes));
        prefixes.push(stack);
    }
    sum(unambiguous)
}

/// Processes that are not told one by one.
const OTHERS: &str = "[other processes]";

/// What stands for a process.
fn root(target: &TargetInfo) -> String {
    match words::comm(target) {
        // inferno skips such lines as comments.
        comm if comm.starts_with('#') => escape(&comm).replacen('#', "\\x23", 1),
        comm => escape(&comm),
    }
}

/// Sorts and adds up.
fn sum(stacks: impl IntoIterator<Item = (String, u64)>) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for (stack, bytes) in stacks {
        let sum: &mut u64 = sums.entry(stack).or_default();
        *sum = sum.saturating_add(bytes);
    }
    sums
}

/// The frames from the root to the leaf, joined.
fn collapse(root: &str, stack: &Stack) -> String {
    let mut line = root.to_string();
    if let Some(end) = words::end(stack) {
        line.push(';');
        line.push_str(&end);
    }
    for frame in stack.frames.iter().rev() {
        line.push(';');
        line.push_str(&name(frame));
    }
    line
}

/// What a frame is called in a folded line.
fn name(frame: &Frame) -> String {
    escape(&shorten(&words::frame(frame), MAX_NAME))
}

/// `;` separates frames and cannot be part of a name.
fn escape(name: &str) -> String {
    name.replace(';', ":")
}

/// Makes visible the spaces that readers would take for the one before the figure: one before a
/// number at the end (`f 12 4096` reads as a comparison of two profiles), and one where the line of
/// another stack has its figure (sorted by lines instead of stacks, `f (.cold) 9` comes before
/// `f 16`, but `f` before `f (.cold)`; inferno then refuses the file as unsorted).
fn without_ambiguity(stack: &str, prefixes: &[&str]) -> String {
    let mut spaces: Vec<usize> = prefixes
        .iter()
        .map(|prefix| prefix.len())
        .filter(|&end| stack[end..].starts_with(' '))
        .collect();
    if let Some(space) = stack.rfind(' ')
        && stack[space + 1..]
            .chars()
            .all(|c| c.is_ascii_digit() || c == '.')
        && !spaces.contains(&space)
    {
        spaces.push(space);
    }
    let mut safe = stack.to_string();
    for space in spaces.into_iter().rev() {
        safe.replace_range(space..=space, "\\x20");
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    fn lines(profile: &Profile) -> Vec<String> {
        let mut text = Vec::new();
        write(profile, &mut text).unwrap();
        String::from_utf8(text)
            .unwrap()
            .lines()
            .map(String::from)
            .collect()
    }

    #[test]
    fn golden() {
        insta::assert_snapshot!(lines(&sample::profile()).join("\n"));
    }

    #[test]
    fn blocks_of_many_processes_are_under_their_names() {
        let mut profile = sample::many();
        profile.stacks.truncate(1);
        profile.stacks[0].frames.truncate(1);
        profile.processes[1].target.comm = "worker".to_owned();
        let lines = lines(&profile);
        let starts: Vec<&str> = lines.iter().filter_map(|it| it.split(';').next()).collect();
        assert_eq!(starts, ["[other processes]", "node", "worker"], "{lines:?}");
        let bytes = lines.iter().filter_map(|it| it.rsplit(' ').next());
        let sum: u64 = bytes.map(|it| it.parse::<u64>().unwrap()).sum();
        assert_eq!(sum, profile.stacks[0].totals.live_bytes);
    }

    #[test]
    fn equal_names_are_added_up_and_nothing_live_is_left_out() {
        let mut profile =
            sample::of_stacks(&[(&["f", "main"], 5), (&["f", "main"], 7), (&["g"], 0)]);
        assert_eq!(lines(&profile), ["sample;main;f 12"]);
        profile.stacks.reverse();
        assert_eq!(lines(&profile), ["sample;main;f 12"]);
    }

    #[test]
    fn names_cannot_be_taken_for_separators_or_figures() {
        let profile = sample::of_stacks(&[
            (&["[u8; 8]"], 1),
            (&["f"], 2),
            (&["f (.cold)"], 3),
            (&["g", "f (.cold)"], 4),
            (&["x 12"], 5),
            (&["x 1.5"], 6),
            (&["  "], 7),
            (&[], 8),
        ]);
        let expected = [
            "sample 8",
            "sample;[u8: 8] 1",
            "sample;[unknown] 7",
            "sample;f 2",
            "sample;f\\x20(.cold) 3",
            "sample;f\\x20(.cold);g 4",
            "sample;x\\x201.5 6",
            "sample;x\\x2012 5",
        ];
        assert_eq!(lines(&profile), expected);
    }
}
