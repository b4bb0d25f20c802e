//! What of each mapping of a process is resident, and what it is made of: `/proc/PID/smaps`.
//!
//! The kernel walks the page tables for it, with the lock of the memory map held for reading: some 50 ms for each
//! GiB of small pages, in which the process cannot map anything. [`super::Usage`] is for every
//! second; this is for now and then.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::pages::Resident;
use super::{Mapping, proc_fs};

/// The most mappings that are read: 16 times what the kernel allows by itself.
const MOST: usize = 1 << 20;

/// The longest line. A path has 4096 bytes, and four times as many where each is escaped.
const LONGEST: u64 = 1 << 15;

/// A mapping and what of it is resident. All figures are bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// Addresses, and file or name.
    pub mapping: Mapping,
    /// Whether it can be read, or written.
    pub readable: bool,
    /// Whether it can be written.
    pub writable: bool,
    /// Whether others that map the same see what is written.
    pub shared: bool,
    /// Resident pages.
    pub rss: u64,
    /// Resident pages that are no file's: memory of the process's own.
    pub anonymous: u64,
    /// Swapped out.
    pub swap: u64,
    /// Resident and given back with `MADV_FREE`: the kernel takes it when it needs some.
    pub lazy_free: u64,
    /// Part of `anonymous` that is in huge pages.
    pub huge: u64,
    /// Pages of hugetlbfs, which the kernel does not count as resident.
    pub hugetlb: u64,
    /// What was asked of the kernel for it.
    pub flags: Flags,
}

/// Some of the two-letter words of `VmFlags` (the kernel's Documentation/filesystems/proc.rst).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// `gd`: it grows down by itself, as the main thread's stack.
    pub grows_down: bool,
    /// `dc`: children do not get it (`MADV_DONTFORK`).
    pub not_copied: bool,
    /// `nr`: no swap is kept for it (`MAP_NORESERVE`).
    pub no_reserve: bool,
    /// `nh`: never in huge pages; since Linux 6.7 that of all that is mapped as a stack (`MAP_STACK`).
    pub stack: bool,
}

impl Region {
    /// First address.
    pub fn start(&self) -> u64 {
        self.mapping.start
    }

    /// Address after the last.
    pub fn end(&self) -> u64 {
        self.mapping.end
    }

    /// Bytes of addresses.
    pub fn size(&self) -> u64 {
        self.end().saturating_sub(self.start())
    }

    /// Path or name as in `/proc/PID/maps`. May hold any bytes.
    pub fn name(&self) -> std::borrow::Cow<'_, str> {
        self.mapping.path.to_string_lossy()
    }

    /// Whether it is private memory without a file. It may have a name: `[heap]`, `[anon:...]`.
    pub fn is_anonymous(&self) -> bool {
        !self.shared && self.mapping.inode == 0 && self.mapping.device == (0, 0)
    }

    /// Whether nothing may be done with it: addresses that are kept, and guards of stacks.
    pub fn is_reserved(&self) -> bool {
        !self.readable && !self.writable && !self.mapping.executable
    }

    fn of(mapping: Mapping, line: &[u8]) -> Self {
        let permissions = line.split(|&byte| byte == b' ').nth(1).unwrap_or_default();
        let has = |at: usize, letter: u8| permissions.get(at) == Some(&letter);
        Self {
            mapping,
            readable: has(0, b'r'),
            writable: has(1, b'w'),
            shared: has(3, b's'),
            rss: 0,
            anonymous: 0,
            swap: 0,
            lazy_free: 0,
            huge: 0,
            hugetlb: 0,
            flags: Flags::default(),
        }
    }

    /// Takes in one of the lines below its first.
    fn add(&mut self, line: &[u8]) -> Option<()> {
        let colon = line.iter().position(|&byte| byte == b':')?;
        let (name, value) = (
            &line[..colon],
            std::str::from_utf8(&line[colon + 1..]).ok()?,
        );
        if name == b"VmFlags" {
            for flag in value.split_whitespace() {
                match flag {
                    "gd" => self.flags.grows_down = true,
                    "dc" => self.flags.not_copied = true,
                    "nr" => self.flags.no_reserve = true,
                    "nh" => self.flags.stack = true,
                    _ => {}
                }
            }
            return Some(());
        }
        let field = match name {
            b"Rss" => &mut self.rss,
            b"Anonymous" => &mut self.anonymous,
            b"Swap" => &mut self.swap,
            b"LazyFree" => &mut self.lazy_free,
            b"AnonHugePages" => &mut self.huge,
            b"Private_Hugetlb" | b"Shared_Hugetlb" => &mut self.hugetlb,
            _ => return None,
        };
        let kib: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
        *field = field.saturating_add(kib.saturating_mul(1024));
        Some(())
    }
}

/// Addresses of which it is known how much is resident.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First address.
    pub start: u64,
    /// Address after the last.
    pub end: u64,
    /// Resident bytes.
    pub rss: u64,
}

/// All mappings of a process, by address.
#[derive(Clone, Debug, Default)]
pub struct Smaps {
    /// Lowest address first.
    pub regions: Vec<Region>,
    /// How long the kernel took.
    pub took: Duration,
}

impl Smaps {
    /// Reads them.
    ///
    /// # Errors
    ///
    /// If the process has ended, may not be looked at, or has more than 1 048 576 mappings.
    pub fn read(pid: u32) -> Result<Self> {
        let path = proc_fs::pid(pid, "smaps");
        let began = Instant::now();
        let read = || -> Result<Vec<Region>> {
            let file = File::open(&path)?;
            let regions = parse(&mut BufReader::with_capacity(1 << 16, &file))?;
            // The kernel gives out no more once that memory is gone, and a part would look like the whole.
            if file.read_at(&mut [0], 0)? == 0 {
                bail!("the process has ended");
            }
            Ok(regions)
        };
        let regions = read().with_context(|| format!("failed to read `{}`", path.display()))?;
        Ok(Self {
            regions,
            took: began.elapsed(),
        })
    }
}

/// How much is resident of each of these address ranges of process `pid`, cut where its mappings end. Both are
/// sorted by address, and the ranges do not overlap.
pub fn spans(pid: u32, regions: &[Region], ranges: &[(u64, u64)]) -> Vec<Span> {
    let pages = Resident::of(pid);
    let mut spans = Vec::new();
    let mut regions = regions.iter().peekable();
    for &(first, last) in ranges {
        while regions.next_if(|it| it.end() <= first).is_some() {}
        for region in regions.clone().take_while(|it| it.start() < last) {
            let (start, end) = (first.max(region.start()), last.min(region.end()));
            let rss = match end - start == region.size() || region.rss == 0 {
                true => region.rss,
                false => pages.between(start, end).unwrap_or(0).min(region.rss),
            };
            spans.push(Span { start, end, rss });
        }
    }
    spans
}

/// Reads a text of the kernel's.
fn parse(text: &mut impl BufRead) -> Result<Vec<Region>> {
    let mut regions: Vec<Region> = Vec::new();
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = io::Read::by_ref(text)
            .take(LONGEST)
            .read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(regions);
        }
        let line = line.strip_suffix(b"\n").unwrap_or(&line);
        // Names of fields begin with a capital letter, addresses do not.
        if line.first().is_some_and(u8::is_ascii_uppercase) {
            if let Some(region) = regions.last_mut() {
                region.add(line);
            }
        } else if let Some(mapping) = Mapping::parse(line) {
            if regions.len() == MOST {
                bail!("it has more than {MOST} mappings");
            }
            regions.push(Region::of(mapping, line));
        }
    }
}

#[cfg(test)]
pub(crate) fn from_text(text: &str) -> Vec<Region> {
    parse(&mut text.as_bytes()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
ff5dc00000-ff5dc40000 rw-p 00000000 00:00 0 
Size:                256 kB
Rss:                 232 kB
Pss:                 232 kB
Pss_Dirty:           232 kB
Anonymous:           228 kB
LazyFree:              4 kB
AnonHugePages:         0 kB
Swap:                  8 kB
SwapPss:               8 kB
THPeligible:           0
VmFlags: rd wr mr mw me dc nr 
7fff94517000-7fff94538000 rw-s 00001000 08:01 77                         /dev/shm/Rss: 1 kB (deleted)
Rss:                  64 kB
Anonymous:            64 kB
Shared_Hugetlb:     2048 kB
VmFlags: rd wr gd ac 
";

    #[test]
    fn a_text_of_the_kernel() {
        let regions = from_text(TEXT);
        let [first, second] = &regions[..] else {
            panic!("{regions:?}");
        };
        assert_eq!((first.start(), first.size()), (0xff_5dc0_0000, 256 << 10));
        let kib = [first.rss, first.anonymous, first.swap, first.lazy_free].map(|it| it >> 10);
        assert_eq!(kib, [232, 228, 8, 4]);
        assert!(first.is_anonymous() && first.readable && first.writable && !first.shared);
        assert!(first.flags.not_copied && first.flags.no_reserve && !first.flags.grows_down);
        assert_eq!(second.name(), "/dev/shm/Rss: 1 kB (deleted)");
        assert!(!second.is_anonymous() && second.shared && second.flags.grows_down);
        assert_eq!((second.rss, second.hugetlb), (64 << 10, 2048 << 10));
    }

    #[test]
    fn anything_else_is_no_region() {
        assert_eq!(from_text("Rss: 5 kB\nnothing\n\n"), []);
        let regions = from_text(&format!(
            "{TEXT}Rss: x kB\nRss: 99999999999999999999 kB\nRss\n"
        ));
        assert_eq!(regions.len(), 2);
        let mut long = TEXT.to_owned();
        long.push_str(&"a".repeat(3 << 15));
        assert_eq!(from_text(&long).len(), 2);
    }

    #[test]
    fn of_this_process() {
        let smaps = Smaps::read(std::process::id()).unwrap();
        let variable = 0u8;
        let address = &raw const variable as u64;
        let region = smaps
            .regions
            .iter()
            .find(|it| (it.start()..it.end()).contains(&address));
        assert!(region.is_some_and(|it| it.rss > 0 && it.is_anonymous()));
        assert!(smaps.took > Duration::ZERO);
    }

    #[test]
    fn of_none() {
        let error = Smaps::read(u32::MAX).unwrap_err().to_string();
        assert!(error.contains("/proc/4294967295/smaps"), "{error}");
    }
}
