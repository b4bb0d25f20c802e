//! The flamegraph: live bytes by stack, or what else they are sorted by, drawn by inferno, with its zoom and search. It is made of the
//! same lines as the folded file.

use std::io::{self, Write};

use inferno::flamegraph::color::{BasicPalette, Palette};
use inferno::flamegraph::{Options, TextTruncateDirection, from_lines};

use super::escape::{shorten, shorten_path, visible, xml};
use super::{death, folded, human, ranking, verdict, words};
use crate::snapshot::Completeness;
use crate::symbolize::Profile;

/// Characters of the subtitle that fit the usual width of 1200 pixels.
const MAX_SUBTITLE: usize = 160;

/// Writes an SVG document. When nothing is live it is a small one that says so.
///
/// Errors: only those of `out`.
pub fn write(profile: &Profile, out: &mut dyn Write) -> io::Result<()> {
    let stacks = folded::stacks(profile);
    let title = title(profile);
    let subtitle = subtitle(profile);
    if stacks.is_empty() {
        return write_empty(&title, &subtitle, ranking::nothing(profile), out);
    }
    let mut options = Options::default();
    options.title = title;
    options.subtitle = Some(subtitle);
    options.count_name = ranking::unit(profile).to_string();
    options.colors = Palette::Basic(BasicPalette::Mem);
    // The start of a C++ name says more than its arguments.
    options.text_truncate_direction = TextTruncateDirection::Right;
    // The same picture for the same profile.
    options.deterministic = true;
    // They are sorted by stack, which is the order inferno wants; it would sort by whole lines.
    options.no_sort = true;
    let lines: Vec<_> = stacks
        .iter()
        .map(|(stack, bytes)| format!("{stack} {bytes}"))
        .collect();
    from_lines(&mut options, lines.iter().map(String::as_str), out)
}

/// What is drawn, and of whom.
fn title(profile: &Profile) -> String {
    format!(
        "leakprobe: {}{}, {} ({})",
        ranking::what(profile),
        words::sampled(profile).map_or(String::new(), |sampled| format!(" (sampled: {sampled})")),
        words::comm(&profile.target),
        profile.target.pid
    )
}

/// What they say, whose they are, and how far they can be trusted.
fn subtitle(profile: &Profile) -> String {
    let mut parts = Vec::new();
    let verdict = profile.verdict.as_ref();
    parts.extend(verdict.map(|it| verdict::title(it.finding.kind).to_owned()));
    if let Some(exe) = &profile.target.exe {
        parts.push(shorten_path(&visible(exe), 50).into_owned());
    }
    if profile.target.ns_pid != profile.target.pid {
        parts.push(words::pid(&profile.target));
    }
    parts.push(words::live(profile));
    parts.push(format!(
        "watched for {}",
        human::duration(profile.duration_ns)
    ));
    parts.extend(profile.death.as_ref().map(|it| death::cause(&it.cause)));
    parts.push(match profile.evidence.verdict {
        Completeness::Complete => "complete".to_string(),
        Completeness::Partial => {
            let losses: Vec<_> = words::losses(&profile.evidence)
                .iter()
                .filter(|loss| loss.is_loss)
                .map(|loss| format!("{} {}", loss.name, human::count(loss.count)))
                .collect();
            match losses.is_empty() {
                true => "PARTIAL".to_string(),
                false => format!("PARTIAL: {}", losses.join(", ")),
            }
        }
    });
    shorten(&parts.join(" · "), MAX_SUBTITLE).into_owned()
}

/// A document with three lines of text: inferno takes empty input for a mistake.
fn write_empty(title: &str, subtitle: &str, reason: &str, out: &mut dyn Write) -> io::Result<()> {
    write!(
        out,
        r##"<?xml version="1.0" encoding="UTF-8" standalone="no"?>
<svg version="1.1" xmlns="http://www.w3.org/2000/svg" width="1200" height="120" viewBox="0 0 1200 120">
<rect width="100%" height="100%" fill="#eeeeee"/>
<g font-family="monospace" font-size="12" text-anchor="middle">
<text id="title" x="50%" y="24" font-size="17">{}</text>
<text id="subtitle" x="50%" y="48">{}</text>
<text x="50%" y="84" font-size="14">{}</text>
</g>
</svg>
"##,
        xml(title),
        xml(subtitle),
        xml(reason)
    )
}

#[cfg(test)]
mod tests {
    use roxmltree::{Document, ParsingOptions};

    use super::*;
    use crate::analyze::rank::Rank;
    use crate::report::sample;

    fn svg(profile: &Profile) -> String {
        let mut svg = Vec::new();
        write(profile, &mut svg).unwrap();
        String::from_utf8(svg).unwrap()
    }

    fn parse(svg: &str) -> Document<'_> {
        let options = ParsingOptions {
            allow_dtd: true,
            ..ParsingOptions::default()
        };
        Document::parse_with_options(svg, options).unwrap()
    }

    /// Texts of all elements of a name.
    fn texts<'a>(document: &'a Document, element: &str) -> Vec<&'a str> {
        let named = document
            .descendants()
            .filter(|node| node.has_tag_name(element));
        named.filter_map(|node| node.text()).collect()
    }

    fn by_id<'a>(document: &'a Document, id: &str) -> &'a str {
        let node = document
            .descendants()
            .find(|node| node.attribute("id") == Some(id));
        node.and_then(|node| node.text()).unwrap()
    }

    #[test]
    fn golden() {
        let svg = svg(&sample::profile());
        let document = parse(&svg);
        let mut lines = vec![by_id(&document, "title"), by_id(&document, "subtitle")];
        lines.extend(texts(&document, "title"));
        insta::assert_snapshot!(lines.join("\n"));
        assert_eq!(by_id(&document, "search"), "Search");
        assert_eq!(texts(&document, "script").len(), 1);
    }

    #[test]
    fn a_sample_is_called_one() {
        let mut profile = sample::sampled();
        profile.evidence.losses.clear();
        assert_eq!(
            title(&profile),
            "leakprobe: live bytes (sampled: one allocation per 512 KiB), node (12345)"
        );
        let subtitle = subtitle(&profile);
        assert!(
            subtitle.contains("36.4 MiB (28.7 to 46.1 MiB) live in about 1,011 blocks"),
            "{subtitle}"
        );
    }

    #[test]
    fn the_title_says_what_is_drawn() {
        let mut profile = sample::profile();
        for (rank, what, first) in [
            (Rank::Live, "live bytes", "37,119,590 bytes"),
            (
                Rank::Growth,
                "growth of live bytes",
                "412,440 bytes per second",
            ),
            (Rank::Peak, "bytes at the peak", "50,331,648 bytes"),
            (Rank::Allocated, "allocated bytes", "1,288,490,188 bytes"),
            (Rank::Count, "live blocks", "1,000 blocks"),
        ] {
            profile.sorted_by = rank;
            assert_eq!(title(&profile), format!("leakprobe: {what}, node (12345)"));
            let svg = svg(&profile);
            assert!(svg.contains(first), "{first} in {svg}");
        }
        profile.sorted_by = Rank::Growth;
        profile.stacks[0].growth = None;
        assert!(svg(&profile).contains("no stack is known to grow on"));
    }

    #[test]
    fn nothing_live_is_a_picture_too() {
        let mut profile = sample::of_stacks(&[(&["f"], 0)]);
        profile.target.comm = "<&\"'>\0".to_string();
        profile.totals.allocated_count = 4;
        profile.totals.freed_count = 4;
        for (freed, part) in [
            (4, "every block allocated while recording was freed"),
            (3, "no block that is not freed passes the filter"),
        ] {
            profile.totals.freed_count = freed;
            let svg = svg(&profile);
            let document = parse(&svg);
            assert_eq!(
                by_id(&document, "title"),
                "leakprobe: live bytes, <&\"'>\\x00 (1234)"
            );
            assert!(
                texts(&document, "text")
                    .iter()
                    .any(|text| text.contains(part)),
                "{svg}"
            );
        }
        profile.totals.allocated_count = 0;
        assert!(svg(&profile).contains("nothing was allocated while recording"));
    }

    #[test]
    fn the_same_profile_gives_the_same_picture() {
        assert_eq!(svg(&sample::profile()), svg(&sample::profile()));
    }

    #[test]
    fn the_subtitle_fits() {
        let mut profile = sample::profile();
        profile.target.exe = Some("/a".repeat(1000));
        profile.evidence.losses = (0..50).map(|n| (format!("loss_{n}"), n)).collect();
        assert_eq!(subtitle(&profile).chars().count(), MAX_SUBTITLE);
    }
}
