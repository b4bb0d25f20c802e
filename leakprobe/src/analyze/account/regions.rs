//! Whose each mapping is. Where a mapping does not say so itself, its marks do: flags, its place, what is next to
//! it. docs/account.md says where each of these was seen.

use super::jvm::Jvm;
use super::{Kind, Look};
use crate::target::{Region, Span};

/// glibc's arenas, but for the main one, are in heaps of this size that begin at a multiple of it
/// (`HEAP_MAX_SIZE` of its malloc/arena.c).
const ARENA: u64 = 64 << 20;

/// Programs that have V8 in them, by the names of their executables or of the library it is in.
const WITH_V8: &[&str] = &["node", "nodejs", "deno", "libnode.so"];

/// What the program is, as far as it matters here.
struct Program {
    has_v8: bool,
    /// Where Java objects are, if it is a JVM.
    jvm: Option<Jvm>,
    /// Whether its allocator maps memory that looks like any other.
    is_musl: bool,
}

/// Each part of the resident memory of the mappings by whose it is, bytes. What the allocator has is all of
/// [`Kind::Allocator`] here, but for what its own state tells.
pub(super) fn owners(look: &Look<'_>) -> Vec<(Kind, u64)> {
    let program = Program::of(look);
    let mut parts = Vec::new();
    for (at, region) in look.regions.iter().enumerate() {
        let mut rest = region.rss;
        let mut take = |kind, most: u64| {
            let bytes = most.min(rest);
            rest -= bytes;
            if bytes > 0 {
                parts.push((kind, bytes));
            }
        };
        take(Kind::Allocator, inside(region, &look.heap_spans));
        let is_of_file = region.mapping.inode != 0 && !region.shared;
        if is_of_file {
            // Pages of a file that were written to are the process's own.
            let of_the_file = region.rss.saturating_sub(region.anonymous);
            take(Kind::File, of_the_file);
            take(program.written(region), u64::MAX);
            continue;
        }
        take(Kind::ThreadStacks, inside(region, &look.stacks.stacks));
        take(program.owner(at, region, look), u64::MAX);
    }
    parts
}

/// Resident bytes of those that lie in a mapping.
fn inside(region: &Region, spans: &[Span]) -> u64 {
    let first = spans.partition_point(|it| it.start < region.start());
    let inside = spans[first..]
        .iter()
        .take_while(|it| it.end <= region.end());
    inside.map(|it| it.rss).sum()
}

impl Program {
    fn of(look: &Look<'_>) -> Self {
        let names = |wanted: &dyn Fn(&str) -> bool| {
            let mut regions = look.regions.iter().filter(|it| it.mapping.executable);
            regions.any(|it| wanted(file_name(&it.name())))
        };
        Self {
            has_v8: names(&|name| {
                WITH_V8
                    .iter()
                    .any(|it| name.strip_prefix(it).is_some_and(is_version))
            }),
            jvm: names(&|name| name == "libjvm.so").then(|| Jvm::of(look.regions)),
            is_musl: look.allocator == Some("musl")
                || look.allocator.is_none()
                    && names(&|name| {
                        name.starts_with("ld-musl-") || name.starts_with("libc.musl-")
                    }),
        }
    }

    /// Whose the pages of a private file are that were written to.
    fn written(&self, region: &Region) -> Kind {
        let of_jvm = self.jvm.as_ref().and_then(|jvm| jvm.written(region));
        of_jvm.unwrap_or(Kind::FilePrivate)
    }

    /// Whose a mapping is that is no file's, or shared; `at` is its number.
    fn owner(&self, at: usize, region: &Region, look: &Look<'_>) -> Kind {
        let name = region.name();
        if region.shared {
            return of_shared(&name);
        }
        if region.flags.grows_down || name == "[stack]" {
            return Kind::MainStack;
        }
        if name == "[heap]" || name.starts_with("[anon: glibc: malloc") {
            return Kind::Allocator;
        }
        if name.starts_with("[anon: glibc: pthread stack") {
            return Kind::ThreadStacks;
        }
        if !region.is_anonymous() || name.starts_with("[v") {
            return Kind::Device;
        }
        let before = at.checked_sub(1).and_then(|at| look.regions.get(at));
        let after = look.regions.get(at + 1);
        if let Some(kind) = self.of_runtime(region, after) {
            return kind;
        }
        if is_arena(region, after) || look.has_large_block(region) {
            return Kind::Allocator;
        }
        if before.is_some_and(|before| is_data_before(before, region)) {
            return Kind::FilePrivate;
        }
        // Where nothing tells its mappings from others, most of them are the allocator's.
        match self.is_musl && look.heap.is_none() && region.writable && !region.mapping.executable {
            true => Kind::Allocator,
            false => Kind::Anonymous,
        }
    }

    fn of_runtime(&self, region: &Region, after: Option<&Region>) -> Option<Kind> {
        // V8 keeps all that it maps from children.
        if self.has_v8 && region.flags.not_copied {
            return Some(match region.mapping.executable {
                true => Kind::V8Code,
                false => Kind::V8Heap,
            });
        }
        self.jvm.as_ref()?.owner(region, after)
    }
}

/// Whether a mapping is the used part of a heap of one of glibc's arenas; `after` is the next one.
fn is_arena(region: &Region, after: Option<&Region>) -> bool {
    let end = region.start().saturating_add(ARENA);
    let is_rest = |it: &Region| {
        it.is_anonymous() && it.is_reserved() && it.start() == region.end() && it.end() >= end
    };
    region.start().is_multiple_of(ARENA)
        && region.flags.no_reserve
        && !region.flags.not_copied
        && (region.end() == end || after.is_some_and(is_rest))
}

/// Whether a mapping is what the data of a program or a library begins with zeros (`.bss`).
fn is_data_before(before: &Region, region: &Region) -> bool {
    before.end() == region.start()
        && before.mapping.inode != 0
        && !before.shared
        && before.writable
        && region.writable
}

/// Of memory that others may share.
fn of_shared(name: &str) -> Kind {
    if name.starts_with("/memfd:java_heap") {
        return Kind::JvmHeap;
    }
    let is_memory = [
        "/memfd:",
        "/SYSV",
        "/dev/shm/",
        "/dev/zero",
        "/anon_hugepage",
    ];
    match name {
        _ if is_memory.iter().any(|it| name.starts_with(it)) => Kind::SharedMemory,
        _ if name.starts_with("/dev/") || !name.starts_with('/') => Kind::Device,
        _ => Kind::File,
    }
}

/// Without folders, and without what the kernel adds to a file that was removed.
fn file_name(path: &str) -> &str {
    let path = path.strip_suffix(" (deleted)").unwrap_or(path);
    path.rsplit('/').next().unwrap_or(path)
}

/// Whether it is nothing, or a version: `22`, `.so.108`.
fn is_version(rest: &str) -> bool {
    rest.chars()
        .all(|it| it.is_ascii_digit() || it == '.' || it == '-')
}
