//! Which memory of a process is stacks of its threads. Nothing says so: a C library maps them like any other
//! memory, with a guard below that cannot be touched, and may find other mappings joined to their upper ends.
//!
//! What a thread that waits has for its stack pointer, the kernel tells; how large a stack is, those of its
//! siblings do.

use std::fs;

use super::pages::Resident;
use super::{Region, Span, proc_fs};

/// Guards are no larger; anything larger is memory that somebody has reserved.
const LARGEST_GUARD: u64 = 1 << 20;

/// A mapping that is larger and whose like there is not is more than a stack.
const LARGEST: u64 = 16 << 20;

/// Above the stack pointer of a stack whose end is not known.
const ABOVE: u64 = 16 << 10;

/// Threads that are looked at.
const MOST: usize = 1 << 16;

const PAGE: u64 = leakprobe_common::PAGE_BYTES;

/// Stacks of the threads of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ThreadStacks {
    /// Threads, but for the first.
    pub threads: u64,
    /// Their stacks as far as they were found, and stacks of ended threads that are kept for new ones; lowest
    /// address first.
    pub stacks: Vec<Span>,
}

impl ThreadStacks {
    /// Finds those of process `pid`, which has these mappings.
    pub fn find(pid: u32, regions: &[Region]) -> Self {
        let pointers = stack_pointers(pid);
        let pages = Resident::of(pid);
        let resident = |start, end| pages.between(start, end).unwrap_or(end - start);
        Self {
            threads: (pointers.len() as u64).saturating_sub(1),
            stacks: stacks(regions, &pointers, &resident),
        }
    }
}

/// Of each thread, the first one's too; 0 of one that runs.
fn stack_pointers(pid: u32) -> Vec<u64> {
    let folder = proc_fs::pid(pid, "task");
    let Ok(threads) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let threads = threads.flatten().take(MOST);
    let pointer = |text: String| pointer(&text);
    threads
        .map(|thread| fs::read_to_string(thread.path().join("syscall")).ok())
        .map(|text| text.and_then(pointer).unwrap_or(0))
        .collect()
}

/// The last but one field, if there is one (proc(5), `/proc/PID/syscall`).
fn pointer(syscall: &str) -> Option<u64> {
    let field = syscall.split_whitespace().rev().nth(1)?;
    u64::from_str_radix(field.strip_prefix("0x")?, 16).ok()
}

/// A mapping that may be a stack: above a guard.
struct Candidate<'a> {
    region: &'a Region,
    /// The lowest stack pointer in it.
    pointer: Option<u64>,
    /// Whether nothing that could be joined to it comes after it.
    is_whole: bool,
}

fn stacks(regions: &[Region], pointers: &[u64], resident: &dyn Fn(u64, u64) -> u64) -> Vec<Span> {
    let mut pointers = pointers.to_vec();
    pointers.sort_unstable();
    let candidates: Vec<_> = regions
        .windows(2)
        .enumerate()
        .filter_map(|(at, pair)| {
            let [guard, region] = pair else { return None };
            let is_guard = is_plain(guard)
                && guard.is_reserved()
                && guard.size() <= LARGEST_GUARD
                && guard.end() == region.start();
            let is_stack = is_plain(region) && region.readable && region.writable;
            if !is_guard || !is_stack || region.mapping.executable || region.flags.not_copied {
                return None;
            }
            let first = pointers.partition_point(|&it| it < region.start());
            let pointer = pointers.get(first).copied().filter(|&it| it < region.end());
            let next = regions.get(at + 2);
            Some(Candidate {
                region,
                pointer,
                is_whole: next.is_none_or(|next| {
                    next.start() > region.end()
                        || next.is_reserved() && next.size() <= LARGEST_GUARD
                }),
            })
        })
        .collect();
    // A size that several have is that of a stack, and no accident of what is joined to it.
    let pointed = candidates.iter().filter(|it| it.pointer.is_some());
    let mut sizes: Vec<u64> = pointed.map(|it| it.region.size()).collect();
    sizes.sort_unstable();
    let mut known: Vec<u64> = sizes
        .windows(2)
        .filter(|pair| pair[0] == pair[1])
        .map(|pair| pair[0])
        .collect();
    known.dedup();
    candidates
        .iter()
        .filter_map(|candidate| candidate.stack(&known, resident))
        .collect()
}

impl Candidate<'_> {
    /// The stack in it, if there is one; `known` are sizes of stacks, the smallest first.
    fn stack(&self, known: &[u64], resident: &dyn Fn(u64, u64) -> u64) -> Option<Span> {
        let (start, size) = (self.region.start(), self.region.size());
        let is_known = known.binary_search(&size).is_ok();
        let end = match self.pointer {
            None if !is_known && !self.region.flags.stack => return None,
            _ if is_known || self.region.flags.stack => self.region.end(),
            pointer => {
                let pointer = pointer?;
                let fits = |it: &&u64| **it <= size && start + **it > pointer;
                match known.iter().rfind(fits) {
                    Some(size) => start + size,
                    None if self.is_whole && size <= LARGEST => self.region.end(),
                    None => pointer
                        .next_multiple_of(PAGE)
                        .saturating_add(ABOVE)
                        .min(self.region.end()),
                }
            }
        };
        let rss = match end == self.region.end() {
            true => self.region.rss,
            false => resident(start, end).min(self.region.rss),
        };
        Some(Span { start, end, rss })
    }
}

/// Private memory that has no name, or that of a stack.
fn is_plain(region: &Region) -> bool {
    let name = region.name();
    region.is_anonymous() && (name.is_empty() || name.contains("stack")) && !region.flags.grows_down
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::smaps::from_text;

    /// Mappings: start, end, permissions, resident KiB, flags.
    fn regions(lines: &[(u64, u64, &str, u64, &str)]) -> Vec<Region> {
        let text: String = lines
            .iter()
            .map(|(start, end, permissions, rss, flags)| {
                format!(
                    "{start:x}-{end:x} {permissions} 0 0:0 0 \nRss: {rss} kB\nVmFlags: {flags}\n"
                )
            })
            .collect();
        from_text(&text)
    }

    fn found(lines: &[(u64, u64, &str, u64, &str)], pointers: &[u64]) -> Vec<(u64, u64, u64)> {
        let resident = |start, end| (end - start) / 2;
        stacks(&regions(lines), pointers, &resident)
            .iter()
            .map(|stack| (stack.start, stack.end, stack.rss))
            .collect()
    }

    #[test]
    fn above_a_guard_with_a_stack_pointer() {
        let lines = [
            (0x10000, 0x12000, "---p", 0, ""),
            (0x12000, 0x22000, "rw-p", 8, ""),
            (0x30000, 0x40000, "rw-p", 8, ""),
        ];
        assert_eq!(found(&lines, &[0, 0x21f00]), [(0x12000, 0x22000, 8192)]);
        assert_eq!(found(&lines, &[0x3ff00]), []);
        assert_eq!(found(&lines, &[]), []);
    }

    #[test]
    fn what_was_mapped_as_one() {
        let lines = [
            (0x10000, 0x12000, "---p", 0, "nh"),
            (0x12000, 0x22000, "rw-p", 8, "nh"),
        ];
        assert_eq!(found(&lines, &[]), [(0x12000, 0x22000, 8192)]);
    }

    #[test]
    fn what_is_joined_to_it_is_not_of_it() {
        let guard = |at| (at - 0x2000, at, "---p", 0, "");
        let lines = [
            guard(0x10000),
            (0x10000, 0x20000, "rw-p", 8, ""),
            guard(0x22000),
            (0x22000, 0x32000, "rw-p", 8, ""),
            guard(0x34000),
            (0x34000, 0x94000, "rw-p", 80, ""),
            guard(0x98000),
            (0x98000, 0xa8000, "rw-p", 4, ""),
        ];
        let pointers = [0x1ff00, 0x31f00, 0x43f00];
        let expected = [
            (0x10000, 0x20000, 8192),
            (0x22000, 0x32000, 8192),
            (0x34000, 0x44000, 0x8000),
            (0x98000, 0xa8000, 4096),
        ];
        assert_eq!(found(&lines, &pointers), expected);
    }

    #[test]
    fn reserved_memory_is_no_guard() {
        let lines = [
            (0x1000_0000, 0x2000_0000, "---p", 0, "nr"),
            (0x2000_0000, 0x2001_0000, "rw-p", 8, ""),
        ];
        assert_eq!(found(&lines, &[0x2000_ff00]), []);
    }

    #[test]
    fn fields_of_the_kernel() {
        assert_eq!(
            pointer("202 0x1 0x80 0x0 0x0 0x0 0x0 0x7f59 0x7f60\n"),
            Some(0x7f59)
        );
        assert_eq!(pointer("-1 0x7ffd 0x7f60"), Some(0x7ffd));
        assert_eq!(pointer("running\n"), None);
        assert_eq!(pointer(""), None);
    }

    #[test]
    fn of_this_process() {
        let (sender, receiver) = std::sync::mpsc::channel();
        let (end, wait) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            let variable = 0u8;
            sender.send(&raw const variable as u64).unwrap();
            let _ = wait.recv();
        });
        let address = receiver.recv().unwrap();
        let me = std::process::id();
        let regions = crate::target::Smaps::read(me).unwrap().regions;
        let found = ThreadStacks::find(me, &regions);
        assert!(found.threads >= 1);
        // Where the kernel does not mark stacks, it takes the stack pointer, which a running thread does not have.
        let stack = found
            .stacks
            .iter()
            .find(|it| (it.start..it.end).contains(&address));
        if let Some(stack) = stack {
            assert!(stack.rss >= 4096);
        }
        end.send(()).unwrap();
        thread.join().unwrap();
    }
}
