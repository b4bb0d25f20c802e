//! Names come from the target and hold whatever it likes. Here they become safe to print: on a
//! terminal, in XML, in a line of a folded file. Nothing here is meant to be undone.

use std::borrow::Cow;
use std::fmt::Write;

/// Replaces what a terminal or a reader could take for something else than text by visible escapes
/// (`\x1b`, `\u{202e}`): control characters, line ends, invisible and direction-changing characters,
/// and the two that XML forbids besides control characters.
pub fn visible(text: &str) -> Cow<'_, str> {
    if is_plain(text) || !text.contains(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        let result = match u32::from(c) {
            code if !is_hidden(c) => {
                debug_assert!(code >= 0x20);
                safe.push(c);
                Ok(())
            }
            code @ ..=0xff => write!(safe, "\\x{code:02x}"),
            code => write!(safe, "\\u{{{code:x}}}"),
        };
        debug_assert!(result.is_ok(), "a String takes everything");
    }
    Cow::Owned(safe)
}

/// Whether it is all printable ASCII, as most names are, and which is quickly seen.
pub fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

/// Whether a character must not be printed as it is.
fn is_hidden(c: char) -> bool {
    // Unicode: zero width, line and paragraph separators, bidirectional formatting, byte order
    // mark; XML 1.0, production 2 (Char): FFFE and FFFF.
    c.is_control()
        || matches!(c,
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
}

/// Cuts the middle out of a text longer than `max` characters: of a long name the beginning (the
/// namespace) and the end (the function, its arguments) tell the most.
pub fn shorten(text: &str, max: usize) -> Cow<'_, str> {
    let length = text.chars().count();
    if length <= max {
        return Cow::Borrowed(text);
    }
    let kept = max.saturating_sub(1);
    let tail = kept / 2;
    let head: String = text.chars().take(kept - tail).collect();
    let tail: String = text.chars().skip(length - tail).collect();
    Cow::Owned(format!("{head}…{tail}"))
}

/// A path of at most `max` characters: of a long one the end, from a `/` on where there is one.
pub fn shorten_path(path: &str, max: usize) -> Cow<'_, str> {
    let length = path.chars().count();
    if length <= max {
        return Cow::Borrowed(path);
    }
    let skip = length - max.saturating_sub(1);
    let start = path
        .char_indices()
        .nth(skip)
        .map_or(path.len(), |(at, _)| at);
    let tail = &path[start..];
    Cow::Owned(format!(
        "…{}",
        tail.find('/').map_or(tail, |at| &tail[at..])
    ))
}

/// Escapes what means something in XML text and attributes. Expects [`visible`] text.
pub fn xml(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&apos;"),
            c => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_seen_is_made_visible() {
        for (text, expected) in [
            ("", ""),
            ("std::vector<int>", "std::vector<int>"),
            ("añ漢🦀 x", "añ漢🦀 x"),
            ("a\x1b[31mb", "a\\x1b[31mb"),
            ("a\nb\r\tc\0", "a\\x0ab\\x0d\\x09c\\x00"),
            ("\u{7f}\u{9b}2J", "\\x7f\\x9b2J"),
            ("\u{202e}evil\u{2028}", "\\u{202e}evil\\u{2028}"),
            ("\u{fffe}\u{ffff}\u{fffd}", "\\u{fffe}\\u{ffff}\u{fffd}"),
        ] {
            assert_eq!(visible(text), expected);
        }
    }

    #[test]
    fn long_names_keep_both_ends() {
        assert_eq!(shorten("abcdef", 6), "abcdef");
        assert_eq!(shorten("abcdefg", 6), "abc…fg");
        assert_eq!(shorten("漢漢漢漢漢漢漢", 3), "漢…漢");
        assert_eq!(shorten("abc", 0), "…");
        assert_eq!(shorten(&"x".repeat(10_000), 400).chars().count(), 400);
    }

    #[test]
    fn long_paths_keep_their_end() {
        assert_eq!(shorten_path("/a/b.c", 6), "/a/b.c");
        assert_eq!(
            shorten_path("/build/node/src/node_buffer.cc", 22),
            "…/src/node_buffer.cc"
        );
        assert_eq!(shorten_path("aaaaaaaaaa", 4), "…aaa");
        assert_eq!(shorten_path("/漢/漢/漢", 4), "…/漢");
    }

    #[test]
    fn xml_has_five_special_characters() {
        assert_eq!(
            xml("<a b=\"c\" d='&'>"),
            "&lt;a b=&quot;c&quot; d=&apos;&amp;&apos;&gt;"
        );
    }
}
