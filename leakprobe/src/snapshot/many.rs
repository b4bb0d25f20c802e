//! Reads the maps when many processes are recorded: by stack, and of each stack by process. What processes
//! leave that have ended is taken out of the maps, into sums; else there would be no room for those that
//! come.

use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd;

use anyhow::{Context, Result};
use leakprobe_common::{Block, BlockKey, ProcessState, StackKey, StackTotals};

use super::Totals;
use super::live::{ByAge, Lifetimes, Live, add_by_age};
use super::peak::{Moment, add};
use super::reader::{Ages, LiveStack, Maps, Share, Snapshot, Unconfirmed, sort};
use super::stacks::Stacks;
use crate::bpf;
use crate::sampling::{Estimate, whole_blocks};

/// What is left of processes that have ended.
#[derive(Default)]
pub struct Remains {
    /// Totals of stacks of programs of which no process is left.
    totals: HashMap<StackKey, StackTotals>,
    /// Blocks by stack and address space.
    live: HashMap<StackKey, HashMap<u64, Live>>,
    /// Those that were too young to count when their process ended.
    young: HashMap<StackKey, Live>,
}

/// The address spaces that there are.
pub type Spaces = HashMap<u64, Space>;

/// An address space.
#[derive(Clone, Copy, Debug)]
pub struct Space {
    /// Number of its program.
    pub program: u64,
    /// When it went, if it has.
    pub end: Option<u64>,
    /// Whether it is told by itself.
    pub is_listed: bool,
}

/// Stands for all address spaces that are told together.
const UNLISTED: u64 = 0;

impl Space {
    /// One that is there.
    pub fn of(program: u64) -> Self {
        Self {
            program,
            end: None,
            is_listed: true,
        }
    }

    /// Under which number its blocks are told.
    fn share(&self, number: u64) -> u64 {
        if self.is_listed { number } else { UNLISTED }
    }
}

/// Whether a block is too young to count, as of now or of the end of its process.
fn is_young(block: &Block, end: Option<u64>, ages: Ages) -> bool {
    let latest = end
        .unwrap_or(ages.now)
        .saturating_sub(ages.min.as_nanos() as u64);
    block.time > latest && !ages.min.is_zero()
}

impl Maps {
    /// The processes as the kernel side knows them now.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn processes(&self) -> Result<Vec<ProcessState>> {
        let mut processes = Vec::new();
        let Some(map) = &self.processes else {
            return Ok(processes);
        };
        bpf::for_each(map.fd().as_fd(), |_: &u32, state: &ProcessState| {
            processes.push(*state);
        })
        .context("failed to read the map of processes")?;
        Ok(processes)
    }

    /// Takes out of the maps what address spaces and programs have left that are gone.
    ///
    /// # Errors
    ///
    /// If a map cannot be read or written.
    pub fn bury(
        &self,
        spaces: &Spaces,
        programs: &HashSet<u64>,
        ages: Ages,
        stacks: &mut Stacks,
        remains: &mut Remains,
    ) -> Result<()> {
        let mut keys = Vec::new();
        bpf::for_each(self.blocks.fd().as_fd(), |key: &BlockKey, block: &Block| {
            if let Some(space @ Space { end: Some(_), .. }) = spaces.get(&key.space) {
                let stack = StackKey {
                    id: block.stack,
                    program: space.program,
                };
                keys.push(*key);
                let end = space.end.unwrap_or(ages.now);
                if is_young(block, space.end, ages) {
                    let young = remains.young.entry(stack).or_default();
                    return young.add(block, end, None, 0);
                }
                let of_stack = remains.live.entry(stack).or_default();
                let of_space = of_stack.entry(space.share(key.space)).or_default();
                // Its process is gone: it settles no more.
                of_space.add(block, end, None, 0);
            }
        })
        .context("failed to read the map of live blocks")?;
        bpf::remove(self.blocks.fd().as_fd(), &keys)
            .context("failed to remove blocks of processes that have ended")?;
        if programs.is_empty() {
            return Ok(());
        }
        let mut keys = Vec::new();
        bpf::for_each(
            self.stacks.fd().as_fd(),
            |key: &StackKey, totals: &StackTotals| {
                if programs.contains(&key.program) {
                    add(remains.totals.entry(*key).or_default(), totals);
                    keys.push(*key);
                }
            },
        )
        .context("failed to read the map of stacks")?;
        bpf::remove(self.stacks.fd().as_fd(), &keys)
            .context("failed to remove stacks of programs that have ended")?;
        for key in keys {
            let alike = stacks.bury(key);
            if let Some(totals) = remains.totals.remove(&key) {
                add(remains.totals.entry(alike).or_default(), &totals);
            }
            if let Some(young) = remains.young.remove(&key) {
                remains.young.entry(alike).or_default().merge(&young);
            }
            for (space, live) in remains.live.remove(&key).into_iter().flatten() {
                let of_stack = remains.live.entry(alike).or_default();
                of_stack.entry(space).or_default().merge(&live);
            }
        }
        Ok(())
    }

    /// What each stack has live, those with the same frames as one, of whatever program; what ended processes
    /// have left included.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn live_of_many(
        &self,
        stacks: &mut Stacks,
        remains: &Remains,
    ) -> Result<HashMap<StackKey, u64>> {
        let mut live: HashMap<StackKey, u64> = HashMap::new();
        self.live(|key, totals| {
            *live.entry(stacks.alike(key)).or_default() += totals.live_bytes;
        })?;
        for (key, totals) in &remains.totals {
            let left = totals.allocated_bytes.saturating_sub(totals.freed_bytes);
            *live.entry(stacks.alike(*key)).or_default() += left;
        }
        Ok(live)
    }

    /// What is there of all processes, those that have ended included. Stacks with the same frames
    /// are one, whatever program they are of.
    ///
    /// # Errors
    ///
    /// If a map cannot be read.
    pub fn many(
        &self,
        spaces: &Spaces,
        ages: Ages,
        stacks: &mut Stacks,
        remains: &Remains,
    ) -> Result<Snapshot> {
        let mut snapshot = Snapshot {
            counters: self.counters()?,
            ..Snapshot::default()
        };
        let mut live = remains.live.clone();
        let mut young = remains.young.clone();
        bpf::for_each(self.blocks.fd().as_fd(), |key: &BlockKey, block: &Block| {
            let Some(space) = spaces.get(&key.space) else {
                return; // of a child that came just now
            };
            let stack = StackKey {
                id: block.stack,
                program: space.program,
            };
            let end = space.end.unwrap_or(ages.now);
            if is_young(block, space.end, ages) {
                let young = young.entry(stack).or_default();
                return young.add(block, end, None, 0);
            }
            let of_stack = live.entry(stack).or_default();
            let of_space = of_stack.entry(space.share(key.space)).or_default();
            of_space.add(block, end, ages.unseen, ages.settled_before(space.end));
        })
        .context("failed to read the map of live blocks")?;
        let mut totals = remains.totals.clone();
        bpf::for_each(
            self.stacks.fd().as_fd(),
            |key: &StackKey, more: &StackTotals| {
                add(totals.entry(*key).or_default(), more);
            },
        )
        .context("failed to read the map of stacks")?;

        let mut rows: HashMap<StackKey, Row> = HashMap::new();
        for (key, totals) in totals {
            if totals.allocated_count == 0 {
                continue; // without a block: the map of blocks was full, which is counted
            }
            let row = rows.entry(stacks.alike(key)).or_default();
            add(&mut row.totals, &totals);
            let of_stack = live.remove(&key).unwrap_or_default();
            let mut counted = young.get(&key).copied().unwrap_or_default();
            add_by_age(&mut row.young, &counted.by_age);
            for (space, live) in of_stack {
                counted.merge(&live);
                row.live.entry(space).or_default().merge(&live);
            }
            let by_totals = totals.allocated_count.saturating_sub(totals.freed_count);
            snapshot.unbalanced += whole_blocks(by_totals).abs_diff(counted.estimate.count());
        }
        let moment = self.peak(rows.values().map(|row| &row.totals))?;
        snapshot.peak = Some(moment.whole());
        let mut sum = Estimate::default();
        for (key, row) in rows {
            let stack = row.stack(key, ages.now, &moment, &mut sum);
            snapshot.totals += stack.totals;
            let unconfirmed = &mut snapshot.unconfirmed;
            unconfirmed.unconfirmed_bytes += stack.unconfirmed.unconfirmed_bytes;
            unconfirmed.unconfirmed_count += stack.unconfirmed.unconfirmed_count;
            snapshot.stacks.push(stack);
        }
        snapshot.interval = Some(sum.interval());
        sort(&mut snapshot.stacks);
        Ok(snapshot)
    }
}

/// A stack, of all programs.
#[derive(Default)]
struct Row {
    totals: StackTotals,
    live: HashMap<u64, Live>,
    /// Bytes in blocks that are too young to count.
    young: ByAge,
}

impl Row {
    fn stack(self, key: StackKey, now: u64, moment: &Moment, sum: &mut Estimate) -> LiveStack {
        let mut all = Live::default();
        let mut shares: Vec<Share> = Vec::new();
        for (space, live) in &self.live {
            all.merge(live);
            shares.push(Share {
                space: *space,
                bytes: live.estimate.bytes(),
                count: live.estimate.count(),
            });
        }
        shares.sort_unstable_by_key(|share| (std::cmp::Reverse(share.bytes), share.space));
        sum.merge(&all.estimate);
        let allocated_count = whole_blocks(self.totals.allocated_count);
        let not_freed = self
            .totals
            .allocated_count
            .saturating_sub(self.totals.freed_count);
        let is_live = !self.live.is_empty();
        let mut by_age = self.young;
        add_by_age(&mut by_age, &all.by_age);
        LiveStack {
            key,
            totals: Totals {
                live_bytes: all.estimate.bytes(),
                live_count: all.estimate.count(),
                allocated_bytes: self.totals.allocated_bytes,
                allocated_count,
                freed_bytes: self.totals.freed_bytes,
                freed_count: allocated_count.saturating_sub(whole_blocks(not_freed)),
            },
            ages: is_live.then(|| all.ages(now)),
            interval: is_live.then(|| all.estimate.interval()),
            peak: Some(moment.of(&self.totals)),
            lifetimes: Some(Lifetimes::new(&self.totals, Some(by_age))),
            mapped: None,
            unconfirmed: Unconfirmed {
                unconfirmed_bytes: all.unconfirmed.bytes(),
                unconfirmed_count: all.unconfirmed.count(),
            },
            shares,
            settled_bytes: Some(all.settled.bytes()),
        }
    }
}
