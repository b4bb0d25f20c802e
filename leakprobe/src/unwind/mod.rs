//! Unwind tables: how each place of a target's code is left for its caller, in the form that the
//! kernel side walks stacks by.
//!
//! `image` reads an object with bounds; `cfi` makes rules of its unwind information, `synth` of its
//! code where there is none, `object` puts both together. `table` packs the rules of an object, `cache`
//! keeps tables on disk, `kernel` puts them into the kernel side's maps (`chunks` says which row goes
//! where), and `unwinder` keeps those in step with what the target has mapped; `contents` says what that
//! is. `survey` tells people how much of a target's code can be unwound.
//!
//! All of it is hostile input: nothing here panics, hangs or takes more memory than the limits say.

mod cache;
pub mod cfi;
mod chunks;
mod contents;
pub mod image;
mod kernel;
mod object;
pub mod survey;
pub mod synth;
mod table;
#[cfg(test)]
mod test_elf;
mod unwinder;

#[doc(hidden)]
pub use cache::{read_again, write_some};
#[doc(hidden)]
pub use object::rules;

pub use cache::Cache;
pub use kernel::KernelTables;
pub use unwinder::Unwinder;

pub use leakprobe_common::{FpRule, Rule, RuleKind};

/// A rule, and the address from which on it holds, until the next one's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleAt {
    /// Address as the ELF file counts.
    pub address: u64,
    /// The rule.
    pub rule: Rule,
}

/// Rule of code without unwind information.
pub const NONE: Rule = simple(RuleKind::None);
/// Rule of code whose unwind information cannot be followed.
pub const UNSUPPORTED: Rule = simple(RuleKind::Unsupported);
/// Rule of the outermost frame.
pub const END: Rule = simple(RuleKind::End);
/// Rule of procedure linkage tables.
pub const PLT: Rule = simple(RuleKind::Plt);
/// Rule of signal trampolines.
pub const SIGNAL: Rule = simple(RuleKind::Signal);
/// Rule of code that keeps frame pointers and says nothing else.
pub const FRAME_POINTER: Rule = Rule {
    cfa_offset: 16,
    fp_offset: -2,
    kind: RuleKind::Fp as u8,
    fp: FpRule::Cfa as u8,
};

const fn simple(kind: RuleKind) -> Rule {
    Rule {
        cfa_offset: 0,
        fp_offset: 0,
        kind: kind as u8,
        fp: FpRule::Same as u8,
    }
}
