//! What the comparison has to find, on stacks made up for it.

use super::compare::compare;
use super::unwind::{End, Frame, Stack};
use crate::report;

fn oracle(frames: &[u64], end: End) -> Stack {
    let module = "a".to_string();
    let frame = |&offset| Frame {
        module: module.clone(),
        offset,
        address: 0x1000 + offset,
    };
    Stack {
        frames: frames.iter().map(frame).collect(),
        end,
        has_signal: false,
    }
}

/// A report with these stacks, each of one live byte.
fn report(stacks: &[(&[u64], Option<&str>)]) -> report::Report {
    let stacks: Vec<serde_json::Value> = stacks
        .iter()
        .map(|(offsets, end)| {
            let frame =
                |offset| serde_json::json!({"module": "a", "offset": offset, "inlined": false});
            let inlined = serde_json::json!({"module": "a", "offset": 1, "inlined": true});
            let frames = [inlined].into_iter().chain(offsets.iter().map(frame));
            serde_json::json!({"live_bytes": 1, "live_count": 1, "allocated_bytes": 1,
                "allocated_count": 1, "freed_bytes": 0, "freed_count": 0, "end": end,
                "frames": frames.collect::<Vec<_>>()})
        })
        .collect();
    serde_json::from_value(serde_json::json!({"schema": 1, "duration_ns": 1,
        "target": {"pid": 1, "ns_pid": 1, "comm": "a", "start_time": 1},
        "allocator": {"name": "glibc", "path": "/libc.so.6"},
        "totals": {"live_bytes": stacks.len(), "live_count": 1, "allocated_bytes": 1,
            "allocated_count": 1, "freed_bytes": 0, "freed_count": 0},
        "evidence": {"verdict": "complete", "losses": {}, "notes": []}, "stacks": stacks}))
    .expect("it is a report")
}

fn figures(oracle: &[Stack], report: &report::Report) -> [u64; 6] {
    let outcome = compare(oracle, 0, report, |frame| frame.offset.to_string());
    [
        outcome.stacks,
        outcome.equal_stacks,
        outcome.frames,
        outcome.equal_frames,
        outcome.whole_bytes,
        outcome.gave_up - outcome.gave_up_agrees,
    ]
}

#[test]
fn the_same_stacks_are_equal_however_often_sampled() {
    let one = oracle(&[1, 2, 3], End::Start);
    let report = report(&[(&[1, 2, 3], None), (&[4, 3], None)]);
    let oracle = [one.clone(), one, oracle(&[4, 3], End::Start)];
    assert_eq!(figures(&oracle, &report), [2, 2, 5, 5, 2, 0]);
}

#[test]
fn a_wrong_frame_a_missing_one_and_one_too_many_count() {
    let one = [oracle(&[1, 2, 3], End::Start)];
    let of = |frames: &[u64], end| figures(&one, &report(&[(frames, end)]));
    assert_eq!(of(&[1, 9, 3], None), [1, 0, 3, 2, 1, 0]);
    assert_eq!(of(&[1, 3], None), [1, 0, 3, 2, 1, 0]);
    assert_eq!(of(&[1, 2, 2, 3], None), [1, 0, 4, 3, 1, 0]);
    assert_eq!(of(&[1, 2], Some("no_row")), [1, 0, 3, 2, 0, 0]);
    assert_eq!(of(&[9], None), [1, 0, 3, 0, 0, 0]);
}

#[test]
fn a_stack_that_ends_early_is_not_whole_whatever_it_says() {
    let one = [oracle(&[1, 2, 3], End::Start)];
    let report = report(&[
        (&[1, 2, 3], None),
        (&[1, 2], None),
        (&[2, 3], Some("no_row")),
    ]);
    assert_eq!(figures(&one, &report)[4], 1);
}

#[test]
fn what_the_oracle_could_not_finish_is_never_equal() {
    let report = report(&[(&[1, 2, 3], None)]);
    let gave_up =
        |frames: &[u64]| figures(&[oracle(frames, End::GaveUp("why".to_string()))], &report);
    assert_eq!(gave_up(&[1, 2]), [0, 0, 0, 0, 0, 0]);
    assert_eq!(gave_up(&[1, 9]), [0, 0, 0, 0, 0, 1]);
    let nested = [oracle(&[1], End::Trampoline)];
    assert_eq!(figures(&nested, &report), [0, 0, 0, 0, 0, 0]);
}
