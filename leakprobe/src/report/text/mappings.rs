//! What the program has mapped beside its allocator, by stack.

use std::io::{self, Write};

use super::stacks::write_frames;
use super::style::Styles;
use crate::report::{Options, human, words};
use crate::snapshot::Mapped;
use crate::symbolize::{MappedStack, Owner, Profile};

/// Writes the program's stacks with their frames, and the sums of what others have mapped. Nothing, if the program has
/// nothing mapped.
pub fn write(
    profile: &Profile,
    options: Options,
    styles: &Styles,
    out: &mut dyn Write,
) -> io::Result<()> {
    let Styles {
        bold, bytes, dim, ..
    } = styles;
    let Some(mappings) = &profile.mappings else {
        return Ok(());
    };
    let others = [
        ("by the allocator for its blocks", mappings.allocator),
        ("by the runtime", mappings.runtime),
    ];
    let others: Vec<String> = others
        .into_iter()
        .filter(|(_, mapped)| mapped.count > 0)
        .map(|(whose, mapped)| format!("{} {whose}", human::bytes(mapped.bytes)))
        .collect();
    let own = |stack: &&MappedStack| stack.owner == Owner::Program;
    if mappings.program.count == 0 {
        return Ok(());
    }
    writeln!(out, "\n{bold}Mapped and not unmapped, by stack{bold:#}")?;
    if !others.is_empty() {
        writeln!(out, "  {dim}not listed: {}{dim:#}", others.join(", "))?;
    }
    let advised = [
        ("the program", mappings.advised.program),
        ("the allocator", mappings.advised.allocator),
    ];
    for (who, Mapped { bytes, count }) in advised {
        if count > 0 {
            let calls = calls(count);
            let (bytes, count) = (human::bytes(bytes), human::count(count));
            writeln!(
                out,
                "  {dim}madvise: {who} has offered back what is in {bytes}, by {count} {calls}{dim:#}"
            )?;
        }
    }
    for (index, stack) in mappings
        .stacks
        .iter()
        .filter(own)
        .take(options.top)
        .enumerate()
    {
        let rank = index + 1;
        let Mapped { bytes: sum, count } = stack.mapped;
        let sum = human::bytes(sum);
        let (count, calls) = (human::count(count), calls(count));
        let resident = stack.resident_bytes.map(human::bytes);
        let resident = resident.map_or(String::new(), |it| format!(", {it} of it resident"));
        writeln!(
            out,
            "\n{bold}{rank:>3}{bold:#}  {bytes}{sum}{bytes:#} by {count} {calls}{resident}"
        )?;
        let (oldest, newest) = (
            human::duration(stack.oldest_ns),
            human::duration(stack.newest_ns),
        );
        let ages = match oldest == newest {
            true => format!("age {oldest}"),
            false => format!("oldest {oldest}, newest {newest}"),
        };
        writeln!(out, "     {dim}{ages}{dim:#}")?;
        write_frames(&stack.frames, options.width, styles, out)?;
        if let Some(end) = stack.end.map(words::unfinished) {
            writeln!(out, "      {dim}{end}{dim:#}")?;
        }
    }
    Ok(())
}

/// The word for so many.
fn calls(count: u64) -> &'static str {
    match count {
        1 => "system call",
        _ => "system calls",
    }
}
