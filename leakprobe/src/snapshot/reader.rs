//! Reads the maps of the kernel side into a [`Snapshot`].

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use aya::Ebpf;
use aya::maps::{Array, Map, MapData};
use leakprobe_common::{Block, BlockKey, Counter, StackKey, StackTotals};
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;

use super::{Mapped, Totals};
use crate::bpf;
use crate::sampling::{Estimate, Interval, whole_blocks};

/// The maps to read.
pub struct Maps {
    blocks: MapData,
    stacks: MapData,
    counters: Array<MapData, u64>,
}

/// What one stack has allocated and what of it lives.
#[derive(Clone, Copy, Debug)]
pub struct LiveStack {
    /// Which stack.
    pub key: StackKey,
    /// Its bytes and blocks.
    pub totals: Totals,
    /// Ages of its oldest and newest live block in nanoseconds; only when blocks were read.
    pub ages: Option<(u64, u64)>,
    /// Where its live figures truly lie; only of a sample, and when blocks were read.
    pub interval: Option<Interval>,
    /// In growth mode: what it has mapped.
    pub mapped: Option<Mapped>,
    /// What of it may have been freed unseen; only when blocks were read.
    pub unconfirmed: Unconfirmed,
}

/// Live blocks from before a time without probes: they may have been freed in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Unconfirmed {
    /// Bytes.
    pub unconfirmed_bytes: u64,
    /// Blocks.
    pub unconfirmed_count: u64,
}

/// Which of the live blocks count.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ages {
    /// As of when ([`now`]).
    pub now: u64,
    /// Younger ones are left out.
    pub min: Duration,
    /// Older ones than this moment may have been freed unseen.
    pub unseen: Option<u64>,
}

/// The maps' contents at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Stacks of the current address space, most live bytes first.
    pub stacks: Vec<LiveStack>,
    /// Their sum.
    pub totals: Totals,
    /// Where the sum of the live figures truly lies; only of a sample, and when blocks were read.
    pub interval: Option<Interval>,
    /// Sum of what may have been freed unseen; only when blocks were read.
    pub unconfirmed: Unconfirmed,
    /// Counts by counter id.
    pub counters: Vec<(Counter, u64)>,
    /// Blocks that are on record but not in their stack's totals, or the other way round.
    pub unbalanced: u64,
    /// In growth mode: what is mapped.
    pub mapped: Option<Mapped>,
}

/// A block on record: address and block.
pub(super) type Record = (u64, Block);
/// A stack on record.
pub(super) type StackRecord = (StackKey, StackTotals);

/// Live bytes and blocks of one stack, and when its oldest and newest block were given out.
#[derive(Clone, Copy)]
struct Live {
    estimate: Estimate,
    unconfirmed: Estimate,
    oldest: u64,
    newest: u64,
}

impl Maps {
    /// Takes the maps out of a loaded object.
    ///
    /// # Errors
    ///
    /// If the object is not ours.
    pub fn take(ebpf: &mut Ebpf) -> Result<Self> {
        let mut take = |name| {
            ebpf.take_map(name)
                .with_context(|| format!("the BPF object has no map {name}"))
        };
        let (Map::HashMap(blocks), Map::HashMap(stacks)) = (take("BLOCKS")?, take("STACKS")?)
        else {
            bail!("BLOCKS and STACKS of the BPF object are no hash maps");
        };
        Ok(Self {
            blocks,
            stacks,
            counters: take("COUNTERS")?.try_into()?,
        })
    }

    /// Reads totals by stack only: quick, however many blocks live.
    ///
    /// # Errors
    ///
    /// If a map cannot be read.
    pub fn totals(&self, space: u64) -> Result<Snapshot> {
        let mut snapshot = Snapshot {
            counters: self.counters()?,
            ..Snapshot::default()
        };
        bpf::for_each(
            self.stacks.fd().as_fd(),
            |key: &StackKey, totals: &StackTotals| {
                // Without a block: the map of blocks was full, which is counted.
                if key.space == space && totals.allocated_count > 0 {
                    let live = totals.allocated_count.saturating_sub(totals.freed_count);
                    let live_count = whole_blocks(live);
                    let allocated_count = whole_blocks(totals.allocated_count);
                    let totals = Totals {
                        live_bytes: totals.allocated_bytes.saturating_sub(totals.freed_bytes),
                        live_count,
                        allocated_bytes: totals.allocated_bytes,
                        allocated_count,
                        freed_bytes: totals.freed_bytes,
                        // Not rounded by itself, so that allocated is live plus freed.
                        freed_count: allocated_count.saturating_sub(live_count),
                    };
                    snapshot.totals += totals;
                    snapshot.stacks.push(LiveStack {
                        key: *key,
                        totals,
                        ages: None,
                        interval: None,
                        mapped: None,
                        unconfirmed: Unconfirmed::default(),
                    });
                }
            },
        )
        .context("failed to read the map of stacks")?;
        sort(&mut snapshot.stacks);
        Ok(snapshot)
    }

    /// Reads every live block as well: ages, and a check of the totals against them.
    ///
    /// # Errors
    ///
    /// If a map cannot be read.
    pub fn blocks(&self, space: u64, ages: Ages) -> Result<Snapshot> {
        let Ages {
            now,
            min: min_age,
            unseen,
        } = ages;
        let latest = now.saturating_sub(min_age.as_nanos() as u64);
        let mut live: HashMap<u64, Live> = HashMap::new();
        let mut young: HashMap<u64, Estimate> = HashMap::new();
        bpf::for_each(self.blocks.fd().as_fd(), |key: &BlockKey, block: &Block| {
            if key.space != space {
                return;
            }
            if block.time > latest && !min_age.is_zero() {
                young
                    .entry(block.stack)
                    .or_default()
                    .add(block.size, block.chance);
                return;
            }
            let stack = live.entry(block.stack).or_insert(Live {
                estimate: Estimate::default(),
                unconfirmed: Estimate::default(),
                oldest: u64::MAX,
                newest: 0,
            });
            stack.estimate.add(block.size, block.chance);
            if unseen.is_some_and(|unseen| block.time < unseen) {
                stack.unconfirmed.add(block.size, block.chance);
            }
            stack.oldest = stack.oldest.min(block.time);
            stack.newest = stack.newest.max(block.time);
        })
        .context("failed to read the map of live blocks")?;

        let mut snapshot = self.totals(space)?;
        let mut sum = Estimate::default();
        snapshot.totals.live_bytes = 0;
        snapshot.totals.live_count = 0;
        for stack in &mut snapshot.stacks {
            let by_totals = stack.totals.live_count;
            let counted = live.get(&stack.key.id);
            let old = counted.map_or(Estimate::default(), |live| live.estimate);
            let mut all = old;
            if let Some(young) = young.get(&stack.key.id) {
                all.merge(young);
            }
            snapshot.unbalanced += by_totals.abs_diff(all.count());
            stack.totals.live_bytes = old.bytes();
            stack.totals.live_count = old.count();
            stack.interval = counted.map(|live| live.estimate.interval());
            sum.merge(&old);
            if let Some(live) = counted {
                stack.unconfirmed = Unconfirmed {
                    unconfirmed_bytes: live.unconfirmed.bytes(),
                    unconfirmed_count: live.unconfirmed.count(),
                };
                snapshot.unconfirmed.unconfirmed_bytes += stack.unconfirmed.unconfirmed_bytes;
                snapshot.unconfirmed.unconfirmed_count += stack.unconfirmed.unconfirmed_count;
            }
            stack.ages = counted.map(|live| {
                (
                    now.saturating_sub(live.oldest),
                    now.saturating_sub(live.newest),
                )
            });
            snapshot.totals.live_bytes += stack.totals.live_bytes;
            snapshot.totals.live_count += stack.totals.live_count;
        }
        snapshot.interval = Some(sum.interval());
        sort(&mut snapshot.stacks);
        Ok(snapshot)
    }

    /// Reads the blocks of an address space, sorted by address, and the totals of all its stacks, also of
    /// those without a block.
    pub(super) fn all(&self, space: u64) -> Result<(Vec<Record>, Vec<StackRecord>)> {
        let (mut blocks, mut stacks) = (Vec::new(), Vec::new());
        bpf::for_each(self.blocks.fd().as_fd(), |key: &BlockKey, block: &Block| {
            if key.space == space {
                blocks.push((key.address, *block));
            }
        })
        .context("failed to read the map of live blocks")?;
        bpf::for_each(
            self.stacks.fd().as_fd(),
            |key: &StackKey, totals: &StackTotals| {
                if key.space == space {
                    stacks.push((*key, *totals));
                }
            },
        )
        .context("failed to read the map of stacks")?;
        blocks.sort_unstable_by_key(|(address, _)| *address);
        Ok((blocks, stacks))
    }

    pub(super) fn counters(&self) -> Result<Vec<(Counter, u64)>> {
        Counter::ALL
            .iter()
            .map(|&counter| {
                let count = self.counters.get(&(counter as u32), 0);
                Ok((counter, count.context("failed to read the counters")?))
            })
            .collect()
    }
}

/// Most live bytes first; the id makes the order the same every time.
pub(super) fn sort(stacks: &mut [LiveStack]) {
    stacks.sort_unstable_by_key(|stack| {
        (
            std::cmp::Reverse((stack.totals.live_bytes, stack.totals.allocated_bytes)),
            stack.key.id,
        )
    });
}

/// Nanoseconds on the clock of the kernel side: `bpf_ktime_get_ns` is `CLOCK_MONOTONIC`.
///
/// # Errors
///
/// If there is no such clock.
pub fn now() -> Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).context("failed to read the clock")?;
    Ok(now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
}
