//! From what a recording knows to the facts that a verdict is made of, and to the names of the stacks it is about.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::path::Path;

use leakprobe_common::StackKey;
use serde::Serialize;

use super::mappings::{MappedStack, Mappings, Owner};
use super::profile::{Header, View, frames};
use super::{Frame, Names};
use crate::analyze::account::{Account, Kind};
use crate::analyze::growth::LiveGrowth;
use crate::analyze::rss::Rss;
use crate::analyze::survival::{Survival, survival};
use crate::analyze::trend;
use crate::analyze::verdict::{
    Change, Course, Facts, Finding, GRAIN, NAMED, Runtime, StackFacts, Suspect, judge,
};
use crate::snapshot::{Address, LiveStack, Snapshot, Stacks, Trace};

/// Stacks that are looked at, those with the most live bytes.
const MOST_STACKS: usize = 2000;

/// What becomes of the memory.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// What was found.
    #[serde(flatten)]
    pub finding: Finding,
    /// The stacks that leak, or the first of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stacks: Vec<NamedSuspect>,
}

/// A stack that leaks.
#[derive(Clone, Debug, Serialize)]
pub struct NamedSuspect {
    /// What it has live, and how that grows.
    #[serde(flatten)]
    pub suspect: Suspect,
    /// Its frames, leaf first.
    pub frames: Vec<Frame>,
}

/// What is known of a recording.
pub(super) struct Seen<'a> {
    pub(super) header: &'a Header,
    pub(super) snapshot: &'a Snapshot,
    /// The stacks that are not suppressed.
    pub(super) shown: &'a [&'a LiveStack],
    /// How all of these grow.
    pub(super) growth: LiveGrowth,
    pub(super) mappings: Option<&'a Mappings>,
}

/// Comes to a verdict.
pub(super) fn verdict(
    seen: &Seen<'_>,
    view: View<'_>,
    stacks: &Stacks,
    names: &mut Names,
) -> Verdict {
    let Seen {
        header,
        snapshot,
        shown,
        growth,
        mappings,
    } = *seen;
    let live = shown.iter().map(|stack| stack.totals.live_bytes).sum();
    let is_heap = header.growth.is_none();
    let duration_ns = header.duration.as_nanos() as u64;
    let (account, rss) = (header.account.as_ref(), header.rss.as_ref());
    let finding = judge(&Facts {
        duration_ns,
        live: is_heap.then_some(Course {
            start: 0,
            end: live,
            slope: growth.slope,
            trend: growth.trend,
        }),
        rss: rss.map(course),
        kept: account.and_then(|account| change(account, &[Kind::AllocatorFree])),
        runtimes: account.map_or(Vec::new(), runtimes),
        mapped: mappings.map(|it| of_program(it).map(|(bytes, _)| bytes).sum()),
        stacks: match is_heap {
            true => facts(shown, duration_ns, view, stacks),
            false => Vec::new(),
        },
        peak: snapshot.peak.filter(|_| is_heap).map(|peak| peak.bytes),
        limit: rss.and_then(|it| Some((it.limit_bytes?, it.limit_used_bytes?))),
    });
    let traces = finding.suspects.iter().filter_map(|it| stacks.get(&it.key));
    names.learn(traces.flat_map(|trace| &*trace.frames));
    let suspects = finding.suspects.iter().map(|&suspect| NamedSuspect {
        suspect,
        frames: frames(&suspect.key, stacks, names),
    });
    let mut suspects: Vec<_> = suspects.collect();
    if let (true, Some(mappings)) = (finding.is_mapped, mappings) {
        suspects = mapped_most(mappings);
    }
    Verdict {
        stacks: suspects,
        finding,
    }
}

/// What the program has mapped since the attach and has in memory, by stack.
fn of_program(mappings: &Mappings) -> impl Iterator<Item = (u64, &MappedStack)> {
    let stacks = mappings.stacks.iter();
    let stacks = stacks.filter(|stack| stack.owner == Owner::Program);
    stacks.filter_map(|stack| Some((stack.resident_bytes?, stack)))
}

/// The stacks that have most of it.
fn mapped_most(mappings: &Mappings) -> Vec<NamedSuspect> {
    let mut stacks: Vec<_> = of_program(mappings).collect();
    stacks.sort_by_key(|&(bytes, _)| Reverse(bytes));
    let named = stacks.into_iter().take(NAMED).map(|(bytes, stack)| {
        let suspect = Suspect {
            key: StackKey::default(),
            live_bytes: bytes,
            growth: None,
        };
        NamedSuspect {
            suspect,
            frames: stack.frames.clone(),
        }
    });
    named.collect()
}

/// Of the stacks that have enough for a leak to speak of. Those that differ in generated code alone are one: a
/// runtime compiles its code anew while it runs, and what leaks then does so from another stack.
fn facts(shown: &[&LiveStack], lasted: u64, view: View<'_>, stacks: &Stacks) -> Vec<StackFacts> {
    let mut groups: HashMap<Vec<(&Path, u64)>, Vec<&LiveStack>> = HashMap::new();
    let mut alone = Vec::new();
    for &stack in shown.iter().filter(|stack| stack.totals.live_bytes > 0) {
        match stacks.get(&stack.key).and_then(above_generated_code) {
            Some(frames) => groups.entry(frames).or_default().push(stack),
            None => alone.push(vec![stack]),
        }
    }
    let live = |group: &Vec<&LiveStack>| -> u64 {
        group.iter().map(|stack| stack.totals.live_bytes).sum()
    };
    alone.extend(groups.into_values());
    alone.retain(|group| live(group) >= GRAIN);
    alone.sort_unstable_by_key(|group| (Reverse(live(group)), group[0].key.id));
    alone.truncate(MOST_STACKS);
    let facts = alone.iter().filter_map(|group| {
        let first = group
            .iter()
            .max_by_key(|stack| (stack.totals.live_bytes, stack.key.id))?;
        let growth = view.growth_of(group);
        let lifetimes = group.iter().map(|stack| stack.lifetimes);
        let lifetimes = lifetimes
            .reduce(|sum, next| Some(sum?.and(&next?)))
            .flatten();
        Some(StackFacts {
            key: first.key,
            live_bytes: live(group),
            slope: growth.slope,
            trend: growth.trend,
            lives_on: lifetimes.and_then(|it| lives_on(survival(&it, lasted)?)),
        })
    });
    facts.collect()
}

/// Where the frames above the first one in generated code are; `None` if there is no such.
fn above_generated_code(trace: &Trace) -> Option<Vec<(&Path, u64)>> {
    let frames: Vec<_> = trace.frames.iter().map_while(in_a_file).collect();
    let is_cut = frames.len() < trace.frames.len() && !frames.is_empty();
    is_cut.then_some(frames)
}

fn in_a_file(address: &Address) -> Option<(&Path, u64)> {
    let location = address.location.as_ref()?;
    let path = location.module.path.as_path();
    path.is_absolute().then_some((path, location.offset))
}

/// Of what reached an age, the part that reached one ten times as long; for the longest that is known.
fn lives_on(survival: Survival) -> Option<f64> {
    let [first, second, third, fourth] = [
        survival.second,
        survival.ten_seconds,
        survival.minute,
        survival.ten_minutes,
    ];
    let part = |(younger, older): (f64, f64)| if younger > 0.0 { older / younger } else { 0.0 };
    let pairs = [third.zip(fourth), second.zip(third), first.zip(second)];
    pairs.into_iter().flatten().next().map(part)
}

fn course(rss: &Rss) -> Course {
    let (slope, trend) = trend::judge(rss.resident.points());
    Course {
        start: rss.start_bytes,
        end: rss.end_bytes,
        slope,
        trend,
    }
}

fn runtimes(account: &Account) -> Vec<(Runtime, Change)> {
    let heaps: [(Runtime, &[Kind]); 3] = [
        (Runtime::V8, &[Kind::V8Heap, Kind::V8Code]),
        (Runtime::Jvm, &[Kind::JvmHeap, Kind::JvmGc]),
        (Runtime::Metaspace, &[Kind::JvmMetaspace]),
    ];
    let known = heaps
        .into_iter()
        .filter_map(|(runtime, kinds)| Some((runtime, change(account, kinds)?)));
    known.collect()
}

/// What these lines have together; `None` if there are none. What was not known at the start counts as nothing.
fn change(account: &Account, kinds: &[Kind]) -> Option<Change> {
    let lines: Vec<_> = kinds
        .iter()
        .filter_map(|&kind| account.line(kind))
        .collect();
    (!lines.is_empty()).then(|| Change {
        start_bytes: lines.iter().filter_map(|line| line.start_bytes).sum(),
        end_bytes: lines.iter().map(|line| line.bytes).sum(),
    })
}
