//! What a recording does when a process ends: the cause goes into the reports, and where many processes are
//! recorded, one that was killed or has crashed gets a report of its own at once. The others go on.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::Session;
use super::members::Member;
use crate::cli::Config;
use crate::record::fate::Ending;
use crate::record::files::Files;
use crate::record::progress::Progress;
use crate::report::{self, escape};
use crate::snapshot::{Cause, Death};

/// Between two reports of deaths. What dies in between is in the list of processes of the next report.
const PAUSE: Duration = Duration::from_secs(10);

/// The deaths that are to be told.
#[derive(Debug, Default)]
pub(super) struct Deaths {
    /// Of the process that the report is named after.
    of_target: Option<Death>,
    /// Of another one that did not end in good order, and its name; not told yet.
    of_other: Option<(Death, String)>,
    /// When the last one was told.
    told: Option<Instant>,
}

impl Deaths {
    /// Of the process that the report is named after.
    pub(super) fn of_target(&self) -> Option<&Death> {
        self.of_target.as_ref()
    }
}

impl Session {
    /// The only process has ended, with this status if it is known. What is to be said of it.
    pub(super) fn has_died(&mut self, ending: Ending) -> String {
        let group = self.members.first().and_then(|member| member.cgroup);
        let death = Death {
            pid: self.members.target.pid,
            at: self.began.elapsed(),
            cause: self.fate.cause(ending, group),
        };
        let cause = report::death::cause(&death.cause);
        let sentence = format!("process {} has ended: {cause}", death.pid);
        self.deaths.of_target = Some(death);
        sentence
    }

    /// What is to be said when the last of many has ended.
    pub(super) fn all_have_died(&self) -> String {
        let how = self.deaths.of_target.as_ref().map_or(String::new(), |it| {
            format!("; process {}: {}", it.pid, report::death::cause(&it.cause))
        });
        format!("all processes have ended{how}")
    }

    /// One of many has ended, `time` on the clock of the kernel side.
    pub(super) fn fell(&mut self, member: &Member, ending: Ending, time: u64) -> Cause {
        let cause = self.fate.cause(ending, member.cgroup);
        let info = &member.info;
        let death = Death {
            pid: info.pid,
            at: Duration::from_nanos(time.saturating_sub(self.began_at)),
            cause: cause.clone(),
        };
        if info.pid == self.members.target.pid {
            self.deaths.of_target = Some(death);
        } else if report::death::is_violent(&cause) && self.deaths.of_other.is_none() {
            self.deaths.of_other = Some((death, info.comm.clone()));
        }
        cause
    }

    /// Leaves the reports of a death among many processes, unless there was one just now.
    ///
    /// # Errors
    ///
    /// If the maps cannot be read.
    pub(super) fn tell_of_deaths(
        &mut self,
        config: &Config,
        progress: &mut Progress,
        files: &mut Files,
    ) -> Result<()> {
        let Some((death, comm)) = self.deaths.of_other.take() else {
            return Ok(());
        };
        let cause = report::death::cause(&death.cause);
        let name = escape::visible(&comm).into_owned();
        progress.say(&format!(
            "process {} ({name}) has ended: {cause}",
            death.pid
        ));
        let is_pause = self.deaths.told.is_some_and(|at| at.elapsed() < PAUSE);
        if is_pause || !files.are_for_deaths() {
            return Ok(());
        }
        let mut profile = self.whole(config.min_age, progress)?;
        profile.death = Some(death);
        let written =
            files.write_of_death(&profile, &comm, config, &mut |path| progress.wrote(path));
        self.deaths.told = Some(Instant::now());
        self.note_failure("a report of a death", written, progress);
        Ok(())
    }
}
