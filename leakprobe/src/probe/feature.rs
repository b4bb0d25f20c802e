//! What the running kernel can do, found out by trying.
//!
//! Version numbers lie: distributions add features to old kernels and leave them out of new ones.
//! So each question is put to the kernel as the smallest request that only succeeds, or only fails
//! in its own way, where the feature is there. Nothing is left behind: whatever a request creates
//! is closed at once.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result};
use aya::maps::MapType;
use aya::programs::ProgramType;
use aya::sys::{BpfHelper, is_helper_supported, is_map_supported, is_program_supported};

/// Something that kernels have or have not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// Ring buffer maps (Linux 5.8).
    RingBuffer,
    /// Hash maps that take memory as they fill.
    GrowingHash,
    /// Raw tracepoint programs (4.17): they need no tracefs.
    RawTracepoint,
    /// The helper `bpf_loop` (5.17).
    Loop,
    /// The helper `bpf_probe_read_kernel` (5.5); locking down the kernel takes it away.
    ReadKernel,
    /// The helper `bpf_get_attach_cookie` (5.15).
    AttachCookie,
    /// One link for many user space probes (6.6).
    UprobeMulti,
    /// That link's PID filter means a process, not one thread of it (6.10, 6.9.5, 6.6.35).
    UprobeMultiOfProcess,
    /// Entry and return of a function in one program (6.13).
    UprobeSession,
}

/// Whether the running kernel has a feature.
///
/// # Errors
///
/// When the kernel refused to answer, as it does without CAP_BPF and CAP_PERFMON.
pub fn is_supported(feature: Feature) -> Result<bool> {
    let kprobe_helper = |helper| is_helper_supported(ProgramType::KProbe, helper);
    let supported = match feature {
        Feature::RingBuffer => is_map_supported(MapType::RingBuf)?,
        Feature::GrowingHash => supports_growing_hash()?,
        Feature::RawTracepoint => is_program_supported(ProgramType::RawTracePoint)?,
        Feature::Loop => kprobe_helper(BpfHelper::BPF_FUNC_loop)?,
        Feature::ReadKernel => kprobe_helper(BpfHelper::BPF_FUNC_probe_read_kernel)?,
        Feature::AttachCookie => kprobe_helper(BpfHelper::BPF_FUNC_get_attach_cookie)?,
        Feature::UprobeMulti => supports_uprobe_link(BPF_TRACE_UPROBE_MULTI)?,
        // Only a kernel that looks for processes finds fault with the PID before the path.
        Feature::UprobeMultiOfProcess => {
            supports_uprobe_link(BPF_TRACE_UPROBE_MULTI)?
                && try_uprobe_link(BPF_TRACE_UPROBE_MULTI, u32::MAX)? == libc::EINVAL
        }
        Feature::UprobeSession => supports_uprobe_link(BPF_TRACE_UPROBE_SESSION)?,
    };
    Ok(supported)
}

// Numbers from the kernel's include/uapi/linux/bpf.h; aya 0.14 does not know the last one.
const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_MAP_TYPE_HASH: u32 = 1;
const BPF_F_NO_PREALLOC: u32 = 1;
const BPF_PROG_TYPE_KPROBE: u32 = 2;
const BPF_TRACE_UPROBE_MULTI: u32 = 48;
const BPF_TRACE_UPROBE_SESSION: u32 = 57;

/// Start of `union bpf_attr` for `BPF_MAP_CREATE`.
#[repr(C)]
#[derive(Default)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
}

/// Start of `union bpf_attr` for `BPF_PROG_LOAD`.
#[repr(C)]
#[derive(Default)]
struct ProgramLoad {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    expected_attach_type: u32,
}

/// Start of `union bpf_attr` for `BPF_LINK_CREATE` with its part `uprobe_multi`.
#[repr(C)]
#[derive(Default)]
struct UprobeLinkCreate {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
    path: u64,
    offsets: u64,
    counter_offsets: u64,
    cookies: u64,
    count: u32,
    uprobe_flags: u32,
    pid: u32,
    /// Makes the size a multiple of eight without bytes of unknown content.
    zero: u32,
}

/// A request to bpf(2) that returns a file descriptor.
///
/// # Safety
///
/// Addresses in `attributes` must be those of memory that lives and is as the command demands.
unsafe fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads `attributes`, of which it is told the size; the caller answers
    // for the addresses in it.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}

fn supports_growing_hash() -> Result<bool> {
    let attributes = MapCreate {
        map_type: BPF_MAP_TYPE_HASH,
        key_size: 8,
        value_size: 8,
        max_entries: 1,
        map_flags: BPF_F_NO_PREALLOC,
    };
    // SAFETY: no addresses in there.
    match unsafe { bpf(BPF_MAP_CREATE, &attributes) } {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        Err(error) => Err(error).context("failed to create a BPF hash map"),
    }
}

/// The folder `/` is no file to put probes into, and a kernel that knows this kind of link says so
/// with EBADF. One that does not says EINVAL.
fn supports_uprobe_link(attach_type: u32) -> Result<bool> {
    Ok(try_uprobe_link(attach_type, 0)? == libc::EBADF)
}

/// Error number of the attempt to put a probe into the folder `/`.
fn try_uprobe_link(attach_type: u32, pid: u32) -> Result<libc::c_int> {
    const PATH: &CStr = c"/";
    // `r0 = 0; exit`, in the kernel's encoding.
    let instructions: [u64; 2] = [0xb7, 0x95];
    let offsets = [0_u64];
    let load = ProgramLoad {
        program_type: BPF_PROG_TYPE_KPROBE,
        instruction_count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: c"Dual MIT/GPL".as_ptr() as u64,
        expected_attach_type: attach_type,
        ..ProgramLoad::default()
    };
    // SAFETY: the instructions and the licence outlive the request.
    let program = match unsafe { bpf(BPF_PROG_LOAD, &load) } {
        Ok(program) => program,
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Ok(libc::EINVAL),
        Err(error) => return Err(error).context("failed to load an empty BPF program"),
    };
    let link = UprobeLinkCreate {
        program: program.as_raw_fd() as u32,
        attach_type,
        path: PATH.as_ptr() as u64,
        offsets: offsets.as_ptr() as u64,
        count: offsets.len() as u32,
        pid,
        ..UprobeLinkCreate::default()
    };
    // SAFETY: the path and the offsets outlive the request.
    match unsafe { bpf(BPF_LINK_CREATE, &link) } {
        Ok(_) => anyhow::bail!("the kernel put a probe into a folder"),
        Err(error) => match error.raw_os_error() {
            Some(number @ (libc::EBADF | libc::EINVAL)) => Ok(number),
            _ => Err(error).context("failed to try a link of user space probes"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::Feature::{GrowingHash, Loop, RawTracepoint, RingBuffer};

    /// Every kernel that leakprobe runs on has these.
    #[test]
    fn the_kernel_answers_or_refuses() {
        for feature in [RingBuffer, GrowingHash, RawTracepoint, Loop] {
            match super::is_supported(feature) {
                Ok(supported) => assert!(supported, "{feature:?}"),
                Err(error) => assert!(!nix::unistd::geteuid().is_root(), "{feature:?}: {error:#}"),
            }
        }
    }
}
