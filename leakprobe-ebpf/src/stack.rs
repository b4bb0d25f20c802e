//! Stacks, behind [`identify`], [`announce`] and [`passes`].
//!
//! The first frame is the return address of the probed call, which is always there; [`crate::walk`]
//! finds each frame below it. A stack is identified by a 64-bit hash of its frames and of how it ends,
//! and a second hash tells when two stacks share one. The frames stay with the thread until its next
//! walk, and are sent only when the hash is new.

use aya_ebpf::helpers::generated::bpf_ringbuf_output;
use leakprobe_common::{Counter, EventKind, MAX_FRAMES, STACK_END_SHIFT, StackEnd, StackEvent};

use crate::arch::Interrupted;
use crate::maps::{AT_ONCE, EVENTS, count, opaque};
use crate::thread::Thread;
use crate::walk::{BEYOND, EXACTLY, Position, Start, walk, walk_from};

/// Whether a frame of the stack has its return address at `place`. `None` if the stack could not be
/// followed that far.
#[inline(always)]
pub fn passes(start: Start, place: u64, thread: &mut Thread) -> Option<bool> {
    walk(start, place, thread);
    match thread.walk.met {
        EXACTLY => Some(true),
        BEYOND => Some(false),
        _ => None,
    }
}

/// Walks the stack of a thread and tells its id and its check.
#[inline(always)]
pub fn identify(start: Start, thread: &mut Thread) -> (u64, u64) {
    walk(start, 0, thread);
    identity(thread)
}

/// The same for a thread that did not call anything, but was interrupted.
#[inline(always)]
pub fn identify_interrupted(at: Interrupted, thread: &mut Thread) -> (u64, u64) {
    walk_from(Position::interrupted(at), 0, thread);
    identity(thread)
}

/// What the stack walked last is known by.
#[inline(always)]
fn identity(thread: &mut Thread) -> (u64, u64) {
    let walk = &thread.walk;
    if walk.end != StackEnd::Start as u64 {
        count_end(walk.end);
    }
    let len = walk.len | walk.end << STACK_END_SHIFT;
    let id = (walk.hash ^ len).wrapping_mul(0xff51_afd7_ed55_8ccd);
    thread.trace.len = len;
    thread.trace.key.id = id;
    (id, thread.walk.check ^ len)
}

/// Counts an unfinished stack under the name of its end.
#[inline(never)]
fn count_end(end: u64) -> u64 {
    count(match end {
        end if end == StackEnd::DepthLimit as u64 => Counter::StacksCut,
        end if end == StackEnd::NoMapping as u64 => Counter::StacksNoMapping,
        end if end == StackEnd::NoRow as u64 => Counter::StacksNoRow,
        end if end == StackEnd::Unsupported as u64 => Counter::StacksUnsupported,
        end if end == StackEnd::UnreadableStack as u64 => Counter::StacksUnreadable,
        _ => Counter::StacksWrongWay,
    });
    0
}

/// Sends the frames of a stack that [`identify`] gave this id; 0 if there was no room, or if the
/// thread has walked another stack since (in a signal handler).
#[inline(always)]
pub fn announce(thread: &mut Thread, id: u64) -> u64 {
    let owner = thread.owner();
    let trace = &mut thread.trace;
    if trace.key.id != id {
        return 0;
    }
    trace.kind = EventKind::Stack as u64;
    trace.key.program = owner.program;
    trace.space = owner.space;
    let frames = opaque(trace.len) & (MAX_FRAMES as u64);
    let size = core::mem::offset_of!(StackEvent, frames) as u64 + frames * 8;
    // SAFETY: the size never goes beyond the trace: the mask is its number of frames less one.
    let status = unsafe {
        bpf_ringbuf_output(
            (&raw const EVENTS).cast_mut().cast(),
            (&raw mut *trace).cast(),
            size,
            AT_ONCE,
        )
    };
    (status == 0) as u64
}

/// Sends the frames of a call that a signal handler has interrupted, before they are written over.
#[inline(never)]
pub fn announce_interrupted(thread: &mut Thread, level: u64) -> u64 {
    let id = thread.call(level).stack;
    let sent = announce(thread, id);
    let call = thread.call(level);
    if call.announced == 0 {
        call.announced = sent;
    }
    sent
}
