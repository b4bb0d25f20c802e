//! Growth mode: where the target gets its memory from the kernel, not from its allocator.
//!
//! Page faults bring memory; a program of perf events that only the target's threads have sees them.
//! Of the pages a part is chosen by address, so that every fault of a chosen page is seen, and a later
//! one replaces an earlier. A fault that brings a huge page is recorded whatever its address. What of
//! it is still there nobody tells here: the user side looks. `brk`, `mmap` and `mremap` only give
//! addresses; those are kept apart.

use core::ffi::c_void;

use aya_ebpf::bindings::{BPF_ANY, BPF_F_NO_PREALLOC, BPF_NOEXIST, pt_regs};
use aya_ebpf::helpers::bpf_probe_read_kernel;
use aya_ebpf::helpers::generated::{
    bpf_find_vma, bpf_get_current_task, bpf_get_current_task_btf, bpf_jiffies64, bpf_ktime_get_ns,
    bpf_probe_read_user, bpf_task_pt_regs,
};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap};
use aya_ebpf::programs::{FExitContext, PerfEventContext};
use aya_ebpf::{Global, cty::c_long};
use leakprobe_common::{
    Block, BlockKey, CERTAIN, Control, Counter, HUGE_BYTES, HUGE_MARK, PAGE_BYTES, StackKey,
    is_chosen,
};

use crate::blocks::{insert, knows, stands_for, take, totals};
use crate::maps::{STACKS, add, control, count, opaque, set_control};
use crate::process::{Owner, is_target, owner};
use crate::thread::{Thread, this_thread};
use crate::{arch, moved, stack};

/// What of the pages is recorded: one in two to the power of this.
#[unsafe(no_mangle)]
pub static PAGES_SHIFT: Global<u64> = Global::new(0);

/// See [`is_chosen`].
#[unsafe(no_mangle)]
pub static PAGES_SEED: Global<u64> = Global::new(0);

/// Where `struct vm_area_struct` has its file; 0 if that is not known.
#[unsafe(no_mangle)]
pub static VM_FILE: Global<u64> = Global::new(0);

/// Where it has its flags.
#[unsafe(no_mangle)]
pub static VM_FLAGS: Global<u64> = Global::new(0);

/// Where `struct task_struct` counts minor faults; 0 if that is not known.
#[unsafe(no_mangle)]
pub static TASK_FAULTS: Global<u64> = Global::new(0);

/// Ranges of addresses that `brk`, `mmap` and `mremap` gave out; the key is the first address.
#[map]
pub static RANGES: HashMap<BlockKey, Block> = HashMap::with_max_entries(1 << 16, BPF_F_NO_PREALLOC);

const QUIET_ENTRIES: usize = 1 << 13;

/// Regions of the size of a huge page that were found to hold small ones, a page that was not there, and when. A
/// region that shares its place with another is looked at more often than need be.
#[map]
pub static QUIET: Array<[u64; QUIET_ENTRIES]> = Array::with_max_entries(1, 0);

/// A fault of the target, which the kernel has served without reading a file or the swap.
#[inline(always)]
pub fn fault(ctx: &PerfEventContext) {
    if control(Control::Active) == 0 {
        return;
    }
    // SAFETY: the context is what the kernel gives programs of this kind.
    let address = unsafe { (*ctx.ctx).addr };
    let is_huge = brought_huge_page(address);
    let moves = moved::of_region(address);
    if !is_huge && !is_recorded(address, moves.unwrap_or(0)) {
        if moves.is_some() {
            moved::replaced(address & !(PAGE_BYTES - 1));
        }
        return;
    }
    if !is_private(address) {
        return;
    }
    let Some(thread) = owner().and_then(this_thread) else {
        return count(Counter::ThreadsFull);
    };
    if !is_new(thread) {
        return;
    }
    let Some((stack, check)) = identify(thread) else {
        return count(Counter::UnreadableMemory);
    };
    // SAFETY: the helper has no preconditions.
    let time = unsafe { bpf_ktime_get_ns() };
    let (address, size, chance) = if is_huge {
        (address & !(HUGE_BYTES - 1) | HUGE_MARK, HUGE_BYTES, CERTAIN)
    } else {
        (address & !(PAGE_BYTES - 1), PAGE_BYTES, chance())
    };
    let block = Block {
        size,
        stack,
        time,
        chance,
    };
    record(address, &block, check, thread);
}

/// Whether faults of a page are recorded, from whose region pages have moved away so many times: then others are
/// chosen there, or memory that comes at the same place again and again, and moves on, would all be in the sample or
/// none of it.
#[inline(always)]
pub fn is_recorded(address: u64, moves: u64) -> bool {
    // 2^64 divided by the golden ratio.
    let seed = PAGES_SEED
        .load()
        .wrapping_add(moves.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    is_chosen(address, seed, PAGES_SHIFT.load())
}

/// The probability of that, in 2^-32.
#[inline(always)]
pub fn chance() -> u64 {
    CERTAIN >> (PAGES_SHIFT.load() & 31)
}

/// Whether this fault was not seen before. A thread that was started while the others were being
/// attached to may have two events, and hand both on to the threads that it starts.
#[inline(always)]
fn is_new(thread: &mut Thread) -> bool {
    if TASK_FAULTS.load() == 0 {
        return true;
    }
    // The kernel counts the fault before its events.
    // SAFETY: the helper has no preconditions; the other one checks the address.
    let faults = unsafe {
        let task = bpf_get_current_task() + TASK_FAULTS.load();
        bpf_probe_read_kernel(task as *const u64)
    };
    let Ok(faults) = faults else { return true };
    let is_new = faults != thread.faults;
    thread.faults = faults;
    is_new
}

/// The stack of the thread, from where it left user space.
#[inline(always)]
fn identify(thread: &mut Thread) -> Option<(u64, u64)> {
    // SAFETY: the helpers have no preconditions; the registers are read through another one.
    let regs = unsafe { bpf_task_pt_regs(bpf_get_current_task_btf()) } as *const pt_regs;
    let at = arch::left_user_space(regs)?;
    Some(stack::identify_interrupted(at, thread))
}

/// Records a page for the stack that the thread has walked last.
#[inline(always)]
fn record(address: u64, block: &Block, check: u64, thread: &mut Thread) {
    let Some(sums) = announced(block.stack, check, thread) else {
        return;
    };
    let owner = thread.owner();
    if let Some(old) = take(address, owner) {
        gone(&old, owner);
    }
    let key = BlockKey {
        address,
        space: owner.space,
    };
    if insert(&key, block, BPF_NOEXIST).is_err() {
        // Another thread faulted on the same page at the same time, and serves as well; or:
        if !knows(address, owner) {
            count(Counter::BlocksFull);
        }
        return;
    }
    let (bytes, blocks) = stands_for(block);
    // SAFETY: map values stay valid while the program runs; nobody deletes totals.
    unsafe {
        add(&raw mut (*sums).allocated_bytes, bytes);
        add(&raw mut (*sums).allocated_count, blocks);
    }
}

/// Counts a page as gone, for the stack that brought it.
#[inline(always)]
pub fn gone(page: &Block, owner: Owner) {
    let stack = StackKey {
        id: page.stack,
        program: owner.program,
    };
    if let Some(sums) = STACKS.get_ptr_mut(stack) {
        let (bytes, blocks) = stands_for(page);
        // SAFETY: map values stay valid while the program runs; nobody deletes totals.
        unsafe {
            add(&raw mut (*sums).freed_bytes, bytes);
            add(&raw mut (*sums).freed_count, blocks);
        }
    }
}

/// Totals of the stack that the thread has walked last, whose frames are with the user side now.
#[inline(always)]
pub fn announced(
    id: u64,
    check: u64,
    thread: &mut Thread,
) -> Option<*mut leakprobe_common::StackTotals> {
    let stack = StackKey {
        id,
        program: thread.program,
    };
    let Some(sums) = totals(&stack, check) else {
        count(Counter::StacksFull);
        return None;
    };
    // SAFETY: map values stay valid while the program runs; nobody deletes totals.
    unsafe {
        if (*sums).check != check {
            count(Counter::StackCollisions);
            return None;
        }
        if core::ptr::read_volatile(&raw const (*sums).announced) == 0 {
            if stack::announce(thread, id) == 1 {
                core::ptr::write_volatile(&raw mut (*sums).announced, 1);
            } else {
                count(Counter::StackEventsLost);
            }
        }
    }
    Some(sums)
}

/// What the kernel says of a mapping.
struct Mapping {
    is_private: u64,
}

/// Whether a page is, or may become by a write, memory of the process alone: it is in no shared mapping,
/// and in none of a file unless that may be written to. If the kernel does not tell, yes: the user
/// side will see.
#[inline(always)]
fn is_private(address: u64) -> bool {
    if VM_FILE.load() == 0 {
        return true;
    }
    let mut mapping = Mapping { is_private: 1 };
    let callback: unsafe extern "C" fn(*mut c_void, *mut c_void, *mut c_void) -> c_long = look;
    // SAFETY: the callback gets `mapping`, which outlives the call.
    unsafe {
        bpf_find_vma(
            bpf_get_current_task_btf(),
            address,
            core::mem::transmute::<
                unsafe extern "C" fn(*mut c_void, *mut c_void, *mut c_void) -> c_long,
                *mut c_void,
            >(callback),
            (&raw mut mapping).cast(),
            0,
        );
    }
    mapping.is_private != 0
}

unsafe extern "C" fn look(_task: *mut c_void, vma: *mut c_void, mapping: *mut c_void) -> c_long {
    // From the kernel's include/linux/mm.h.
    const VM_WRITE: u64 = 2;
    const VM_SHARED: u64 = 8;
    let vma = vma as u64;
    // SAFETY: the helper checks the addresses.
    let (file, flags) = unsafe {
        (
            bpf_probe_read_kernel((vma + VM_FILE.load()) as *const u64),
            bpf_probe_read_kernel((vma + VM_FLAGS.load()) as *const u64),
        )
    };
    let (Ok(file), Ok(flags)) = (file, flags) else {
        return 0;
    };
    // SAFETY: `bpf_find_vma` passes on what it was given.
    let mapping = unsafe { &mut *mapping.cast::<Mapping>() };
    let is_private = file == 0 || flags & (VM_WRITE | VM_SHARED) == VM_WRITE;
    mapping.is_private = is_private as u64;
    0
}

/// Pages of a huge one, as a power of two.
const PAGES_BITS: u64 = (HUGE_BYTES / PAGE_BYTES).trailing_zeros() as u64;
/// Bits of an entry of [`QUIET`] for its time.
const TIME_BITS: u64 = 19;
/// A region is quiet for so many ticks of the kernel as a power of two, 16 to 160 ms. Should its small pages go and a
/// huge one come meanwhile, that is missed, and found by the user side as pages without a fault.
const QUIET_BITS: u64 = 4;

/// Whether the fault has brought a huge page: then all of its pages are there. Nine are looked at, and
/// the user side makes sure later. To look at a page that is not there costs as much as a fault, so a
/// region with small pages is left alone for a while.
///
/// When the last small page of a region has come all are there as well. So of each region a page is kept in mind that
/// was not there. If it is this one then it is a small one; another one is looked for, the farthest first, which will
/// do for the longest time if they come in a row.
#[inline(always)]
fn brought_huge_page(address: u64) -> bool {
    let Some(quiet) = QUIET.get_ptr_mut(0) else {
        return false;
    };
    let region = address / HUGE_BYTES;
    let page = address / PAGE_BYTES & ((1 << PAGES_BITS) - 1);
    // SAFETY: the helper has no preconditions.
    let now = unsafe { bpf_jiffies64() } >> QUIET_BITS & ((1 << TIME_BITS) - 1);
    let index = opaque(region ^ region >> 13) & (QUIET_ENTRIES as u64 - 1);
    // SAFETY: the index is masked; an aligned word is read and written whole.
    let place = unsafe { quiet.cast::<u64>().add(index as usize) };
    let seen = unsafe { core::ptr::read_volatile(place) };
    let note = |missing: u64| {
        let entry = (region << PAGES_BITS | missing) << TIME_BITS | now;
        // SAFETY: as above.
        unsafe { core::ptr::write_volatile(place, entry) };
    };
    let page_address = |page: u64| region * HUGE_BYTES + page * PAGE_BYTES;
    let is_known = seen >> (TIME_BITS + PAGES_BITS) == region;
    let missing = seen >> TIME_BITS & ((1 << PAGES_BITS) - 1);
    if is_known && missing != page {
        if seen & ((1 << TIME_BITS) - 1) == now {
            return false;
        }
        if !is_there(page_address(missing)) {
            note(missing);
            return false;
        }
    }
    let mut distance = 1 << PAGES_BITS;
    while distance > 1 {
        distance >>= 1;
        let other = page ^ distance;
        if !is_there(page_address(other)) {
            note(other);
            return false;
        }
    }
    !is_known || missing != page
}

/// Whether the page of an address can be read without a fault.
#[inline(always)]
fn is_there(address: u64) -> bool {
    let mut byte = 0u8;
    // SAFETY: the helper checks the address, and writes one byte.
    unsafe { bpf_probe_read_user((&raw mut byte).cast(), 1, (address & !7) as *const c_void) == 0 }
}

/// The end of `brk(address)`, which returns where the heap ends now.
#[inline(always)]
pub fn brk(ctx: &FExitContext) {
    if control(Control::Active) == 0 || !is_target() {
        return;
    }
    let Ok(end) = ctx.ret::<u64>() else { return };
    let before = control(Control::Break);
    set_control(Control::Break, end);
    if before != 0 && whole(end) > whole(before) {
        range(whole(before), whole(end) - whole(before));
    }
}

/// The end of `mmap(address, length, protection, flags, ..)`.
#[inline(always)]
pub fn mmap(ctx: &FExitContext) {
    // From the kernel's include/uapi/linux/mman.h.
    const MAP_PRIVATE: u64 = 2;
    const MAP_ANONYMOUS: u64 = 0x20;
    const BOTH: u64 = MAP_PRIVATE | MAP_ANONYMOUS;
    if control(Control::Active) == 0 || !is_target() {
        return;
    }
    let Some([_, length, _, flags]) = arch::system_call_arguments(ctx.arg(0)) else {
        return count(Counter::UnreadableMemory);
    };
    if flags & BOTH == BOTH {
        given(ctx, 0, length);
    }
}

/// The end of `mremap(address, old_length, new_length, ..)`.
#[inline(always)]
pub fn mremap(ctx: &FExitContext) {
    if control(Control::Active) == 0 || !is_target() {
        return;
    }
    let Some([address, old, new, _]) = arch::system_call_arguments(ctx.arg(0)) else {
        return count(Counter::UnreadableMemory);
    };
    if let Ok(result) = ctx.ret() {
        moved::remapped(address, old.min(new), result);
    }
    if new > old {
        given(ctx, old, new - old);
    }
}

/// Records what a system call has given: `length` bytes after the first `skip`.
#[inline(always)]
fn given(ctx: &FExitContext, skip: u64, length: u64) {
    let Ok(address) = ctx.ret::<u64>() else {
        return;
    };
    if !is_error(address) {
        range(address.wrapping_add(whole(skip)), whole(length));
    }
}

/// Whether a system call's result says that it has failed.
#[inline(always)]
pub fn is_error(result: u64) -> bool {
    /// The largest error number (include/linux/err.h).
    const MAX_ERRNO: u64 = 4095;
    result > u64::MAX - MAX_ERRNO
}

/// Bytes of as many whole pages as it takes.
#[inline(always)]
pub fn whole(length: u64) -> u64 {
    length.wrapping_add(PAGE_BYTES - 1) & !(PAGE_BYTES - 1)
}

/// Records a range for the running thread's stack.
#[inline(always)]
fn range(address: u64, size: u64) {
    let Some(thread) = owner().and_then(this_thread) else {
        return count(Counter::ThreadsFull);
    };
    let Some((stack, check)) = identify(thread) else {
        return count(Counter::UnreadableMemory);
    };
    if announced(stack, check, thread).is_none() {
        return;
    }
    let range = Block {
        size,
        stack,
        // SAFETY: the helper has no preconditions.
        time: unsafe { bpf_ktime_get_ns() },
        chance: CERTAIN,
    };
    let key = BlockKey {
        address,
        space: thread.space,
    };
    if RANGES.insert(key, &range, BPF_ANY as u64).is_err() {
        count(Counter::RangesFull);
    }
}
