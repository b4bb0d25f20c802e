//! The CPU time of the processes that are recorded, of which some come and some go.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::statistics::cpu_time;

/// A sum that never falls; all clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct CpuTime(Arc<Mutex<Clocks>>);

#[derive(Debug, Default)]
struct Clocks {
    /// What each process had when it came, and at the last look, nanoseconds.
    spans: HashMap<u32, (u64, u64)>,
    /// What those had that are gone.
    gone: u64,
}

impl CpuTime {
    fn clocks(&self) -> MutexGuard<'_, Clocks> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A process comes into being.
    pub fn add(&self, pid: u32) {
        self.clocks().spans.insert(pid, (0, 0));
    }

    /// A process comes that runs already: what it has had until now does not count.
    pub fn join(&self, pid: u32) {
        let had = cpu_time(pid).unwrap_or(0);
        self.clocks().spans.insert(pid, (had, had));
    }

    /// A process has ended. What it had since the last look is not known.
    pub fn remove(&self, pid: u32) {
        let mut clocks = self.clocks();
        let (first, last) = clocks.spans.remove(&pid).unwrap_or_default();
        clocks.gone += last - first;
    }

    /// CPU time of all threads of all processes, those that ended too, nanoseconds.
    pub fn now(&self) -> u64 {
        let mut clocks = self.clocks();
        let mut sum = clocks.gone;
        for (&pid, (first, last)) in &mut clocks.spans {
            // One that has ended keeps what it had.
            *last = cpu_time(pid).unwrap_or(*last).max(*last);
            sum += *last - *first;
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ended_processes_had_stays() {
        let cpu = CpuTime::default();
        assert_eq!(cpu.now(), 0);
        cpu.add(std::process::id());
        let before = cpu.now();
        assert!(before > 0);
        cpu.remove(std::process::id());
        assert_eq!(cpu.now(), before);
    }

    #[test]
    fn what_a_process_had_before_it_joined_does_not_count() {
        let (whole, joined) = (CpuTime::default(), CpuTime::default());
        let pid = std::process::id();
        whole.add(pid);
        let before = whole.now();
        joined.join(pid);
        let since = joined.now();
        assert!(before > 0 && since <= whole.now() - before, "{since}");
    }
}
