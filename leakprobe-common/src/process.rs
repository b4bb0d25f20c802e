//! Processes that are recorded together, and what is announced of them.

/// The OOM killer has chosen this process.
pub const OOM_CHOSEN: u64 = 1;

/// The OOM killer has chosen a process, and this kernel does not tell which one.
pub const OOM_SOMEBODY: u64 = 2;

/// A process, as the kernel side keeps it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessState {
    /// PID as the user side sees it.
    pub pid: u64,
    /// Number of its address space; above 0.
    pub space: u64,
    /// Number of its program, as in [`crate::StackKey`].
    pub program: u64,
    /// Address space of the process that forked it; 0 if that was not seen, or it has executed another
    /// program since.
    pub parent: u64,
    /// `CLOCK_MONOTONIC` nanoseconds when it was forked; 0 likewise.
    pub forked: u64,
    /// Bytes allocated, as in [`crate::StackTotals`].
    pub allocated_bytes: u64,
    /// Blocks, in 2^-20.
    pub allocated_count: u64,
    /// Bytes of those that were freed.
    pub freed_bytes: u64,
    /// Blocks, in 2^-20.
    pub freed_count: u64,
    /// Bytes live in its parent when it was forked, of which it has a copy.
    pub inherited_bytes: u64,
    /// Blocks, in 2^-20.
    pub inherited_count: u64,
    /// Bytes of those that it was seen to free.
    pub inherited_freed_bytes: u64,
    /// Blocks, in 2^-20.
    pub inherited_freed_count: u64,
    /// [`OOM_CHOSEN`] or [`OOM_SOMEBODY`] once it is so.
    pub oom: u64,
}

/// A process executed another program.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ExecEvent {
    /// [`crate::EventKind::Exec`].
    pub kind: u64,
    /// Number of the new address space, and of the new program.
    pub space: u64,
    /// 1 if the main thread did it; probes of one process follow only that thread into the new
    /// program.
    pub by_main_thread: u64,
    /// The process before; of a single process nothing but its address space.
    pub before: ProcessState,
}

/// A process was forked.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ForkEvent {
    /// [`crate::EventKind::Fork`].
    pub kind: u64,
    /// The child.
    pub child: ProcessState,
}

/// A process has ended.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ExitEvent {
    /// [`crate::EventKind::Exit`].
    pub kind: u64,
    /// How: as `wait` tells it, in the low 16 bits.
    pub status: u64,
    /// `CLOCK_MONOTONIC` nanoseconds.
    pub time: u64,
    /// The process at its end; of a single one only its PID and address space.
    pub process: ProcessState,
}

/// Where the running kernel has members of its structures, bytes: read from its type information by
/// the user side, since the kernel side is not relocated.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TaskLayout {
    /// `task_struct.tgid`.
    pub tgid: u64,
    /// `task_struct.mm`.
    pub mm: u64,
    /// `task_struct.signal`.
    pub signal: u64,
    /// `task_struct.exit_code`.
    pub exit_code: u64,
    /// `task_struct.group_leader`.
    pub group_leader: u64,
    /// `task_struct.thread_pid`.
    pub thread_pid: u64,
    /// `signal_struct.live`.
    pub live: u64,
    /// `signal_struct.group_exit_code`.
    pub group_exit_code: u64,
    /// `pid.level`.
    pub level: u64,
    /// `pid.numbers`.
    pub numbers: u64,
    /// Size of `struct upid`.
    pub upid: u64,
    /// `upid.ns`; its number is its first member.
    pub upid_ns: u64,
    /// Number in `pid_namespace`, as the inode of its file.
    pub inum: u64,
    /// That of the user side's PID namespace; 0 if that is the first one, to which all PIDs that the
    /// kernel tells belong.
    pub namespace: u64,
}
