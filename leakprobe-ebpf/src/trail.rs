//! The trail of the last walk: where it was at each frame, and which words of the stack led on from
//! there. Where a walk comes to the same place, and finds the same words, it goes the same way, at a
//! fifth of the price. Nothing is taken from the trail that was not read again.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_probe_read_user;
use leakprobe_common::MAX_FRAMES;

use crate::arch;
use crate::maps::opaque;
use crate::thread::Thread;
use crate::unwind::Tables;

/// A place on the way of a walk: where it was after a frame.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Step {
    /// Stack pointer; the return address that led here is right below.
    pub sp: u64,
    pub fp: u64,
    /// The frame.
    pub ip: u64,
    /// Where the frame pointer was read; 0 if it stayed as it was, [`ALONE`] if the same words on the
    /// stack need not lead here again.
    pub fp_place: u64,
}

/// See [`Step::fp_place`].
pub const ALONE: u64 = 1;

/// The way of a whole walk.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Trail {
    /// Number of the tables it was walked by.
    pub tables: Tables,
    pub len: u64,
    pub steps: [Step; MAX_FRAMES + 1],
}

impl Trail {
    /// Nothing.
    pub const NONE: Self = Self {
        tables: Tables::NONE,
        len: 0,
        steps: [Step {
            sp: 0,
            fp: 0,
            ip: 0,
            fp_place: 0,
        }; MAX_FRAMES + 1],
    };

    #[inline(always)]
    fn step(&mut self, index: u64) -> &mut Step {
        let index = opaque(index) & (MAX_FRAMES as u64);
        // SAFETY: the mask, of a power of two less one, keeps the index in range.
        unsafe { self.steps.get_unchecked_mut(index as usize) }
    }
}

/// Words of the stack that are looked at together.
pub const WINDOW: usize = 128;
impl Thread {
    /// The trail that is being laid, and the last walk's.
    #[inline(always)]
    pub fn trail(&mut self, which: u64) -> &mut Trail {
        let which = opaque(which) & 1;
        // SAFETY: the mask keeps it below 2.
        unsafe { self.trails.get_unchecked_mut(which as usize) }
    }

    /// Lays a step, and finds out whether the last walk came by here.
    #[inline(always)]
    pub fn lay(&mut self, index: u64, step: Step) {
        let (laid, mut at) = (self.walk.trail, self.walk.at);
        let trail = self.trail(laid);
        *trail.step(index) = step;
        trail.len = index + 1;
        let last = self.trail(laid ^ 1);
        let len = last.len;
        // It goes on towards higher addresses, as stacks do.
        let mut tries = 0;
        while tries < 3 {
            if at < len && last.step(at).sp < step.sp {
                at += 1;
            }
            tries += 1;
        }
        let met = *last.step(at);
        self.walk.at = at;
        self.walk.following =
            (at < len && met.sp == step.sp && met.ip == step.ip && met.fp == step.fp) as u64;
    }

    /// A word of the stack, through the window. `None` if it cannot be had that way.
    #[inline(always)]
    fn word(&mut self, place: u64) -> Option<u64> {
        let offset = place.wrapping_sub(self.walk.window);
        if offset & 7 != 0 || offset >= WINDOW as u64 * 8 {
            return None;
        }
        let index = opaque(offset >> 3) & (WINDOW as u64 - 1);
        // SAFETY: the mask keeps the index in range.
        Some(unsafe { *self.window.get_unchecked(index as usize) })
    }

    /// One frame up, the way that the last walk went. False if it cannot be told to be the same.
    ///
    /// It is, if it came by the same place and the same words are where it went on by.
    #[inline(always)]
    pub fn follow(&mut self, index: u64) -> bool {
        let (laid, at) = (self.walk.trail, self.walk.at + 1);
        let last = self.trail(laid ^ 1);
        let step = *last.step(at);
        if at >= last.len || step.fp_place == ALONE || index >= MAX_FRAMES as u64 {
            return false;
        }
        let place = step.sp.wrapping_sub(arch::RETURN_ADDRESS_BELOW_CFA);
        let first = if step.fp_place != 0 && step.fp_place < place {
            step.fp_place
        } else {
            place
        };
        if first.wrapping_sub(self.walk.window) >= WINDOW as u64 * 8
            || place.wrapping_sub(self.walk.window) >= WINDOW as u64 * 8
        {
            self.walk.window = first;
            // SAFETY: the helper checks the address, and writes no more than the window.
            let status = unsafe {
                bpf_probe_read_user(
                    (&raw mut self.window).cast(),
                    size_of::<[u64; WINDOW]>() as u32,
                    first as *const c_void,
                )
            };
            if status != 0 {
                self.walk.window = 0;
                return false;
            }
        }
        if self.word(place) != Some(step.ip)
            || (step.fp_place != 0 && self.word(step.fp_place) != Some(step.fp))
        {
            return false;
        }
        self.push(index, step.ip);
        let trail = self.trail(laid);
        *trail.step(index) = step;
        trail.len = index + 1;
        let walk = &mut self.walk;
        (walk.address, walk.sp, walk.fp) = (step.ip.wrapping_sub(1), step.sp, step.fp);
        walk.at = at;
        true
    }
}
