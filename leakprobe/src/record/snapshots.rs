//! `--every` and `--snapshot-on`: when to leave a numbered report while the recording goes on.

use std::future::pending;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep_until;

use crate::cli::watching::{SnapshotSignal, Watching};

/// When numbered reports are due.
pub struct Snapshots {
    every: Option<Duration>,
    /// Once the recording has begun.
    next: Option<Instant>,
    signal: Option<Signal>,
}

impl Snapshots {
    /// From here on the signal does not end leakprobe any more.
    ///
    /// # Errors
    ///
    /// If it cannot be handled.
    pub fn new(watching: &Watching) -> Result<Self> {
        let signal = watching.snapshot_on.map(|which| {
            signal(match which {
                SnapshotSignal::Usr1 => SignalKind::user_defined1(),
                SnapshotSignal::Usr2 => SignalKind::user_defined2(),
                SnapshotSignal::Hup => SignalKind::hangup(),
            })
        });
        Ok(Self {
            every: watching.every,
            next: None,
            signal: signal
                .transpose()
                .context("failed to handle the signal of --snapshot-on")?,
        })
    }

    /// The recording begins; the time counts from here.
    pub fn begin(&mut self) {
        self.next = self.every.map(|every| Instant::now() + every);
    }

    /// Returns when a report is due. Nothing is lost if it is dropped before.
    pub async fn due(&mut self) {
        let Self {
            every,
            next,
            signal,
        } = self;
        let time = async {
            match next {
                Some(next) => sleep_until((*next).into()).await,
                None => pending().await,
            }
        };
        let asked = async {
            match signal {
                Some(signal) => signal.recv().await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = time => {}
            _ = asked => return,
        }
        if let (Some(next), Some(every)) = (next, every) {
            *next += *every;
            // Not several at once after a pause.
            if *next < Instant::now() {
                *next = Instant::now() + *every;
            }
        }
    }
}
