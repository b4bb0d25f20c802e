//! What is told of a heap: plain data.

use serde::Serialize;

/// An amount of memory, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Part {
    /// Of address space.
    pub bytes: u64,
    /// Of these, on pages that are in memory (not in swap): its share of the process's RSS.
    pub resident_bytes: u64,
}

/// Which allocator it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// The GNU C library's (ptmalloc).
    Glibc,
    /// musl's since 1.2.1.
    Mallocng,
}

/// The state of a process's heap. `whole` is the sum of `live`, `unrecorded`, `free`, `overhead` and
/// `unreadable`.
#[derive(Clone, Debug, Serialize)]
pub struct HeapState {
    /// Whose books these are.
    pub allocator: Family,
    /// All that the allocator has from the kernel, as far as it was found.
    pub whole: Part,
    /// Blocks that leakprobe knows, as they were asked for.
    pub live: Part,
    /// How many these are.
    pub live_blocks: u64,
    /// Blocks in use that leakprobe does not know, with their headers and rounding: from before the attach, missed, or
    /// left out of a sample.
    pub unrecorded: Part,
    /// How many these are.
    pub unrecorded_blocks: u64,
    /// Free and kept.
    pub free: Part,
    /// The allocator's own: headers, rounding of the known blocks, tables.
    pub overhead: Part,
    /// What could not be told, for the reasons in `problems`.
    pub unreadable: Part,
    /// What the free memory is; its parts add up to `free`.
    pub kept: Vec<Kept>,
    /// Free memory on pages on which nothing is in use. glibc's `malloc_trim` gives (almost) all of this back, musl has
    /// nothing like it.
    pub free_pages: Part,
    /// Blocks with a mapping of their own (they are in the other figures too). Freed, they go back at once.
    pub mapped: Part,
    /// How many these are.
    pub mapped_blocks: u64,
    /// glibc: what each arena has, most free resident memory first; mappings of single blocks belong to none.
    pub arenas: Vec<Arena>,
    /// How many arenas there are (`arenas` may be cut short). 0 for mallocng.
    pub arena_count: u64,
    /// Groups of slots there are, those within slots of others included. 0 for glibc.
    pub group_count: u64,
    /// Free memory that cannot go back because of blocks in use; see `pins`.
    pub pinned: Part,
    /// The stacks whose blocks do that, most resident bytes first, cut short.
    #[serde(skip)]
    pub pins: Vec<Pin>,
    /// Known blocks that are not in use by the allocator's books: freed meanwhile, or not from this allocator.
    pub stale_blocks: u64,
    /// Bytes of these.
    pub stale_bytes: u64,
    /// Where `whole` is: ranges of addresses, sorted and joined.
    #[serde(skip)]
    pub ranges: Vec<(u64, u64)>,
    /// Why parts are unreadable; and other doubts, with 0 bytes.
    pub problems: Vec<Problem>,
    /// Bytes of the process's memory that were read.
    pub read_bytes: u64,
    /// CPU time that it took, ns.
    pub cpu_ns: u64,
}

/// Free memory of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Kept {
    /// Which.
    pub kind: Free,
    /// How much.
    #[serde(flatten)]
    pub part: Part,
    /// Pieces.
    pub pieces: u64,
}

/// Kinds of free memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Free {
    /// glibc: the end of an arena, from which new chunks are cut; given back when it is large.
    Top,
    /// glibc: free chunks between others.
    Bins,
    /// glibc: small free chunks that are not joined with their neighbours yet.
    Fastbins,
    /// glibc: chunks that a thread keeps for itself.
    Tcache,
    /// mallocng: slots that can be given out next.
    Available,
    /// mallocng: slots that were freed and wait for their group to be used again or given back.
    Freed,
    /// mallocng: slots that were never in use, or are held back.
    Untouched,
}

/// An arena of glibc.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Arena {
    /// Where its state is; 0 if the main arena's was not found.
    pub address: u64,
    /// The one that uses `brk`.
    pub is_main: bool,
    /// All of it.
    #[serde(flatten)]
    pub whole: Part,
    /// Free in it.
    pub free: Part,
}

/// What keeps free memory from going back. glibc: a free piece below the top is held by the blocks directly above
/// it, up to the next free piece. mallocng: the free slots of a mapping are held by all blocks in it. Several blocks
/// share it equally.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pin {
    /// Id of their stack; `None`: blocks that are not on record.
    pub stack: Option<u64>,
    /// Blocks that hold something.
    pub blocks: u64,
    /// Free memory that they hold.
    #[serde(flatten)]
    pub pinned: Part,
}

/// Why something could not be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// A sentence.
    pub reason: String,
    /// Bytes of address space that it is about.
    pub bytes: u64,
    /// How often.
    pub count: u64,
}
