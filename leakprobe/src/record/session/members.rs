//! The processes of a recording: one, or many that come and go. What the kernel side announces of them
//! is taken in here; their blocks are elsewhere.

use std::collections::BTreeMap;

use leakprobe_common::ProcessState;

use super::exec::Search;
use crate::record::fate::GroupNumber;
use crate::report::human;
use crate::sampling::whole_blocks;
use crate::snapshot::Totals;
use crate::symbolize::ProcessReport;
use crate::target::{Process, TargetInfo};

/// Processes that have ended and are told one by one; what others leave is in the sums.
const MOST_ENDED: usize = 1000;

/// A process that is recorded, in one of its address spaces.
pub(super) struct Member {
    /// `None` for a child that had ended before it was looked at.
    pub(super) process: Option<Process>,
    pub(super) info: TargetInfo,
    pub(super) space: u64,
    pub(super) program: u64,
    /// PID of the process that forked it, if that was seen.
    pub(super) parent: Option<u32>,
    /// Nanoseconds of the recording at which it came.
    pub(super) since: u64,
    /// While a new program's allocator is looked for.
    pub(super) searching: Option<Search>,
    /// Its allocators, by number, the one that serves it first.
    pub(super) allocators: Vec<usize>,
    /// Those of them, and of a program before, in which probes were placed for this process and still are,
    /// as long as no budget has taken them away.
    pub(super) placed: Vec<usize>,
    /// Others of its that could not be probed when they were found.
    pub(super) refused: Vec<usize>,
    /// When it was seen that it has no others ([`crate::snapshot::now`]), and bytes of code that it had mapped then.
    pub(super) looked: u64,
    pub(super) code: Option<u64>,
    pub(super) trampoline: Option<u64>,
    /// Of which it was when it came.
    pub(super) cgroup: Option<GroupNumber>,
}

/// All of them.
pub(super) struct Members {
    /// Whether there may be more than one.
    many: bool,
    alive: BTreeMap<u64, Member>,
    /// What a report calls its target.
    pub(super) target: TargetInfo,
    pub(super) ended: Vec<ProcessReport>,
    /// Sums of those that are not in `ended`.
    others: Totals,
    others_count: u64,
}

impl Members {
    /// These, the first of which gives the report its name.
    pub(super) fn new(many: bool, members: Vec<Member>) -> Option<Self> {
        Some(Self {
            many,
            target: members.first()?.info.clone(),
            alive: members.into_iter().map(|it| (it.space, it)).collect(),
            ended: Vec::new(),
            others: Totals::default(),
            others_count: 0,
        })
    }

    /// Whether there may be more than one.
    pub(super) fn are_many(&self) -> bool {
        self.many
    }

    /// Those that have not ended, as far as known.
    pub(super) fn alive(&self) -> impl Iterator<Item = &Member> {
        self.alive.values()
    }

    /// The same, to be changed.
    pub(super) fn alive_mut(&mut self) -> impl Iterator<Item = &mut Member> {
        self.alive.values_mut()
    }

    /// The member in an address space.
    pub(super) fn get(&self, space: u64) -> Option<&Member> {
        self.alive.get(&space)
    }

    /// The same, to be changed.
    pub(super) fn get_mut(&mut self, space: u64) -> Option<&mut Member> {
        self.alive.get_mut(&space)
    }

    /// The only one, or the one that came first of those that are there.
    pub(super) fn first(&self) -> Option<&Member> {
        self.alive.values().next()
    }

    /// Whether all have ended.
    pub(super) fn are_gone(&self) -> bool {
        self.alive.is_empty()
    }

    pub(super) fn add(&mut self, member: Member) {
        self.alive.insert(member.space, member);
    }

    /// Takes one out that has left its address space.
    pub(super) fn remove(&mut self, space: u64) -> Option<Member> {
        self.alive.remove(&space)
    }

    /// What is to be said of processes that are told in the sums only.
    pub(super) fn unnamed(&self) -> Option<String> {
        (self.others_count > 0).then(|| {
            format!(
                "{} more processes have ended, with {} live in {}: in the sums, but not in the list",
                human::count(self.others_count),
                human::bytes(self.others.live_bytes),
                human::blocks(self.others.live_count),
            )
        })
    }

    /// Keeps what is to be told of one that was taken out; whether that is in the list.
    pub(super) fn bury(&mut self, report: ProcessReport) -> bool {
        let is_listed = self.ended.len() < MOST_ENDED;
        if is_listed {
            self.ended.push(report);
        } else {
            self.others += report.totals;
            self.others_count += 1;
        }
        is_listed
    }
}

impl Member {
    /// One that was there at the attach, and was looked at then.
    pub(super) fn found(process: Process, allocators: Vec<usize>, looked: u64, space: u64) -> Self {
        Self {
            info: process.info(),
            process: Some(process),
            space,
            program: space,
            parent: None,
            since: 0,
            searching: None,
            placed: allocators.clone(),
            allocators,
            refused: Vec::new(),
            looked,
            code: None,
            trampoline: None,
            cgroup: None,
        }
    }

    /// PID as the user sees it.
    pub(super) fn pid(&self) -> u32 {
        self.info.pid
    }

    /// How it ended, if that can be found out without the kernel side.
    pub(super) fn wait_status(&self) -> Option<u32> {
        self.process.as_ref().and_then(Process::wait_status)
    }

    /// What a report says of it; how it was last, the kernel side has told.
    pub(super) fn report(&self, state: &ProcessState) -> ProcessReport {
        ProcessReport {
            target: self.info.clone(),
            space: self.space,
            parent: self.parent,
            from_ns: self.since,
            until_ns: None,
            exec: false,
            cause: None,
            totals: totals(state),
            inherited_bytes: state.inherited_bytes,
            inherited_count: whole_blocks(state.inherited_count),
            inherited_freed_bytes: state.inherited_freed_bytes,
            inherited_freed_count: whole_blocks(state.inherited_freed_count),
        }
    }
}

/// What the kernel side has counted for a process.
pub(super) fn totals(state: &ProcessState) -> Totals {
    let live_count = whole_blocks(state.allocated_count.saturating_sub(state.freed_count));
    let allocated_count = whole_blocks(state.allocated_count);
    Totals {
        live_bytes: state.allocated_bytes.saturating_sub(state.freed_bytes),
        live_count,
        allocated_bytes: state.allocated_bytes,
        allocated_count,
        freed_bytes: state.freed_bytes,
        freed_count: allocated_count.saturating_sub(live_count),
    }
}
