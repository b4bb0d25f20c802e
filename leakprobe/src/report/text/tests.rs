//! What the text looks like, and that it stays on its lines.

use super::*;
use crate::report::sample;
use crate::symbolize::Sampling;

fn options(top: usize, color: bool) -> Options {
    Options {
        top,
        color,
        width: 100,
    }
}

fn text(profile: &Profile, options: Options) -> String {
    let mut text = Vec::new();
    write(profile, options, &mut text).unwrap();
    String::from_utf8(text).unwrap()
}

fn top(profile: &Profile, options: Options) -> String {
    let mut text = Vec::new();
    write_top(profile, options, &mut text).unwrap();
    String::from_utf8(text).unwrap()
}

#[test]
fn golden() {
    insta::assert_snapshot!(text(&sample::profile(), options(10, false)));
}

#[test]
fn golden_dead() {
    let heads = sample::dead().map(|profile| {
        let text = text(&profile, options(0, false));
        text.lines()
            .take(4)
            .map(|line| format!("{line}\n"))
            .collect::<String>()
    });
    insta::assert_snapshot!(heads.join("\n"));
}

#[test]
fn golden_narrow() {
    let options = Options {
        width: 80,
        ..options(1, false)
    };
    insta::assert_snapshot!(text(&sample::profile(), options));
}

#[test]
fn golden_top() {
    insta::assert_snapshot!(top(&sample::profile(), options(2, false)));
}

#[test]
fn golden_sampled() {
    let profile = sample::sampled();
    let text = text(&profile, options(10, false));
    insta::assert_snapshot!(format!("{text}\n{}", top(&profile, options(2, false))));
}

#[test]
fn golden_many() {
    insta::assert_snapshot!(text(&sample::many(), options(2, false)));
}

#[test]
fn golden_growth() {
    let profile = sample::growth();
    let text = text(&profile, options(10, false));
    insta::assert_snapshot!(format!("{text}\n{}", top(&profile, options(2, false))));
}

#[test]
fn golden_governed() {
    let text = text(&sample::governed(), options(1, false));
    insta::assert_snapshot!(text);
}

#[test]
fn a_sample_knows_nothing_of_the_rest() {
    let mut profile = sample::of_stacks(&[]);
    profile.sampling = Sampling::of(4096);
    let text = text(&profile, options(10, false));
    assert!(text.contains("SAMPLED: one allocation per 4 KiB; figures are estimates\n"));
    assert!(text.contains("nothing live in the sample"), "{text}");
}

#[test]
fn golden_nothing_live() {
    let mut profile = sample::of_stacks(&[(&["f"], 0)]);
    profile.totals.allocated_count = 1;
    profile.totals.freed_count = 1;
    insta::assert_snapshot!(text(&profile, options(10, false)));
}

#[test]
fn colours_change_nothing_but_colours() {
    let plain = text(&sample::profile(), options(10, false));
    let mut coloured = text(&sample::profile(), options(10, true));
    assert!(!plain.contains('\x1b') && coloured.contains('\x1b'));
    while let Some(start) = coloured.find("\x1b[") {
        let end = start + coloured[start..].find('m').unwrap();
        coloured.replace_range(start..=end, "");
    }
    assert_eq!(plain, coloured);
}

#[test]
fn only_the_top_is_shown() {
    let shown = text(&sample::profile(), options(1, false));
    assert!(shown.contains("Top 1 of 3 stacks") && !shown.contains("sqlite3MemMalloc"));
    assert!(text(&sample::profile(), options(0, false)).contains("Top 0 of 3 stacks"));
}

#[test]
fn deep_stacks_lose_their_middle() {
    let names: Vec<_> = (0..127).map(|n| format!("f{n}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let shown = text(&sample::of_stacks(&[(&names, 16)]), options(1, false));
    assert!(
        shown.contains("f23\n      ... 97 more frames ...\n      f121\n"),
        "{shown}"
    );
    let shown = text(&sample::of_stacks(&[(&names[..31], 16)]), options(1, false));
    assert!(
        shown.contains("f24\n") && !shown.contains("more frames"),
        "{shown}"
    );
}

#[test]
fn lines_have_their_width() {
    let mut profile = sample::profile();
    for stack in &mut profile.stacks {
        for frame in &mut stack.frames {
            frame.function = Some("name".repeat(2500).into());
            frame.module = Some("module".repeat(2500).into());
            frame.file = Some("/folder".repeat(2500).into());
        }
    }
    for width in [0, 80, 100, 120] {
        let options = Options {
            width,
            ..options(10, false)
        };
        let (text, top) = (text(&profile, options), top(&profile, options));
        let frames = text.lines().filter(|line| line.starts_with("      "));
        for line in frames.chain(top.lines().skip(1)) {
            assert!(line.chars().count() <= width.max(80), "{line}");
        }
    }
}
