//! What is known of a thread: its allocator calls in flight, and which new ones are outermost.
//!
//! Only the outermost call of a thread counts: calloc may call malloc inside. A call is paired
//! with its return by the stack pointer it was entered with, so no depth counter can drift.
//! Calls that are not nested, although another seems to be in flight, are told apart:
//!
//! - a call that does not come from the one below counts on its own: that one was left by longjmp.
//!   Where it comes from, its stack tells; where that cannot be followed, whether it is called from
//!   the allocator's own code;
//! - so does a call of a signal handler, wherever it comes from: the signal was marked on the call
//!   that it interrupted ([`crate::call::interrupt`]);
//! - a call whose return address is no longer the kernel's trampoline, or past which the stack has
//!   shrunk, was left by longjmp or an exception. It is dropped and counted.

use core::ffi::{c_long, c_void};

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_ktime_get_ns, bpf_loop};
use leakprobe_common::{
    Block, Control, Counter, MAX_FRAMES, MAX_NESTED_CALLS, StackEvent, StackKey,
};

use crate::maps::{THREADS, count, opaque, read_user, thread_id};
use crate::process::{MANY, Owner, is_in_allocator, view};
use crate::stack;
use crate::trail::{Trail, WINDOW};
use crate::walk::{Start, Walk};
use crate::{arch, blocks};

/// An allocator call in flight.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Call {
    /// Stack pointer at entry: who this call is.
    pub sp: u64,
    /// Return address.
    pub ip: u64,
    /// [`leakprobe_common::Gives`].
    pub kind: u64,
    /// Bytes asked for.
    pub size: u64,
    /// Where the result goes, or the old block.
    pub address: u64,
    /// Id of the stack, taken at entry.
    pub stack: u64,
    /// Its second hash.
    pub check: u64,
    /// Probability with which the block is recorded, as in [`Block`]; 0 if it is not.
    pub chance: u64,
    /// 1 if the frames of that stack were sent already.
    pub announced: u64,
    /// Below this stack pointer runs a signal handler that interrupted the call; 0: none did.
    pub handler_below: u64,
    /// 1 if that handler may run on an alternate stack.
    pub handler_elsewhere: u64,
    /// 1 if `old` holds a block that leaves with this call.
    pub has_old: u64,
    /// The block that is being replaced.
    pub old: Block,
}

/// Where a return address was, and what it was.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Return {
    pub place: u64,
    pub address: u64,
}

/// A call that was not to be recorded, but may have left all to another function.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Skipped {
    /// Stack pointer at entry.
    pub sp: u64,
    /// Return address.
    pub ip: u64,
    /// Where the probe is that it was seen by.
    pub probe: u64,
}

/// What is known of a thread.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Thread {
    /// Number of its address space.
    pub space: u64,
    /// Number of its program.
    pub program: u64,
    /// Calls in flight: one, and one more for each signal handler on top of another.
    pub depth: u64,
    /// The block freed last, and the stack pointer of that call.
    pub freed: u64,
    pub freed_sp: u64,
    /// The kernel's tick when it last asked for the time, and the time then.
    tick: u64,
    time: u64,
    pub calls: [Call; MAX_NESTED_CALLS],
    /// The last call left out by chance.
    pub skipped: Skipped,
    /// How many nested calls there were, which is where the next one's return address goes.
    pub nested: u64,
    /// Return addresses of the nested calls last seen, which the kernel replaced like those of `calls`.
    pub returns: [Return; MAX_NESTED_CALLS],
    /// The walk of its stack that is under way.
    pub walk: Walk,
    /// The stack walked last, as it is sent.
    pub trace: StackEvent,
    /// The ways of the last two walks.
    pub trails: [Trail; 2],
    /// A part of the stack.
    pub window: [u64; WINDOW],
    /// In growth mode: its faults up to the one that was recorded last.
    pub faults: u64,
}

const NO_CALL: Call = Call {
    sp: 0,
    ip: 0,
    kind: 0,
    size: 0,
    address: 0,
    stack: 0,
    check: 0,
    chance: 0,
    announced: 0,
    handler_below: 0,
    handler_elsewhere: 0,
    has_old: 0,
    old: Block {
        size: 0,
        stack: 0,
        time: 0,
        chance: 0,
    },
};

/// What a thread starts with; in a map section, because it is too large for the BPF stack.
static NEW_THREAD: Thread = Thread {
    space: 0,
    program: 0,
    depth: 0,
    freed: 0,
    freed_sp: 0,
    tick: 0,
    time: 0,
    calls: [NO_CALL; MAX_NESTED_CALLS],
    skipped: Skipped {
        sp: 0,
        ip: 0,
        probe: 0,
    },
    nested: 0,
    returns: [Return {
        place: 0,
        address: 0,
    }; MAX_NESTED_CALLS],
    walk: Walk::NONE,
    trace: StackEvent {
        kind: 0,
        key: StackKey { id: 0, program: 0 },
        space: 0,
        len: 0,
        frames: [0; MAX_FRAMES + 1],
    },
    trails: [Trail::NONE; 2],
    window: [0; WINDOW],
    faults: 0,
};

impl Thread {
    /// Whose its calls are.
    #[inline(always)]
    pub fn owner(&self) -> Owner {
        Owner {
            space: self.space,
            program: self.program,
        }
    }

    /// The time, ns: as of its first question in this tick of the kernel (1 to 10 ms), because to read the clock
    /// takes some 50 ns. Of many processes exact, for it tells whether a block is from before a fork.
    #[inline(always)]
    pub fn now(&mut self) -> u64 {
        // SAFETY: the helpers have no preconditions.
        let tick = unsafe { bpf_jiffies64() };
        if tick != self.tick || MANY.load() != 0 {
            self.tick = tick;
            self.time = unsafe { bpf_ktime_get_ns() };
        }
        self.time
    }

    /// The call at a level, counted from the outermost; levels beyond the last wrap around, since
    /// a bounds check would panic, which a BPF program cannot.
    #[inline(always)]
    pub fn call(&mut self, level: u64) -> &mut Call {
        let level = opaque(level) & (MAX_NESTED_CALLS as u64 - 1);
        // SAFETY: the mask keeps the level below MAX_NESTED_CALLS, a power of two.
        unsafe { self.calls.get_unchecked_mut(level as usize) }
    }

    /// The innermost call in flight.
    #[inline(always)]
    pub fn top(&mut self) -> Option<&mut Call> {
        let depth = self.depth;
        (depth != 0).then(|| self.call(depth - 1))
    }

    /// Notes the return address of a nested call, which a signal handler's stack may lead through.
    #[inline(always)]
    pub fn note_nested(&mut self, place: u64) {
        // A tail call finds the trampoline there, whose real address is known already.
        if let Some(address) = arch::return_address(place)
            && address & 4095 != 0
        {
            let slot = opaque(self.nested) & (MAX_NESTED_CALLS as u64 - 1);
            // SAFETY: the mask keeps the slot below MAX_NESTED_CALLS, a power of two.
            unsafe {
                *self.returns.get_unchecked_mut(slot as usize) = Return { place, address };
            }
            self.nested = self.nested.wrapping_add(1);
        }
    }

    /// Drops the innermost call, which will never return.
    #[inline(always)]
    fn abandon_top(&mut self) {
        count(Counter::AbandonedCalls);
        if let Some(call) = self.top() {
            if call.has_old != 0 {
                // Nobody knows whether realloc had already freed it. Kept is the safe answer.
                let (address, old) = (call.address, call.old);
                call.has_old = 0;
                blocks::put_back(address, &old, self.owner());
            }
            self.depth -= 1;
        }
    }

    /// Whether a call entered at `sp` is an outermost one. Drops abandoned calls on the way.
    #[inline(always)]
    pub fn admits(&mut self, sp: u64, fp: u64) -> bool {
        if self.depth == 0 {
            return true;
        }
        let mut admission = Admission {
            thread: self,
            sp,
            ip: arch::return_address(sp).unwrap_or(0),
            trampoline: view(Control::Trampoline, self.space),
            slot: 0,
        };
        repeat(MAX_NESTED_CALLS as u32, Admission::step, &mut admission);
        let (slot, ip, trampoline) = (admission.slot, admission.ip, admission.trampoline);
        if slot == 0 {
            return true;
        }
        // Where a nested call returns to the kernel's trampoline, what it leaves all to does, too. (Others'
        // probes on the same library put it there, even if ours spare that return.)
        slot != sp
            && !is_trampoline(ip, trampoline, sp)
            && !self.comes_from(Start { ip, sp, fp }, slot)
    }

    /// Whether a call comes from the one whose return address is at `slot`.
    #[inline(always)]
    fn comes_from(&mut self, start: Start, slot: u64) -> bool {
        stack::passes(start, slot, self).unwrap_or_else(|| {
            view(Control::Allocators, self.space) == 0 || is_in_allocator(start.ip, self.space) != 0
        })
    }

    /// Drops calls until `depth` are left.
    #[inline(always)]
    pub fn abandon_down_to(&mut self, depth: u64) {
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
pub fn repeat<T>(
    times: u32,
    step: unsafe extern "C" fn(u32, *mut c_void) -> c_long,
    state: &mut T,
) {
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
    /// Where the innermost call has its return address, if that is still the trampoline.
    slot: u64,
}

/// Whether a word of the stack is the kernel's return trampoline. It is mapped above the stack,
/// as high as there is room, at the first return that is probed; until the user side has seen
/// it there (`known`), a page's first address above the stack is taken for it. No call returns to one.
#[inline(always)]
pub fn is_trampoline(word: u64, known: u64, sp: u64) -> bool {
    if known != 0 {
        word == known
    } else {
        word & 4095 == 0 && word > sp
    }
}

impl Admission {
    #[inline(always)]
    fn is_trampoline(&self, word: u64) -> bool {
        is_trampoline(word, self.trampoline, self.sp)
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

/// The running thread, if it has called the allocator before.
#[inline(always)]
pub fn known_thread() -> Option<&'static mut Thread> {
    // SAFETY: only the running thread touches its own entry, and it runs one probe at a time.
    THREADS
        .get_ptr_mut(thread_id())
        .map(|thread| unsafe { &mut *thread })
}

/// The running thread, known from now on. `None` if there is no room for it.
#[inline(always)]
pub fn this_thread(owner: Owner) -> Option<&'static mut Thread> {
    let mut known = known_thread();
    if known.is_none() {
        THREADS
            .insert(thread_id(), &NEW_THREAD, BPF_NOEXIST as u64)
            .ok()?;
        known = known_thread();
    }
    let thread = known?;
    (thread.space, thread.program) = (owner.space, owner.program);
    Some(thread)
}
