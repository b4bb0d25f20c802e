//! The maps, and the few operations on them that everything else is made of.
//!
//! Nothing here is per CPU but sums: uprobe programs can be preempted, and another thread's probe
//! would run on the same CPU in between.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::bindings::{
    BPF_F_NO_PREALLOC, BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP,
};
use aya_ebpf::helpers::bpf_probe_read_user;
use aya_ebpf::helpers::generated::bpf_ringbuf_query;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, PerCpuArray, RingBuf};
use aya_ebpf::{EbpfContext, Global, helpers};
use leakprobe_common::{
    Block, BlockKey, Calls, Chances, Control, Counter, MAX_FUNCTIONS, Signature, StackKey,
    StackTotals,
};

use crate::thread::Thread;

/// Live blocks. The user side sets the number of entries (`--max-live`).
#[map]
pub static BLOCKS: HashMap<BlockKey, Block> = HashMap::with_max_entries(1 << 22, BPF_F_NO_PREALLOC);

/// How many live blocks there are at addresses that come to the same place, when sampling: most frees are of
/// blocks that are not on record, and a look here costs less than one into [`BLOCKS`]. Too high, never too low.
/// The user side sets the number of entries to 1 when all blocks are recorded.
#[map]
pub static MARKS: Array<u64> = Array::with_max_entries(1 << MARK_BITS, 0);

/// Addresses come to 2 to the power of this many places.
pub const MARK_BITS: u32 = 16;

/// Totals by stack.
#[map]
pub static STACKS: HashMap<StackKey, StackTotals> =
    HashMap::with_max_entries(1 << 17, BPF_F_NO_PREALLOC);

/// Threads that have called the allocator, by thread id. An entry stays until its thread ends:
/// looking one up costs a third of an insert and a delete per call.
#[map]
pub static THREADS: HashMap<u32, Thread> = HashMap::with_max_entries(1 << 16, BPF_F_NO_PREALLOC);

/// What is new: stacks seen for the first time, execs. Each record wakes the user side ([`AT_ONCE`]), but
/// for those that come in great numbers ([`in_time`]).
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(8 << 20, 0);

/// Flag of a record that the user side is to read at once. By default the kernel wakes it for the first
/// unread record only, which may be one that it is not woken for.
pub const AT_ONCE: u64 = BPF_RB_FORCE_WAKEUP as u64;

/// Flag of a record that can wait until the user side looks: to wake it takes an interrupt of
/// another CPU and some of its time. When this much is unread, it is woken all the same.
#[inline(always)]
pub fn in_time() -> u64 {
    const MUCH: u64 = 1 << 20;
    /// More than the longest record: that much is not skipped on the way there.
    const STEP: u64 = 4 << 10;
    // SAFETY: the map is a ring buffer.
    let unread = unsafe {
        bpf_ringbuf_query(
            (&raw const EVENTS).cast_mut().cast(),
            BPF_RB_AVAIL_DATA as u64,
        )
    };
    match unread >= MUCH && unread % MUCH < STEP {
        true => AT_ONCE,
        false => BPF_RB_NO_WAKEUP as u64,
    }
}

/// Counters by [`Counter`] id.
#[map]
pub static COUNTERS: Array<u64> = Array::with_max_entries(Counter::ALL.len() as u32, 0);

/// Calls by number of the function. Atomic additions by CPU are right under preemption, too, and no
/// CPU waits for another.
#[map]
pub static CALLS: PerCpuArray<Calls> = PerCpuArray::with_max_entries(MAX_FUNCTIONS as u32, 0);

/// Which allocations are recorded when sampling.
#[map]
pub static CHANCES: Array<Chances> = Array::with_max_entries(1, 0);

/// Switches shared with the user side, by [`Control`].
#[map]
pub static CONTROL: Array<u64> = Array::with_max_entries(Control::ALL as u32, 0);

/// Smallest size recorded, in bytes.
#[unsafe(no_mangle)]
pub static MIN_SIZE: Global<u64> = Global::new(0);

/// Largest size recorded, in bytes.
#[unsafe(no_mangle)]
pub static MAX_SIZE: Global<u64> = Global::new(u64::MAX);

/// 1 if not every allocation is recorded, but by chance. Where it is 0 the verifier removes the rest.
#[unsafe(no_mangle)]
pub static SAMPLING: Global<u64> = Global::new(0);

/// Value of a switch; 0 if it does not exist, which the verifier cannot know is impossible.
#[inline(always)]
pub fn control(which: Control) -> u64 {
    control_at(which as u32)
}

/// The same by its number.
#[inline(always)]
pub fn control_at(which: u32) -> u64 {
    match CONTROL.get_ptr(which) {
        // SAFETY: array elements live as long as the map; an aligned u64 is read whole.
        Some(value) => unsafe { core::ptr::read_volatile(value) },
        None => 0,
    }
}

/// Sets a switch.
#[inline(always)]
pub fn set_control(which: Control, value: u64) {
    set_control_at(which as u32, value);
}

/// The same by its number.
#[inline(always)]
pub fn set_control_at(which: u32, value: u64) {
    if let Some(place) = CONTROL.get_ptr_mut(which) {
        // SAFETY: as in `control`.
        unsafe { core::ptr::write_volatile(place, value) };
    }
}

/// Adds to a number that other CPUs add to as well.
#[inline(always)]
pub fn add(place: *mut u64, amount: u64) {
    // The BPF target has an atomic add but no compare-and-swap, so core offers no `fetch_add`.
    // SAFETY: `place` points into a map value, which stays valid while the program runs.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(place, amount) };
}

/// Counts one.
#[inline(always)]
pub fn count(counter: Counter) {
    if let Some(place) = COUNTERS.get_ptr_mut(counter as u32) {
        add(place, 1);
    }
}

/// Counts a call of the function that a cookie names.
#[inline(always)]
pub fn count_entered(signature: u64) {
    if let Some(calls) = calls(signature) {
        // SAFETY: map values stay valid while the program runs.
        add(unsafe { &raw mut (*calls).entered }, 1);
    }
}

/// Counts that it is followed.
#[inline(always)]
pub fn count_followed(signature: u64) {
    if let Some(calls) = calls(signature) {
        // SAFETY: as above.
        add(unsafe { &raw mut (*calls).followed }, 1);
    }
}

#[inline(always)]
fn calls(signature: u64) -> Option<*mut Calls> {
    CALLS.get_ptr_mut((signature >> Signature::FUNCTION_SHIFT) as u32)
}

/// A word of the target's memory.
#[inline(always)]
pub fn read_user(address: u64) -> Option<u64> {
    // SAFETY: the helper checks the address and fails on one that cannot be read.
    unsafe { bpf_probe_read_user(address as *const u64) }.ok()
}

/// Hides where a value comes from, so that LLVM neither removes a bound that the verifier needs to
/// see nor recognises a pattern that the BPF target has no instruction for.
#[inline(always)]
pub fn opaque(mut value: u64) -> u64 {
    // SAFETY: moves a register to itself.
    unsafe {
        core::arch::asm!("{0} = {0}", inout(reg) value, options(pure, nomem, nostack));
    }
    value
}

/// Thread id of the running thread, in the first PID namespace.
#[inline(always)]
pub fn thread_id() -> u32 {
    helpers::bpf_get_current_pid_tgid() as u32
}

/// Registers of the probed thread.
#[inline(always)]
pub fn registers<C: EbpfContext>(ctx: &C) -> &aya_ebpf::bindings::pt_regs {
    // SAFETY: the context of an uprobe program is the register set, valid during the call.
    unsafe { &*ctx.as_ptr().cast() }
}
