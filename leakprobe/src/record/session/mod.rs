//! One recording: from the attach to the final profile.

mod attach;
mod budget;
mod exec;
mod growth;
mod heap;
mod tables;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use aya::maps::{MapData, RingBuf};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::Signal;
use tokio::time::{MissedTickBehavior, interval, sleep};

use self::budget::Governed;
use self::exec::SEARCH;
use self::growth::Growth;
use self::heap::Heap;
use self::tables::TableErrors;
use super::progress::Progress;
use crate::cli::Config;
use crate::overhead::Meter;
use crate::probe::{Probes, danger};
use crate::snapshot::counts::{EXEC_GAP, MODULES_NOT_UNWOUND, UNREADABLE_EVENTS};
use crate::snapshot::{Ages, Event, Maps, REFRESH, Snapshot, Stacks, Totals, now};
use crate::symbolize::{Header, Names, Profile, Sampling, profile};
use crate::target::{AllocatorInfo, Process, TargetInfo};
use crate::unwind::Unwinder;

/// A recording that goes on.
pub struct Session {
    process: Process,
    target: TargetInfo,
    subject: Subject,
    sampling: Option<Sampling>,
    probes: Probes,
    events: AsyncFd<RingBuf<MapData>>,
    maps: Maps,
    stacks: Stacks,
    unwinder: Unwinder,
    table_errors: TableErrors,
    names: Names,
    /// With a budget it measures instead of the meter.
    governed: Option<Governed>,
    meter: Option<Meter>,
    space: u64,
    began: Instant,
    attach_time: Duration,
    trampoline: Option<u64>,
    interrupt: Signal,
    terminate: Signal,
    losses: BTreeMap<String, u64>,
    notes: Vec<String>,
}

/// What is recorded of the process.
enum Subject {
    /// The blocks of its allocator.
    Heap(Box<Heap>),
    /// The pages that it gets from the kernel.
    Growth(Box<Growth>),
}

/// How an interval's profile is printed.
pub type Print<'a> = dyn FnMut(&Profile, &Config) -> Result<()> + 'a;

impl Session {
    /// The process.
    pub fn target(&self) -> &TargetInfo {
        &self.target
    }

    /// What is probed; `None` in growth mode.
    pub fn allocator(&self) -> Option<AllocatorInfo> {
        match &self.subject {
            Subject::Heap(heap) => Some(heap.allocator.info()),
            Subject::Growth(_) => None,
        }
    }

    /// What was attached, in words.
    pub fn attached(&self) -> String {
        match &self.subject {
            Subject::Heap(heap) => format!(
                "{} probes on {} functions",
                self.probes.placed(),
                heap.points.len()
            ),
            Subject::Growth(growth) => format!("page faults of {} threads", growth.threads()),
        }
    }

    /// How long attaching took.
    pub fn attach_time(&self) -> Duration {
        self.attach_time
    }

    /// Records until the duration is over, a signal asks to stop, or the target ends.
    ///
    /// # Errors
    ///
    /// If the maps cannot be read or something cannot be printed.
    pub async fn record(
        &mut self,
        config: &Config,
        progress: &mut Progress,
        print: &mut Print<'_>,
    ) -> Result<()> {
        let ended = watch(self.process.pidfd().try_clone_to_owned()?)
            .context("failed to watch for the end of the target")?;
        let mut seconds = interval(Duration::from_secs(1));
        let mut prints = interval(config.interval);
        prints.set_missed_tick_behavior(MissedTickBehavior::Delay);
        prints.tick().await; // the first is at once
        let deadline = config.duration.map(|duration| self.began + duration);
        loop {
            let deadline = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            let search = async {
                match &self.subject {
                    Subject::Heap(heap) if heap.searching.is_some() => sleep(SEARCH).await,
                    _ => std::future::pending().await,
                }
            };
            let look = async {
                match &self.governed {
                    Some(governed) => {
                        tokio::time::sleep_until(governed.next_look().into()).await;
                    }
                    None => std::future::pending().await,
                }
            };
            let refresh = async {
                match self.stacks.waits() {
                    true => sleep(REFRESH).await,
                    false => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                _ = self.interrupt.recv() => return Ok(()),
                _ = self.terminate.recv() => return Ok(()),
                _ = ended.readable() => {
                    progress.say(&format!("process {} has ended", self.target.pid));
                    return Ok(());
                }
                () = deadline => return Ok(()),
                () = look => self.keep_budget(progress)?,
                () = search => self.search_allocator(progress)?,
                () = refresh => self.locate(false),
                guard = self.events.readable() => {
                    guard.context("failed to watch the ring buffer")?.clear_ready();
                    self.drain(progress)?;
                }
                _ = seconds.tick() => {
                    self.catch_up_with_tables();
                    self.probes.spare_children(&self.process);
                    self.locate(false);
                    let totals = self.totals_now()?;
                    let (overhead, too_much_of_it) = self.overhead_now();
                    progress.status(self.began.elapsed(), &totals, overhead);
                    if too_much_of_it && config.guard {
                        let why = too_much(config);
                        progress.say(&why);
                        self.notes.push(why);
                        return Ok(());
                    }
                }
                _ = prints.tick() => {
                    progress.clear();
                    let profile = self.profile(config.min_age, config.top)?;
                    print(&profile, config)?;
                }
            }
        }
    }

    /// What the probes took of the last second, percent, and whether it is time to stop for it.
    fn overhead_now(&mut self) -> (Option<u64>, bool) {
        if let Subject::Growth(growth) = &mut self.subject {
            return (growth.overhead_now(), false);
        }
        match (&mut self.governed, &self.meter) {
            (Some(governed), _) => (governed.second(), false),
            (None, Some(meter)) => {
                let reading = meter.reading();
                (reading.now, reading.too_much)
            }
            (None, None) => (None, false),
        }
    }

    /// Takes in what the kernel side announced.
    fn drain(&mut self, progress: &mut Progress) -> Result<()> {
        let mut exec = None;
        while let Some(record) = self.events.get_mut().next() {
            match Event::parse(&record) {
                Some(Event::Stack {
                    key,
                    addresses,
                    end,
                }) if key.space == self.space => {
                    self.stacks.add(key, addresses, end);
                }
                Some(Event::Stack { .. }) => {} // of a program that is gone
                Some(Event::Exec {
                    space,
                    by_main_thread,
                }) => {
                    self.space = space;
                    exec = Some(by_main_thread);
                }
                None => {
                    *self
                        .losses
                        .entry(UNREADABLE_EVENTS.name.to_owned())
                        .or_default() += 1;
                }
            }
        }
        if let Some(by_main_thread) = exec {
            self.start_over(by_main_thread, progress)?;
        }
        self.locate(false);
        if self.trampoline != self.stacks.trampoline()
            && let Some(address) = self.stacks.trampoline()
        {
            self.trampoline = Some(address);
            self.probes.set_trampoline(address)?;
        }
        Ok(())
    }

    /// Locates the stacks that have arrived. If the target has mapped something for that, the kernel
    /// side gets tables for it.
    fn locate(&mut self, now: bool) {
        if self.stacks.locate(self.process.pid(), now) {
            self.update_tables();
        }
    }

    fn note_others(&mut self) {
        if let Subject::Heap(heap) = &self.subject {
            heap.note_others(&mut self.losses, &mut self.notes);
        }
    }

    /// Whether a new program's allocator is looked for.
    fn is_searching(&self) -> bool {
        matches!(&self.subject, Subject::Heap(heap) if heap.searching.is_some())
    }

    /// Sums as of now, for the status.
    fn totals_now(&mut self) -> Result<Totals> {
        Ok(match &mut self.subject {
            Subject::Heap(_) => self.maps.totals(self.space)?.totals,
            Subject::Growth(growth) => {
                growth
                    .glance(&self.maps, &self.process, self.space, now()?)?
                    .totals
            }
        })
    }

    /// What is there as of `now`; the final one once nothing is recorded any more.
    fn snapshot(
        &mut self,
        min_age: Option<Duration>,
        now: u64,
        is_final: bool,
    ) -> Result<Snapshot> {
        let space = self.space;
        match (&mut self.subject, min_age) {
            (Subject::Heap(_), None) => self.maps.totals(space),
            (Subject::Heap(_), Some(min_age)) => {
                let ages = self.ages(min_age, now);
                self.maps.blocks(space, ages)
            }
            (Subject::Growth(growth), min_age) => {
                let age = (min_age.unwrap_or_default(), now);
                growth.look(&self.maps, &self.process, space, is_final, age)
            }
        }
    }

    fn header(&self) -> Header {
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
        let reading = self.meter.as_ref().map(Meter::reading);
        let reading = reading.unwrap_or_default();
        notes.extend(
            reading
                .failure
                .map(|why| format!("what the recording costs is not known: {why}")),
        );
        let governed = self.governed.as_ref();
        Header {
            target: self.target.clone(),
            allocator: self.allocator(),
            growth: growth.map(|growth| growth.describe()),
            sampling: governed.map_or(self.sampling, |it| it.sampling(self.sampling)),
            overhead: match growth {
                Some(growth) => growth.overhead(),
                None => governed.map_or(reading.overall, Governed::overall),
            },
            budget: governed.map(Governed::account),
            duration: self.began.elapsed(),
            losses,
            notes,
        }
    }

    fn profile(&mut self, min_age: Option<Duration>, top: usize) -> Result<Profile> {
        self.locate(true);
        let mut snapshot = self.snapshot(min_age, now()?, false)?;
        snapshot.unbalanced = 0; // the target runs on while the maps are read
        Ok(profile(
            self.header(),
            &snapshot,
            &self.stacks,
            &mut self.names,
            top,
        ))
    }

    /// Which live blocks count, as of a moment.
    fn ages(&self, min: Duration, now: u64) -> Ages {
        Ages {
            now,
            min,
            unseen: self.governed.as_ref().and_then(Governed::unseen),
        }
    }

    /// Waits until the last probe is gone. A process that ends while one of its threads removes a
    /// probe leaves that probe in the target: the kernel gives up half-way.
    pub fn wait_for_detach(mut self, progress: &mut Progress) {
        progress.waiting("removing the probes");
        self.probes.wait_for_detach();
        progress.clear();
    }

    /// Stops recording, starts taking the probes away, and makes the final profile.
    ///
    /// # Errors
    ///
    /// If the maps cannot be read.
    pub fn finish(&mut self, min_age: Duration) -> Result<Profile> {
        if let Some(meter) = &mut self.meter {
            meter.end();
        }
        self.overhead_now();
        let stopped = now()?;
        self.probes.stop()?;
        let duration = self.began.elapsed();
        let placed = self.probes.take();
        self.probes.detach_in_background(placed);
        if let Some(meter) = &mut self.meter {
            meter.stop(); // of a very short recording it may still measure traps
        }
        if let Some(governed) = &mut self.governed {
            governed.look()?;
        }
        self.drain(&mut Progress::new(true))?;
        self.locate(true);
        if let Subject::Heap(heap) = &mut self.subject
            && heap.searching.take().is_some()
        {
            *self.losses.entry(EXEC_GAP.name.to_owned()).or_default() += 1;
            self.notes.push(
                "the new program's allocator was not found before the recording ended".to_owned(),
            );
        }
        let snapshot = self.snapshot(Some(min_age), stopped, true)?;
        // Only now: what was still in the ring buffer may have added losses and notes.
        let header = Header {
            duration,
            ..self.header()
        };
        Ok(profile(
            header,
            &snapshot,
            &self.stacks,
            &mut self.names,
            usize::MAX,
        ))
    }
}

/// Why the guard stops, and what to do instead.
fn too_much(config: &Config) -> String {
    let instead = match config.sample_bytes {
        0 => "record a sample with `--sample-bytes 512KiB`",
        _ => "record a smaller sample with a larger `--sample-bytes`",
    };
    format!(
        "recording has stopped by itself: for 10 s the probes have taken more than 80 % of the \
         process's CPU time; {instead}, or insist with `--no-guard`"
    )
}

/// Fails where this kernel's probes would kill the target.
fn refuse_danger(pid: u32) -> Result<()> {
    danger::danger(pid).map_or(Ok(()), |danger| Err(danger.into()))
}

/// Watches an object that keeps its file descriptor open as long as it lives.
fn watch<T: AsFd + AsRawFd>(object: T) -> std::io::Result<AsyncFd<T>> {
    // SAFETY: all of ours own their descriptor and return no other one later.
    unsafe { AsyncFd::register_with_interest(object, Interest::READABLE) }
        .map_err(std::io::Error::from)
}
