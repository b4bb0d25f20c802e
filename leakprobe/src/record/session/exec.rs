//! What becomes of a recording when its target executes another program.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::heap::Found;
use super::{Session, Subject, refuse_danger};
use crate::analyze::growth::History;
use crate::record::progress::Progress;
use crate::report::{escape, human};
use crate::snapshot::counts::{EXEC_GAP, PROGRAM_WITHOUT_ALLOCATOR};
use crate::snapshot::now;

/// Between looks for the allocator of a program that was just executed.
const SEARCH: Duration = Duration::from_millis(1);

/// The same of a program that has none after [`SOON`]: a static one without, or one that is stopped.
const SEARCH_ON: Duration = Duration::from_millis(50);
const SOON: Duration = Duration::from_millis(200);

/// How long a new program may take until its allocator is mapped.
const SEARCH_LIMIT: Duration = Duration::from_secs(10);

/// The look for the allocator of a new program.
#[derive(Clone, Copy)]
pub(super) struct Search {
    since: Instant,
    by_main_thread: bool,
}

impl Search {
    /// Begun now.
    pub(super) fn new(by_main_thread: bool) -> Self {
        Self {
            since: Instant::now(),
            by_main_thread,
        }
    }
}

impl Session {
    /// The only process executed another program: its blocks are gone, its allocator may be another.
    pub(super) fn start_over(
        &mut self,
        before: u64,
        space: u64,
        by_main_thread: bool,
        progress: &mut Progress,
    ) -> Result<()> {
        let totals = match &self.subject {
            Subject::Heap(_) => self.maps.totals(before)?.totals,
            Subject::Growth(growth) => growth.last_totals(),
        };
        let Some(mut member) = self.members.remove(before) else {
            return Ok(());
        };
        if let Some(process) = &member.process {
            member.info = process.info();
        }
        (member.space, member.program, member.trampoline) = (space, space, None);
        self.members.target = member.info.clone();
        self.stacks.leave(before);
        self.stacks.enter(space, member.pid());
        self.members.add(member);
        self.stacks.refresh(space);
        self.table_errors.settle(); // no pause: what there is is of another program
        self.update_tables(space);
        self.unwinder.leave(before);
        self.start_mappings_over(by_main_thread);
        let comm = escape::visible(&self.members.target.comm);
        let note = format!(
            "the target executed `{comm}` {} after the attach; figures are of that program alone, \
             the one before it ended with {} live in {}",
            human::duration(self.began.elapsed().as_nanos() as u64),
            human::bytes(totals.live_bytes),
            human::blocks(totals.live_count),
        );
        progress.say(&note);
        self.notes.push(note);
        self.history = History::default();
        if let Some(governed) = &mut self.governed {
            if governed.is_away() {
                // They are placed anew, wherever the new program's allocator is.
                self.probes.set_duty(0)?;
                self.probes.record(true)?;
            }
            governed.start_over();
        }
        match &mut self.subject {
            Subject::Heap(_) => {
                if let Some(member) = self.members.get_mut(space) {
                    member.searching = Some(Search::new(by_main_thread));
                }
                self.search_allocator(progress)
            }
            Subject::Growth(growth) => {
                growth.start_over(by_main_thread)?;
                progress.say(&self.goes_on());
                Ok(())
            }
        }
    }

    /// When to look for allocators again; `None` if there are none to look for.
    pub(super) fn next_search(&self) -> Option<Duration> {
        let searches = self.members.alive().filter_map(|it| it.searching);
        let youngest = searches.map(|search| search.since.elapsed()).min()?;
        Some(if youngest < SOON { SEARCH } else { SEARCH_ON })
    }

    /// Looks for the allocators of the programs that processes have executed, and probes them.
    pub(super) fn search_allocator(&mut self, progress: &mut Progress) -> Result<()> {
        let searching = self.members.alive().filter(|it| it.searching.is_some());
        let spaces: Vec<u64> = searching.map(|member| member.space).collect();
        for space in spaces {
            self.search_in(space, progress)?;
        }
        Ok(())
    }

    /// Looks for the allocator of one.
    fn search_in(&mut self, space: u64, progress: &mut Progress) -> Result<()> {
        let many = self.members.are_many();
        let (Subject::Heap(heap), Some(member)) = (&mut self.subject, self.members.get_mut(space))
        else {
            return Ok(());
        };
        let (Some(search), Some(process)) = (member.searching, &member.process) else {
            return Ok(());
        };
        let found = match heap.search(process).and_then(|it| heap.usable(it)) {
            Ok(found) if !found.is_empty() => found,
            Ok(_) => {
                if search.since.elapsed() > SEARCH_LIMIT {
                    member.searching = None;
                    *self
                        .losses
                        .entry(PROGRAM_WITHOUT_ALLOCATOR.name.to_owned())
                        .or_default() += 1;
                }
                return Ok(());
            }
            Err(error) => {
                if process.has_ended() {
                    return Ok(()); // which is seen elsewhere
                }
                member.searching = None;
                return self.not_probed(&error, progress);
            }
        };
        let allocators = heap.allocators(&found);
        if self.probes.describe(process, space, allocators).is_err() {
            return Ok(()); // it has ended
        }
        member.searching = None;
        (member.looked, member.code) = (now()?, None);
        member.refused.clear();
        // The same file: the probes are in place already. Those of a tree are wherever it is mapped; a
        // budget may have taken them away.
        let in_place = self.probes.placed() > 0;
        if !(in_place && search.by_main_thread) {
            member.placed.clear();
        }
        let began = self.began_at.saturating_add(member.since);
        let mut is_late = false;
        let mut is_probed = |it: &usize| {
            let follows = |it: &Found| self.probes.follows(process, &it.allocator);
            if !in_place || member.placed.contains(it) {
                return in_place;
            }
            let since = heap.get(*it).and_then(follows);
            is_late |= since.is_some_and(|since| since > began);
            since.is_some()
        };
        let (probed, new): (Vec<usize>, Vec<usize>) = found.iter().partition(|it| is_probed(it));
        member.allocators = found;
        if is_late && new.is_empty() {
            // It began while they were being placed for another one.
            *self.losses.entry(EXEC_GAP.name.to_owned()).or_default() += 1;
        }
        if !new.is_empty() {
            // Those in the files of the program before are in nobody's way meanwhile.
            let others = match many || !probed.is_empty() {
                true => Vec::new(),
                false => {
                    member.placed.clear();
                    self.probes.take()
                }
            };
            let path = heap
                .get(new[0])
                .map(|it| it.allocator.object().path().to_owned());
            let path = path.unwrap_or_default();
            member.placed.extend(&new);
            let placed = refuse_danger(process.pid()).and_then(|()| {
                let mut new = new.iter().filter_map(|&it| heap.get(it));
                new.try_for_each(|it| self.probes.attach(process, &it.allocator, &it.points))
            });
            self.probes.detach_in_background(others);
            if let Err(error) = placed {
                // The report of what was recorded is worth more than the error.
                return self.not_probed(&error, progress);
            }
            *self.losses.entry(EXEC_GAP.name.to_owned()).or_default() += 1;
            let why = match in_place {
                true => format!(
                    "the new program has another allocator, `{}`",
                    escape::visible(&path)
                ),
                false => "the probes were away when the new program began".to_owned(),
            };
            let note = format!(
                "{why}; its calls in the first {} ms were missed",
                search.since.elapsed().as_millis().max(1),
            );
            progress.say(&note);
            self.notes.push(note);
        }
        heap.note_gaps(&mut self.losses, &mut self.notes);
        self.probe_mappings();
        self.stacks.refresh(space);
        self.update_tables(space);
        self.log_allocators(space);
        if !many {
            progress.say(&self.goes_on());
        }
        Ok(())
    }

    fn not_probed(&mut self, error: &anyhow::Error, progress: &mut Progress) -> Result<()> {
        *self.losses.entry(EXEC_GAP.name.to_owned()).or_default() += 1;
        let note = format!("the new program could not be probed: {error:#}");
        progress.say(&note);
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
        Ok(())
    }

    /// Said when nothing of a new program is missed any more.
    fn goes_on(&self) -> String {
        format!("recording `{}`", escape::visible(&self.members.target.comm))
    }
}
