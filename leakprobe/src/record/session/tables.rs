//! Unwind tables while a recording goes on. If the kernel refuses them, stacks suffer and the report
//! says so; the recording is worth more than the error. (At the attach nothing is recorded yet, and
//! the error is fatal.)

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::Session;
use crate::snapshot::counts::UNWIND_TABLES_NOT_UPDATED;

/// Different errors that get a note each.
const NOTES: usize = 4;

/// Pause after the first failure; it doubles with each. Making tables takes CPU time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What went wrong with the tables.
#[derive(Debug, Default)]
pub(super) struct TableErrors {
    count: u64,
    /// The first different ones.
    texts: Vec<String>,
    /// Whether there were more different ones.
    others: bool,
    pause: Duration,
    /// If the last update failed: when to try again.
    again: Option<Instant>,
}

impl TableErrors {
    fn add(&mut self, text: String, now: Instant) {
        self.count += 1;
        if !self.texts.contains(&text) {
            match self.texts.len() < NOTES {
                true => self.texts.push(text),
                false => self.others = true,
            }
        }
        self.pause = (self.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        self.again = Some(now + self.pause);
    }

    /// No failure is to be made good for, or none any more.
    pub(super) fn settle(&mut self) {
        self.pause = Duration::ZERO;
        self.again = None;
    }

    fn pauses(&self, now: Instant) -> bool {
        self.again.is_some_and(|at| now < at)
    }

    /// Adds itself to what a report says.
    pub(super) fn report(&self, losses: &mut BTreeMap<String, u64>, notes: &mut Vec<String>) {
        if self.count > 0 {
            losses.insert(UNWIND_TABLES_NOT_UPDATED.name.to_owned(), self.count);
        }
        let texts = self.texts.iter().map(String::as_str);
        for text in texts.chain(self.others.then_some("other errors, too")) {
            notes.push(format!("the unwind tables could not be updated: {text}"));
        }
    }
}

impl Session {
    /// Gives the kernel side tables for what a process has mapped, unless that has failed just now.
    pub(super) fn update_tables(&mut self, space: u64) {
        if self.table_errors.pauses(Instant::now()) {
            return;
        }
        let (Some(member), Some(mappings)) = (self.members.get(space), self.stacks.mappings(space))
        else {
            return;
        };
        let place = (space, member.program);
        match self.unwinder.refresh(member.pid(), place, mappings) {
            Ok(()) => self.table_errors.settle(),
            Err(error) => {
                let text = format!("{error:#}");
                log::debug!("the unwind tables could not be updated: {text}");
                self.table_errors.add(text, Instant::now());
            }
        }
    }

    /// Makes good for an update that failed. The stacks that suffer do not ask for it: their
    /// mappings are known.
    pub(super) fn catch_up_with_tables(&mut self) {
        if self.table_errors.again.is_none() {
            return;
        }
        let spaces: Vec<u64> = self.members.alive().map(|member| member.space).collect();
        for space in spaces {
            self.update_tables(space);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(errors: &TableErrors) -> (BTreeMap<String, u64>, Vec<String>) {
        let (mut losses, mut notes) = (BTreeMap::new(), Vec::new());
        errors.report(&mut losses, &mut notes);
        (losses, notes)
    }

    #[test]
    fn nothing_is_said_of_no_error() {
        assert_eq!(
            report(&TableErrors::default()),
            (BTreeMap::new(), Vec::new())
        );
    }

    #[test]
    fn each_error_counts_and_is_told_once() {
        let mut errors = TableErrors::default();
        for text in ["no memory", "no luck", "no memory"] {
            errors.add(text.to_owned(), Instant::now());
        }
        errors.settle();
        let (losses, notes) = report(&errors);
        assert_eq!(losses["unwind_tables_not_updated"], 3);
        let said = |text| format!("the unwind tables could not be updated: {text}");
        assert_eq!(notes, [said("no memory"), said("no luck")]);
    }

    #[test]
    fn notes_do_not_grow_without_limit() {
        let mut errors = TableErrors::default();
        for number in 0..1000 {
            errors.add(format!("error {number}"), Instant::now());
        }
        let (losses, notes) = report(&errors);
        assert_eq!(losses["unwind_tables_not_updated"], 1000);
        assert_eq!(notes.len(), NOTES + 1);
    }

    #[test]
    fn pauses_grow_until_an_update_succeeds() {
        let now = Instant::now();
        let mut errors = TableErrors::default();
        assert!(!errors.pauses(now));
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            errors.add("no memory".to_owned(), now);
            let end = now + Duration::from_secs(seconds);
            assert!(errors.pauses(end - Duration::from_millis(1)));
            assert!(!errors.pauses(end));
        }
        errors.settle();
        assert!(!errors.pauses(now));
        errors.add("no memory".to_owned(), now);
        assert!(!errors.pauses(now + Duration::from_secs(1)));
    }
}
