//! Reads the maps of the kernel side into a [`Snapshot`].

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use aya::Ebpf;
use aya::maps::{Array, Map, MapData};
use leakprobe_common::{Block, BlockKey, Counter, StackKey, StackTotals};
use serde::Serialize;

use super::live::{ByAge, Lifetimes, Live, add_by_age};
use super::peak::{Moment, Peak, WholePeak};
use super::{Mapped, Totals};
use crate::bpf;
use crate::sampling::{Estimate, Interval, whole_blocks};

/// The maps to read.
pub struct Maps {
    pub(super) blocks: MapData,
    pub(super) stacks: MapData,
    pub(super) processes: Option<MapData>,
    counters: Array<MapData, u64>,
    /// A [`leakprobe_common::Peak`].
    peak: Array<MapData, [u64; 4]>,
}

/// What one stack has allocated and what of it lives.
#[derive(Clone, Debug)]
pub struct LiveStack {
    /// Which stack.
    pub key: StackKey,
    /// Its bytes and blocks.
    pub totals: Totals,
    /// Ages of its oldest and newest live block in nanoseconds; only when blocks were read.
    pub ages: Option<(u64, u64)>,
    /// Where its live figures truly lie; only of a sample, and when blocks were read.
    pub interval: Option<Interval>,
    /// The most that was live; not in growth mode.
    pub peak: Option<Peak>,
    /// How old its blocks become; not in growth mode.
    pub lifetimes: Option<Lifetimes>,
    /// In growth mode: what it has mapped.
    pub mapped: Option<Mapped>,
    /// What of it may have been freed unseen; only when blocks were read.
    pub unconfirmed: Unconfirmed,
    /// Whose the live blocks are, most bytes first; only if many processes are recorded.
    pub shares: Vec<Share>,
    /// Live bytes in blocks that are [`Ages::settle`] old and certainly there; only when blocks were read.
    pub settled_bytes: Option<u64>,
}

/// What of a stack's live blocks is in one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Its address space.
    pub space: u64,
    /// Bytes.
    pub bytes: u64,
    /// Blocks.
    pub count: u64,
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
    /// As of when, in ns of [`crate::clock::now`].
    pub now: u64,
    /// Younger ones are left out.
    pub min: Duration,
    /// Older ones than this moment may have been freed unseen.
    pub unseen: Option<u64>,
    /// Those that have lived so long are told apart.
    pub settle: Duration,
}

impl Ages {
    /// Blocks from before this moment have settled, as of now or of the end of their process.
    pub(super) fn settled_before(&self, end: Option<u64>) -> u64 {
        let settle = self.settle.as_nanos() as u64;
        end.unwrap_or(self.now).saturating_sub(settle)
    }
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
    /// The most that all stacks together had live; not in growth mode.
    pub peak: Option<WholePeak>,
    /// In growth mode: what is mapped.
    pub mapped: Option<Mapped>,
}

/// A block on record: address and block.
pub(super) type Record = (u64, Block);
/// A stack on record.
pub(super) type StackRecord = (StackKey, StackTotals);

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
            processes: match take("PROCESSES")? {
                Map::HashMap(processes) => Some(processes),
                _ => None,
            },
            counters: take("COUNTERS")?.try_into()?,
            peak: take("PEAK")?.try_into()?,
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
        let mut stacks: Vec<StackRecord> = Vec::new();
        bpf::for_each(
            self.stacks.fd().as_fd(),
            |key: &StackKey, totals: &StackTotals| {
                // Without a block: the map of blocks was full, which is counted.
                if key.program == space && totals.allocated_count > 0 {
                    stacks.push((*key, *totals));
                }
            },
        )
        .context("failed to read the map of stacks")?;
        let moment = self.peak(stacks.iter().map(|(_, totals)| totals))?;
        snapshot.peak = Some(moment.whole());
        for (key, totals) in &stacks {
            let rounded = sums(totals);
            snapshot.totals += rounded;
            snapshot.stacks.push(LiveStack {
                key: *key,
                totals: rounded,
                ages: None,
                interval: None,
                peak: Some(moment.of(totals)),
                lifetimes: Some(Lifetimes::new(totals, None)),
                mapped: None,
                unconfirmed: Unconfirmed::default(),
                shares: Vec::new(),
                settled_bytes: None,
            });
        }
        sort(&mut snapshot.stacks);
        Ok(snapshot)
    }

    /// Hands over what each stack has live, of whatever program: quicker than all there is to know of them.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn live(&self, mut each: impl FnMut(StackKey, Totals)) -> Result<()> {
        bpf::for_each(
            self.stacks.fd().as_fd(),
            |key: &StackKey, totals: &StackTotals| {
                if totals.allocated_count > 0 {
                    each(*key, sums(totals));
                }
            },
        )
        .context("failed to read the map of stacks")
    }

    /// Reads every live block as well, unless they were read already and are still the same: ages, and a check of
    /// the totals against them.
    ///
    /// # Errors
    ///
    /// If a map cannot be read.
    pub fn blocks(&self, space: u64, ages: Ages, read: Option<&LiveBlocks>) -> Result<Snapshot> {
        let Ages {
            now,
            min: min_age,
            unseen,
            ..
        } = ages;
        let settled = ages.settled_before(None);
        let latest = now.saturating_sub(min_age.as_nanos() as u64);
        let mut live: HashMap<u64, Live> = HashMap::new();
        let mut young: HashMap<u64, Live> = HashMap::new();
        let mut add = |block: &Block| {
            if block.time > latest && !min_age.is_zero() {
                return young
                    .entry(block.stack)
                    .or_default()
                    .add(block, now, None, 0);
            }
            let live = live.entry(block.stack).or_default();
            live.add(block, now, unseen, settled);
        };
        match read.filter(|it| it.space == space) {
            Some(read) => read.blocks.iter().for_each(|(_, block)| add(block)),
            None => self.each_block(space, |_, block| add(block))?,
        }

        let mut snapshot = self.totals(space)?;
        let mut sum = Estimate::default();
        snapshot.totals.live_bytes = 0;
        snapshot.totals.live_count = 0;
        for stack in &mut snapshot.stacks {
            let by_totals = stack.totals.live_count;
            let counted = live.get(&stack.key.id);
            let old = counted.map_or(Estimate::default(), |live| live.estimate);
            let mut all = old;
            let mut by_age = counted.map_or(ByAge::default(), |live| live.by_age);
            if let Some(young) = young.get(&stack.key.id) {
                all.merge(&young.estimate);
                add_by_age(&mut by_age, &young.by_age);
            }
            snapshot.unbalanced += by_totals.abs_diff(all.count());
            if let Some(lifetimes) = &mut stack.lifetimes {
                lifetimes.live = Some(by_age);
            }
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
            stack.ages = counted.map(|live| live.ages(now));
            stack.settled_bytes = Some(counted.map_or(0, |live| live.settled.bytes()));
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
                if key.program == space {
                    stacks.push((*key, *totals));
                }
            },
        )
        .context("failed to read the map of stacks")?;
        blocks.sort_unstable_by_key(|(address, _)| *address);
        Ok((blocks, stacks))
    }

    /// When the stacks with these totals had the most. To be asked after they were read: then none of them has
    /// changed in an epoch that is not known here.
    pub(super) fn peak<'a>(&self, stacks: impl Iterator<Item = &'a StackTotals>) -> Result<Moment> {
        let [live_bytes, bytes, time, epoch] =
            self.peak.get(&0, 0).context("failed to read the peak")?;
        let peak = leakprobe_common::Peak {
            live_bytes,
            bytes,
            time,
            epoch,
        };
        Ok(Moment::find(&peak, stacks))
    }

    /// Reads the live blocks of an address space, sorted by address.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn live_blocks(&self, space: u64) -> Result<LiveBlocks> {
        let mut blocks = Vec::new();
        self.each_block(space, |address, block| blocks.push((address, *block)))?;
        blocks.sort_unstable_by_key(|(address, _)| *address);
        Ok(LiveBlocks { space, blocks })
    }

    /// Calls `each` with the address of every live block of an address space, and the block.
    fn each_block(&self, space: u64, mut each: impl FnMut(u64, &Block)) -> Result<()> {
        bpf::for_each(self.blocks.fd().as_fd(), |key: &BlockKey, block: &Block| {
            if key.space == space {
                each(key.address, block);
            }
        })
        .context("failed to read the map of live blocks")
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

/// The live blocks of an address space.
pub struct LiveBlocks {
    /// Its number.
    pub space: u64,
    /// With their addresses, by which they are sorted.
    pub blocks: Vec<(u64, Block)>,
}

/// The figures of a stack on record.
fn sums(totals: &StackTotals) -> Totals {
    let live = totals.allocated_count.saturating_sub(totals.freed_count);
    let live_count = whole_blocks(live);
    let allocated_count = whole_blocks(totals.allocated_count);
    Totals {
        live_bytes: totals.allocated_bytes.saturating_sub(totals.freed_bytes),
        live_count,
        allocated_bytes: totals.allocated_bytes,
        allocated_count,
        freed_bytes: totals.freed_bytes,
        // Not rounded by itself, so that allocated is live plus freed.
        freed_count: allocated_count.saturating_sub(live_count),
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
