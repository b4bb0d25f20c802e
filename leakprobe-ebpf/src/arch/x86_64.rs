//! System V calling convention of x86-64.

use aya_ebpf::bindings::pt_regs;

use crate::maps::read_user;

/// Bytes below the stack pointer that a signal frame spares (the red zone).
pub const RED_ZONE: u64 = 128;

/// Where a frame's return address is, from where its frame pointer points.
pub const RETURN_ADDRESS_IN_FRAME: u64 = 8;

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

/// Return address at the return of a function: the kernel has put the real one in place of its
/// trampoline.
#[inline(always)]
pub fn return_address_at_return(regs: &pt_regs) -> u64 {
    regs.rip
}

/// Frame pointer; at the entry and at the return of a function it is the caller's.
#[inline(always)]
pub fn frame_pointer(regs: &pt_regs) -> u64 {
    regs.rbp
}
