//! What happens to the target besides its allocator calls: signals, execs, ends of threads.
//!
//! Raw tracepoints need no tracefs. They fire for every process of the host, so each of these
//! functions first finds out, cheaply, whether the target is meant.

use aya_ebpf::bindings::{bpf_pidns_info, pt_regs};
use aya_ebpf::helpers::bpf_probe_read_kernel;
use aya_ebpf::helpers::generated::{
    bpf_get_current_task_btf, bpf_get_ns_current_pid_tgid, bpf_task_pt_regs,
};
use aya_ebpf::programs::RawTracePointContext;
use aya_log_ebpf::info;
use leakprobe_common::{Control, Counter, EventKind, ExecEvent};

use crate::maps::{
    EVENTS, PID_NS_DEVICE, PID_NS_INODE, TARGET_PID, THREADS, control, count, set_control,
    thread_id,
};
use crate::{arch, call};

/// `SIG_DFL` and `SIG_IGN` are 0 and 1; anything above is the address of a handler.
const SIG_IGN: u64 = 1;
/// From the kernel's `asm-generic/signal-defs.h`.
const SA_ONSTACK: u64 = 0x0800_0000;

/// `signal_deliver(int sig, struct kernel_siginfo *info, struct k_sigaction *ka)`.
#[inline(always)]
pub fn signal_deliver(ctx: &RawTracePointContext) -> i32 {
    if THREADS.get_ptr(thread_id()).is_none() {
        return 0;
    }
    let action: u64 = ctx.arg(2);
    // `struct k_sigaction` starts with the handler and the flags.
    // SAFETY: the helper checks the address.
    let Ok([handler, flags]) = (unsafe { bpf_probe_read_kernel(action as *const [u64; 2]) }) else {
        return 0;
    };
    if handler <= SIG_IGN {
        return 0;
    }
    // SAFETY: the helpers have no preconditions; the register set is read through a helper.
    let sp = unsafe {
        let regs = bpf_task_pt_regs(bpf_get_current_task_btf()) as *const pt_regs;
        bpf_probe_read_kernel(regs.cast::<u8>().add(arch::REGS_SP).cast::<u64>())
    };
    if let Ok(sp) = sp {
        call::interrupt(sp, flags & SA_ONSTACK != 0);
    }
    0
}

/// Whether the running process is the target.
#[inline(always)]
pub fn is_target() -> bool {
    let mut ids = bpf_pidns_info { pid: 0, tgid: 0 };
    // SAFETY: the helper fills in `ids`, whose size it is told.
    let status = unsafe {
        bpf_get_ns_current_pid_tgid(
            PID_NS_DEVICE.load(),
            PID_NS_INODE.load(),
            &mut ids,
            size_of::<bpf_pidns_info>() as u32,
        )
    };
    status == 0 && ids.tgid == TARGET_PID.load()
}

/// `sched_process_exec(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm)`.
#[inline(always)]
pub fn exec(ctx: &RawTracePointContext) -> i32 {
    if !is_target() {
        return 0;
    }
    // Whichever thread did it has the main thread's id by now.
    let thread = thread_id();
    let old_thread: u64 = ctx.arg(1);
    let _ = THREADS.remove(thread);
    let _ = THREADS.remove(old_thread as u32);
    let space = control(Control::Space) + 1;
    set_control(Control::Space, space);
    set_control(Control::Trampoline, 0);
    set_control(Control::AllocatorStart, 0);
    set_control(Control::Break, 0);
    info!(
        ctx,
        "the target executed a new program: address space {}", space
    );
    let Some(mut entry) = EVENTS.reserve::<ExecEvent>(0) else {
        count(Counter::ExecEventsLost);
        return 0;
    };
    entry.write(ExecEvent {
        kind: EventKind::Exec as u64,
        space,
        by_main_thread: (old_thread as u32 == thread) as u64,
    });
    entry.submit(0);
    0
}

/// `sched_process_exit`: thread ids are used again.
#[inline(always)]
pub fn thread_exit() -> i32 {
    let _ = THREADS.remove(thread_id());
    0
}
