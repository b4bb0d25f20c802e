//! The ring buffer of a perf event, as the kernel lays it out: one page of positions, then the
//! records. It hands out records and counts the lost ones, and knows nothing of what is in them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use perf_event_open_sys::bindings::{PERF_RECORD_LOST, PERF_RECORD_SAMPLE, perf_event_mmap_page};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// Bytes of records; a power of two.
const SIZE: usize = 32 << 20;
const PAGE: usize = 4096;

/// A mapped ring buffer.
pub struct Ring {
    fd: OwnedFd,
    memory: *mut u8,
}

// SAFETY: the memory belongs to the `Ring` alone.
unsafe impl Send for Ring {}

impl Ring {
    /// Maps the ring buffer of an event. Panics when the kernel refuses.
    pub fn map(event: BorrowedFd<'_>) -> Ring {
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: a new mapping at a place of the kernel's choice.
        let memory = unsafe {
            let at = std::ptr::null_mut();
            mmap(at, PAGE + SIZE, protection, flags, event, 0)
        };
        Ring {
            memory: memory
                .unwrap_or_else(|error| panic!("failed to map a perf ring buffer: {error}"))
                .cast(),
            fd: event
                .try_clone_to_owned()
                .expect("failed to duplicate a file descriptor"),
        }
    }

    /// What to poll.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Hands out each sample that has arrived, without its header. Gives how many were lost.
    pub fn drain(&mut self, mut sample: impl FnMut(&[u8])) -> u64 {
        let (head, tail) = self.positions();
        let end = head.load(Ordering::Acquire);
        let mut at = tail.load(Ordering::Relaxed);
        let mut lost = 0;
        let mut record = Vec::new();
        while at < end {
            self.copy(at, 8, &mut record);
            let kind = u32::from_ne_bytes([record[0], record[1], record[2], record[3]]);
            let size = u16::from_ne_bytes([record[6], record[7]]);
            self.copy(at, size.into(), &mut record);
            match kind {
                PERF_RECORD_SAMPLE => sample(&record[8..]),
                // Its header, an id, and the number.
                PERF_RECORD_LOST => {
                    lost += u64::from_ne_bytes(record[16..24].try_into().expect("8 bytes"));
                }
                _ => {}
            }
            at += u64::from(size);
            tail.store(at, Ordering::Release);
        }
        lost
    }

    fn positions(&self) -> (&AtomicU64, &AtomicU64) {
        let page = self.memory.cast::<perf_event_mmap_page>();
        // SAFETY: the first page is this structure, and both sides use the two words atomically.
        unsafe {
            (
                AtomicU64::from_ptr(&raw mut (*page).data_head),
                AtomicU64::from_ptr(&raw mut (*page).data_tail),
            )
        }
    }

    fn copy(&self, at: u64, len: usize, into: &mut Vec<u8>) {
        let start = at as usize % SIZE;
        let first = len.min(SIZE - start);
        into.clear();
        // SAFETY: both parts lie within the records, and the kernel does not write there before
        // the tail has moved on.
        unsafe {
            let records = self.memory.add(PAGE);
            into.extend_from_slice(std::slice::from_raw_parts(records.add(start), first));
            into.extend_from_slice(std::slice::from_raw_parts(records, len - first));
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: it is our mapping, and nobody has a reference into it any more.
        let _ = unsafe { munmap(self.memory.cast(), PAGE + SIZE) };
    }
}
