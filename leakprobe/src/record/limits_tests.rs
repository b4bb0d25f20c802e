use std::io::Write;

use super::*;
use crate::analyze::growth::LiveGrowth;
use crate::analyze::trend::Slope;
use crate::cli::choosing::fail_on;
use crate::report::sample;
use crate::snapshot::Unconfirmed;
use crate::symbolize::Suppressed;

fn growth(per_second: f64, low: f64, trend: Trend) -> Option<LiveGrowth> {
    let high = 2.0 * per_second;
    let slope = Slope {
        per_second,
        low,
        high,
    };
    Some(LiveGrowth {
        slope: Some(slope),
        trend,
    })
}

fn why(profile: &Profile, condition: &str) -> Option<String> {
    let why = broken(profile, &[fail_on(condition).unwrap()]);
    assert!(
        why.as_ref().is_none_or(|why| !why.contains('\n')),
        "{why:?}"
    );
    why
}

#[test]
fn live_bytes_are_compared_without_suppressed_ones() {
    let mut profile = sample::of_stacks(&[(&["f"], 1000), (&["g"], 24)]);
    assert_eq!(why(&profile, "live>1KiB"), None);
    let told = "`--fail-on live>1023`: 1.0 KiB are live at the end";
    assert_eq!(why(&profile, "live>1023").as_deref(), Some(told));
    profile.suppressed = Some(Suppressed {
        live_bytes: 24,
        ..Suppressed::default()
    });
    assert_eq!(why(&profile, "live>1000"), None);
    assert!(why(&profile, "live>999").is_some());
}

#[test]
fn only_certain_growth_fails() {
    let mut profile = sample::of_stacks(&[(&["f"], 1000)]);
    let mut fails = |growth, condition| {
        profile.live_growth = growth;
        why(&profile, condition)
    };
    let per_second = "growth>100/s";
    assert_eq!(fails(growth(150.0, 99.0, Trend::Growing), per_second), None);
    let told = fails(growth(150.0, 101.0, Trend::Growing), per_second);
    let expected = "`--fail-on growth>100/s`: live bytes grow by +8.8 KiB/min (5.9 to 17.6)";
    assert_eq!(told.as_deref(), Some(expected));
    assert!(fails(growth(150.0, 101.0, Trend::Growing), "growth>6000/min").is_some());
    assert_eq!(
        fails(growth(150.0, 101.0, Trend::LevelledOff), per_second),
        None
    );
    assert_eq!(
        fails(growth(150.0, 101.0, Trend::Unknown), per_second),
        None
    );
}

#[test]
fn what_cannot_be_told_fails_unless_nothing_is_live() {
    let mut profile = sample::of_stacks(&[(&["f"], 1000)]);
    for growth in [None, Some(LiveGrowth::UNKNOWN)] {
        profile.live_growth = growth;
        for condition in ["leak", "growth>1GiB/s"] {
            let told = why(&profile, condition).unwrap();
            assert!(told.contains("cannot be told of 30.0s"), "{told}");
        }
        assert_eq!(why(&profile, "live>1000"), None);
    }
    profile.live_growth = growth(10.0, 5.0, Trend::Flat);
    assert_eq!(why(&profile, "leak"), None);
    profile.unconfirmed = Some(Unconfirmed {
        unconfirmed_bytes: 1,
        unconfirmed_count: 1,
    });
    let told = why(&profile, "leak").unwrap();
    assert!(told.contains("probes were taken away"), "{told}");
    profile.totals.live_bytes = 0;
    assert_eq!(why(&profile, "leak"), None);
    assert_eq!(why(&profile, "growth>0/s"), None);
}

#[test]
fn a_leak_is_what_the_verdict_says() {
    let mut profile = sample::of_stacks(&[(&["f"], 1000)]);
    profile.live_growth = growth(10.0, 5.0, Trend::Growing);
    assert_eq!(why(&profile, "leak"), None);
    profile.verdict = sample::profile().verdict;
    let told = why(&profile, "leak").unwrap();
    assert!(told.contains("1 stack grows on by"), "{told}");
    // The first that holds is told.
    let both = ["live>1TiB", "leak"].map(|it| fail_on(it).unwrap());
    assert!(broken(&profile, &both).unwrap().contains("--fail-on leak"));
    assert_eq!(broken(&profile, &[]), None);
    // Of a short recording a leak may be told, but not that there is none.
    profile.duration_ns = SHORTEST - 1;
    assert!(
        why(&profile, "leak")
            .unwrap()
            .contains("1 stack grows on by")
    );
    profile.verdict = None;
    let told = why(&profile, "leak").unwrap();
    assert!(told.contains("cannot be told of 9.9s"), "{told}");
    profile.duration_ns = SHORTEST;
    assert_eq!(why(&profile, "leak"), None);
}

#[test]
fn files_of_rules_that_cannot_be_used() {
    let missing = suppressions(Some(Path::new("/nonexistent/rules")));
    let error = format!("{:#}", missing.unwrap_err());
    assert!(
        error.contains("`/nonexistent/rules`") && error.contains("No such file"),
        "{error}"
    );
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "# known\nre:[").unwrap();
    let error = format!("{:#}", suppressions(Some(file.path())).unwrap_err());
    assert!(error.contains("line 2") && error.contains("`[`"), "{error}");
    file.write_all(&vec![b'\n'; MOST_BYTES as usize]).unwrap();
    let error = format!("{:#}", suppressions(Some(file.path())).unwrap_err());
    assert!(error.contains("larger than 1 MiB"), "{error}");
    assert!(suppressions(None).unwrap().is_empty());
}
