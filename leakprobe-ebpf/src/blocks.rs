//! What is live, and what each stack has allocated and freed.

use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST};
use leakprobe_common::{
    Block, BlockKey, COUNT_FRACTION_BITS, Control, Counter, StackKey, StackTotals, scaled_bytes,
    scaled_count,
};

use crate::maps::{BLOCKS, SAMPLING, STACKS, add, control, count};
use crate::stack;
use crate::thread::Thread;

const EEXIST: i32 = -17;

#[inline(always)]
pub fn key(address: u64) -> BlockKey {
    BlockKey {
        address,
        space: control(Control::Space),
    }
}

/// Records a block that the allocator gave to a thread, which has the frames of its stack (known
/// again by `check`) unless they were sent (`announced`).
#[inline(always)]
pub fn record(address: u64, block: &Block, check: u64, thread: &mut Thread, announced: u64) {
    let key = key(address);
    let stack = StackKey {
        id: block.stack,
        space: key.space,
    };
    let Some(totals) = totals(&stack, check) else {
        return count(Counter::StacksFull);
    };
    // SAFETY: map values stay valid while the program runs.
    if unsafe { (*totals).check } != check {
        return count(Counter::StackCollisions);
    }
    match BLOCKS.insert(&key, block, BPF_NOEXIST as u64) {
        Ok(()) => {}
        Err(EEXIST) => {
            // Its free was not seen. The old block goes, under a name.
            count(Counter::MissedFrees);
            if let Some(old) = take(address) {
                freed(&old);
            }
            if BLOCKS.insert(&key, block, BPF_ANY as u64).is_err() {
                return count(Counter::BlocksFull);
            }
        }
        Err(_) => return count(Counter::BlocksFull),
    }
    // SAFETY: map values stay valid while the program runs; nobody deletes totals.
    unsafe {
        let (bytes, blocks) = stands_for(block);
        add(&raw mut (*totals).allocated_bytes, bytes);
        add(&raw mut (*totals).allocated_count, blocks);
        if core::ptr::read_volatile(&raw const (*totals).announced) == 0 {
            if announced == 1 || stack::announce(thread, &stack) == 1 {
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

/// Whether a block is on record.
#[inline(always)]
pub fn knows(address: u64) -> bool {
    BLOCKS.get_ptr(key(address)).is_some()
}

/// Takes a block off the record.
#[inline(always)]
pub fn take(address: u64) -> Option<Block> {
    let key = key(address);
    // SAFETY: the copy is made before the entry is removed, and only the thread that frees the
    // block removes it.
    let block = unsafe { BLOCKS.get(&key) }.copied()?;
    BLOCKS.remove(&key).ok()?;
    Some(block)
}

/// Puts a block back that [`take`] took: the call that was to free it has failed.
#[inline(always)]
pub fn put_back(address: u64, block: &Block) {
    if BLOCKS.insert(key(address), block, BPF_ANY as u64).is_err() {
        count(Counter::BlocksFull);
    }
}

/// Counts a block as freed, for the stack that allocated it.
#[inline(always)]
pub fn freed(block: &Block) {
    let stack = StackKey {
        id: block.stack,
        space: control(Control::Space),
    };
    if let Some(totals) = STACKS.get_ptr_mut(stack) {
        // SAFETY: as in `record`.
        unsafe {
            let (bytes, blocks) = stands_for(block);
            add(&raw mut (*totals).freed_bytes, bytes);
            add(&raw mut (*totals).freed_count, blocks);
        }
    }
}
