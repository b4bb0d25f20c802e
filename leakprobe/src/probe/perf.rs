//! Perf events, by the bare system call.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::mem;
use std::os::fd::{FromRawFd, OwnedFd};

use aya_obj::generated::perf_event_attr;

/// From the kernel's include/uapi/linux/perf_event.h.
const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 8;

/// Opens an event for a thread; 0 is the one that asks. It is there until the descriptor is closed.
///
/// # Errors
///
/// What the kernel answers: ESRCH if the thread has ended.
pub fn open(attributes: &perf_event_attr, thread: u32) -> io::Result<OwnedFd> {
    let (any_cpu, no_group) = (-1, -1);
    // SAFETY: the kernel reads as much as the structure says.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            std::ptr::from_ref(attributes),
            thread as libc::pid_t,
            any_cpu,
            no_group,
            PERF_FLAG_FD_CLOEXEC,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}

/// Opens an event for whenever the thread that asks gets to an offset of a file, which counts nothing.
///
/// # Errors
///
/// What the kernel answers; or if the sysfs does not tell the number of such events.
pub fn open_uprobe(file: &CStr, offset: u64) -> io::Result<OwnedFd> {
    let number = fs::read_to_string("/sys/bus/event_source/devices/uprobe/type")?;
    let number = number.trim().parse();
    // SAFETY: a structure of numbers.
    let mut attributes: perf_event_attr = unsafe { mem::zeroed() };
    attributes.size = size_of::<perf_event_attr>() as u32;
    attributes.type_ = number.map_err(|_| io::ErrorKind::InvalidData)?;
    attributes.set_disabled(1);
    attributes.__bindgen_anon_3.config1 = file.as_ptr() as u64;
    attributes.__bindgen_anon_4.config2 = offset;
    let this = 0;
    open(&attributes, this)
}
