//! The kernel side of leakprobe: the probe entry points, one line each.
//!
//! `call` follows allocator calls from entry to return, `thread` tells which count, `sample` draws
//! which are recorded, `blocks` keeps what is live and the totals of each `stack`, `peak` the most that was,
//! and `walk` follows stacks by the rules of `unwind` or the `trail` of the last walk; `process` knows whose a
//! call is; `events` watches signals, execs, forks, exits;
//! `growth` follows page faults instead of calls, and `moved` what `mremap` does with those pages; `mapping` the
//! system calls that map memory.
//! The kernel side records; it never decides what a leak is.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![feature(core_intrinsics)]
#![allow(internal_features)] // see `maps::add`

mod arch;
mod blocks;
mod call;
mod events;
mod growth;
mod mapping;
mod maps;
mod moved;
mod peak;
mod process;
mod sample;
mod stack;
mod thread;
mod trail;
mod unwind;
mod walk;

use aya_ebpf::macros::{fexit, perf_event, raw_tracepoint, uprobe, uretprobe};
use aya_ebpf::programs::{
    FExitContext, PerfEventContext, ProbeContext, RawTracePointContext, RetProbeContext,
};

use crate::call::{enter, free, is_return, leave};

/// The entry of a function that gives a block out. Which one, the probe's cookie tells
/// ([`leakprobe_common::Signature`]): one program for all is verified once.
#[uprobe]
pub fn enter_call(ctx: ProbeContext) -> u32 {
    enter(&ctx);
    0
}

/// `free(block)`, `cfree(block)`, `free_sized(block, ..)`, `free_aligned_sized(block, ..)`.
#[uprobe]
pub fn enter_free(ctx: ProbeContext) -> u32 {
    free(&ctx);
    0
}

/// The return of every function that gives a block out.
#[uretprobe]
pub fn leave_call(ctx: RetProbeContext) -> u32 {
    leave(&ctx);
    0
}

/// Entry and return of every function that gives a block out, for kernels with sessions: there the
/// entry decides whether the return is probed too, 1 if not.
///
/// aya's macro would say 0 to the kernel whatever is returned here.
#[unsafe(no_mangle)]
#[unsafe(link_section = "uprobe")]
pub fn session_call(ctx: *mut core::ffi::c_void) -> u32 {
    let ctx = ProbeContext::new(ctx);
    if is_return(&ctx) {
        leave(&ctx);
        return 0;
    }
    u32::from(!enter(&ctx))
}

/// In front of a system call that maps or unmaps memory, or behind it. Which, the probe's cookie tells
/// ([`leakprobe_common::MappingSite`]).
#[uprobe]
pub fn map_call(ctx: ProbeContext) -> u32 {
    mapping::system_call(&ctx);
    0
}

/// Behind the system call `mremap` in growth mode, where [`leave_mremap`] cannot be attached.
#[uprobe]
pub fn move_call(ctx: ProbeContext) -> u32 {
    moved::after_mremap(&ctx);
    0
}

/// A signal is about to be delivered to a thread.
#[raw_tracepoint(tracepoint = "signal_deliver")]
pub fn signal_deliver(ctx: RawTracePointContext) -> i32 {
    events::signal_deliver(&ctx)
}

/// A process executes another program.
#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub fn process_exec(ctx: RawTracePointContext) -> i32 {
    events::exec(&ctx)
}

/// A process forks, or starts a thread.
#[raw_tracepoint(tracepoint = "sched_process_fork")]
pub fn process_fork(ctx: RawTracePointContext) -> i32 {
    events::fork(&ctx)
}

/// The OOM killer chooses a process.
#[raw_tracepoint(tracepoint = "mark_victim")]
pub fn oom_victim(ctx: RawTracePointContext) -> i32 {
    events::oom(&ctx)
}

/// A thread ends.
#[raw_tracepoint(tracepoint = "sched_process_exit")]
pub fn thread_exit(_ctx: RawTracePointContext) -> i32 {
    events::thread_exit()
}

/// A page fault of the target.
#[perf_event]
pub fn page_fault(ctx: PerfEventContext) -> u32 {
    growth::fault(&ctx);
    0
}

/// The end of the system call `brk`.
#[fexit(function = "__x64_sys_brk")]
pub fn leave_brk(ctx: FExitContext) -> i32 {
    growth::brk(&ctx);
    0
}

/// The end of the system call `mmap`.
#[fexit(function = "__x64_sys_mmap")]
pub fn leave_mmap(ctx: FExitContext) -> i32 {
    growth::mmap(&ctx);
    0
}

/// The end of the system call `mremap`.
#[fexit(function = "__x64_sys_mremap")]
pub fn leave_mremap(ctx: FExitContext) -> i32 {
    growth::mremap(&ctx);
    0
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// The kernel lets only programs with a GPL-compatible licence read another program's memory.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
