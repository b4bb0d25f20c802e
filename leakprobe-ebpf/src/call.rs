//! Follows allocator calls from entry to return.
//!
//! Which calls count, [`crate::thread`] decides; here is what happens to their blocks.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::pt_regs;
use aya_ebpf::helpers::generated::{bpf_get_attach_cookie, bpf_get_func_ip, bpf_ktime_get_ns};
use aya_ebpf::programs::ProbeContext;
use aya_log_ebpf::debug;
use leakprobe_common::{Block, Control, Counter, Gives, MAX_NESTED_CALLS, Signature};

use crate::maps::{
    MAX_SIZE, MIN_SIZE, SAMPLING, control, count, count_entered, count_followed, opaque, read_user,
    registers,
};
use crate::process::Owner;
use crate::stack;
use crate::thread::{Thread, known_thread, this_thread};
use crate::walk::Start;
use crate::{arch, blocks, process, sample};

/// Bytes that a signal frame takes at the least below the red zone (`struct rt_sigframe` of
/// x86-64 is 440 bytes, and the floating point state another 512): whatever runs below is in the
/// handler.
const MIN_SIGNAL_FRAME: u64 = 512;

/// What was asked of the allocator.
struct Request {
    /// [`Gives`].
    kind: u64,
    size: u64,
    /// Where the result goes, or the old block.
    address: u64,
}

impl Request {
    /// Read from the arguments, as the function's signature says.
    #[inline(always)]
    fn new(signature: u64, [first, second, third]: [u64; 3]) -> Self {
        let arguments = [first, second, third, 1];
        let argument = |shift: u32| arguments[(opaque(signature >> shift) & 3) as usize];
        Self {
            kind: signature & 3,
            size: product(
                argument(Signature::COUNT_SHIFT),
                argument(Signature::SIZE_SHIFT),
            ),
            address: first,
        }
    }

    /// Whether it takes a block back.
    #[inline(always)]
    fn replaces(&self) -> bool {
        self.kind == Gives::Replaced as u64 && self.address != 0
    }
}

/// Size of an array; the largest number if that overflows, which no allocator gives out. (The
/// BPF target has no 128-bit product, on which core's `saturating_mul` rests.)
#[inline(always)]
fn product(count: u64, size: u64) -> u64 {
    // Hidden, or LLVM sees an overflow check and makes the 128-bit product of it after all.
    if (count | size) >> 32 == 0 || count == 0 || size <= opaque(u64::MAX / count) {
        count.wrapping_mul(size)
    } else {
        u64::MAX
    }
}

/// Whether a session's program runs at a return: there the thread is no longer where the probe is.
#[inline(always)]
pub fn is_return(ctx: &ProbeContext) -> bool {
    // SAFETY: the helper reads the context of this program.
    arch::instruction_pointer(registers(ctx)) != unsafe { bpf_get_func_ip(ctx.as_ptr()) }
}

/// The entry of a function that gives a block out. Whether its return matters.
#[inline(always)]
pub fn enter(ctx: &ProbeContext) -> bool {
    // SAFETY: the helper reads the context of this program.
    let signature = unsafe { bpf_get_attach_cookie(ctx.as_ptr()) };
    count_entered(signature);
    if control(Control::Active) == 0 {
        return false;
    }
    let regs = registers(ctx);
    let sp = arch::entry_sp(regs);
    let request = Request::new(signature, arch::arguments(regs));
    let chance = sample::draw(request.size);
    if chance == 0 && !(request.replaces() && is_known(request.address)) {
        if signature & Signature::FORWARDS != 0 {
            sample::note_skipped(regs, sp);
        }
        return false;
    }
    let Some(owner) = process::owner() else {
        return false;
    };
    let Some(thread) = this_thread(owner) else {
        count(Counter::ThreadsFull);
        return false;
    };
    if !thread.admits(sp, arch::frame_pointer(regs)) {
        thread.note_nested(sp);
        return false;
    }
    let depth = thread.depth;
    if depth >= MAX_NESTED_CALLS as u64 {
        count(Counter::NestedTooDeep);
        debug!(ctx, "{} allocator calls on top of one another", depth);
        return false;
    }
    let Some(ip) = arch::return_address(sp) else {
        count(Counter::UnreadableMemory);
        return false;
    };
    if sample::was_skipped(thread, regs, sp, ip) {
        return false;
    }
    let call = thread.call(depth);
    call.sp = sp;
    call.ip = ip;
    call.kind = request.kind;
    call.size = request.size;
    call.address = request.address;
    let none = opaque(0); // or LLVM calls a function to clear what lies side by side
    call.handler_below = none;
    call.handler_elsewhere = none;
    call.has_old = none;
    call.chance = chance;
    if request.replaces() {
        // From here on another thread may be given the old address.
        match blocks::take(request.address, owner) {
            Some(old) => {
                call.old = old;
                call.has_old = 1;
            }
            None => count_unknown_free(request.address),
        }
    }
    if depth != 0 {
        // In a signal handler: the frames of the call that it interrupted are about to go.
        stack::announce_interrupted(thread, depth - 1);
    }
    if chance != 0 {
        let start = Start {
            ip,
            sp,
            fp: arch::frame_pointer(regs),
        };
        let (stack, check) = stack::identify(start, thread);
        if thread.call(depth).has_old == 0 && sample::serves_another(thread) {
            return false;
        }
        let call = thread.call(depth);
        call.stack = stack;
        call.check = check;
        call.announced = 0;
    }
    thread.depth = depth + 1;
    count_followed(signature);
    true
}

/// The return of a function that gives a block out.
#[inline(always)]
pub fn leave<C: EbpfContext>(ctx: &C) {
    let Some(thread) = known_thread() else {
        return;
    };
    let regs = registers(ctx);
    let sp = arch::entry_sp_at_return(regs);
    let Some(found) = (0..MAX_NESTED_CALLS as u64)
        .rev()
        .find(|&level| level < thread.depth && thread.call(level).sp == sp)
    else {
        return;
    };
    if thread.depth > found + 1 {
        // A call below the top returns when what is above it was left by a handler's siglongjmp.
        debug!(ctx, "a call above the one at {:x} never returned", sp);
        thread.abandon_down_to(found + 1);
    }
    thread.depth = found;
    // Read back, so that the verifier follows one path for all levels.
    // SAFETY: a field of our own.
    let level = unsafe { core::ptr::read_volatile(&raw const thread.depth) };
    finish(thread, level, regs);
}

/// Records what a call gave out and took back.
#[inline(always)]
fn finish(thread: &mut Thread, level: u64, regs: &pt_regs) {
    let (owner, now) = (thread.owner(), thread.now());
    let call = thread.call(level);
    if control(Control::Active) == 0 {
        if call.has_old != 0 {
            // Recording ended in between: leave things as they were at the entry.
            blocks::put_back(call.address, &call.old, owner);
        }
        return;
    }
    let result = arch::result(regs);
    let address = if call.kind == Gives::Stored as u64 {
        if result as u32 != 0 {
            0
        } else {
            match read_user(call.address) {
                Some(address) => address,
                None => return count(Counter::UnreadableMemory),
            }
        }
    } else {
        result
    };
    if call.has_old != 0 {
        // realloc(p, 0) that returns nothing has freed p; any other failure leaves p as it was.
        if address != 0 || call.size == 0 {
            blocks::freed(&call.old, owner, now);
        } else {
            blocks::put_back(call.address, &call.old, owner);
        }
        call.has_old = 0;
    }
    if address == 0 {
        if call.kind != Gives::Replaced as u64 || call.size != 0 {
            count(Counter::FailedCalls);
        }
        return;
    }
    if call.chance == 0 || call.size < MIN_SIZE.load() || call.size > MAX_SIZE.load() {
        return;
    }
    let block = Block {
        size: call.size,
        stack: call.stack,
        time: now,
        chance: call.chance,
    };
    let (check, announced) = (call.check, call.announced);
    blocks::record(address, &block, check, thread, announced);
}

/// The entry of a function that takes a block back.
#[inline(always)]
pub fn free(ctx: &ProbeContext) {
    // SAFETY: the helper reads the context of this program.
    let signature = unsafe { bpf_get_attach_cookie(ctx.as_ptr()) };
    count_entered(signature);
    let regs = registers(ctx);
    let address = arch::arguments(regs)[0];
    if address == 0 || control(Control::Active) == 0 {
        return;
    }
    let Some(owner) = process::owner() else {
        return;
    };
    if SAMPLING.load() != 0 && !blocks::knows(address, owner) {
        return;
    }
    let sp = arch::entry_sp(regs);
    let mut thread = known_thread();
    if let Some(thread) = &mut thread
        && thread.depth != 0
        && !thread.admits(sp, arch::frame_pointer(regs))
    {
        return;
    }
    match blocks::take(address, owner) {
        Some(block) => {
            let now = match &mut thread {
                Some(thread) => thread.now(),
                // SAFETY: the helper has no preconditions.
                None => unsafe { bpf_ktime_get_ns() },
            };
            blocks::freed(&block, owner, now);
            count_followed(signature);
            if let Some(thread) = thread {
                thread.freed = address;
                thread.freed_sp = sp;
            }
        }
        // free_sized may call free: the same block again, further down.
        None if thread.is_some_and(|thread| thread.freed == address && sp <= thread.freed_sp) => {}
        // What it frees inside was not given out, or is freed for the second time.
        None if is_from_allocator(sp, owner) => {}
        None => count_unknown_free(address),
    }
}

/// Whether a call comes from an allocator's own code.
#[inline(always)]
fn is_from_allocator(sp: u64, owner: Owner) -> bool {
    arch::return_address(sp).is_some_and(|ip| process::is_in_allocator(ip, owner.space) != 0)
}

/// Whether a block of the running process is on record.
#[inline(always)]
fn is_known(address: u64) -> bool {
    process::owner().is_some_and(|owner| blocks::knows(address, owner))
}

/// A block that is not on record goes. When sampling, that says nothing.
#[inline(always)]
fn count_unknown_free(address: u64) {
    if !process::was_inherited(address) && SAMPLING.load() == 0 {
        count(Counter::UnknownFrees);
    }
}

/// A handler is about to run on top of the thread's call in flight, if it has one. `sp` is the
/// stack pointer of the interrupted code; `elsewhere` tells that the handler asked for an
/// alternate stack.
#[inline(always)]
pub fn interrupt(sp: u64, elsewhere: bool) {
    let Some(thread) = known_thread() else {
        return;
    };
    if let Some(top) = thread.top() {
        let below = sp.wrapping_sub(arch::RED_ZONE + MIN_SIGNAL_FRAME);
        if below > top.handler_below {
            top.handler_below = below;
        }
        if elsewhere {
            top.handler_elsewhere = 1;
        }
    }
}
