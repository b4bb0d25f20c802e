//! Growth mode: pages that `mremap` moves to other addresses keep their stacks.
//!
//! Which pages are recorded, the address of their fault decides. A page that has moved is on record at an address
//! that need not be chosen: the regions that pages have moved from and to are known, and there a fault of any page
//! ends what is on record at its address.

use core::ffi::c_void;

use aya_ebpf::bindings::{BPF_ANY, BPF_F_NO_PREALLOC};
use aya_ebpf::cty::c_long;
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::HashMap;
use aya_ebpf::programs::ProbeContext;
use leakprobe_common::{Block, BlockKey, Control, Counter, HUGE_BYTES, HUGE_MARK, PAGE_BYTES};

use crate::arch;
use crate::blocks::{find, insert, knows, take};
use crate::growth::{chance, gone, is_error, is_recorded, whole};
use crate::maps::{add, control, count, registers, set_control};
use crate::process::{Owner, owner};
use crate::thread::repeat;

/// What is known of a region of the size of a huge page that pages have moved from or to.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Region {
    /// How often pages have moved away.
    away: u64,
    /// When the call came that was the first, ns.
    since: u64,
}

/// Those regions; the key is the first address.
#[map]
pub static MOVED: HashMap<BlockKey, Region> = HashMap::with_max_entries(1 << 16, BPF_F_NO_PREALLOC);

/// Regions that one call can move: 128 GiB.
const MOST_REGIONS: u64 = 1 << 16;

/// Behind the system call `mremap(address, old_length, new_length, ..)` in the code of the target.
#[inline(always)]
pub fn after_mremap(ctx: &ProbeContext) {
    let regs = registers(ctx);
    let [address, old, new, ..] = arch::system_call_registers(regs);
    if control(Control::Active) != 0 {
        remapped(address, old.min(new), arch::result(regs));
    }
}

/// How often pages have moved away from the region of an address; `None` if none have moved from it or to it.
#[inline(always)]
pub fn of_region(address: u64) -> Option<u64> {
    if control(Control::Moved) == 0 {
        return None;
    }
    let region = known(address, owner()?.space)?;
    // SAFETY: map values stay valid while the program runs; an aligned word is read whole.
    Some(unsafe { core::ptr::read_volatile(&raw const (*region).away) })
}

/// A page has come where it is not recorded: one that was moved there has gone.
#[inline(always)]
pub fn replaced(page: u64) {
    let Some(owner) = owner() else { return };
    if let Some(old) = take(page, owner) {
        gone(&old, owner);
    }
}

/// `length` bytes were moved `from` an address, if the `result` is another one.
#[inline(always)]
pub fn remapped(from: u64, length: u64, result: u64) {
    let length = whole(length);
    if is_error(result) || result == from || length == 0 {
        return;
    }
    let Some(Owner { space, program }) = owner() else {
        return;
    };
    set_control(Control::Moved, 1);
    let regions = (from.wrapping_add(length - 1) / HUGE_BYTES).wrapping_sub(from / HUGE_BYTES);
    if regions >= MOST_REGIONS {
        return count(Counter::MovesFull);
    }
    let mut moved = Moved {
        from,
        end: from.wrapping_add(length),
        distance: result.wrapping_sub(from),
        space,
        program,
        // SAFETY: the helper has no preconditions.
        now: unsafe { bpf_ktime_get_ns() },
    };
    repeat(regions as u32 + 1, Moved::region, &mut moved);
}

fn region_of(address: u64) -> u64 {
    address & !(HUGE_BYTES - 1)
}

#[inline(always)]
fn known(address: u64, space: u64) -> Option<*mut Region> {
    let address = region_of(address);
    MOVED.get_ptr_mut(BlockKey { address, space })
}

/// A part of memory that was moved.
struct Moved {
    from: u64,
    end: u64,
    distance: u64,
    space: u64,
    program: u64,
    /// What is on record from later on is not meant.
    now: u64,
}

impl Moved {
    fn owner(&self) -> Owner {
        Owner {
            space: self.space,
            program: self.program,
        }
    }

    /// Notes that pages are moved to the region of an address, or `away` from it. Whether that was so before this
    /// call; `None` if there is no room.
    #[inline(always)]
    fn note(&self, address: u64, away: u64) -> Option<bool> {
        if let Some(region) = known(address, self.space) {
            // SAFETY: map values stay valid while the program runs.
            return Some(unsafe {
                add(&raw mut (*region).away, away);
                core::ptr::read_volatile(&raw const (*region).since) != self.now
            });
        }
        let key = BlockKey {
            address: region_of(address),
            space: self.space,
        };
        let since = self.now;
        let inserted = MOVED.insert(key, Region { away, since }, BPF_ANY.into());
        inserted.ok().map(|()| false)
    }

    /// What of it is in one region.
    unsafe extern "C" fn region(index: u32, state: *mut c_void) -> c_long {
        // SAFETY: `repeat` passes on what `remapped` gave it.
        let moved = unsafe { &*state.cast::<Self>() };
        let start = region_of(moved.from).wrapping_add(u64::from(index) * HUGE_BYTES);
        let (first, end) = (start.max(moved.from), (start + HUGE_BYTES).min(moved.end));
        let to = first.wrapping_add(moved.distance);
        let last = to.wrapping_add(end.wrapping_sub(first)).wrapping_sub(1);
        let noted = (moved.note(first, 1), moved.note(to, 0), moved.note(last, 0));
        let (Some(moved_from), Some(to_first), Some(to_last)) = noted else {
            count(Counter::MovesFull);
            return 0;
        };
        let mut pages = Pages {
            first,
            distance: moved.distance,
            space: moved.space,
            program: moved.program,
            now: moved.now,
            moved_from: moved_from.into(),
            moved_to: (to_first || to_last).into(),
            huge: Block::default(),
        };
        let is_whole = end.wrapping_sub(first) == HUGE_BYTES;
        if let Some(huge) = find(start | HUGE_MARK, moved.space) {
            // SAFETY: map values stay valid while the program runs.
            pages.huge = unsafe { *huge };
            // Of what is left where it was, the record tells.
            if is_whole && let Some(huge) = take(start | HUGE_MARK, moved.owner()) {
                pages.huge = huge;
                if moved.distance & (HUGE_BYTES - 1) == 0 {
                    // It is a huge page still.
                    pages.huge.size = 0;
                    place(to | HUGE_MARK, &huge, moved.owner());
                }
            }
        }
        let count = end.wrapping_sub(first) / PAGE_BYTES;
        repeat(count as u32, Pages::page, &mut pages);
        0
    }
}

/// What of a moved part is in one region.
struct Pages {
    first: u64,
    distance: u64,
    space: u64,
    program: u64,
    now: u64,
    /// Not 0 if others than chosen pages may be on record where it was.
    moved_from: u64,
    /// The same of where it is now.
    moved_to: u64,
    /// Of which they were a part, until now; else its size is 0.
    huge: Block,
}

impl Pages {
    unsafe extern "C" fn page(index: u32, state: *mut c_void) -> c_long {
        // SAFETY: `repeat` passes on what `Moved::region` gave it.
        let pages = unsafe { &*state.cast::<Self>() };
        let owner = Owner {
            space: pages.space,
            program: pages.program,
        };
        let from = pages.first.wrapping_add(u64::from(index) * PAGE_BYTES);
        let to = from.wrapping_add(pages.distance);
        if (pages.moved_to != 0 || is_recorded(to, 0))
            && knows(to, owner)
            && let Some(old) = take(to, owner)
        {
            gone(&old, owner);
        }
        let is_recorded = is_recorded(from, 0);
        if (pages.moved_from != 0 || is_recorded) && knows(from, owner) {
            let is_meant = find(from, owner.space).is_some_and(|page| {
                // SAFETY: map values stay valid while the program runs.
                unsafe { (*page).time < pages.now }
            });
            if is_meant && let Some(page) = take(from, owner) {
                place(to, &page, owner);
                return 0;
            }
        }
        if is_recorded && pages.huge.size != 0 {
            let page = Block {
                size: PAGE_BYTES,
                chance: chance(),
                ..pages.huge
            };
            place(to, &page, owner);
        }
        0
    }
}

/// Puts a page on record where it is now.
#[inline(always)]
fn place(address: u64, page: &Block, owner: Owner) {
    let key = BlockKey {
        address,
        space: owner.space,
    };
    if insert(&key, page, BPF_ANY).is_err() {
        count(Counter::BlocksFull);
    }
}
