//! Where mallocng (musl since 1.2.1) keeps its books: pages of descriptions, one for each group of slots.
//!
//! Nothing says where they are. A block leads to its group, the group to its description, whose page begins with a number
//! that is random, and the same on all of them. Without a known block, pages are looked for whose
//! descriptions and groups point to each other.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use leakprobe_common::PAGE_BYTES;

use crate::target::heaps::LiveBlock;
use crate::target::heaps::memory::Memory;
use crate::target::heaps::space::Space;

// Layout of `struct meta_area` and `struct meta`.
const AREA_HEADER: u64 = 24;
const META: u64 = 40;
const MAX_METAS: u64 = (PAGE_BYTES - AREA_HEADER) / META;

/// Known blocks that are looked at, until enough of them have led to a page.
const MAX_TRIES: usize = 4096;
const ENOUGH: u64 = 64;
/// Pages of each mapping that are searched: of `brk`, and of any other.
const BRK_PAGES: u64 = 16384;
const FIRST_PAGES: u64 = 2;
/// Most pages of descriptions.
const MAX_AREAS: usize = 1 << 16;

/// What a description says of its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Where it is.
    pub address: u64,
    /// The group; 0 if there is none.
    pub group: u64,
    /// Its neighbours in a ring; 0 if it is in none.
    pub ring: [u64; 2],
    /// A bit for each slot that can be given out.
    pub available: u32,
    /// A bit for each slot that was freed, or never given out.
    pub freed: u32,
    /// Its last slot.
    pub last: u32,
    /// Its class of sizes.
    pub class: u32,
    /// Pages of its own mapping; 0 if it is in a slot of another group, or was donated.
    pub pages: u64,
}

/// A page of descriptions, as it was read.
type Area = [u8; PAGE_BYTES as usize];

/// The descriptions of all groups, by the pages they are on.
#[derive(Debug, Default)]
pub struct Areas {
    /// Addresses of the pages.
    pub pages: BTreeSet<u64>,
    /// Descriptions with a group.
    pub metas: Vec<Meta>,
}

impl Areas {
    /// Finds them.
    pub fn find(memory: &mut Memory, space: &Space, live: &[LiveBlock]) -> Self {
        let (check, mut found) = match by_blocks(memory, live) {
            Some(found) => found,
            None => match by_looks(memory, space) {
                Some(check) => (check, Vec::new()),
                None => return Self::default(),
            },
        };
        for page in candidates(space) {
            if memory.is_over() {
                break;
            }
            if memory
                .bytes(page)
                .is_ok_and(|word| u64::from_le_bytes(word) == check)
            {
                found.push(page);
            }
        }
        let mut areas = Self::default();
        let mut seen = BTreeSet::new();
        while let Some(page) = found.pop() {
            if page % PAGE_BYTES != 0 || !seen.insert(page) || seen.len() > MAX_AREAS {
                continue;
            }
            let mut bytes: Area = [0; PAGE_BYTES as usize];
            if memory.peek(page, &mut bytes).is_err() || word(&bytes, 0) != check {
                continue;
            }
            areas.pages.insert(page);
            found.push(word(&bytes, 8));
            for meta in metas(&bytes, page) {
                let rings = meta.ring.into_iter().filter(|&meta| meta != 0);
                found.extend(rings.map(page_of).filter(|&other| other != page));
                if meta.group != 0 {
                    areas.metas.push(meta);
                }
            }
        }
        areas
    }
}

/// Reads a description once more.
pub fn again(memory: &mut Memory, address: u64) -> Option<Meta> {
    let mut bytes = [0; META as usize];
    memory.peek(address, &mut bytes).ok()?;
    Some(meta(&bytes, address))
}

fn page_of(address: u64) -> u64 {
    address - address % PAGE_BYTES
}

fn is_meta(address: u64) -> bool {
    let within = address % PAGE_BYTES;
    within >= AREA_HEADER
        && (within - AREA_HEADER).is_multiple_of(META)
        && (within - AREA_HEADER) / META < MAX_METAS
}

fn metas(bytes: &Area, page: u64) -> impl Iterator<Item = Meta> {
    (0..MAX_METAS).map(move |index| {
        let at = (AREA_HEADER + index * META) as usize;
        meta(&bytes[at..at + META as usize], page + at as u64)
    })
}

fn meta(bytes: &[u8], address: u64) -> Meta {
    let masks = word(bytes, 24);
    let rest = word(bytes, 32);
    Meta {
        address,
        group: word(bytes, 16),
        ring: [word(bytes, 0), word(bytes, 8)],
        available: masks as u32,
        freed: (masks >> 32) as u32,
        last: (rest & 31) as u32,
        class: (rest >> 6 & 63) as u32,
        pages: rest >> 12,
    }
}

/// The group of a block: what is before the block says how far away it is.
fn group_of(memory: &mut Memory, block: u64) -> Option<u64> {
    let start = block.checked_sub(8).filter(|_| block.is_multiple_of(16))?;
    let mut bytes = [0; 8];
    memory.peek(start, &mut bytes).ok()?;
    let short = u64::from(u16::from_le_bytes([bytes[6], bytes[7]]));
    let long = word(&bytes, 0) & 0xffff_ffff;
    let offset = match (bytes[4], short) {
        (0, short) => short,
        (_, 0) if long > 0xffff => long,
        _ => return None,
    };
    block.checked_sub((offset + 1) * 16)
}

/// The number that the pages begin with, and the pages that known blocks lead to.
fn by_blocks(memory: &mut Memory, live: &[LiveBlock]) -> Option<(u64, Vec<u64>)> {
    let mut found: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    let mut agreed = 0;
    // From all over the heap.
    let step = (live.len() / MAX_TRIES).max(1);
    for block in live.iter().step_by(step) {
        if agreed >= ENOUGH || memory.is_over() {
            break;
        }
        let Some(group) = group_of(memory, block.address) else {
            continue;
        };
        let Ok(address) = memory.word(group) else {
            continue;
        };
        if !is_meta(address) || again(memory, address).is_none_or(|meta| meta.group != group) {
            continue;
        }
        if let Ok(check) = memory.word(page_of(address))
            && check != 0
        {
            found.entry(check).or_default().push(page_of(address));
            agreed += 1;
        }
    }
    found.into_iter().max_by_key(|(_, pages)| pages.len())
}

/// Pages on which descriptions are likely.
fn candidates(space: &Space) -> impl Iterator<Item = u64> {
    let pages = |(start, end): (u64, u64), most: u64| {
        (start..end)
            .step_by(PAGE_BYTES as usize)
            .take(most as usize)
    };
    let brk = space
        .brk_pieces()
        .iter()
        .flat_map(move |&range| pages(range, BRK_PAGES));
    let others = space
        .mappings()
        .iter()
        .flat_map(move |&range| pages(range, FIRST_PAGES));
    brk.chain(others)
}

/// The number that the pages begin with, as told by pages that look like it: their groups point back.
fn by_looks(memory: &mut Memory, space: &Space) -> Option<u64> {
    let mut found: HashMap<u64, u64> = HashMap::new();
    for page in candidates(space) {
        if memory.is_over() {
            break;
        }
        let Ok(bytes) = memory.bytes::<{ PAGE_BYTES as usize }>(page) else {
            continue;
        };
        let (check, next, count) = (word(&bytes, 0), word(&bytes, 8), word(&bytes, 16));
        if check == 0 || next % PAGE_BYTES != 0 || count as u32 as u64 > MAX_METAS {
            continue;
        }
        let agree = metas(&bytes, page)
            .filter(|meta| meta.group != 0 && meta.group % 16 == 0)
            .filter(|meta| memory.word(meta.group) == Ok(meta.address))
            .count() as u64;
        if agree > 0 {
            *found.entry(check).or_default() += agree;
        }
    }
    let best = found
        .into_iter()
        .max_by_key(|&(check, agree)| (agree, check));
    Some(best?.0)
}

/// Whether known blocks have the headers of musl's older allocator, whose chunks know their own size and that of
/// the one before.
pub fn is_old(memory: &mut Memory, live: &[LiveBlock]) -> bool {
    let (mut old, mut others) = (0, 0);
    for block in live.iter().take(64) {
        let is_old = (|| {
            let chunk = block.address.checked_sub(16)?;
            let size = memory.word(chunk + 8).ok()?;
            let next = chunk.checked_add(size & !1)?;
            let back = memory.word(next).ok()?;
            Some(size & 1 == 1 && (size & !1) % 32 == 0 && size > 32 && back == size)
        })();
        match is_old {
            Some(true) => old += 1,
            _ => others += 1,
        }
    }
    old > others
}

/// Eight bytes at an offset; 0 beyond the end.
fn word(bytes: &[u8], at: usize) -> u64 {
    let bytes = bytes
        .get(at..at + 8)
        .and_then(|bytes| bytes.try_into().ok());
    bytes.map_or(0, u64::from_le_bytes)
}
