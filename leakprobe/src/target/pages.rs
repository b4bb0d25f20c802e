//! Which pages of a process are there: `/proc/PID/pagemap`, and `/proc/kpageflags` where we may know
//! what a page is made of. Of memory that is only the process's own; pages of files are not there in
//! this sense, nor is the page of zeros that stands for all that was only read.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;

use anyhow::Result;
use leakprobe_common::{HUGE_BYTES, PAGE_BYTES};

use super::{Mapping, proc_fs};
use crate::capability::advice_to_look;

/// Pages of a region of the size of a huge one.
pub const REGION_PAGES: usize = (HUGE_BYTES / PAGE_BYTES) as usize;

// Bits of an entry (the kernel's Documentation/admin-guide/mm/pagemap.rst).
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const OF_A_FILE: u64 = 1 << 61;
const FRAME: u64 = (1 << 55) - 1;
// Bits of a page's flags (include/uapi/linux/kernel-page-flags.h).
const COMPOUND_HUGE: u64 = 1 << 22;
const ZEROS: u64 = 1 << 24;

/// What is there of a page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// It takes memory or swap of the process alone.
    pub is_there: bool,
    /// That is in swap.
    pub is_swapped: bool,
    /// It may be a part of a huge page: it is, or that cannot be told.
    pub may_be_huge: bool,
}

/// The pages of a process.
#[derive(Debug)]
pub struct Pages {
    map: File,
    flags: Option<File>,
}

impl Pages {
    /// Of process `pid`, for as long as it does not execute another program.
    ///
    /// # Errors
    ///
    /// If its page map cannot be opened.
    pub fn open(pid: u32) -> Result<Self> {
        let path = proc_fs::pid(pid, "pagemap");
        let map = File::open(&path).map_err(|error| {
            let denied = error.kind() == io::ErrorKind::PermissionDenied;
            let error = anyhow::Error::new(error);
            let error = match denied {
                true => error.context(advice_to_look()),
                false => error,
            };
            error.context(format!("failed to open `{}`", path.display()))
        })?;
        Ok(Self {
            map,
            flags: File::open(proc_fs::root().join("kpageflags")).ok(),
        })
    }

    /// The pages of the region that begins at an address, of which those by these numbers are `wanted`; of
    /// others nothing is said. `None` if the process is gone.
    pub fn region(
        &self,
        start: u64,
        wanted: impl Fn(usize) -> bool,
    ) -> Option<[Page; REGION_PAGES]> {
        let mut bytes = [0; REGION_PAGES * 8];
        // The last page of the last region cannot be mapped, and the map ends before it.
        if self.map.read_at(&mut bytes, start / PAGE_BYTES * 8).ok()? == 0 {
            return None;
        }
        let mut entries = [0; REGION_PAGES];
        for (entry, bytes) in entries.iter_mut().zip(bytes.chunks_exact(8)) {
            *entry = u64::from_ne_bytes(bytes.try_into().ok()?);
        }
        let mut pages = [Page::default(); REGION_PAGES];
        let mut at = 0;
        while at < REGION_PAGES {
            if !wanted(at) {
                at += 1;
                continue;
            }
            // Frames in a row are asked for together: those of a huge page are.
            let frame = frame(entries[at]);
            let run = (at + 1..REGION_PAGES)
                .take_while(|&next| {
                    let follows = self::frame(entries[next]) == frame + (next - at) as u64;
                    frame != 0 && follows && wanted(next)
                })
                .count()
                + 1;
            let flags = self.flags(frame, run);
            for (index, &entry) in entries[at..at + run].iter().enumerate() {
                pages[at + index] = page(entry, flags.as_ref().map(|flags| flags[index]));
            }
            at += run;
        }
        Some(pages)
    }

    /// Bytes of a range that are there. None if the process is gone.
    pub fn resident(&self, start: u64, end: u64) -> u64 {
        let first = start & !(HUGE_BYTES - 1);
        let regions = (first..end).step_by(HUGE_BYTES as usize);
        let pages = regions.filter_map(|at| Some((at, self.region(at, |_| true)?)));
        let there = pages.flat_map(|(at, region)| {
            let pages = region.into_iter().enumerate();
            pages.filter(move |(index, page)| {
                let address = at + *index as u64 * PAGE_BYTES;
                page.is_there && (start..end).contains(&address)
            })
        });
        there.count() as u64 * PAGE_BYTES
    }

    /// Flags of frames in a row; `None` if they cannot be told.
    fn flags(&self, first: u64, count: usize) -> Option<[u64; REGION_PAGES]> {
        let file = self.flags.as_ref().filter(|_| first != 0)?;
        let mut bytes = [0; REGION_PAGES * 8];
        let bytes = &mut bytes[..count * 8];
        file.read_exact_at(bytes, first * 8).ok()?;
        let mut flags = [0; REGION_PAGES];
        for (flags, bytes) in flags.iter_mut().zip(bytes.chunks_exact(8)) {
            *flags = u64::from_ne_bytes(bytes.try_into().ok()?);
        }
        Some(flags)
    }
}

/// Number of the frame of memory; 0 if there is none, it is not the process's own, or we may not know.
fn frame(entry: u64) -> u64 {
    match entry & (PRESENT | SWAPPED | OF_A_FILE) {
        PRESENT => entry & FRAME,
        _ => 0,
    }
}

fn page(entry: u64, flags: Option<u64>) -> Page {
    let is_own = entry & (PRESENT | SWAPPED) != 0 && entry & OF_A_FILE == 0;
    Page {
        is_there: is_own && flags.is_none_or(|flags| flags & ZEROS == 0),
        is_swapped: is_own && entry & SWAPPED != 0,
        may_be_huge: is_own && flags.is_none_or(|flags| flags & COMPOUND_HUGE != 0),
    }
}

/// Tells how much between two addresses of a process is resident.
#[derive(Debug)]
pub struct Resident(Option<File>);

impl Resident {
    /// Of process `pid`, for as long as it does not execute another program.
    pub fn of(pid: u32) -> Self {
        Self(File::open(proc_fs::pid(pid, "pagemap")).ok())
    }

    /// Bytes; `None` if that cannot be told. Pages of zeros that were only read count too.
    pub fn between(&self, start: u64, end: u64) -> Option<u64> {
        resident(self.0.as_ref()?, start, end)
    }
}

fn resident(map: &File, start: u64, end: u64) -> Option<u64> {
    let (mut at, end) = (start / PAGE_BYTES, end.div_ceil(PAGE_BYTES));
    let mut bytes = [0; REGION_PAGES * 8];
    let mut pages = 0;
    while at < end {
        let count = ((end - at) as usize).min(REGION_PAGES);
        let bytes = &mut bytes[..count * 8];
        map.read_exact_at(bytes, at * 8).ok()?;
        let entries = bytes
            .chunks_exact(8)
            .filter_map(|entry| entry.try_into().ok());
        pages += entries
            .filter(|&entry| u64::from_ne_bytes(entry) & PRESENT != 0)
            .count() as u64;
        at += count as u64;
    }
    Some(pages * PAGE_BYTES)
}

/// Memory of process `pid` that is its own, in memory or swapped out, bytes; `None` if it is gone.
pub fn own_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(proc_fs::pid(pid, "status")).ok()?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
        Some(kib * 1024)
    };
    Some(field("RssAnon:")? + field("VmSwap:").unwrap_or(0))
}

/// Ranges of addresses in which process `pid` has memory of its own.
pub fn own_ranges(pid: u32) -> Vec<(u64, u64)> {
    let text = proc_fs::read_whole(&proc_fs::pid(pid, "smaps")).unwrap_or_default();
    let (mut ranges, mut range) = (Vec::new(), None);
    for line in text.split(|&byte| byte == b'\n') {
        if let Some(mapping) = Mapping::parse(line) {
            range = Some((mapping.start, mapping.end));
            continue;
        }
        let amount = [&b"Anonymous:"[..], b"Swap:"]
            .iter()
            .find_map(|name| line.strip_prefix(*name));
        let is_some = amount.is_some_and(|amount| amount.trim_ascii_start() != b"0 kB");
        if is_some && let Some(range) = range.take() {
            ranges.push(range);
        }
    }
    ranges
}

/// Where the heap of process `pid` begins; 0 if the kernel does not tell.
pub fn heap_start(pid: u32) -> u64 {
    /// `start_brk`, counted from what follows the name.
    const START_BRK: usize = 44;
    let text = fs::read_to_string(proc_fs::pid(pid, "stat")).unwrap_or_default();
    let fields = text.rsplit_once(')').map_or("", |(_, fields)| fields);
    let field = fields.split_ascii_whitespace().nth(START_BRK);
    field.and_then(|field| field.parse().ok()).unwrap_or(0)
}

/// Where the heap of process `pid` ends, which `brk` moves.
pub fn heap_end(pid: u32) -> Option<u64> {
    let mappings = Mapping::read_all(pid).ok()?;
    let heap = mappings
        .iter()
        .rfind(|mapping| mapping.path.as_os_str() == "[heap]");
    heap.map(|heap| heap.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries() {
        let there = |may_be_huge| Page {
            is_there: true,
            is_swapped: false,
            may_be_huge,
        };
        assert_eq!(page(0, None), Page::default());
        assert_eq!(page(PRESENT | OF_A_FILE | 7, Some(0)), Page::default());
        assert_eq!(page(PRESENT | 7, Some(ZEROS)), Page::default());
        assert_eq!(page(PRESENT | 7, Some(0)), there(false));
        assert_eq!(page(PRESENT | 7, Some(COMPOUND_HUGE)), there(true));
        assert_eq!(page(PRESENT, None), there(true));
        let swapped = page(SWAPPED | 7, None);
        assert!(swapped.is_there && swapped.is_swapped);
    }

    #[test]
    fn our_own_stack_is_there() {
        let variable = 0u8;
        let address = &raw const variable as u64;
        let me = std::process::id();
        let pages = Pages::open(me).unwrap();
        let region = pages.region(address & !(HUGE_BYTES - 1), |_| true).unwrap();
        let page = region[(address % HUGE_BYTES / PAGE_BYTES) as usize];
        assert!(page.is_there);
        let ranges = own_ranges(me);
        assert!(
            ranges
                .iter()
                .any(|(start, end)| (*start..*end).contains(&address))
        );
        assert!(own_bytes(me).unwrap() > 0);
    }
}
