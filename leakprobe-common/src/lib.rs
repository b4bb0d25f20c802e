//! Types shared by the kernel side and the user side: map keys and values, events, limits and
//! counter ids. Plain `repr(C)` data without padding and without logic.
#![no_std]

mod growth;
mod mapping;
mod peak;
mod process;
mod sampling;
mod signature;
mod unwind;

pub use growth::*;
pub use mapping::*;
pub use peak::*;
pub use process::*;
pub use sampling::*;
pub use signature::*;
pub use unwind::*;

/// Frames of one stack, at most. A longer stack is cut there and counted as
/// [`Counter::StacksCut`]. 127 is also the kernel's own default limit (`perf_event_max_stack`).
pub const MAX_FRAMES: usize = 127;

/// Allocator calls of one thread that can be in flight on top of one another because a signal
/// handler interrupted the one below and allocates itself.
pub const MAX_NESTED_CALLS: usize = 4;

/// Allocators of a process whose code is known to the kernel side.
pub const MAX_ALLOCATORS: usize = 4;

/// Key of a live block; in growth mode of a page.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct BlockKey {
    /// Address the allocator returned.
    pub address: u64,
    /// Number of the address space, as each exec and each recorded fork begins a new one.
    pub space: u64,
}

/// A block that was given out and not given back.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Block {
    /// Bytes asked for (not what the allocator rounded it up to).
    pub size: u64,
    /// Stack that allocated it.
    pub stack: u64,
    /// `CLOCK_MONOTONIC` nanoseconds when the call returned it.
    pub time: u64,
    /// Probability with which it was recorded, in 2^-32: [`CERTAIN`] unless sampling.
    pub chance: u64,
}

/// Key of a stack's totals.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct StackKey {
    /// 64-bit hash of the frames.
    pub id: u64,
    /// Number of the program: the address space that began with its exec (or in which it was found).
    /// Children that are forked share it.
    pub program: u64,
}

/// What one stack has allocated and what of that was freed.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StackTotals {
    /// Bytes; when sampling, what the recorded blocks stand for ([`scaled_bytes`]).
    pub allocated_bytes: u64,
    /// Blocks, in 2^-20, likewise ([`scaled_count`]).
    pub allocated_count: u64,
    /// Bytes, counted for the stack that allocated, not the one that freed.
    pub freed_bytes: u64,
    /// Blocks, in 2^-20.
    pub freed_count: u64,
    /// 1 once the frames were handed to the user side.
    pub announced: u64,
    /// Second hash of the frames: of two stacks with one id, the other is known by it.
    pub check: u64,
    /// The most that it had live after one of its allocations, in bytes. CPUs that set it at the same
    /// time may leave it too low by what the other has just allocated. Not in growth mode, like the rest.
    pub peak_bytes: u64,
    /// The [`Peak::epoch`] of its last change.
    pub epoch: u64,
    /// Bytes that it had live when that epoch began.
    pub at_peak_bytes: u64,
    /// Bytes of those that were freed at each age ([`age_class`]); what was older is in none.
    pub freed_by_age: [u64; AGES],
}

/// What a ring buffer record is; its first eight bytes.
#[repr(u64)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A [`StackEvent`].
    Stack = 1,
    /// An [`ExecEvent`].
    Exec = 2,
    /// A [`ForkEvent`].
    Fork = 3,
    /// An [`ExitEvent`].
    Exit = 4,
    /// A [`MappingEvent`].
    Mapping = 5,
}

/// A stack seen for the first time. It is sent only as long as its frames are.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct StackEvent {
    /// [`EventKind::Stack`].
    pub kind: u64,
    /// The stack's totals are under this key.
    pub key: StackKey,
    /// Address space of the process that had it first.
    pub space: u64,
    /// Frames filled in, and [`StackEnd`] from bit [`STACK_END_SHIFT`] on.
    pub len: u64,
    /// Return addresses, leaf first: the first is the caller of the allocator. With [`FRAME_EXACT`]
    /// it is the address at which a signal interrupted the code. The last is never used: with it
    /// their number is a power of two.
    pub frames: [u64; MAX_FRAMES + 1],
}

/// Where [`StackEvent::len`] holds the stack's [`StackEnd`].
pub const STACK_END_SHIFT: u32 = 32;

/// Bit of a frame: its address is no return address, but that of the next instruction.
pub const FRAME_EXACT: u64 = 1 << 63;

/// Switches that both sides read, by index.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// 1 while allocator calls are recorded. Written by the user side.
    Active = 0,
    /// Of a single process: number of its address space, counted up by each exec. Written by the kernel
    /// side. If many processes are recorded, those of the switches that belong to one address space are
    /// in a map by its number.
    Space = 1,
    /// Address of the kernel's return trampoline in the target, 0 while unknown. Set by the user
    /// side, which finds it in the target's mappings; cleared by the kernel side at an exec.
    Trampoline = 2,
    /// Number of the unwind tables, counted up with each change, and from bit [`TABLES_SLOT_SHIFT`] on
    /// which of the [`CodeMappings`] is in use. Written by the user side.
    Tables = 3,
    /// The part of the target's work during which the probes are in place, in 2^-32, if they are
    /// taken away now and then; else 0. Written by the user side.
    Duty = 4,
    /// In growth mode: where the target's heap ends, 0 while unknown. Set by the user side at the
    /// attach, and followed by the kernel side.
    Break = 5,
    /// Of a single process: [`OOM_CHOSEN`] or [`OOM_SOMEBODY`] once it is so. Written by the kernel side.
    OomVictim = 6,
    /// In growth mode: 1 once pages have moved to other addresses. Written by the kernel side.
    Moved = 7,
    /// The first of [`MAX_ALLOCATORS`] pairs: first address of the code of an allocator's probed functions in
    /// the target, 0 if there are no more or they are not known, and the address after the last. Set and
    /// cleared like the trampoline.
    Allocators = 8,
}

impl Control {
    /// How many there are.
    pub const ALL: usize = Control::Allocators as usize + 2 * MAX_ALLOCATORS;
}

/// Ids of the counters, and their names and meaning for a reader of the report.
macro_rules! counters {
    ($($(#[$doc:meta])* $variant:ident = $id:literal, $name:literal, $loss:literal, $text:literal;)*) => {
        /// Counters kept by the kernel side.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Counter { $($(#[$doc])* $variant = $id,)* }

        impl Counter {
            /// All of them, in the order of their ids.
            pub const ALL: &'static [Counter] = &[$(Counter::$variant,)*];

            /// Name in reports.
            pub const fn name(self) -> &'static str {
                match self { $(Counter::$variant => $name,)* }
            }

            /// Whether a count above zero makes a result partial.
            pub const fn is_loss(self) -> bool {
                match self { $(Counter::$variant => $loss,)* }
            }

            /// One sentence that says what is counted.
            pub const fn meaning(self) -> &'static str {
                match self { $(Counter::$variant => $text,)* }
            }
        }
    };
}

counters! {
    /// The live-block map was full.
    BlocksFull = 0, "blocks_full", true,
        "allocations not recorded because the live-block map was full (raise --max-live)";
    /// The map of stacks was full.
    StacksFull = 1, "stacks_full", true,
        "allocations not recorded because the map of stacks was full";
    /// The map of threads was full.
    ThreadsFull = 2, "threads_full", true,
        "allocator calls not recorded because too many threads allocate";
    /// A stack's frames did not fit the ring buffer; tried again at its next allocation.
    StackEventsLost = 3, "stack_events_lost", false,
        "stack records that did not fit the ring buffer and were sent again later";
    /// The stack was deeper than [`MAX_FRAMES`].
    StacksCut = 4, "stacks_cut", false,
        "allocations whose stack has more frames than are recorded";
    /// An address was given out again although its free was not seen.
    MissedFrees = 5, "missed_frees", true,
        "blocks given out again whose free was not seen";
    /// A free of a block that is not on record.
    UnknownFrees = 6, "unknown_frees", false,
        "frees of blocks from before the attach or outside the size filter";
    /// Calls that were left by longjmp or a thread's end.
    AbandonedCalls = 7, "abandoned_calls", false,
        "allocator calls that never returned (longjmp, exception, end of a thread)";
    /// More signal handlers on top of one another than can be told apart.
    NestedTooDeep = 8, "nested_too_deep", true,
        "allocator calls in signal handlers nested too deep to follow";
    /// An argument or result could not be read from the target's memory.
    UnreadableMemory = 9, "unreadable_memory", true,
        "allocations not recorded because the target's memory could not be read";
    /// Failed calls: the allocator returned no block.
    FailedCalls = 10, "failed_calls", false,
        "allocator calls that failed";
    /// An exec could not be announced.
    ExecEventsLost = 11, "exec_events_lost", true,
        "executions of a new program that could not be announced";
    /// See [`StackEnd::NoMapping`].
    StacksNoMapping = 12, "stacks_no_mapping", false,
        "allocations whose stack ends in code that was not known yet (just loaded or generated)";
    /// See [`StackEnd::NoRow`].
    StacksNoRow = 13, "stacks_no_row", false,
        "allocations whose stack ends in code without unwind information";
    /// See [`StackEnd::Unsupported`].
    StacksUnsupported = 14, "stacks_unsupported", false,
        "allocations whose stack ends where the unwind information cannot be followed";
    /// See [`StackEnd::UnreadableStack`].
    StacksUnreadable = 15, "stacks_unreadable", false,
        "allocations whose stack ends in memory that could not be read";
    /// See [`StackEnd::WrongWay`].
    StacksWrongWay = 16, "stacks_wrong_way", false,
        "allocations whose stack ends where the caller's frame would lie below its callee's";
    /// Two stacks have the same id.
    StackCollisions = 17, "stack_collisions", true,
        "allocations not recorded because another stack has the same id";
    /// The map of mapped ranges was full.
    RangesFull = 18, "ranges_full", true,
        "mappings not recorded because the map of mappings was full";
    /// The map of processes was full.
    ProcessesFull = 19, "processes_full", true,
        "forked children not recorded because there were too many processes";
    /// A fork could not be announced.
    ForkEventsLost = 20, "fork_events_lost", true,
        "forked children whose beginning could not be announced";
    /// An end could not be announced.
    ExitEventsLost = 21, "exit_events_lost", true,
        "ends of processes that could not be announced";
    /// A free of a block that a process has from the one that forked it.
    InheritedFrees = 22, "inherited_frees", false,
        "frees of blocks that a child had from the process that forked it";
    /// A system call that changes mappings could not be announced.
    MappingEventsLost = 23, "mapping_events_lost", true,
        "system calls that map or unmap memory and could not be announced";
    /// The map of regions that pages have moved to was full.
    MovesFull = 24, "moves_full", true,
        "regions of 2 MiB that mremap moved pages to, whose stacks are lost because there were too many";
}
