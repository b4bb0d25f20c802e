//! Which calls are recorded when not all of them are.
//!
//! It is decided at the entry, before anything else is looked up, so that a call left out costs a
//! trap and little more. A function may get its block from another probed one, which must not draw a
//! second time: it is known by where it is called from.

use aya_ebpf::bindings::pt_regs;
use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use leakprobe_common::{CERTAIN, Control, SIZE_CLASSES, size_class};

use crate::arch;
use crate::maps::{CHANCES, SAMPLING, control, opaque};
use crate::process::{self, has_allocators, is_in_allocator};
use crate::thread::{Skipped, Thread, this_thread};

/// Decides whether a block of this size is recorded: the probability with which it is, in 2^-32, or
/// 0 if it is not. In it is that the probes may not have been there.
#[inline(always)]
pub fn draw(size: u64) -> u64 {
    if SAMPLING.load() == 0 {
        return CERTAIN;
    }
    let Some(chances) = CHANCES.get_ptr(0) else {
        return CERTAIN;
    };
    let class = opaque(size_class(size)) & (SIZE_CLASSES as u64 - 1);
    // SAFETY: the mask keeps the class within the array; an aligned u32 is read whole.
    let chance = unsafe { core::ptr::read_volatile(chances.cast::<u32>().add(class as usize)) };
    // SAFETY: the helper has no preconditions.
    let random = unsafe { bpf_get_prandom_u32() };
    if random > chance {
        return 0;
    }
    let chance = u64::from(chance) + 1;
    match control(Control::Duty) {
        0 => chance,
        // Calls during the rest of the time have no chance at all. 0 would be certainty.
        duty => ((chance * (duty & (CERTAIN - 1))) >> 32).max(1),
    }
}

/// Notes a call that is left out, and may pass its request on.
#[inline(always)]
pub fn note_skipped(regs: &pt_regs, sp: u64) {
    let Some(ip) = arch::return_address(sp) else {
        return;
    };
    let Some(owner) = process::owner() else {
        return;
    };
    if let Some(thread) = this_thread(owner) {
        thread.skipped = Skipped {
            sp,
            ip,
            probe: arch::instruction_pointer(regs),
        };
    }
}

/// Frames between an allocator's function that is probed, and the call of another allocator's.
const HELPERS: u64 = 8;

/// Whether a call whose stack was just walked only serves one of another allocator that was left out: its
/// function is on the stack.
#[inline(always)]
pub fn serves_another(thread: &Thread) -> bool {
    if SAMPLING.load() == 0 || thread.depth != 0 || !has_allocators(thread.space) {
        return false;
    }
    passes_allocator(thread)
}

/// Whether one of the callers nearest to the leaf of the stack that was walked last is an allocator's code.
#[inline(always)]
pub fn passes_allocator(thread: &Thread) -> bool {
    let mut at = 1;
    while at < HELPERS {
        if at >= thread.walk.len {
            break;
        }
        if is_in_allocator(thread.trace.frames[at as usize], thread.space) != 0 {
            return true;
        }
        at += 1;
    }
    false
}

/// Whether a call only serves one that was left out: it comes from the allocator's own code, or in
/// place of that call, to which it is a jump.
#[inline(always)]
pub fn was_skipped(thread: &Thread, regs: &pt_regs, sp: u64, ip: u64) -> bool {
    if SAMPLING.load() == 0 || thread.depth != 0 {
        return false;
    }
    if is_in_allocator(ip, thread.space) != 0 {
        return true;
    }
    let skipped = &thread.skipped;
    skipped.sp == sp && skipped.ip == ip && skipped.probe != arch::instruction_pointer(regs)
}
