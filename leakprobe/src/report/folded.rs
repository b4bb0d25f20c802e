//! Collapsed stacks: one line per stack, `root;...;leaf BYTES`, as flamegraph.pl, inferno and
//! speedscope read it. See docs/formats.md.

use std::collections::BTreeMap;
use std::io::{self, Write};

use super::escape::shorten;
use super::words;
use crate::symbolize::{Frame, Profile, Stack};

/// Longest name of a frame, in characters. Some C++ names have ten thousands; the JSON has them whole.
const MAX_NAME: usize = 400;

/// Writes the live bytes of each stack; stacks without live bytes are left out.
///
/// Errors: only those of `out`.
pub fn write(profile: &Profile, out: &mut dyn Write) -> io::Result<()> {
    for (stack, bytes) in stacks(profile) {
        writeln!(out, "{stack} {bytes}")?;
    }
    Ok(())
}

/// Collapsed stacks and their live bytes; stacks of the same names are added up.
pub fn stacks(profile: &Profile) -> BTreeMap<String, u64> {
    let root = match words::comm(&profile.target) {
        // inferno skips such lines as comments.
        comm if comm.starts_with('#') => escape(&comm).replacen('#', "\\x23", 1),
        comm => escape(&comm),
    };
    let live = profile
        .stacks
        .iter()
        .filter(|stack| stack.totals.live_bytes > 0);
    let collapsed = sum(live.map(|stack| (collapse(&root, stack), stack.totals.live_bytes)));
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
