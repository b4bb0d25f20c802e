//! The beginning of a recording: everything is put in place, then it counts.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use aya::sys::{Stats, enable_stats};
use tokio::signal::unix::{SignalKind, signal};

use super::budget::Governed;
use super::growth::Growth;
use super::heap::{self, Heap};
use super::tables::TableErrors;
use super::{Session, Subject, watch};
use crate::cli::{Config, Mode};
use crate::overhead::{self, Calibration, Gauge, Meter};
use crate::probe::growth::Pages;
use crate::probe::{Limits, Probes};
use crate::record::command::Command;
use crate::snapshot::{Maps, Stacks};
use crate::symbolize::{Names, Sampling};
use crate::target::{DebugFiles, Process};
use crate::unwind::Unwinder;

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
        let mut command = command;
        let heap = match config.mode {
            Mode::Heap => Some(Heap::find(&process, command.as_deref_mut())?),
            Mode::Growth => None,
        };
        let pages = heap.is_none().then(|| Pages::draw(config.sample_pages));
        let limits = Limits {
            max_live: config.max_live,
            min_size: config.min_size,
            max_size: config.max_size,
            sample_bytes: config.sample_bytes,
            pages,
            changing: config.max_overhead.is_some(),
        };
        let mut probes = Probes::load(&process, limits, config.verbose)?;
        let maps = Maps::take(probes.ebpf())?;
        let events = watch(probes.events()?).context("failed to watch the ring buffer")?;
        if config.verbose {
            log_from_kernel(&mut probes)?;
        }
        let mut subject = match (heap, pages) {
            (None, Some(pages)) => {
                Subject::Growth(Box::new(Growth::load(&mut probes, &process, pages)?))
            }
            (heap, _) => Subject::Heap(Box::new(heap.context("there is nothing to record")?)),
        };
        let mut stacks = Stacks::new(debug_files, matches!(subject, Subject::Heap(_)));
        stacks.refresh(process.pid());
        let mut unwinder = Unwinder::new(probes.unwind_tables()?);
        // While the kernel verifies the programs, the tables can be made.
        std::thread::scope(|scope| {
            let tables = scope.spawn(|| unwinder.refresh(process.pid(), 0, stacks.mappings()));
            let placed = match &mut subject {
                Subject::Heap(heap) => probes.attach(&process, &heap.allocator, &heap.points),
                Subject::Growth(growth) => growth.attach(&mut probes, &process),
            };
            let made = tables.join();
            placed.and(made.unwrap_or_else(|_| Err(anyhow!("a thread that makes tables panicked"))))
        })?;
        unwinder.log_size();
        let (mut governed, mut meter) = (None, None);
        if let Subject::Heap(heap) = &subject {
            probes.describe(&process, &heap.allocator)?;
            let gauge = Gauge::new(process.pid(), probes.programs()?, probes.calls()?);
            let calibration = heap.calibration(&probes);
            match config.max_overhead {
                Some(budget) => governed = Some(govern(budget, config, gauge, calibration)?),
                None => meter = Some((gauge, calibration)),
            }
        }
        let began = Instant::now();
        if let Some(governed) = &mut governed {
            governed.begin()?;
        }
        probes.record(true)?;
        if let Subject::Growth(growth) = &mut subject {
            growth.begin(&process);
        }
        if let Some(command) = command {
            command.release()?;
        }
        let meter = meter.map(|(gauge, calibration)| Meter::start(gauge, calibration));
        let mut session = Self {
            target: process.info(),
            sampling: Sampling::of(config.sample_bytes),
            process,
            subject,
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
            interrupt,
            terminate,
            losses: BTreeMap::new(),
            notes: Vec::new(),
        };
        session.note_others();
        heap::note_filters(config, &mut session.notes);
        Ok(session)
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
