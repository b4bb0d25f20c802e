//! The most that was live, and the ages at which blocks are freed.

/// All that is live, of all stacks and processes, and the most that it was.
///
/// An epoch begins whenever that rises above what it was before. A stack that changes for the first time in an
/// epoch saves what it had live, so that afterwards it is known of each stack, without a look at all of
/// them in between: of one that has not changed since, it is what it has live now.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Peak {
    /// Bytes live, without what the CPUs have not moved here yet: less than [`PEAK_GRAIN`] of each, more or
    /// less. A negative number when more is freed than was allocated, which that can make it seem.
    pub live_bytes: u64,
    /// The most that it was.
    pub bytes: u64,
    /// `CLOCK_MONOTONIC` nanoseconds when it was that; 0 if nothing has come here yet.
    pub time: u64,
    /// Number of the epoch, which began at that time. 0: nothing was live.
    pub epoch: u64,
}

/// Bytes by which what is live has to change on a CPU before the others are told.
pub const PEAK_GRAIN: u64 = 64 << 10;

/// Classes of age of a block when it is freed, besides the oldest.
pub const AGES: usize = 4;

/// Where each of them ends, nanoseconds: 1 s, 10 s, 1 min, 10 min.
pub const AGES_NS: [u64; AGES] = [
    1_000_000_000,
    10_000_000_000,
    60_000_000_000,
    600_000_000_000,
];

/// Class of an age in nanoseconds; [`AGES`] for all that are older than the last.
#[inline(always)]
pub const fn age_class(age: u64) -> usize {
    if age < AGES_NS[0] {
        0
    } else if age < AGES_NS[1] {
        1
    } else if age < AGES_NS[2] {
        2
    } else if age < AGES_NS[3] {
        3
    } else {
        AGES
    }
}
