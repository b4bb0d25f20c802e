//! System calls that change what a process has mapped.

/// How a probe is told which system call it is at: its cookie.
pub struct MappingSite;

impl MappingSite {
    /// The number of the system call.
    pub const NUMBER: u64 = 0xffff;
    /// The probe is in front of the system call, not behind it.
    pub const BEFORE: u64 = 1 << 16;
    /// In front: from here on four bits with the number of the register that holds the first argument.
    pub const FIRST_SHIFT: u32 = 20;
    /// The same of the second.
    pub const SECOND_SHIFT: u32 = 24;
}

/// Numbers of the system calls that are followed (x86-64).
pub mod mapping_call {
    /// `mmap(address, length, protection, flags, file, offset)`.
    pub const MMAP: u32 = 9;
    /// `munmap(address, length)`.
    pub const MUNMAP: u32 = 11;
    /// `brk(address)`.
    pub const BRK: u32 = 12;
    /// `mremap(address, old_length, new_length, flags, new_address)`.
    pub const MREMAP: u32 = 25;
    /// `madvise(address, length, advice)`: changes no mapping, but may give its memory back.
    pub const MADVISE: u32 = 28;
    /// All of them.
    pub const ALL: [u32; 5] = [MMAP, MUNMAP, BRK, MREMAP, MADVISE];
}

/// A system call, seen in front of it or behind it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MappingEvent {
    /// [`crate::EventKind::Mapping`].
    pub kind: u64,
    /// Number of the address space.
    pub space: u64,
    /// Number of the program.
    pub program: u64,
    /// Thread id, in the first PID namespace.
    pub thread: u64,
    /// `CLOCK_MONOTONIC` nanoseconds.
    pub time: u64,
    /// Number of the system call, and [`MappingSite::BEFORE`].
    pub call: u64,
    /// Its first arguments; in front of it, two are known.
    pub arguments: [u64; 5],
    /// What it has returned.
    pub result: u64,
    /// Id of the stack, behind a call that may give memory. If an allocator made it, of the allocator's
    /// caller, and 0 if that is not known.
    pub stack: u64,
    /// 1 if an allocator made it.
    pub by_allocator: u64,
}
