//! The trace events of one allocator, and the perf events of them that processes have. Which processes
//! those are, is decided elsewhere.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::events::{self, Reach};
use super::owner::{self, Guardian};
use super::tracefs::{Event, Tracefs};
use crate::probe::functions::Kind;
use crate::probe::plan::Point;
use crate::probe::refusal::explain_permission;
use crate::probe::{multi, threads};
use crate::target::{Allocator, Mapping, Process, proc_fs};

/// What runs where.
pub struct Programs {
    /// At the entries of functions that give blocks out.
    pub enter_call: OwnedFd,
    /// At their returns.
    pub leave_call: OwnedFd,
    /// At the entries of functions that take blocks back.
    pub enter_free: OwnedFd,
}

/// What all trace events need.
pub(super) struct Shared {
    pub(super) tracefs: Tracefs,
    pub(super) guardian: Guardian,
}

/// The trace events of an allocator, with their programs.
pub(super) struct Probes {
    /// Device and inode of the file.
    pub(super) allocator: (u32, u32, u64),
    file: File,
    /// In the order of their places in the allocator's plan.
    anchored: Vec<Anchored>,
    shared: Arc<Shared>,
}

/// A trace event that runs its program.
struct Anchored {
    event: Event,
    number: u64,
    /// Bytes in the file.
    offset: u64,
    /// The program's link, which keeps the anchor.
    _link: OwnedFd,
}

/// Perf events in place; gone when dropped, and the trace events with the last of theirs.
pub struct Placed {
    // In the order in which they have to go: as long as there is an anchor, the kernel waits for nobody.
    _events: Vec<OwnedFd>,
    probes: Arc<Probes>,
    /// Of the process, if nobody inherits the events.
    only_for: Option<OwnedFd>,
}

impl Placed {
    /// How many probes.
    pub fn probes(&self) -> usize {
        self.probes.anchored.len()
    }

    /// Whether nobody needs it any more, because the process has ended and nobody inherits from it.
    pub fn is_over(&self) -> bool {
        self.only_for.as_ref().is_some_and(has_ended)
    }
}

impl Probes {
    /// Defines a trace event for each probe, with its program.
    pub(super) fn define(
        shared: Arc<Shared>,
        process: &Process,
        allocator: &Allocator,
        points: &[Point],
        programs: &Programs,
    ) -> Result<Self> {
        let group = shared.guardian.new_group();
        let file = allocator.object().file().try_clone();
        let mut probes = Self {
            allocator: allocator.identity(),
            file: file.context("failed to duplicate a descriptor")?,
            anchored: Vec::new(),
            shared,
        };
        for (number, point) in points.iter().enumerate() {
            let entry = match point.function.kind {
                Kind::Free => &programs.enter_free,
                _ => &programs.enter_call,
            };
            let both = [
                // The return first: a call that is entered in between is not followed.
                (point.function.kind.gives(), &programs.leave_call, true),
                (true, entry, false),
            ];
            for (_, program, at_return) in both.into_iter().filter(|(wanted, ..)| *wanted) {
                let place = if at_return { "return" } else { "entry" };
                let event = Event {
                    group: group.clone(),
                    name: format!("{}_{place}_{number}", point.function.name),
                };
                let anchored = probes.anchor(event, point, at_return, process, program);
                let anchored = anchored.map_err(explain_permission).with_context(|| {
                    format!(
                        "failed to place a probe on `{}` in `{}` of `{}`",
                        point.site.instruction,
                        point.function.name,
                        allocator.object().path(),
                    )
                })?;
                probes.anchored.push(anchored);
            }
        }
        Ok(probes)
    }

    fn anchor(
        &self,
        event: Event,
        point: &Point,
        at_return: bool,
        process: &Process,
        program: &OwnedFd,
    ) -> io::Result<Anchored> {
        let tracefs = &self.shared.tracefs;
        let number = tracefs.define(&event, &self.file, point.offset, at_return)?;
        let cookie = point.function.signature().cookie();
        let anchor = with_any_thread(process.pid(), |thread| {
            events::open(number, thread, Reach::This)
        });
        let link =
            anchor.and_then(|anchor| multi::link_event(program.as_fd(), anchor.as_fd(), cookie));
        match link {
            Ok(link) => Ok(Anchored {
                event,
                number,
                offset: point.offset,
                _link: link,
            }),
            Err(error) => {
                owner::remove_soon(tracefs, &event);
                Err(error)
            }
        }
    }

    /// Opens all events for all threads of a process, to be inherited.
    pub(super) fn place(self: &Arc<Self>, pid: u32, pidfd: BorrowedFd<'_>) -> Result<Placed> {
        let mut opened = Vec::new();
        let attached = threads::attach_to_each(pid, |thread| {
            self.fence(thread, &mut opened)?;
            for probe in &self.anchored {
                opened.push(events::open(probe.number, thread, Reach::All)?);
            }
            Ok(())
        });
        if matches!(attached, Ok(1..)) {
            return Ok(self.placed(opened, None));
        }
        // A process that is about to end has no threads any more; only then its descriptor tells.
        await_end(pidfd, 1000);
        attached?;
        bail!("process {pid} ended while it was being attached to")
    }

    /// Opens all events for a process, whatever becomes of those that it has inherited. `true` if it had
    /// none of them any more.
    pub(super) fn hold(self: &Arc<Self>, process: &Process) -> Result<(Placed, bool)> {
        let pid = process.pid();
        let held = with_any_thread(pid, |thread| {
            let mut opened = Vec::new();
            self.fence(thread, &mut opened)?;
            // The last place tells what became of all, as late as can be.
            let is_last = |probe: &&Anchored| Some(probe.offset) == self.last_offset();
            let (last, others): (Vec<_>, Vec<_>) = self.anchored.iter().partition(is_last);
            for probe in others {
                opened.push(events::open(probe.number, thread, Reach::This)?);
            }
            let lost = self.are_lost(pid);
            for probe in last {
                opened.push(events::open(probe.number, thread, Reach::This)?);
            }
            Ok((opened, lost))
        });
        let held = held.map_err(explain_permission);
        let (opened, lost) =
            held.with_context(|| format!("failed to open an event for process {pid}"))?;
        let pidfd = process.pidfd().try_clone_to_owned();
        let pidfd = pidfd.context("failed to duplicate a descriptor")?;
        Ok((self.placed(opened, Some(pidfd)), lost))
    }

    /// Keeps the events of those that a thread will start theirs, see [`events::stay_with_their_threads`].
    fn fence(&self, thread: u32, opened: &mut Vec<OwnedFd>) -> io::Result<()> {
        if let Some(any) = self.anchored.first()
            && !events::stay_with_their_threads()
        {
            for reach in [Reach::This, Reach::Process] {
                opened.push(events::open(any.number, thread, reach)?);
            }
        }
        Ok(())
    }

    /// Whether a process has the code, but no breakpoint at the last place in it; as far as can be told.
    pub(super) fn are_lost(&self, pid: u32) -> bool {
        let Some(offset) = self.last_offset() else {
            return false;
        };
        let mappings = Mapping::read_all(pid).unwrap_or_default();
        let address = mappings.iter().find_map(|mapping| {
            let within = offset.checked_sub(mapping.offset)?;
            let address = mapping.start.checked_add(within)?;
            let here =
                mapping.executable && mapping.identity() == self.allocator && address < mapping.end;
            here.then_some(address)
        });
        let Some(address) = address else {
            return false;
        };
        let byte = |file: &File, offset| {
            let mut byte = [0];
            file.read_exact_at(&mut byte, offset).map(|()| byte)
        };
        let memory = File::open(proc_fs::pid(pid, "mem")).and_then(|it| byte(&it, address));
        match (memory, byte(&self.file, offset)) {
            (Ok(memory), Ok(file)) => memory == file,
            _ => false,
        }
    }

    fn last_offset(&self) -> Option<u64> {
        self.anchored.last().map(|probe| probe.offset)
    }

    fn placed(self: &Arc<Self>, events: Vec<OwnedFd>, only_for: Option<OwnedFd>) -> Placed {
        Placed {
            _events: events,
            probes: self.clone(),
            only_for,
        }
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        for Anchored { event, _link, .. } in self.anchored.drain(..) {
            drop(_link);
            owner::remove_soon(&self.shared.tracefs, &event);
        }
    }
}

/// Calls `open` with a thread of a process that has not ended: the first, which may have ended before the
/// others.
fn with_any_thread<T>(pid: u32, mut open: impl FnMut(u32) -> io::Result<T>) -> io::Result<T> {
    let mut outcome = open(pid);
    let has_ended = |it: &io::Result<T>| {
        let error = it.as_ref().err();
        error.and_then(io::Error::raw_os_error) == Some(libc::ESRCH)
    };
    if has_ended(&outcome) {
        for thread in threads::threads(pid).unwrap_or_default() {
            outcome = open(thread);
            if !has_ended(&outcome) {
                break;
            }
        }
    }
    outcome
}

/// Whether a process has ended, by its pidfd.
pub(super) fn has_ended(pidfd: &OwnedFd) -> bool {
    await_end(pidfd.as_fd(), 0)
}

/// Waits so many milliseconds for the end of a process; whether it has ended.
fn await_end(pidfd: BorrowedFd<'_>, limit: u16) -> bool {
    let mut fds = [PollFd::new(pidfd, PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::from(limit)).is_ok_and(|ready| ready > 0)
}
