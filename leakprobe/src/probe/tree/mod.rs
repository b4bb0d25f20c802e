//! Attaches to a process and to all that it will ever fork or execute, from the first instruction on,
//! and to nobody else.
//!
//! For each probe there is a trace event, and for each thread of the process a perf event of it, which
//! the kernel copies whenever the thread starts another one or forks. Whoever has one in his name has
//! the breakpoint. The programs run once for each hit: they belong to the trace event, not to the perf
//! events. They are attached by a perf event that nobody inherits (the *anchor*), since some kernels take
//! the program away when the first of those who have inherited it ends.
//!
//! A trace event for each probe, not one for many probes: the kernel lets those be removed while
//! they are in use, and frees what it is using.

mod events;
mod owner;
mod probes;
mod tracefs;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Weak};

use anyhow::{Context, Result};

pub use owner::{GUARDIAN, run_guardian};
pub use probes::{Placed, Programs};

use self::owner::Guardian;
use self::probes::{Probes, Shared, has_ended};
use self::tracefs::Tracefs;
use super::plan::Point;
use super::refusal::explain_event;
use crate::clock::now;
use crate::target::{Allocator, Process};

/// Why processes cannot be followed here; `None` if they can, as far as can be told without trying.
pub fn lack() -> Option<String> {
    let why = Tracefs::open().err()?;
    Some(format!("{:#}", explain_if_denied(why)).replace('\n', " "))
}

fn explain_if_denied(error: anyhow::Error) -> anyhow::Error {
    match error.downcast::<io::Error>() {
        Ok(error) => explain_event(error),
        Err(error) => error,
    }
}

/// All that is attached to, for whoever comes next.
#[derive(Default)]
pub struct Tree {
    shared: Option<Arc<Shared>>,
    known: Vec<Known>,
    processes: Vec<Member>,
}

/// The probes of an allocator.
struct Known {
    /// Device and inode of its file.
    allocator: (u32, u32, u64),
    /// As long as somebody has them.
    probes: Weak<Probes>,
    /// When all had them that were attached to then, nanoseconds of the monotonic clock.
    since: u64,
}

/// A process that is attached to.
struct Member {
    pid: u32,
    pidfd: OwnedFd,
}

impl Tree {
    /// Attaches to all threads of a process that nobody it was forked from was attached to. If the
    /// allocator's probes are new, the other processes get them too: a child of theirs may execute what
    /// uses it.
    ///
    /// # Errors
    ///
    /// If the kernel refuses, or the process has ended. Nothing stays behind then.
    pub fn attach(
        &mut self,
        process: &Process,
        allocator: &Allocator,
        points: &[Point],
        programs: &Programs,
    ) -> Result<Vec<Placed>> {
        self.forget_ended();
        let known = self.find(allocator.identity());
        let is_new = known.is_none();
        let probes = match known {
            Some((probes, _)) => probes,
            None => {
                let shared = self.shared()?;
                let probes = Probes::define(shared, process, allocator, points, programs)?;
                Arc::new(probes)
            }
        };
        let mut placed = vec![probes.place(process.pid(), process.pidfd())?];
        if is_new {
            let others = self.processes.iter().filter(|it| it.pid != process.pid());
            for other in others {
                match probes.place(other.pid, other.pidfd.as_fd()) {
                    Ok(events) => placed.push(events),
                    Err(error) if has_ended(&other.pidfd) => {
                        log::debug!("process {} has ended: {error:#}", other.pid);
                    }
                    Err(error) => return Err(error),
                }
            }
            let allocator = allocator.identity();
            self.known.retain(|it| it.allocator != allocator);
            self.known.push(Known {
                allocator,
                probes: Arc::downgrade(&probes),
                since: now()?,
            });
        }
        self.remember(process)?;
        Ok(placed)
    }

    /// Takes in a process that was forked by one that is attached to, and so has its probes already.
    /// Where the kernel might take them away again they are made fast; as early as can be. `true` if it
    /// had done so already: then calls were missed.
    ///
    /// # Errors
    ///
    /// If the kernel refuses, or the process has ended.
    pub fn adopt(&mut self, process: &Process) -> Result<(Vec<Placed>, bool)> {
        self.forget_ended();
        self.remember(process)?;
        if events::stay_with_their_threads() {
            return Ok((Vec::new(), false));
        }
        let (mut placed, mut lost) = (Vec::new(), false);
        for probes in self.known.iter().filter_map(|it| it.probes.upgrade()) {
            match probes.hold(process) {
                Ok((held, was_lost)) => {
                    placed.push(held);
                    lost |= was_lost;
                }
                Err(error) if is_gone(&error) => break,
                Err(error) => return Err(error),
            }
        }
        Ok((placed, lost))
    }

    /// Since when a process that has mapped an allocator has its probes; `None` if it has not.
    pub fn reaches(&self, process: &Process, allocator: (u32, u32, u64)) -> Option<u64> {
        let (probes, since) = self.find(allocator)?;
        (!probes.are_lost(process.pid())).then_some(since)
    }

    /// Since when what processes fork has the probes of an allocator, or had them until all were removed;
    /// `None` if there were none.
    pub fn since(&self, allocator: (u32, u32, u64)) -> Option<u64> {
        let known = self.known.iter().find(|it| it.allocator == allocator);
        known.map(|it| it.since)
    }

    fn shared(&mut self) -> Result<Arc<Shared>> {
        if let Some(shared) = &self.shared {
            return Ok(shared.clone());
        }
        let tracefs = Tracefs::open().map_err(explain_if_denied)?;
        let guardian = Guardian::start(&tracefs)?;
        let shared = Arc::new(Shared { tracefs, guardian });
        self.shared = Some(shared.clone());
        Ok(shared)
    }

    fn find(&self, allocator: (u32, u32, u64)) -> Option<(Arc<Probes>, u64)> {
        let known = self.known.iter().find(|it| it.allocator == allocator)?;
        Some((known.probes.upgrade()?, known.since))
    }

    fn remember(&mut self, process: &Process) -> Result<()> {
        if self.processes.iter().any(|it| it.pid == process.pid()) {
            return Ok(());
        }
        let pidfd = process.pidfd().try_clone_to_owned();
        self.processes.push(Member {
            pid: process.pid(),
            pidfd: pidfd.context("failed to duplicate a descriptor")?,
        });
        Ok(())
    }

    fn forget_ended(&mut self) {
        self.processes.retain(|process| !has_ended(&process.pidfd));
    }
}

/// Whether a thread was not there any more: of a process that is about to end even its descriptor does
/// not tell yet.
fn is_gone(error: &anyhow::Error) -> bool {
    let cause = error.root_cause().downcast_ref::<io::Error>();
    cause.and_then(io::Error::raw_os_error) == Some(libc::ESRCH)
}
