//! What becomes of a recording when its target executes another program.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::heap::Heap;
use super::{Session, Subject, refuse_danger};
use crate::probe::{functions, plan};
use crate::record::progress::Progress;
use crate::report::{escape, human};
use crate::snapshot::counts::{EXEC_GAP, PROGRAM_WITHOUT_ALLOCATOR};
use crate::target::Allocator;

/// Between looks for the allocator of a program that the target has just executed.
pub(super) const SEARCH: Duration = Duration::from_millis(1);

/// How long a new program may take until its allocator is mapped.
const SEARCH_LIMIT: Duration = Duration::from_secs(10);

/// The look for the allocator of a new program.
#[derive(Clone, Copy)]
pub(super) struct Search {
    since: Instant,
    by_main_thread: bool,
}

impl Session {
    /// The target executed another program: its blocks are gone, its allocator may be another.
    pub(super) fn start_over(
        &mut self,
        by_main_thread: bool,
        progress: &mut Progress,
    ) -> Result<()> {
        let before = match &self.subject {
            Subject::Heap(_) => self.maps.totals(self.space - 1)?.totals,
            Subject::Growth(growth) => growth.last_totals(),
        };
        self.target = self.process.info();
        self.trampoline = None;
        self.stacks.start_over(self.process.pid());
        self.table_errors.settle(); // no pause: what there is is of another program
        self.update_tables();
        let comm = escape::visible(&self.target.comm);
        let note = format!(
            "the target executed `{comm}` {} after the attach; figures are of that program alone, \
             the one before it ended with {} live in {}",
            human::duration(self.began.elapsed().as_nanos() as u64),
            human::bytes(before.live_bytes),
            human::blocks(before.live_count),
        );
        progress.say(&note);
        self.notes.push(note);
        if let Some(governed) = &mut self.governed {
            if governed.is_away() {
                // They are placed anew, wherever the new program's allocator is.
                self.probes.set_duty(0)?;
                self.probes.record(true)?;
            }
            governed.start_over();
        }
        match &mut self.subject {
            Subject::Heap(heap) => {
                heap.searching = Some(Search {
                    since: Instant::now(),
                    by_main_thread,
                });
                self.search_allocator(progress)
            }
            Subject::Growth(growth) => {
                growth.start_over()?;
                progress.say(&self.goes_on());
                Ok(())
            }
        }
    }

    /// Looks for the allocator of the program that the target executed, and probes it.
    pub(super) fn search_allocator(&mut self, progress: &mut Progress) -> Result<()> {
        let Subject::Heap(heap) = &mut self.subject else {
            return Ok(());
        };
        let Some(Search {
            since,
            by_main_thread,
        }) = heap.searching
        else {
            return Ok(());
        };
        let Ok(found) = Allocator::search(&self.process, &functions::names()) else {
            return Ok(()); // the target has ended meanwhile, which is seen elsewhere
        };
        let Some(allocator) = found else {
            if since.elapsed() > SEARCH_LIMIT {
                heap.searching = None;
                *self
                    .losses
                    .entry(PROGRAM_WITHOUT_ALLOCATOR.name.to_owned())
                    .or_default() += 1;
            }
            return Ok(());
        };
        if self.probes.describe(&self.process, &allocator).is_err() {
            return Ok(()); // as above
        }
        heap.searching = None;
        let is_same = allocator.identity() == heap.allocator.identity();
        self.stacks.refresh(self.process.pid());
        self.update_tables();
        // A budget may have taken them away.
        let in_place = self.probes.placed() > 0;
        if by_main_thread && in_place && is_same {
            // The same file: the probes are in place already.
            progress.say(&self.goes_on());
            return Ok(());
        }
        *self.losses.entry(EXEC_GAP.name.to_owned()).or_default() += 1;
        // What is placed in the file of the program before is in nobody's way meanwhile.
        let placed = self.probes.take();
        let points = plan::points(&allocator).and_then(|points| {
            refuse_danger(self.process.pid())?;
            self.probes.attach(&self.process, &allocator, &points)?;
            Ok(points)
        });
        self.probes.detach_in_background(placed);
        let points = match points {
            Ok(points) => points,
            Err(error) => {
                // The report of what was recorded is worth more than the error.
                let note = format!("the new program could not be probed: {error:#}");
                progress.say(&note);
                self.notes.push(note);
                return Ok(());
            }
        };
        let why = match in_place {
            true => format!(
                "the new program has another allocator, `{}`",
                escape::visible(allocator.object().path())
            ),
            false => "the probes were away when the new program began".to_owned(),
        };
        let note = format!(
            "{why}; its calls in the first {} ms were missed",
            since.elapsed().as_millis().max(1),
        );
        progress.say(&note);
        self.notes.push(note);
        self.subject = Subject::Heap(Box::new(Heap {
            allocator,
            points,
            searching: None,
        }));
        self.note_others();
        progress.say(&self.goes_on());
        Ok(())
    }

    /// Said when nothing of a new program is missed any more.
    fn goes_on(&self) -> String {
        format!("recording `{}`", escape::visible(&self.target.comm))
    }
}
