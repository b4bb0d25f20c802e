use proptest::prelude::*;

use super::*;
use crate::analyze::trend::tests::noise;

const TICK: u64 = 250_000_000;

fn key(id: u64) -> StackKey {
    StackKey { id, program: 7 }
}

/// All that is there is old.
fn old(live: u64) -> Settled {
    Settled {
        live,
        old: Some(live),
        until: u64::MAX,
    }
}

/// A history of so many looks at stacks of which each has so much.
fn history(looks: u64, live: impl Fn(u64, u64) -> u64, stacks: u64) -> History {
    let mut history = History::default();
    for at in 1..=looks {
        let of_each: Vec<_> = (0..stacks).map(|id| (key(id), live(id, at))).collect();
        let whole = of_each.iter().map(|(_, live)| live).sum();
        history.look(at * TICK, whole, of_each.into_iter());
    }
    history
}

#[test]
fn a_leak_among_busy_stacks_comes_first() {
    // One in a hundred bytes stays; what goes through the others is as much.
    let live = |id, at| match id {
        250 => 2000 * at + noise(at, 100_000),
        _ => noise(id * 1_000_000 + at, 200_000),
    };
    for looks in [120, 200, 240] {
        let history = history(looks, live, 500);
        let growth = |id| {
            // Of what goes through, hardly anything is old.
            let stays = if id == 250 { 1000 * looks } else { 0 };
            let settled = Settled {
                live: live(id, looks),
                old: Some(stays),
                until: looks * TICK / 2,
            };
            history.of(&key(id), settled)
        };
        assert_eq!(growth(250).trend, Trend::Growing, "{looks} looks");
        let low = |id| growth(id).slope.unwrap().low;
        for id in (0..500).filter(|id| *id != 250) {
            assert!(low(id) < low(250), "{id} after {looks} looks");
            assert_ne!(growth(id).trend, Trend::Growing, "{id} after {looks} looks");
        }
    }
}

#[test]
fn more_and_more_traffic_is_no_leak() {
    let history = history(100, |_, at| 1000 * at, 1);
    let growth = |old| {
        let settled = Settled {
            live: 100_000,
            old,
            until: 50 * TICK,
        };
        history.of(&key(0), settled).trend
    };
    assert_eq!(growth(Some(0)), Trend::Unknown);
    assert_eq!(growth(Some(10_000)), Trend::Unknown);
    assert_eq!(growth(Some(50_000)), Trend::Growing);
    // Nobody has looked at blocks.
    assert_eq!(growth(None), Trend::Growing);
}

#[test]
fn what_is_freed_at_the_end_has_not_leaked() {
    let history = history(100, |_, at| 1000 * at, 1);
    assert_eq!(history.of(&key(0), old(0)).trend, Trend::Flat);
    assert_eq!(history.of(&key(0), old(100_000)).trend, Trend::Growing);
}

#[test]
fn a_cache_that_is_full_has_levelled_off() {
    let history = history(100, |_, at| 1000 * at.min(40), 1);
    assert_eq!(history.of(&key(0), old(40_000)).trend, Trend::LevelledOff);
}

#[test]
fn a_late_stack_had_nothing_before() {
    let live = |id, at: u64| {
        if id == 0 {
            5
        } else {
            1000 * at.saturating_sub(10)
        }
    };
    let history = history(20, live, 2);
    let lows = &history.stacks[&key(1)].lows;
    assert_eq!(lows.len(), 20);
    assert_eq!(lows[..10], [0; 10]);
    assert_eq!(lows[19], 10_000);
    // Of one that was never seen it is known that it had nothing.
    let never = history.of(&key(9), old(0));
    assert_eq!(never.trend, Trend::Flat);
}

#[test]
fn too_short_to_tell() {
    let history = history(11, |_, at| 1000 * at, 1);
    assert_eq!(history.of(&key(0), old(11_000)), LiveGrowth::UNKNOWN);
    assert_eq!(
        history.of_all_but([].iter(), old(11_000)),
        LiveGrowth::UNKNOWN
    );
}

#[test]
fn others_are_taken_out_of_the_whole() {
    let history = history(40, |id, at| if id == 0 { 10 * at } else { 1000 * at }, 2);
    let all = history.of_all_but([].iter(), old(40_400));
    assert_eq!(all.slope.unwrap().per_second, 4040.0);
    let rest = history.of_all_but([key(1)].iter(), old(400));
    assert_eq!(
        (rest.slope.unwrap().per_second, rest.trend),
        (40.0, Trend::Growing)
    );
}

#[test]
fn the_smallest_are_left_out_where_there_are_too_many() {
    let most = MOST_STACKS as u64;
    let history = history(3, |id, at| id * at, most + 500);
    assert!(history.stacks.len() <= MOST_STACKS);
    assert!(history.left_out() >= 500);
    assert_eq!(history.of(&key(3), old(9)), LiveGrowth::UNKNOWN);
    assert!(history.stacks.contains_key(&key(most)));
    // One that is left out does not come back as if it had had nothing.
    assert!(!history.stacks.contains_key(&key(3)));
}

#[test]
fn a_small_leak_is_followed_again_when_it_is_large() {
    let most = MOST_STACKS as u64;
    let live = |id, at| if id == 0 { 100 * at } else { 1000 + id % 7 };
    let history = history(200, live, most + 500);
    assert!(history.stacks.len() <= MOST_STACKS);
    assert!(history.stacks[&key(0)].since > 0);
    assert_eq!(history.of(&key(0), old(20_000)).trend, Trend::Growing);
    assert_eq!(history.left_out(), most + 500 - history.stacks.len() as u64);
}

#[test]
fn looks_become_rarer_and_then_points_longer() {
    let history = history(64, |_, at| at, 1);
    assert_eq!((history.times.len(), history.period()), (64, SHORTEST));
    let history = self::history(64 + 1, |_, at| at, 1);
    assert_eq!((history.times.len(), history.period()), (33, SHORTEST * 2));
    let history = self::history(64 + 32, |_, at| at, 1);
    assert_eq!((history.times.len(), history.period()), (64, SHORTEST * 2));
    let history = self::history(5000, |_, at| at, 1);
    assert_eq!(history.period(), USUAL);
    assert!(history.each > 1 && history.times.len() > MOST_POINTS / 4);
    assert_eq!(history.times.last(), Some(&(5000 * TICK)));
}

proptest! {
    /// However stacks come and go, all have a low for each time, below what they had at it, and the whole is
    /// not less than their sum.
    #[test]
    fn series_stay_together(looks in prop::collection::vec(
        prop::collection::btree_map(0u64..20, 0u64..1_000_000, 0..20), 1..400,
    )) {
        let mut history = History::default();
        for (index, look) in looks.iter().enumerate() {
            let whole = look.values().sum();
            let live = look.iter().map(|(id, live)| (key(*id), *live));
            history.look((index as u64 + 1) * TICK, whole, live);
            let points = history.times.len();
            prop_assert!(points <= MOST_POINTS);
            prop_assert_eq!(history.whole.len(), points);
            prop_assert!(history.times.is_sorted());
            for (key, lows) in &history.stacks {
                prop_assert_eq!(lows.lows.len(), points);
                let now = look.get(&key.id).copied().unwrap_or(0);
                prop_assert!(lows.lows[points - 1] <= now);
            }
            for at in 0..points {
                let sum: u64 = history.stacks.values().map(|it| it.lows[at]).sum();
                prop_assert!(sum <= history.whole[at]);
            }
        }
    }
}
