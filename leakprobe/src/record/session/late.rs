//! Allocators that a process loads while it is recorded (`dlopen`, a plugin linked against one): they are
//! probed, too, and what they gave out before is counted as missed.
//!
//! Nothing tells of a mapping. The kernel counts how much code a process has mapped, which costs the process
//! nothing to be read; if that has changed, its mappings are read.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::{Session, Subject, refuse_danger};
use crate::record::progress::Progress;
use crate::report::{escape, human};
use crate::snapshot::counts::LATE_ALLOCATORS;
use crate::snapshot::now;
use crate::target::Process;

/// Between looks. So long an allocator may go unseen, and the time to place its probes.
pub(super) const LOOK: Duration = Duration::from_millis(100);

/// Looks take one part of the time in so many at the most; there may be many processes, or large ones, or
/// such as make code all the time.
const PARTS: u32 = 100;

/// When allocators are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// While a command's objects are mapped, none of which has run.
    Loading,
    /// While it runs.
    Late,
}

impl Session {
    /// Looks whether processes have mapped allocators since the last look, and probes those; in growth mode
    /// the system calls that move pages.
    pub(super) fn look_for_allocators(
        &mut self,
        when: Look,
        progress: &mut Progress,
    ) -> Result<()> {
        if Instant::now() < self.next_look {
            return Ok(());
        }
        if matches!(self.subject, Subject::Growth(_)) {
            self.look_for_moves();
            return Ok(());
        }
        self.drain(progress)?; // what a process has mapped since it executed another program is not late
        let (start, looked) = (Instant::now(), now()?);
        let mut changed = Vec::new();
        for member in self.members.alive_mut() {
            let code = member.process.as_ref().and_then(Process::code_size);
            if member.searching.is_some() || code.is_none() {
                continue; // or it has ended
            }
            if member.code != code {
                member.code = code;
                changed.push(member.space);
            } else {
                member.looked = looked;
            }
        }
        if !changed.is_empty() {
            self.probe_mappings();
        }
        let mut spent = start.elapsed();
        for space in changed {
            let begin = Instant::now();
            let found = self.search_new(space);
            spent += begin.elapsed();
            if !found.is_empty() {
                self.take_in_allocators(space, &found, when, progress)?;
            }
            if let Some(member) = self.members.get_mut(space) {
                member.looked = looked;
            }
        }
        if when == Look::Late {
            self.next_look = Instant::now() + spent * PARTS;
        }
        Ok(())
    }

    /// In growth mode: probes `mremap` in what the process has mapped since.
    fn look_for_moves(&mut self) {
        let start = Instant::now();
        if let Subject::Growth(growth) = &mut self.subject
            && let Some(process) = self.members.first().and_then(|it| it.process.as_ref())
        {
            growth.follow_moves(&mut self.probes, process);
        }
        self.next_look = Instant::now() + start.elapsed() * PARTS;
    }

    /// The allocators of a process that are not known to be its. None if it has ended.
    fn search_new(&mut self, space: u64) -> Vec<usize> {
        let (Subject::Heap(heap), Some(member)) = (&mut self.subject, self.members.get(space))
        else {
            return Vec::new();
        };
        let process = member.process.as_ref();
        let mut found = process
            .and_then(|it| heap.search(it).ok())
            .unwrap_or_default();
        let is_known = |it: &usize| member.allocators.contains(it) || member.refused.contains(it);
        found.retain(|it| !is_known(it) && heap.is_usable(*it));
        heap.note_gaps(&mut self.losses, &mut self.notes);
        found
    }

    /// Probes allocators that a process has mapped.
    fn take_in_allocators(
        &mut self,
        space: u64,
        found: &[usize],
        when: Look,
        progress: &mut Progress,
    ) -> Result<()> {
        let (Subject::Heap(heap), Some(member)) = (&mut self.subject, self.members.get_mut(space))
        else {
            return Ok(());
        };
        let Some(process) = &member.process else {
            return Ok(());
        };
        let is_away = self.governed.as_ref().is_some_and(|it| it.is_away());
        let late = LATE_ALLOCATORS.name.to_owned();
        for &number in found {
            let Some(it) = heap.get(number) else {
                continue;
            };
            let path = escape::visible(it.allocator.object().path());
            let follows = self.probes.follows(process, &it.allocator);
            let was_placed = member.placed.contains(&number); // by a program before, for the same file
            if !was_placed && follows.is_none() && !is_away {
                let placed = refuse_danger(process.pid())
                    .and_then(|()| self.probes.attach(process, &it.allocator, &it.points));
                match placed {
                    Ok(()) => member.placed.push(number),
                    Err(_) if process.has_ended() => return Ok(()),
                    Err(error) => {
                        member.refused.push(number);
                        *self.losses.entry(late.clone()).or_default() += 1;
                        let note =
                            format!("`{path}` defines malloc too, and is not probed: {error:#}");
                        if !self.notes.contains(&note) {
                            self.notes.push(note);
                        }
                        continue;
                    }
                }
            }
            member.allocators.push(number);
            let is_whole = was_placed || follows.is_some_and(|since| since <= member.looked);
            if when == Look::Loading || is_whole {
                continue;
            }
            *self.losses.entry(late.clone()).or_default() += 1;
            let prefix = format!("`{path}`, which defines malloc too, was loaded");
            if !self.notes.iter().any(|note| note.starts_with(&prefix)) {
                // With the time that it took to place the probes.
                let missed = now()?.saturating_sub(member.looked);
                let note = format!(
                    "{prefix} {} after the attach; its calls in the first {} ms at most were missed",
                    human::duration(self.began.elapsed().as_nanos() as u64),
                    (missed / 1_000_000).max(1),
                );
                progress.say(&note);
                self.notes.push(note);
            }
        }
        if when == Look::Loading {
            // None has run: the first is the one that will serve it.
            let rank = |it: &usize| heap.get(*it).map(|it| it.allocator.rank());
            member.allocators.sort_by_key(rank);
        }
        // Its end, if that is what prevents it, is seen elsewhere.
        let allocators = heap.allocators(&member.allocators);
        let _ = self.probes.describe(process, space, allocators);
        self.stacks.refresh(space);
        self.update_tables(space);
        self.log_allocators(space);
        Ok(())
    }

    /// Logs what is probed in a process, once stacks can be followed through it.
    pub(super) fn log_allocators(&self, space: u64) {
        if let (Subject::Heap(heap), Some(member)) = (&self.subject, self.members.get(space)) {
            for allocator in heap.allocators(&member.allocators) {
                let path = escape::visible(allocator.object().path());
                log::debug!("process {}: `{path}` is probed", member.pid());
            }
        }
    }
}
