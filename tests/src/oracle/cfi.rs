//! The call frame information of one ELF section: which rule holds at an address, and how to carry
//! out the rare ones that framehop cannot (those with expressions). All common rules are framehop's;
//! this is also how the oracle knows that there is none, where framehop would silently try the frame
//! pointer.

use std::sync::Arc;

use gimli::{
    BaseAddresses, CfaRule, CieOrFde, DebugFrame, EhFrame, EndianSlice, Evaluation,
    EvaluationResult, Expression, LittleEndian, Register, RegisterRule, UnwindContext,
    UnwindExpression, UnwindSection, UnwindTableRow, Value, X86_64,
};

type Slice<'a> = EndianSlice<'a, LittleEndian>;

/// What the oracle knows of a thread at some frame.
#[derive(Clone, Copy, Debug)]
pub struct Registers {
    /// RIP.
    pub ip: u64,
    /// RSP.
    pub sp: u64,
    /// RBP.
    pub bp: u64,
}

/// Reads a word of the sampled stack.
pub type Memory<'a> = dyn Fn(u64) -> Option<u64> + 'a;

/// What the call frame information says of an address.
#[derive(Debug, PartialEq, Eq)]
pub enum Rule {
    /// Something that framehop does right.
    Plain,
    /// Something with an expression in it: [`Cfi::evaluate`].
    Expressions,
    /// Something that needs a register the oracle does not follow.
    OtherRegister,
}

/// `.eh_frame` or `.debug_frame`.
pub struct Cfi {
    /// Its bytes.
    pub data: Arc<[u8]>,
    /// Whether it is `.debug_frame`.
    pub is_debug: bool,
    /// Where the section is, as the file counts.
    pub address: u64,
    /// Where `.text` is, as the file counts.
    pub text: u64,
    bases: BaseAddresses,
    /// First address, end, and where in the section; sorted.
    functions: Vec<(u64, u64, usize)>,
}

impl Cfi {
    /// Makes an index of a section at `address`, in a file whose `.text` is at `text`.
    pub fn new(data: Arc<[u8]>, is_debug: bool, address: u64, text: u64) -> Cfi {
        let bases = BaseAddresses::default()
            .set_eh_frame(address)
            .set_text(text);
        let mut functions = if is_debug {
            index(&DebugFrame::new(&data, LittleEndian), &bases)
        } else {
            index(&EhFrame::new(&data, LittleEndian), &bases)
        };
        functions.sort_unstable();
        Cfi {
            data,
            is_debug,
            address,
            text,
            bases,
            functions,
        }
    }

    fn find(&self, address: u64) -> Option<usize> {
        let after = self
            .functions
            .partition_point(|&(start, ..)| start <= address);
        let &(_, end, at) = self.functions.get(after.checked_sub(1)?)?;
        (address < end).then_some(at)
    }

    /// What is said of an address; `None` if it is in no function that is described.
    pub fn rule(&self, address: u64) -> Option<Rule> {
        self.with_row(address, Look)
    }

    /// Carries out the rule at an address: the caller's registers, or `None` if memory or a
    /// register for it is missing.
    pub fn evaluate(&self, address: u64, at: Registers, memory: &Memory<'_>) -> Option<Registers> {
        self.with_row(address, Step { at, memory })?
    }

    fn with_row<T>(&self, address: u64, what: impl OnRow<T>) -> Option<T> {
        let at = self.find(address)?;
        let mut context = UnwindContext::new();
        if self.is_debug {
            let mut section = DebugFrame::new(&self.data, LittleEndian);
            section.set_address_size(8);
            let fde = section
                .fde_from_offset(&self.bases, at.into(), DebugFrame::cie_from_offset)
                .ok()?;
            let row = fde
                .unwind_info_for_address(&section, &self.bases, &mut context, address)
                .ok()?;
            Some(what.on(&section, row, fde.cie().encoding()))
        } else {
            let mut section = EhFrame::new(&self.data, LittleEndian);
            section.set_address_size(8);
            let fde = section
                .fde_from_offset(&self.bases, at.into(), EhFrame::cie_from_offset)
                .ok()?;
            let row = fde
                .unwind_info_for_address(&section, &self.bases, &mut context, address)
                .ok()?;
            Some(what.on(&section, row, fde.cie().encoding()))
        }
    }
}

fn index<'a, S: UnwindSection<Slice<'a>>>(
    section: &S,
    bases: &BaseAddresses,
) -> Vec<(u64, u64, usize)> {
    let mut found = Vec::new();
    let mut entries = section.entries(bases);
    // A damaged entry ends the index: the addresses after it count as not described.
    while let Ok(Some(entry)) = entries.next() {
        if let CieOrFde::Fde(partial) = entry
            && let Ok(fde) = partial.parse(S::cie_from_offset)
            && fde.len() > 0
        {
            let start = fde.initial_address();
            found.push((start, start.wrapping_add(fde.len()), fde.offset()));
        }
    }
    found
}

/// What to do with the row of an address; a closure cannot be generic over the section.
trait OnRow<T> {
    fn on<'a, S: UnwindSection<Slice<'a>>>(
        self,
        section: &S,
        row: &UnwindTableRow<usize>,
        encoding: gimli::Encoding,
    ) -> T;
}

struct Look;

impl OnRow<Rule> for Look {
    fn on<'a, S: UnwindSection<Slice<'a>>>(
        self,
        _: &S,
        row: &UnwindTableRow<usize>,
        _: gimli::Encoding,
    ) -> Rule {
        let mut rule = match *row.cfa() {
            CfaRule::RegisterAndOffset { register, .. }
                if register == X86_64::RSP || register == X86_64::RBP =>
            {
                Rule::Plain
            }
            CfaRule::RegisterAndOffset { .. } => Rule::OtherRegister,
            CfaRule::Expression(_) => Rule::Expressions,
        };
        for register in [X86_64::RA, X86_64::RBP] {
            match row.register(register) {
                None
                | Some(
                    RegisterRule::Undefined | RegisterRule::SameValue | RegisterRule::Offset(_),
                ) => {}
                Some(RegisterRule::Expression(_) | RegisterRule::ValExpression(_))
                    if rule != Rule::OtherRegister =>
                {
                    rule = Rule::Expressions;
                }
                Some(_) => rule = Rule::OtherRegister,
            }
        }
        rule
    }
}

struct Step<'m> {
    at: Registers,
    memory: &'m Memory<'m>,
}

impl OnRow<Option<Registers>> for Step<'_> {
    fn on<'a, S: UnwindSection<Slice<'a>>>(
        self,
        section: &S,
        row: &UnwindTableRow<usize>,
        encoding: gimli::Encoding,
    ) -> Option<Registers> {
        let run = |expression: &UnwindExpression<usize>, cfa: Option<u64>| {
            self.run(expression.get(section).ok()?, encoding, cfa)
        };
        let cfa = match row.cfa() {
            CfaRule::RegisterAndOffset { register, offset } => {
                self.register(*register)?.wrapping_add_signed(*offset)
            }
            CfaRule::Expression(expression) => run(expression, None)?,
        };
        let value = |register: Register, same: u64| match row.register(register) {
            None | Some(RegisterRule::Undefined | RegisterRule::SameValue) => Some(same),
            Some(RegisterRule::Offset(offset)) => (self.memory)(cfa.wrapping_add_signed(offset)),
            Some(RegisterRule::Expression(expression)) => {
                (self.memory)(run(&expression, Some(cfa))?)
            }
            Some(RegisterRule::ValExpression(expression)) => run(&expression, Some(cfa)),
            Some(_) => None,
        };
        Some(Registers {
            ip: value(X86_64::RA, 0)?,
            bp: value(X86_64::RBP, self.at.bp)?,
            // A signal frame says so of the stack pointer too; else it is the frame's address.
            sp: match row.register(X86_64::RSP) {
                Some(RegisterRule::Expression(_)) => value(X86_64::RSP, cfa)?,
                _ => cfa,
            },
        })
    }
}

impl Step<'_> {
    fn register(&self, register: Register) -> Option<u64> {
        match register {
            X86_64::RSP => Some(self.at.sp),
            X86_64::RBP => Some(self.at.bp),
            X86_64::RA => Some(self.at.ip),
            _ => None,
        }
    }

    fn run(
        &self,
        expression: Expression<Slice<'_>>,
        encoding: gimli::Encoding,
        cfa: Option<u64>,
    ) -> Option<u64> {
        let mut evaluation = Evaluation::new(expression.0, encoding);
        if let Some(cfa) = cfa {
            evaluation.set_initial_value(cfa);
        }
        let mut state = evaluation.evaluate().ok()?;
        loop {
            state = match state {
                EvaluationResult::Complete => break,
                EvaluationResult::RequiresRegister { register, .. } => {
                    let value = Value::Generic(self.register(register)?);
                    evaluation.resume_with_register(value).ok()?
                }
                EvaluationResult::RequiresMemory {
                    address, size: 8, ..
                } => {
                    let value = Value::Generic((self.memory)(address)?);
                    evaluation.resume_with_memory(value).ok()?
                }
                _ => return None,
            };
        }
        match evaluation.as_result().last()?.location {
            gimli::Location::Address { address } => Some(address),
            _ => None,
        }
    }
}
