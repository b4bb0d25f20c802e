//! What the kernel side announces, kept until the recording has time for it.
//!
//! The ring buffer holds less than a second of a program's new stacks, and a recording may be away for longer: it
//! makes unwind tables, looks names up, waits for whoever reads its reports. A thread empties the ring buffer then.

use std::io::{PipeReader, PipeWriter, pipe};
use std::mem;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context, Result};
use aya::maps::{MapData, RingBuf};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use super::watch;

/// How long the recording has to come for records itself, milliseconds: that is cheaper.
const GRACE: u16 = 20;

/// How much is kept, bytes. What then does not fit the ring buffer either is lost, and counted.
const MOST: usize = 64 << 20;

/// The records of the ring buffer.
pub(super) struct Inbox {
    shared: Arc<Shared>,
    ring: AsyncFd<OwnedFd>,
    /// Closed when the thread is to end.
    _stop: PipeWriter,
}

struct Shared {
    waiting: Mutex<Waiting>,
    /// The thread has taken some.
    taken: Notify,
}

struct Waiting {
    ring: RingBuf<MapData>,
    records: Records,
}

/// Records one after the other.
#[derive(Default)]
pub(super) struct Records {
    bytes: Vec<u8>,
    /// Where each ends.
    ends: Vec<usize>,
}

impl Inbox {
    /// Takes what comes from now on.
    ///
    /// # Errors
    ///
    /// If the ring buffer cannot be watched, or for lack of descriptors or threads.
    pub(super) fn open(ring: RingBuf<MapData>) -> Result<Self> {
        let ours = ring.as_fd().try_clone_to_owned();
        let theirs = ring.as_fd().try_clone_to_owned();
        let ours = ours
            .and_then(watch)
            .context("failed to watch the ring buffer")?;
        let theirs = theirs.context("failed to watch the ring buffer")?;
        let shared = Arc::new(Shared {
            waiting: Mutex::new(Waiting {
                ring,
                records: Records::default(),
            }),
            taken: Notify::new(),
        });
        let (stopped, stop) = pipe().context("failed to make a pipe")?;
        let thread_shared = Arc::clone(&shared);
        thread::Builder::new()
            .spawn(move || thread_shared.empty_in_time(&theirs, &stopped))
            .context("failed to start a thread")?;
        Ok(Self {
            shared,
            ring: ours,
            _stop: stop,
        })
    }

    /// Waits until there are records, or may be.
    ///
    /// # Errors
    ///
    /// If the ring buffer cannot be watched.
    pub(super) async fn ready(&self) -> Result<()> {
        tokio::select! {
            () = self.shared.taken.notified() => {}
            guard = self.ring.readable() => {
                guard.context("failed to watch the ring buffer")?.clear_ready();
            }
        }
        Ok(())
    }

    /// What has come since; `None` if nothing has.
    pub(super) fn take(&self) -> Option<Records> {
        let mut waiting = self.shared.waiting();
        waiting.empty_ring();
        let records = mem::take(&mut waiting.records);
        (!records.ends.is_empty()).then_some(records)
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the thread does.
    fn empty_in_time(&self, ring: &OwnedFd, stopped: &PipeReader) {
        while let Ok(false) = wait(stopped, Some(ring), PollTimeout::NONE)
            && let Ok(false) = wait(stopped, None, PollTimeout::from(GRACE))
        {
            if self.waiting().empty_ring() {
                self.taken.notify_one();
            }
        }
    }
}

impl Waiting {
    /// Takes what is in the ring buffer, up to [`MOST`]. Whether that was something.
    fn empty_ring(&mut self) -> bool {
        let before = self.records.ends.len();
        while self.records.bytes.len() < MOST
            && let Some(record) = self.ring.next()
        {
            self.records.push(&record);
        }
        self.records.ends.len() > before
    }
}

impl Records {
    fn push(&mut self, record: &[u8]) {
        self.bytes.extend_from_slice(record);
        self.ends.push(self.bytes.len());
    }

    /// One after the other, in the order in which they came.
    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let begins = std::iter::once(0).chain(self.ends.iter().copied());
        begins
            .zip(&self.ends)
            .map(|(begin, &end)| &self.bytes[begin..end])
    }
}

/// Waits until the ring buffer has records or the time is over. Whether the thread is to end.
fn wait(stopped: &PipeReader, ring: Option<&OwnedFd>, timeout: PollTimeout) -> nix::Result<bool> {
    let mut watched = vec![PollFd::new(stopped.as_fd(), PollFlags::empty())];
    watched.extend(ring.map(|ring| PollFd::new(ring.as_fd(), PollFlags::POLLIN)));
    match poll(&mut watched, timeout) {
        Ok(_) | Err(Errno::EINTR) => Ok(watched[0].any() == Some(true)),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_out_as_they_went_in() {
        let mut records = Records::default();
        for record in [b"first".as_slice(), b"", b"third"] {
            records.push(record);
        }
        let read: Vec<_> = records.iter().collect();
        assert_eq!(read, [b"first".as_slice(), b"", b"third"]);
    }
}
