//! What gimli says of unwind information: the judge of our rules.
//!
//! Rules are not compared but followed, ours and gimli's, in a made-up frame with made-up memory;
//! they agree if they find the same caller. So no code that turns the one kind into the other is
//! trusted.

use gimli::{
    BaseAddresses, CfaRule, Encoding, EvaluationResult, Expression, Format, Register, RegisterRule,
    UnwindSection, UnwindTableRow, Value, X86_64 as X86,
};

use super::Bytes;
use crate::unwind::{FpRule, Rule, RuleKind};

const ENCODING: Encoding = Encoding {
    format: Format::Dwarf32,
    version: 5,
    address_size: 8,
};

/// A made-up frame: the registers. Memory has a number at each address which depends on that alone.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// Where it is in its code.
    pub ip: u64,
    /// Stack pointer.
    pub sp: u64,
    /// Frame pointer.
    pub fp: u64,
}

fn memory(address: u64) -> u64 {
    (address ^ 0x1234_5678_9abc_def0).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 3
}

/// A caller: CFA, frame pointer and return address.
#[derive(Debug, PartialEq)]
pub enum Caller {
    /// There is none.
    End,
    /// It cannot be found.
    Unknown,
    /// What can be found of it.
    Found(u64, Option<u64>, u64),
}

/// The caller that one of our rules finds.
pub fn ours(rule: Rule, frame: Frame) -> Caller {
    let at = |base: u64| base.wrapping_add(i64::from(rule.cfa_offset) as u64);
    let add = u64::from(rule.fp >> 4) * 8;
    let kind = |kind: RuleKind| rule.kind == kind as u8;
    let cfa = match rule.kind {
        _ if kind(RuleKind::End) => return Caller::End,
        _ if kind(RuleKind::Sp) => at(frame.sp),
        _ if kind(RuleKind::Fp) => at(frame.fp),
        _ if kind(RuleKind::SpDeref) => memory(at(frame.sp)).wrapping_add(add),
        _ if kind(RuleKind::FpDeref) => memory(at(frame.fp)).wrapping_add(add),
        _ if kind(RuleKind::Plt) => frame.sp.wrapping_add(match frame.ip % 16 {
            ..11 => 8,
            11.. => 16,
        }),
        _ => return Caller::Unknown,
    };
    let word = |base: u64| memory(base.wrapping_add((i64::from(rule.fp_offset) * 8) as u64));
    let fp = match rule.fp & 15 {
        kind if kind == FpRule::Same as u8 => Some(frame.fp),
        kind if kind == FpRule::Cfa as u8 => Some(word(cfa)),
        kind if kind == FpRule::Fp as u8 => Some(word(frame.fp)),
        kind if kind == FpRule::Sp as u8 => Some(word(frame.sp)),
        _ => None,
    };
    Caller::Found(cfa, fp, memory(cfa.wrapping_sub(8)))
}

/// The caller that gimli finds. Registers that the frame does not have are unknown.
pub fn gimli<'a, S>(row: &UnwindTableRow<usize>, section: &S, frame: Frame) -> Caller
where
    S: UnwindSection<Bytes<'a>>,
{
    let evaluate =
        |expression: Expression<Bytes<'_>>, initial| evaluate(expression, frame, initial);
    let cfa = match row.cfa() {
        CfaRule::RegisterAndOffset { register, offset } => {
            value(*register, frame).map(|base| base.wrapping_add(*offset as u64))
        }
        CfaRule::Expression(expression) => {
            let expression = expression.get(section).expect("it lies in the section");
            evaluate(expression, None)
        }
    };
    let find = |register, unsaid: Option<u64>| match row.register(register) {
        None => unsaid,
        Some(RegisterRule::SameValue) => value(register, frame),
        Some(RegisterRule::Offset(offset)) => {
            cfa.map(|cfa| memory(cfa.wrapping_add(offset as u64)))
        }
        Some(RegisterRule::ValOffset(offset)) => cfa.map(|cfa| cfa.wrapping_add(offset as u64)),
        Some(RegisterRule::Register(register)) => value(register, frame),
        Some(RegisterRule::Expression(expression)) => {
            let expression = expression.get(section).expect("it lies in the section");
            evaluate(expression, cfa).map(memory)
        }
        Some(RegisterRule::ValExpression(expression)) => {
            let expression = expression.get(section).expect("it lies in the section");
            evaluate(expression, cfa)
        }
        Some(_) => None,
    };
    if row.register(X86::RA) == Some(RegisterRule::Undefined) {
        return Caller::End;
    }
    let fp = match row.register(X86::RBP) {
        Some(RegisterRule::Undefined) => Some(frame.fp),
        _ => find(X86::RBP, Some(frame.fp)),
    };
    match (cfa, find(X86::RSP, cfa), find(X86::RA, None)) {
        (Some(cfa), Some(sp), Some(ra)) if sp == cfa => Caller::Found(cfa, fp, ra),
        _ => Caller::Unknown,
    }
}

fn value(register: Register, frame: Frame) -> Option<u64> {
    match register {
        X86::RSP => Some(frame.sp),
        X86::RBP => Some(frame.fp),
        X86::RA => Some(frame.ip),
        _ => None,
    }
}

/// What an expression results in, if it needs nothing that the frame does not have.
fn evaluate(expression: Expression<Bytes<'_>>, frame: Frame, initial: Option<u64>) -> Option<u64> {
    let mut evaluation = expression.evaluation(ENCODING);
    if let Some(initial) = initial {
        evaluation.set_initial_value(initial);
    }
    evaluation.set_max_iterations(100);
    let mut result = evaluation.evaluate().ok()?;
    loop {
        result = match result {
            EvaluationResult::Complete => break,
            EvaluationResult::RequiresRegister { register, .. } => {
                let value = Value::Generic(value(register, frame)?);
                evaluation.resume_with_register(value).ok()?
            }
            EvaluationResult::RequiresMemory {
                address, size: 8, ..
            } => {
                let value = Value::Generic(memory(address));
                evaluation.resume_with_memory(value).ok()?
            }
            _ => return None,
        };
    }
    match evaluation.value_result()? {
        Value::Generic(value) => Some(value),
        _ => None,
    }
}

/// Panics unless a rule finds the caller that gimli's row finds, or may leave it.
pub fn compare<'a, S>(rule: Rule, row: &UnwindTableRow<usize>, section: &S, ip: u64)
where
    S: UnwindSection<Bytes<'a>>,
{
    let frame = Frame {
        ip,
        sp: 0x7ffd_1234_5678,
        fp: 0x7ffd_4321_8760,
    };
    let (found, expected) = (ours(rule, frame), gimli(row, section, frame));
    let agree = match (&found, &expected) {
        (Caller::Unknown, _) => !is_simple(row, section),
        (Caller::Found(cfa, None, ra), Caller::Found(other_cfa, _, other_ra)) => {
            (cfa, ra) == (other_cfa, other_ra) && !has_simple_fp(row)
        }
        _ => found == expected,
    };
    assert!(
        agree,
        "at {ip:#x}: {rule:?} finds {found:x?}, gimli finds {expected:x?} by {row:?}"
    );
}

/// Whether a row is of the kind that must have a rule, in its plainest form.
fn is_simple<'a, S: UnwindSection<Bytes<'a>>>(row: &UnwindTableRow<usize>, section: &S) -> bool {
    let simple_cfa = match row.cfa() {
        CfaRule::RegisterAndOffset { register, offset } => {
            [X86::RSP, X86::RBP].contains(register) && i32::try_from(*offset).is_ok()
        }
        CfaRule::Expression(expression) => {
            let bytes = expression.get(section).expect("it lies in the section").0;
            // breg6 or breg7 with an offset of one byte; deref; plus_uconst of a word or none.
            matches!(
                *bytes.slice(),
                [0x76 | 0x77, ..0x80, 6] | [0x76 | 0x77, ..0x80, 6, 0x23, 0 | 8]
            ) || *bytes.slice() == [0x77, 8, 0x80, 0, 0x3f, 0x1a, 0x3b, 0x2a, 0x33, 0x24, 0x22]
        }
    };
    row.register(X86::RA) == Some(RegisterRule::Undefined)
        || simple_cfa
            && row.register(X86::RA) == Some(RegisterRule::Offset(-8))
            && row.register(X86::RSP).is_none()
            && (has_simple_fp(row)
                || !matches!(row.register(X86::RBP), Some(RegisterRule::Offset(_))))
}

/// Whether the frame pointer must not get lost.
fn has_simple_fp(row: &UnwindTableRow<usize>) -> bool {
    match row.register(X86::RBP) {
        None | Some(RegisterRule::SameValue | RegisterRule::Undefined) => true,
        Some(RegisterRule::Offset(offset)) => offset % 8 == 0 && i16::try_from(offset / 8).is_ok(),
        _ => false,
    }
}

/// Compares rules with all rows of a section's functions, at both ends of each row. Returns how
/// many rows there were.
pub fn compare_all<'a, S>(
    section: &S,
    bases: &BaseAddresses,
    rule_at: impl Fn(u64) -> Rule,
) -> usize
where
    S: UnwindSection<Bytes<'a>>,
{
    let mut context = gimli::UnwindContext::new();
    let mut entries = section.entries(bases);
    let mut rows = 0;
    while let Some(entry) = entries.next().expect("gimli reads it") {
        let gimli::CieOrFde::Fde(fde) = entry else {
            continue;
        };
        let fde = fde.parse(S::cie_from_offset).expect("gimli reads it");
        if fde.is_signal_trampoline() {
            continue;
        }
        let mut table = fde.rows(section, bases, &mut context).expect("a table");
        while let Some(row) = table.next_row().expect("a row") {
            let end = row.end_address().min(fde.end_address());
            if row.start_address() < end {
                compare(
                    rule_at(row.start_address()),
                    row,
                    section,
                    row.start_address(),
                );
                compare(rule_at(end - 1), row, section, end - 1);
                rows += 1;
            }
        }
    }
    rows
}
