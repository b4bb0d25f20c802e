//! Walks the target's stack, behind two functions: [`identify`] and [`announce`].
//!
//! The first frame is the return address of the probed call, which is always there; the frames
//! below it come from the chain of frame pointers, as far as the code keeps one. A stack is
//! identified by a 64-bit hash of its frames; the frames themselves are walked a second time, and
//! sent, only when the hash is new.

use core::ffi::{c_long, c_void};

use aya_ebpf::helpers::bpf_probe_read_user;
use aya_ebpf::helpers::generated::bpf_loop;
use leakprobe_common::{
    Counter, EventKind, MAX_FRAMES, SMALL_FRAMES, STACK_CUT, StackEvent, StackKey,
};

use crate::maps::{EVENTS, count, opaque};

/// A frame larger than this is not believed: the word was not a frame pointer.
const MAX_FRAME_SIZE: u64 = 8 << 20;

/// End of user addresses with five-level page tables; larger words are no return addresses.
const MAX_ADDRESS: u64 = 1 << 56;

/// Where a walk starts: the caller of the probed function.
#[derive(Clone, Copy)]
pub struct Start {
    /// Return address of the probed call.
    pub ip: u64,
    /// Stack pointer when the probed function was entered.
    pub sp: u64,
    /// Frame pointer of the caller.
    pub fp: u64,
}

struct Walk {
    fp: u64,
    lowest: u64,
    hash: u64,
    len: u64,
    /// Room for `capacity` frames; only looked at by a walk that keeps them.
    frames: *mut u64,
    capacity: u64,
    cut: u64,
}

impl Walk {
    #[inline(always)]
    fn push<const KEEP: bool>(&mut self, index: u64, ip: u64) {
        if KEEP {
            let index = opaque(index) & (MAX_FRAMES as u64);
            if index < self.capacity {
                // SAFETY: `frames` has room for `capacity` words.
                unsafe { self.frames.add(index as usize).write(ip) };
            }
        }
        // Multiply and rotate: each step is a bijection of the hash for a given frame.
        self.hash = (self.hash ^ ip)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(29);
        self.len = index + 1;
    }
}

/// One step down the chain of frame pointers; 1 ends the walk. The number of the frame comes from
/// the loop's index, which the verifier takes for any number: a counter of our own it would follow
/// through all its values.
unsafe extern "C" fn step<const KEEP: bool>(index: u32, walk: *mut c_void) -> c_long {
    // SAFETY: `bpf_loop` passes on what `walk` gave it.
    let walk = unsafe { &mut *walk.cast::<Walk>() };
    let fp = walk.fp;
    if fp & 7 != 0 || fp <= walk.lowest || fp - walk.lowest > MAX_FRAME_SIZE {
        return 1;
    }
    // SAFETY: the helper checks the address.
    let Ok([next, ip]) = (unsafe { bpf_probe_read_user(fp as *const [u64; 2]) }) else {
        return 1;
    };
    if ip < 4096 || ip >= MAX_ADDRESS {
        return 1;
    }
    let index = u64::from(index) + 1;
    if index >= MAX_FRAMES as u64 {
        walk.cut = STACK_CUT;
        return 1;
    }
    walk.push::<KEEP>(index, ip);
    walk.lowest = fp;
    walk.fp = next;
    0
}

/// Walks from `start`. With `KEEP` the frames go to `frames`; without, only the hash is made. (Two
/// callbacks, because the verifier forgets that a pointer was null when a loop calls back.)
#[inline(always)]
fn walk<const KEEP: bool>(start: Start, frames: *mut u64, capacity: u64) -> Walk {
    let mut walk = Walk {
        fp: start.fp,
        lowest: start.sp,
        hash: 0,
        len: 0,
        frames,
        capacity,
        cut: 0,
    };
    walk.push::<KEEP>(0, start.ip);
    let callback: unsafe extern "C" fn(u32, *mut c_void) -> c_long = step::<KEEP>;
    // SAFETY: the callback gets a pointer to `walk`, which outlives the loop.
    unsafe {
        bpf_loop(
            MAX_FRAMES as u32,
            core::mem::transmute::<unsafe extern "C" fn(u32, *mut c_void) -> c_long, *mut c_void>(
                callback,
            ),
            (&raw mut walk).cast(),
            0,
        );
    }
    walk
}

/// Id of the stack, its number of frames, and whether it was cut.
#[inline(always)]
pub fn identify(start: Start) -> (u64, u64) {
    let walk = walk::<false>(start, core::ptr::null_mut(), 0);
    if walk.cut != 0 {
        count(Counter::StacksCut);
    }
    (finish(&walk), walk.len)
}

#[inline(always)]
fn finish(walk: &Walk) -> u64 {
    (walk.hash ^ walk.len).wrapping_mul(0xff51_afd7_ed55_8ccd)
}

/// Sends the frames of a stack that [`identify`] gave this id. False if there was no room, or if
/// the stack is no longer the same.
#[inline(never)]
pub fn announce(start: &Start, key: &StackKey, len: u64) -> u64 {
    if len <= SMALL_FRAMES as u64 {
        send::<SMALL_FRAMES>(*start, *key)
    } else {
        send::<MAX_FRAMES>(*start, *key)
    }
}

#[inline(always)]
fn send<const N: usize>(start: Start, key: StackKey) -> u64 {
    let Some(mut entry) = EVENTS.reserve::<StackEvent<N>>(0) else {
        return 0;
    };
    let event = entry.as_mut_ptr();
    // SAFETY: the reservation is one StackEvent<N> large; its frames have room for N words.
    let walk = unsafe {
        (*event).kind = EventKind::Stack as u64;
        (*event).key = key;
        let walk = walk::<true>(start, (&raw mut (*event).frames).cast(), N as u64);
        (*event).len = walk.len | walk.cut;
        walk
    };
    if finish(&walk) == key.id && walk.len <= N as u64 {
        entry.submit(0);
        1
    } else {
        entry.discard(0);
        0
    }
}
