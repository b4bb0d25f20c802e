//! Where the memory of the process is, and how much it has over time. Of many processes, of the one that the report
//! is named after.
//!
//! The counters are read once a second, which takes no lock of the process's. The account takes one; it is taken
//! at the start and at the end, and in between now and then, since nobody knows when a process will die.

use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use leakprobe_common::Block;

use super::{Session, Subject};
use crate::analyze::account::{self, Account, HeapMemory, LiveMemory, Seen};
use crate::analyze::rss::Rss;
use crate::report::human;
use crate::sampling::Estimate;
use crate::snapshot::LiveBlocks;
use crate::target::heaps::{self, HeapState, Limits, LiveBlock};
use crate::target::pages::Resident;
use crate::target::{AllocatorInfo, Cgroup, Mapping, Process, Smaps, ThreadStacks, Usage, spans};

/// Between accounts at the least.
const PAUSE: Duration = Duration::from_secs(10);

/// Of the time, at most one part in so many goes into accounts that nobody asked for.
const REST: u32 = 100;

/// The allocator's own state is read for no longer where nobody waits for it.
const SHORT: Duration = Duration::from_secs(1);

/// How long the attach waits for the first one.
const MOMENT: Duration = Duration::from_millis(100);

/// Smaller blocks are taken to be resident.
const LARGE: u64 = 64 << 10;

/// What is known of the memory of the process.
#[derive(Default)]
pub(super) struct Memory {
    rss: Rss,
    cgroup: Option<Cgroup>,
    start: Option<Seen>,
    /// The last account, with its moment.
    last: Option<(u64, Seen)>,
    /// The one that is being taken.
    looking: Option<Looking>,
    /// Not to take one before.
    rest_until: Option<Instant>,
    /// Why there is none.
    failure: Option<String>,
    /// The address space of `start` and `last`.
    space: Option<u64>,
    /// What the allocator's own state said at the last account.
    pub(super) heap: Option<HeapState>,
}

impl Session {
    /// Takes the first account.
    pub(super) fn begin_account(&mut self) {
        self.memory.cgroup = Cgroup::of(self.members.target.pid).ok();
        self.look_at_memory(0);
        self.start_account(LiveMemory::default());
        // It is as of the start, unless the heap is large.
        let until = Instant::now() + MOMENT;
        while self.is_looking() && Instant::now() < until {
            thread::sleep(MOMENT / 100);
        }
    }

    /// To be called once a second, with what is live of all processes.
    pub(super) fn follow_memory(&mut self, live: u64) {
        let live = match self.members.are_many() {
            true => self.live_of_target(),
            false => live,
        };
        self.look_at_memory(live);
        if self.is_looking() {
            return;
        }
        self.end_account();
        let rests = self.memory.rest_until.is_some_and(|at| Instant::now() < at);
        if !rests {
            let live = LiveMemory {
                resident: live,
                large: Vec::new(),
            };
            self.start_account(live);
        }
    }

    /// What the account of now needs of the kernel; to be asked before probes are taken away, for the pages that
    /// hold them go with them.
    pub(super) fn regions_now(&self) -> Option<Regions> {
        let pid = self.accounted()?.pid();
        Regions::read(pid).ok().flatten()
    }

    /// The live blocks of the process of the account; `None` if it has ended, or none are recorded.
    pub(super) fn blocks_now(&self) -> Option<LiveBlocks> {
        let is_heap = matches!(self.subject, Subject::Heap(_));
        let space = self.space_of_target().filter(|_| is_heap)?;
        self.accounted()?;
        self.maps.live_blocks(space).ok()
    }

    /// Takes the account of now, with the blocks, and the regions of a moment ago.
    pub(super) fn account_now(&mut self, regions: Option<Regions>, blocks: Option<&LiveBlocks>) {
        self.end_account();
        let Some(process) = self.accounted() else {
            return;
        };
        let pid = process.pid();
        if let Ok(usage) = Usage::read(pid)
            && usage.rss > 0
        {
            self.memory.rss.note(usage.rss, usage.of_files);
        }
        let blocks = blocks.map_or(&[][..], |it| &it.blocks);
        let live = resident(pid, blocks);
        let block = |(address, block): &(u64, Block)| LiveBlock {
            address: *address,
            size: block.size,
            stack: block.stack,
        };
        let blocks: Vec<_> = blocks.iter().map(block).collect();
        let began = Instant::now();
        if let Some(look) = self.look(live, Limits::default().time) {
            let looked = look.at(&blocks, regions);
            self.note_account(began, self.space_of_target(), looked);
        }
    }

    /// What a report says of it.
    pub(super) fn memory(&self) -> (Option<Account>, Option<Rss>) {
        let memory = &self.memory;
        let account = memory.last.as_ref().map(|(at, seen)| {
            let mut account = Account::new(*at, seen, memory.start.as_ref());
            let now = self.began.elapsed().as_nanos() as u64;
            let age = now.saturating_sub(*at);
            if age > PAUSE.as_nanos() as u64 / 10 {
                account.notes.push(format!(
                    "as of {} before the end, when it was last looked at",
                    human::duration(age)
                ));
            }
            account.notes.extend(memory.failure.clone());
            account
        });
        let seen = !memory.rss.series.is_empty();
        (account, seen.then(|| memory.rss.clone()))
    }

    /// The process of the account, if it is alive.
    fn accounted(&self) -> Option<&Process> {
        let mut alive = self.members.alive();
        let member = alive.find(|it| it.pid() == self.members.target.pid)?;
        member.process.as_ref().filter(|it| !it.has_ended())
    }

    fn look_at_memory(&mut self, live: u64) {
        let Some(process) = self.accounted() else {
            return;
        };
        let usage = Usage::read(process.pid());
        // One that is about to end has no memory any more.
        let Some(usage) = usage.ok().filter(|it| it.rss > 0) else {
            return;
        };
        let at = self.began.elapsed().as_nanos() as u64;
        let memory = &mut self.memory;
        memory.rss.look(at, usage.rss, usage.of_files, live);
        if let Some(group) = memory.cgroup.as_ref().and_then(|it| it.memory().ok()) {
            memory.rss.limit_bytes = group.limit;
            memory.rss.limit_used_bytes = group.limit.map(|_| group.usage);
        }
    }

    /// What an account needs, of `live` blocks; `None` if the process has ended.
    fn look(&self, live: LiveMemory, time: Duration) -> Option<Look> {
        let process = self.accounted()?;
        let (allocator, live) = match self.subject {
            Subject::Heap(_) => (self.allocators().0, Some(live)),
            Subject::Growth(_) => (library(process.pid()), None),
        };
        Some(Look {
            process: process.try_clone().ok()?,
            allocator,
            live,
            is_sample: self.sampling.is_some() || self.governed.is_some(),
            time,
        })
    }

    /// Takes an account, of which a thread reads the heap: a large one takes its time, and records must not wait
    /// for it.
    fn start_account(&mut self, live: LiveMemory) {
        let space = self.space_of_target();
        let regions = self.regions_now();
        self.memory.looking = self.look(live, SHORT).map(|look| Looking {
            began: Instant::now(),
            space,
            thread: thread::spawn(move || look.at(&[], regions)),
        });
    }

    /// Whether an account is being taken.
    fn is_looking(&self) -> bool {
        let looking = self.memory.looking.as_ref();
        looking.is_some_and(|it| !it.thread.is_finished())
    }

    /// Waits for the account that is being taken.
    fn end_account(&mut self) {
        if let Some(looking) = self.memory.looking.take() {
            let looked = looking.thread.join();
            let looked = looked.unwrap_or_else(|_| bail!("the thread that takes it panicked"));
            self.note_account(looking.began, looking.space, looked);
        }
    }

    /// Takes in an account that was begun at some moment, of an address space.
    fn note_account(&mut self, began: Instant, space: Option<u64>, looked: Result<Option<Looked>>) {
        let memory = &mut self.memory;
        memory.rest_until = Some(Instant::now() + PAUSE);
        match looked {
            Ok(Some(looked)) => {
                let took = looked.at.saturating_duration_since(began);
                memory.rest_until = Some(looked.at + PAUSE.max(took * REST));
                let at = looked.at.saturating_duration_since(self.began);
                let at = at.as_nanos() as u64;
                if memory.last.is_some() && space != memory.space {
                    // Another program: what there was at the start is nothing to compare with.
                    memory.start = None;
                } else if memory.last.is_none() {
                    memory.start = Some(looked.seen.clone());
                }
                memory.space = space;
                memory.last = Some((at, looked.seen));
                memory.heap = looked.heap;
                memory.failure = None;
            }
            Ok(None) => {}
            Err(why) => memory.failure = Some(format!("no account of the memory: {why:#}")),
        }
    }

    /// The address space of the process of the account.
    fn space_of_target(&self) -> Option<u64> {
        let pid = self.members.target.pid;
        let mut alive = self.members.alive();
        alive.find(|it| it.pid() == pid).map(|it| it.space)
    }

    /// Live bytes of the process, where many are recorded.
    fn live_of_target(&self) -> u64 {
        let space = self.space_of_target();
        let states = self.maps.processes().unwrap_or_default();
        let state = states.iter().find(|it| Some(it.space) == space);
        state.map_or(0, |it| it.allocated_bytes.saturating_sub(it.freed_bytes))
    }
}

/// What of live blocks is resident; they are sorted by address.
fn resident(pid: u32, blocks: &[(u64, Block)]) -> LiveMemory {
    let (mut all, mut absent) = (Estimate::default(), Estimate::default());
    let mut large = Vec::new();
    let pages = Resident::of(pid);
    for (address, block) in blocks {
        all.add(block.size, block.chance);
        if block.size < LARGE {
            continue;
        }
        large.push(*address);
        let end = address.saturating_add(block.size);
        let there = pages.between(*address, end).unwrap_or(block.size);
        absent.add(block.size.saturating_sub(there), block.chance);
    }
    LiveMemory {
        resident: all.bytes().saturating_sub(absent.bytes()),
        large,
    }
}

/// What was seen of a process's memory.
struct Looked {
    at: Instant,
    seen: Seen,
    heap: Option<HeapState>,
}

/// An account that a thread takes.
struct Looking {
    began: Instant,
    space: Option<u64>,
    thread: JoinHandle<Result<Option<Looked>>>,
}

/// What is to be looked at.
struct Look {
    process: Process,
    allocator: Option<AllocatorInfo>,
    /// In growth mode none.
    live: Option<LiveMemory>,
    is_sample: bool,
    time: Duration,
}

impl Look {
    /// Looks where the memory of the process is, with the blocks and the regions that are known; `None` if it has
    /// ended.
    fn at(self, blocks: &[LiveBlock], regions: Option<Regions>) -> Result<Option<Looked>> {
        let Self {
            process,
            allocator,
            live,
            is_sample,
            time,
        } = self;
        let pid = process.pid();
        let regions = match regions {
            Some(regions) => Some(regions),
            None => Regions::read(pid)?,
        };
        let Some(Regions { rss, smaps, stacks }) = regions else {
            return Ok(None);
        };
        let limits = Limits {
            time,
            ..Limits::default()
        };
        let heap = allocator
            .as_ref()
            .map(|it| heaps::read(&process, it, blocks, limits));
        if let Some(Err(why)) = &heap {
            log::debug!("the heap is not split: {why:#}");
        }
        let heap = heap.and_then(Result::ok);
        let heap = heap.filter(|it| it.whole.resident_bytes > it.unreadable.resident_bytes);
        // All of the blocks are known there, by the page.
        let of_heap = heap.as_ref().filter(|_| !is_sample && !blocks.is_empty());
        let live = match (live, of_heap) {
            (Some(live), Some(heap)) => Some(LiveMemory {
                resident: heap.live.resident_bytes,
                ..live
            }),
            (live, _) => live,
        };
        let seen = Seen::of(&account::Look {
            rss,
            regions: &smaps.regions,
            stacks,
            allocator: allocator.as_ref().map(|it| it.name.as_str()),
            live,
            heap_spans: heap
                .as_ref()
                .map_or_else(Vec::new, |heap| spans(pid, &smaps.regions, &heap.ranges)),
            heap: heap.as_ref().map(|heap| HeapMemory {
                used: heap.live.resident_bytes + heap.unrecorded.resident_bytes,
                free: heap.free.resident_bytes,
                unreadable: heap.unreadable.resident_bytes,
            }),
        });
        Ok(Some(Looked {
            at: Instant::now(),
            seen,
            heap,
        }))
    }
}

/// What the kernel says of the memory of a process.
pub(super) struct Regions {
    /// Resident bytes.
    rss: u64,
    smaps: Smaps,
    stacks: ThreadStacks,
}

impl Regions {
    /// `None` if the process has ended.
    fn read(pid: u32) -> Result<Option<Self>> {
        let smaps = match Smaps::read(pid) {
            Ok(smaps) => smaps,
            Err(_) if Usage::read(pid).map_or(true, |it| it.rss == 0) => return Ok(None),
            Err(error) => return Err(error),
        };
        let rss = Usage::read(pid)?.rss;
        let stacks = ThreadStacks::find(pid, &smaps.regions);
        Ok(Some(Self { rss, smaps, stacks }))
    }
}

/// The C library's allocator, by the names of what is mapped; nobody looks for one in growth mode.
fn library(pid: u32) -> Option<AllocatorInfo> {
    let mappings = Mapping::read_all(pid).ok()?;
    mappings
        .iter()
        .filter(|it| it.executable)
        .find_map(|mapping| {
            let file = mapping.path.file_name()?.to_string_lossy();
            let is_musl = file.starts_with("ld-musl-") || file.starts_with("libc.musl-");
            let name = match file.starts_with("libc.so.6") || file.starts_with("libc-2.") {
                true => "glibc",
                false if is_musl => "musl",
                false => return None,
            };
            Some(AllocatorInfo {
                name: name.to_owned(),
                path: mapping.path.to_string_lossy().into_owned(),
            })
        })
}
