//! What a person sees on stderr while it works.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use super::session::Session;
use crate::report::{escape, human};
use crate::snapshot::Totals;

/// The conversation on stderr.
pub struct Progress {
    quiet: bool,
    terminal: bool,
    /// Whether the last line is a status that the next one overwrites.
    status: bool,
}

impl Progress {
    /// Says nothing but errors when quiet.
    pub fn new(quiet: bool) -> Self {
        Self {
            quiet,
            terminal: io::stderr().is_terminal(),
            status: false,
        }
    }

    /// Tells what was attached to.
    pub fn attached(&mut self, session: &Session) {
        let (target, allocator) = (session.target(), session.allocator());
        let pid = if target.pid == target.ns_pid {
            target.pid.to_string()
        } else {
            format!("{} ({} in its container)", target.pid, target.ns_pid)
        };
        self.say(&format!(
            "recording {} pid {pid}: {} ({}), {} probes on {} functions; attached in {} ms",
            escape::visible(&target.comm),
            escape::visible(&allocator.name),
            escape::visible(&allocator.path),
            session.probes(),
            session.functions(),
            session.attach_time().as_millis(),
        ));
    }

    /// Says a sentence.
    pub fn say(&mut self, text: &str) {
        if !self.quiet {
            self.clear();
            eprintln!("{text}");
        }
    }

    /// Shows how far things are; on a terminal only, in one line that the next one overwrites.
    pub fn status(&mut self, elapsed: Duration, totals: &Totals) {
        if self.quiet || !self.terminal {
            return;
        }
        self.clear();
        eprint!(
            "{}  live {} in {}  (allocated {}, freed {})",
            human::duration(elapsed.as_nanos() as u64),
            human::bytes(totals.live_bytes),
            human::blocks(totals.live_count),
            human::bytes(totals.allocated_bytes),
            human::bytes(totals.freed_bytes),
        );
        let _ = io::stderr().flush();
        self.status = true;
    }

    /// Shows what is being waited for, on a terminal, until [`Self::clear`].
    pub fn waiting(&mut self, what: &str) {
        if self.quiet || !self.terminal {
            return;
        }
        self.clear();
        eprint!("{what} ...");
        let _ = io::stderr().flush();
        self.status = true;
    }

    /// Takes the status line away.
    pub fn clear(&mut self) {
        if std::mem::take(&mut self.status) {
            eprint!("\r\x1b[2K");
        }
    }
}
