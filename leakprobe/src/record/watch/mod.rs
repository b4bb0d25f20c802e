//! `--when`: watches processes from outside until a condition holds. Nothing is attached, loaded or written
//! anywhere: two small files of /proc and those of the cgroup are read, ten times a second.

mod trigger;

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

use self::trigger::{Level, Reading, Trigger};
use super::progress::Progress;
use super::session::Wanted;
use super::snapshots::Snapshots;
use crate::cli::condition::{Condition, Limit};
use crate::report::{death, escape, human};
use crate::snapshot::Cause;
use crate::target::{Cgroup, Process, Usage};

/// Between looks. One takes some 20 µs.
const LOOK: Duration = Duration::from_millis(100);

/// Between looks for processes that have come since, where that is wanted.
const OTHERS: Duration = Duration::from_secs(2);

/// Waits until one of the conditions holds for one of the processes, and says for the report what that was.
/// Those that are there then are wanted. `None` if leakprobe was asked to stop before.
///
/// # Errors
///
/// If a condition cannot be watched, or all the processes end before one holds.
pub async fn wait(
    wanted: &mut Wanted,
    conditions: &[Condition],
    snapshots: &mut Snapshots,
    progress: &mut Progress,
) -> Result<Option<String>> {
    let mut interrupt = signal(SignalKind::interrupt()).context("failed to handle SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("failed to handle SIGTERM")?;
    let began = Instant::now();
    let processes = std::mem::take(&mut wanted.processes).into_iter();
    let mut watched = processes
        .map(|process| Watched::new(process, conditions))
        .collect::<Result<Vec<_>>>()?;
    for process in &mut watched {
        process.look(began)?;
        progress.say(&process.announce());
    }
    let mut looked = began;
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut shown = began;
    loop {
        tokio::select! {
            biased;
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            () = snapshots.due() => {
                progress.say("no report was left: nothing is recorded before a condition of --when holds");
            }
            _ = looks.tick() => {}
        }
        let (mut ended, mut held) = (None, None);
        for (index, process) in watched.iter_mut().enumerate() {
            match process.look(began)? {
                Look::Holds(why) => held = held.or(Some(why)),
                Look::Ended => ended = Some(index),
                Look::GoesOn => {}
            }
        }
        if let Some(why) = held {
            progress.say(&why.said);
            let processes = watched.into_iter().map(|it| it.process);
            wanted.processes = processes.filter(|it| !it.has_ended()).collect();
            return Ok(Some(why.noted));
        }
        if let Some(index) = ended {
            let sentence = watched.remove(index).epitaph();
            if watched.is_empty() {
                bail!("{sentence}");
            }
            progress.say(&sentence);
        }
        if let Some(again) = &wanted.again
            && looked.elapsed() >= OTHERS
        {
            looked = Instant::now();
            for process in again() {
                let is_new = watched.iter().all(|it| it.process.pid() != process.pid());
                // One that cannot be watched any more has ended, or will be seen at the attach.
                if is_new && let Ok(process) = Watched::new(process, conditions) {
                    progress.say(&process.announce());
                    watched.push(process);
                }
            }
        }
        if shown.elapsed() >= Duration::from_secs(1) {
            shown = Instant::now();
            let elapsed = human::duration(began.elapsed().as_nanos() as u64);
            let levels: Vec<_> = watched.iter().map(Watched::levels).collect();
            progress.line(&format!("{elapsed}  {}", levels.join("; ")));
        }
    }
    progress.say("no condition of --when held until now: nothing was recorded");
    Ok(None)
}

/// A process, and how far it is.
struct Watched {
    process: Process,
    /// Only where a condition is about it.
    cgroup: Option<Cgroup>,
    triggers: Vec<(Trigger, Option<Level>)>,
}

/// What a look has shown.
enum Look {
    GoesOn,
    Holds(Why),
    Ended,
}

/// Which condition holds, with what value.
struct Why {
    /// On stderr.
    said: String,
    /// In the report.
    noted: String,
}

impl Watched {
    fn new(process: Process, conditions: &[Condition]) -> Result<Self> {
        let mut watched = Self {
            process,
            cgroup: None,
            triggers: conditions
                .iter()
                .map(|condition| (Trigger::new(condition.clone()), None))
                .collect(),
        };
        for condition in conditions {
            watched.find_cgroup(condition)?;
        }
        Ok(watched)
    }

    /// Finds what a condition needs of a cgroup, if it does.
    fn find_cgroup(&mut self, condition: &Condition) -> Result<()> {
        if !matches!(condition.limit, Limit::Cgroup(_) | Limit::CgroupShare(_)) {
            return Ok(());
        }
        let cannot = || format!("`--when {condition}` cannot be watched");
        let cgroup = Cgroup::of(self.process.pid()).with_context(cannot)?;
        let memory = cgroup.memory().with_context(cannot)?;
        if matches!(condition.limit, Limit::CgroupShare(_)) && memory.limit.is_none() {
            bail!(
                "`--when {condition}` cannot hold: the cgroup of process {} has no memory limit; write an \
                 amount instead, such as 'cgroup>2GiB'",
                self.process.pid()
            );
        }
        self.cgroup = Some(cgroup);
        Ok(())
    }

    fn look(&mut self, began: Instant) -> Result<Look> {
        let usage = Usage::read(self.process.pid());
        // Asked after reading: the PID has meant this process until now, or nothing is known.
        if self.process.has_ended() {
            return Ok(Look::Ended);
        }
        let Usage { rss, faulted, .. } = usage?;
        let mut cgroup = self.cgroup.as_ref().and_then(|it| it.memory().ok());
        if self.cgroup.is_some() && cgroup.is_none() {
            // It may have been moved to another one.
            self.cgroup = Cgroup::of(self.process.pid()).ok().or(self.cgroup.take());
            cgroup = self.cgroup.as_ref().and_then(|it| it.memory().ok());
        }
        let reading = Reading {
            at: began.elapsed(),
            rss,
            faulted,
            cgroup,
        };
        for (trigger, level) in &mut self.triggers {
            *level = trigger.look(&reading);
        }
        let held = self.triggers.iter().find_map(|(trigger, level)| {
            let level = level.filter(|level| level.holds())?;
            Some((trigger, trigger.describe(level)))
        });
        Ok(held.map_or(Look::GoesOn, |(trigger, level)| {
            let condition = trigger.condition();
            let after = human::duration(reading.at.as_nanos() as u64);
            let pid = self.process.pid();
            Look::Holds(Why {
                said: format!("{condition} holds for pid {pid} after {after}: {level}; attaching"),
                noted: format!(
                    "attached because `--when {condition}` held: {level}, after watching for {after}, at {}",
                    humantime::format_rfc3339_seconds(SystemTime::now())
                ),
            })
        }))
    }

    /// Who is watched, for what.
    fn announce(&self) -> String {
        let conditions: Vec<_> = self
            .triggers
            .iter()
            .map(|(trigger, _)| trigger.condition().to_string())
            .collect();
        let comm = self.process.info().comm;
        format!(
            "watching {} pid {} until {}; now {}",
            escape::visible(&comm),
            self.process.pid(),
            conditions.join(" or "),
            self.levels()
        )
    }

    /// How far each condition is.
    fn levels(&self) -> String {
        let levels: Vec<_> = self
            .triggers
            .iter()
            .map(|(trigger, level)| match level {
                Some(level) => format!("{} ({})", trigger.describe(*level), trigger.condition()),
                None => format!("not known ({})", trigger.condition()),
            })
            .collect();
        levels.join(", ")
    }

    /// What is said of a process that has ended.
    fn epitaph(&self) -> String {
        let status = self.process.wait_status();
        let cause = status.map_or(Cause::Unknown, |it| Cause::from_wait_status(it, None));
        format!(
            "process {} has ended ({}) before a condition of --when held: nothing was recorded",
            self.process.pid(),
            death::cause(&cause)
        )
    }
}
