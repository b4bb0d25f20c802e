//! Whose definitions of trace events are whose: they outlive the process that made them, and hold on to
//! the file they are for. So a process of our own, the guardian, waits for the end of leakprobe and
//! removes what is left; and what a guardian could not remove either, the next leakprobe does.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use procfs::process::Process;

use super::events::{self, Reach};
use super::tracefs::{Event, Tracefs};
use crate::target::Process as Target;

/// The word on the command line that makes leakprobe the guardian of another one.
pub const GUARDIAN: &str = "trace-event-guardian";

/// Start of the names of all groups.
const PREFIX: &str = "leakprobe";

/// How long removing may take: while the kernel takes the probes out it is refused.
const LIMIT: Duration = Duration::from_secs(600);

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(5);

/// A process that defines events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Owner {
    /// Inode of its PID namespace.
    namespace: u64,
    /// In there.
    pid: i32,
    /// When it was started, ticks since the machine was: another one of the same PID is not it.
    start: u64,
}

impl Owner {
    fn this() -> Result<Self> {
        let namespace = fs::metadata("/proc/self/ns/pid")
            .context("failed to look up our own PID namespace in /proc/self/ns/pid")?;
        let stat = Process::myself().and_then(|process| process.stat());
        let stat = stat.context("failed to read `/proc/self/stat`")?;
        Ok(Self {
            namespace: namespace.ino(),
            pid: stat.pid,
            start: stat.starttime,
        })
    }

    /// Of a group's name.
    fn of(group: &str) -> Option<Self> {
        let mut words = group.strip_prefix(PREFIX)?.strip_prefix('_')?.split('_');
        let mut number = || words.next()?.parse().ok();
        Some(Self {
            namespace: number()?,
            pid: number()?.try_into().ok()?,
            start: number()?,
        })
    }

    /// Name of a group that there was not before.
    fn new_group(self) -> String {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let Self {
            namespace,
            pid,
            start,
        } = self;
        format!("{PREFIX}_{namespace}_{pid}_{start}_{number}")
    }

    /// Whether it has ended, as far as `this` can tell.
    fn has_ended(self, this: Self) -> bool {
        let stat = || Process::new(self.pid).and_then(|process| process.stat());
        self.namespace == this.namespace && stat().map_or(true, |it| it.starttime != self.start)
    }
}

/// Sees to it that nothing is left of what this process defines.
pub struct Guardian {
    owner: Owner,
    process: Child,
    /// Breaks when this process ends.
    pipe: Option<ChildStdin>,
}

impl Guardian {
    /// Removes what others have left, and starts the guardian.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn start(tracefs: &Tracefs) -> Result<Self> {
        let owner = Owner::this()?;
        let root = tracefs.root().context("failed to duplicate a descriptor")?;
        // Of one that has just been killed its own guardian removes them.
        if let Err(error) = sweep(tracefs, |other| other.has_ended(owner)) {
            log::debug!("trace events of leakprobes that have ended stay: {error}");
        }
        let mut process = Command::new("/proc/self/exe")
            .arg(GUARDIAN)
            .arg(owner.new_group())
            .stdin(Stdio::piped())
            .stdout(root)
            .stderr(Stdio::null())
            .current_dir("/")
            .process_group(0) // or Ctrl-C would end it
            .spawn()
            .context("failed to start the guardian of trace events")?;
        let pipe = process.stdin.take();
        Ok(Self {
            owner,
            process,
            pipe,
        })
    }

    /// Name of a group that there was not before.
    pub fn new_group(&self) -> String {
        self.owner.new_group()
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        self.pipe = None;
        // If there is something left it waits for our end.
        for _ in 0..100 {
            if !matches!(self.process.try_wait(), Ok(None)) {
                return;
            }
            sleep(PAUSE);
        }
    }
}

/// What the guardian does: waits for the end of stdin, and if something is defined yet by the process
/// whose group is named, for the end of that process; then removes it from the tracefs whose root is open
/// as stdout.
///
/// # Errors
///
/// If some could not be removed.
pub fn run_guardian(group: &str) -> io::Result<()> {
    let owner = Owner::of(group).ok_or(io::ErrorKind::InvalidInput)?;
    let process = Target::open_child(owner.pid.unsigned_abs());
    let tracefs = Tracefs::at(io::stdout().as_fd().try_clone_to_owned()?)?;
    let mut stdin = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    while stdin.read(&mut [0]).is_ok_and(|read| read > 0) {}
    let is_meant = |other| other == owner;
    if defined(&tracefs, is_meant)?.is_empty() {
        return Ok(());
    }
    let until = Instant::now() + LIMIT;
    while process.as_ref().is_some_and(|it| !it.has_ended()) && Instant::now() < until {
        sleep(PAUSE);
    }
    let until = Instant::now() + LIMIT;
    let mut left = sweep(&tracefs, is_meant)?;
    while !left.is_empty() {
        if Instant::now() > until {
            return Err(io::ErrorKind::TimedOut.into());
        }
        sleep(PAUSE);
        left.retain(|event| is_in_use(&tracefs, event));
    }
    Ok(())
}

fn defined(tracefs: &Tracefs, is_meant: impl Fn(Owner) -> bool) -> io::Result<Vec<Event>> {
    tracefs.defined(|group| Owner::of(group).is_some_and(&is_meant))
}

/// Removes the events of owners that have ended, and the breakpoints that they have left: a process that is
/// killed while it removes one leaves it behind, and the kernel removes it when somebody else has an event
/// there, and has it no longer. Which are left: the kernel may take a while until it has let go of them.
fn sweep(tracefs: &Tracefs, is_meant: impl Fn(Owner) -> bool) -> io::Result<Vec<Event>> {
    let mut events = defined(tracefs, is_meant)?;
    events.retain(|event| {
        let this = 0;
        let number = tracefs.number(event);
        drop(number.and_then(|number| events::open(number, this, Reach::This)));
        is_in_use(tracefs, event)
    });
    Ok(events)
}

/// Whether an event could not be removed for that it is in use.
fn is_in_use(tracefs: &Tracefs, event: &Event) -> bool {
    let removed = tracefs.remove(event);
    removed.is_err_and(|error| error.raw_os_error() == Some(libc::EBUSY))
}

/// Removes an event that is no longer in use, or will not be soon: whatever has not been freed yet is
/// about to be. After that the guardian goes on.
pub fn remove_soon(tracefs: &Tracefs, event: &Event) {
    const LIMIT: Duration = Duration::from_secs(10);
    let until = Instant::now() + LIMIT;
    while let Err(error) = tracefs.remove(event) {
        if error.raw_os_error() != Some(libc::EBUSY) || Instant::now() > until {
            log::debug!("failed to remove the trace event {event:?}: {error}");
            return;
        }
        sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn groups_tell_their_owner() {
        let this = Owner::this().expect("this process");
        let (one, other) = (this.new_group(), this.new_group());
        assert_ne!(one, other);
        assert_eq!(Owner::of(&one), Some(this));
        for nonsense in [
            "",
            "leakprobe",
            "leakprobe_1_2",
            "leakprobe_1_x_3_0",
            "sched",
        ] {
            assert_eq!(Owner::of(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn who_has_ended_is_told() {
        let this = Owner::this().expect("this process");
        assert!(!this.has_ended(this));
        let before = Owner {
            start: this.start - 1,
            ..this
        };
        assert!(before.has_ended(this), "the PID was given out again");
        let elsewhere = Owner {
            namespace: this.namespace + 1,
            ..before
        };
        assert!(!elsewhere.has_ended(this), "nobody knows from here");
    }

    #[test]
    fn what_others_remove_meanwhile_hides_nothing() {
        const MANY: u64 = 60;
        let tracefs = match Tracefs::open() {
            Ok(tracefs) => tracefs,
            Err(error) => return assert!(!nix::unistd::geteuid().is_root(), "{error:#}"),
        };
        let file = File::open("/proc/self/exe").expect("this program");
        let this = Owner::this().expect("this process");
        let define = || {
            let group = this.new_group();
            let events = (0..MANY).map(|number| Event {
                group: group.clone(),
                name: format!("event_{number}"),
            });
            let events: Vec<Event> = events.collect();
            for (event, number) in events.iter().zip(0..) {
                let defined = tracefs.define(event, &file, 0x1000 + 16 * number, false);
                defined.expect("a new event");
            }
            events
        };
        for _ in 0..10 {
            // Theirs are in front of ours in the list.
            let (theirs, ours) = (define(), define());
            let is_ours = |group: &str| group == ours[0].group;
            thread::scope(|scope| {
                let others = scope.spawn(|| remove(&tracefs, &theirs));
                while !others.is_finished() {
                    let found = tracefs.defined(is_ours).expect("the list");
                    assert_eq!(found.len(), ours.len());
                }
            });
            remove(&tracefs, &ours);
        }
    }

    fn remove(tracefs: &Tracefs, events: &[Event]) {
        for event in events {
            tracefs.remove(event).expect("an event that nobody uses");
        }
    }
}
