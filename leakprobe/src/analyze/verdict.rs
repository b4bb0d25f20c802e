//! The verdict: what becomes of the process's memory, in one word, with the figures that say so. A pure function of
//! what was measured; where that does not suffice it says so instead of guessing.
//!
//! What it does not do: find out figures, and name stacks (they are keys here; the reports have the sentence).

use leakprobe_common::StackKey;
use serde::Serialize;

use super::trend::{Slope, Trend};

/// Stacks that grow by less in a recording are not spoken of, bytes: programs gain and lose as much at any time.
pub const GRAIN: u64 = 64 << 10;

/// Memory that is kept, or that a peak was above the rest, from which on that is a finding, bytes.
const WORTH_TELLING: u64 = 8 << 20;

/// The shortest recording that something is said of, ns.
pub const SHORTEST: u64 = 10_000_000_000;

/// Of a leak's bytes that reached one age at least so many reach ten times that age.
const LIVES_ON: f64 = 0.5;

/// Stacks that a verdict names at the most.
pub const NAMED: usize = 5;

/// A figure over time.
#[derive(Clone, Copy, Debug)]
pub struct Course {
    /// At the start, bytes.
    pub start: u64,
    /// At the end.
    pub end: u64,
    /// How it grows; `None` if there were too few looks.
    pub slope: Option<Slope>,
    /// Whether it goes on.
    pub trend: Trend,
}

/// A figure at the start and at the end, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Change {
    /// At the first look.
    pub start_bytes: u64,
    /// At the last one.
    pub end_bytes: u64,
}

impl Change {
    /// By how much it has grown.
    pub fn growth(&self) -> u64 {
        self.end_bytes.saturating_sub(self.start_bytes)
    }
}

/// Whose heap lies in a process besides that of malloc.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Runtime {
    /// JavaScript's.
    V8,
    /// Java's objects.
    Jvm,
    /// Java's classes.
    Metaspace,
}

/// What is known of a stack.
#[derive(Clone, Copy, Debug)]
pub struct StackFacts {
    /// Which it is.
    pub key: StackKey,
    /// What it has live, bytes.
    pub live_bytes: u64,
    /// Its growth.
    pub slope: Option<Slope>,
    /// Whether it goes on.
    pub trend: Trend,
    /// Of its bytes that reached an age, how many reached one ten times as long; `None` if it is not known.
    pub lives_on: Option<f64>,
}

/// What is known of a recording.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// How long it was, ns.
    pub duration_ns: u64,
    /// Live blocks of malloc; `None` if no allocator was probed.
    pub live: Option<Course>,
    /// What the process has resident; `None` if that is not known.
    pub rss: Option<Course>,
    /// What of that is free memory in the allocator.
    pub kept: Option<Change>,
    /// What of that is a runtime's.
    pub runtimes: Vec<(Runtime, Change)>,
    /// What the program itself has mapped since the attach and has in memory, bytes; `None` if that is not known.
    pub mapped: Option<u64>,
    /// The stacks.
    pub stacks: Vec<StackFacts>,
    /// The most that was live at a time, bytes.
    pub peak: Option<u64>,
    /// What the process's control group may have at the most, and what it has, bytes.
    pub limit: Option<(u64, u64)>,
}

/// In one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Stacks go on to grow, and free nothing of it.
    Leak,
    /// What is live does not grow; the allocator keeps what was freed.
    RetainedByAllocator,
    /// What grows is the heap of a runtime.
    RuntimeHeap,
    /// Much was live for a time.
    Peak,
    /// Nothing grows.
    Steady,
    /// It cannot be told.
    NotEnoughEvidence,
}

/// How sure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Confidence {
    /// It may well be otherwise.
    Low,
    /// It is likely.
    Medium,
    /// There is hardly a doubt.
    High,
}

/// Why nothing can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Missing {
    /// More time.
    Time,
    /// What is resident grows, and nothing that was recorded explains it.
    Explanation,
}

/// A stack that is named.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Suspect {
    /// Which it is.
    #[serde(skip)]
    pub key: StackKey,
    /// What it has live; of mappings, what of them is in memory. Bytes.
    pub live_bytes: u64,
    /// Its growth; `None` of mappings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub growth: Option<Slope>,
}

/// What was found, and the figures it rests on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// In one word.
    pub kind: Kind,
    /// How sure it is.
    pub confidence: Confidence,
    /// The stacks that leak, those that certainly grow most first; of many the first.
    #[serde(skip)]
    pub suspects: Vec<Suspect>,
    /// How many stacks leak.
    pub leaking_stacks: usize,
    /// Of a leak: it is of what the program has mapped itself, not of blocks.
    pub is_mapped: bool,
    /// What grows: the stacks that leak, or what is resident.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub growth: Option<Slope>,
    /// Seconds until the control group's limit is reached at this rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds_until_limit: Option<f64>,
    /// The runtime whose heap grows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime: Option<Runtime>,
    /// Its heap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime_heap: Option<Change>,
    /// Live blocks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub live: Option<Change>,
    /// What is resident.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rss: Option<Change>,
    /// What of that is free in the allocator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept: Option<Change>,
    /// The most that was live at a time, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_bytes: Option<u64>,
    /// What is missing for more to be said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing: Option<Missing>,
}

impl Finding {
    fn new(kind: Kind, confidence: Confidence, facts: &Facts) -> Self {
        let change = |course: Course| Change {
            start_bytes: course.start,
            end_bytes: course.end,
        };
        Self {
            kind,
            confidence,
            suspects: Vec::new(),
            leaking_stacks: 0,
            is_mapped: false,
            growth: None,
            seconds_until_limit: None,
            runtime: None,
            runtime_heap: None,
            live: facts.live.map(change),
            rss: facts.rss.map(change),
            kept: facts.kept,
            peak_bytes: facts.peak,
            missing: None,
        }
    }

    fn missing(what: Missing, facts: &Facts) -> Self {
        Self {
            missing: Some(what),
            ..Self::new(Kind::NotEnoughEvidence, Confidence::Low, facts)
        }
    }

    /// With a growth, and when it comes to the limit.
    fn growing(self, growth: Option<Slope>, facts: &Facts) -> Self {
        let until = |growth: Slope| {
            let (most, used) = facts.limit?;
            (growth.per_second > 0.0).then(|| most.saturating_sub(used) as f64 / growth.per_second)
        };
        Self {
            growth,
            seconds_until_limit: growth.and_then(until),
            ..self
        }
    }
}

/// What the facts say.
pub fn judge(facts: &Facts) -> Finding {
    leak(facts)
        .filter(|found| !is_beside(found, facts))
        .or_else(|| too_short(facts))
        .or_else(|| runtime(facts))
        .or_else(|| mapped(facts))
        .or_else(|| retained(facts))
        .or_else(|| unexplained(facts))
        .or_else(|| peak(facts))
        .unwrap_or_else(|| steady(facts))
}

/// Stacks that grow on and free nothing, if what is live grows on the whole: when a runtime compiles its code anew,
/// one stack's blocks become another's.
fn leak(facts: &Facts) -> Option<Finding> {
    let seconds = facts.duration_ns as f64 / 1e9;
    let suspects = facts.stacks.iter().filter_map(|it| suspect(it, seconds));
    let mut found: Vec<(Slope, Suspect)> = suspects.collect();
    found.sort_by(|(one, _), (other, _)| other.low.total_cmp(&one.low));
    let (first, _) = *found.first()?;
    let sum = |part: fn(&Slope) -> f64| found.iter().map(|(growth, _)| part(growth)).sum();
    let growth = Slope {
        per_second: sum(|it| it.per_second),
        low: sum(|it| it.low),
        high: sum(|it| it.high),
    };
    let whole = facts.live.and_then(|it| it.slope)?;
    if whole.high < growth.low / 2.0 {
        return None;
    }
    let confidence = match (first.low >= first.per_second / 2.0, whole.low > 0.0) {
        (true, true) => Confidence::High,
        (false, false) => Confidence::Low,
        _ => Confidence::Medium,
    };
    Some(Finding {
        leaking_stacks: found.len(),
        suspects: found.into_iter().map(|(_, it)| it).take(NAMED).collect(),
        ..Finding::new(Kind::Leak, confidence, facts).growing(Some(growth), facts)
    })
}

/// Whether a runtime's heap, or what the program has mapped, grows by more: then what leaks is what is taken
/// down about that.
fn is_beside(leak: &Finding, facts: &Facts) -> bool {
    let seconds = facts.duration_ns as f64 / 1e9;
    let leaked = leak.growth.map_or(0.0, |it| it.per_second) * seconds;
    let heap = runtime(facts).and_then(|it| it.runtime_heap);
    let mapped = mapped(facts).and(facts.mapped);
    let grown = heap
        .map_or(0, |heap| heap.growth())
        .max(mapped.unwrap_or(0));
    grown > 0 && grown as f64 >= leaked
}

/// A stack that leaks.
fn suspect(stack: &StackFacts, seconds: f64) -> Option<(Slope, Suspect)> {
    let growth = stack.slope?;
    let is_one = stack.trend == Trend::Growing
        && growth.low * seconds >= GRAIN as f64
        && stack.lives_on.is_none_or(|part| part >= LIVES_ON);
    let suspect = Suspect {
        key: stack.key,
        live_bytes: stack.live_bytes,
        growth: Some(growth),
    };
    is_one.then_some((growth, suspect))
}

fn too_short(facts: &Facts) -> Option<Finding> {
    let course = facts.rss.or(facts.live);
    let is_short = facts.duration_ns < SHORTEST || course.is_none_or(|it| it.slope.is_none());
    is_short.then(|| peak(facts).unwrap_or_else(|| Finding::missing(Missing::Time, facts)))
}

/// What is resident grows, and a runtime's heap is most of it.
fn runtime(facts: &Facts) -> Option<Finding> {
    let rss = facts.rss.filter(grows)?;
    let (runtime, heap) = *facts
        .runtimes
        .iter()
        .max_by_key(|(_, change)| change.growth())?;
    let (part, whole) = (heap.growth(), growth(&rss));
    (part >= WORTH_TELLING && part >= whole / 2).then(|| Finding {
        runtime: Some(runtime),
        runtime_heap: Some(heap),
        ..Finding::new(Kind::RuntimeHeap, confidence(part, whole), facts).growing(rss.slope, facts)
    })
}

/// What is resident grows, and most of that the program has mapped itself and not unmapped.
fn mapped(facts: &Facts) -> Option<Finding> {
    let rss = facts.rss.filter(grows)?;
    let (part, whole) = (facts.mapped?, growth(&rss));
    (part >= WORTH_TELLING && part >= whole / 2).then(|| Finding {
        is_mapped: true,
        ..Finding::new(Kind::Leak, confidence(part, whole), facts).growing(rss.slope, facts)
    })
}

/// The allocator keeps much, while what is live does not grow.
fn retained(facts: &Facts) -> Option<Finding> {
    let (rss, kept) = (facts.rss?, facts.kept?);
    let live = facts.live?;
    let is_much = kept.end_bytes >= WORTH_TELLING && kept.end_bytes >= rss.end / 4;
    let is_what_grows = !grows(&rss) || kept.growth() >= growth(&rss) / 2;
    (is_much && is_what_grows).then(|| {
        let confidence = match kept.end_bytes >= live.end {
            true => Confidence::High,
            false => Confidence::Medium,
        };
        let growth = rss.slope.filter(|_| grows(&rss));
        Finding::new(Kind::RetainedByAllocator, confidence, facts).growing(growth, facts)
    })
}

/// What is resident grows, and nothing explains it.
fn unexplained(facts: &Facts) -> Option<Finding> {
    let rss = facts.rss.filter(grows)?;
    let live = facts.live.map_or(0, |it| growth(&it));
    let explained = live.max(facts.kept.map_or(0, |it| it.growth()));
    (explained < growth(&rss) / 2)
        .then(|| Finding::missing(Missing::Explanation, facts).growing(rss.slope, facts))
}

fn peak(facts: &Facts) -> Option<Finding> {
    let (peak, live) = (facts.peak?, facts.live?.end);
    let above = peak.saturating_sub(live);
    (above >= WORTH_TELLING && above >= live)
        .then(|| Finding::new(Kind::Peak, confidence(above, peak), facts))
}

fn steady(facts: &Facts) -> Finding {
    let is_flat = |course: &Course| matches!(course.trend, Trend::Flat | Trend::LevelledOff);
    let known = facts.rss.iter().chain(&facts.live);
    let confidence = match known.map(is_flat).collect::<Vec<_>>()[..] {
        [true, true] => Confidence::High,
        [true] | [true, false] | [false, true] => Confidence::Medium,
        _ => Confidence::Low,
    };
    Finding::new(Kind::Steady, confidence, facts)
}

/// Whether it goes on to grow, by so much that it matters.
fn grows(course: &Course) -> bool {
    course.trend == Trend::Growing && growth(course) >= WORTH_TELLING.max(course.start / 20)
}

fn growth(course: &Course) -> u64 {
    course.end.saturating_sub(course.start)
}

/// The more of the whole something is, the surer.
fn confidence(part: u64, whole: u64) -> Confidence {
    match part.saturating_mul(4) >= whole.saturating_mul(3) {
        true => Confidence::High,
        false => Confidence::Medium,
    }
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;
