//! The processes in the text, where many were recorded together.

use std::io::{self, Write};

use super::style::Styles;
use crate::report::escape::{shorten, visible};
use crate::report::{Options, death, human};
use crate::symbolize::{ProcessReport, Profile, Stack};

/// Processes shown at the least, however few stacks are.
const SHOWN: usize = 10;

/// Writes the processes, those with the most live bytes first.
pub fn write(
    profile: &Profile,
    options: Options,
    styles: &Styles,
    out: &mut dyn Write,
) -> io::Result<()> {
    let Styles {
        bold, bytes, dim, ..
    } = styles;
    if profile.processes.is_empty() {
        return Ok(());
    }
    let mut processes: Vec<&ProcessReport> = profile.processes.iter().collect();
    processes.sort_by_key(|process| std::cmp::Reverse(process.totals.live_bytes));
    let ended = processes.iter().filter(|it| it.until_ns.is_some()).count();
    let ended = match ended {
        0 => String::new(),
        ended => format!(", {} of them ended", human::count(ended as u64)),
    };
    let count = human::count(processes.len() as u64);
    writeln!(
        out,
        "{bold}{count} processes by live bytes{bold:#}{ended}\n"
    )?;
    let shown = options.top.max(SHOWN);
    for process in processes.iter().take(shown) {
        let pid = process.target.pid;
        let name = shorten(&visible(&process.target.comm), 15).into_owned();
        let amount = human::bytes(process.totals.live_bytes);
        let blocks = human::blocks(process.totals.live_count);
        writeln!(
            out,
            "  {pid:>7}  {bold}{name:<15}{bold:#}  {bytes}{amount:>10}{bytes:#} in {blocks}"
        )?;
        writeln!(out, "           {dim}{}{dim:#}", details(process))?;
    }
    if processes.len() > shown {
        writeln!(out, "  and {} more", processes.len() - shown)?;
    }
    writeln!(out)
}

/// Where it comes from, what it has done, how it ended.
fn details(process: &ProcessReport) -> String {
    let totals = &process.totals;
    let mut text = format!(
        "allocated {} in {}",
        human::bytes(totals.allocated_bytes),
        human::count(totals.allocated_count),
    );
    if let Some(parent) = process.parent {
        text.push_str(&format!(
            "; forked by {parent} after {}",
            human::duration(process.from_ns)
        ));
    }
    if process.inherited_count > 0 {
        text.push_str(&format!(
            ", inherited {} in {} (freed {})",
            human::bytes(process.inherited_bytes),
            human::count(process.inherited_count),
            human::bytes(process.inherited_freed_bytes),
        ));
    }
    if let Some(until) = process.until_ns {
        let how = match process.exec {
            true => "executed another program",
            false => "ended",
        };
        text.push_str(&format!("; {how} after {}", human::duration(until)));
        let cause = process.cause.as_ref();
        if let Some(cause) = cause.filter(|cause| !death::is_well(cause)) {
            text.push_str(&format!(": {}", death::cause(cause)));
        }
    }
    text
}

/// Whose a stack's live blocks are, if that is not plain.
pub fn shares(stack: &Stack) -> Option<String> {
    /// More than fit in a line tell nothing.
    const MOST: usize = 5;
    let (first, _) = stack.processes.split_first()?;
    let share =
        |it: &crate::symbolize::ProcessShare| format!("{} {}", it.pid, human::bytes(it.live_bytes));
    if stack.processes.len() == 1 {
        return Some(format!("in process {}", first.pid));
    }
    let shown: Vec<String> = stack.processes.iter().take(MOST).map(share).collect();
    let more = match stack.processes.len() > MOST {
        true => ", …",
        false => "",
    };
    Some(format!("in processes {}{more}", shown.join(", ")))
}
