//! A walk from a probe's registers to the start of the thread, frame by frame: by the rule for each
//! frame's code ([`crate::unwind`]), or along the trail of the last walk ([`crate::trail`]).

use core::ffi::{c_long, c_void};

use aya_ebpf::helpers::bpf_probe_read_user;
use aya_ebpf::helpers::generated::bpf_loop;
use leakprobe_common::{
    FRAME_EXACT, FpRule, MAX_FRAMES, MAX_NESTED_CALLS, Rule, RuleKind, StackEnd,
};

use crate::arch;
use crate::maps::{opaque, read_user};
use crate::thread::Thread;
use crate::trail::{ALONE, Step};
use crate::unwind::{self, NO_MAPPING, RULES, Tables};

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

/// A walk under way. It is kept in the thread's entry: what is on the BPF stack, the verifier would
/// follow through all the values that it takes from frame to frame.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Walk {
    /// What the next rule is looked up by: a place in the call instruction.
    pub address: u64,
    /// Stack pointer in the frame of `address`.
    pub sp: u64,
    /// Frame pointer there.
    pub fp: u64,
    pub hash: u64,
    pub check: u64,
    pub len: u64,
    /// [`StackEnd`].
    pub end: u64,
    /// Not to be walked beyond: where a return address is looked for; 0 for a walk that is kept.
    pub until: u64,
    /// Where that led.
    pub met: u64,
    pub tables: Tables,
    /// Which of the thread's two trails is being laid; the other one is the last walk's.
    pub trail: u64,
    /// Where on the last walk's trail this one may meet it.
    pub at: u64,
    /// 1 while it goes the same way.
    pub following: u64,
    /// What the window shows begins here.
    pub window: u64,
}
/// [`Walk::met`]: the frames go past the place that was looked for.
pub const BEYOND: u64 = 1;
/// [`Walk::met`]: a frame has its return address there.
pub const EXACTLY: u64 = 2;

impl Walk {
    /// Before the first walk.
    pub const NONE: Self = Self {
        address: 0,
        sp: 0,
        fp: 0,
        hash: 0,
        check: 0,
        len: 0,
        end: 0,
        until: 0,
        met: 0,
        tables: Tables::NONE,
        trail: 0,
        at: 0,
        following: 0,
        window: 0,
    };
}
impl Thread {
    #[inline(always)]
    pub fn push(&mut self, index: u64, frame: u64) {
        let place = opaque(index) & (MAX_FRAMES as u64);
        // SAFETY: the mask, of a power of two less one, keeps the index within the frames.
        unsafe { *self.trace.frames.get_unchecked_mut(place as usize) = frame };
        let walk = &mut self.walk;
        // Multiply and rotate: each step is a bijection of the hash for a given frame.
        walk.hash = (walk.hash ^ frame)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(29);
        walk.check = (walk.check.wrapping_add(frame))
            .wrapping_mul(0xc2b2_ae3d_27d4_eb4f)
            .rotate_left(31);
        walk.len = index + 1;
    }

    /// The walk ends here; 1 ends the loop.
    #[inline(always)]
    fn stop(&mut self, end: StackEnd) -> c_long {
        self.walk.end = end as u64;
        1
    }

    /// The real return address where the kernel has put that of its trampoline: in the frame of a
    /// probed call that is still in flight. (Trampolines start a page, other addresses hardly ever.)
    #[inline(always)]
    fn real_return_address(&self, address: u64, place: u64) -> u64 {
        if address & 4095 != 0 {
            return address;
        }
        let mut level = 0;
        while level < MAX_NESTED_CALLS {
            let call = &self.calls[level];
            if (level as u64) < self.depth && call.sp == place {
                return call.ip;
            }
            let nested = &self.returns[level];
            if nested.place == place {
                return nested.address;
            }
            level += 1;
        }
        address
    }
}

/// Frames that are followed in one turn of the loop: each turn costs a call through a pointer.
const FOLLOWED_AT_ONCE: u64 = 4;

/// One frame up, or some that the last walk went as well; 1 ends the walk.
unsafe extern "C" fn step(_index: u32, thread: *mut c_void) -> c_long {
    // SAFETY: `bpf_loop` passes on what `identify` gave it.
    let thread = unsafe { &mut **thread.cast::<*mut Thread>() };
    let mut turns = 0;
    while turns < FOLLOWED_AT_ONCE && thread.walk.following != 0 {
        thread.walk.following = thread.follow(thread.walk.len) as u64;
        turns += 1;
    }
    if thread.walk.following != 0 {
        return 0;
    }
    let number = thread.walk.tables.find(thread.walk.address);
    if number == NO_MAPPING {
        return thread.stop(StackEnd::NoMapping);
    }
    let Some(&rule) = RULES.get(number) else {
        return thread.stop(StackEnd::NoRow);
    };
    let (sp, fp) = (thread.walk.sp, thread.walk.fp);
    let offset = rule.cfa_offset as i64 as u64;
    let mut fp_place = 0;
    let cfa = if rule.kind == RuleKind::Sp as u8 {
        sp.wrapping_add(offset)
    } else if rule.kind == RuleKind::Fp as u8 {
        fp.wrapping_add(offset)
    } else {
        fp_place = ALONE;
        match rare(&thread.walk, &rule) {
            Ok(cfa) => cfa,
            Err(end) if end == SIGNAL => return signal(thread),
            Err(end) => {
                thread.walk.end = end;
                return 1;
            }
        }
    };
    if cfa <= sp {
        return thread.stop(StackEnd::WrongWay);
    }
    let fp_rule = rule.fp & 15;
    let place = cfa.wrapping_sub(arch::RETURN_ADDRESS_BELOW_CFA);
    let until = thread.walk.until;
    if until != 0 && place >= until {
        thread.walk.met = if place == until { EXACTLY } else { BEYOND };
        return 1;
    }
    let ip = if fp_rule == FpRule::Cfa as u8 && rule.fp_offset == -2 {
        // Side by side, as `push %rbp` at a function's entry leaves them.
        // SAFETY: the helper checks the address.
        let Ok([fp, ip]) =
            (unsafe { bpf_probe_read_user(place.wrapping_sub(8) as *const [u64; 2]) })
        else {
            return thread.stop(StackEnd::UnreadableStack);
        };
        thread.walk.fp = fp;
        fp_place |= place.wrapping_sub(8);
        ip
    } else {
        let Some(ip) = read_user(place) else {
            return thread.stop(StackEnd::UnreadableStack);
        };
        if fp_rule != FpRule::Same as u8 {
            let base = if fp_rule == FpRule::Cfa as u8 {
                cfa
            } else if fp_rule == FpRule::Fp as u8 {
                fp
            } else {
                sp
            };
            thread.walk.fp = if fp_rule == FpRule::Lost as u8 {
                0
            } else {
                let place = base.wrapping_add((rule.fp_offset as i64 * 8) as u64);
                let Some(fp) = read_user(place) else {
                    return thread.stop(StackEnd::UnreadableStack);
                };
                fp_place |= place;
                fp
            };
        }
        ip
    };
    if ip == 0 {
        return thread.stop(StackEnd::Start);
    }
    if ip & 4095 == 0 {
        fp_place = ALONE; // what is there now is not what leads here
    }
    let ip = thread.real_return_address(ip, place);
    thread.walk.sp = cfa;
    // The call, not what follows it: that may be another function.
    thread.walk.address = ip.wrapping_sub(1);
    arrive(
        thread,
        ip,
        if fp_place & ALONE != 0 {
            ALONE
        } else {
            fp_place
        },
    )
}

/// Notes the frame that the walk has come to.
#[inline(always)]
fn arrive(thread: &mut Thread, ip: u64, fp_place: u64) -> c_long {
    if thread.walk.until != 0 {
        return 0;
    }
    let index = thread.walk.len;
    if index >= MAX_FRAMES as u64 {
        return thread.stop(StackEnd::DepthLimit);
    }
    thread.push(index, ip);
    let (sp, fp) = (thread.walk.sp, thread.walk.fp);
    let step = Step {
        sp,
        fp,
        ip,
        fp_place,
    };
    thread.lay(index, step);
    0
}

/// Not an end, but a signal's frame.
const SIGNAL: u64 = u64::MAX;

/// The CFA by one of the rules that few frames have.
#[inline(always)]
fn rare(walk: &Walk, rule: &Rule) -> Result<u64, u64> {
    let kind = rule.kind;
    if kind == RuleKind::Plt as u8 {
        let pushed = if walk.address & 15 >= 11 { 8 } else { 0 };
        return Ok(walk.sp.wrapping_add(8 + pushed));
    }
    if kind == RuleKind::SpDeref as u8 || kind == RuleKind::FpDeref as u8 {
        let base = if kind == RuleKind::SpDeref as u8 {
            walk.sp
        } else {
            walk.fp
        };
        let place = base.wrapping_add(rule.cfa_offset as i64 as u64);
        return match read_user(place) {
            Some(word) => Ok(word.wrapping_add(u64::from(rule.fp >> 4) * 8)),
            None => Err(StackEnd::UnreadableStack as u64),
        };
    }
    Err(if kind == RuleKind::End as u8 {
        StackEnd::Start as u64
    } else if kind == RuleKind::Signal as u8 {
        SIGNAL
    } else if kind == RuleKind::None as u8 {
        StackEnd::NoRow as u64
    } else {
        StackEnd::Unsupported as u64
    })
}

/// From a signal's trampoline to the code that the signal interrupted.
#[inline(always)]
fn signal(thread: &mut Thread) -> c_long {
    let Some(saved) = arch::interrupted(thread.walk.sp) else {
        return thread.stop(StackEnd::UnreadableStack);
    };
    let walk = &mut thread.walk;
    (walk.address, walk.sp, walk.fp) = (saved.ip, saved.sp, saved.fp);
    // Not a return address: the very instruction that was to be next.
    arrive(thread, saved.ip | FRAME_EXACT, ALONE)
}

/// Walks from `start`; not beyond the return address at `until`, unless that is 0.
#[inline(always)]
pub fn walk(start: Start, until: u64, thread: &mut Thread) {
    let caller = Position {
        address: start.ip.wrapping_sub(1),
        sp: start.sp.wrapping_add(arch::RETURN_ADDRESS_BELOW_CFA),
        fp: start.fp,
        frame: start.ip,
    };
    walk_from(caller, until, thread);
}

/// Where a thread is, and what its first frame is.
#[derive(Clone, Copy)]
pub struct Position {
    /// What the first rule is looked up by.
    pub address: u64,
    pub sp: u64,
    pub fp: u64,
    /// As it goes into the stack.
    pub frame: u64,
}

impl Position {
    /// Of a thread that was interrupted between two instructions: as after a signal's frame.
    #[inline(always)]
    pub fn interrupted(at: arch::Interrupted) -> Self {
        Self {
            address: at.ip,
            sp: at.sp,
            fp: at.fp,
            frame: at.ip | FRAME_EXACT,
        }
    }
}

/// The same from any position.
#[inline(always)]
pub fn walk_from(position: Position, until: u64, thread: &mut Thread) {
    let tables = unwind::tables(thread.owner());
    let trail = thread.walk.trail ^ (until == 0) as u64;
    let none = opaque(0); // or LLVM calls a function to clear what lies side by side
    thread.walk = Walk {
        address: position.address,
        sp: position.sp,
        fp: position.fp,
        hash: none,
        check: none,
        len: none,
        end: StackEnd::DepthLimit as u64,
        until,
        met: none,
        tables,
        trail,
        at: none,
        following: none,
        window: none,
    };
    if until == 0 {
        let last = thread.trail(trail ^ 1);
        if !last.tables.are(tables) {
            last.len = 0;
        }
        thread.trail(trail).tables = tables;
        arrive(thread, position.frame, ALONE);
    }
    let mut context: *mut Thread = thread;
    let callback: unsafe extern "C" fn(u32, *mut c_void) -> c_long = step;
    // SAFETY: the callback gets a pointer to `context`, which outlives the loop.
    unsafe {
        bpf_loop(
            MAX_FRAMES as u32,
            core::mem::transmute::<unsafe extern "C" fn(u32, *mut c_void) -> c_long, *mut c_void>(
                callback,
            ),
            (&raw mut context).cast(),
            0,
        );
    }
}
