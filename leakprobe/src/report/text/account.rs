//! Where the memory is: one line for each part of the resident memory, the largest first.

use std::io::{self, Write};

use super::style::Styles;
use crate::analyze::account::{Account, Kind, Line};
use crate::report::escape::visible;
use crate::report::human;
use crate::symbolize::Profile;

/// Writes the account, if there is one.
pub fn write(profile: &Profile, styles: &Styles, out: &mut dyn Write) -> io::Result<()> {
    let Some(account) = &profile.account else {
        return Ok(());
    };
    let Styles {
        bold, bytes, dim, ..
    } = styles;
    // Of many processes it is that of the first.
    let whose = match profile.processes.is_empty() {
        true => String::new(),
        false => format!(" of process {}", profile.target.pid),
    };
    writeln!(
        out,
        "{bold}Where the memory{whose} is{bold:#}: {}",
        resident(profile, account)
    )?;
    let mut lines: Vec<&Line> = account.lines.iter().collect();
    lines.sort_by_key(|line| std::cmp::Reverse(line.bytes));
    let grown = |now: u64, start: Option<u64>| {
        start.map_or(String::new(), |start| signed(now as i64 - start as i64))
    };
    let growth: Vec<String> = lines
        .iter()
        .map(|it| grown(it.bytes, it.start_bytes))
        .collect();
    let width = growth.iter().map(String::len).max().unwrap_or(0);
    for (line, growth) in lines.iter().zip(&growth) {
        let amount = human::bytes(line.bytes);
        let share = human::share(line.bytes, account.rss_bytes);
        let what = what(line);
        writeln!(
            out,
            "  {bytes}{amount:>10}{bytes:#} {share:>6}  {dim}{growth:>width$}{dim:#}  {what}"
        )?;
    }
    let left = account.unexplained_bytes;
    let amount = match left {
        0 => "0 B".to_owned(),
        left => signed(left),
    };
    let share = human::share(left.unsigned_abs(), account.rss_bytes);
    writeln!(
        out,
        "  {bytes}{amount:>10}{bytes:#} {share:>6}  {:>width$}  unexplained",
        ""
    )?;
    for note in besides(account) {
        writeln!(out, "  {dim}{note}{dim:#}")?;
    }
    for note in &account.notes {
        writeln!(out, "  {dim}{}{dim:#}", visible(note))?;
    }
    writeln!(out)
}

/// How much there is, and how that has changed.
fn resident(profile: &Profile, account: &Account) -> String {
    let mut text = format!("{} resident", human::bytes(account.rss_bytes));
    if let Some(start) = account.start_rss_bytes {
        let change = account.rss_bytes as i64 - start as i64;
        let than = match change {
            0 => "as at the start".to_owned(),
            1.. => format!(
                "{} more than at the start",
                human::bytes(change.unsigned_abs())
            ),
            _ => format!(
                "{} less than at the start",
                human::bytes(change.unsigned_abs())
            ),
        };
        text.push_str(&format!(", {than}"));
    }
    if let Some(limit) = profile.rss.as_ref().and_then(|rss| rss.limit_bytes) {
        text.push_str(&format!(", limit {}", human::round_bytes(limit)));
    }
    text
}

/// The sentence of a line.
fn what(line: &Line) -> String {
    match (line.kind, line.count, line.start_count) {
        (Kind::ThreadStacks, Some(now), Some(start)) if now != start => {
            format!(
                "{} ({now} threads beside the first, {start} at the start)",
                line.what
            )
        }
        (Kind::ThreadStacks, Some(now), _) => {
            format!("{} ({now} beside the first)", line.what)
        }
        _ => line.what.to_owned(),
    }
}

/// What the lines do not say.
fn besides(account: &Account) -> impl Iterator<Item = String> {
    let besides = account.besides;
    [
        (besides.swap_bytes, "more are swapped out"),
        (
            besides.hugetlb_bytes,
            "more are pages of hugetlbfs, which Linux does not count as resident",
        ),
        (besides.huge_page_bytes, "of it are in huge pages"),
        (
            besides.lazy_free_bytes,
            "of it were given back with MADV_FREE: Linux takes them when it needs some",
        ),
    ]
    .into_iter()
    .filter(|(amount, _)| *amount > 0)
    .map(|(amount, what)| format!("{} {what}", human::bytes(amount)))
}

/// Bytes with their sign: `+1.5 MiB`; nothing where nothing has changed.
fn signed(amount: i64) -> String {
    let magnitude = human::bytes(amount.unsigned_abs());
    match amount {
        0 => String::new(),
        1.. => format!("+{magnitude}"),
        _ => format!("-{magnitude}"),
    }
}
