//! Puts a snapshot, its frames and their names together into what reports are made of.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Budget, Growth, Names, Profile, Sampling, Stack};
use crate::overhead::Overhead;
use crate::snapshot::counts::{Count, STACKS_WITHOUT_FRAMES, UNBALANCED_BLOCKS};
use crate::snapshot::{Evidence, Snapshot, Stacks, Verdict};
use crate::target::{AllocatorInfo, TargetInfo};

/// What a profile says besides its figures.
#[derive(Clone, Debug)]
pub struct Header {
    /// The process.
    pub target: TargetInfo,
    /// What was probed, if anything.
    pub allocator: Option<AllocatorInfo>,
    /// How growth was recorded, if it was.
    pub growth: Option<Growth>,
    /// How the sample is taken, if it is one.
    pub sampling: Option<Sampling>,
    /// What it has cost the target so far.
    pub overhead: Option<Overhead>,
    /// What that was allowed to be.
    pub budget: Option<Budget>,
    /// From the first probe counting to the snapshot.
    pub duration: Duration,
    /// Counts known so far besides those of the snapshot, by name.
    pub losses: BTreeMap<String, u64>,
    /// Sentences for a person.
    pub notes: Vec<String>,
}

/// Makes a profile of the `top` stacks of a snapshot; all with `usize::MAX`. Totals and evidence
/// are those of the whole snapshot.
pub fn profile(
    header: Header,
    snapshot: &Snapshot,
    stacks: &Stacks,
    names: &mut Names,
    top: usize,
) -> Profile {
    let shown = &snapshot.stacks[..top.min(snapshot.stacks.len())];
    names.learn(
        shown
            .iter()
            .filter_map(|stack| stacks.get(&stack.key))
            .flat_map(|trace| &*trace.frames),
    );

    let is_sample =
        header.sampling.is_some() || header.growth.is_some_and(|it| it.sample_pages > 1);
    let sampled = is_sample.then_some(());
    let was_away = header.budget.as_ref().is_some_and(|it| it.windows > 0);
    let mut without_frames = 0;
    let shown = shown
        .iter()
        .map(|stack| {
            let trace = stacks.get(&stack.key);
            without_frames += u64::from(trace.is_none());
            Stack {
                totals: stack.totals,
                interval: sampled.and(stack.interval),
                unconfirmed: was_away.then_some(stack.unconfirmed),
                mapped: stack.mapped,
                oldest_ns: stack.ages.map(|(oldest, _)| oldest),
                newest_ns: stack.ages.map(|(_, newest)| newest),
                end: trace.and_then(|trace| trace.end.name()),
                frames: trace
                    .into_iter()
                    .flat_map(|trace| trace.frames.iter())
                    .flat_map(|address| names.get(address, stacks.late_name(address)).to_vec())
                    .collect(),
            }
        })
        .collect();

    let Header {
        target,
        allocator,
        growth,
        sampling,
        overhead,
        budget,
        duration,
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
    for &(counter, value) in &snapshot.counters {
        count(counter.into(), value);
    }
    let is_loss = |name: &String| Count::find(name).is_none_or(|count| count.is_loss);
    let verdict = if losses.keys().any(is_loss) {
        Verdict::Partial
    } else {
        Verdict::Complete
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
        allocator,
        growth,
        sampling,
        overhead,
        budget,
        totals: snapshot.totals,
        unconfirmed: was_away.then_some(snapshot.unconfirmed),
        interval: sampled.and(snapshot.interval),
        evidence: Evidence {
            verdict,
            losses,
            notes,
        },
        stacks: shown,
    }
}
