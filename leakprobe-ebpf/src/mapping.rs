//! System calls that map and unmap memory, told to the user side one by one: it keeps the ranges.
//!
//! The probes are in the target's own code, in front of such a system call and behind it, so nobody else
//! pays for them. What takes addresses away is told in front: another thread may be given them before the
//! call returns. The order of the ring buffer is then the order in which the ranges changed hands.
//! They are told as long as the probes are in place, also while calls of allocators are not recorded.
//! An allocator's calls are its own, and told as such; its caller's blocks are counted elsewhere.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::{bpf_get_attach_cookie, bpf_ktime_get_ns, bpf_ringbuf_output};
use aya_ebpf::programs::ProbeContext;
use leakprobe_common::{
    Control, Counter, EventKind, MappingEvent, MappingSite, SYSTEM_CALLS, Signature, mapping_call,
};

use crate::growth::announced;
use crate::maps::{EVENTS, count, count_entered, in_time, opaque, read_user, registers, thread_id};
use crate::process::{Owner, view};
use crate::sample::passes_allocator;
use crate::thread::{Thread, is_trampoline, this_thread};
use crate::{arch, process, stack};

/// A place in front of a system call, or behind it.
#[inline(always)]
pub fn system_call(ctx: &ProbeContext) {
    let Some(owner) = process::owner() else {
        return;
    };
    count_entered((SYSTEM_CALLS as u64) << Signature::FUNCTION_SHIFT);
    // SAFETY: the helpers read the context of this program, or have no preconditions.
    let (cookie, time) = unsafe { (bpf_get_attach_cookie(ctx.as_ptr()), bpf_ktime_get_ns()) };
    let regs = registers(ctx);
    let mut event = MappingEvent {
        kind: EventKind::Mapping as u64,
        space: owner.space,
        program: owner.program,
        thread: thread_id().into(),
        time,
        call: cookie & (MappingSite::NUMBER | MappingSite::BEFORE),
        arguments: [0; 5],
        result: 0,
        stack: 0,
        by_allocator: 0,
    };
    if cookie & MappingSite::BEFORE != 0 {
        let all = arch::general_registers(regs);
        let argument = |shift: u32| all[(opaque(cookie >> shift) & 15) as usize];
        event.arguments[0] = argument(MappingSite::FIRST_SHIFT);
        event.arguments[1] = argument(MappingSite::SECOND_SHIFT);
    } else {
        event.arguments = arch::system_call_registers(regs);
        event.result = arch::result(regs);
        if cookie & MappingSite::NUMBER != mapping_call::MUNMAP as u64 {
            attribute(&mut event, regs, owner);
        }
    }
    // SAFETY: the event is as long as it says.
    let status = unsafe {
        bpf_ringbuf_output(
            (&raw const EVENTS).cast_mut().cast(),
            (&raw mut event).cast(),
            size_of::<MappingEvent>() as u64,
            in_time(),
        )
    };
    if status != 0 {
        count(Counter::MappingEventsLost);
    }
}

/// Finds out to whose account the call goes.
#[inline(always)]
fn attribute(event: &mut MappingEvent, regs: &aya_ebpf::bindings::pt_regs, owner: Owner) {
    let Some(thread) = this_thread(owner) else {
        return count(Counter::ThreadsFull);
    };
    let at = arch::here(regs);
    if let Some(stack) = thread.serves(at.sp) {
        // Its stack is being walked already, and told of when the allocator returns.
        (event.stack, event.by_allocator) = (stack, 1);
        return;
    }
    if thread.depth != 0 {
        // In a signal handler: the frames of the call that it interrupted are about to go.
        let depth = thread.depth;
        stack::announce_interrupted(thread, depth - 1);
    }
    let (id, check) = stack::identify_interrupted(at, thread);
    event.by_allocator = passes_allocator(thread) as u64;
    let keeps = event.call != mapping_call::MADVISE as u64;
    if keeps && event.by_allocator == 0 && announced(id, check, thread).is_some() {
        event.stack = id;
    }
}

impl Thread {
    /// The stack of the allocator call in flight that code at this stack pointer runs for, if there is
    /// one; 0 for one that is not recorded. One that was left, its return address may have outlived in a part
    /// of the stack that is in use again, but hardly ever has.
    #[inline(always)]
    fn serves(&mut self, sp: u64) -> Option<u64> {
        let known = view(Control::Trampoline, self.space);
        let call = self.top()?;
        let is_handler = call.handler_below != 0 && sp < call.handler_below;
        if sp > call.sp || is_handler || !is_trampoline(read_user(call.sp)?, known, sp) {
            return None;
        }
        Some(if call.chance != 0 { call.stack } else { 0 })
    }
}
