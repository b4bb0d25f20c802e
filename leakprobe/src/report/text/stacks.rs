//! The top stacks in the text: with all their frames, or in one line each.

use std::borrow::Cow;
use std::io::{self, Write};

use super::processes;
use super::style::Styles;
use crate::analyze::rank::Rank;
use crate::report::escape::{shorten, shorten_path, visible};
use crate::report::{Options, human, ranking, words};
use crate::snapshot::Totals;
use crate::symbolize::{Frame, Profile, Stack};

/// Nothing can be read in fewer columns than this.
const MIN_WIDTH: usize = 80;
/// Columns before a frame.
const INDENT: usize = 6;
/// Of a deep stack this many frames are shown at the leaf, and at the root.
const FRAMES_SHOWN: (usize, usize) = (24, 6);

/// The stacks to show, the first ones first.
fn shown(profile: &Profile) -> impl Iterator<Item = &Stack> {
    let stacks = profile.stacks.iter();
    stacks.filter(|stack| ranking::is_shown(profile, stack))
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
    let all = shown(profile).count();
    if all == 0 {
        return writeln!(out, "{bold}{}{bold:#}", words::nothing_live(profile));
    }
    let heading = format!(
        "Top {} of {} stacks by {}",
        options.top.min(all),
        human::count(all as u64),
        ranking::what(profile)
    );
    writeln!(out, "{bold}{heading}{bold:#}")?;
    for (index, stack) in shown(profile).take(options.top).enumerate() {
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
        if let Some(growth) = ranking::growth(stack.growth) {
            writeln!(out, "     {dim}{growth}{dim:#}")?;
        }
        if let Some(peak) = words::peak_of(stack) {
            writeln!(out, "     {dim}{peak}{dim:#}")?;
        }
        if let Some(mapped) = words::mapped(stack.mapped) {
            writeln!(out, "     {dim}{mapped}{dim:#}")?;
        }
        if let Some(shares) = processes::shares(stack) {
            writeln!(out, "     {dim}{shares}{dim:#}")?;
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
    let stacks: Vec<_> = shown(profile).take(options.top).collect();
    let figures: Vec<Figure> = stacks.iter().map(|it| Figure::of(profile, it)).collect();
    let widest = |text: fn(&Figure) -> &String| {
        let widths = figures.iter().map(|figure| text(figure).chars().count());
        widths.max().unwrap_or(0)
    };
    let interval_width = widest(|it| &it.between);
    let detail_width = widest(|it| &it.detail);
    let growth_width = widest(|it| &it.growth);
    for (stack, figure) in stacks.into_iter().zip(&figures) {
        let Figure {
            amount,
            between,
            detail,
            share,
            growth,
        } = figure;
        let figures = format!(
            "{between:<interval_width$} {detail:>detail_width$}  {share:>6}  {growth:<growth_width$}"
        );
        let room = options
            .width
            .max(MIN_WIDTH)
            .saturating_sub(12 + figures.len());
        let callers = callers(stack, room);
        writeln!(out, "  {bytes}{amount:>10}{bytes:#}{figures}{callers}")?;
    }
    Ok(())
}

/// What one line says of a stack beside its names.
struct Figure {
    amount: String,
    between: String,
    detail: String,
    share: String,
    /// Only where they are sorted by it.
    growth: String,
}

impl Figure {
    fn of(profile: &Profile, stack: &Stack) -> Self {
        let Totals {
            live_bytes,
            live_count,
            allocated_bytes,
            allocated_count,
            ..
        } = stack.totals;
        let terms = words::Terms::of(profile);
        let blocks = |count| format!("in {} {:<6}", human::count(count), terms.unit(count));
        let (bytes, all, detail) = match profile.sorted_by {
            Rank::Allocated => (
                allocated_bytes,
                profile.totals.allocated_bytes,
                blocks(allocated_count),
            ),
            Rank::Peak => (
                ranking::at_peak(stack),
                profile.peak.map_or(0, |peak| peak.live_bytes),
                format!("at the peak, {} now", human::bytes(live_bytes)),
            ),
            _ => (live_bytes, profile.totals.live_bytes, blocks(live_count)),
        };
        let is_live = bytes == live_bytes;
        let interval = stack.interval.as_ref().filter(|_| is_live);
        let by_growth = profile.sorted_by == Rank::Growth;
        let rate = ranking::growth(stack.growth).filter(|_| by_growth);
        Self {
            amount: human::bytes(bytes),
            between: words::between(interval),
            detail,
            share: human::share(bytes, all),
            growth: rate.map_or(String::new(), |rate| format!("{rate}  ")),
        }
    }
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
pub(super) fn write_frames(
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
