//! The state of mallocng, the allocator of musl since 1.2.1: its groups of slots.
//!
//! A group is up to 32 slots of one size, in a mapping of its own or in a slot of a larger group. Two bit masks say which slots are
//! free. Its mapping goes back to the kernel when all slots are free, so any one block keeps all of it. Blocks
//! themselves need not be read for that; what is unknown in a slot counts with all of the slot.

mod areas;

use leakprobe_common::PAGE_BYTES;

use self::areas::{Areas, Meta, again};
use super::memory::Memory;
use super::space::Space;
use super::sweep::{Holding, Piece, Region, Sums};
use super::{Free, LiveBlock, Part};
use crate::target::Mapping;
use crate::target::heaps::space::around;

/// Sizes of slots by class, in units of 16 bytes.
const CLASSES: [u64; 48] = [
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 18, 20, 25, 31, 36, 42, 50, 63, 72, 84, 102, 127, 146,
    170, 204, 255, 292, 340, 409, 511, 584, 682, 818, 1023, 1169, 1364, 1637, 2047, 2340, 2730,
    3276, 4095, 4680, 5460, 6552, 8191,
];
/// The class of blocks with a mapping of their own.
const MAPPED: u32 = 63;
/// Bytes before the first slot of a group.
const GROUP_HEADER: u64 = 16;
/// Bytes at the end of each slot that belong to the next block's header.
const TAIL: u64 = 4;
/// How deep groups may be in slots of others; the sizes allow no more.
const MAX_DEPTH: u32 = 8;

const RUBBISH: &str = "descriptions of musl's groups that do not fit their groups, or changed while \
                       they were read (these bytes are in no figure)";

/// What there is beside the sums.
#[derive(Debug, Default)]
pub struct Found {
    pub groups: u64,
    pub mapped: Part,
    pub mapped_blocks: u64,
    /// None was found, and the blocks are those of musl's older allocator.
    pub is_old: bool,
}

/// A group that is what its description says.
#[derive(Clone, Copy, Debug)]
struct Group {
    start: u64,
    end: u64,
    stride: u64,
    available: u32,
    freed: u32,
    last: u32,
    /// Its last slot that was ever in use.
    active: u32,
    is_mapped: bool,
    is_large: bool,
}

/// Reads all that mallocng has. `live` is sorted by address.
pub fn read(
    memory: &mut Memory,
    mappings: &[Mapping],
    live: &[LiveBlock],
    sums: &mut Sums,
) -> Found {
    let space = Space::new(mappings);
    let areas = Areas::find(memory, &space, live);
    let mut found = Found::default();
    if areas.pages.is_empty() {
        found.is_old = areas::is_old(memory, live);
        return found;
    }
    let mut groups = Vec::new();
    for meta in &areas.metas {
        match group(memory, mappings, &space, *meta) {
            Ok(group) => groups.extend(group),
            Err(bytes) => sums.problem(RUBBISH, bytes),
        }
    }
    // The outer one first.
    groups.sort_unstable_by_key(|group| (group.start, std::cmp::Reverse(group.end)));
    groups.dedup_by_key(|group| group.start);
    let (outer, inner) = nest(groups, sums);
    books(memory, &space, &areas, &outer, sums);

    found.groups = (outer.len() + inner.len()) as u64;
    for group in &outer {
        // What was donated never goes back.
        let holding = if group.is_mapped {
            Holding::Whole
        } else {
            Holding::Never
        };
        let range = (group.start, group.end);
        let mut region = sums.region(memory, range, holding);
        sweep(&mut region, group, &inner, live, 0);
        region.end("");
        if group.is_large {
            found.mapped_blocks += 1;
            found.mapped += Part {
                bytes: group.end - group.start,
                resident_bytes: memory.resident(group.start, group.end),
            };
        }
    }
    found
}

/// What a description stands for: none if the group has just gone; `Err` with its bytes if it is rubbish.
fn group(
    memory: &mut Memory,
    mappings: &[Mapping],
    space: &Space,
    mut meta: Meta,
) -> Result<Option<Group>, u64> {
    for _ in 0..3 {
        if meta.group == 0 {
            return Ok(None);
        }
        if let Some(group) = checked(memory, mappings, space, &meta) {
            return Ok(Some(group));
        }
        memory.forget_bytes();
        let Some(new) = again(memory, meta.address) else {
            break;
        };
        meta = new;
    }
    let bytes = meta.pages.checked_mul(PAGE_BYTES);
    let is_there = |bytes: &u64| {
        let (_, end) = space.anonymous(meta.group)?;
        (meta.group.checked_add(*bytes)? <= end).then_some(())
    };
    Err(bytes.filter(|bytes| is_there(bytes).is_some()).unwrap_or(0))
}

fn checked(memory: &mut Memory, mappings: &[Mapping], space: &Space, meta: &Meta) -> Option<Group> {
    let start = meta.group;
    let is_large = meta.class == MAPPED;
    let class = CLASSES.get(meta.class as usize);
    let stride = match class {
        _ if meta.pages > 0 && meta.last == 0 => meta
            .pages
            .checked_mul(PAGE_BYTES)?
            .checked_sub(GROUP_HEADER)?,
        Some(class) => class * 16,
        None => return None,
    };
    let slots = u64::from(meta.last) + 1;
    let used = GROUP_HEADER + slots.checked_mul(stride)?;
    let size = match meta.pages {
        0 => used,
        pages => pages.checked_mul(PAGE_BYTES)?,
    };
    let end = start.checked_add(size)?;
    let all = u32::MAX >> (31 - meta.last);
    let is_it = start.is_multiple_of(16)
        && used <= size
        && (class.is_some() || (is_large && meta.pages > 0 && meta.last == 0))
        && meta.available & meta.freed == 0
        && (meta.available | meta.freed) & !all == 0
        && (meta.pages == 0 || start.is_multiple_of(PAGE_BYTES));
    let is_within = match meta.pages {
        // Donated memory is that of objects, too.
        0 => {
            mappings.iter().any(|it| it.start <= start && end <= it.end) || {
                let range = space.anonymous(start);
                range.is_some_and(|(_, to)| end <= to)
            }
        }
        _ => space.anonymous(start).is_some_and(|(_, to)| end <= to),
    };
    if !is_it || !is_within {
        return None;
    }
    let mut header = [0; 16];
    memory.peek(start, &mut header).ok()?;
    let points_back = header[..8] == meta.address.to_le_bytes();
    points_back.then_some(Group {
        start,
        end,
        stride,
        available: meta.available,
        freed: meta.freed,
        last: meta.last,
        active: u32::from(header[8] & 31),
        is_mapped: meta.pages > 0,
        is_large,
    })
}

/// Groups with memory of their own, and those in slots of others. Sorted, as they come.
fn nest(groups: Vec<Group>, sums: &mut Sums) -> (Vec<Group>, Vec<Group>) {
    let (mut outer, mut inner): (Vec<Group>, Vec<Group>) = (Vec::new(), Vec::new());
    for group in groups {
        match outer.last() {
            Some(last) if group.start < last.end => {
                if group.end <= last.end && !group.is_mapped {
                    inner.push(group);
                } else {
                    sums.problem(RUBBISH, 0);
                }
            }
            _ => outer.push(group),
        }
    }
    (outer, inner)
}

/// The memory that the descriptions are in: all of `brk`, which musl needs for nothing else; or single pages.
fn books(memory: &mut Memory, space: &Space, areas: &Areas, outer: &[Group], sums: &mut Sums) {
    let is_free = |(start, end): (u64, u64)| {
        let after = outer.partition_point(|group| group.end <= start);
        outer.get(after).is_none_or(|group| group.start >= end)
    };
    let brk = space.brk_pieces();
    let used = |&&(start, end): &&(u64, u64)| areas.pages.range(start..end).next().is_some();
    let pieces = brk.iter().filter(used).copied();
    let pages = areas.pages.iter().map(|&page| (page, page + PAGE_BYTES));
    let outside = pages.filter(|&(page, _)| around(brk, page).is_none());
    for range in pieces.chain(outside).filter(|&range| is_free(range)) {
        let mut region = sums.region(memory, range, Holding::Never);
        region.piece(Piece::Overhead, range.1);
        region.end("");
    }
}

/// Tells the slots of a group, and of groups in them.
fn sweep(region: &mut Region<'_>, group: &Group, inner: &[Group], live: &[LiveBlock], depth: u32) {
    let within = |from: u64, to: u64| {
        let first = inner.partition_point(|group| group.start < from);
        inner.get(first).filter(|group| group.end <= to)
    };
    let block = |from: u64, to: u64| {
        let first = live.partition_point(|block| block.address < from);
        live.get(first)
            .filter(|block| block.size <= to.saturating_sub(block.address))
            .filter(|block| block.address < to)
    };
    region.piece(Piece::Overhead, group.start + GROUP_HEADER);
    for index in 0..=group.last {
        let start = group.start + GROUP_HEADER + u64::from(index) * group.stride;
        let end = start + group.stride;
        let has = |mask: u32| mask >> index & 1 == 1;
        if has(group.available) {
            region.piece(Piece::Free(Free::Available), end);
        } else if has(group.freed) && index > group.active {
            region.piece(Piece::Free(Free::Untouched), end);
        } else if has(group.freed) {
            region.piece(Piece::Free(Free::Freed), end);
        } else if let Some(child) = within(start, end).filter(|_| depth < MAX_DEPTH) {
            region.piece(Piece::Overhead, child.start);
            sweep(region, child, inner, live, depth + 1);
        } else if let Some(block) = block(start, end - TAIL) {
            region.piece(Piece::Overhead, block.address);
            let piece = Piece::Live { stack: block.stack };
            region.piece(piece, block.address + block.size);
        } else {
            region.piece(Piece::Unrecorded, end);
        }
        region.piece(Piece::Overhead, end);
    }
    region.piece(Piece::Overhead, group.end);
}
