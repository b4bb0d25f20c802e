//! What has been recorded, as a profile: while the recording goes on, and at its end.

use std::time::Duration;

use anyhow::Result;

use super::budget::Governed;
use super::members::Member;
use super::{Progress, Session, Subject};
use crate::overhead::Meter;
use crate::snapshot::counts::{EXEC_GAP, MODULES_NOT_UNWOUND};
use crate::snapshot::{Ages, LiveBlocks, Snapshot, now};
use crate::symbolize::{Header, Profile, View, profile};

impl Session {
    /// What is there as of `now`; the final one once nothing is recorded any more. `blocks` if they were read
    /// since.
    pub(super) fn snapshot(
        &mut self,
        min_age: Option<Duration>,
        now: u64,
        is_final: bool,
        blocks: Option<&LiveBlocks>,
    ) -> Result<Snapshot> {
        if self.members.are_many() {
            let ages = self.ages(min_age.unwrap_or_default(), now);
            return self.snapshot_of_many(ages);
        }
        let space = self.space();
        match (&mut self.subject, min_age, self.members.first()) {
            (
                Subject::Growth(growth),
                min_age,
                Some(Member {
                    process: Some(process),
                    ..
                }),
            ) => {
                let age = (min_age.unwrap_or_default(), now);
                growth.look(&self.maps, process, space, is_final, age)
            }
            (_, None, _) => self.maps.totals(space),
            (_, Some(min_age), _) => {
                let ages = self.ages(min_age, now);
                self.maps.blocks(space, ages, blocks)
            }
        }
    }

    pub(super) fn header(&self) -> Header {
        let mut losses = self.losses.clone();
        let mut notes = self.notes.clone();
        for (module, why) in self.unwinder.problems() {
            *losses
                .entry(MODULES_NOT_UNWOUND.name.to_owned())
                .or_default() += 1;
            notes.push(format!("stacks end in `{module}`: {why}"));
        }
        self.table_errors.report(&mut losses, &mut notes);
        let growth = match &self.subject {
            Subject::Heap(_) => None,
            Subject::Growth(growth) => {
                growth.note(&mut losses, &mut notes);
                Some(growth)
            }
        };
        notes.extend(self.members.unnamed());
        self.note_mappings(&mut losses, &mut notes);
        let reading = self.meter.as_ref().map(Meter::reading);
        let reading = reading.unwrap_or_default();
        notes.extend(reading.failure.map(|why| {
            format!("what the recording costs is not known, and no guard ends it: {why}")
        }));
        let governed = self.governed.as_ref();
        let (allocator, other_allocators) = self.allocators();
        let (account, rss) = self.memory();
        Header {
            target: self.members.target.clone(),
            allocator,
            other_allocators,
            processes: self.reports(),
            growth: growth.map(|growth| growth.describe()),
            mappings: None,
            sampling: governed.map_or(self.sampling, |it| it.sampling(self.sampling)),
            overhead: match growth {
                Some(growth) => growth.overhead(),
                None => governed.map_or(reading.overall, Governed::overall),
            },
            budget: governed.map(Governed::account),
            began_at: self.began_at,
            duration: self.began.elapsed(),
            account,
            heap: self.memory.heap.clone(),
            rss,
            death: self.deaths.of_target().cloned(),
            losses,
            notes,
        }
    }

    pub(super) fn profile(&mut self, min_age: Option<Duration>, top: usize) -> Result<Profile> {
        self.locate(true)?;
        let mut snapshot = self.snapshot(min_age, now()?, false, None)?;
        snapshot.unbalanced = 0; // the target runs on while the maps are read
        let header = Header {
            mappings: self.mappings(None)?,
            ..self.header()
        };
        Ok(self.profile_of(header, &snapshot, min_age, top))
    }

    /// Makes a profile of a snapshot.
    pub(super) fn profile_of(
        &mut self,
        header: Header,
        snapshot: &Snapshot,
        min_age: Option<Duration>,
        top: usize,
    ) -> Profile {
        let view = View {
            choice: &self.choice,
            history: &self.history,
            settled_until: header
                .duration
                .saturating_sub(self.settle(min_age.unwrap_or_default())),
            top,
        };
        profile(header, snapshot, &self.stacks, &mut self.names, view)
    }

    /// Which live blocks count, as of a moment.
    pub(super) fn ages(&self, min: Duration, now: u64) -> Ages {
        Ages {
            now,
            min,
            unseen: self.governed.as_ref().and_then(Governed::unseen),
            settle: self.settle(min),
        }
    }

    /// Stops recording, starts taking the probes away, and makes the final profile.
    ///
    /// # Errors
    ///
    /// If the maps cannot be read.
    pub fn finish(&mut self, min_age: Duration) -> Result<Profile> {
        self.drain(&mut Progress::new(true))?;
        let moment = self.look_at_mappings();
        self.overhead_now();
        let stopped = now()?;
        self.probes.stop()?;
        // Only now, so that all that is recorded is in what it is said to have cost.
        if let Some(meter) = &mut self.meter {
            meter.end();
        }
        let duration = self.began.elapsed();
        let regions = self.regions_now();
        let (placed, calls) = (self.probes.take(), self.probes.take_calls());
        self.probes.detach_in_background(placed);
        self.probes.detach_in_background(calls);
        let blocks = self.blocks_now();
        self.account_now(regions, blocks.as_ref()); // a large heap takes its time
        if let Some(meter) = &mut self.meter {
            meter.stop(); // of a very short recording it may still measure traps
        }
        if let Some(governed) = &mut self.governed {
            governed.look()?;
        }
        self.drain(&mut Progress::new(true))?;
        self.locate(true)?;
        if !self.members.are_many() && self.is_searching() {
            *self.losses.entry(EXEC_GAP.name.to_owned()).or_default() += 1;
            self.notes.push(
                "the new program's allocator was not found before the recording ended".to_owned(),
            );
        }
        let snapshot = self.snapshot(Some(min_age), stopped, true, blocks.as_ref())?;
        let mappings = self.mappings(moment.as_ref())?;
        // Only now: what was still in the ring buffer may have added losses and notes.
        let header = Header {
            duration,
            mappings,
            ..self.header()
        };
        Ok(self.profile_of(header, &snapshot, Some(min_age), usize::MAX))
    }
}
