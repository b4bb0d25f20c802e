//! What a person sees on stderr while it works.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use super::session::Session;
use crate::report::{escape, human, words};
use crate::snapshot::Totals;

/// The conversation on stderr.
pub struct Progress {
    quiet: bool,
    terminal: bool,
    /// Whether the last line is a status that the next one overwrites.
    status: bool,
    /// Of exact recordings only: for a sample there is nothing to suggest.
    rate: Option<Rate>,
}

/// Allocations per second above which a sample would cost much less: every one of them takes
/// microseconds of the target's time.
const HIGH_RATE: u64 = 100_000;

/// Allocations in the last second.
#[derive(Default)]
struct Rate {
    /// Time and allocations, both since the start, of the last look.
    last: (Duration, u64),
}

impl Rate {
    /// Allocations per second since the last look. An exec starts them anew, which is no rate.
    fn next(&mut self, elapsed: Duration, allocated: u64) -> u64 {
        let (since, before) = std::mem::replace(&mut self.last, (elapsed, allocated));
        let millis = elapsed.saturating_sub(since).as_millis().max(1) as u64;
        allocated.saturating_sub(before).saturating_mul(1000) / millis
    }
}

impl Progress {
    /// Says nothing but errors when quiet.
    pub fn new(quiet: bool) -> Self {
        Self {
            quiet,
            terminal: io::stderr().is_terminal(),
            status: false,
            rate: None,
        }
    }

    /// Suggests to take a sample while an exact recording meets many allocations.
    pub fn suggest_sampling(mut self, exact: bool) -> Self {
        self.rate = exact.then(Rate::default);
        self
    }

    /// Tells what was attached to.
    pub fn attached(&mut self, session: &Session) {
        let target = session.target();
        let pid = if target.pid == target.ns_pid {
            target.pid.to_string()
        } else {
            format!("{} ({} in its container)", target.pid, target.ns_pid)
        };
        let others = match session.processes() {
            0 | 1 => String::new(),
            all => format!(" and {} more processes", all - 1),
        };
        let (allocator, other_allocators) = session.allocators();
        let allocator = allocator.map_or(String::new(), |allocator| {
            let (name, path) = (&allocator.name, &allocator.path);
            let others = words::other_allocators(&other_allocators);
            format!(
                "{} ({}){others}, ",
                escape::visible(name),
                escape::visible(path)
            )
        });
        self.say(&format!(
            "recording {} pid {pid}{others}: {allocator}{}; attached in {} ms",
            escape::visible(&target.comm),
            session.attached(),
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

    /// Says that a report is there.
    pub fn wrote(&mut self, path: &Path) {
        self.say(&format!("wrote {}", path.display()));
    }

    /// Shows how far things are; on a terminal only, in one line that the next one overwrites.
    pub fn status(&mut self, elapsed: Duration, totals: &Totals, overhead: Option<u64>) {
        if self.quiet || !self.terminal {
            return;
        }
        self.clear();
        let rate = self.rate.as_mut();
        let rate = rate.map_or(0, |rate| rate.next(elapsed, totals.allocated_count));
        let hint = match rate > HIGH_RATE {
            true => "  (--sample-bytes 512KiB would cost less)",
            false => "",
        };
        let overhead = overhead.map_or(String::new(), |percent| format!("  overhead {percent} %"));
        eprint!(
            "{}  live {} in {}  (allocated {}, freed {}){overhead}{hint}",
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
        self.line(&format!("{what} ..."));
    }

    /// Shows a line on a terminal that the next one overwrites.
    pub fn line(&mut self, text: &str) {
        if self.quiet || !self.terminal {
            return;
        }
        self.clear();
        eprint!("{text}");
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_of_the_last_second() {
        let mut rate = Rate::default();
        let second = Duration::from_secs;
        assert_eq!(rate.next(second(1), 5000), 5000);
        assert_eq!(rate.next(second(2), 205_000), 200_000);
        assert_eq!(rate.next(second(4), 305_000), 50_000);
        assert_eq!(rate.next(second(4), 305_000), 0);
        // Another program.
        assert_eq!(rate.next(second(5), 10), 0);
        assert_eq!(rate.next(second(6), 20), 10);
    }
}
