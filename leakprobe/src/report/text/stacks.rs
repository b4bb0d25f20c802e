//! The top stacks in the text: with all their frames, or in one line each.

use std::borrow::Cow;
use std::io::{self, Write};

use super::style::Styles;
use crate::report::escape::{shorten, shorten_path, visible};
use crate::report::{Options, human, words};
use crate::symbolize::{Frame, Profile, Stack};

/// Nothing can be read in fewer columns than this.
const MIN_WIDTH: usize = 80;
/// Columns before a frame.
const INDENT: usize = 6;
/// Of a deep stack this many frames are shown at the leaf, and at the root.
const FRAMES_SHOWN: (usize, usize) = (24, 6);

/// The stacks to show, those with the most live bytes first. Blocks of zero bytes are live too.
fn live(profile: &Profile) -> impl Iterator<Item = &Stack> {
    let stacks = profile.stacks.iter();
    stacks.filter(|stack| stack.totals.live_count > 0 || stack.mapped.is_some())
}

/// Writes the top stacks with their frames.
pub fn write(
    profile: &Profile,
    options: Options,
    styles: &Styles,
    out: &mut dyn Write,
) -> io::Result<()> {
    let Styles {
        bold, bytes, dim, ..
    } = styles;
    let terms = words::Terms::of(profile);
    let all = live(profile).count();
    if all == 0 {
        return writeln!(out, "{bold}{}{bold:#}", words::nothing_live(profile));
    }
    let heading = format!(
        "Top {} of {} stacks by {} bytes",
        options.top.min(all),
        human::count(all as u64),
        terms.live
    );
    writeln!(out, "{bold}{heading}{bold:#}")?;
    for (index, stack) in live(profile).take(options.top).enumerate() {
        let totals = &stack.totals;
        let rank = index + 1;
        let amount = human::bytes(totals.live_bytes);
        let between = words::between(stack.interval.as_ref());
        let about = words::about(profile);
        let blocks = terms.count(totals.live_count);
        let share = human::share(totals.live_bytes, profile.totals.live_bytes);
        writeln!(
            out,
            "\n{bold}{rank:>3}{bold:#}  {bytes}{amount}{bytes:#}{between} in {about}{blocks}, {share} of all that is {}",
            terms.live
        )?;
        writeln!(
            out,
            "     {dim}{} {} in {}, {} {} in {}{}{dim:#}",
            terms.allocated,
            human::bytes(totals.allocated_bytes),
            human::count(totals.allocated_count),
            terms.freed,
            human::bytes(totals.freed_bytes),
            human::count(totals.freed_count),
            ages(stack),
        )?;
        if let Some(mapped) = words::mapped(stack.mapped) {
            writeln!(out, "     {dim}{mapped}{dim:#}")?;
        }
        write_frames(&stack.frames, options.width, styles, out)?;
        if let Some(end) = words::end(stack) {
            writeln!(out, "{:INDENT$}{dim}{end}{dim:#}", "")?;
        }
    }
    Ok(())
}

/// Writes the top stacks, one line each.
pub fn write_brief(
    profile: &Profile,
    options: Options,
    styles: &Styles,
    out: &mut dyn Write,
) -> io::Result<()> {
    let bytes = styles.bytes;
    let stacks: Vec<_> = live(profile).take(options.top).collect();
    let counts = stacks
        .iter()
        .map(|stack| human::count(stack.totals.live_count));
    let digits = counts.map(|count| count.len()).max().unwrap_or(0);
    let intervals = stacks.iter().map(|stack| stack.interval.as_ref());
    let widths = intervals.map(|interval| words::between(interval).len());
    let interval_width = widths.max().unwrap_or(0);
    for stack in stacks {
        let amount = human::bytes(stack.totals.live_bytes);
        let share = human::share(stack.totals.live_bytes, profile.totals.live_bytes);
        let count = human::count(stack.totals.live_count);
        let unit = words::Terms::of(profile).unit(stack.totals.live_count);
        let between = words::between(stack.interval.as_ref());
        let figures =
            format!("{between:<interval_width$} in {count:>digits$} {unit:<6}  {share:>6}  ");
        let room = options
            .width
            .max(MIN_WIDTH)
            .saturating_sub(12 + figures.len());
        let callers = callers(stack, room);
        writeln!(out, "  {bytes}{amount:>10}{bytes:#}{figures}{callers}")?;
    }
    Ok(())
}

/// The names from the leaf on, as many as fit.
fn callers(stack: &Stack, room: usize) -> String {
    /// In less room than this a name tells nothing.
    const MIN_NAME: usize = 16;
    let mut line = String::new();
    for frame in &stack.frames {
        let separator = if line.is_empty() { "" } else { " < " };
        let taken = line.chars().count() + separator.len();
        let name = words::frame(frame);
        let name = without_arguments(&name);
        if taken + name.chars().count().min(MIN_NAME) > room {
            break;
        }
        line.push_str(separator);
        line.push_str(&shorten(name, room - taken));
    }
    match line.is_empty() {
        true => words::UNKNOWN.to_string(),
        false => line,
    }
}

/// A name in so many columns; its arguments are what it loses first.
fn fit(name: &str, room: usize) -> Cow<'_, str> {
    let bare = without_arguments(name);
    if name.chars().count() <= room || bare == name {
        return shorten(name, room);
    }
    Cow::Owned(format!("{}(…)", shorten(bare, room.saturating_sub(3))))
}

/// A C++ function's name without the arguments at its end.
fn without_arguments(name: &str) -> &str {
    let signature = name.strip_suffix(" const").unwrap_or(name);
    let mut depth = 0;
    for (at, c) in signature.char_indices().rev() {
        match c {
            ')' => depth += 1,
            '(' => depth -= 1,
            _ => {}
        }
        if depth <= 0 {
            return if c == '(' && at > 0 {
                &signature[..at]
            } else {
                name
            };
        }
    }
    name
}

/// Ages of the oldest and the newest live block, as far as known.
fn ages(stack: &Stack) -> String {
    let oldest = stack.oldest_ns.map(human::duration);
    let newest = stack.newest_ns.map(human::duration);
    match (oldest, newest) {
        (Some(oldest), Some(newest)) if oldest != newest => {
            format!("; oldest {oldest}, newest {newest}")
        }
        (Some(age), _) | (_, Some(age)) => format!("; age {age}"),
        (None, None) => String::new(),
    }
}

/// Writes the frames, leaf first, one per line; of a deep stack the middle is left out.
fn write_frames(
    frames: &[Frame],
    width: usize,
    styles: &Styles,
    out: &mut dyn Write,
) -> io::Result<()> {
    let dim = styles.dim;
    let width = width.max(MIN_WIDTH) - INDENT;
    if frames.is_empty() {
        return writeln!(out, "{:INDENT$}{}", "", words::UNKNOWN);
    }
    let (leaf, root) = FRAMES_SHOWN;
    // A line saying that one frame is hidden takes as much room as the frame.
    let hidden = match frames.len().saturating_sub(leaf + root) {
        1 => 0,
        hidden => hidden,
    };
    let describe = |frame| described(frame, width);
    let upper: Vec<_> = frames.iter().take(leaf).map(describe).collect();
    let lower: Vec<_> = frames.iter().skip(leaf + hidden).map(describe).collect();
    let names = upper
        .iter()
        .chain(&lower)
        .map(|(name, _)| name.chars().count());
    let column = names.max().unwrap_or(0).min(width / 2);
    let mut write_all = |frames: Vec<(String, String)>| -> io::Result<()> {
        for (name, place) in frames {
            // As far as the line has room.
            let column = column.min(width.saturating_sub(2 + place.chars().count()));
            match place.is_empty() {
                true => writeln!(out, "{:INDENT$}{name}", "")?,
                false => writeln!(out, "{:INDENT$}{name:<column$}  {dim}{place}{dim:#}", "")?,
            }
        }
        Ok(())
    };
    write_all(upper)?;
    if hidden > 0 {
        write_all(vec![(
            format!("... {hidden} more frames ..."),
            String::new(),
        )])?;
    }
    write_all(lower)
}

/// What a frame is called and where it is, together no wider than `width`.
fn described(frame: &Frame, width: usize) -> (String, String) {
    let name = words::frame(frame);
    let mut places = Vec::new();
    if frame.inlined {
        // Its address is that of the function it was inlined into, which comes next.
        places.push("(inlined)".to_string());
    } else if let Some(location) = words::location(frame)
        // A frame without a function is called by its place.
        && location != name
    {
        places.push(shorten(&location, width / 3).into_owned());
    }
    if let Some(file) = &frame.file {
        let file = visible(file);
        let file = shorten_path(&file, width / 4);
        places.push(match frame.line {
            Some(line) => format!("{file}:{line}"),
            None => file.into_owned(),
        });
    }
    let place = places.join("  ");
    let room = match place.chars().count() {
        0 => width,
        taken => width.saturating_sub(2 + taken),
    };
    (fit(&name, room).into_owned(), place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_left_out() {
        for (name, expected) in [
            ("malloc", "malloc"),
            ("f()", "f"),
            (
                "a::(anonymous namespace)::f(void (*)(int), (b)) const",
                "a::(anonymous namespace)::f",
            ),
            ("operator()()", "operator()"),
            ("f(int)::{lambda()#1}", "f(int)::{lambda()#1}"),
            ("(odd)", "(odd)"),
            (")", ")"),
            ("odd)", "odd)"),
            ("", ""),
            (" const", " const"),
        ] {
            assert_eq!(without_arguments(name), expected);
        }
    }
}
