//! The table of probed functions. It drives where probes go, what the doctor shows and what the
//! tests cover; another allocator joins by lines in here.

use leakprobe_common::{Gives, SYSTEM_CALLS, Signature};

use super::site::Arguments;

/// What a function does to a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `f(size)` returns a block.
    Malloc,
    /// `f(count, size)` returns a block.
    Calloc,
    /// `f(alignment, size)` returns a block.
    AlignedAlloc,
    /// `f(result, alignment, size)` stores a block at `result` and returns 0.
    PosixMemalign,
    /// `f(old, size)` returns a block in place of another.
    Realloc,
    /// `f(old, count, size)` returns a block in place of another.
    Reallocarray,
    /// `f(block, ..)` takes a block back.
    Free,
}

impl Kind {
    /// Name of the program for the entry of the function.
    pub const fn entry_program(self) -> &'static str {
        match self {
            Kind::Free => "enter_free",
            _ => "enter_call",
        }
    }

    /// Name of the program for the return of the function, if its return matters.
    pub const fn return_program(self) -> Option<&'static str> {
        match self {
            Kind::Free => None,
            _ => Some("leave_call"),
        }
    }

    /// Whether it gives a block out.
    pub const fn gives(self) -> bool {
        !matches!(self, Kind::Free)
    }

    const fn signature(self) -> Option<Signature> {
        Some(match self {
            Kind::Malloc => Signature::sized(Gives::Returned, 0),
            Kind::Calloc => Signature::counted(Gives::Returned, 0, 1),
            Kind::AlignedAlloc => Signature::sized(Gives::Returned, 1),
            Kind::PosixMemalign => Signature::sized(Gives::Stored, 2),
            Kind::Realloc => Signature::sized(Gives::Replaced, 1),
            Kind::Reallocarray => Signature::counted(Gives::Replaced, 1, 2),
            Kind::Free => return None,
        })
    }

    /// Arguments that the entry program reads.
    pub const fn arguments(self) -> Arguments {
        match self {
            Kind::Malloc | Kind::Free => Arguments::One,
            Kind::Calloc | Kind::AlignedAlloc | Kind::Realloc => Arguments::Two,
            Kind::PosixMemalign | Kind::Reallocarray => Arguments::Three,
        }
    }
}

/// A function to probe.
#[derive(Clone, Copy, Debug)]
pub struct ProbedFunction {
    /// Its symbol.
    pub name: &'static str,
    /// What it does.
    pub kind: Kind,
    /// Whether a process cannot be profiled without it.
    pub required: bool,
}

impl ProbedFunction {
    /// What the entry program is told of it.
    pub fn signature(&self) -> Signature {
        let signature = match (self.kind.signature(), self.name) {
            (None, _) => Signature::taking(),
            (Some(signature), "malloc") => signature,
            // Whatever else gives a block out may get it from another of these.
            (Some(signature), _) => signature.forwarding(),
        };
        let number = FUNCTIONS.iter().position(|it| it.name == self.name);
        signature.numbered(number.unwrap_or_default())
    }
}

/// All functions of the C allocator interface, glibc's and musl's.
pub const FUNCTIONS: &[ProbedFunction] = &[
    required("malloc", Kind::Malloc),
    required("free", Kind::Free),
    optional("calloc", Kind::Calloc),
    optional("realloc", Kind::Realloc),
    optional("reallocarray", Kind::Reallocarray),
    optional("posix_memalign", Kind::PosixMemalign),
    optional("aligned_alloc", Kind::AlignedAlloc),
    optional("memalign", Kind::AlignedAlloc),
    optional("valloc", Kind::Malloc),
    optional("pvalloc", Kind::Malloc),
    optional("cfree", Kind::Free),
    optional("free_sized", Kind::Free),
    optional("free_aligned_sized", Kind::Free),
];

const fn required(name: &'static str, kind: Kind) -> ProbedFunction {
    ProbedFunction {
        name,
        kind,
        required: true,
    }
}

const fn optional(name: &'static str, kind: Kind) -> ProbedFunction {
    ProbedFunction {
        name,
        kind,
        required: false,
    }
}

const _: () = assert!(FUNCTIONS.len() <= SYSTEM_CALLS);

/// Their names.
pub fn names() -> Vec<&'static str> {
    FUNCTIONS.iter().map(|function| function.name).collect()
}
