//! The figures of a comparison, and their text.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;

/// What came out of one target.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Samples whose stack the oracle followed to the thread's start, or for as many frames as
    /// leakprobe records.
    pub samples: u64,
    /// Different stacks of those; each is compared once.
    pub stacks: u64,
    /// Those that the report has exactly so.
    pub equal_stacks: u64,
    /// Frames of the longer one of each pair.
    pub frames: u64,
    /// Those that are equal.
    pub equal_frames: u64,
    /// Different stacks that the oracle could not finish.
    pub gave_up: u64,
    /// Those of them that are the beginning of a stack in the report.
    pub gave_up_agrees: u64,
    /// Why the oracle could not finish, with the number of different stacks.
    pub reasons: BTreeMap<String, u64>,
    /// Samples inside of another allocator call, which leakprobe does not record on their own.
    pub nested: u64,
    /// Samples that were lost.
    pub lost: u64,
    /// Live bytes in the report, and those on stacks that end at a thread's start.
    pub live_bytes: u64,
    /// See there.
    pub whole_bytes: u64,
    /// The other live bytes, by how the report says their stacks end.
    pub cut_bytes: BTreeMap<String, u64>,
    /// Mismatches by what stands first where the two part: the oracle's frame and the report's.
    pub mismatches: BTreeMap<String, Mismatch>,
}

/// Stacks that differ at the same place.
#[derive(Clone, Debug, Default)]
pub struct Mismatch {
    /// How many.
    pub stacks: u64,
    /// Frames that are not equal in them.
    pub frames: u64,
    /// One of them: the oracle's stack and the report's, from two frames before the place on.
    pub example: String,
}

impl Outcome {
    /// Adds the figures of another program, without what is only of interest there.
    pub fn add(&mut self, other: &Outcome) {
        self.samples += other.samples;
        self.stacks += other.stacks;
        self.equal_stacks += other.equal_stacks;
        self.frames += other.frames;
        self.equal_frames += other.equal_frames;
        self.gave_up += other.gave_up;
        self.gave_up_agrees += other.gave_up_agrees;
        self.nested += other.nested;
        self.lost += other.lost;
        self.live_bytes += other.live_bytes;
        self.whole_bytes += other.whole_bytes;
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |part: u64, whole: u64| 100.0 * part as f64 / whole.max(1) as f64;
        write!(
            f,
            "{} stacks ({} equal) of {} samples ({} lost, {} nested), {} frames, {:.3} % equal; \
             oracle gave up on {} ({} agree so far); {:.3} % of {} live bytes whole",
            self.stacks,
            self.equal_stacks,
            self.samples,
            self.lost,
            self.nested,
            self.frames,
            percent(self.equal_frames, self.frames),
            self.gave_up,
            self.gave_up_agrees,
            percent(self.whole_bytes, self.live_bytes),
            self.live_bytes,
        )?;
        for (reason, count) in most(&self.reasons, |count| *count) {
            write!(f, "\n   gave up on {count}: {reason}")?;
        }
        for (end, bytes) in most(&self.cut_bytes, |bytes| *bytes) {
            write!(f, "\n   {bytes} live bytes end with {end}")?;
        }
        for (place, mismatch) in most(&self.mismatches, |mismatch| mismatch.frames) {
            let Mismatch {
                stacks,
                frames,
                example,
            } = mismatch;
            write!(
                f,
                "\n   {stacks} stacks, {frames} frames {place}\n    {example}"
            )?;
        }
        Ok(())
    }
}

/// The largest few.
fn most<V>(map: &BTreeMap<String, V>, size: impl Fn(&V) -> u64) -> Vec<(&String, &V)> {
    let mut list: Vec<_> = map.iter().collect();
    list.sort_by_key(|(_, value)| Reverse(size(value)));
    list.truncate(12);
    list
}
