//! The beginning of a recording: everything is put in place, then it counts.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use tokio::signal::unix::{SignalKind, signal};

use super::budget::Governed;
use super::death::Deaths;
use super::growth::Growth;
use super::heap::{self, Heap};
use super::inbox::Inbox;
use super::late::Look;
use super::many::Tree;
use super::mappings::Mapped;
use super::members::{Member, Members};
use super::memory::Memory;
use super::tables::TableErrors;
use super::{Session, Subject, watch};
use crate::analyze::growth::History;
use crate::cli::{Config, Mode};
use crate::overhead::{self, Calibration, CpuTime, Gauge, Meter};
use crate::probe::growth::Pages;
use crate::probe::{Limits, Probes};
use crate::record::command::Command;
use crate::record::fate::Fate;
use crate::record::progress::Progress;
use crate::snapshot::{Maps, Stacks, Totals, now};
use crate::symbolize::{Choice, Names, Sampling};
use crate::target::{DebugFiles, Library, Process};
use crate::unwind::Unwinder;

/// What is to be recorded.
pub struct Wanted {
    /// These processes; at least one.
    pub processes: Vec<Process>,
    /// And what they fork and execute.
    pub follow: bool,
    /// What is known already that a reader of the report must know.
    pub notes: Vec<String>,
    /// Finds the processes anew: others may have come that none of these has forked, as `docker exec` makes
    /// them.
    pub again: Option<Again>,
    /// What of it is shown.
    pub choice: Choice,
}

/// See [`Wanted::again`].
pub type Again = Box<dyn Fn() -> Vec<Process>>;

/// A process as it was found, and its allocators, if those are what is recorded.
type Found = (Process, Vec<usize>);

impl Session {
    /// Whether one of the processes could be attached to, as far as its files tell. Nothing is attached or
    /// loaded.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn check(processes: &[Process], config: &Config) -> Result<()> {
        if config.mode == Mode::Growth {
            return Ok(());
        }
        let mut refusal = Ok(());
        for process in processes {
            match Heap::default().find(process, None) {
                Ok(_) => return Ok(()),
                Err(error) => refusal = refusal.and(Err(error)),
            }
        }
        refusal
    }

    /// Attaches to processes, and to what they will fork if that is wanted; a command is let run once
    /// everything is in place.
    ///
    /// # Errors
    ///
    /// If there is no allocator, or a probe cannot be placed. Nothing stays behind then.
    pub fn attach(wanted: Wanted, command: Option<&mut Command>, config: &Config) -> Result<Self> {
        let start = Instant::now();
        // From here on a signal ends the recording, not leakprobe.
        let interrupt = signal(SignalKind::interrupt()).context("failed to handle SIGINT")?;
        let terminate = signal(SignalKind::terminate()).context("failed to handle SIGTERM")?;
        let debug_files = DebugFiles::new(config.debug_dirs.clone(), config.inlines)?;
        let mut command = command;
        let Wanted {
            processes,
            follow,
            mut notes,
            again,
            choice,
        } = wanted;
        let many = follow || processes.len() > 1;
        let mut heap = Heap::default();
        let looked = now()?;
        let found = match config.mode {
            Mode::Heap => find_all(&mut heap, processes, command.as_deref_mut(), &mut notes)?,
            Mode::Growth => processes.into_iter().map(|it| (it, Vec::new())).collect(),
        };
        let (first, _) = found.first().context("there is no process to record")?;
        let mut fate = Fate::default();
        let pages = (config.mode == Mode::Growth).then(|| Pages::draw(config.sample_pages));
        let limits = Limits {
            max_live: config.max_live,
            min_size: config.min_size,
            max_size: config.max_size,
            sample_bytes: config.sample_bytes,
            pages,
            changing: config.max_overhead.is_some(),
            many,
            follow,
        };
        let mut probes = Probes::load(first, limits, config.verbose)?;
        if config.mode == Mode::Heap {
            probes.guard()?;
        }
        let maps = Maps::take(probes.ebpf())?;
        let events = Inbox::open(probes.events()?)?;
        if config.verbose {
            log_from_kernel(&mut probes)?;
        }
        let mut subject = match pages {
            Some(pages) => Subject::Growth(Box::new(Growth::load(&mut probes, first, pages)?)),
            None => Subject::Heap(Box::new(heap)),
        };
        let library = Library::new(debug_files);
        let mut stacks = Stacks::new(library, matches!(subject, Subject::Heap(_)));
        let mut unwinder = Unwinder::new(probes.unwind_tables()?);
        let cpu = CpuTime::default();
        let mut members = Vec::new();
        for (process, allocators) in found {
            let space = match many {
                true => members.len() as u64 + 1,
                false => 0,
            };
            probes.take_in(&process, space)?;
            stacks.enter(space, process.pid());
            stacks.refresh(space);
            cpu.add(process.pid());
            let mut member = Member::found(process, allocators, looked, space);
            member.cgroup = fate.watch(member.pid());
            members.push(member);
        }
        // While the kernel verifies the programs, the tables can be made.
        std::thread::scope(|scope| {
            let tables = scope.spawn(|| {
                members.iter().try_for_each(|member| {
                    let place = (member.space, member.program);
                    let mappings = stacks.mappings(member.space);
                    mappings.map_or(Ok(()), |it| unwinder.refresh(member.pid(), place, it))
                })
            });
            let placed = place_all(&mut probes, &mut subject, &members);
            let made = tables.join();
            placed.and(made.unwrap_or_else(|_| Err(anyhow!("a thread that makes tables panicked"))))
        })?;
        unwinder.log_size();
        let tree = Tree::new(members.iter());
        let members = Members::new(many, members).context("there is no process to record")?;
        let mut session = Self {
            members,
            tree,
            fate,
            memory: Memory::default(),
            deaths: Deaths::default(),
            snapshot_failed: false,
            sampling: Sampling::of(config.sample_bytes),
            subject,
            probes,
            events,
            maps,
            stacks,
            mapped: None,
            unwinder,
            table_errors: TableErrors::default(),
            next_look: Instant::now(),
            names: Names::new(config.inlines),
            governed: None,
            meter: None,
            cpu,
            began: Instant::now(),
            began_at: u64::MAX,
            attach_time: Duration::ZERO,
            again,
            interrupt,
            terminate,
            losses: BTreeMap::new(),
            notes,
            history: History::default(),
            totals: Totals::default(),
            next_history: Instant::now(),
            choice,
        };
        if config.mappings && matches!(session.subject, Subject::Heap(_)) {
            match many {
                false => session.mapped = Some(Mapped::default()),
                true => session.mappings_not_probed(),
            }
            session.probe_mappings();
        }
        if let Subject::Heap(heap) = &session.subject {
            heap.note_gaps(&mut session.losses, &mut session.notes);
        }
        heap::note_filters(config, &mut session.notes);
        let mut meter = None;
        if let Subject::Heap(heap) = &session.subject {
            let (probes, system_calls) = (&mut session.probes, session.mapped.is_some());
            let calibration = heap.calibration(probes, system_calls);
            let gauge = Gauge::new(session.cpu.clone(), probes.programs()?, probes.calls()?);
            match config.max_overhead {
                Some(budget) => {
                    session.governed = Some(govern(budget, config, gauge, calibration)?)
                }
                None => meter = Some((gauge, calibration)),
            }
        }
        // What was forked meanwhile is taken in before anything counts.
        session.drain(&mut Progress::new(true))?;
        while session.take_in_others()? > 0 {}
        session.begin()?;
        session.attach_time = start.elapsed();
        if let Some(command) = command {
            while command.is_loading()? {
                session.look_for_allocators(Look::Loading, &mut Progress::new(true))?;
            }
            command.release()?;
        }
        session.meter = meter.map(|(gauge, calibration)| Meter::start(gauge, calibration));
        Ok(session)
    }

    /// From now on it counts.
    fn begin(&mut self) -> Result<()> {
        (self.began, self.began_at) = (Instant::now(), now()?);
        if let Some(governed) = &mut self.governed {
            governed.begin()?;
        }
        self.probes.record(true)?;
        self.begin_mappings();
        if let (
            Subject::Growth(growth),
            Some(Member {
                process: Some(process),
                ..
            }),
        ) = (&mut self.subject, self.members.first())
        {
            growth.begin(process);
        }
        self.begin_account();
        Ok(())
    }
}

/// Finds the allocators of each process. One of many may have none.
fn find_all(
    heap: &mut Heap,
    processes: Vec<Process>,
    mut command: Option<&mut Command>,
    notes: &mut Vec<String>,
) -> Result<Vec<Found>> {
    let alone = processes.len() == 1;
    let mut found = Vec::new();
    let mut refusal = None;
    for process in processes {
        match heap.find(&process, command.take()) {
            Ok(allocators) => found.push((process, allocators)),
            Err(error) if alone => return Err(error),
            Err(_) if process.has_ended() => {}
            Err(error) => {
                notes.push(format!(
                    "process {} is not recorded: {error:#}",
                    process.pid()
                ));
                refusal = refusal.or(Some(error));
            }
        }
    }
    match (found.is_empty(), refusal) {
        (true, Some(error)) => Err(error.context("none of the processes can be recorded")),
        (true, None) => bail!("the processes have ended while they were being attached to"),
        (false, _) => Ok(found),
    }
}

/// Attaches to all. One of many may end meanwhile.
fn place_all(probes: &mut Probes, subject: &mut Subject, members: &[Member]) -> Result<()> {
    let many = members.len() > 1;
    for member in members {
        let Some(process) = &member.process else {
            continue;
        };
        let placed = match subject {
            Subject::Growth(growth) => growth.attach(probes, process),
            Subject::Heap(heap) => {
                let allocators = heap.allocators(&member.allocators);
                let described = probes.describe(process, member.space, allocators);
                let mut found = member.allocators.iter().filter_map(|&it| heap.get(it));
                described.and_then(|()| {
                    found.try_for_each(|it| probes.attach(process, &it.allocator, &it.points))
                })
            }
        };
        if let Err(error) = placed
            && !(many && process.has_ended())
        {
            return Err(error);
        }
    }
    Ok(())
}

/// With a budget, the price of a trap has to be known before the first one.
fn govern(
    budget: u32,
    config: &Config,
    mut gauge: Gauge,
    calibration: Calibration,
) -> Result<Governed> {
    // The statistics, which it keeps on, have a price as well.
    let statistics = overhead::keep_statistics().context("no budget can be kept")?;
    gauge.set_price(overhead::price(calibration).context("no budget can be kept")?);
    Ok(Governed::new(
        budget,
        config.sample_bytes,
        gauge,
        statistics,
        calibration.system_calls,
    ))
}

/// Prints the kernel side's log lines through `log`, in a task of their own.
fn log_from_kernel(probes: &mut Probes) -> Result<()> {
    let logger = aya_log::EbpfLogger::init(probes.ebpf())
        .context("failed to set up the log of the kernel side")?;
    let mut logger = watch(logger).context("failed to watch the kernel side's log")?;
    tokio::task::spawn(async move {
        while let Ok(mut guard) = logger.readable_mut().await {
            guard.get_inner_mut().flush();
            guard.clear_ready();
        }
    });
    Ok(())
}
