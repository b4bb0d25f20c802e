//! System V calling convention of x86-64.

use aya_ebpf::bindings::pt_regs;

use aya_ebpf::helpers::{bpf_probe_read_kernel, bpf_probe_read_user};

use crate::maps::read_user;

/// Bytes below the stack pointer that a signal frame spares (the red zone).
pub const RED_ZONE: u64 = 128;

/// Offset of the stack pointer in `struct pt_regs`.
pub const REGS_SP: usize = core::mem::offset_of!(pt_regs, rsp);

/// First three integer arguments, at the entry of a function.
#[inline(always)]
pub fn arguments(regs: &pt_regs) -> [u64; 3] {
    [regs.rdi, regs.rsi, regs.rdx]
}

/// What a function returned, at its return.
#[inline(always)]
pub fn result(regs: &pt_regs) -> u64 {
    regs.rax
}

/// Where the thread is.
#[inline(always)]
pub fn instruction_pointer(regs: &pt_regs) -> u64 {
    regs.rip
}

/// Stack pointer at the entry of a function.
#[inline(always)]
pub fn entry_sp(regs: &pt_regs) -> u64 {
    regs.rsp
}

/// Stack pointer that the function had at its entry, told from the registers at its return: `ret`
/// has taken the return address off the stack.
#[inline(always)]
pub fn entry_sp_at_return(regs: &pt_regs) -> u64 {
    regs.rsp.wrapping_sub(8)
}

/// Return address at the entry of a function whose stack pointer was `sp` then.
#[inline(always)]
pub fn return_address(sp: u64) -> Option<u64> {
    read_user(sp)
}

/// Frame pointer; at the entry and at the return of a function it is the caller's.
#[inline(always)]
pub fn frame_pointer(regs: &pt_regs) -> u64 {
    regs.rbp
}

/// How far below the canonical frame address the return address is.
pub const RETURN_ADDRESS_BELOW_CFA: u64 = 8;

/// Registers of code that a signal interrupted.
pub struct Interrupted {
    pub ip: u64,
    pub sp: u64,
    pub fp: u64,
}

/// Those of a probe's place.
#[inline(always)]
pub fn here(regs: &pt_regs) -> Interrupted {
    Interrupted {
        ip: regs.rip,
        sp: regs.rsp,
        fp: regs.rbp,
    }
}

/// The general registers by their numbers in instructions.
#[inline(always)]
pub fn general_registers(regs: &pt_regs) -> [u64; 16] {
    [
        regs.rax, regs.rcx, regs.rdx, regs.rbx, regs.rsp, regs.rbp, regs.rsi, regs.rdi, regs.r8,
        regs.r9, regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15,
    ]
}

/// First five arguments of a system call, which are still there behind it.
#[inline(always)]
pub fn system_call_registers(regs: &pt_regs) -> [u64; 5] {
    [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8]
}

/// Reads them from the `ucontext` that the kernel pushed, to which the stack pointer points in the
/// signal's trampoline.
#[inline(always)]
pub fn interrupted(sp: u64) -> Option<Interrupted> {
    /// Offset of `rbp` in `struct ucontext` of the kernel's x86 ABI; `rbx`, `rdx`, `rax`, `rcx`,
    /// `rsp` and `rip` follow it.
    const UCONTEXT_RBP: u64 = 120;
    // SAFETY: the helper checks the address.
    let saved: [u64; 7] =
        unsafe { bpf_probe_read_user(sp.wrapping_add(UCONTEXT_RBP) as *const [u64; 7]) }.ok()?;
    let [fp, _, _, _, _, sp, ip] = saved;
    Some(Interrupted { ip, sp, fp })
}

/// Where a thread was when it entered the kernel, by a fault or a system call. The registers are read
/// as any memory of the kernel.
#[inline(always)]
pub fn left_user_space(regs: *const pt_regs) -> Option<Interrupted> {
    use core::mem::offset_of;
    let regs = regs as u64;
    // SAFETY: the helper checks the addresses. `rip` is followed by two words and `rsp`.
    unsafe {
        let fp = bpf_probe_read_kernel((regs + offset_of!(pt_regs, rbp) as u64) as *const u64);
        let rest =
            bpf_probe_read_kernel((regs + offset_of!(pt_regs, rip) as u64) as *const [u64; 4]);
        let [ip, _, _, sp] = rest.ok()?;
        Some(Interrupted {
            ip,
            sp,
            fp: fp.ok()?,
        })
    }
}

/// First four arguments of a system call.
#[inline(always)]
pub fn system_call_arguments(regs: *const pt_regs) -> Option<[u64; 4]> {
    use core::mem::offset_of;
    let read = |offset: usize| {
        // SAFETY: the helper checks the address.
        unsafe { bpf_probe_read_kernel((regs as u64 + offset as u64) as *const u64) }.ok()
    };
    Some([
        read(offset_of!(pt_regs, rdi))?,
        read(offset_of!(pt_regs, rsi))?,
        read(offset_of!(pt_regs, rdx))?,
        read(offset_of!(pt_regs, r10))?,
    ])
}
