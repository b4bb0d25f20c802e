//! Puts a probe on leakprobe itself, to see whether this kernel lets it.
//!
//! Files in `/sys` tell that probes exist, not that this user may have one here: capabilities,
//! namespaces, security modules and the kernel's own settings all have a say. The function probed
//! is never called and the probe is removed at once.

use std::fs;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

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
    let number = fs::read_to_string(UPROBE_TYPE)
        .with_context(|| format!("failed to read `{UPROBE_TYPE}`"))?;
    let kind = number.trim().parse();
    let kind = kind.with_context(|| format!("`{UPROBE_TYPE}` holds no number: {number:?}"))?;
    let offset = file_offset(never_called as *const () as u64)?;
    let attributes = PerfEventAttributes {
        kind,
        size: size_of::<PerfEventAttributes>() as u32,
        path: c"/proc/self/exe".as_ptr() as u64,
        offset,
        ..PerfEventAttributes::default()
    };
    // SAFETY: the attributes and the path in them outlive the call, of which 0 means this process
    // and the -1 any processor and no group.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &attributes,
            0,
            -1,
            -1,
            PERF_FLAG_FD_CLOEXEC,
        )
    };
    if fd < 0 {
        let error = io::Error::last_os_error();
        return Err(error).context("failed to put a probe on leakprobe itself");
    }
    // SAFETY: a new descriptor that belongs to nobody else; closing it removes the probe.
    drop(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) });
    Ok(())
}

/// Offset of code of this program in its executable file.
fn file_offset(address: u64) -> Result<u64> {
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
