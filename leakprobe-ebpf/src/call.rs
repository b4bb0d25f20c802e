//! Follows allocator calls from entry to return.
//!
//! Only the outermost call of a thread counts: calloc may call malloc inside. A call is paired
//! with its return by the stack pointer it was entered with, so no depth counter can drift.
//! Calls that are not nested, although another seems to be in flight, are told apart:
//!
//! - a call that does not come from the one below counts on its own: it comes from a callback, or
//!   the call below was left by longjmp. Where it comes from, the chain of frame pointers tells if
//!   the allocator keeps one; otherwise, whether it is called from the allocator's own code;
//! - so does a call of a signal handler, wherever it comes from: the signal was marked on the call
//!   that it interrupted ([`interrupt`]);
//! - a call whose return address is no longer the kernel's trampoline, or past which the stack has
//!   shrunk, was left by longjmp or an exception. It is dropped and counted.

use core::ffi::{c_long, c_void};

use aya_ebpf::bindings::{BPF_NOEXIST, pt_regs};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::helpers::generated::bpf_loop;
use aya_ebpf::programs::{ProbeContext, RetProbeContext};
use aya_log_ebpf::debug;
use leakprobe_common::{Block, Control, Counter, MAX_FRAMES, MAX_NESTED_CALLS};

use crate::maps::{
    MAX_SIZE, MIN_SIZE, THREADS, control, count, opaque, read_user, registers, thread_id,
};
use crate::stack::{self, Start};
use crate::{arch, blocks};

/// Bytes that a signal frame takes at the least below the red zone (`struct rt_sigframe` of
/// x86-64 is 440 bytes, and the floating point state another 512): whatever runs below is in the
/// handler.
const MIN_SIGNAL_FRAME: u64 = 512;

/// How a function gives its block out.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Kind {
    /// It returns the address.
    Returned = 0,
    /// It stores the address where its first argument points, and returns 0.
    Stored = 1,
    /// It returns the address, and takes an old block in return.
    Replaced = 2,
}

/// What was asked of the allocator.
pub struct Request {
    kind: Kind,
    size: u64,
    /// Where the result goes, or the old block.
    address: u64,
}

impl Request {
    /// A block whose address is returned.
    #[inline(always)]
    pub fn returned(size: u64) -> Self {
        Self {
            kind: Kind::Returned,
            size,
            address: 0,
        }
    }

    /// A block whose address is stored at `result`.
    #[inline(always)]
    pub fn stored(result: u64, size: u64) -> Self {
        Self {
            kind: Kind::Stored,
            size,
            address: result,
        }
    }

    /// A block that replaces `old`.
    #[inline(always)]
    pub fn replaced(old: u64, size: u64) -> Self {
        Self {
            kind: Kind::Replaced,
            size,
            address: old,
        }
    }
}

/// Size of an array; the largest number if that overflows, which no allocator gives out. (The
/// BPF target has no 128-bit product, on which core's `saturating_mul` rests.)
#[inline(always)]
pub fn product(count: u64, size: u64) -> u64 {
    // Hidden, or LLVM sees an overflow check and makes the 128-bit product of it after all.
    if (count | size) >> 32 == 0 || count == 0 || size <= opaque(u64::MAX / count) {
        count.wrapping_mul(size)
    } else {
        u64::MAX
    }
}

/// An allocator call in flight.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Call {
    /// Stack pointer at entry: who this call is.
    sp: u64,
    /// Return address.
    ip: u64,
    /// [`Kind`].
    kind: u64,
    /// Bytes asked for.
    size: u64,
    /// Where the result goes, or the old block.
    address: u64,
    /// Id of the stack, taken at entry.
    stack: u64,
    /// Frames of the stack.
    frames: u64,
    /// Below this stack pointer runs a signal handler that interrupted the call; 0: none did.
    handler_below: u64,
    /// 1 if that handler may run on an alternate stack.
    handler_elsewhere: u64,
    /// 1 if `old` holds a block that leaves with this call.
    has_old: u64,
    /// The block that is being replaced.
    old: Block,
}

/// What is known of a thread.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Thread {
    /// Calls in flight: one, and one more for each signal handler on top of another.
    depth: u64,
    /// The block freed last, and the stack pointer of that call.
    freed: u64,
    freed_sp: u64,
    calls: [Call; MAX_NESTED_CALLS],
}

const NO_CALL: Call = Call {
    sp: 0,
    ip: 0,
    kind: 0,
    size: 0,
    address: 0,
    stack: 0,
    frames: 0,
    handler_below: 0,
    handler_elsewhere: 0,
    has_old: 0,
    old: Block {
        size: 0,
        stack: 0,
        time: 0,
    },
};

/// What a thread starts with; in a map section, because it is too large for the BPF stack.
static NEW_THREAD: Thread = Thread {
    depth: 0,
    freed: 0,
    freed_sp: 0,
    calls: [NO_CALL; MAX_NESTED_CALLS],
};

impl Thread {
    /// The call at a level, counted from the outermost; levels beyond the last wrap around, since
    /// a bounds check would panic, which a BPF program cannot.
    #[inline(always)]
    fn call(&mut self, level: u64) -> &mut Call {
        let level = opaque(level) & (MAX_NESTED_CALLS as u64 - 1);
        // SAFETY: the mask keeps the level below MAX_NESTED_CALLS, a power of two.
        unsafe { self.calls.get_unchecked_mut(level as usize) }
    }

    /// The innermost call in flight.
    #[inline(always)]
    fn top(&mut self) -> Option<&mut Call> {
        let depth = self.depth;
        (depth != 0).then(|| self.call(depth - 1))
    }

    /// Drops the innermost call, which will never return.
    #[inline(always)]
    fn abandon_top(&mut self) {
        count(Counter::AbandonedCalls);
        if let Some(call) = self.top() {
            if call.has_old != 0 {
                // Nobody knows whether realloc had already freed it. Kept is the safe answer.
                blocks::put_back(call.address, &call.old);
                call.has_old = 0;
            }
            self.depth -= 1;
        }
    }

    /// Whether a call entered at `sp` is an outermost one. Drops abandoned calls on the way.
    #[inline(always)]
    fn admits(&mut self, sp: u64, fp: u64) -> bool {
        if self.depth == 0 {
            return true;
        }
        let mut admission = Admission {
            thread: self,
            sp,
            ip: arch::return_address(sp).unwrap_or(0),
            trampoline: control(Control::Trampoline),
            allocator_start: control(Control::AllocatorStart),
            allocator_end: control(Control::AllocatorEnd),
            allocator_frames: control(Control::AllocatorFrames),
            fp,
            slot: 0,
            found: 0,
        };
        repeat(MAX_NESTED_CALLS as u32, Admission::step, &mut admission);
        admission.slot == 0 || (admission.slot != sp && !admission.comes_from())
    }

    /// Drops calls until `depth` are left.
    #[inline(always)]
    fn abandon_down_to(&mut self, depth: u64) {
        if self.depth > depth {
            let mut abandonment = Abandonment {
                thread: self,
                depth,
            };
            repeat(MAX_NESTED_CALLS as u32, Abandonment::step, &mut abandonment);
        }
    }
}

/// Calls `step` up to `times` times, until it returns 1. The verifier looks at the step once; a
/// loop it would unroll, with all that follows for every number of turns.
#[inline(always)]
fn repeat<T>(times: u32, step: unsafe extern "C" fn(u32, *mut c_void) -> c_long, state: &mut T) {
    // SAFETY: the callback gets `state` and nothing else, and ends before `bpf_loop` returns.
    unsafe {
        bpf_loop(
            times,
            core::mem::transmute::<unsafe extern "C" fn(u32, *mut c_void) -> c_long, *mut c_void>(
                step,
            ),
            (&raw mut *state).cast(),
            0,
        );
    }
}

struct Abandonment {
    thread: *mut Thread,
    depth: u64,
}

impl Abandonment {
    unsafe extern "C" fn step(_index: u32, state: *mut c_void) -> c_long {
        // SAFETY: `repeat` passes on the state it was given.
        let state = unsafe { &mut *state.cast::<Self>() };
        // SAFETY: the thread outlives the call of `repeat`.
        let thread = unsafe { &mut *state.thread };
        if thread.depth <= state.depth {
            return 1;
        }
        thread.abandon_top();
        0
    }
}

struct Admission {
    thread: *mut Thread,
    sp: u64,
    /// Return address of the call.
    ip: u64,
    trampoline: u64,
    allocator_start: u64,
    allocator_end: u64,
    allocator_frames: u64,
    /// Where the innermost call has its return address, if that is still the trampoline.
    slot: u64,
    /// Frame pointer, while looking for `slot`.
    fp: u64,
    found: u64,
}

impl Admission {
    /// Whether a word of the stack is the kernel's return trampoline. It is mapped above the stack,
    /// as high as there is room, at the first return that is probed; until the user side has seen
    /// it there, a page's first address above the stack is taken for it. No call returns to one.
    #[inline(always)]
    fn is_trampoline(&self, word: u64) -> bool {
        if self.trampoline != 0 {
            word == self.trampoline
        } else {
            word & 4095 == 0 && word > self.sp
        }
    }

    /// Whether the call comes from the one whose return address is at `slot`.
    #[inline(always)]
    fn comes_from(&mut self) -> bool {
        if self.allocator_frames != 0 {
            repeat(MAX_FRAMES as u32, Self::next_frame, self);
            return self.found != 0;
        }
        self.allocator_start == 0
            || (self.ip >= self.allocator_start && self.ip < self.allocator_end)
    }

    /// Looks for `slot` among the places of return addresses, one frame further up.
    unsafe extern "C" fn next_frame(_index: u32, state: *mut c_void) -> c_long {
        // SAFETY: `repeat` passes on the state it was given.
        let state = unsafe { &mut *state.cast::<Self>() };
        let place = state.fp.wrapping_add(arch::RETURN_ADDRESS_IN_FRAME);
        if place >= state.slot || state.fp <= state.sp {
            state.found = (place == state.slot) as u64;
            return 1;
        }
        match read_user(state.fp) {
            Some(next) if next > state.fp => state.fp = next,
            _ => return 1,
        }
        0
    }

    unsafe extern "C" fn step(_index: u32, state: *mut c_void) -> c_long {
        // SAFETY: `repeat` passes on the state it was given.
        let state = unsafe { &mut *state.cast::<Self>() };
        // SAFETY: the thread outlives the call of `repeat`.
        let thread = unsafe { &mut *state.thread };
        let sp = state.sp;
        let Some(top) = thread.top() else { return 1 };
        if top.handler_below != 0
            && (sp < top.handler_below || (top.handler_elsewhere != 0 && sp > top.sp))
        {
            return 1;
        }
        if sp <= top.sp && state.is_trampoline(read_user(top.sp).unwrap_or(0)) {
            // At the same place a tail call has found the trampoline where a call has its return
            // address. Below it the trampoline may be left over from a call that is gone.
            state.slot = top.sp;
            return 1;
        }
        thread.abandon_top();
        0
    }
}

#[inline(always)]
fn this_thread() -> Option<&'static mut Thread> {
    let id = thread_id();
    if THREADS.get_ptr(id).is_none() && THREADS.insert(id, &NEW_THREAD, BPF_NOEXIST as u64).is_err()
    {
        return None;
    }
    // SAFETY: only the running thread touches its own entry, and it runs one probe at a time.
    THREADS
        .get_ptr_mut(id)
        .map(|thread| unsafe { &mut *thread })
}

/// The entry of a function that gives a block out.
#[inline(always)]
pub fn enter(ctx: &ProbeContext, request: impl FnOnce([u64; 3]) -> Request) -> u32 {
    if control(Control::Active) == 0 {
        return 0;
    }
    let regs = registers(ctx);
    let sp = arch::entry_sp(regs);
    let Some(thread) = this_thread() else {
        count(Counter::ThreadsFull);
        return 0;
    };
    if !thread.admits(sp, arch::frame_pointer(regs)) {
        return 0;
    }
    let depth = thread.depth;
    if depth >= MAX_NESTED_CALLS as u64 {
        count(Counter::NestedTooDeep);
        debug!(ctx, "{} allocator calls on top of one another", depth);
        return 0;
    }
    let Some(ip) = arch::return_address(sp) else {
        count(Counter::UnreadableMemory);
        return 0;
    };
    let request = request(arch::arguments(regs));
    let call = thread.call(depth);
    call.sp = sp;
    call.ip = ip;
    call.kind = request.kind as u64;
    call.size = request.size;
    call.address = request.address;
    call.handler_below = 0;
    call.handler_elsewhere = 0;
    call.has_old = 0;
    if request.kind == Kind::Replaced && request.address != 0 {
        // From here on another thread may be given the old address.
        match blocks::take(request.address) {
            Some(old) => {
                call.old = old;
                call.has_old = 1;
            }
            None => count(Counter::UnknownFrees),
        }
    }
    let start = Start {
        ip,
        sp,
        fp: arch::frame_pointer(regs),
    };
    (call.stack, call.frames) = stack::identify(start);
    thread.depth = depth + 1;
    0
}

/// The return of a function that gives a block out.
#[inline(always)]
pub fn leave(ctx: &RetProbeContext) -> u32 {
    // SAFETY: as in `this_thread`.
    let Some(thread) = THREADS
        .get_ptr_mut(thread_id())
        .map(|thread| unsafe { &mut *thread })
    else {
        return 0;
    };
    let regs = registers(ctx);
    let sp = arch::entry_sp_at_return(regs);
    let Some(found) = (0..MAX_NESTED_CALLS as u64)
        .rev()
        .find(|&level| level < thread.depth && thread.call(level).sp == sp)
    else {
        return 0;
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
    finish(thread.call(level), regs);
    0
}

/// Records what a call gave out and took back.
#[inline(always)]
fn finish(call: &mut Call, regs: &pt_regs) {
    if control(Control::Active) == 0 {
        if call.has_old != 0 {
            // Recording ended in between: leave things as they were at the entry.
            blocks::put_back(call.address, &call.old);
        }
        return;
    }
    let result = arch::result(regs);
    let address = if call.kind == Kind::Stored as u64 {
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
            blocks::freed(&call.old);
        } else {
            blocks::put_back(call.address, &call.old);
        }
        call.has_old = 0;
    }
    if address == 0 {
        if call.kind != Kind::Replaced as u64 || call.size != 0 {
            count(Counter::FailedCalls);
        }
        return;
    }
    if call.size < MIN_SIZE.load() || call.size > MAX_SIZE.load() {
        return;
    }
    // SAFETY: the helper has no preconditions.
    let time = unsafe { bpf_ktime_get_ns() };
    let block = Block {
        size: call.size,
        stack: call.stack,
        time,
    };
    let start = Start {
        ip: arch::return_address_at_return(regs),
        sp: call.sp,
        fp: arch::frame_pointer(regs),
    };
    blocks::record(address, &block, &start, call.frames);
}

/// The entry of a function that takes a block back.
#[inline(always)]
pub fn free(ctx: &ProbeContext) -> u32 {
    let regs = registers(ctx);
    let address = arch::arguments(regs)[0];
    if address == 0 || control(Control::Active) == 0 {
        return 0;
    }
    let sp = arch::entry_sp(regs);
    // SAFETY: as in `this_thread`.
    let mut thread = THREADS
        .get_ptr_mut(thread_id())
        .map(|thread| unsafe { &mut *thread });
    if let Some(thread) = &mut thread
        && thread.depth != 0
        && !thread.admits(sp, arch::frame_pointer(regs))
    {
        return 0;
    }
    match blocks::take(address) {
        Some(block) => {
            blocks::freed(&block);
            if let Some(thread) = thread {
                thread.freed = address;
                thread.freed_sp = sp;
            }
        }
        // free_sized may call free: the same block again, further down.
        None if thread.is_some_and(|thread| thread.freed == address && sp <= thread.freed_sp) => {}
        None => count(Counter::UnknownFrees),
    }
    0
}

/// A handler is about to run on top of the thread's call in flight, if it has one. `sp` is the
/// stack pointer of the interrupted code; `elsewhere` tells that the handler asked for an
/// alternate stack.
#[inline(always)]
pub fn interrupt(sp: u64, elsewhere: bool) {
    // SAFETY: as in `this_thread`.
    let Some(thread) = THREADS
        .get_ptr_mut(thread_id())
        .map(|thread| unsafe { &mut *thread })
    else {
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
