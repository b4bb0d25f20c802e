//! Where all resident memory of a process is: each byte in one line, and what is left over in another.
//!
//! Whose a mapping is, `regions` tells by what the kernel says of it and by how the allocators and runtimes reserve
//! memory. Of the heap the blocks that were recorded are known, and what the allocator's own state says. Nothing
//! here says what of it is too much.

mod jvm;
mod regions;
mod runs;

use std::collections::BTreeMap;

use serde::Serialize;

use self::regions::owners;
use crate::target::{Region, Span, ThreadStacks};

/// What a line of an account is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Blocks that were given out while they were recorded, and not given back.
    LiveBlocks,
    /// Blocks that the allocator had given out before.
    BeforeAttach,
    /// Blocks that the allocator has given out, whenever that was, where none are recorded.
    Blocks,
    /// Freed memory that the allocator keeps.
    AllocatorFree,
    /// What the allocator takes for itself.
    AllocatorOverhead,
    /// All that the allocator has beside the live blocks, where it cannot be told apart.
    Allocator,
    /// Objects of JavaScript.
    V8Heap,
    /// Code that V8 has compiled.
    V8Code,
    /// Objects of Java.
    JvmHeap,
    /// Classes of Java.
    JvmMetaspace,
    /// Code that the JVM has compiled.
    JvmCode,
    /// What the JVM's garbage collector keeps of the heap.
    JvmGc,
    /// Other private memory without a file.
    Anonymous,
    /// Stacks of threads, but for the first.
    ThreadStacks,
    /// Stack of the first thread.
    MainStack,
    /// Data of the program and its libraries, and other pages of files that were written to.
    FilePrivate,
    /// Pages of files as they are on disk.
    File,
    /// Memory that others may share, without a file on disk.
    SharedMemory,
    /// Memory of devices and of the kernel.
    Device,
}

impl Kind {
    /// The same in words.
    pub fn what(self) -> &'static str {
        match self {
            Self::LiveBlocks => "live blocks, allocated since the attach",
            Self::BeforeAttach => "blocks from before the attach",
            Self::Blocks => "blocks of the allocator, from before the attach and since",
            Self::AllocatorFree => "freed memory that the allocator keeps",
            Self::AllocatorOverhead => {
                "the allocator's own: headers, and room that blocks do not fill"
            }
            Self::Allocator => {
                "rest of the allocator's heap: older blocks, overhead, freed memory (not split)"
            }
            Self::V8Heap => "V8's heap: objects of JavaScript",
            Self::V8Code => "V8's compiled code",
            Self::JvmHeap => "the JVM's heap: objects of Java",
            Self::JvmMetaspace => "the JVM's metaspace: classes",
            Self::JvmCode => "the JVM's code cache: compiled code",
            Self::JvmGc => "the JVM's tables and bitmaps for its garbage collector",
            Self::Anonymous => "other anonymous mappings",
            Self::ThreadStacks => "stacks of threads",
            Self::MainStack => "stack of the main thread",
            Self::FilePrivate => "data of the program and its libraries (private pages of files)",
            Self::File => "code and other pages of files, which the kernel can read again",
            Self::SharedMemory => "shared memory",
            Self::Device => "memory of devices and of the kernel",
        }
    }
}

/// All resident memory of a process at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Account {
    /// When, nanoseconds after the start of the recording.
    pub at_ns: u64,
    /// Resident memory by the kernel's counters, bytes.
    pub rss_bytes: u64,
    /// The same at the start; `None` if no account was taken then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_rss_bytes: Option<u64>,
    /// What it is made of, in a fixed order.
    pub lines: Vec<Line>,
    /// What of `rss_bytes` is in no line, bytes. Below zero if the lines are more: the counters and the page
    /// tables are not read at the same moment, nor do the counters count all.
    pub unexplained_bytes: i64,
    /// The same at the start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_unexplained_bytes: Option<i64>,
    /// What the lines do not say.
    #[serde(flatten)]
    pub besides: Besides,
    /// Sentences for a person.
    pub notes: Vec<String>,
}

/// Memory that is not resident, and resident memory of any line that is special. Bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Besides {
    /// Swapped out, and so in no line.
    pub swap_bytes: u64,
    /// Pages of hugetlbfs, which the kernel does not count as resident.
    pub hugetlb_bytes: u64,
    /// In huge pages, in some of the lines.
    pub huge_page_bytes: u64,
    /// Given back with `MADV_FREE`, in some of the lines: the kernel takes it when it needs some.
    pub lazy_free_bytes: u64,
}

impl Besides {
    fn of(regions: &[Region]) -> Self {
        let sum = |field: fn(&Region) -> u64| regions.iter().map(field).sum();
        Self {
            swap_bytes: sum(|it| it.swap),
            hugetlb_bytes: sum(|it| it.hugetlb),
            huge_page_bytes: sum(|it| it.huge),
            lazy_free_bytes: sum(|it| it.lazy_free),
        }
    }
}

/// A part of the resident memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// What it is.
    pub kind: Kind,
    /// Resident bytes.
    pub bytes: u64,
    /// The same at the start; `None` if no account was taken then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_bytes: Option<u64>,
    /// Of thread stacks: how many threads there are beside the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// The same at the start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_count: Option<u64>,
    /// `kind` in words.
    pub what: &'static str,
}

impl Account {
    /// From what was seen at the end, and at the start.
    pub fn new(at_ns: u64, seen: &Seen, start: Option<&Seen>) -> Self {
        let mut kinds: Vec<Kind> = seen.parts.keys().copied().collect();
        kinds.extend(start.iter().flat_map(|it| it.parts.keys()));
        kinds.sort_unstable();
        kinds.dedup();
        let lines = kinds.into_iter().map(|kind| {
            let part = |seen: &Seen| seen.parts.get(&kind).copied().unwrap_or_default();
            let (now, start) = (part(seen), start.map(part));
            let is_counted = kind == Kind::ThreadStacks;
            Line {
                kind,
                bytes: now.bytes,
                start_bytes: start.map(|it| it.bytes),
                count: is_counted.then_some(now.count),
                start_count: start.filter(|_| is_counted).map(|it| it.count),
                what: kind.what(),
            }
        });
        Self {
            at_ns,
            rss_bytes: seen.rss,
            start_rss_bytes: start.map(|it| it.rss),
            lines: lines.collect(),
            unexplained_bytes: seen.unexplained(),
            start_unexplained_bytes: start.map(Seen::unexplained),
            besides: seen.besides,
            notes: Vec::new(),
        }
    }

    /// Bytes of a line now; 0 if there is none.
    pub fn bytes(&self, kind: Kind) -> u64 {
        self.line(kind).map_or(0, |line| line.bytes)
    }

    /// By how much a line has grown since the start, bytes; `None` if that is not known.
    pub fn growth(&self, kind: Kind) -> Option<i64> {
        match self.line(kind) {
            Some(line) => Some(difference(line.bytes, line.start_bytes?)),
            None => self.start_rss_bytes.map(|_| 0),
        }
    }

    /// The line of a kind.
    pub fn line(&self, kind: Kind) -> Option<&Line> {
        self.lines.iter().find(|line| line.kind == kind)
    }
}

/// What is known of a process's memory at one moment, to be accounted for.
#[derive(Debug, Default)]
pub struct Look<'a> {
    /// Resident memory by the kernel's counters, bytes.
    pub rss: u64,
    /// Its mappings, lowest address first.
    pub regions: &'a [Region],
    /// Stacks of its threads.
    pub stacks: ThreadStacks,
    /// Its allocator, if that is known: `glibc`, `musl`, or another name.
    pub allocator: Option<&'a str>,
    /// What is known to be live of its heap; `None` if no blocks are recorded.
    pub live: Option<LiveMemory>,
    /// What the allocator's own state says.
    pub heap: Option<HeapMemory>,
    /// Where the heap is, by that state; lowest address first, without overlaps, none over the end of a mapping.
    pub heap_spans: Vec<Span>,
}

impl Look<'_> {
    /// Whether one of the large live blocks begins in a mapping.
    fn has_large_block(&self, region: &Region) -> bool {
        let large = self.live.as_ref().map_or(&[][..], |live| &live.large);
        let first = large.partition_point(|&it| it < region.start());
        large.get(first).is_some_and(|&it| it < region.end())
    }
}

/// Live blocks that were recorded.
#[derive(Clone, Debug, Default)]
pub struct LiveMemory {
    /// Bytes of them that are resident.
    pub resident: u64,
    /// Addresses of the large ones, which may have mappings of their own; lowest first.
    pub large: Vec<u64>,
}

/// Resident memory of an allocator, as its own state says. Bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeapMemory {
    /// In blocks that are given out.
    pub used: u64,
    /// In none, which it keeps.
    pub free: u64,
    /// What could not be read of it.
    pub unreadable: u64,
}

/// What was seen at one moment: how much of each kind.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    rss: u64,
    parts: BTreeMap<Kind, Part>,
    besides: Besides,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Part {
    bytes: u64,
    count: u64,
}

impl Seen {
    /// Accounts for what is known.
    pub fn of(look: &Look<'_>) -> Self {
        let mut seen = Self {
            rss: look.rss,
            besides: Besides::of(look.regions),
            ..Self::default()
        };
        let mut heap = 0;
        for (kind, bytes) in owners(look) {
            match kind {
                Kind::Allocator => heap += bytes,
                kind => seen.add(kind, bytes),
            }
        }
        seen.split(heap, look);
        if let Some(stacks) = seen.parts.get_mut(&Kind::ThreadStacks) {
            stacks.count = look.stacks.threads;
        }
        seen.parts
            .retain(|_, part| part.bytes > 0 || part.count > 0);
        seen
    }

    /// Tells apart what the allocator has.
    fn split(&mut self, heap: u64, look: &Look<'_>) {
        let live = look.live.as_ref().map_or(0, |live| live.resident).min(heap);
        self.add(Kind::LiveBlocks, live);
        let Some(state) = &look.heap else {
            self.add(Kind::Allocator, heap - live);
            return;
        };
        let mut left = heap - live;
        let mut take = |kind, most: u64| {
            let bytes = most.min(left);
            left -= bytes;
            self.add(kind, bytes);
        };
        take(Kind::AllocatorFree, state.free);
        let others = match look.live {
            Some(_) => Kind::BeforeAttach,
            None => Kind::Blocks,
        };
        take(others, state.used.saturating_sub(live));
        take(Kind::Allocator, state.unreadable);
        take(Kind::AllocatorOverhead, u64::MAX);
    }

    fn add(&mut self, kind: Kind, bytes: u64) {
        self.parts.entry(kind).or_default().bytes += bytes;
    }

    fn unexplained(&self) -> i64 {
        let sum = self.parts.values().map(|part| part.bytes).sum();
        difference(self.rss, sum)
    }
}

/// a - b.
pub fn difference(a: u64, b: u64) -> i64 {
    i64::try_from(i128::from(a) - i128::from(b)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
