//! Growth mode: which of the pages on record are still there, and what of the mapped ranges. The
//! kernel side has recorded faults; what has become of the pages since, only the process's page
//! tables tell, so this looks while the process lives. Once it has ended, the last look has to do.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::mem;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

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

/// A page that has been gone for so long has not just moved.
const SURE: Duration = Duration::from_secs(1);

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
    /// Regions that pages have moved from or to.
    moved: MapData,
    chosen: Chosen,
    pages: Pages,
    pid: u32,
    /// Chosen pages that were there before.
    before: HashSet<u64>,
    /// Records of pages that were gone at the last look, by address and time; since when.
    gone: HashMap<(u64, u64), Instant>,
    /// Likewise those of huge pages of which only a part was there: its bytes.
    parts: HashMap<(u64, u64), u64>,
    /// What was mapped at the last look.
    mapped: Vec<(u64, u64)>,
    /// Of the last look.
    without_fault: u64,
}

/// What is there of a record.
struct Found {
    address: u64,
    bytes: u64,
    chance: u64,
}

impl Growth {
    /// Takes the maps of ranges and of moves.
    ///
    /// # Errors
    ///
    /// If the object is not ours, or the process's page map cannot be read.
    pub fn take(ebpf: &mut Ebpf, pid: u32, chosen: Chosen) -> Result<Self> {
        let mut take = |name| match ebpf.take_map(name) {
            Some(Map::HashMap(map)) => Ok(map),
            _ => bail!("the BPF object has no hash map {name}"),
        };
        Ok(Self {
            ranges: take("RANGES")?,
            moved: take("MOVED")?,
            chosen,
            pages: Pages::open(pid)?,
            pid,
            before: HashSet::new(),
            gone: HashMap::new(),
            parts: HashMap::new(),
            mapped: Vec::new(),
            without_fault: 0,
        })
    }

    /// Notes what is there already. Only after this, pages without a fault can be told.
    pub fn note_before(&mut self) {
        for start in self.own_regions() {
            let Some(region) = self
                .pages
                .region(start, |index| self.is_chosen(start, index))
            else {
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
        self.parts.clear();
        self.mapped.clear();
        self.without_fault = 0;
        Ok(())
    }

    /// Looks at each page on record, and takes those off it that have been gone for a second. A `thorough` look searches all memory for pages without a fault too.
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
        let moved = self.moved(space)?;
        let (mut found, mut gone, mut without) = (Vec::new(), Vec::new(), 0u64);
        let mut is_late = Mapping::read_all(self.pid).is_ok_and(|mappings| mappings.is_empty());
        let mut rest = &records[..];
        for &start in &regions {
            let until = rest.partition_point(|(at, _)| region_of(*at) <= start);
            let (mine, others) = rest.split_at(until);
            rest = others;
            let region = self.pages_of(start, mine).filter(|_| !is_late);
            let Some(region) = region else {
                is_late = true;
                continue;
            };
            let known = self.sort_out(start, &region, mine, &mut found, &mut gone);
            if !moved.contains(&start) {
                let chosen = self.chosen_pages(start, &region);
                without += chosen.filter(|page| !known.contains(page)).count() as u64;
            }
        }
        if is_late {
            // What was there at the last look still was, most probably; and what has come since.
            found.clear();
            found.extend(records.iter().filter_map(|(address, block)| {
                let record = (*address, block.time);
                let mut found = whole(*address, block);
                found.bytes = self.parts.get(&record).copied().unwrap_or(found.bytes);
                (!self.gone.contains_key(&record)).then_some((*block, found))
            }));
        } else {
            self.forget(maps, space, gone)?;
            let parts = found.iter().filter(|(block, it)| it.bytes < block.size);
            self.parts = parts
                .map(|(block, it)| ((it.address, block.time), it.bytes))
                .collect();
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

    /// Takes records off the map whose pages have been gone for a while. (Those that are just being moved seem to be
    /// gone, too, until they are on record at their new addresses.)
    fn forget(&mut self, maps: &Maps, space: u64, gone: Vec<(u64, u64)>) -> Result<()> {
        let now = Instant::now();
        let before = mem::take(&mut self.gone);
        for (address, time) in gone {
            let since = before.get(&(address, time)).copied().unwrap_or(now);
            if now - since >= SURE {
                forget(maps, BlockKey { address, space }, time)?;
            } else {
                self.gone.insert((address, time), since);
            }
        }
        Ok(())
    }

    /// Regions that pages have moved from or to. Which of those there should be on record, is not known here.
    fn moved(&self, space: u64) -> Result<HashSet<u64>> {
        let mut regions = HashSet::new();
        bpf::for_each(self.moved.fd().as_fd(), |key: &BlockKey, _: &[u64; 2]| {
            if key.space == space {
                regions.insert(key.address);
            }
        })
        .context("failed to read the map of moves")?;
        Ok(regions)
    }

    /// The pages of a region that have a record, or should have.
    fn pages_of(&self, start: u64, records: &[(u64, Block)]) -> Option<[Page; REGION_PAGES]> {
        let mut on_record = [false; REGION_PAGES];
        for (address, _) in records {
            match address & HUGE_MARK {
                0 => on_record[index_of(*address)] = true,
                _ => on_record = [true; REGION_PAGES],
            }
        }
        self.pages.region(start, |index| {
            on_record[index] || self.is_chosen(start, index)
        })
    }

    /// Whether a page of a region is recorded for its address.
    fn is_chosen(&self, start: u64, index: usize) -> bool {
        let Chosen { seed, shift, .. } = self.chosen;
        is_chosen(start + index as u64 * PAGE_BYTES, seed, shift)
    }

    /// Tells of the records of a region what is there of them; of those that are `gone` address and time. Returns the
    /// chosen pages that have one.
    fn sort_out(
        &self,
        start: u64,
        region: &[Page; REGION_PAGES],
        records: &[(u64, Block)],
        found: &mut Vec<(Block, Found)>,
        gone: &mut Vec<(u64, u64)>,
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
                gone.push((address, block.time));
                continue;
            }
            huge_time = block.time;
            let all = (0..REGION_PAGES as u64).map(|index| start + index * PAGE_BYTES);
            known.extend(all.filter(|at| region[index_of(*at)].may_be_huge));
            let part = Found {
                address,
                bytes,
                chance: CERTAIN,
            };
            found.push((block, part));
        }
        for (address, block) in pages {
            let page = region[index_of(address)];
            // It is a part of the huge page that has come since.
            let is_covered = block.time <= huge_time && page.may_be_huge;
            if page.is_there && !is_covered {
                found.push((block, whole(address, &block)));
            } else {
                gone.push((address, block.time));
            }
        }
        known
    }

    /// Chosen pages of a region that are there, and were not before.
    fn chosen_pages(&self, start: u64, region: &[Page; REGION_PAGES]) -> impl Iterator<Item = u64> {
        (0..REGION_PAGES)
            .filter(move |&index| region[index].is_there && self.is_chosen(start, index))
            .map(move |index| start + index as u64 * PAGE_BYTES)
            .filter(|page| !self.before.contains(page))
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

/// Takes a record of a page that has gone off the map, unless the page has come again.
fn forget(maps: &Maps, key: BlockKey, time: u64) -> Result<()> {
    let blocks = maps.blocks.fd().as_fd();
    let taken: Option<Block> = bpf::take(blocks, &key)
        .context("failed to take a page that has gone off the map of pages")?;
    match taken.filter(|block| block.time != time) {
        Some(block) => bpf::put(blocks, &key, &block).context("failed to put a page back"),
        None => Ok(()),
    }
}

fn region_of(address: u64) -> u64 {
    address & !(HUGE_BYTES - 1)
}

fn index_of(address: u64) -> usize {
    (address % HUGE_BYTES / PAGE_BYTES) as usize
}

fn whole(address: u64, block: &Block) -> Found {
    Found {
        address,
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
