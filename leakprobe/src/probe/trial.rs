//! Puts a probe on leakprobe itself, to see whether this kernel lets it.
//!
//! Files in `/sys` tell that probes exist, not that this user may have one here: capabilities,
//! namespaces, security modules and the kernel's own settings all have a say. The function probed
//! is never called and the probe is removed at once.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result};
use procfs::process::Process;

/// File with the number that stands for user space probes in perf_event_open(2).
pub const UPROBE_TYPE: &str = "/sys/bus/event_source/devices/uprobe/type";

/// `PERF_FLAG_FD_CLOEXEC` of the kernel's include/uapi/linux/perf_event.h.
const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 8;

/// Start of `struct perf_event_attr`, as long as it was when user space probes came (version 1).
#[repr(C)]
#[derive(Default)]
struct PerfEventAttributes {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    breakpoint_type: u32,
    path: u64,
    offset: u64,
}

/// Probes a function of this very program, in this process only.
///
/// # Errors
///
/// What the kernel says when it does not let us; [`io::Error`] is at the root of it.
pub fn uprobe_on_self() -> Result<()> {
    let offset = file_offset(never_called as *const () as u64)?;
    // Closing the descriptor removes the probe.
    uprobe(c"/proc/self/exe", offset, 0, false)
        .map(drop)
        .context("failed to put a probe on leakprobe itself")
}

/// Puts a probe on code of a file, in one process only (0: this one), by a perf event. It is gone when
/// the descriptor is closed.
///
/// # Errors
///
/// What the kernel answers; [`io::Error`] is at the root of it.
pub fn uprobe(file: &CStr, offset: u64, pid: u32, at_return: bool) -> Result<OwnedFd> {
    let number = fs::read_to_string(UPROBE_TYPE)
        .with_context(|| format!("failed to read `{UPROBE_TYPE}`"))?;
    let kind = number.trim().parse();
    let kind = kind.with_context(|| format!("`{UPROBE_TYPE}` holds no number: {number:?}"))?;
    let attributes = PerfEventAttributes {
        kind,
        size: size_of::<PerfEventAttributes>() as u32,
        // Bit 0 means the return: `retprobe` in the format folder of the same place in /sys.
        config: u64::from(at_return),
        path: file.as_ptr() as u64,
        offset,
        ..PerfEventAttributes::default()
    };
    // SAFETY: the attributes and the path in them outlive the call, of which a PID of 0 means this process
    // and the -1 any processor and no group.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &attributes,
            pid,
            -1,
            -1,
            PERF_FLAG_FD_CLOEXEC,
        )
    };
    if fd < 0 {
        let error = io::Error::last_os_error();
        return Err(error).context("failed to open a perf event");
    }
    // SAFETY: a new descriptor that belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}

/// Runs a program whenever a perf event happens.
///
/// # Errors
///
/// What the kernel answers.
pub fn run(event: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<()> {
    /// `PERF_EVENT_IOC_SET_BPF` of the kernel's include/uapi/linux/perf_event.h.
    const PERF_EVENT_IOC_SET_BPF: libc::c_ulong = 0x4004_2408;
    // SAFETY: takes two descriptors.
    let status = unsafe {
        libc::ioctl(
            event.as_raw_fd(),
            PERF_EVENT_IOC_SET_BPF,
            program.as_raw_fd(),
        )
    };
    if status != 0 {
        return Err(io::Error::last_os_error()).context("failed to attach a program");
    }
    Ok(())
}

/// Offset of code of this program in its executable file.
///
/// # Errors
///
/// If `/proc/self/maps` cannot be read or does not have it.
pub fn file_offset(address: u64) -> Result<u64> {
    let maps = Process::myself().and_then(|process| process.maps());
    let maps = maps.context("failed to read `/proc/self/maps`")?;
    maps.iter()
        .find(|map| (map.address.0..map.address.1).contains(&address))
        .map(|map| address - map.address.0 + map.offset)
        .context("leakprobe does not find its own code in `/proc/self/maps`")
}

/// The function that is probed: `ret`, or a few instructions more.
#[inline(never)]
extern "C" fn never_called() {
    std::hint::black_box(());
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_kernel_lets_us_or_says_why() {
        if let Err(error) = super::uprobe_on_self() {
            assert!(!nix::unistd::geteuid().is_root(), "{error:#}");
            assert!(error.root_cause().is::<std::io::Error>(), "{error:#}");
        }
    }
}
