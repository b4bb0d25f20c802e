//! One recording: from the attach to the final profile.

mod budget;
mod exec;
mod tables;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use aya::maps::{MapData, RingBuf};
use aya::sys::{Stats, enable_stats};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval, sleep};

use self::budget::Governed;
use self::exec::{SEARCH, Search};
use self::tables::TableErrors;
use super::command::Command;
use super::progress::Progress;
use crate::cli::Config;
use crate::overhead::{self, Calibration, Gauge, Meter};
use crate::probe::plan::Point;
use crate::probe::{Limits, Probes, danger, functions, plan};
use crate::snapshot::counts::{
    EXEC_GAP, MODULES_NOT_UNWOUND, OPERATORS_NOT_PROBED, UNREADABLE_EVENTS,
};
use crate::snapshot::{Ages, Event, Maps, REFRESH, Stacks, now};
use crate::symbolize::{Header, Names, Profile, Sampling, profile};
use crate::target::{Allocator, AllocatorInfo, DebugFiles, Process, TargetInfo};
use crate::unwind::Unwinder;

/// A recording that goes on.
pub struct Session {
    process: Process,
    target: TargetInfo,
    allocator: Allocator,
    sampling: Option<Sampling>,
    points: Vec<Point>,
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
    searching: Option<Search>,
    interrupt: Signal,
    terminate: Signal,
    losses: BTreeMap<String, u64>,
    notes: Vec<String>,
}

/// How an interval's profile is printed.
pub type Print<'a> = dyn FnMut(&Profile, &Config) -> Result<()> + 'a;

impl Session {
    /// Attaches to a process; a command is let run once everything is in place.
    ///
    /// # Errors
    ///
    /// If there is no allocator, or a probe cannot be placed. Nothing stays behind then.
    pub fn attach(
        process: Process,
        command: Option<&mut Command>,
        config: &Config,
    ) -> Result<Self> {
        let start = Instant::now();
        // From here on a signal ends the recording, not leakprobe.
        let interrupt = signal(SignalKind::interrupt()).context("failed to handle SIGINT")?;
        let terminate = signal(SignalKind::terminate()).context("failed to handle SIGTERM")?;
        let debug_files = DebugFiles::new(config.debug_dirs.clone(), config.inlines)?;
        let names = functions::names();
        let mut command = command;
        let allocator = match &mut command {
            None => Allocator::find(&process, &names)?,
            Some(command) => command.run_to_allocator(&process, &names)?,
        };
        refuse_danger(process.pid())?;
        let points = plan::points(&allocator)?;
        let limits = Limits {
            max_live: config.max_live,
            min_size: config.min_size,
            max_size: config.max_size,
            sample_bytes: config.sample_bytes,
            changing: config.max_overhead.is_some(),
        };
        let mut probes = Probes::load(&process, limits, config.verbose)?;
        let maps = Maps::take(probes.ebpf())?;
        let events = watch(probes.events()?).context("failed to watch the ring buffer")?;
        if config.verbose {
            log_from_kernel(&mut probes)?;
        }
        let mut stacks = Stacks::new(debug_files);
        stacks.refresh(process.pid());
        let mut unwinder = Unwinder::new(probes.unwind_tables()?);
        // While the kernel verifies the programs, the tables can be made.
        std::thread::scope(|scope| {
            let tables = scope.spawn(|| unwinder.refresh(process.pid(), 0, stacks.mappings()));
            let placed = probes.attach(&process, &allocator, &points);
            let made = tables.join();
            placed.and(made.unwrap_or_else(|_| Err(anyhow!("a thread that makes tables panicked"))))
        })?;
        unwinder.log_size();
        probes.describe(&process, &allocator)?;
        let gauge = Gauge::new(process.pid(), probes.programs()?, probes.calls()?);
        let calibration = Calibration {
            way: probes.way(),
            cost: plan::usual_cost(&points),
        };
        let (mut governed, meter) = match config.max_overhead {
            Some(budget) => (Some(govern(budget, config, gauge, calibration)?), None),
            None => (None, Some((gauge, calibration))),
        };
        let began = Instant::now();
        if let Some(governed) = &mut governed {
            governed.begin()?;
        }
        probes.record(true)?;
        if let Some(command) = command {
            command.release()?;
        }
        let meter = meter.map(|(gauge, calibration)| Meter::start(gauge, calibration));
        let mut session = Self {
            target: process.info(),
            sampling: Sampling::of(config.sample_bytes),
            points,
            process,
            allocator,
            probes,
            events,
            maps,
            stacks,
            unwinder,
            table_errors: TableErrors::default(),
            names: Names::new(config.inlines),
            governed,
            meter,
            space: 0,
            began,
            attach_time: start.elapsed(),
            trampoline: None,
            searching: None,
            interrupt,
            terminate,
            losses: BTreeMap::new(),
            notes: Vec::new(),
        };
        session.note_others();
        session.note_filters(config);
        Ok(session)
    }

    /// The process.
    pub fn target(&self) -> &TargetInfo {
        &self.target
    }

    /// What is probed.
    pub fn allocator(&self) -> AllocatorInfo {
        self.allocator.info()
    }

    /// Probes in place.
    pub fn probes(&self) -> usize {
        self.probes.placed()
    }

    /// Functions that are probed.
    pub fn functions(&self) -> usize {
        self.points.len()
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
                match self.searching {
                    Some(_) => sleep(SEARCH).await,
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
                    let totals = self.maps.totals(self.space)?.totals;
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
        if self.allocator.has_operator_new() {
            self.losses.insert(OPERATORS_NOT_PROBED.name.to_owned(), 1);
        }
        for path in self.allocator.others() {
            self.notes
                .push(format!("`{path}` defines malloc too, and is not probed"));
        }
    }

    /// A reader of the report must know what was left out on request.
    fn note_filters(&mut self, config: &Config) {
        if config.min_size > 0 || config.max_size < u64::MAX {
            let upper = match config.max_size {
                u64::MAX => String::new(),
                max => format!(" and at most {max}"),
            };
            self.notes.push(format!(
                "only blocks of at least {}{upper} bytes were recorded",
                config.min_size
            ));
        }
        if let Some(min_age) = config.min_age {
            let age = humantime::format_duration(min_age);
            self.notes
                .push(format!("live figures leave out blocks younger than {age}"));
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
            allocator: self.allocator.info(),
            sampling: governed.map_or(self.sampling, |it| it.sampling(self.sampling)),
            overhead: governed.map_or(reading.overall, Governed::overall),
            budget: governed.map(Governed::account),
            duration: self.began.elapsed(),
            losses,
            notes,
        }
    }

    fn profile(&mut self, min_age: Option<Duration>, top: usize) -> Result<Profile> {
        self.locate(true);
        let mut snapshot = match min_age {
            None => self.maps.totals(self.space)?,
            Some(min_age) => self.maps.blocks(self.space, self.ages(min_age, now()?))?,
        };
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
        if self.searching.take().is_some() {
            *self.losses.entry(EXEC_GAP.name.to_owned()).or_default() += 1;
            self.notes.push(
                "the new program's allocator was not found before the recording ended".to_owned(),
            );
        }
        // Only now: what was still in the ring buffer may have added losses and notes.
        let header = Header {
            duration,
            ..self.header()
        };
        let snapshot = self.maps.blocks(self.space, self.ages(min_age, stopped))?;
        Ok(profile(
            header,
            &snapshot,
            &self.stacks,
            &mut self.names,
            usize::MAX,
        ))
    }
}

/// With a budget, the price of a trap has to be known before the first one.
fn govern(
    budget: u32,
    config: &Config,
    mut gauge: Gauge,
    calibration: Calibration,
) -> Result<Governed> {
    // The statistics, which it keeps on, have a price as well.
    let statistics = enable_stats(Stats::RunTime)
        .context("failed to switch on the kernel's statistics of BPF programs")?;
    gauge.set_price(overhead::price(calibration).context("no budget can be kept")?);
    Ok(Governed::new(
        budget,
        config.sample_bytes,
        gauge,
        statistics,
    ))
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
