//! The rules of the registers that matter at one address, and the one rule that says the same.

use gimli::{
    EndianSlice, Expression, LittleEndian, Operation, OperationIter, Register, X86_64 as X86,
};

use super::Unsupported;
use crate::unwind::{END, FpRule, PLT, Rule, RuleKind};

/// What unwind information says of the CFA and of three registers.
#[derive(Clone, Copy)]
pub(super) struct State {
    pub cfa: Cfa,
    pub fp: Saved,
    pub sp: Saved,
    pub ra: Saved,
}

/// How the CFA is found.
#[derive(Clone, Copy)]
pub(super) enum Cfa {
    /// A register plus bytes.
    Offset(Register, i64),
    /// The word at a register plus bytes; plus bytes.
    Deref(Register, i64, u64),
    /// As in procedure linkage tables.
    Plt,
    /// By another expression.
    Expression,
}

/// Where the caller's value of a register is.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Saved {
    /// Nothing was said.
    Unsaid,
    /// Still there.
    Same,
    /// Nowhere.
    Undefined,
    /// In memory, at the CFA plus bytes.
    AtCfa(i64),
    /// It is the CFA plus bytes.
    IsCfa(i64),
    /// In memory, at a register plus bytes.
    AtRegister(Register, i64),
    /// Elsewhere.
    Elsewhere,
}

impl Cfa {
    /// Changes register or bytes, which only a CFA that is a register plus bytes has.
    pub fn set(
        &mut self,
        register: Option<Register>,
        offset: Option<i64>,
    ) -> Result<(), Unsupported> {
        let Self::Offset(old_register, old_offset) = self else {
            return Err(Unsupported::Malformed);
        };
        *old_register = register.unwrap_or(*old_register);
        *old_offset = offset.unwrap_or(*old_offset);
        Ok(())
    }
}

impl State {
    /// Before anything is said.
    pub const UNSAID: Self = Self {
        cfa: Cfa::Offset(Register(0), 0),
        fp: Saved::Unsaid,
        sp: Saved::Unsaid,
        ra: Saved::Unsaid,
    };

    /// Where the caller's value of a register is, if that register matters.
    pub fn saved(&mut self, register: Register) -> Option<&mut Saved> {
        match register {
            X86::RBP => Some(&mut self.fp),
            X86::RSP => Some(&mut self.sp),
            X86::RA => Some(&mut self.ra),
            _ => None,
        }
    }

    /// The rule.
    pub fn rule(&self) -> Result<Rule, Unsupported> {
        match self.ra {
            Saved::Undefined => return Ok(END),
            Saved::AtCfa(-8) => {}
            _ => return Err(Unsupported::ReturnAddress),
        }
        if !matches!(self.sp, Saved::Unsaid | Saved::IsCfa(0)) {
            return Err(Unsupported::StackPointer);
        }
        let (fp, fp_offset) = self.fp_rule()?;
        let (kind, offset, add) = match self.cfa {
            Cfa::Offset(X86::RSP, offset) => (RuleKind::Sp, offset, 0),
            Cfa::Offset(X86::RBP, offset) => (RuleKind::Fp, offset, 0),
            Cfa::Deref(X86::RSP, offset, add) => (RuleKind::SpDeref, offset, add),
            Cfa::Deref(X86::RBP, offset, add) => (RuleKind::FpDeref, offset, add),
            Cfa::Plt => (RuleKind::Plt, PLT.cfa_offset.into(), 0),
            Cfa::Offset(..) | Cfa::Deref(..) => return Err(Unsupported::CfaRegister),
            Cfa::Expression => return Err(Unsupported::CfaExpression),
        };
        if add % 8 != 0 || add / 8 > 15 {
            return Err(Unsupported::Range);
        }
        Ok(Rule {
            cfa_offset: i32::try_from(offset).map_err(|_| Unsupported::Range)?,
            fp_offset,
            kind: kind as u8,
            fp: fp as u8 | (add as u8 / 8) << 4,
        })
    }

    /// How the caller's frame pointer is found.
    fn fp_rule(&self) -> Result<(FpRule, i16), Unsupported> {
        Ok(match self.fp {
            // Nobody says of a register that the callee saves that it is gone, except where
            // nobody called.
            Saved::Unsaid | Saved::Same | Saved::Undefined => (FpRule::Same, 0),
            Saved::AtCfa(offset) => (FpRule::Cfa, words(offset).ok_or(Unsupported::Range)?),
            Saved::AtRegister(register, offset) => match (register, words(offset)) {
                (X86::RBP, Some(words)) => (FpRule::Fp, words),
                (X86::RSP, Some(words)) => (FpRule::Sp, words),
                _ => (FpRule::Lost, 0),
            },
            Saved::IsCfa(_) | Saved::Elsewhere => (FpRule::Lost, 0),
        })
    }
}

/// Words of some bytes.
fn words(bytes: i64) -> Option<i16> {
    (bytes % 8 == 0)
        .then(|| i16::try_from(bytes / 8).ok())
        .flatten()
}

type Bytes<'a> = EndianSlice<'a, LittleEndian>;

/// How an expression finds the CFA.
pub(super) fn cfa(expression: Expression<Bytes<'_>>, encoding: gimli::Encoding) -> Cfa {
    parse_cfa(&mut expression.operations(encoding)).unwrap_or(Cfa::Expression)
}

fn parse_cfa(operations: &mut OperationIter<Bytes<'_>>) -> Option<Cfa> {
    let (register, offset) = register_offset(operations)?;
    match operations.next().ok()?? {
        Operation::Deref {
            size: 8,
            space: false,
            ..
        } => {}
        Operation::RegisterOffset {
            register: X86::RA,
            offset: 0,
            ..
        } if (register, offset) == (X86::RSP, 8) => return plt(operations).then_some(Cfa::Plt),
        _ => return None,
    }
    let add = match operations.next().ok()? {
        None => return Some(Cfa::Deref(register, offset, 0)),
        Some(Operation::PlusConstant { value }) => value,
        Some(_) => return None,
    };
    operations
        .next()
        .ok()?
        .is_none()
        .then_some(Cfa::Deref(register, offset, add))
}

/// Whether the rest of an expression asks if the address is at least the 11th byte of 16, and adds
/// 8 if so. Linkage tables for indirect branch tracking have another number there, because they
/// push later, or earlier: those are not followed. It makes a difference only to a signal handler
/// that interrupts the two instructions between push and jump.
fn plt(operations: &mut OperationIter<Bytes<'_>>) -> bool {
    const REST: [Operation<Bytes<'_>>; 7] = [
        Operation::UnsignedConstant { value: 15 },
        Operation::And,
        Operation::UnsignedConstant { value: 11 },
        Operation::Ge,
        Operation::UnsignedConstant { value: 3 },
        Operation::Shl,
        Operation::Plus,
    ];
    REST.iter()
        .all(|expected| matches!(operations.next(), Ok(Some(found)) if found == *expected))
        && matches!(operations.next(), Ok(None))
}

/// Where an expression says that a register was saved.
pub(super) fn saved(expression: Expression<Bytes<'_>>, encoding: gimli::Encoding) -> Saved {
    let mut operations = expression.operations(encoding);
    match register_offset(&mut operations) {
        Some((register, offset)) if matches!(operations.next(), Ok(None)) => {
            Saved::AtRegister(register, offset)
        }
        _ => Saved::Elsewhere,
    }
}

/// A register plus bytes.
fn register_offset(operations: &mut OperationIter<Bytes<'_>>) -> Option<(Register, i64)> {
    match operations.next().ok()?? {
        Operation::RegisterOffset {
            register, offset, ..
        } => Some((register, offset)),
        _ => None,
    }
}
