//! What the running kernel can do, found out by trying.
//!
//! Version numbers lie: distributions add features to old kernels and leave them out of new ones.
//! So each question is put to the kernel as the smallest request that only succeeds, or only fails
//! in its own way, where the feature is there. Nothing is left behind: whatever a request creates
//! is closed at once.

use std::os::fd::AsFd;

use anyhow::{Context, Result};
use aya::maps::MapType;
use aya::programs::ProgramType;
use aya::sys::{BpfHelper, is_helper_supported, is_map_supported, is_program_supported};

use super::multi::{self, Code, LinkKind, Places};
use crate::bpf::bpf_new;

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
        Feature::UprobeMulti => supports_uprobe_link(LinkKind::Multi)?,
        // Only a kernel that looks for processes finds fault with the PID before the path.
        Feature::UprobeMultiOfProcess => {
            supports_uprobe_link(LinkKind::Multi)?
                && try_uprobe_link(LinkKind::Multi, u32::MAX)? == libc::EINVAL
        }
        Feature::UprobeSession => supports_uprobe_link(LinkKind::Session)?,
    };
    Ok(supported)
}

// Numbers from the kernel's include/uapi/linux/bpf.h.
const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_TYPE_HASH: u32 = 1;
const BPF_F_NO_PREALLOC: u32 = 1;

/// Start of `union bpf_attr` for `BPF_MAP_CREATE`.
#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
}

fn supports_growing_hash() -> Result<bool> {
    let mut attributes = MapCreate {
        map_type: BPF_MAP_TYPE_HASH,
        key_size: 8,
        value_size: 8,
        max_entries: 1,
        map_flags: BPF_F_NO_PREALLOC,
    };
    // SAFETY: no addresses in there.
    match unsafe { bpf_new(BPF_MAP_CREATE, &mut attributes) } {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        Err(error) => Err(error).context("failed to create a BPF hash map"),
    }
}

/// The folder `/` is no file to put probes into, and a kernel that knows this kind of link says so
/// with EBADF. One that does not says EINVAL.
fn supports_uprobe_link(kind: LinkKind) -> Result<bool> {
    Ok(try_uprobe_link(kind, 0)? == libc::EBADF)
}

/// Error number of the attempt to put a probe into the folder `/`.
fn try_uprobe_link(kind: LinkKind, pid: u32) -> Result<libc::c_int> {
    let program = match multi::load(&Code::nothing(), kind) {
        Ok(program) => program,
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Ok(libc::EINVAL),
        Err(error) => return Err(error).context("failed to load an empty BPF program"),
    };
    let places = Places {
        file: c"/",
        pid,
        offsets: &[0],
        cookies: None,
        at_return: false,
    };
    match multi::link(program.as_fd(), kind, &places) {
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
