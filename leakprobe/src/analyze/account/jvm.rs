//! What HotSpot has mapped. It reserves addresses (`nr`, untouchable) and maps what it uses over them, without
//! that flag; the C library's arenas keep it.

use super::Kind;
use super::runs::{Run, runs};
use crate::target::Region;

/// Java objects are below this address, unless the heap is too large for that (`-XX:+UseCompressedOops`).
const COMPRESSED_OOPS: u64 = 32 << 30;

/// Metaspace comes from the kernel in so many bytes at a time (`VirtualSpaceNodeDefaultSize` of HotSpot's
/// memory/metaspace/metaspaceSettings.hpp), at a multiple of the least size of its largest chunks.
const METASPACE_NODE: u64 = 64 << 20;
const METASPACE_ALIGNMENT: u64 = 4 << 20;

/// Addresses for compressed class pointers, if `-XX:CompressedClassSpaceSize` does not say otherwise.
const CLASS_SPACE: u64 = 1 << 30;

/// How files end in which JVMs share classes: `classes.jsa`, `classes_nocoops.jsa`.
const ARCHIVE: &str = ".jsa";

/// Addresses of a JVM.
pub(super) struct Jvm {
    heap: Option<Run>,
    classes: Vec<Run>,
}

impl Jvm {
    pub(super) fn of(regions: &[Region]) -> Self {
        let runs = runs(regions, COMPRESSED_OOPS, |it| {
            let is_arena = it.writable && it.flags.no_reserve;
            is_archive(it)
                || it.is_anonymous() && it.name().is_empty() && !is_arena && !it.flags.stack
        });
        let heap = heap(regions, &runs);
        let mut classes = Vec::new();
        for run in runs.iter().filter(|it| Some(**it) != heap) {
            let parts = || regions.iter().filter(|it| run.holds(it));
            // The space for classes is reserved together with the archive before it, or alone.
            let archive = parts().find(|it| is_archive(it));
            let first = archive.or_else(|| {
                let mut all = parts();
                all.find(|it| run.end - it.start() == CLASS_SPACE && !it.mapping.executable)
            });
            if let Some(first) = first {
                classes.push(Run {
                    start: first.start(),
                    end: run.end,
                });
            }
            for start in parts().filter(|it| it.writable).map(Region::start) {
                let node = Run {
                    start,
                    end: start.saturating_add(METASPACE_NODE),
                };
                let ends = node.end == run.end || parts().any(|it| it.start() == node.end);
                let mut inside =
                    parts().filter(|it| it.end() > node.start && it.start() < node.end);
                if start.is_multiple_of(METASPACE_ALIGNMENT)
                    && ends
                    && inside.all(|it| !it.mapping.executable && !is_archive(it))
                {
                    classes.push(node);
                }
            }
        }
        Self { heap, classes }
    }

    /// What of it a mapping of a file is that was written to.
    pub(super) fn written(&self, region: &Region) -> Option<Kind> {
        is_archive(region).then(|| match self.heap {
            Some(heap) if heap.holds(region) => Kind::JvmHeap,
            _ => Kind::JvmMetaspace,
        })
    }

    /// What of it an anonymous mapping is; `after` is the next one.
    pub(super) fn owner(&self, region: &Region, after: Option<&Region>) -> Option<Kind> {
        if region.mapping.executable {
            return Some(Kind::JvmCode);
        }
        if self.heap.is_some_and(|heap| heap.holds(region)) {
            return Some(Kind::JvmHeap);
        }
        if self.classes.iter().any(|run| run.holds(region)) {
            return Some(Kind::JvmMetaspace);
        }
        // It has reserved more than it uses.
        let is_rest = |after: &Region| {
            let is_next = after.is_anonymous() && after.start() == region.end();
            is_next && after.is_reserved() && after.flags.no_reserve
        };
        (!region.flags.no_reserve && after.is_some_and(is_rest)).then_some(Kind::JvmGc)
    }
}

/// The Java heap. If its addresses are below the limit, classes' may be, too; else only those.
fn heap(regions: &[Region], runs: &[Run]) -> Option<Run> {
    let largest = |is_low: bool| {
        let runs = runs
            .iter()
            .filter(|it| (it.end <= COMPRESSED_OOPS) == is_low);
        runs.max_by_key(|it| it.size()).copied()
    };
    let has_archive = |run: &Run| regions.iter().any(|it| run.holds(it) && is_archive(it));
    let low = largest(true);
    let high = largest(false).filter(|it| it.size() > CLASS_SPACE && !has_archive(it));
    match (low, high) {
        (Some(low), Some(high)) if low.size() == CLASS_SPACE => Some(high),
        (low, high) => low.or(high),
    }
}

fn is_archive(region: &Region) -> bool {
    region.name().ends_with(ARCHIVE)
}
