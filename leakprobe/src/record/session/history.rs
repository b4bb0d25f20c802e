//! Looks at what each stack has live, often enough to tell how it grows, and rarely enough to cost nothing.

use std::time::{Duration, Instant};

use anyhow::Result;
use nix::time::{ClockId, clock_gettime};

use super::members::Member;
use super::{Session, Subject};
use crate::snapshot::{Totals, now};

/// Of its own time, one part in so many goes into looks at the most.
const REST: u32 = 100;

impl Session {
    /// Takes down what each stack has live now.
    pub(super) fn look_at_stacks(&mut self) -> Result<()> {
        let before = time_taken();
        let at = self.began.elapsed().as_nanos() as u64;
        self.locate(false)?;
        let mut live = Vec::new();
        let whole;
        if self.members.are_many() {
            let (of_each, of_living) = self.live_of_many()?;
            (whole, self.totals) = (of_living, self.sum_of_many()?);
            live.extend(of_each);
        } else if let (
            Subject::Growth(growth),
            Some(Member {
                process: Some(process),
                space,
                ..
            }),
        ) = (&mut self.subject, self.members.first())
        {
            let snapshot = growth.glance(&self.maps, process, *space, now()?)?;
            let of_each = snapshot.stacks.iter();
            live.extend(of_each.map(|stack| (stack.key, stack.totals.live_bytes)));
            (whole, self.totals) = (snapshot.totals.live_bytes, snapshot.totals);
        } else {
            let space = self.space();
            let mut sum = Totals::default();
            self.maps.live(|key, totals| {
                if key.program == space {
                    sum += totals;
                    live.push((key, totals.live_bytes));
                }
            })?;
            (whole, self.totals) = (sum.live_bytes, sum);
        }
        self.history.look(at, whole, live.into_iter());
        let rest = time_taken().saturating_sub(before) * REST;
        self.next_history = next(self.next_history, self.history.period().max(rest));
        Ok(())
    }

    /// How long a block has to have lived to tell a leak from traffic, if younger ones than `min_age` do not count.
    pub(super) fn settle(&self, min_age: Duration) -> Duration {
        let known = self.began.elapsed().as_nanos() as u64;
        let known = known.saturating_sub(self.history.since());
        min_age.max(Duration::from_nanos(known / 2))
    }
}

/// CPU time of this thread: on a busy machine a look may last long and take little. Nothing, if it cannot be had.
fn time_taken() -> Duration {
    let now = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID);
    now.map_or(Duration::ZERO, Duration::from)
}

/// At equal distances, but not several looks at once after a pause.
fn next(last: Instant, period: Duration) -> Instant {
    let now = Instant::now();
    match last + period {
        next if next > now => next,
        _ => now + period,
    }
}
