//! Who is profiled: the process, its mappings, its objects, its allocator.
//!
//! Everything here is read through a procfs and the target's own files, and none of it is trusted:
//! paths are never looked up in the host's root, and ELF files are parsed with bounds.

mod allocator;
mod allocator_names;
mod cgroup;
mod debug_files;
pub mod elf;
mod ending;
pub mod heaps;
mod hierarchy;
mod mappings;
mod module;
mod object;
pub mod pages;
mod perf_map;
pub mod proc_fs;
mod process;
mod ranges;
mod root;
mod select;
mod smaps;
mod threads;
mod usage;

pub use allocator::{Allocator, Function};
pub use allocator_names::AllocatorNames;
pub use cgroup::{Cgroup, CgroupMemory};
pub use debug_files::DebugFiles;
pub use mappings::{Library, Mapping, Mappings};
pub use module::{CodeRange, Location, Module};
pub use object::ElfObject;
#[doc(hidden)]
pub use perf_map::read_in_pieces;
pub use process::Process;
pub use select::{
    Containers, Entry, Groups, Selection, Selector, World, hidden_advice, hidden_by, select,
};
#[cfg(test)]
pub(crate) use smaps::from_text as regions_from;
pub use smaps::{Region, Smaps, Span, spans};
pub use threads::ThreadStacks;
pub use usage::Usage;

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
    /// The container it is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<ContainerInfo>,
}

/// A container, as its control group and its runtime tell of it. All but the id may hold any
/// characters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ContainerInfo {
    /// 64 hexadecimal digits; of containerd any word.
    pub id: String,
    /// `docker`, `containerd`, `cri-o` or `podman`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
    /// Its name; in a Kubernetes pod, within that pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// UID of the Kubernetes pod around it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
    /// Name of that pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_name: Option<String>,
    /// Kubernetes namespace of that pod; without a pod, containerd's namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

impl ContainerInfo {
    /// The first 12 digits of the id, as runtimes show it; a word whole.
    pub fn short_id(&self) -> &str {
        let has_digits = self.id.len() == 64 && self.id.bytes().all(|it| it.is_ascii_hexdigit());
        let digits = self.id.get(..12).filter(|_| has_digits);
        digits.unwrap_or(&self.id)
    }

    /// The shortest that people know it by: `web`, `shop-5d9/web` in a pod, or the short id.
    pub fn label(&self) -> String {
        let name = self.name.as_deref().unwrap_or_else(|| self.short_id());
        match &self.pod_name {
            Some(pod) => format!("{pod}/{name}"),
            None => name.to_owned(),
        }
    }
}

/// The allocator that was probed.
#[derive(Clone, Debug, Serialize)]
pub struct AllocatorInfo {
    /// `glibc`, `musl`, or the file name of the object that defines `malloc`.
    pub name: String,
    /// Its path in the target's own mount namespace. May hold any characters.
    pub path: String,
}
