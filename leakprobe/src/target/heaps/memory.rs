//! Bytes of a process's memory, and which of its pages are there. What the bytes mean is not known here.
//!
//! `/proc/PID/mem` rather than process_vm_readv: a descriptor belongs to the address space, and cannot come to mean
//! another process's, or another program's after an exec. Only pages that are in memory by the page map are read:
//! a read of any other would bring it in from swap, or make page tables for it.

use std::cell::Cell;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use anyhow::{Context, Result};
use leakprobe_common::{HUGE_BYTES, PAGE_BYTES};
use nix::time::{ClockId, clock_gettime};

use super::Limits;
use crate::capability::advice_to_look;
use crate::target::pages::{Page, Pages, REGION_PAGES};
use crate::target::proc_fs;

/// Bytes that are read at once at most, when one read follows the other.
const WINDOW: u64 = 256 << 10;

/// Most regions of which the pages are remembered: 1 TiB.
const MAX_REGIONS: usize = 1 << 19;

/// Where the bytes are from: a process, or a test.
pub trait Source {
    /// Reads bytes.
    fn read(&self, address: u64, into: &mut [u8]) -> io::Result<usize>;
    /// The pages of the region of [`HUGE_BYTES`] that begins at an address.
    fn region(&self, start: u64) -> Option<[Page; REGION_PAGES]>;
}

/// Why a piece of memory cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unread {
    /// It is not there: never written, given back, or not mapped.
    Absent,
    /// It is in swap.
    Swapped,
    /// The limit of bytes or time is reached.
    Limit,
}

impl Unread {
    /// As a sentence of the report.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Absent => "memory that the allocator's books are in is not there",
            Self::Swapped => "memory that the allocator's books are in is swapped out",
            Self::Limit => "more to read than the limits of bytes and time allow",
        }
    }
}

/// The memory of a process.
pub struct Memory {
    source: Box<dyn Source>,
    regions: HashMap<u64, PageBits>,
    /// The region that was looked at last.
    last: (u64, PageBits),
    window: Window,
    /// The page that was looked at last by itself.
    page: Option<(u64, Box<[u8]>)>,
    left: u64,
    read: u64,
    began: Duration,
    time: Duration,
    /// Calls until the clock is looked at again.
    patience: Cell<u32>,
    over: Cell<bool>,
}

/// Pages of a region: in memory; in swap.
#[derive(Clone, Copy, Default)]
struct PageBits {
    there: [u64; REGION_PAGES / 64],
    swapped: [u64; REGION_PAGES / 64],
}

#[derive(Default)]
struct Window {
    start: u64,
    bytes: Vec<u8>,
    /// For each of its pages, whether it was read.
    valid: Vec<bool>,
    /// Size of the next one if it follows this one.
    next: u64,
}

struct Live {
    memory: File,
    pages: Pages,
}

impl Source for Live {
    fn read(&self, address: u64, into: &mut [u8]) -> io::Result<usize> {
        self.memory.read_at(into, address)
    }

    fn region(&self, start: u64) -> Option<[Page; REGION_PAGES]> {
        self.pages.region(start, |_| true)
    }
}

/// What the calling thread has used: on a busy machine there is less of it than of time.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

impl Memory {
    /// That of process `pid`.
    ///
    /// # Errors
    ///
    /// If its memory or its page map cannot be opened.
    pub fn open(pid: u32, limits: &Limits) -> Result<Self> {
        let path = proc_fs::pid(pid, "mem");
        let memory = File::open(&path).map_err(|error| {
            let denied = error.kind() == io::ErrorKind::PermissionDenied;
            let error = anyhow::Error::new(error);
            match denied {
                true => error.context(advice_to_look()),
                false => error,
            }
        });
        let memory = memory.with_context(|| format!("failed to open `{}`", path.display()))?;
        let pages = Pages::open(pid)?;
        Ok(Self::new(Box::new(Live { memory, pages }), limits))
    }

    /// That of any source.
    pub fn new(source: Box<dyn Source>, limits: &Limits) -> Self {
        Self {
            source,
            regions: HashMap::new(),
            last: (u64::MAX, PageBits::default()),
            window: Window::default(),
            page: None,
            left: limits.read_bytes,
            read: 0,
            began: cpu_time(),
            time: limits.time,
            patience: Cell::new(0),
            over: Cell::new(false),
        }
    }

    /// Bytes read so far.
    pub fn read_bytes(&self) -> u64 {
        self.read
    }

    /// CPU time of this thread since it was opened.
    pub fn elapsed(&self) -> Duration {
        cpu_time().saturating_sub(self.began)
    }

    /// Whether a limit is reached. For every loop whose number of turns the process decides.
    pub fn is_over(&self) -> bool {
        if self.patience.get() == 0 {
            self.patience.set(1024);
            self.over.set(self.over.get() || self.elapsed() > self.time);
        }
        self.patience.set(self.patience.get() - 1);
        self.over.get() || self.left == 0
    }

    /// Forgets what was read, to read it anew.
    pub fn forget(&mut self) {
        self.forget_bytes();
        self.regions.clear();
        self.last.0 = u64::MAX;
    }

    /// Forgets bytes alone.
    pub fn forget_bytes(&mut self) {
        self.window = Window::default();
        self.page = None;
    }

    /// Bytes of a range that are in memory.
    pub fn resident(&mut self, start: u64, end: u64) -> u64 {
        let mut sum = 0;
        let mut at = start;
        while at < end {
            let page_end = (at - at % PAGE_BYTES).saturating_add(PAGE_BYTES);
            let region = at / HUGE_BYTES;
            let bits = self.bits(region);
            let page = (at % HUGE_BYTES / PAGE_BYTES) as usize;
            // Long ranges by words of 64 pages.
            if at.is_multiple_of(64 * PAGE_BYTES) && end - at >= 64 * PAGE_BYTES {
                sum += u64::from(bits.there[page / 64].count_ones()) * PAGE_BYTES;
                at += 64 * PAGE_BYTES;
                continue;
            }
            let until = page_end.min(end);
            if bits.there[page / 64] >> (page % 64) & 1 == 1 {
                sum += until - at;
            }
            at = until;
        }
        sum
    }

    /// Whether the page of an address can be read.
    pub fn page(&mut self, address: u64) -> Result<(), Unread> {
        let bits = self.bits(address / HUGE_BYTES);
        let page = (address % HUGE_BYTES / PAGE_BYTES) as usize;
        let is = |words: &[u64; REGION_PAGES / 64]| words[page / 64] >> (page % 64) & 1 == 1;
        match (is(&bits.there), is(&bits.swapped)) {
            (true, _) => Ok(()),
            (_, true) => Err(Unread::Swapped),
            _ => Err(Unread::Absent),
        }
    }

    fn bits(&mut self, region: u64) -> PageBits {
        if self.last.0 == region {
            return self.last.1;
        }
        let bits = match self.regions.get(&region) {
            Some(bits) => *bits,
            None => {
                let pages = match self.is_over() {
                    true => None,
                    false => self.source.region(region.saturating_mul(HUGE_BYTES)),
                };
                let mut bits = PageBits::default();
                for (index, page) in pages.iter().flatten().enumerate() {
                    let bit = 1 << (index % 64);
                    if page.is_swapped {
                        bits.swapped[index / 64] |= bit;
                    } else if page.is_there {
                        bits.there[index / 64] |= bit;
                    }
                }
                if self.regions.len() < MAX_REGIONS {
                    self.regions.insert(region, bits);
                }
                bits
            }
        };
        self.last = (region, bits);
        bits
    }

    /// Reads a few bytes from anywhere. What follows a list may find the next entry on the same page.
    pub fn peek(&mut self, address: u64, into: &mut [u8]) -> Result<(), Unread> {
        let mut done = 0;
        while done < into.len() {
            let at = address.checked_add(done as u64).ok_or(Unread::Absent)?;
            let page = at - at % PAGE_BYTES;
            let bytes = match self.page.take() {
                Some((start, bytes)) if start == page => bytes,
                _ => self.read_page(page)?,
            };
            let from = (at - page) as usize;
            let count = (into.len() - done).min(bytes.len() - from);
            into[done..done + count].copy_from_slice(&bytes[from..from + count]);
            self.page = Some((page, bytes));
            done += count;
        }
        Ok(())
    }

    fn read_page(&mut self, page: u64) -> Result<Box<[u8]>, Unread> {
        self.page(page)?;
        self.charge(PAGE_BYTES)?;
        let mut bytes = vec![0; PAGE_BYTES as usize].into_boxed_slice();
        match self.source.read(page, &mut bytes) {
            Ok(read) if read == bytes.len() => Ok(bytes),
            _ => Err(Unread::Absent),
        }
    }

    /// Eight bytes from anywhere.
    pub fn word(&mut self, address: u64) -> Result<u64, Unread> {
        let mut bytes = [0; 8];
        self.peek(address, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// `N` bytes, which may have been read in one piece with others just now.
    pub fn bytes<const N: usize>(&mut self, address: u64) -> Result<[u8; N], Unread> {
        let end = address.checked_add(N as u64).ok_or(Unread::Absent)?;
        let window_end = self.window.start + self.window.bytes.len() as u64;
        if address < self.window.start || end > window_end {
            self.load(address, end)?;
        }
        let window = &self.window;
        let from = (address - window.start) as usize;
        let (first, last) = (
            from / PAGE_BYTES as usize,
            (from + N - 1) / PAGE_BYTES as usize,
        );
        if !(first..=last).all(|page| window.valid.get(page) == Some(&true)) {
            self.check(address, N as u64)?;
            return Err(match self.is_over() {
                true => Unread::Limit,
                false => Unread::Absent,
            });
        }
        window
            .bytes
            .get(from..from + N)
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or(Unread::Absent)
    }

    fn check(&mut self, address: u64, size: u64) -> Result<(), Unread> {
        let last = address.checked_add(size.max(1) - 1).ok_or(Unread::Absent)?;
        for page in address / PAGE_BYTES..=last / PAGE_BYTES {
            self.page(page * PAGE_BYTES)?;
        }
        Ok(())
    }

    fn charge(&mut self, bytes: u64) -> Result<(), Unread> {
        if self.is_over() || self.left < bytes {
            self.left = 0;
            return Err(Unread::Limit);
        }
        self.left -= bytes;
        self.read += bytes;
        Ok(())
    }

    /// Reads the pages that are there, from `address` on.
    fn load(&mut self, address: u64, end: u64) -> Result<(), Unread> {
        let start = address - address % PAGE_BYTES;
        let window_end = self.window.start + self.window.bytes.len() as u64;
        let follows = start >= self.window.start && start <= window_end;
        let size = if follows { self.window.next } else { 0 };
        let least = end.next_multiple_of(PAGE_BYTES) - start;
        let size = size.clamp(least, WINDOW.max(least));
        self.window.next = (size * 2).min(WINDOW);
        self.window.start = start;
        self.window.bytes.clear();
        let pages = (size / PAGE_BYTES) as usize;
        self.window.bytes.resize(size as usize, 0);
        self.window.valid.clear();
        self.window.valid.resize(pages, false);
        let mut page = 0;
        while page < pages {
            let at = |page: usize| start.saturating_add(page as u64 * PAGE_BYTES);
            let is_there = |memory: &mut Self, page| memory.page(at(page)).is_ok();
            let first = page;
            while page < pages && is_there(self, page) {
                page += 1;
            }
            if page == first {
                page += 1;
                continue;
            }
            let (from, to) = (first * PAGE_BYTES as usize, page * PAGE_BYTES as usize);
            self.charge((to - from) as u64)?;
            let into = &mut self.window.bytes[from..to];
            let read = self.source.read(at(first), into).unwrap_or(0);
            let read_pages = read / PAGE_BYTES as usize;
            for valid in &mut self.window.valid[first..(first + read_pages).min(page)] {
                *valid = true;
            }
        }
        Ok(())
    }
}
