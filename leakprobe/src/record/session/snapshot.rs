//! Numbered reports while a recording goes on. What goes wrong with one is told, and is no reason to end the
//! recording.

use std::time::Duration;

use anyhow::Result;

use super::Session;
use crate::cli::Config;
use crate::record::files::Files;
use crate::record::progress::Progress;
use crate::report::human;
use crate::snapshot::now;
use crate::symbolize::Profile;

impl Session {
    /// Leaves a numbered report of all that is live now.
    ///
    /// # Errors
    ///
    /// If the maps cannot be read.
    pub(super) fn leave_snapshot(
        &mut self,
        config: &Config,
        progress: &mut Progress,
        files: &mut Files,
    ) -> Result<()> {
        let profile = self.whole(config.min_age, progress)?;
        let written = files.write_numbered(&profile, config, &mut |path| progress.wrote(path));
        self.note_failure("a numbered report", written, progress);
        Ok(())
    }

    /// Tells that a report could not be left.
    pub(super) fn note_failure(
        &mut self,
        what: &str,
        written: Result<()>,
        progress: &mut Progress,
    ) {
        let Err(error) = written else {
            return;
        };
        let after = human::duration(self.began.elapsed().as_nanos() as u64);
        let why = format!("{what} failed after {after}: {error:#}");
        progress.say(&why);
        // One sentence for all of them: a full disk stays full for days.
        if !self.snapshot_failed {
            self.snapshot_failed = true;
            self.notes.push(why);
        }
    }

    /// The whole profile, as a final one but of this moment. The process runs on while the maps are read,
    /// some milliseconds for a million blocks: figures of one stack may be so far apart.
    pub(super) fn whole(
        &mut self,
        min_age: Option<Duration>,
        progress: &mut Progress,
    ) -> Result<Profile> {
        loop {
            self.drain(progress)?;
            let space = self.space();
            let age = min_age.unwrap_or_default();
            let mut snapshot = self.snapshot(Some(age), now()?, true, None)?;
            snapshot.unbalanced = 0;
            // The frames of stacks that have come meanwhile.
            self.drain(progress)?;
            self.locate(true)?;
            if self.members.are_many() || self.space() == space {
                let blocks = self.blocks_now();
                self.account_now(None, blocks.as_ref());
                let header = self.header();
                return Ok(self.profile_of(header, &snapshot, Some(age), usize::MAX));
            }
        }
    }
}
