//! What is live, and what each stack has allocated and freed.

use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST};
use leakprobe_common::{
    Block, BlockKey, COUNT_FRACTION_BITS, Counter, StackKey, StackTotals, scaled_bytes,
    scaled_count,
};

use crate::maps::{BLOCKS, MARK_BITS, MARKS, SAMPLING, STACKS, add, count};
use crate::process::{self, Owner};
use crate::thread::Thread;
use crate::{peak, stack};

const EEXIST: i32 = -17;

/// A block on record; its address may be given out again at any time.
#[inline(always)]
pub fn find(address: u64, space: u64) -> Option<*const Block> {
    BLOCKS.get_ptr(BlockKey { address, space })
}

/// Records a block that the allocator gave to a thread, which has the frames of its stack (known
/// again by `check`) unless they were sent (`announced`).
#[inline(always)]
pub fn record(address: u64, block: &Block, check: u64, thread: &mut Thread, announced: u64) {
    let owner = thread.owner();
    let key = BlockKey {
        address,
        space: owner.space,
    };
    let stack = StackKey {
        id: block.stack,
        program: owner.program,
    };
    let Some(totals) = totals(&stack, check) else {
        return count(Counter::StacksFull);
    };
    // SAFETY: map values stay valid while the program runs.
    if unsafe { (*totals).check } != check {
        return count(Counter::StackCollisions);
    }
    match insert(&key, block, BPF_NOEXIST) {
        Ok(()) => {}
        Err(EEXIST) => {
            // Its free was not seen. The old block goes, under a name.
            count(Counter::MissedFrees);
            if let Some(old) = take(address, owner) {
                freed(&old, owner, block.time);
            }
            if insert(&key, block, BPF_ANY).is_err() {
                return count(Counter::BlocksFull);
            }
        }
        Err(_) => return count(Counter::BlocksFull),
    }
    // SAFETY: map values stay valid while the program runs; nobody deletes totals.
    unsafe {
        let (bytes, blocks) = stands_for(block);
        peak::allocated(totals, bytes);
        add(&raw mut (*totals).allocated_count, blocks);
        process::allocated(block);
        if core::ptr::read_volatile(&raw const (*totals).announced) == 0 {
            if announced == 1 || stack::announce(thread, block.stack) == 1 {
                core::ptr::write_volatile(&raw mut (*totals).announced, 1);
            } else {
                count(Counter::StackEventsLost);
            }
        }
    }
}

/// Bytes, and blocks in 2^-20, that a recorded block stands for.
#[inline(always)]
pub fn stands_for(block: &Block) -> (u64, u64) {
    if SAMPLING.load() == 0 || block.chance == 0 {
        return (block.size, 1 << COUNT_FRACTION_BITS);
    }
    (
        scaled_bytes(block.size, block.chance),
        scaled_count(block.chance),
    )
}

/// Totals of a stack, made when it is new. `None` if there is no room.
#[inline(always)]
pub fn totals(stack: &StackKey, check: u64) -> Option<*mut StackTotals> {
    if let Some(totals) = STACKS.get_ptr_mut(stack) {
        return Some(totals);
    }
    // Another thread may come first with the same stack: then its entry serves.
    let new = StackTotals {
        check,
        ..StackTotals::default()
    };
    let _ = STACKS.insert(stack, new, BPF_NOEXIST as u64);
    STACKS.get_ptr_mut(stack)
}

/// Puts a block on record.
#[inline(always)]
pub fn insert(key: &BlockKey, block: &Block, flags: u32) -> Result<(), i32> {
    // First: nobody is to overlook one that is there.
    mark(key, 1);
    let inserted = BLOCKS.insert(key, block, flags.into());
    if inserted.is_err() {
        mark(key, -1);
    }
    inserted
}

/// Whether a block is on record.
#[inline(always)]
pub fn knows(address: u64, owner: Owner) -> bool {
    let key = BlockKey {
        address,
        space: owner.space,
    };
    let is_marked = |place: *mut u64| {
        // SAFETY: map values stay valid while the program runs; an aligned word is read whole.
        unsafe { core::ptr::read_volatile(place) != 0 }
    };
    place(&key).is_none_or(is_marked) && find(address, owner.space).is_some()
}

/// Where a block is counted in [`MARKS`], if all blocks are not recorded.
#[inline(always)]
fn place(key: &BlockKey) -> Option<*mut u64> {
    if SAMPLING.load() == 0 {
        return None;
    }
    // Multiplied by 2^64 divided by the golden ratio, neighbours come far from one another.
    let number = (key.address >> 4).wrapping_add(key.space);
    let hash = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    MARKS.get_ptr_mut((hash >> (64 - MARK_BITS)) as u32)
}

/// Counts a block that comes onto the record, or was taken off.
#[inline(always)]
fn mark(key: &BlockKey, difference: i64) {
    if let Some(place) = place(key) {
        add(place, difference as u64);
    }
}

/// Takes a block off the record.
#[inline(always)]
pub fn take(address: u64, owner: Owner) -> Option<Block> {
    let key = BlockKey {
        address,
        space: owner.space,
    };
    // SAFETY: the copy is made before the entry is removed, and only the thread that frees the
    // block removes it.
    let block = unsafe { BLOCKS.get(&key) }.copied()?;
    BLOCKS.remove(&key).ok()?;
    mark(&key, -1);
    Some(block)
}

/// Puts a block back that [`take`] took: the call that was to free it has failed.
#[inline(always)]
pub fn put_back(address: u64, block: &Block, owner: Owner) {
    let key = BlockKey {
        address,
        space: owner.space,
    };
    if insert(&key, block, BPF_ANY).is_err() {
        count(Counter::BlocksFull);
    }
}

/// Counts a block as freed now, for the stack that allocated it.
#[inline(always)]
pub fn freed(block: &Block, owner: Owner, now: u64) {
    let stack = StackKey {
        id: block.stack,
        program: owner.program,
    };
    process::freed(block);
    if let Some(totals) = STACKS.get_ptr_mut(stack) {
        // SAFETY: as in `record`.
        unsafe {
            let (bytes, blocks) = stands_for(block);
            peak::freed(totals, bytes, block, now);
            add(&raw mut (*totals).freed_count, blocks);
        }
    }
}
