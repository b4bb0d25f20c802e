//! What a recording of many processes does when they fork, execute another program or end, and how
//! their figures are put together.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use anyhow::Result;
use leakprobe_common::{ProcessState, StackKey};

use super::exec::Search;
use super::heap::Found;
use super::members::{self, Member};
use super::{Session, Subject};
use crate::probe::way::Way;
use crate::record::fate::Ending;
use crate::snapshot::counts::{EXEC_GAP, FORK_GAP};
use crate::snapshot::{Ages, Remains, Snapshot, Space, Spaces, Totals, now};
use crate::symbolize::ProcessReport;
use crate::target::Process;

/// What is kept of many processes besides the members.
#[derive(Default)]
pub(super) struct Tree {
    /// The program of each address space, and whether it is gone.
    spaces: Spaces,
    remains: Remains,
    /// Sums of the processes that have ended.
    ended: Totals,
    /// Blocks that are still in the map of live blocks although their processes are gone.
    unburied: u64,
    /// Address spaces that are gone, and of which something may be in the maps.
    gone: Vec<u64>,
    /// For a process that is taken in later.
    next_space: u64,
    /// How the only process has ended, if there is but one.
    pub(super) end: Option<Ending>,
}

/// So many blocks of ended processes are taken out of the map together, which has to be read whole; or
/// those of so many programs, or processes.
const BURY: u64 = 10_000;
const BURY_PROGRAMS: usize = 16;
const BURY_PROCESSES: usize = 1000;

/// At a fork, mappings of the parent that were read longer ago than this are read again.
const STALE: Duration = Duration::from_secs(1);

impl Tree {
    /// With these to begin with.
    pub(super) fn new<'a>(members: impl Iterator<Item = &'a Member>) -> Self {
        let spaces: Spaces = members
            .map(|it| (it.space, Space::of(it.program)))
            .collect();
        let next_space = spaces.keys().max().map_or(1, |last| last + 1);
        Self {
            spaces,
            next_space,
            ..Self::default()
        }
    }
}

/// When a program was executed, from the number of its address space: the low 52 bits of that time are in it.
fn time_of(space: u64, now: u64) -> u64 {
    now - (now.wrapping_sub(space >> 12) & (u64::MAX >> 12))
}

impl Session {
    /// A process was forked.
    pub(super) fn fork(&mut self, child: &ProcessState) -> Result<()> {
        let parent = match child.parent {
            0 => child.space, // it works in its parent's memory
            parent => parent,
        };
        let pid = child.pid as u32;
        let process = Process::open_child(pid);
        let Some(forked_by) = self.members.get(parent) else {
            return Ok(()); // of a process that was lost
        };
        if child.parent == 0 {
            return Ok(()); // until its exec
        }
        let (mut allocators, mut placed) = (Vec::new(), Vec::new());
        if let Subject::Heap(heap) = &self.subject {
            // What it was forked without, it is looked at for as if it had loaded it by itself.
            let has_begun = self.began_at != u64::MAX;
            let has_probes = |it: &&Found| {
                !has_begun || self.probes.follows_since(&it.allocator) <= child.forked
            };
            let had = |it: &&usize| heap.get(**it).as_ref().is_some_and(has_probes);
            allocators = forked_by.allocators.iter().filter(had).copied().collect();
            placed = forked_by.placed.iter().filter(had).copied().collect();
        }
        let is_whole = allocators.len() == forked_by.allocators.len();
        let mut info = forked_by.info.clone();
        (info.pid, info.ns_pid) = (pid, pid);
        if let Some(process) = &process {
            let own = process.info_of_child(&info);
            // Nothing is told of one that has ended meanwhile. It was called what its parent is.
            match own.comm.is_empty() && process.has_ended() {
                true => info.start_time = own.start_time,
                false => info = own,
            }
        }
        let member = Member {
            process,
            info,
            space: child.space,
            program: child.program,
            parent: Some(forked_by.pid()),
            since: child.forked.saturating_sub(self.began_at),
            searching: None,
            allocators,
            placed,
            refused: forked_by.refused.clone(),
            looked: forked_by.looked,
            code: forked_by.code.filter(|_| is_whole),
            trampoline: forked_by.trampoline,
            cgroup: forked_by.cgroup,
        };
        if self.began_at == u64::MAX {
            self.place(&member)?; // its parent may not have had all its probes yet
        } else {
            self.adopt(&member)?;
        }
        if self.stacks.is_stale(parent, STALE) {
            // A server that loads all first, and then forks, is to have it told once.
            self.stacks.refresh(parent);
            self.update_tables(parent);
        }
        self.cpu.add(pid);
        self.stacks.fork(parent, child.space, pid);
        self.unwinder.fork(parent, child.space);
        self.probes.switches().fork(parent, child.space)?;
        self.tree
            .spaces
            .insert(child.space, Space::of(child.program));
        self.members.add(member);
        Ok(())
    }

    /// One of many processes executed another program.
    pub(super) fn exec(
        &mut self,
        space: u64,
        before: &ProcessState,
        by_main_thread: bool,
    ) -> Result<()> {
        let pid = before.pid as u32;
        let (process, parent) = match self.members.get_mut(before.space) {
            // After a vfork the member in that space is its parent.
            Some(member) if member.pid() == pid => (member.process.take(), member.parent),
            parent => (Process::open_child(pid), parent.map(|member| member.pid())),
        };
        let at = time_of(space, now()?);
        let mut placed = Vec::new();
        if let Some(member) = self.members.get_mut(before.space)
            && member.pid() == pid
        {
            if by_main_thread && self.probes.way() != Way::Tree {
                placed = std::mem::take(&mut member.placed);
            }
            self.depart(before, None, at, true);
        } else {
            self.tree.ended += members::totals(before);
            self.cpu.add(pid);
        }
        let mut info = self.members.target.clone();
        match &process {
            Some(process) => info = process.info_of_child(&info),
            None => (info.pid, info.ns_pid) = (pid, pid),
        }
        self.stacks.enter(space, pid);
        self.tree.spaces.insert(space, Space::of(space));
        let searching = process.is_some().then(|| Search::new(by_main_thread));
        let member = Member {
            process,
            info,
            space,
            program: space,
            parent,
            since: at.saturating_sub(self.began_at),
            searching,
            allocators: Vec::new(),
            placed,
            refused: Vec::new(),
            looked: at,
            code: None,
            trampoline: None,
            cgroup: self.fate.watch(pid),
        };
        self.adopt(&member)?;
        self.members.add(member);
        Ok(())
    }

    /// Takes in processes that are wanted and that none of those here has forked; how many they were.
    pub(super) fn take_in_others(&mut self) -> Result<usize> {
        let Some(again) = &self.again else {
            return Ok(0);
        };
        let known: HashSet<u32> = self.members.alive().map(Member::pid).collect();
        let others = again().into_iter().filter(|it| !known.contains(&it.pid()));
        let mut count = 0;
        for process in others {
            count += usize::from(self.take_in(process)?);
        }
        Ok(count)
    }

    /// Takes in a process that runs already; `false` if it has no allocator, or has ended.
    fn take_in(&mut self, process: Process) -> Result<bool> {
        let looked = now()?;
        let Subject::Heap(heap) = &mut self.subject else {
            return Ok(false);
        };
        let found = heap.search(&process).and_then(|it| heap.usable(it));
        let allocators = found.unwrap_or_default();
        if allocators.is_empty() {
            return Ok(false);
        }
        if self.began_at != u64::MAX {
            heap.note_gaps(&mut self.losses, &mut self.notes);
        }
        let space = self.tree.next_space;
        self.tree.next_space += 1;
        let mut member = Member::found(process, allocators, looked, space);
        member.cgroup = self.fate.watch(member.pid());
        if self.began_at != u64::MAX {
            member.since = now()?.saturating_sub(self.began_at);
            *self.losses.entry(FORK_GAP.name.to_owned()).or_default() += 1;
        }
        let Some(process) = &member.process else {
            return Ok(false);
        };
        self.probes.take_in(process, space)?;
        self.tree.spaces.insert(space, Space::of(space));
        self.stacks.enter(space, member.pid());
        self.stacks.refresh(space);
        self.cpu.join(member.pid());
        self.place(&member)?;
        if let (Some(process), Subject::Heap(heap)) = (&member.process, &self.subject) {
            // Its end, if that is what prevents it, is seen elsewhere.
            let allocators = heap.allocators(&member.allocators);
            let _ = self.probes.describe(process, space, allocators);
        }
        self.members.add(member);
        self.update_tables(space);
        Ok(true)
    }

    /// A process has its probes from the one that forked it, and is to keep them.
    fn adopt(&mut self, member: &Member) -> Result<()> {
        let Some(process) = &member.process else {
            return Ok(());
        };
        match self.probes.adopt(process) {
            Ok(false) => Ok(()),
            Ok(true) => {
                *self.losses.entry(FORK_GAP.name.to_owned()).or_default() += 1;
                Ok(())
            }
            Err(_) if process.has_ended() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Places the probes for one that may have none.
    fn place(&mut self, member: &Member) -> Result<()> {
        let (Some(process), Subject::Heap(heap)) = (&member.process, &self.subject) else {
            return Ok(());
        };
        let mut found = member.allocators.iter().filter_map(|&it| heap.get(it));
        match found.try_for_each(|it| self.probes.attach(process, &it.allocator, &it.points)) {
            Err(error) if !process.has_ended() => Err(error),
            _ => Ok(()),
        }
    }

    /// A process has ended.
    pub(super) fn exit(&mut self, process: &ProcessState, status: u32, time: u64) {
        if !self.members.are_many() {
            return self.tree.end = Some(Ending::of(status, process));
        }
        let is_member = |it: &Member| it.pid() == process.pid as u32;
        if self.members.get(process.space).is_some_and(is_member) {
            self.depart(process, Some(Ending::of(status, process)), time, false);
        } else {
            self.tree.ended += members::totals(process); // of one that was forked by vfork
        }
    }

    /// What is to be said if all processes have ended.
    pub(super) fn end(&mut self) -> Result<Option<String>> {
        let ended = |it: &&Member| it.process.as_ref().is_none_or(Process::has_ended);
        if !self.members.are_many() {
            let ended = self.members.first().filter(ended);
            let ending = ended.map(|it| match self.tree.end {
                Some(ending) => ending,
                None => Ending::from_status(it.wait_status()),
            });
            return Ok(ending.map(|ending| self.has_died(ending)));
        }
        // Of these the kernel side has not told: that was lost, and is counted.
        let time = now()?;
        let lost: Vec<u64> = self
            .members
            .alive()
            .filter(ended)
            .map(|it| it.space)
            .collect();
        for space in lost {
            let state = ProcessState {
                space,
                ..ProcessState::default()
            };
            self.depart(&state, None, time, false);
        }
        Ok(self.members.are_gone().then(|| self.all_have_died()))
    }

    /// A process has left its address space.
    fn depart(&mut self, state: &ProcessState, ending: Option<Ending>, time: u64, exec: bool) {
        let Some(member) = self.members.remove(state.space) else {
            return;
        };
        let cause = (!exec).then(|| {
            let ending = ending.unwrap_or_else(|| Ending::from_status(member.wait_status()));
            self.fell(&member, ending, time)
        });
        if member.allocators.is_empty() && state.allocated_count == 0 {
            // It may have had an allocator that is not probed: it ended before anybody could look.
            *self.losses.entry(EXEC_GAP.name.to_owned()).or_default() += 1;
        }
        let report = ProcessReport {
            cause,
            until_ns: Some(time.saturating_sub(self.began_at)),
            exec,
            ..member.report(state)
        };
        self.tree.ended += report.totals;
        self.tree.unburied += report.totals.live_count;
        self.tree.gone.push(state.space);
        let is_listed = self.members.bury(report);
        if let Some(space) = self.tree.spaces.get_mut(&state.space) {
            (space.end, space.is_listed) = (Some(time), is_listed);
        }
        if !exec {
            self.cpu.remove(member.pid());
        }
        self.stacks.leave(state.space);
        self.unwinder.leave(state.space);
        self.probes.switches().forget(state.space);
    }

    /// Takes what ended processes have left out of the maps, if it is much.
    pub(super) fn bury(&mut self, min_age: Duration) -> Result<()> {
        let living: HashSet<u64> = self.members.alive().map(|member| member.program).collect();
        let program = |space: &u64| self.tree.spaces.get(space).map(|it| it.program);
        let programs: HashSet<u64> = self.tree.gone.iter().filter_map(program).collect();
        let programs: HashSet<u64> = programs.difference(&living).copied().collect();
        let is_much = self.tree.unburied >= BURY
            || programs.len() >= BURY_PROGRAMS
            || self.tree.gone.len() >= BURY_PROCESSES;
        if !is_much {
            return Ok(());
        }
        let ages = self.ages(min_age, 0);
        let tree = &mut self.tree;
        self.maps.bury(
            &tree.spaces,
            &programs,
            ages,
            &mut self.stacks,
            &mut tree.remains,
        )?;
        tree.unburied = 0;
        for space in tree.gone.drain(..) {
            tree.spaces.remove(&space);
        }
        Ok(())
    }

    /// Sums of all processes, ended ones included.
    pub(super) fn sum_of_many(&self) -> Result<Totals> {
        let mut sum = self.tree.ended;
        for state in self.maps.processes()? {
            sum += members::totals(&state);
        }
        Ok(sum)
    }

    /// What each stack has live, and what the processes that there are have together: what others left at
    /// their end does not grow.
    pub(super) fn live_of_many(&mut self) -> Result<(HashMap<StackKey, u64>, u64)> {
        let remains = &self.tree.remains;
        let live = self.maps.live_of_many(&mut self.stacks, remains)?;
        let there = |state: &ProcessState| self.members.get(state.space).is_some();
        let states = self.maps.processes()?;
        let of_each = states
            .iter()
            .filter(|state| there(state))
            .map(members::totals);
        Ok((live, of_each.map(|totals| totals.live_bytes).sum()))
    }

    /// What is there of all processes.
    pub(super) fn snapshot_of_many(&mut self, ages: Ages) -> Result<Snapshot> {
        let tree = &self.tree;
        self.maps
            .many(&tree.spaces, ages, &mut self.stacks, &tree.remains)
    }

    /// What a report says of each process; nothing if there is only one.
    pub(super) fn reports(&self) -> Vec<ProcessReport> {
        if !self.members.are_many() {
            return Vec::new();
        }
        let states = self.maps.processes().unwrap_or_default();
        let mut reports = self.members.ended.clone();
        for member in self.members.alive() {
            let state = states.iter().find(|state| state.space == member.space);
            let mut report = member.report(&state.copied().unwrap_or_default());
            if let Some(process) = &member.process
                && !process.has_ended()
            {
                report.target = process.info();
            }
            reports.push(report);
        }
        reports.sort_by_key(|report| (report.from_ns, report.target.pid));
        reports
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_in_the_number_of_an_address_space() {
        for time in [5_000_000_000, (1 << 52) - 1, 1 << 52, (3 << 52) + 7] {
            for cpu in [0, 1, 0xfff] {
                for late in [0, 1, 10_000_000_000] {
                    assert_eq!(time_of(time << 12 | cpu, time + late), time);
                }
            }
        }
    }
}
