//! Samples a process at its allocator's entries: registers and the raw bytes of the stack, by the
//! kernel's own perf events on uprobes. No BPF, and nothing of leakprobe's: whatever is wrong on
//! that side cannot be wrong in the same way here. It does not unwind anything.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use perf_event_open_sys::bindings::{
    PERF_FLAG_FD_CLOEXEC, PERF_SAMPLE_REGS_USER, PERF_SAMPLE_STACK_USER, PERF_SAMPLE_TID,
    PERF_TYPE_TRACEPOINT, perf_event_attr,
};
use perf_event_open_sys::{ioctls, perf_event_open};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::ring::Ring;
use super::space;
use super::tracefs::Events;

/// Bytes of stack kept with each sample, from the stack pointer up. A record of the kernel's has to
/// stay below 64 KiB.
pub const STACK_BYTES: u32 = 64_000;

/// Stop keeping samples beyond this many bytes; what comes then is counted.
const MEMORY: usize = 1 << 30;

/// RBP, RSP and RIP by their numbers in the kernel's perf_regs.h; they arrive in this order.
const REGISTERS: u64 = 1 << 6 | 1 << 7 | 1 << 8;

/// Registers and stack of a thread at the entry of an allocator function.
pub struct Sample {
    /// Thread, as this machine counts.
    pub tid: u32,
    /// Instruction pointer: where the probe is.
    pub ip: u64,
    /// Stack pointer; the return address is there.
    pub sp: u64,
    /// RBP.
    pub bp: u64,
    /// What is on the stack from `sp` up.
    pub stack: Box<[u8]>,
}

/// What was sampled.
#[derive(Default)]
pub struct Samples {
    /// In no particular order.
    pub kept: Vec<Sample>,
    /// How many more there were that the ring buffers or memory had no room for.
    pub lost: u64,
    /// Where the process had code without a file at some time: first address and end.
    pub generated: BTreeSet<(u64, u64)>,
}

/// A place to sample at.
#[derive(Clone, Debug)]
pub struct Place {
    /// A path that leads to the file, from here.
    pub path: String,
    /// Byte in that file.
    pub offset: u64,
}

/// A running sampler.
pub struct Sampler {
    events: Vec<OwnedFd>,
    definitions: Events,
    stop: Arc<AtomicBool>,
    reader: JoinHandle<Samples>,
}

impl Sampler {
    /// Takes every `period`-th call at each of the places, in all threads of the process, also in
    /// new ones. Panics when the kernel refuses.
    pub fn start(pid: u32, places: &[Place], period: u64) -> Sampler {
        let cpus = number_in("/sys/devices/system/cpu/online") + 1;
        let definitions = Events::define(places);
        let mut events = Vec::new();
        let mut rings = Vec::new();
        let threads: Vec<i32> = std::fs::read_dir(format!("/proc/{pid}/task"))
            .expect("failed to list the target's threads")
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .collect();
        for cpu in 0..cpus {
            let first = events.len();
            for &thread in &threads {
                for &id in &definitions.ids {
                    let Some(event) = open(thread, cpu as i32, id, period) else {
                        continue; // The thread has ended.
                    };
                    if let Some(leader) = events.get(first) {
                        redirect(&event, leader);
                    } else {
                        rings.push(Ring::map(event.as_fd()));
                    }
                    events.push(event);
                }
            }
        }
        let stop = Arc::new(AtomicBool::new(false));
        let reader = {
            let stop = stop.clone();
            thread::spawn(move || read(pid, &mut rings, &stop))
        };
        for event in &events {
            // SAFETY: the descriptor is of a perf event.
            let result = unsafe { ioctls::ENABLE(event.as_raw_fd(), 0) };
            assert!(result >= 0, "failed to enable a perf event: {}", last());
        }
        Sampler {
            events,
            definitions,
            stop,
            reader,
        }
    }

    /// Stops and gives all samples.
    pub fn finish(self) -> Samples {
        for event in &self.events {
            // SAFETY: as above. It fails for a thread that has ended, which is as well.
            unsafe { ioctls::DISABLE(event.as_raw_fd(), 0) };
        }
        self.stop.store(true, Ordering::Release);
        let samples = self.reader.join().expect("the sampler's reader panicked");
        // In this order: an event in use cannot be removed.
        drop(self.events);
        drop(self.definitions);
        samples
    }
}

fn open(thread: i32, cpu: i32, id: u64, period: u64) -> Option<OwnedFd> {
    let mut attr = perf_event_attr {
        type_: PERF_TYPE_TRACEPOINT,
        config: id,
        size: size_of::<perf_event_attr>() as u32,
        sample_type: u64::from(PERF_SAMPLE_TID | PERF_SAMPLE_REGS_USER | PERF_SAMPLE_STACK_USER),
        sample_regs_user: REGISTERS,
        sample_stack_user: STACK_BYTES,
        ..perf_event_attr::default()
    };
    attr.__bindgen_anon_1.sample_period = period;
    attr.__bindgen_anon_2.wakeup_watermark = 1 << 20;
    attr.set_watermark(1);
    attr.set_disabled(1);
    attr.set_inherit(1);
    attr.set_inherit_thread(1);
    // SAFETY: `attr` lives until the call returns.
    let fd = unsafe { perf_event_open(&mut attr, thread, cpu, -1, PERF_FLAG_FD_CLOEXEC.into()) };
    if fd >= 0 {
        // SAFETY: the kernel has just given it to us.
        return Some(unsafe { OwnedFd::from_raw_fd(fd) });
    }
    let error = last();
    let ended = error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error());
    assert!(ended, "failed to open a perf event: {error}");
    None
}

fn redirect(event: &OwnedFd, leader: &OwnedFd) {
    // SAFETY: both are perf events.
    let result = unsafe { ioctls::SET_OUTPUT(event.as_raw_fd(), leader.as_raw_fd() as _) };
    assert!(result >= 0, "failed to share a ring buffer: {}", last());
}

fn last() -> std::io::Error {
    std::io::Error::last_os_error()
}

/// The last number in a file of sysfs; of a range such as `0-3` the larger one.
fn number_in(path: &str) -> u32 {
    let text = std::fs::read_to_string(path)
        .unwrap_or_else(|error| panic!("failed to read `{path}`: {error}"));
    text.trim()
        .rsplit(|c: char| !c.is_ascii_digit())
        .next()
        .and_then(|number| number.parse().ok())
        .unwrap_or_else(|| panic!("there is no number in `{path}`: {text}"))
}

fn read(pid: u32, rings: &mut [Ring], stop: &AtomicBool) -> Samples {
    let mut samples = Samples::default();
    let mut bytes = 0;
    loop {
        let stopping = stop.load(Ordering::Acquire);
        for ring in &mut *rings {
            samples.lost += ring.drain(|record| {
                let Some(sample) = Sample::parse(pid, record) else {
                    return;
                };
                if bytes > MEMORY {
                    samples.lost += 1;
                } else {
                    bytes += sample.stack.len();
                    samples.kept.push(sample);
                }
            });
        }
        // A JIT compiler gives memory back before the end.
        samples.generated.extend(space::generated(pid));
        if stopping {
            return samples;
        }
        let fds: Vec<BorrowedFd<'_>> = rings.iter().map(Ring::fd).collect();
        let mut fds: Vec<PollFd<'_>> = fds
            .iter()
            .map(|fd| PollFd::new(fd, PollFlags::IN))
            .collect();
        let limit = Timespec {
            tv_sec: 0,
            tv_nsec: 10_000_000,
        };
        // An error is a signal, after which it is only looked at again sooner.
        let _ = poll(&mut fds, Some(&limit));
    }
}

impl Sample {
    /// A sample record without its header: PID and TID, then the registers, then the stack. `None`
    /// if it is of another process.
    fn parse(pid: u32, record: &[u8]) -> Option<Sample> {
        let word = |at: usize| -> Option<u64> {
            let bytes = record.get(at..at + 8)?;
            Some(u64::from_ne_bytes(bytes.try_into().ok()?))
        };
        let ids = word(0)?;
        if ids as u32 != pid || word(8)? == 0 {
            return None;
        }
        let size = word(40)? as usize;
        let used = word(48 + size)? as usize;
        Some(Sample {
            tid: (ids >> 32) as u32,
            bp: word(16)?,
            sp: word(24)?,
            ip: word(32)?,
            stack: record.get(48..48 + used.min(size))?.into(),
        })
    }
}
