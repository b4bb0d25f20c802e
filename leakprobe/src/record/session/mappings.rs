//! What the program maps beside its allocator, followed by probes at the system calls of its own code: of a
//! single process whose heap is recorded. What it does with the memory then, is not looked at.

use std::collections::BTreeMap;

use anyhow::Result;
use leakprobe_common::{MappingEvent, PAGE_BYTES};

use super::Session;
use super::call_probes::CallProbes;
use crate::probe::system_calls;
use crate::snapshot::counts::{MAPPINGS_GONE, MAPPINGS_NOT_PROBED, MAPPINGS_UNEXPLAINED};
use crate::snapshot::mappings::{Disagreement, Mappings, Origin, Summary};
use crate::snapshot::now;
use crate::snapshot::ranges::RangeMap;
use crate::target::Mapping;
use crate::target::pages::{self, Pages};

/// What is known of the mappings.
pub(super) struct Mapped {
    /// Once it counts.
    ranges: Option<Mappings>,
    space: u64,
    probes: CallProbes,
    last: Option<Disagreement>,
}

/// What was mapped at a moment, for a comparison later.
pub(super) struct Moment {
    ranges: RangeMap<Origin>,
    mapped: Vec<Mapping>,
    own: Vec<(u64, u64)>,
    pages: Option<Pages>,
}

impl Default for Mapped {
    fn default() -> Self {
        Self {
            ranges: None,
            space: 0,
            probes: CallProbes::new(&system_calls::MAPPINGS),
            last: None,
        }
    }
}

impl Mapped {
    /// From now on it counts: what is mapped by now was there before.
    fn begin(&mut self, pid: u32, space: u64) {
        let before = Mapping::read_all(pid).unwrap_or_default();
        self.ranges = Some(Mappings::new(&before, pages::heap_start(pid)));
        self.space = space;
    }
}

impl Session {
    /// Probes the system calls of what the process has mapped by now.
    pub(super) fn probe_mappings(&mut self) {
        if let Some(mapped) = &mut self.mapped
            && let Some(process) = self.members.first().and_then(|it| it.process.as_ref())
        {
            mapped.probes.place(&mut self.probes, process);
        }
    }

    /// Of many processes nothing is told.
    pub(super) fn mappings_not_probed(&mut self) {
        self.losses.insert(MAPPINGS_NOT_PROBED.name.to_owned(), 1);
    }

    /// From now on it counts; also of a program that was just executed.
    pub(super) fn begin_mappings(&mut self) {
        if let (Some(mapped), Some(member)) = (&mut self.mapped, self.members.first()) {
            mapped.begin(member.pid(), member.space);
        }
    }

    /// Another program is executed: probes are in place in what both have mapped, if its main thread did it.
    pub(super) fn start_mappings_over(&mut self, by_main_thread: bool) {
        if let Some(mapped) = &mut self.mapped
            && !by_main_thread
        {
            mapped.probes.begin_again();
        }
        self.begin_mappings();
    }

    /// A system call of the process.
    pub(super) fn see_mapping(&mut self, event: &MappingEvent) {
        if let Some(mapped) = &mut self.mapped
            && let Some(ranges) = &mut mapped.ranges
            && event.space == mapped.space
        {
            ranges.see(event);
        }
    }

    /// What is mapped now; to be asked before the probes are taken away. `None` if mappings are not followed,
    /// or the process has ended.
    pub(super) fn look_at_mappings(&mut self) -> Option<Moment> {
        let ranges = self.mapped.as_ref()?.ranges.as_ref()?.as_of_now();
        let pid = self.members.first()?.process.as_ref()?.pid();
        let mapped = Mapping::read_all(pid).ok().filter(|it| !it.is_empty())?;
        Some(Moment {
            ranges,
            mapped,
            own: pages::own_ranges(pid),
            pages: Pages::open(pid).ok(),
        })
    }

    /// What the process has mapped, as compared with a moment ago.
    pub(super) fn mappings(&mut self, moment: Option<&Moment>) -> Result<Option<Summary>> {
        let Some(mapped) = &mut self.mapped else {
            return Ok(None);
        };
        let Some(ranges) = mapped.ranges.as_mut().filter(|_| mapped.probes.calls() > 0) else {
            return Ok(None);
        };
        let disagreement = moment.map(|it| ranges.compare(&it.ranges, &it.mapped));
        mapped.last = disagreement;
        let pages = moment.and_then(|it| Some((it.pages.as_ref()?, &it.own)));
        let resident = pages.map(|(pages, own)| {
            move |start: u64, end: u64| -> u64 {
                let own = own.iter().filter(|(from, to)| *from < end && *to > start);
                own.map(|(from, to)| pages.resident(start.max(*from), end.min(*to)))
                    .sum()
            }
        });
        let resident = resident.as_ref();
        let mut summary = ranges.summary(now()?, resident.map(|it| it as &dyn Fn(u64, u64) -> u64));
        summary.disagreement = disagreement;
        Ok(Some(summary))
    }

    /// What of the mappings is not known.
    pub(super) fn note_mappings(
        &self,
        losses: &mut BTreeMap<String, u64>,
        notes: &mut Vec<String>,
    ) {
        let Some(mapped) = &self.mapped else {
            return;
        };
        let mut problems = mapped.probes.problems().to_vec();
        if mapped.probes.calls() == 0 {
            problems.push(
                "what the program maps is not told by stack: no system calls that map memory were found \
                 in its code"
                    .to_owned(),
            );
        }
        let last = mapped.last.unwrap_or_default();
        let counts = [
            (MAPPINGS_NOT_PROBED, problems.len() as u64),
            (MAPPINGS_UNEXPLAINED, last.unexplained / PAGE_BYTES),
            (MAPPINGS_GONE, last.gone / PAGE_BYTES),
        ];
        let counts = counts.into_iter().filter(|(_, count)| *count > 0);
        losses.extend(counts.map(|(count, value)| (count.name.to_owned(), value)));
        notes.extend(problems);
    }
}
