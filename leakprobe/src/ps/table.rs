//! The list as text: one line for each process, as wide as the terminal at the most.

use std::io::{self, Write};

use super::{List, Row};
use crate::report::escape::{shorten, visible};
use crate::report::human;

/// The widest that a column gets, in characters, and whether its text stands at the right.
const COLUMNS: [(&str, usize, bool); 7] = [
    ("PID", 10, true),
    ("USER", 16, false),
    ("CONTAINER", 40, false),
    ("ALLOCATOR", 20, false),
    ("RSS", 10, true),
    ("GROWTH", 11, true),
    ("COMMAND", 64, false),
];

/// The column of containers, which gives way where a line is too long.
const CONTAINER: usize = 2;

/// Characters that it keeps: a short id.
const MIN_CONTAINER: usize = 12;

/// Writes the list; `width` is the columns of the terminal.
///
/// Errors: only those of `out`.
pub fn write(list: &List, width: usize, out: &mut dyn Write) -> io::Result<()> {
    let rows: Vec<_> = list.processes.iter().map(cells).collect();
    let mut widths = COLUMNS.map(|(title, ..)| title.len());
    for row in &rows {
        for ((width, cell), (_, max, _)) in widths.iter_mut().zip(row).zip(COLUMNS) {
            *width = (*width).max(cell.chars().count()).min(max);
        }
    }
    let total = widths.iter().sum::<usize>() + 2 * (COLUMNS.len() - 1);
    let excess = total.saturating_sub(width);
    widths[CONTAINER] = widths[CONTAINER]
        .saturating_sub(excess)
        .max(widths[CONTAINER].min(MIN_CONTAINER));
    let titles = COLUMNS.map(|(title, ..)| title.to_owned());
    for row in std::iter::once(&titles).chain(&rows) {
        let line: Vec<String> = row
            .iter()
            .zip(widths)
            .zip(COLUMNS)
            .map(|((cell, width), (.., right))| {
                let cell = shorten(cell, width);
                match right {
                    true => format!("{cell:>width$}"),
                    false => format!("{cell:<width$}"),
                }
            })
            .collect();
        let line: String = line.join("  ").chars().take(width.max(80)).collect();
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

fn cells(row: &Row) -> [String; 7] {
    let or_dash = |text: Option<&str>| text.map_or("-".to_owned(), |it| visible(it).into_owned());
    let growth = match row.growth_bytes {
        1.. => format!("+{}", human::bytes(row.growth_bytes.unsigned_abs())),
        0 => "0 B".to_owned(),
        _ => format!("-{}", human::bytes(row.growth_bytes.unsigned_abs())),
    };
    let user = row.user.clone().unwrap_or_else(|| row.uid.to_string());
    let container = row.container.as_ref().map(|it| it.label());
    [
        row.pid.to_string(),
        visible(&user).into_owned(),
        or_dash(container.as_deref()),
        or_dash(row.allocator.as_deref()),
        human::bytes(row.rss_bytes),
        growth,
        visible(&row.comm).into_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(width: usize) -> String {
        let mut out = Vec::new();
        write(&super::super::tests::sample(), width, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn golden() {
        insta::assert_snapshot!(text(120));
    }

    #[test]
    fn narrow() {
        let text = text(80);
        assert!(
            text.lines().all(|line| line.chars().count() <= 80),
            "{text}"
        );
        assert!(text.contains("…"), "{text}");
        assert!(!text.contains('\x1b'), "{text}");
    }

    #[test]
    fn nothing() {
        let mut out = Vec::new();
        let list = List {
            processes: Vec::new(),
            ..super::super::tests::sample()
        };
        write(&list, 120, &mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "PID  USER  CONTAINER  ALLOCATOR  RSS  GROWTH  COMMAND\n"
        );
    }
}
