//! What the allocator of a running process keeps, read from its own books: how much of what it has from
//! the kernel is in blocks, free, or its own, and which blocks keep free memory from going back.
//!
//! The process is only read, through descriptors of its address space (`/proc/PID/mem`, `pagemap`), and only
//! pages that are in memory: it is never stopped, nothing of it is written, nothing is swapped in. It goes on while
//! it is read, so the state is that of no single moment. All that is read may be rubbish: each number is
//! checked, each loop bounded, and what does not fit together is `unreadable`, never estimated. By
//! construction every byte is in exactly one part.
//!
//! What a stack is called, and how this figure fits into the rest of the process's memory, is not its business.

mod glibc;
mod mallocng;
mod memory;
mod space;
mod state;
mod sweep;

use std::path::Path;
use std::time::Duration;

use self::memory::Memory;
pub use self::state::{Arena, Family, Free, HeapState, Kept, Part, Pin, Problem};
use self::sweep::Sums;
use super::{AllocatorInfo, ElfObject, Mapping, Process};

/// A block that is known to live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LiveBlock {
    /// What the allocator returned.
    pub address: u64,
    /// Bytes asked for.
    pub size: u64,
    /// Id of the stack that allocated it.
    pub stack: u64,
}

/// How much is read, and told.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of the process's memory that are read at most. What is left then is `unreadable`.
    pub read_bytes: u64,
    /// CPU time that it may take, roughly.
    pub time: Duration,
    /// Stacks in [`HeapState::pins`], and arenas in [`HeapState::arenas`].
    pub top: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            read_bytes: 8 << 30,
            time: Duration::from_secs(10),
            top: 20,
        }
    }
}

/// Why nothing could be told at all.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// An allocator whose books leakprobe does not know.
    #[error(
        "the state of the allocator `{0}` cannot be read: leakprobe knows the books of glibc and of \
         musl (1.2.1 or later) only"
    )]
    Allocator(String),
    /// musl's before 1.2.1.
    #[error(
        "the state of this musl's allocator cannot be read: it is that of before 1.2.1 \
         (oldmalloc), and leakprobe knows the newer one (mallocng) only"
    )]
    OldMalloc,
    /// Nothing that looks like the allocator's was found.
    #[error(
        "no heap was found in process {0}: it has not allocated anything, or its allocator is not \
         what its file says"
    )]
    NoHeap(u32),
    /// The process cannot be read.
    #[error("failed to read the memory of process {0}")]
    Memory(u32, #[source] anyhow::Error),
}

/// Reads the state of the heap of `process`, which `allocator` serves. `live` are the blocks known to live, sorted by
/// address.
///
/// # Errors
///
/// One sentence for each case of [`Unreadable`]. A part that cannot be read is no error.
pub fn read(
    process: &Process,
    allocator: &AllocatorInfo,
    live: &[LiveBlock],
    limits: Limits,
) -> Result<HeapState, Unreadable> {
    let pid = process.pid();
    let unreadable = |error| Unreadable::Memory(pid, error);
    // Open first: what is opened stays the same address space, whatever becomes of the process.
    let mut memory = Memory::open(pid, &limits).map_err(unreadable)?;
    let mappings = Mapping::read_all(pid).map_err(unreadable)?;
    if mappings.is_empty() || process.has_ended() {
        return Err(unreadable(anyhow::anyhow!("process {pid} has ended")));
    }
    let family = family(process, allocator, &mappings)?;
    let state = read_memory(
        &mut memory,
        &mappings,
        family,
        &allocator.path,
        live,
        limits,
    )?;
    if state.whole.bytes == 0 {
        return Err(Unreadable::NoHeap(pid));
    }
    Ok(state)
}

fn read_memory(
    memory: &mut Memory,
    mappings: &[Mapping],
    family: Family,
    path: &str,
    live: &[LiveBlock],
    limits: Limits,
) -> Result<HeapState, Unreadable> {
    let mut sums = Sums::default();
    let (mut arenas, mut group_count) = (Vec::new(), 0);
    let (mapped, mapped_blocks);
    match family {
        Family::Glibc => {
            let found = glibc::read(memory, mappings, path, live, &mut sums);
            (mapped, mapped_blocks) = (found.mapped, found.mapped_blocks);
            arenas = found.arenas;
        }
        Family::Mallocng => {
            let found = mallocng::read(memory, mappings, live, &mut sums);
            if found.is_old {
                return Err(Unreadable::OldMalloc);
            }
            (mapped, mapped_blocks) = (found.mapped, found.mapped_blocks);
            group_count = found.groups;
        }
    }
    let arena_count = arenas.len() as u64;
    arenas.truncate(limits.top);
    let (pinned, pins) = sums.pins(limits.top);
    Ok(HeapState {
        allocator: family,
        whole: sums.whole(),
        live: sums.live,
        live_blocks: sums.live_blocks,
        unrecorded: sums.unrecorded,
        unrecorded_blocks: sums.unrecorded_blocks,
        free: sums.free(),
        overhead: sums.overhead,
        unreadable: sums.unreadable,
        kept: sums.kept(),
        free_pages: sums.free_pages,
        mapped,
        mapped_blocks,
        arenas,
        arena_count,
        group_count,
        pinned,
        pins,
        stale_blocks: (live.len() as u64).saturating_sub(sums.live_blocks),
        stale_bytes: sums.stale_bytes(live),
        ranges: sums.ranges(),
        problems: sums.problems(),
        read_bytes: memory.read_bytes(),
        cpu_ns: memory.elapsed().as_nanos() as u64,
    })
}

/// Which family the allocator is of. A static program's has the program's name; its functions tell.
fn family(
    process: &Process,
    allocator: &AllocatorInfo,
    mappings: &[Mapping],
) -> Result<Family, Unreadable> {
    const GLIBC: &str = "__libc_memalign";
    const MALLOCNG: &str = "__malloc_alloc_meta";
    const OLD_MALLOC: &str = "__malloc_donate";
    match allocator.name.as_str() {
        "glibc" => return Ok(Family::Glibc),
        "musl" => return Ok(Family::Mallocng),
        _ => {}
    }
    let unknown = || Unreadable::Allocator(allocator.name.clone());
    let is_it =
        |mapping: &&Mapping| mapping.executable && mapping.path == Path::new(&allocator.path);
    let mapping = mappings.iter().find(is_it).ok_or_else(unknown)?;
    let file = mapping.open(process.pid()).map_err(|_| unknown())?;
    let names = [GLIBC, MALLOCNG, OLD_MALLOC];
    let (object, symbols) =
        ElfObject::open(file, allocator.path.clone(), &names, true).map_err(|_| unknown())?;
    let has = |name| object.is_static() && symbols.contains_key(name);
    match (has(GLIBC), has(MALLOCNG), has(OLD_MALLOC)) {
        (true, false, false) => Ok(Family::Glibc),
        (false, true, _) => Ok(Family::Mallocng),
        (false, false, true) => Err(Unreadable::OldMalloc),
        _ => Err(unknown()),
    }
}

#[cfg(test)]
mod tests;
