//! Puts a snapshot, its frames and their names together into what reports are made of.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use leakprobe_common::StackKey;

use super::heap;
use super::suppress::{Suppressed, Suppressions};
use super::verdict::{Seen, verdict};
use super::{
    Budget, Frame, Growth, Mappings, Names, PeakReport, ProcessReport, ProcessShare, Profile,
    Sampling, Stack,
};
use crate::analyze::account::Account;
use crate::analyze::growth::{History, LiveGrowth, Settled};
use crate::analyze::rank::{self, Rank};
use crate::analyze::rss::Rss;
use crate::analyze::survival::survival;
use crate::overhead::Overhead;
use crate::snapshot::counts::{
    Count, FRAMES_WITHOUT_MODULE, FRAMES_WITHOUT_SYMBOL, STACKS_NOT_FOLLOWED,
    STACKS_WITHOUT_FRAMES, UNBALANCED_BLOCKS,
};
use crate::snapshot::mappings::Summary;
use crate::snapshot::{Address, Completeness, Death, Evidence, LiveStack, Snapshot, Stacks};
use crate::target::heaps::HeapState;
use crate::target::{AllocatorInfo, TargetInfo};

/// What a profile says besides its figures.
#[derive(Clone, Debug)]
pub struct Header {
    /// The process.
    pub target: TargetInfo,
    /// What was probed, if anything.
    pub allocator: Option<AllocatorInfo>,
    /// What else was.
    pub other_allocators: Vec<AllocatorInfo>,
    /// How growth was recorded, if it was.
    pub growth: Option<Growth>,
    /// What was mapped, if that was followed.
    pub mappings: Option<Summary>,
    /// How the sample is taken, if it is one.
    pub sampling: Option<Sampling>,
    /// What it has cost the target so far.
    pub overhead: Option<Overhead>,
    /// What that was allowed to be.
    pub budget: Option<Budget>,
    /// The processes, if many were recorded.
    pub processes: Vec<ProcessReport>,
    /// Where the memory of the process is.
    pub account: Option<Account>,
    /// What its allocator's books say.
    pub heap: Option<HeapState>,
    /// How much it had over time.
    pub rss: Option<Rss>,
    /// When the first probe counted, in ns of the kernel side's clock.
    pub began_at: u64,
    /// From then to the snapshot.
    pub duration: Duration,
    /// How the process ended, if it has.
    pub death: Option<Death>,
    /// Counts known so far besides those of the snapshot, by name.
    pub losses: BTreeMap<String, u64>,
    /// Sentences for a person.
    pub notes: Vec<String>,
}

/// Of how many processes a stack tells what is theirs.
const SHARES: usize = 20;

/// What the user wants to see of the stacks.
#[derive(Debug, Default)]
pub struct Choice {
    /// What comes first.
    pub rank: Rank,
    /// Stacks that are known and not shown.
    pub suppressions: Suppressions,
}

/// How a snapshot is looked at.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// What the user wants.
    pub choice: &'a Choice,
    /// What was live before.
    pub history: &'a History,
    /// Blocks from before this time of the recording have settled.
    pub settled_until: Duration,
    /// Stacks to show; `usize::MAX` for all.
    pub top: usize,
}

impl View<'_> {
    fn settled(&self, live: u64, old: Option<u64>) -> Settled {
        let until = self.settled_until.as_nanos() as u64;
        Settled { live, old, until }
    }

    pub(super) fn growth(&self, stack: &LiveStack) -> LiveGrowth {
        let settled = self.settled(stack.totals.live_bytes, stack.settled_bytes);
        self.history.of(&stack.key, settled)
    }

    /// How these have grown together.
    pub(super) fn growth_of(&self, stacks: &[&LiveStack]) -> LiveGrowth {
        let live = stacks.iter().map(|stack| stack.totals.live_bytes).sum();
        let old = stacks.iter().map(|stack| stack.settled_bytes).sum();
        let settled = self.settled(live, old);
        self.history
            .of_sum(stacks.iter().map(|stack| &stack.key), settled)
    }

    /// How all of these have grown together.
    fn growth_of_all(&self, shown: &[&LiveStack], suppressed: &[StackKey]) -> LiveGrowth {
        let live = shown.iter().map(|stack| stack.totals.live_bytes).sum();
        let old = shown.iter().map(|stack| stack.settled_bytes).sum();
        let settled = self.settled(live, old);
        self.history.of_all_but(suppressed.iter(), settled)
    }
}

/// Takes out the stacks of which a frame is suppressed, and counts them.
fn suppress(
    shown: &mut Vec<&LiveStack>,
    suppressions: &Suppressions,
    stacks: &Stacks,
    names: &mut Names,
) -> (Vec<StackKey>, Option<Suppressed>) {
    if suppressions.is_empty() {
        return (Vec::new(), None);
    }
    names.learn(addresses(shown, stacks));
    let mut matches = suppressions.begin();
    let mut keys = Vec::new();
    shown.retain(|stack| {
        let trace = stacks.get(&stack.key);
        let frames = trace.into_iter().flat_map(|trace| {
            let with_trace = trace.frames.iter().map(move |address| (trace, address));
            with_trace.map(|(trace, address)| {
                let path = address.location.as_ref().map(|at| at.module.path.as_path());
                (names.get(address, stacks.late_name(trace, address)), path)
            })
        });
        let is_suppressed = matches.take(frames, &stack.totals);
        if is_suppressed {
            keys.push(stack.key);
        }
        !is_suppressed
    });
    (keys, Some(matches.end()))
}

fn addresses<'a>(shown: &[&LiveStack], stacks: &'a Stacks) -> impl Iterator<Item = &'a Address> {
    let traces = shown.iter().filter_map(|stack| stacks.get(&stack.key));
    traces.flat_map(|trace| &*trace.frames)
}

/// The frames of a stack whose addresses have been looked up; none if they are not known.
pub(super) fn frames(key: &StackKey, stacks: &Stacks, names: &Names) -> Vec<Frame> {
    let trace = stacks.get(key);
    let frames = trace
        .into_iter()
        .flat_map(|trace| trace.frames.iter().map(move |address| (trace, address)));
    frames
        .flat_map(|(trace, address)| {
            names
                .get(address, stacks.late_name(trace, address))
                .to_vec()
        })
        .collect()
}

/// Makes a profile of the first stacks of a snapshot, as they are wanted. Totals and evidence are those of
/// the whole snapshot.
pub fn profile(
    mut header: Header,
    snapshot: &Snapshot,
    stacks: &Stacks,
    names: &mut Names,
    view: View<'_>,
) -> Profile {
    let mut shown: Vec<&LiveStack> = snapshot.stacks.iter().collect();
    let (keys, suppressed) = suppress(&mut shown, &view.choice.suppressions, stacks, names);
    let live_growth = view.growth_of_all(&shown, &keys);
    let whole = view.top == usize::MAX;
    let mappings = header.mappings.as_ref();
    let mappings = mappings.map(|summary| Mappings::of(summary, stacks, names));
    let heap = header.heap.take();
    let heap = heap.map(|state| heap::heap(state, snapshot, stacks, names));
    let verdict = whole.then(|| {
        let seen = Seen {
            header: &header,
            snapshot,
            shown: &shown,
            growth: live_growth,
            mappings: mappings.as_ref(),
        };
        verdict(&seen, view, stacks, names)
    });
    // Told only where it is asked for: of ten thousand stacks it takes a good part of a second.
    let mut growths: HashMap<StackKey, LiveGrowth> = HashMap::new();
    rank::sort(&mut shown, view.choice.rank, |stack| {
        *growths
            .entry(stack.key)
            .or_insert_with(|| view.growth(stack))
    });
    shown.truncate(view.top);
    names.learn(addresses(&shown, stacks));

    let is_sample =
        header.sampling.is_some() || header.growth.is_some_and(|it| it.sample_pages > 1);
    let sampled = is_sample.then_some(());
    let was_away = header.budget.as_ref().is_some_and(|it| it.windows > 0);
    let pids: HashMap<u64, u32> = header
        .processes
        .iter()
        .map(|process| (process.space, process.target.pid))
        .collect();
    let lasted = header.duration.as_nanos() as u64;
    let mut without_frames = 0;
    let shown: Vec<Stack> = shown
        .iter()
        .map(|stack| {
            let trace = stacks.get(&stack.key);
            without_frames += u64::from(trace.is_none());
            Stack {
                totals: stack.totals,
                interval: sampled.and(stack.interval),
                peak: stack.peak,
                survival: stack.lifetimes.and_then(|it| survival(&it, lasted)),
                unconfirmed: was_away.then_some(stack.unconfirmed),
                mapped: stack.mapped,
                oldest_ns: stack.ages.map(|(oldest, _)| oldest),
                newest_ns: stack.ages.map(|(_, newest)| newest),
                processes: stack
                    .shares
                    .iter()
                    .filter_map(|share| {
                        Some(ProcessShare {
                            pid: *pids.get(&share.space)?,
                            live_bytes: share.bytes,
                            live_count: share.count,
                        })
                    })
                    .take(SHARES)
                    .collect(),
                growth: Some(
                    growths
                        .get(&stack.key)
                        .copied()
                        .unwrap_or_else(|| view.growth(stack)),
                ),
                end: trace.and_then(|trace| trace.end.name()),
                frames: frames(&stack.key, stacks, names),
            }
        })
        .collect();

    let Header {
        target,
        allocator,
        other_allocators,
        growth,
        mappings: _,
        sampling,
        overhead,
        budget,
        processes,
        began_at,
        account,
        heap: _,
        rss,
        duration,
        death,
        mut losses,
        mut notes,
    } = header;
    let mut count = |count: Count, value: u64| {
        if value > 0 {
            *losses.entry(count.name.to_owned()).or_default() += value;
        }
    };
    count(UNBALANCED_BLOCKS, snapshot.unbalanced);
    count(STACKS_WITHOUT_FRAMES, without_frames);
    count(STACKS_NOT_FOLLOWED, view.history.left_out());
    let nameless = || {
        let frames = shown.iter().flat_map(|stack| &stack.frames);
        frames.filter(|frame| frame.function.is_none())
    };
    let without_module = nameless().filter(|it| it.module.is_none()).count();
    count(FRAMES_WITHOUT_MODULE, without_module as u64);
    let without_symbol = nameless().count() - without_module;
    count(FRAMES_WITHOUT_SYMBOL, without_symbol as u64);
    for &(counter, value) in &snapshot.counters {
        count(counter.into(), value);
    }
    let is_loss = |name: &String| Count::find(name).is_none_or(|count| count.is_loss);
    let completeness = if losses.keys().any(is_loss) {
        Completeness::Partial
    } else {
        Completeness::Complete
    };
    notes.extend(
        names
            .failures()
            .map(|(path, why)| format!("no names from `{path}`: {why}")),
    );
    notes.extend(stacks.jit_problem().map(str::to_owned));
    Profile {
        schema: 1,
        target,
        duration_ns: duration.as_nanos() as u64,
        death,
        allocator,
        other_allocators,
        growth,
        sampling,
        overhead,
        budget,
        sorted_by: view.choice.rank,
        totals: snapshot.totals,
        live_growth: Some(live_growth),
        suppressed,
        peak: snapshot.peak.map(|peak| PeakReport {
            live_bytes: peak.bytes,
            at_ns: peak.time.map(|time| time.saturating_sub(began_at)),
        }),
        unconfirmed: was_away.then_some(snapshot.unconfirmed),
        interval: sampled.and(snapshot.interval),
        account,
        heap,
        rss,
        verdict,
        evidence: Evidence {
            verdict: completeness,
            losses,
            notes,
        },
        processes,
        stacks: shown,
        mappings,
    }
}
