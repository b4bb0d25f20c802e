//! Perf events of trace events: who has one open gets the breakpoints, and so does all it forks or
//! executes later, if the event is inherited. They count nothing and stay disabled: what matters is that
//! they are there. Programs are attached elsewhere.

use std::io;
use std::mem;
use std::os::fd::OwnedFd;
use std::sync::OnceLock;

use aya_obj::generated::perf_event_attr;

use crate::probe::perf;

// Numbers from the kernel's include/uapi/linux/perf_event.h.
const PERF_TYPE_SOFTWARE: u32 = 1;
const PERF_TYPE_TRACEPOINT: u32 = 2;
const PERF_COUNT_SW_DUMMY: u64 = 9;
const PERF_SAMPLE_TID: u64 = 1 << 1;
const PERF_SAMPLE_READ: u64 = 1 << 4;

/// For whom an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// A thread, and all threads and processes that it will ever start, and those that they will.
    All,
    /// The thread, and all threads of its process that it will ever start, and those that they will.
    Process,
    /// The thread alone. (Breakpoints are in the memory of its process, and so for all threads of it.)
    This,
}

/// Opens the event of this number for a thread. It is there until the descriptor is closed; the copies
/// for those who have inherited it as well.
///
/// # Errors
///
/// What the kernel answers: ESRCH if the thread has ended.
pub fn open(number: u64, thread: u32, reach: Reach) -> io::Result<OwnedFd> {
    let mut attributes = attributes(PERF_TYPE_TRACEPOINT, number, reach);
    if reach == Reach::All && stay_with_their_threads() {
        attributes.sample_type = PERF_SAMPLE_READ | PERF_SAMPLE_TID;
    }
    perf::open(&attributes, thread)
}

/// Whether this kernel can be told to leave the events of two threads with their threads (Linux 6.12).
///
/// When a kernel switches between two threads that have inherited the same events, it swaps their lists
/// of events, which is cheaper than to switch the events. If then the one ends, the list goes that it has,
/// with the events that were made for the other, which is without breakpoints from there on. Older kernels
/// swap no lists of threads that were started by one with an event that is not inherited.
pub fn stay_with_their_threads() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        let mut attributes = attributes(PERF_TYPE_SOFTWARE, PERF_COUNT_SW_DUMMY, Reach::All);
        attributes.sample_type = PERF_SAMPLE_READ | PERF_SAMPLE_TID;
        let this = 0;
        perf::open(&attributes, this).is_ok()
    })
}

fn attributes(kind: u32, config: u64, reach: Reach) -> perf_event_attr {
    // SAFETY: a structure of numbers.
    let mut attributes: perf_event_attr = unsafe { mem::zeroed() };
    attributes.size = size_of::<perf_event_attr>() as u32;
    attributes.type_ = kind;
    attributes.config = config;
    attributes.set_disabled(1);
    attributes.set_inherit(u64::from(reach != Reach::This));
    attributes.set_inherit_thread(u64::from(reach == Reach::Process));
    attributes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_that_is_not_there() {
        let error = open(u64::from(u32::MAX), 0, Reach::This).unwrap_err();
        assert!(
            matches!(
                error.raw_os_error(),
                Some(libc::EINVAL | libc::ENOENT | libc::EACCES | libc::EPERM)
            ),
            "{error}"
        );
    }
}
