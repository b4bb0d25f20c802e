//! What a recording of growth has beside what every recording has: events of page faults, and a look
//! now and then at what is still there.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::call_probes::CallProbes;
use crate::overhead::{self, Overhead};
use crate::probe::growth::{self, Faults, Pages};
use crate::probe::{Probes, system_calls};
use crate::snapshot::counts::{MOVES_NOT_FOLLOWED, PAGES_WITHOUT_FAULT, RANGES_NOT_RECORDED};
use crate::snapshot::growth::{Growth as Reader, Look};
use crate::snapshot::{Maps, Snapshot, Totals};
use crate::symbolize;
use crate::target::{Process, pages};

/// Of its own time, at most one part in so many goes into looks that nobody asked for.
const REST: u32 = 50;

/// A recording of growth.
pub(super) struct Growth {
    pages: Pages,
    faults: Faults,
    reader: Reader,
    meter: Option<overhead::Faults>,
    /// Memory of its own that the process had at the attach, bytes.
    bytes_before: u64,
    /// The same at the last look.
    bytes_now: u64,
    last: Option<Look>,
    /// Not to look again before.
    rest_until: Instant,
    system_calls: Result<usize, String>,
    /// Probes at `mremap`, where the kernel does not let programs run at its end.
    moves: Option<CallProbes>,
    /// Bytes of code that the process had mapped when those were looked for.
    code: Option<u64>,
}

impl Growth {
    /// Loads what is to be attached.
    pub(super) fn load(probes: &mut Probes, process: &Process, pages: Pages) -> Result<Self> {
        growth::load(probes.ebpf())?;
        let reader = Reader::take(probes.ebpf(), process.pid(), pages)?;
        Ok(Self {
            pages,
            faults: Faults::default(),
            reader,
            meter: None,
            bytes_before: 0,
            bytes_now: 0,
            last: None,
            rest_until: Instant::now(),
            system_calls: Ok(0),
            moves: None,
            code: None,
        })
    }

    /// Attaches to the threads of the process, and to the system calls as far as this kernel can.
    pub(super) fn attach(&mut self, probes: &mut Probes, process: &Process) -> Result<()> {
        self.system_calls =
            growth::attach_system_calls(probes.ebpf()).map_err(|error| format!("{error:#}"));
        if self.system_calls.is_err() {
            probes.guard()?;
            self.moves = Some(CallProbes::new(&system_calls::MOVES));
            self.follow_moves(probes, process);
        }
        if let Some(end) = pages::heap_end(process.pid()) {
            probes.set_break(end)?;
        }
        self.faults = Faults::attach(probes.ebpf(), process.pid())?;
        let programs = growth::programs(probes.ebpf())?;
        self.meter = Some(overhead::Faults::start(process.pid(), programs));
        Ok(())
    }

    /// Probes `mremap` in what the process has mapped since the last look, if there are such probes.
    pub(super) fn follow_moves(&mut self, probes: &mut Probes, process: &Process) {
        let Some(moves) = &mut self.moves else {
            return;
        };
        let code = process.code_size();
        if code.is_some() && code != self.code {
            self.code = code;
            moves.place(probes, process);
        }
    }

    /// What the programs take, percent; to be asked once a second.
    pub(super) fn overhead_now(&mut self) -> Option<u64> {
        self.meter.as_mut().and_then(overhead::Faults::look)
    }

    /// What they have taken so far.
    pub(super) fn overhead(&self) -> Option<Overhead> {
        self.meter.as_ref().and_then(overhead::Faults::overall)
    }

    /// Threads that have an event of their own.
    pub(super) fn threads(&self) -> usize {
        self.faults.threads()
    }

    /// From here on all that comes is recorded.
    pub(super) fn begin(&mut self, process: &Process) {
        self.bytes_before = pages::own_bytes(process.pid()).unwrap_or(0);
        self.bytes_now = self.bytes_before;
        self.reader.note_before();
    }

    /// The process executes another program, of which all memory is new.
    pub(super) fn start_over(&mut self, by_main_thread: bool) -> Result<()> {
        self.bytes_before = 0;
        self.code = None;
        if let Some(moves) = &mut self.moves
            && !by_main_thread
        {
            moves.begin_again();
        }
        self.last = None;
        self.reader.start_over()?;
        self.reader.note_before();
        Ok(())
    }

    /// As of the last look.
    pub(super) fn last_totals(&self) -> Totals {
        let last = self.last.as_ref();
        last.map_or(Totals::default(), |look| look.snapshot.totals)
    }

    /// Looks at the pages, unless the last look was just now.
    pub(super) fn glance(
        &mut self,
        maps: &Maps,
        process: &Process,
        space: u64,
        now: u64,
    ) -> Result<&Snapshot> {
        if self.last.is_none() || Instant::now() >= self.rest_until {
            self.look(maps, process, space, false, (Duration::ZERO, now))?;
        }
        Ok(&self.last.get_or_insert_default().snapshot)
    }

    /// Looks at the pages; all over if `thorough`.
    pub(super) fn look(
        &mut self,
        maps: &Maps,
        process: &Process,
        space: u64,
        thorough: bool,
        (min_age, now): (Duration, u64),
    ) -> Result<Snapshot> {
        let began = Instant::now();
        let bytes = pages::own_bytes(process.pid());
        let age = min_age.as_nanos() as u64;
        let look = self.reader.look(maps, space, thorough, (age, now))?;
        if let Some(bytes) = bytes.filter(|_| !look.is_late) {
            self.bytes_now = bytes;
        }
        self.rest_until = Instant::now() + began.elapsed() * REST;
        let snapshot = look.snapshot.clone();
        self.last = Some(look);
        Ok(snapshot)
    }

    /// What a report says of the method.
    pub(super) fn describe(&self) -> symbolize::Growth {
        symbolize::Growth {
            sample_pages: 1 << self.pages.shift,
            own_bytes_before: self.bytes_before,
            own_bytes: self.bytes_now,
            mapped: self.last.as_ref().and_then(|look| look.snapshot.mapped),
        }
    }

    /// What of the growth is not in the figures.
    pub(super) fn note(&self, losses: &mut BTreeMap<String, u64>, notes: &mut Vec<String>) {
        if let Some(look) = &self.last {
            if look.without_fault > 0 {
                losses.insert(PAGES_WITHOUT_FAULT.name.to_owned(), look.without_fault);
            }
            if look.is_late {
                notes.push(
                    "the process had ended: what was resident is as of the last look before its end"
                        .to_owned(),
                );
            }
        }
        if let Some(why) = self.meter.as_ref().and_then(overhead::Faults::failure) {
            notes.push(format!("what the recording costs is not known: {why}"));
        }
        if let Err(why) = &self.system_calls {
            losses.insert(RANGES_NOT_RECORDED.name.to_owned(), 1);
            notes.push(format!("growth by brk and mmap was not recorded: {why}"));
        }
        let problems = self.moves.as_ref().map_or(&[][..], CallProbes::problems);
        if !problems.is_empty() {
            losses.insert(MOVES_NOT_FOLLOWED.name.to_owned(), problems.len() as u64);
            notes.extend_from_slice(problems);
        }
        if self.pages.layout.is_none() {
            notes.push(
                "this kernel does not tell how its structures are laid out: faults of files were \
                 recorded too, and only left out where their pages are still there"
                    .to_owned(),
            );
        }
    }
}
