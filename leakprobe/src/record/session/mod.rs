//! One recording: from the attach to the final profile.

mod attach;
mod budget;
mod call_probes;
mod death;
mod exec;
mod growth;
mod heap;
mod history;
mod inbox;
mod late;
mod many;
mod mappings;
mod members;
mod memory;
mod profile;
mod snapshot;
mod tables;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::Signal;
use tokio::time::{MissedTickBehavior, interval, sleep};

pub use self::attach::{Again, Wanted};
use self::budget::Governed;
use self::death::Deaths;
use self::growth::Growth;
use self::heap::Heap;
use self::inbox::Inbox;
use self::late::{LOOK, Look};
use self::many::Tree;
use self::mappings::Mapped;
use self::members::{Member, Members};
use self::memory::Memory;
use self::tables::TableErrors;
use super::fate::Fate;
use super::files::Files;
use super::progress::Progress;
use super::snapshots::Snapshots;
use crate::analyze::growth::History;
use crate::cli::Config;
use crate::overhead::{CpuTime, Meter};
use crate::probe::{Probes, danger};
use crate::snapshot::counts::UNREADABLE_EVENTS;
use crate::snapshot::{Event, Maps, REFRESH, Stacks, Totals};
use crate::symbolize::{Choice, Names, Profile, Sampling};
use crate::target::{AllocatorInfo, Process, TargetInfo};
use crate::unwind::Unwinder;

/// Seconds after which it is looked whether processes have come that no recorded one has forked.
const OTHERS: u64 = 2;

/// A recording that goes on.
pub struct Session {
    members: Members,
    /// What is kept of many processes.
    tree: Tree,
    subject: Subject,
    sampling: Option<Sampling>,
    probes: Probes,
    events: Inbox,
    maps: Maps,
    stacks: Stacks,
    /// If what the process maps is followed.
    mapped: Option<Mapped>,
    unwinder: Unwinder,
    table_errors: TableErrors,
    /// When to look for allocators that were loaded since, at the earliest.
    next_look: Instant,
    names: Names,
    /// With a budget it measures instead of the meter.
    governed: Option<Governed>,
    meter: Option<Meter>,
    cpu: CpuTime,
    began: Instant,
    /// The same on the clock of the kernel side.
    began_at: u64,
    attach_time: Duration,
    again: Option<Again>,
    interrupt: Signal,
    terminate: Signal,
    losses: BTreeMap<String, u64>,
    notes: Vec<String>,
    fate: Fate,
    memory: Memory,
    deaths: Deaths,
    /// Whether a numbered report could not be written.
    snapshot_failed: bool,
    /// What each stack had live over time, as of when the sums of all, and when it is to be looked at again.
    history: History,
    totals: Totals,
    next_history: Instant,
    choice: Choice,
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
    /// The process, or the first of them.
    pub fn target(&self) -> &TargetInfo {
        &self.members.target
    }

    /// How many processes there are.
    pub fn processes(&self) -> usize {
        self.members.alive().count()
    }

    /// What is probed: what serves the first process, and the others; none in growth mode.
    pub fn allocators(&self) -> (Option<AllocatorInfo>, Vec<AllocatorInfo>) {
        match &self.subject {
            Subject::Heap(heap) => {
                let first = self.members.first().and_then(|it| it.allocators.first());
                let first = first.copied().or((heap.len() > 0).then_some(0));
                let others = match self.members.first() {
                    Some(only) if !self.members.are_many() => heap.infos(&only.allocators, first),
                    _ => heap.infos(&heap.all(), first),
                };
                (heap.info(first), others)
            }
            Subject::Growth(_) => (None, Vec::new()),
        }
    }

    /// What was attached, in words.
    pub fn attached(&self) -> String {
        match &self.subject {
            Subject::Heap(heap) => format!(
                "{} probes on {} functions",
                self.probes.placed(),
                heap.functions()
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
        snapshots: &mut Snapshots,
        files: &mut Files,
        print: &mut Print<'_>,
    ) -> Result<()> {
        let mut ended = self.watch_end()?;
        let mut seconds = interval(Duration::from_secs(1));
        let mut prints = interval(config.interval);
        prints.set_missed_tick_behavior(MissedTickBehavior::Delay);
        prints.tick().await; // the first is at once
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let deadline = config.duration.map(|duration| self.began + duration);
        loop {
            let deadline = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            let next_search = self.next_search();
            let search = async {
                match next_search {
                    Some(pause) => sleep(pause).await,
                    None => std::future::pending().await,
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
            let history = tokio::time::sleep_until(self.next_history.into());
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
                _ = end(&ended) => {
                    self.drain(progress)?;
                    if let Some(end) = self.end()? {
                        progress.say(&end);
                        return Ok(());
                    }
                    ended = self.watch_end()?;
                }
                () = deadline => return Ok(()),
                () = look => self.keep_budget(progress)?,
                () = search => self.search_allocator(progress)?,
                () = history => self.look_at_stacks()?,
                () = refresh => self.locate(false)?,
                () = snapshots.due() => self.leave_snapshot(config, progress, files)?,
                _ = looks.tick() => self.look_for_allocators(Look::Late, progress)?,
                ready = self.events.ready() => {
                    ready?;
                    self.drain(progress)?;
                    self.tell_of_deaths(config, progress, files)?;
                }
                _ = seconds.tick() => {
                    self.fate.look();
                    self.catch_up_with_tables();
                    if let Some(Member { process: Some(process), .. }) = self.members.first() {
                        self.probes.spare_children(process);
                    }
                    self.bury(config.min_age.unwrap_or_default())?;
                    if self.began.elapsed().as_secs().is_multiple_of(OTHERS) {
                        self.take_in_others()?;
                    }
                    self.locate(false)?;
                    self.follow_memory(self.totals.live_bytes);
                    let (overhead, too_much_of_it) = self.overhead_now();
                    progress.status(self.began.elapsed(), &self.totals, overhead);
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

    /// Watches for the end of the process; of many, of the one that came first.
    fn watch_end(&self) -> Result<Option<AsyncFd<OwnedFd>>> {
        let processes = self.members.alive().filter_map(|it| it.process.as_ref());
        let first = processes.map(Process::pidfd).next();
        first
            .map(|pidfd| watch(pidfd.try_clone_to_owned()?))
            .transpose()
            .context("failed to watch for the end of the target")
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
        while let Some(records) = self.events.take() {
            for record in records.iter() {
                self.note_record(record, progress)?;
            }
        }
        self.locate(false)
    }

    /// Takes in one record.
    fn note_record(&mut self, record: &[u8], progress: &mut Progress) -> Result<()> {
        match Event::parse(record) {
            Some(Event::Stack {
                key,
                space,
                addresses,
                end,
            }) => self.stacks.add(key, space, addresses, end),
            Some(Event::Exec {
                space,
                by_main_thread,
                before,
            }) if self.members.are_many() => self.exec(space, &before, by_main_thread)?,
            Some(Event::Exec {
                space,
                by_main_thread,
                before,
            }) => self.start_over(before.space, space, by_main_thread, progress)?,
            Some(Event::Mapping(event)) => self.see_mapping(&event),
            Some(Event::Fork(child)) => self.fork(&child)?,
            Some(Event::Exit {
                process,
                status,
                time,
            }) => self.exit(&process, status, time),
            None => {
                *self
                    .losses
                    .entry(UNREADABLE_EVENTS.name.to_owned())
                    .or_default() += 1;
            }
        }
        Ok(())
    }

    /// Locates the stacks that have arrived. If processes have mapped something for that, the kernel
    /// side gets tables for it.
    fn locate(&mut self, now: bool) -> Result<()> {
        for space in self.stacks.locate(now) {
            self.update_tables(space);
            let trampoline = self.stacks.trampoline(space);
            if let Some(member) = self.members.get_mut(space)
                && let Some(address) = trampoline
                && member.trampoline != trampoline
            {
                member.trampoline = trampoline;
                self.probes.set_trampoline(space, address)?;
            }
        }
        Ok(())
    }

    /// Whether a new program's allocator is looked for.
    fn is_searching(&self) -> bool {
        self.members.alive().any(|it| it.searching.is_some())
    }

    /// The only process's address space, or the first one's.
    fn space(&self) -> u64 {
        self.members.first().map_or(0, |member| member.space)
    }

    /// Waits until the last probe is gone. A process that ends while one of its threads removes a
    /// probe leaves that probe in the target: the kernel gives up half-way.
    pub fn wait_for_detach(mut self, progress: &mut Progress) {
        progress.waiting("removing the probes");
        self.probes.wait_for_detach();
        progress.clear();
    }
}

/// Waits for the end of a process; for ever, if there is none to wait for.
async fn end(pidfd: &Option<AsyncFd<OwnedFd>>) {
    match pidfd {
        Some(pidfd) => drop(pidfd.readable().await),
        None => std::future::pending().await,
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
