//! The most that was live: of each stack by itself, and of each stack at the moment when all of them together
//! had the most; and how old blocks are when they go.
//!
//! Nobody goes over all stacks at a peak: see [`Peak`]. What is live of all stacks is a sum by CPU, which is
//! moved to a shared one in grains, so that no CPU waits for another at each call. In growth mode nothing of
//! this is done: there, what has gone only the user side knows.

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, PerCpuArray};
use leakprobe_common::{AGES, Block, PEAK_GRAIN, Peak, StackTotals, age_class};

use crate::maps::{add, opaque};

/// What all CPUs know.
#[map]
pub static PEAK: Array<Peak> = Array::with_max_entries(1, 0);

/// By how many bytes what is live has changed on a CPU that is not in [`PEAK`] yet; negative numbers too.
#[map]
pub static CHANGES: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// A stack has allocated so many bytes.
///
/// # Safety
///
/// `totals` is a map value.
#[inline(always)]
pub unsafe fn allocated(totals: *mut StackTotals, bytes: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        save(totals);
        add(&raw mut (*totals).allocated_bytes, bytes);
        let live = live(totals);
        if live > core::ptr::read_volatile(&raw const (*totals).peak_bytes) {
            core::ptr::write_volatile(&raw mut (*totals).peak_bytes, live);
        }
    }
    change(bytes as i64);
}

/// So many bytes of a stack, which are this block, were freed now.
///
/// # Safety
///
/// As of [`allocated`].
#[inline(always)]
pub unsafe fn freed(totals: *mut StackTotals, bytes: u64, block: &Block, now: u64) {
    // SAFETY: the caller's promise, and the mask keeps the class within the array, the length of which is a
    // power of two.
    unsafe {
        save(totals);
        add(&raw mut (*totals).freed_bytes, bytes);
        let class = age_class(now.saturating_sub(block.time));
        if class < AGES {
            let class = opaque(class as u64) & (AGES as u64 - 1);
            let ages = (&raw mut (*totals).freed_by_age).cast::<u64>();
            add(ages.add(class as usize), bytes);
        }
    }
    change(-(bytes as i64));
}

/// The only process has executed another program: nothing is live.
#[inline(always)]
pub fn start_over() {
    let Some(peak) = PEAK.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: map values stay valid while the program runs. No other thread of the process is left.
    unsafe {
        core::ptr::write_volatile(&raw mut (*peak).live_bytes, 0);
        core::ptr::write_volatile(&raw mut (*peak).bytes, 0);
        core::ptr::write_volatile(&raw mut (*peak).time, 0);
        add(&raw mut (*peak).epoch, 1);
    }
}

/// What a stack has live, bytes. Of a block that another CPU is about to count, the end may be counted first.
#[inline(always)]
unsafe fn live(totals: *const StackTotals) -> u64 {
    // SAFETY: the caller has a map value.
    unsafe {
        let allocated = core::ptr::read_volatile(&raw const (*totals).allocated_bytes);
        let freed = core::ptr::read_volatile(&raw const (*totals).freed_bytes);
        allocated.saturating_sub(freed)
    }
}

/// Saves what a stack has live if that is its first change since an epoch began. A change that another CPU
/// makes right now may be in it or not.
#[inline(always)]
unsafe fn save(totals: *mut StackTotals) {
    let Some(peak) = PEAK.get_ptr(0) else { return };
    // SAFETY: the caller has a map value, and this is one.
    unsafe {
        let epoch = core::ptr::read_volatile(&raw const (*peak).epoch);
        if core::ptr::read_volatile(&raw const (*totals).epoch) != epoch {
            core::ptr::write_volatile(&raw mut (*totals).at_peak_bytes, live(totals));
            core::ptr::write_volatile(&raw mut (*totals).epoch, epoch);
        }
    }
}

/// What is live of all stacks has changed by so many bytes.
#[inline(always)]
fn change(bytes: i64) {
    let mut moved = bytes;
    // A large change is not for others to move that interrupt this: they would move it once more, until the
    // next puts it right, and the peak is what was never there.
    if is_small(bytes) {
        let Some(own) = CHANGES.get_ptr_mut(0) else {
            return;
        };
        add(own, bytes as u64);
        // SAFETY: map values stay valid while the program runs.
        moved = unsafe { core::ptr::read_volatile(own) } as i64;
        if is_small(moved) {
            return;
        }
        add(own, moved.wrapping_neg() as u64);
    }
    rise(moved);
}

#[inline(always)]
fn is_small(bytes: i64) -> bool {
    (bytes.wrapping_add(PEAK_GRAIN as i64) as u64) < 2 * PEAK_GRAIN
}

/// Tells all CPUs of a change. If that makes more live than ever, an epoch begins.
#[inline(never)]
fn rise(bytes: i64) -> u64 {
    let Some(peak) = PEAK.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: map values stay valid while the program runs. Of two CPUs that find a peak at the same time, the
    // lower may stay: the next change is measured by it.
    unsafe {
        add(&raw mut (*peak).live_bytes, bytes as u64);
        let live = core::ptr::read_volatile(&raw const (*peak).live_bytes) as i64;
        if live > core::ptr::read_volatile(&raw const (*peak).bytes) as i64 {
            core::ptr::write_volatile(&raw mut (*peak).bytes, live as u64);
            core::ptr::write_volatile(&raw mut (*peak).time, bpf_ktime_get_ns());
            add(&raw mut (*peak).epoch, 1);
        }
    }
    0
}
