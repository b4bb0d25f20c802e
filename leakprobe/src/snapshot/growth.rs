//! Growth mode: which of the pages on record are still there, and what of the mapped ranges. The
//! kernel side has recorded faults; what has become of the pages since, only the process's page
//! tables tell, so this looks while the process lives. Once it has ended, the last look has to do.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::os::fd::AsFd;

use anyhow::{Context, Result, bail};
use aya::Ebpf;
use aya::maps::{Map, MapData};
use leakprobe_common::{
    Block, BlockKey, CERTAIN, HUGE_BYTES, HUGE_MARK, PAGE_BYTES, StackKey, StackTotals, is_chosen,
};

use super::ranges::{Range, left};
use super::reader::sort;
use super::{LiveStack, Mapped, Maps, Snapshot, Totals, Unconfirmed};
use crate::bpf;
use crate::probe::growth::Pages as Chosen;
use crate::sampling::{Estimate, whole_blocks};
use crate::target::Mapping;
use crate::target::pages::{Page, Pages, REGION_PAGES, own_ranges};

/// Regions of one mapping that are searched for pages without a fault: 64 GiB. Programs reserve more,
/// and use little of it.
const MOST_REGIONS: u64 = 1 << 15;

/// What was found at a look.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// Pages resident, by stack.
    pub snapshot: Snapshot,
    /// Pages that are there although no fault of them was seen, an estimate.
    pub without_fault: u64,
    /// Whether it is what an earlier look found, because the process is gone.
    pub is_late: bool,
}

/// What to look at.
pub struct Growth {
    ranges: MapData,
    chosen: Chosen,
    pages: Pages,
    pid: u32,
    /// Chosen pages that were there before.
    before: HashSet<u64>,
    /// Records of pages that were gone at the last look: address and time.
    gone: HashSet<(u64, u64)>,
    /// What was mapped at the last look.
    mapped: Vec<(u64, u64)>,
    /// Of the last look.
    without_fault: u64,
}

/// What is there of a record.
struct Found {
    bytes: u64,
    chance: u64,
}

impl Growth {
    /// Takes the map of ranges.
    ///
    /// # Errors
    ///
    /// If the object is not ours, or the process's page map cannot be read.
    pub fn take(ebpf: &mut Ebpf, pid: u32, chosen: Chosen) -> Result<Self> {
        let map = ebpf.take_map("RANGES");
        let Some(Map::HashMap(ranges)) = map else {
            bail!("the BPF object has no hash map RANGES");
        };
        Ok(Self {
            ranges,
            chosen,
            pages: Pages::open(pid)?,
            pid,
            before: HashSet::new(),
            gone: HashSet::new(),
            mapped: Vec::new(),
            without_fault: 0,
        })
    }

    /// Notes what is there already. Only after this, pages without a fault can be told.
    pub fn note_before(&mut self) {
        for start in self.own_regions() {
            let Some(region) = self.pages.region(start) else {
                return;
            };
            let there = self.chosen_pages(start, &region).collect::<Vec<_>>();
            self.before.extend(there);
        }
    }

    /// The process executes another program.
    ///
    /// # Errors
    ///
    /// If its page map cannot be opened.
    pub fn start_over(&mut self) -> Result<()> {
        self.pages = Pages::open(self.pid)?;
        self.before.clear();
        self.gone.clear();
        self.mapped.clear();
        self.without_fault = 0;
        Ok(())
    }

    /// Looks at each page on record. A `thorough` look searches all memory for pages without a fault too.
    /// Pages younger than `min_age` (nanoseconds, as of `now`) are left out.
    ///
    /// # Errors
    ///
    /// If a map cannot be read.
    pub fn look(
        &mut self,
        maps: &Maps,
        space: u64,
        thorough: bool,
        (min_age, now): (u64, u64),
    ) -> Result<Look> {
        let (records, stacks) = maps.all(space)?;
        let mut regions: BTreeSet<u64> = records.iter().map(|(at, _)| region_of(*at)).collect();
        if thorough {
            regions.extend(self.own_regions());
        }
        let (mut found, mut gone, mut without) = (Vec::new(), HashSet::new(), 0u64);
        let mut is_late = Mapping::read_all(self.pid).is_ok_and(|mappings| mappings.is_empty());
        let mut rest = &records[..];
        for &start in &regions {
            let until = rest.partition_point(|(at, _)| region_of(*at) <= start);
            let (mine, others) = rest.split_at(until);
            rest = others;
            match self.pages.region(start).filter(|_| !is_late) {
                Some(region) => {
                    let known = self.sort_out(start, &region, mine, &mut found, &mut gone);
                    let chosen = self.chosen_pages(start, &region);
                    without += chosen.filter(|page| !known.contains(page)).count() as u64;
                }
                None => is_late = true,
            }
        }
        if is_late {
            // What was there at the last look still was, most probably; and what has come since.
            found.clear();
            found.extend(records.iter().filter_map(|(address, block)| {
                let there = !self.gone.contains(&(*address, block.time));
                there.then_some((*block, whole(block)))
            }));
        } else {
            self.gone = gone;
            self.without_fault = match thorough {
                true => without << (self.chosen.shift & 63),
                false => self.without_fault.max(without << (self.chosen.shift & 63)),
            };
        }
        found.retain(|(block, _)| block.time.saturating_add(min_age) <= now);
        let ranges = self.ranges(space, is_late)?;
        let mut snapshot = summarize(&stacks, &found, &ranges, now);
        snapshot.counters = maps.counters()?;
        Ok(Look {
            snapshot,
            without_fault: self.without_fault,
            is_late,
        })
    }

    /// Tells of the records of a region what is there of them. Returns the chosen pages that have one.
    fn sort_out(
        &self,
        start: u64,
        region: &[Page; REGION_PAGES],
        records: &[(u64, Block)],
        found: &mut Vec<(Block, Found)>,
        gone: &mut HashSet<(u64, u64)>,
    ) -> HashSet<u64> {
        let (huge, pages): (Vec<_>, Vec<_>) = records
            .iter()
            .copied()
            .partition(|(at, _)| at & HUGE_MARK != 0);
        let mut known: HashSet<u64> = pages.iter().map(|(at, _)| *at).collect();
        let mut huge_time = 0;
        for (address, block) in huge {
            let there = region
                .iter()
                .filter(|page| page.is_there && page.may_be_huge);
            let bytes = there.count() as u64 * PAGE_BYTES;
            if bytes == 0 {
                gone.insert((address, block.time));
                continue;
            }
            huge_time = block.time;
            let all = (0..REGION_PAGES as u64).map(|index| start + index * PAGE_BYTES);
            known.extend(all.filter(|at| region[index_of(*at)].may_be_huge));
            let chance = CERTAIN;
            found.push((block, Found { bytes, chance }));
        }
        for (address, block) in pages {
            let page = region[index_of(address)];
            // It is a part of the huge page that has come since.
            let is_covered = block.time <= huge_time && page.may_be_huge;
            if page.is_there && !is_covered {
                found.push((block, whole(&block)));
            } else {
                gone.insert((address, block.time));
            }
        }
        known
    }

    /// Chosen pages of a region that are there, and were not before.
    fn chosen_pages(&self, start: u64, region: &[Page; REGION_PAGES]) -> impl Iterator<Item = u64> {
        let Chosen { seed, shift, .. } = self.chosen;
        (0..REGION_PAGES)
            .filter(|&index| region[index].is_there)
            .map(move |index| start + index as u64 * PAGE_BYTES)
            .filter(move |&page| is_chosen(page, seed, shift) && !self.before.contains(&page))
    }

    /// Regions in which the process has memory of its own.
    fn own_regions(&self) -> BTreeSet<u64> {
        let ranges = own_ranges(self.pid);
        let ranges = ranges
            .iter()
            .filter(|(start, end)| (end - start) / HUGE_BYTES <= MOST_REGIONS);
        ranges
            .flat_map(|(start, end)| (region_of(*start)..*end).step_by(HUGE_BYTES as usize))
            .collect()
    }

    /// What is left of the mapped ranges, by stack.
    fn ranges(&mut self, space: u64, is_late: bool) -> Result<HashMap<u64, Mapped>> {
        if !is_late {
            let mappings = Mapping::read_all(self.pid).unwrap_or_default();
            let own = mappings.iter().filter(|mapping| mapping.inode == 0);
            self.mapped = own.map(|mapping| (mapping.start, mapping.end)).collect();
        }
        let mut ranges = Vec::new();
        bpf::for_each(self.ranges.fd().as_fd(), |key: &BlockKey, block: &Block| {
            if key.space == space {
                ranges.push(Range {
                    start: key.address,
                    size: block.size,
                    time: block.time,
                    stack: block.stack,
                });
            }
        })
        .context("failed to read the map of ranges")?;
        let mut by_stack: HashMap<u64, Mapped> = HashMap::new();
        for (range, bytes) in left(ranges, &self.mapped) {
            *by_stack.entry(range.stack).or_default() += Mapped { bytes, count: 1 };
        }
        Ok(by_stack)
    }
}

fn region_of(address: u64) -> u64 {
    address & !(HUGE_BYTES - 1)
}

fn index_of(address: u64) -> usize {
    (address % HUGE_BYTES / PAGE_BYTES) as usize
}

fn whole(block: &Block) -> Found {
    Found {
        bytes: block.size,
        chance: block.chance,
    }
}

/// Adds up by stack.
fn summarize(
    stacks: &[(StackKey, StackTotals)],
    found: &[(Block, Found)],
    ranges: &HashMap<u64, Mapped>,
    now: u64,
) -> Snapshot {
    struct Live {
        estimate: Estimate,
        oldest: u64,
        newest: u64,
    }
    let mut live: HashMap<u64, Live> = HashMap::new();
    for (block, found) in found {
        let stack = live.entry(block.stack).or_insert(Live {
            estimate: Estimate::default(),
            oldest: u64::MAX,
            newest: 0,
        });
        stack.estimate.add(found.bytes, found.chance);
        stack.oldest = stack.oldest.min(block.time);
        stack.newest = stack.newest.max(block.time);
    }
    let mut snapshot = Snapshot::default();
    let (mut sum, mut mapped) = (Estimate::default(), Mapped::default());
    for (key, totals) in stacks {
        let live = live.get(&key.id);
        let stack_mapped = ranges.get(&key.id).copied();
        mapped += stack_mapped.unwrap_or_default();
        if totals.allocated_count == 0 && stack_mapped.is_none() {
            continue;
        }
        let estimate = live.map_or(Estimate::default(), |live| live.estimate);
        sum.merge(&estimate);
        // At least what is there: another fault may have come between the reads.
        let allocated_bytes = totals.allocated_bytes.max(estimate.bytes());
        let allocated_count = whole_blocks(totals.allocated_count).max(estimate.count());
        let totals = Totals {
            live_bytes: estimate.bytes(),
            live_count: estimate.count(),
            allocated_bytes,
            allocated_count,
            freed_bytes: allocated_bytes - estimate.bytes(),
            freed_count: allocated_count - estimate.count(),
        };
        snapshot.totals += totals;
        snapshot.stacks.push(LiveStack {
            shares: Vec::new(),
            settled_bytes: None,
            key: *key,
            totals,
            ages: live.map(|live| {
                let age = |time| now.saturating_sub(time);
                (age(live.oldest), age(live.newest))
            }),
            interval: live.map(|live| live.estimate.interval()),
            peak: None,
            lifetimes: None,
            mapped: stack_mapped,
            unconfirmed: Unconfirmed::default(),
        });
    }
    snapshot.interval = Some(sum.interval());
    snapshot.mapped = Some(mapped);
    sort(&mut snapshot.stacks);
    snapshot
}
