//! What is mapped, by stack and by who did it.
//!
//! Allocators are told by the kernel side, as far as their code is known to it: parts of one that is linked into the
//! program are found here, by their names. What runtimes map for their own heaps and code is told here, by
//! the names of the functions that do so; what has other names is the program's.

use serde::Serialize;

use super::{Frame, Names};
use crate::probe::functions::FUNCTIONS;
use crate::snapshot::mappings::{Advised, Summary};
use crate::snapshot::{Mapped, Stacks};

/// How near to the leaf a name must be.
const NEAR: usize = 8;

/// What the functions of runtimes are called that map memory for their own purposes: V8, CPython's allocator
/// of small objects, Go.
const RUNTIME_FUNCTIONS: [&str; 6] = [
    "v8::",
    "node::",
    "_PyObject_Arena",
    "_PyMem_Arena",
    "new_arena",
    "runtime.sysAlloc",
];

/// Libraries that are nothing but a runtime.
const RUNTIME_MODULES: [&str; 2] = ["libjvm.so", "libcoreclr.so"];

/// Who has mapped something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Owner {
    /// The program, or a library that it uses.
    Program,
    /// An allocator, for its blocks.
    Allocator,
    /// A runtime, for its heap or its code.
    Runtime,
}

/// What one stack has mapped and not unmapped.
#[derive(Clone, Debug, Serialize)]
pub struct MappedStack {
    /// Who.
    pub owner: Owner,
    /// Addresses.
    #[serde(flatten)]
    pub mapped: Mapped,
    /// Bytes of them that are memory, or swapped out; `None` if the process had ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resident_bytes: Option<u64>,
    /// Age of the oldest, nanoseconds.
    pub oldest_ns: u64,
    /// Age of the newest, nanoseconds.
    pub newest_ns: u64,
    /// Why the frames end before the thread's start; `None` for a whole stack.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<&'static str>,
    /// Frames, leaf first: the first is the function that makes the system call; of an allocator, its caller.
    pub frames: Vec<Frame>,
}

/// What the process has mapped for itself alone since the attach.
#[derive(Clone, Debug, Serialize)]
pub struct Mappings {
    /// Sum of the program's.
    pub program: Mapped,
    /// Sum of the runtime's.
    pub runtime: Mapped,
    /// Sum of the allocators'.
    pub allocator: Mapped,
    /// What was mapped at the attach and still is, bytes.
    pub before_bytes: u64,
    /// What the kernel was told that it may take back.
    pub advised: Advised,
    /// What was mapped since by calls that were not seen, bytes; `None` if that was not looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unexplained_bytes: Option<u64>,
    /// By stack, most bytes first.
    pub stacks: Vec<MappedStack>,
}

impl Mappings {
    /// Gives names to a summary.
    pub(super) fn of(summary: &Summary, stacks: &Stacks, names: &mut Names) -> Self {
        let traces = summary.stacks.iter().filter_map(|it| stacks.get(&it.key));
        names.learn(traces.flat_map(|trace| &*trace.frames));
        let mut this = Self {
            program: Mapped::default(),
            runtime: Mapped::default(),
            allocator: Mapped::default(),
            before_bytes: summary.before_bytes,
            advised: summary.advised,
            unexplained_bytes: summary.disagreement.map(|it| it.unexplained),
            stacks: Vec::new(),
        };
        for stack in &summary.stacks {
            let trace = stacks.get(&stack.key);
            let frames = trace
                .into_iter()
                .flat_map(|trace| trace.frames.iter().map(move |it| (trace, it)));
            let frames: Vec<Frame> = frames
                .flat_map(|(trace, it)| names.get(it, stacks.late_name(trace, it)).to_vec())
                .collect();
            let owner = match stack.by_allocator {
                true => Owner::Allocator,
                false => owner(&frames),
            };
            *this.sum_of(owner) += stack.mapped;
            this.stacks.push(MappedStack {
                owner,
                mapped: stack.mapped,
                resident_bytes: stack.resident_bytes,
                oldest_ns: stack.ages.0,
                newest_ns: stack.ages.1,
                end: trace.and_then(|trace| trace.end.name()),
                frames,
            });
        }
        this
    }

    fn sum_of(&mut self, owner: Owner) -> &mut Mapped {
        match owner {
            Owner::Program => &mut self.program,
            Owner::Allocator => &mut self.allocator,
            Owner::Runtime => &mut self.runtime,
        }
    }
}

/// Whose a stack is of which the kernel side knows no allocator.
fn owner(frames: &[Frame]) -> Owner {
    fn function(frame: &Frame) -> &str {
        frame.function.as_deref().unwrap_or_default()
    }
    let is_allocator = |frame: &Frame| {
        let name = function(frame);
        // As C libraries call their own.
        let name = name.strip_prefix("__libc_").unwrap_or(name);
        let name = name.strip_suffix("_impl").unwrap_or(name);
        FUNCTIONS.iter().any(|function| function.name == name)
    };
    let is_runtime = |frame: &Frame| {
        let function = function(frame);
        let module = frame.module.as_deref().unwrap_or_default();
        RUNTIME_FUNCTIONS.iter().any(|it| function.starts_with(it))
            || RUNTIME_MODULES.contains(&module)
    };
    let near = &frames[..frames.len().min(NEAR)];
    if near.iter().any(is_allocator) {
        Owner::Allocator
    } else if near.iter().any(is_runtime) {
        Owner::Runtime
    } else {
        Owner::Program
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners() {
        let frame = |function: &str, module: &str| Frame {
            function: Some(function.into()),
            module: Some(module.into()),
            ..Frame::default()
        };
        let libc = frame("mmap64", "libc.so.6");
        let v8 = frame("v8::base::OS::Allocate(void*, unsigned long)", "node");
        assert_eq!(owner(&[libc.clone(), v8]), Owner::Runtime);
        assert_eq!(
            owner(&[libc.clone(), frame("os::reserve", "libjvm.so")]),
            Owner::Runtime
        );
        let realloc = frame("__libc_realloc", "a.out");
        assert_eq!(owner(&[libc.clone(), realloc]), Owner::Allocator);
        assert_eq!(owner(&[libc, frame("main", "a.out")]), Owner::Program);
        assert_eq!(owner(&[]), Owner::Program);
    }
}
