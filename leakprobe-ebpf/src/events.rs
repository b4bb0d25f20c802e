//! What happens to the target besides its allocator calls: signals, execs, ends of threads.
//!
//! Raw tracepoints need no tracefs. They fire for every process of the host, so each of these
//! functions first finds out, cheaply, whether the target is meant.

use aya_ebpf::bindings::pt_regs;
use aya_ebpf::helpers::bpf_probe_read_kernel;
use aya_ebpf::helpers::generated::{bpf_get_current_task_btf, bpf_ktime_get_ns, bpf_task_pt_regs};
use aya_ebpf::programs::RawTracePointContext;
use aya_log_ebpf::info;
use leakprobe_common::{
    Control, Counter, EventKind, ExecEvent, ExitEvent, ForkEvent, MAX_ALLOCATORS, ProcessState,
};

use crate::maps::{
    AT_ONCE, EVENTS, THREADS, control, count, set_control, set_control_at, thread_id,
};
use crate::process::{self, MANY};
use crate::{arch, call, peak};

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

/// `sched_process_exec(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm)`.
#[inline(always)]
pub fn exec(ctx: &RawTracePointContext) -> i32 {
    let (before, space) = if MANY.load() != 0 {
        match process::exec() {
            Some((before, after)) => (before, after.space),
            None => return 0,
        }
    } else if process::is_target() {
        let before = ProcessState {
            space: control(Control::Space),
            ..ProcessState::default()
        };
        let space = before.space + 1;
        set_control(Control::Space, space);
        set_control(Control::Trampoline, 0);
        let mut at = 0;
        while at < MAX_ALLOCATORS as u32 {
            set_control_at(Control::Allocators as u32 + 2 * at, 0);
            at += 1;
        }
        set_control(Control::Break, 0);
        peak::start_over();
        (before, space)
    } else {
        return 0;
    };
    // Whichever thread did it has the main thread's id by now.
    let thread = thread_id();
    let old_thread: u64 = ctx.arg(1);
    let _ = THREADS.remove(thread);
    let _ = THREADS.remove(old_thread as u32);
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
        before,
    });
    entry.submit(AT_ONCE);
    0
}

/// `sched_process_fork(struct task_struct *parent, struct task_struct *child)`.
#[inline(always)]
pub fn fork(ctx: &RawTracePointContext) -> i32 {
    let Some(child) = process::fork(ctx.arg(1)) else {
        return 0;
    };
    let Some(mut entry) = EVENTS.reserve::<ForkEvent>(0) else {
        count(Counter::ForkEventsLost);
        return 0;
    };
    entry.write(ForkEvent {
        kind: EventKind::Fork as u64,
        child,
    });
    entry.submit(AT_ONCE);
    0
}

/// `mark_victim(struct task_struct *task, uid_t uid)`, before Linux 6.9 `mark_victim(int pid)`.
#[inline(always)]
pub fn oom(ctx: &RawTracePointContext) -> i32 {
    process::chosen_by_oom_killer(ctx.arg(0));
    0
}

/// `sched_process_exit`: thread ids are used again.
#[inline(always)]
pub fn thread_exit() -> i32 {
    let _ = THREADS.remove(thread_id());
    let Some((process, status)) = process::exit() else {
        return 0;
    };
    let Some(mut entry) = EVENTS.reserve::<ExitEvent>(0) else {
        count(Counter::ExitEventsLost);
        return 0;
    };
    entry.write(ExitEvent {
        kind: EventKind::Exit as u64,
        status,
        // SAFETY: the helper has no preconditions.
        time: unsafe { bpf_ktime_get_ns() },
        process,
    });
    entry.submit(AT_ONCE);
    0
}
