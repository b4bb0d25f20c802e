//! Rules for code without unwind information, made by following what its instructions do to the
//! stack. musl is the first user: neither CFI nor frame pointers. Nothing is guessed: where paths
//! meet with different stacks, or code does with its stack what is not followed here, the rule says
//! so, and code that nothing is known to lead to is taken for a function only if all its paths leave
//! the stack as they found it.
//!
//! Compilers keep three promises that this builds on: functions return with the stack they came
//! with, they keep the callee-saved registers, and nothing writes over saved registers through
//! stray pointers.
//!
//! The work is bounded, whatever the bytes are; what is behind the bounds stays unknown.

mod discover;
mod flow;
mod functions;
mod path;
mod rows;
mod special;
mod state;
mod states;
mod step;
mod tables;
#[cfg(test)]
mod tests;
mod text;

use std::ops::Range;

use super::RuleAt;

/// An object, as far as it matters here. Addresses are as the ELF file counts.
#[derive(Clone, Copy)]
pub struct Code<'a> {
    /// Reads what the object's segments hold, code and constant data: all of a range or nothing.
    /// Without data, jump tables are not found, and the branches of switch statements often stay
    /// unknown.
    pub read: &'a dyn Fn(Range<u64>) -> Option<Vec<u8>>,
    /// Executable addresses that no unwind information covers, sorted, without overlaps.
    pub gaps: &'a [Range<u64>],
    /// Functions that the symbol tables name (STT_FUNC); empty ranges if their sizes are not known.
    pub functions: &'a [Range<u64>],
    /// What the ELF header says; 0 if nothing.
    pub entry: u64,
    /// Where relative relocations and the arrays of initialisers point to.
    pub pointers: &'a [u64],
    /// Where code begins that is known to keep frame pointers throughout, in gaps of their own:
    /// V8's embedded builtins, by their symbol.
    pub framed: &'a [u64],
}

/// Makes rules for all gaps. Sorted; each gap that is not empty has one at its start, and the last one of a gap holds
/// to the gap's end.
pub fn rows(code: &Code<'_>) -> Vec<RuleAt> {
    rows::make(code)
}
