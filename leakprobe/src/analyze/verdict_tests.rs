//! What verdict which figures give.

use super::*;

const MINUTE: u64 = 60_000_000_000;
const MIB: u64 = 1 << 20;

fn slope(per_second: f64) -> Slope {
    Slope {
        per_second,
        low: per_second * 0.9,
        high: per_second * 1.1,
    }
}

fn course(start: u64, end: u64, trend: Trend) -> Course {
    Course {
        start,
        end,
        slope: Some(slope((end as f64 - start as f64) / 60.0)),
        trend,
    }
}

fn stack(id: u64, per_second: f64) -> StackFacts {
    StackFacts {
        key: StackKey { id, program: 1 },
        live_bytes: 60 * per_second as u64,
        slope: Some(slope(per_second)),
        trend: Trend::Growing,
        lives_on: Some(1.0),
    }
}

/// A minute in which nothing grows.
fn steadily() -> Facts {
    Facts {
        duration_ns: MINUTE,
        live: Some(course(10 * MIB, 10 * MIB, Trend::Flat)),
        rss: Some(course(100 * MIB, 100 * MIB, Trend::Flat)),
        kept: Some(Change {
            start_bytes: 5 * MIB,
            end_bytes: 5 * MIB,
        }),
        runtimes: Vec::new(),
        mapped: None,
        stacks: vec![StackFacts {
            trend: Trend::Flat,
            ..stack(1, 0.0)
        }],
        peak: Some(11 * MIB),
        limit: Some((512 * MIB, 100 * MIB)),
    }
}

fn kind(facts: &Facts) -> Kind {
    judge(facts).kind
}

#[test]
fn nothing_grows() {
    let finding = judge(&steadily());
    assert_eq!(
        (finding.kind, finding.confidence),
        (Kind::Steady, Confidence::High)
    );
}

#[test]
fn a_leak_and_when_it_kills() {
    let facts = Facts {
        live: Some(course(0, 60 * MIB, Trend::Growing)),
        rss: Some(course(40 * MIB, 100 * MIB, Trend::Growing)),
        stacks: vec![stack(1, 1000.0), stack(2, MIB as f64), stack(3, 10_000.0)],
        ..steadily()
    };
    let finding = judge(&facts);
    assert_eq!(
        (finding.kind, finding.confidence),
        (Kind::Leak, Confidence::High)
    );
    let ids: Vec<_> = finding.suspects.iter().map(|it| it.key.id).collect();
    assert_eq!(ids, [2, 3], "54 kB in a minute are too little to speak of");
    let seconds = finding.seconds_until_limit.unwrap();
    assert!((400.0..412.0).contains(&seconds), "{seconds}");
}

#[test]
fn what_is_freed_after_a_while_is_no_leak() {
    let mut facts = Facts {
        live: Some(course(0, 60 * MIB, Trend::Growing)),
        stacks: vec![stack(1, MIB as f64)],
        ..steadily()
    };
    assert_eq!(kind(&facts), Kind::Leak);
    facts.stacks[0].lives_on = Some(0.2);
    assert_ne!(kind(&facts), Kind::Leak);
    facts.stacks[0].lives_on = None;
    assert_eq!(kind(&facts), Kind::Leak);
    facts.stacks[0].trend = Trend::LevelledOff;
    assert_ne!(kind(&facts), Kind::Leak);
}

#[test]
fn what_moves_from_stack_to_stack_is_no_leak() {
    let facts = Facts {
        stacks: vec![stack(1, MIB as f64)],
        ..steadily()
    };
    assert_eq!(kind(&facts), Kind::Steady);
}

#[test]
fn kept_by_the_allocator() {
    let mut facts = Facts {
        rss: Some(course(40 * MIB, 240 * MIB, Trend::Growing)),
        kept: Some(Change {
            start_bytes: 2 * MIB,
            end_bytes: 190 * MIB,
        }),
        ..steadily()
    };
    let finding = judge(&facts);
    assert_eq!(
        (finding.kind, finding.confidence),
        (Kind::RetainedByAllocator, Confidence::High)
    );
    assert!(finding.growth.is_some());
    // It has grown before the recording.
    facts.rss = Some(course(240 * MIB, 240 * MIB, Trend::Flat));
    assert_eq!(kind(&facts), Kind::RetainedByAllocator);
    // Little of what grows.
    facts.rss = Some(course(40 * MIB, 640 * MIB, Trend::Growing));
    assert_eq!(kind(&facts), Kind::NotEnoughEvidence);
}

#[test]
fn a_runtimes_heap() {
    let grown = Change {
        start_bytes: 30 * MIB,
        end_bytes: 130 * MIB,
    };
    let facts = Facts {
        rss: Some(course(60 * MIB, 170 * MIB, Trend::Growing)),
        runtimes: vec![
            (Runtime::Metaspace, Change::default()),
            (Runtime::V8, grown),
        ],
        ..steadily()
    };
    let finding = judge(&facts);
    assert_eq!(
        (finding.kind, finding.confidence),
        (Kind::RuntimeHeap, Confidence::High)
    );
    assert_eq!(
        (finding.runtime, finding.runtime_heap),
        (Some(Runtime::V8), Some(grown))
    );
    // Its books grow with it, and are not what leaks.
    let mut with_books = Facts {
        live: Some(course(0, 6 * MIB, Trend::Growing)),
        stacks: vec![stack(1, MIB as f64 / 10.0)],
        ..facts.clone()
    };
    assert_eq!(kind(&with_books), Kind::RuntimeHeap);
    with_books.live = Some(course(0, 60 * MIB, Trend::Growing));
    with_books.stacks = vec![stack(1, 2.0 * MIB as f64)];
    assert_eq!(kind(&with_books), Kind::Leak);
    // A heap that has filled and stays is nothing to tell.
    let full = Facts {
        rss: Some(course(60 * MIB, 170 * MIB, Trend::LevelledOff)),
        ..facts
    };
    assert_eq!(kind(&full), Kind::Steady);
}

#[test]
fn mappings_that_stay() {
    let mut facts = Facts {
        rss: Some(course(60 * MIB, 170 * MIB, Trend::Growing)),
        mapped: Some(100 * MIB),
        ..steadily()
    };
    let finding = judge(&facts);
    assert_eq!((finding.kind, finding.is_mapped), (Kind::Leak, true));
    facts.mapped = Some(40 * MIB);
    assert_eq!(kind(&facts), Kind::NotEnoughEvidence);
}

#[test]
fn a_peak() {
    let mut facts = Facts {
        peak: Some(58 * MIB),
        ..steadily()
    };
    assert_eq!(kind(&facts), Kind::Peak);
    // That is seen in the shortest recording, too.
    facts.duration_ns = MINUTE / 60;
    assert_eq!(kind(&facts), Kind::Peak);
}

#[test]
fn nothing_can_be_told() {
    let short = Facts {
        duration_ns: MINUTE / 60,
        ..steadily()
    };
    assert_eq!(judge(&short).missing, Some(Missing::Time));
    let unknown = Facts {
        rss: Some(course(60 * MIB, 170 * MIB, Trend::Growing)),
        kept: None,
        ..steadily()
    };
    let finding = judge(&unknown);
    assert_eq!(finding.missing, Some(Missing::Explanation));
    assert!(finding.seconds_until_limit.is_some());
}
