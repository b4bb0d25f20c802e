//! Who is profiled: the process, its mappings, its objects, its allocator.
//!
//! Everything here is read through `/proc` and the target's own files, and none of it is trusted:
//! paths are never looked up in the host's root, and ELF files are parsed with bounds.

mod allocator;
mod debug_files;
pub mod elf;
mod mappings;
mod module;
mod object;
pub mod pages;
mod perf_map;
mod process;
mod ranges;
mod root;

pub use allocator::{Allocator, Function};
pub use debug_files::DebugFiles;
pub use mappings::{Mapping, Mappings};
pub use module::{CodeRange, Location, Module};
pub use object::ElfObject;
#[doc(hidden)]
pub use perf_map::read_in_pieces;
pub use process::Process;

use serde::Serialize;

/// What a report says of its target.
#[derive(Clone, Debug, Serialize)]
pub struct TargetInfo {
    /// PID as the user of leakprobe sees it.
    pub pid: u32,
    /// PID as the process itself sees it; differs in a container.
    pub ns_pid: u32,
    /// Name of the main thread. May hold any characters.
    pub comm: String,
    /// Path of the executable, as in the target's own mount namespace. May hold any characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exe: Option<String>,
    /// Start of the process in clock ticks since boot, field 22 of `/proc/PID/stat`.
    pub start_time: u64,
}

/// The allocator that was probed.
#[derive(Clone, Debug, Serialize)]
pub struct AllocatorInfo {
    /// `glibc`, `musl`, or the file name of the object that defines `malloc`.
    pub name: String,
    /// Its path in the target's own mount namespace. May hold any characters.
    pub path: String,
}
