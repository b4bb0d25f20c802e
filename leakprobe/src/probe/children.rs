//! Whether the target has forked.
//!
//! A forked child has a copy of the target's code, breakpoints and all. Those of perf events the
//! kernel removes when the child first hits them; those of links for many probes it leaves there, and
//! the child would pay for every allocation, for nothing. Who keeps the links takes them out when this
//! says so.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use crate::target::proc_fs;

/// The children of a process that are known.
#[derive(Default)]
pub struct Children(HashSet<u32>);

/// Whether this kernel tells the children of a process (`CONFIG_PROC_CHILDREN`).
pub fn can_be_told() -> bool {
    Path::new("/proc/thread-self/children").exists()
}

impl Children {
    /// Whether process `pid` has children that it had not when this was asked last.
    pub fn came(&mut self, pid: u32) -> bool {
        let threads = fs::read_dir(proc_fs::pid(pid, "task"));
        let now: HashSet<u32> = threads
            .into_iter()
            .flatten()
            .flatten()
            // A thread that has ended meanwhile has handed its children on.
            .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok())
            .flat_map(|list| parse(&list))
            .collect();
        let came = !now.is_subset(&self.0);
        self.0 = now;
        came
    }
}

fn parse(list: &str) -> Vec<u32> {
    list.split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn lists_as_the_kernel_writes_them() {
        assert!(parse("").is_empty());
        assert_eq!(parse("12 345 "), [12, 345]);
    }

    #[test]
    fn a_new_child_is_told_once() {
        let mut children = Children::default();
        let mut child = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("cat");
        // Other tests have children too, at any time: this one is asked for by its PID.
        let me = std::process::id();
        assert!(children.came(me));
        assert!(children.0.contains(&child.id()));
        drop(child.stdin.take());
        child.wait().expect("its end");
        children.came(me);
        assert!(!children.0.contains(&child.id()));
    }
}
