//! What processes end by, of which some is only known while they live: the cgroup of a process that was
//! killed for want of memory may be gone right after.

use std::time::{Duration, Instant};

use leakprobe_common::{OOM_CHOSEN, OOM_SOMEBODY, ProcessState};

use crate::snapshot::{Cause, Oom};
use crate::target::{Cgroup, CgroupMemory};

/// How long a process may take to end after the OOM killer has chosen it. A rise of the cgroup's count that
/// is longer ago was another process.
const DYING: Duration = Duration::from_secs(10);

/// The cgroups of all processes.
#[derive(Default)]
pub struct Fate(Vec<Group>);

/// Which of them a process is in.
#[derive(Clone, Copy, Debug)]
pub struct GroupNumber(usize);

/// A cgroup as last seen.
struct Group {
    /// `None` once it is gone.
    cgroup: Option<Cgroup>,
    kills: Kills,
    memory: Option<CgroupMemory>,
}

/// How often the OOM killer was at work in a cgroup.
#[derive(Debug, Default)]
struct Kills {
    count: Option<u64>,
    rose: Option<Instant>,
    /// Those that no death has been put down to yet.
    open: u64,
}

impl Kills {
    fn see(&mut self, count: Option<u64>, now: Instant) {
        if let (Some(count), Some(before)) = (count, self.count)
            && count > before
        {
            self.rose = Some(now);
            self.open += count - before;
        }
        self.count = count.or(self.count);
    }

    /// Whether a process that has been killed now was one of them.
    fn claim(&mut self, now: Instant) -> bool {
        let is_recent = |rose| now.duration_since(rose) <= DYING;
        if !self.rose.is_some_and(is_recent) {
            self.open = 0;
        }
        let is_one = self.open > 0;
        self.open = self.open.saturating_sub(1);
        is_one
    }
}

/// How a process has ended, as far as known.
#[derive(Clone, Copy, Debug)]
pub struct Ending {
    /// As in wait(2).
    status: Option<u32>,
    /// Whether the OOM killer had chosen it, if the kernel side has told.
    chosen: Option<bool>,
}

impl Ending {
    /// As the kernel side has told.
    pub fn of(status: u32, process: &ProcessState) -> Self {
        Self {
            status: Some(status),
            chosen: match process.oom {
                OOM_SOMEBODY => None,
                chosen => Some(chosen == OOM_CHOSEN),
            },
        }
    }

    /// As far as others tell.
    pub fn from_status(status: Option<u32>) -> Self {
        Self {
            status,
            chosen: None,
        }
    }
}

impl Fate {
    /// Begins to watch the cgroup of a process. Where that tells nothing (`None`), its limit is not known.
    pub fn watch(&mut self, pid: u32) -> Option<GroupNumber> {
        let cgroup = Cgroup::of(pid)
            .inspect_err(|error| log::debug!("no cgroup of process {pid}: {error:#}"))
            .ok()?;
        let is_known = |group: &Group| {
            let known = group.cgroup.as_ref();
            known.is_some_and(|it| it.path() == cgroup.path() && it.memory().is_ok())
        };
        if let Some(known) = self.0.iter().position(is_known) {
            return Some(GroupNumber(known));
        }
        let mut group = Group {
            cgroup: Some(cgroup),
            kills: Kills::default(),
            memory: None,
        };
        group.look();
        self.0.push(group);
        Some(GroupNumber(self.0.len() - 1))
    }

    /// Looks at the cgroups; to be called once a second.
    pub fn look(&mut self) {
        self.0.iter_mut().for_each(Group::look);
    }

    /// What a process has ended by; to be called at once.
    pub fn cause(&mut self, ending: Ending, group: Option<GroupNumber>) -> Cause {
        let Some(status) = ending.status else {
            return Cause::Unknown;
        };
        let group = group.and_then(|number| self.0.get_mut(number.0));
        let is_killed = status & 0x7f == libc::SIGKILL as u32;
        let oom = match group {
            _ if !is_killed => None,
            None => (ending.chosen == Some(true)).then(Oom::default),
            Some(group) => group.oom(ending.chosen),
        };
        Cause::from_wait_status(status, oom)
    }
}

impl Group {
    fn look(&mut self) {
        match self.cgroup.as_ref().map(Cgroup::memory) {
            Some(Ok(memory)) => {
                self.kills.see(memory.oom_kills, Instant::now());
                self.memory = Some(memory);
            }
            Some(Err(_)) => self.cgroup = None,
            None => {}
        }
    }

    /// What is to be told if a process that was killed now was chosen by the OOM killer.
    fn oom(&mut self, chosen: Option<bool>) -> Option<Oom> {
        let before = self.memory;
        self.look();
        // The cgroup tells of any process in it: it is asked only where the kernel did not name one.
        let is_chosen = chosen.unwrap_or_else(|| self.kills.claim(Instant::now()));
        is_chosen.then(|| Oom {
            limit: before.or(self.memory).and_then(|memory| memory.limit),
            // The process's memory may have been given back by now; it was killed at the peak.
            usage: self
                .cgroup
                .as_ref()
                .and_then(Cgroup::peak)
                .or(before.map(|memory| memory.usage)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_recent_rise_counts() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut kills = Kills::default();
        kills.see(Some(3), start);
        assert!(!kills.claim(start), "those before do not count");
        kills.see(Some(3), after(1));
        kills.see(None, after(2));
        assert!(!kills.claim(after(2)));
        kills.see(Some(4), after(3));
        kills.see(Some(4), after(12));
        assert!(kills.claim(after(13)));
        assert!(!kills.claim(after(13)), "it was one process");
        kills.see(Some(6), after(14));
        assert!(kills.claim(after(14)) && kills.claim(after(15)) && !kills.claim(after(15)));
        kills.see(Some(7), after(16));
        assert!(!kills.claim(after(27)));
        assert!(!kills.claim(after(27)));
    }

    #[test]
    fn where_the_kernel_does_not_count() {
        let mut kills = Kills::default();
        kills.see(None, Instant::now());
        kills.see(None, Instant::now());
        assert!(!kills.claim(Instant::now()));
    }
}
