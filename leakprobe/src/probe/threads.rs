//! Gives every thread of a process what it needs a descriptor for, while the process goes on to start
//! threads. Those started later inherit it, which is not asked for here.

use std::collections::HashSet;
use std::fs;
use std::io;

use anyhow::{Context, Result, bail};

use super::refusal::explain_permission;
use crate::target::proc_fs;

/// Calls `attach` once for each thread of process `pid`, until there is none that it was not called
/// for; how many it attached to. That a thread has ended is no error.
///
/// # Errors
///
/// If the process has ended, starts threads too fast, or `attach` fails.
pub fn attach_to_each(pid: u32, mut attach: impl FnMut(u32) -> io::Result<()>) -> Result<usize> {
    /// Looks at the list of threads. Each finds only threads that were started since the last by
    /// threads that were started since the one before.
    const LOOKS: u32 = 100;
    allow_descriptors();
    let mut known = HashSet::new();
    let mut attached = 0;
    for _ in 0..LOOKS {
        let new: Vec<u32> = threads(pid)?
            .into_iter()
            .filter(|&thread| known.insert(thread))
            .collect();
        if new.is_empty() {
            return Ok(attached);
        }
        for thread in new {
            match attach(thread) {
                Ok(()) => attached += 1,
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {} // has ended
                Err(error) => return Err(explain(error, thread)),
            }
        }
    }
    bail!(
        "process {pid} starts threads faster than they can be attached to: try again when it is \
         less busy"
    )
}

fn explain(error: io::Error, thread: u32) -> anyhow::Error {
    let error = match error.raw_os_error() {
        Some(libc::EMFILE) => anyhow::Error::new(error)
            .context("there are too many threads for the limit of open files: raise `ulimit -Hn`"),
        _ => explain_permission(error),
    };
    error.context(format!("failed to open an event for thread {thread}"))
}

/// Numbers of the threads of a process, the first one's first.
///
/// # Errors
///
/// If they cannot be listed, as when the process has ended.
pub fn threads(pid: u32) -> Result<Vec<u32>> {
    let folder = proc_fs::pid(pid, "task");
    let threads =
        fs::read_dir(&folder).with_context(|| format!("failed to list `{}`", folder.display()))?;
    Ok(threads
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect())
}

/// A process may have more threads than we may open files by default.
fn allow_descriptors() {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: reads and writes one structure.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thread_once() {
        let me = std::process::id();
        let mut seen = Vec::new();
        let count = attach_to_each(me, |thread| {
            seen.push(thread);
            Ok(())
        });
        assert_eq!(count.unwrap(), seen.len());
        assert!(seen.contains(&me));
        let unique: HashSet<_> = seen.iter().collect();
        assert_eq!(unique.len(), seen.len());
    }

    #[test]
    fn ended_threads_are_no_error_others_are() {
        let fail = |number| {
            attach_to_each(std::process::id(), |_| {
                Err(io::Error::from_raw_os_error(number))
            })
        };
        assert_eq!(fail(libc::ESRCH).unwrap(), 0);
        let error = format!("{:#}", fail(libc::EMFILE).unwrap_err());
        assert!(error.contains("ulimit -Hn"), "{error}");
    }
}
