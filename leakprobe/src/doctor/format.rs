//! Text of the checks, for a terminal of 80 columns. Pure: the same checks give the same text.

use super::{Check, Status, would_work};
use crate::report::escape::visible;

/// Columns of the narrowest terminal to care for.
const WIDTH: usize = 80;

/// The whole text: sections with their titles, and what it comes to.
pub fn report(sections: &[(String, Vec<Check>)]) -> String {
    let all = || sections.iter().flat_map(|(_, checks)| checks);
    let name_width = all()
        .map(|check| check.name.chars().count())
        .max()
        .unwrap_or(0);
    let mut text = String::new();
    for (title, checks) in sections {
        text += &format!("{title}\n");
        for check in checks {
            text += &line(check, name_width);
        }
        text += "\n";
    }
    let missing = all()
        .filter(|check| check.status == Status::Missing)
        .count();
    let degraded = all()
        .filter(|check| check.status == Status::Degraded)
        .count();
    text += &match (
        sections.iter().all(|(_, checks)| would_work(checks)),
        degraded,
    ) {
        (true, 0) => "Profiling would work.\n".to_owned(),
        (true, _) => format!("Profiling would work, with {degraded} degraded.\n"),
        (false, _) => format!("Profiling would not work: {missing} missing.\n"),
    };
    text
}

/// One check: status, name, and behind them, as wide as the terminal allows, what was found and
/// what to do.
fn line(check: &Check, name_width: usize) -> String {
    let status = match check.status {
        Status::Ok => "ok",
        Status::Degraded => "degraded",
        Status::Missing => "missing",
    };
    let start = format!("  {status:8}  {:name_width$}  ", visible(&check.name));
    let indent = start.chars().count();
    let mut lines = wrap(&visible(&check.found), WIDTH.saturating_sub(indent));
    if let Some(advice) = &check.advice {
        let wrapped = wrap(&visible(advice), WIDTH.saturating_sub(indent + 3));
        let marks = std::iter::once("-> ").chain(std::iter::repeat("   "));
        lines.extend(
            marks
                .zip(wrapped)
                .map(|(mark, line)| format!("{mark}{line}")),
        );
    }
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        let start = if number == 0 {
            start.clone()
        } else {
            " ".repeat(indent)
        };
        text += (start + line).trim_end();
        text += "\n";
    }
    text
}

/// Breaks at spaces so that no line has more than `width` characters, unless a single word has.
/// At least one line, even for nothing.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.len() - 1;
        let line = &mut lines[last];
        if line.is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= width {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(checks: Vec<Check>) -> [(String, Vec<Check>); 1] {
        [("this machine".to_owned(), checks)]
    }

    #[test]
    fn names_and_texts_stand_in_columns() {
        let checks = vec![
            Check::ok("kernel", "6.1.0"),
            Check::degraded("ring buffer", "small", "make it large"),
        ];
        let expected = "\
this machine
  ok        kernel       6.1.0
  degraded  ring buffer  small
                         -> make it large

Profiling would work, with 1 degraded.
";
        assert_eq!(report(&section(checks)), expected);
    }

    #[test]
    fn one_missing_is_enough() {
        let checks = vec![Check::ok("a", "b"), Check::missing("c", "d", "e")];
        assert!(report(&section(checks)).ends_with("Profiling would not work: 1 missing.\n"));
        assert!(report(&section(vec![Check::ok("a", "b")])).ends_with("Profiling would work.\n"));
    }

    #[test]
    fn long_text_is_wrapped() {
        let words = "word ".repeat(60);
        let text = report(&section(vec![Check::missing(
            "kernel",
            words.trim(),
            words.trim(),
        )]));
        assert!(text.lines().count() > 10);
        assert!(
            text.lines().all(|line| line.chars().count() <= WIDTH),
            "{text}"
        );
        assert_eq!(text.matches("word").count(), 120);
    }

    #[test]
    fn a_word_too_long_is_left_whole() {
        let path = "/x".repeat(60);
        assert!(report(&section(vec![Check::ok("allocator", path.clone())])).contains(&path));
    }

    #[test]
    fn control_characters_are_shown() {
        let text = report(&section(vec![Check::ok("command", "a\x1b[2Jb\nc\u{9b}ä")]));
        assert!(text.contains("a\\x1b[2Jb\\x0ac\\x9bä\n"), "{text}");
    }
}
