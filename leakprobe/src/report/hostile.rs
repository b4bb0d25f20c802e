//! Names hold anything: each of these, as every name of a profile, in every format.

use roxmltree::{Document, ParsingOptions};

use super::*;
use crate::symbolize::Frame;
use crate::target::ContainerInfo;

const OPTIONS: Options = Options {
    top: 100,
    color: false,
    width: Options::WIDTH,
};

/// What has broken, or would break, some reader.
fn names() -> Vec<String> {
    let lossy = String::from_utf8_lossy(b"caf\xe9\xff\xfe").into_owned();
    let mut names: Vec<String> = [
        "",
        " ",
        ";",
        ";;a; ;b",
        "a\nb",
        "a\r\nb 5",
        "\0",
        "\x01\x08\x0b\x0c\x1f\x7f",
        "\x1b[31mred\x1b]0;title\x07",
        "\u{80}\u{9b}31m",
        "</text><script>alert(1)</script>",
        "]]><!--",
        "-->",
        "--",
        "-",
        "&amp;&#0;&bogus;",
        "\"'`$(x)",
        "# a comment",
        "foo 12",
        "foo 12 34",
        "foo 1.5",
        "12",
        "foo_[k]",
        "_[é]",
        "\u{202e}gnp.exe\u{2066}",
        "\u{feff}\u{fffe}\u{ffff}\u{10ffff}",
        "漢字🦀",
        "operator new(unsigned long)",
        "{\"a\":\\u0000}",
        "\\x1b",
        "../../etc/passwd",
        "%s%n",
    ]
    .map(String::from)
    .to_vec();
    names.extend([
        lossy,
        "x".repeat(10_000),
        "é;<".repeat(4000),
        " (".repeat(5000),
    ]);
    names
}

/// Profiles that have the name everywhere, in one stack and beside others that it could be taken for.
fn profiles(name: &str) -> [Profile; 2] {
    let mut everywhere = sample::sampled();
    let frame = Frame {
        function: Some(name.into()),
        module: Some(name.into()),
        offset: Some(1),
        file: Some(name.into()),
        line: Some(1),
        inlined: false,
    };
    let nameless = Frame {
        function: None,
        ..frame.clone()
    };
    everywhere.stacks[0].frames = vec![frame.clone(), nameless, frame];
    everywhere.target.comm = name.to_string();
    everywhere.target.exe = Some(name.to_string());
    everywhere.target.container = Some(ContainerInfo {
        id: name.to_string(),
        runtime: Some(name.to_string()),
        name: Some(name.to_string()),
        pod_uid: Some(name.to_string()),
        pod_name: Some(name.to_string()),
        namespace: Some(name.to_string()),
    });
    if let Some(allocator) = &mut everywhere.allocator {
        allocator.name = name.to_string();
        allocator.path = name.to_string();
        everywhere.other_allocators = vec![allocator.clone()];
    }
    everywhere.evidence.notes = vec![name.to_string()];
    everywhere.evidence.losses.insert(name.to_string(), 1);
    let prefix: String = name.chars().take(3).collect();
    let similar = sample::of_stacks(&[
        (&[name], 1),
        (&[name, name], 2),
        (&[&prefix], 4),
        (&[&format!("{name} 1")], 8),
        (&[&format!("{name} (.cold)")], 16),
        (&[&format!("{name}  two"), name], 32),
        (&["main", name], 64),
    ]);
    [everywhere, similar]
}

fn render(format: Format, profile: &Profile) -> String {
    let mut bytes = Vec::new();
    write(format, profile, OPTIONS, &mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

/// All names in turn, in both profiles.
fn for_each(check: impl Fn(&str, &Profile)) {
    for name in names() {
        for profile in &profiles(&name) {
            check(&name, profile);
        }
    }
}

/// Whether a terminal would show it as it is, line by line.
fn is_plain(text: &str) -> bool {
    text.lines().all(|line| !line.contains(char::is_control)) && !text.contains('\u{202e}')
}

#[test]
fn text() {
    for_each(|name, profile| {
        let mut top = Vec::new();
        text::write_top(profile, OPTIONS, &mut top).unwrap();
        for text in [
            render(Format::Text, profile),
            String::from_utf8(top).unwrap(),
        ] {
            assert!(is_plain(&text) && !text.contains('\r'), "{name:?}: {text}");
        }
    });
}

#[test]
fn json() {
    for_each(|name, profile| {
        let text = render(Format::Json, profile);
        assert!(is_plain(&text.replace('\u{202e}', "")), "{name:?}: {text}");
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value, serde_json::to_value(profile).unwrap(), "{name:?}");
    });
}

#[test]
fn folded() {
    for_each(|name, profile| {
        let text = render(Format::Folded, profile);
        assert!(is_plain(&text) && !text.contains('\r'), "{name:?}: {text}");
        // Sorted or not, by lines as inferno does it, every byte arrives.
        let mut lines: Vec<_> = text.lines().collect();
        lines.reverse();
        assert_eq!(
            bytes_drawn(&lines),
            profile.totals.live_bytes,
            "{name:?}: {text}"
        );
        for line in lines {
            let (stack, bytes) = line.rsplit_once(' ').unwrap();
            assert!(bytes.parse::<u64>().is_ok(), "{line}");
            assert!(
                stack.split(';').all(|frame| !frame.trim().is_empty()),
                "{line}"
            );
        }
    });
}

/// Draws lines as another user of inferno would, and gives the bytes of the whole picture.
fn bytes_drawn(lines: &[&str]) -> u64 {
    let mut svg = Vec::new();
    let mut options = inferno::flamegraph::Options::default();
    inferno::flamegraph::from_lines(&mut options, lines.iter().copied(), &mut svg).unwrap();
    let svg = String::from_utf8(svg).unwrap();
    let xml = ParsingOptions {
        allow_dtd: true,
        ..ParsingOptions::default()
    };
    let document = Document::parse_with_options(&svg, xml).unwrap();
    let total = document
        .descendants()
        .find_map(|node| node.attribute("total_samples"));
    assert!(
        !svg.contains("%; "),
        "taken for a comparison of two profiles: {lines:?}"
    );
    total.unwrap().parse().unwrap()
}

#[test]
fn svg() {
    let scripts = render(Format::Svg, &sample::profile())
        .matches("<script")
        .count();
    for_each(|name, profile| {
        let svg = render(Format::Svg, profile);
        let xml = ParsingOptions {
            allow_dtd: true,
            ..ParsingOptions::default()
        };
        let document = Document::parse_with_options(&svg, xml)
            .unwrap_or_else(|error| panic!("{name:?}: {error}"));
        assert_eq!(svg.matches("<script").count(), scripts, "{name:?}");
        // Nothing but what inferno always makes.
        for node in document.descendants().filter(|node| node.is_element()) {
            let element = node.tag_name().name();
            let usual = [
                "svg",
                "defs",
                "linearGradient",
                "stop",
                "style",
                "script",
                "rect",
                "text",
                "g",
                "title",
            ];
            assert!(usual.contains(&element), "{name:?}: <{element}>");
        }
        let total = document
            .descendants()
            .find_map(|node| node.attribute("total_samples"));
        assert_eq!(
            total,
            Some(profile.totals.live_bytes.to_string().as_str()),
            "{name:?}"
        );
        // XML 1.0 forbids control characters even as references; the parser may be lenient.
        let allowed =
            |c: char| c == '\n' || !c.is_control() && !matches!(c, '\u{fffe}' | '\u{ffff}');
        let script = |node: &roxmltree::Node| node.tag_name().name() == "script";
        for node in document
            .descendants()
            .filter(|node| !script(node) && !node.parent().is_some_and(|p| script(&p)))
        {
            assert!(
                node.text().unwrap_or("").chars().all(allowed),
                "{name:?}: {:?}",
                node.text()
            );
        }
        assert!(svg.len() < 200_000, "{name:?}: {} bytes", svg.len());
    });
}
