//! What the kernel keeps of a process's memory anyway: two small files, whose reading takes no lock of the
//! process's memory map and so nothing of its time.

use std::fs;

use anyhow::{Context, Result};

use leakprobe_common::PAGE_BYTES;

use super::proc_fs;

/// Memory of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Resident memory in bytes, as the kernel counts it without adding up its CPUs' parts: some pages
    /// for each CPU may be missing.
    pub rss: u64,
    /// What of it is pages of files and shared memory, bytes. The rest is the process's own.
    pub of_files: u64,
    /// Page faults without reading a file, in all its threads since it began, in bytes of small pages. A
    /// huge page counts as a small one.
    pub faulted: u64,
}

impl Usage {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// If there is no such process.
    pub fn read(pid: u32) -> Result<Self> {
        let read = |name: &str| {
            let path = proc_fs::pid(pid, name);
            fs::read_to_string(&path)
                .with_context(|| format!("failed to read `{}`", path.display()))
        };
        let (statm, stat) = (read("statm")?, read("stat")?);
        Self::parse(&statm, &stat).with_context(|| {
            format!("/proc/{pid}/statm or /proc/{pid}/stat is not as it should be")
        })
    }

    fn parse(statm: &str, stat: &str) -> Option<Self> {
        let pages = |field: &str| Some(field.parse::<u64>().ok()?.saturating_mul(PAGE_BYTES));
        // The name, in parentheses, may hold anything; `minflt` is the eighth field after it (proc(5)).
        let (_, after_name) = stat.rsplit_once(") ")?;
        Some(Self {
            rss: pages(statm.split_whitespace().nth(1)?)?,
            of_files: pages(statm.split_whitespace().nth(2)?)?,
            faulted: pages(after_name.split_whitespace().nth(7)?)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_as_the_kernel_writes_them() {
        let stat = "77 (a) b (c) S 1 77 77 0 -1 4194304 1234 5 6 7 8 9";
        let usage = Usage::parse("1000 250 100 1 0 300 0\n", stat).unwrap();
        assert_eq!((usage.rss, usage.faulted), (250 * 4096, 1234 * 4096));
        assert_eq!(usage.of_files, 100 * 4096);
        assert_eq!(Usage::parse("", stat), None);
        assert_eq!(Usage::parse("1 2 3", "77 (a) S 1"), None);
    }

    #[test]
    fn of_this_process() {
        let usage = Usage::read(std::process::id()).unwrap();
        assert!(usage.rss > 0 && usage.faulted > 0, "{usage:?}");
    }

    #[test]
    fn of_none() {
        let error = Usage::read(u32::MAX).unwrap_err().to_string();
        assert!(error.contains("/proc/4294967295/statm"), "{error}");
    }
}
