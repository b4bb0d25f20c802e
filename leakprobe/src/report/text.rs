//! For people: what a terminal shows at the end of a recording, and the shorter form that is printed
//! while it lasts.

mod account;
mod mappings;
mod processes;
mod stacks;
mod style;

use std::io::{self, Write};

use self::style::Styles;
use super::escape::{shorten, shorten_path, visible};
use super::{Options, death, human, ranking, verdict, words};
use crate::analyze::verdict::Kind;
use crate::snapshot::Completeness;
use crate::symbolize::Profile;

/// Writes the report: the target, the totals, what was lost, and the top stacks.
///
/// Errors: only those of `out`.
pub fn write(profile: &Profile, options: Options, out: &mut dyn Write) -> io::Result<()> {
    let styles = Styles::new(options.color);
    write_target(profile, &styles, out)?;
    write_verdict(profile, &styles, out)?;
    account::write(profile, &styles, out)?;
    write_totals(profile, &styles, out)?;
    write_evidence(profile, &styles, out)?;
    processes::write(profile, options, &styles, out)?;
    stacks::write(profile, options, &styles, out)?;
    mappings::write(profile, options, &styles, out)
}

/// Writes the time, the totals, and one line for each of the top stacks.
///
/// Errors: only those of `out`.
pub fn write_top(profile: &Profile, options: Options, out: &mut dyn Write) -> io::Result<()> {
    let styles = Styles::new(options.color);
    let Styles { bold, bad, .. } = styles;
    let totals = &profile.totals;
    let elapsed = human::duration(profile.duration_ns);
    let live = words::live(profile);
    let terms = words::Terms::of(profile);
    let allocated = human::bytes(totals.allocated_bytes);
    let freed = human::bytes(totals.freed_bytes);
    write!(
        out,
        "{bold}[{elapsed}]{bold:#} {live}; {} {allocated}, {} {freed}",
        terms.allocated, terms.freed
    )?;
    if words::sampled(profile).is_some() {
        write!(out, "; SAMPLED")?;
    }
    match profile.evidence.verdict {
        Completeness::Complete => writeln!(out)?,
        Completeness::Partial => writeln!(out, "; {bad}PARTIAL{bad:#}")?,
    }
    stacks::write_brief(profile, options, &styles, out)
}

/// Who was watched, for how long, and what was probed.
fn write_target(profile: &Profile, styles: &Styles, out: &mut dyn Write) -> io::Result<()> {
    let Styles { bold, dim, .. } = styles;
    let target = &profile.target;
    let (comm, pid) = (words::comm(target), words::pid(target));
    let duration = human::duration(profile.duration_ns);
    writeln!(out, "{bold}{comm}{bold:#}, {pid}, watched for {duration}")?;
    if let Some(death) = &profile.death {
        let at = human::duration(death.at.as_nanos() as u64);
        let who = match death.pid == target.pid {
            true => String::new(),
            false => format!("process {} ", death.pid),
        };
        let style = match death::is_well(&death.cause) {
            true => styles.good,
            false => styles.bad,
        };
        writeln!(
            out,
            "{who}ended after {at}: {style}{}{style:#}",
            death::cause(&death.cause)
        )?;
    }
    let exe = visible(target.exe.as_deref().unwrap_or("executable not known"));
    let allocator = profile.allocator.as_ref().map_or(String::new(), |it| {
        let (name, path) = (visible(&it.name), visible(&it.path));
        let (name, path) = (shorten(&name, 30), shorten_path(&path, 50));
        let others = words::other_allocators(&profile.other_allocators);
        format!(", allocator {name} ({path}){others}")
    });
    writeln!(out, "{dim}{}{allocator}{dim:#}", shorten_path(&exe, 50))?;
    if let Some(container) = words::container(target) {
        writeln!(out, "{dim}{container}{dim:#}")?;
    }
    if let Some(growth) = words::growth(profile) {
        writeln!(out, "{dim}{growth}{dim:#}")?;
    }
    if let Some(overhead) = words::overhead(profile) {
        writeln!(out, "{dim}{overhead}{dim:#}")?;
    }
    if let Some(sampled) = words::sampled(profile) {
        let with = match profile.interval {
            Some(_) => " with 95 % intervals",
            None => "",
        };
        writeln!(
            out,
            "{bold}SAMPLED{bold:#}: {sampled}; figures are estimates{with}"
        )?;
    }
    writeln!(out)
}

/// What becomes of the memory, and what to do about it.
fn write_verdict(profile: &Profile, styles: &Styles, out: &mut dyn Write) -> io::Result<()> {
    let Some(found) = &profile.verdict else {
        return Ok(());
    };
    let Styles {
        bold,
        good,
        bad,
        dim,
        ..
    } = styles;
    let style = match found.finding.kind {
        Kind::Leak => bad,
        Kind::Steady => good,
        _ => bold,
    };
    let title = verdict::title(found.finding.kind);
    let confidence = verdict::confidence(found.finding.confidence);
    let sentence = verdict::sentence(profile, found);
    writeln!(out, "{style}{title}{style:#} ({confidence}): {sentence}")?;
    for next in verdict::next(profile, found) {
        writeln!(out, "  {dim}next{dim:#}  {next}")?;
    }
    writeln!(out)
}

/// Live, allocated and freed, one below the other.
fn write_totals(profile: &Profile, styles: &Styles, out: &mut dyn Write) -> io::Result<()> {
    let bytes = styles.bytes;
    let totals = &profile.totals;
    let terms = words::Terms::of(profile);
    let rows = [
        (terms.live, totals.live_bytes, totals.live_count),
        (
            terms.allocated,
            totals.allocated_bytes,
            totals.allocated_count,
        ),
        (terms.freed, totals.freed_bytes, totals.freed_count),
    ];
    let counts = rows.map(|(_, _, count)| human::count(count));
    let width = counts.iter().map(String::len).max().unwrap_or(0);
    let live = words::between(profile.interval.as_ref());
    let notes = [live.as_str(), "", ""];
    let unconfirmed = words::unconfirmed(profile);
    let growth = ranking::growth(profile.live_growth);
    for (((name, amount, count), digits), note) in rows.into_iter().zip(counts).zip(notes) {
        let amount = human::bytes(amount);
        let blocks = terms.unit(count);
        writeln!(
            out,
            "  {name:<9} {bytes}{amount:>10}{bytes:#} in {digits:>width$} {blocks}{note}"
        )?;
        if let (Some(growth), true) = (&growth, name == terms.live) {
            writeln!(out, "            {growth}")?;
        }
        if let (Some(unconfirmed), "live") = (&unconfirmed, name) {
            writeln!(out, "            {unconfirmed}")?;
        }
    }
    if let Some((amount, when)) = words::peak(profile) {
        let amount = human::bytes(amount);
        writeln!(out, "  peak      {bytes}{amount:>10}{bytes:#} {when}")?;
    }
    if let Some(mapped) = words::mapped(profile.growth.and_then(|growth| growth.mapped)) {
        writeln!(out, "  {mapped}")?;
    }
    for line in profile.suppressed.iter().flat_map(ranking::suppressed) {
        writeln!(out, "  {line}")?;
    }
    writeln!(out)
}

/// Complete or partial, and why.
fn write_evidence(profile: &Profile, styles: &Styles, out: &mut dyn Write) -> io::Result<()> {
    let Styles { good, bad, dim, .. } = styles;
    match profile.evidence.verdict {
        Completeness::Complete => writeln!(out, "{good}COMPLETE{good:#}: nothing was lost")?,
        Completeness::Partial => writeln!(
            out,
            "{bad}PARTIAL{bad:#}: not all that happened is in these figures"
        )?,
    }
    for loss in words::losses(&profile.evidence) {
        let (word, style) = if loss.is_loss {
            ("lost", bad)
        } else {
            ("seen", dim)
        };
        let count = human::count(loss.count);
        let name = shorten(&loss.name, 40);
        match loss.meaning {
            "" => writeln!(out, "  {word}  {style}{name} {count}{style:#}")?,
            meaning => writeln!(out, "  {word}  {style}{name} {count}{style:#}: {meaning}")?,
        }
    }
    for note in &profile.evidence.notes {
        writeln!(out, "  note  {}", visible(note))?;
    }
    writeln!(out)
}

#[cfg(test)]
mod tests;
