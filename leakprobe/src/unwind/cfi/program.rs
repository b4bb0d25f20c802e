//! Runs the programs that unwind information consists of, each of which makes the rows of one
//! function.

use anyhow::{Result, bail};
use gimli::{
    BaseAddresses, CallFrameInstruction as Instruction, CommonInformationEntry, Error,
    FrameDescriptionEntry, UnwindSection, X86_64 as X86,
};

use super::join::{Part, Range};
use super::state::{self, Cfa, Saved, State};
use super::{Bytes, Cie, Cies, MAX_ROWS, Unsupported};
use crate::unwind::image::Image;
use crate::unwind::{Rule, RuleAt, SIGNAL, UNSUPPORTED};

/// States that a program may have remembered at one time. Compilers nest two.
const MAX_REMEMBERED: usize = 64;

/// Signal frames whose code is read, at most: each costs a system call. There should be two.
const MAX_SIGNAL_FRAMES: usize = 1 << 10;

/// What a signal handler returns to: `mov $15,%rax; syscall`, in Linux's numbers.
const SIGNAL_CODE: [u8; 9] = [0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05];

/// Runs the programs of some functions.
pub(super) struct Worker<'w, 'a, S> {
    image: &'w Image,
    section: &'w S,
    bases: &'w BaseAddresses,
    cies: &'w Cies<'a>,
    remembered: Vec<State>,
    signal_frames: usize,
    /// What it has made so far.
    pub part: Part,
}

impl<'w, 'a, S: UnwindSection<Bytes<'a>>> Worker<'w, 'a, S> {
    pub fn new(
        image: &'w Image,
        section: &'w S,
        bases: &'w BaseAddresses,
        cies: &'w Cies<'a>,
    ) -> Self {
        Self {
            image,
            section,
            bases,
            cies,
            remembered: Vec::new(),
            signal_frames: 0,
            part: Part::default(),
        }
    }

    /// Makes the rows of the functions whose entries are at some offsets.
    pub fn run(&mut self, offsets: &[usize]) -> Result<()> {
        self.part.ranges.reserve(offsets.len());
        self.part
            .rows
            .reserve(offsets.len().saturating_mul(4).min(MAX_ROWS));
        for &offset in offsets {
            self.entry(offset);
            if self.part.rows.len() > MAX_ROWS {
                bail!("there are more than {MAX_ROWS} rows of it");
            }
        }
        Ok(())
    }

    /// Makes the rows of one entry, unless it is not about code.
    fn entry(&mut self, offset: usize) {
        let (section, cies) = (self.section, self.cies);
        let mut common = None;
        let fde = section.fde_from_offset(self.bases, offset.into(), |_, _, offset| {
            let offset = gimli::UnwindOffset::into(offset);
            common = cies.get(&offset);
            let found = common.ok_or(Error::NotCieId(offset as u64))?;
            Ok(found.entry.clone())
        });
        let (Ok(fde), Some(cie)) = (fde, common) else {
            *self
                .part
                .unsupported
                .entry(Unsupported::Malformed)
                .or_default() += 1;
            return;
        };
        let (start, end) = (fde.initial_address(), fde.end_address());
        let segment = self.image.segment(start);
        if start >= end || segment.is_none_or(|segment| end > segment.end()) {
            return;
        }
        let first = self.part.rows.len();
        if fde.is_signal_trampoline() {
            let rule = self.signal_rule(start, end);
            self.push(first, start, rule);
        } else {
            let mut address = start;
            if let Err(reason) = self.program(&fde, cie, first, &mut address) {
                self.push(first, address, Err(reason));
            }
        }
        self.part.ranges.push(Range {
            start,
            end,
            first,
            count: self.part.rows.len() - first,
        });
    }

    /// Makes the rows of a function, and leaves the address where it failed if it does.
    fn program(
        &mut self,
        fde: &FrameDescriptionEntry<Bytes<'a>>,
        cie: &Cie<'a>,
        first: usize,
        address: &mut u64,
    ) -> Result<(), Unsupported> {
        let initial = cie.state?;
        let mut state = initial;
        self.remembered.clear();
        let mut instructions = fde.instructions(self.section, self.bases);
        while let Some(instruction) = instructions.next().map_err(malformed)? {
            let next = match instruction {
                Instruction::AdvanceLoc { delta } => u64::from(delta)
                    .wrapping_mul(cie.entry.code_alignment_factor())
                    .checked_add(*address),
                Instruction::SetLoc { address } => Some(address),
                Instruction::RememberState if self.remembered.len() < MAX_REMEMBERED => {
                    self.remembered.push(state);
                    continue;
                }
                Instruction::RestoreState => {
                    state = self.remembered.pop().ok_or(Unsupported::Malformed)?;
                    continue;
                }
                Instruction::Restore { register } => {
                    let mut initial = initial;
                    if let (Some(to), Some(from)) = (state.saved(register), initial.saved(register))
                    {
                        *to = *from;
                    }
                    continue;
                }
                _ => {
                    apply(instruction, &mut state, self.section, &cie.entry)?;
                    continue;
                }
            };
            let next = next.filter(|next| next >= address);
            let next = next.ok_or(Unsupported::Malformed)?;
            if next > *address {
                self.push(first, *address, state.rule());
            }
            if next >= fde.end_address() {
                return Ok(());
            }
            *address = next;
        }
        self.push(first, *address, state.rule());
        Ok(())
    }

    /// Adds a row to those of a function, which begin at number `first`.
    fn push(&mut self, first: usize, address: u64, rule: Result<Rule, Unsupported>) {
        let rule = rule.unwrap_or_else(|reason| {
            *self.part.unsupported.entry(reason).or_default() += 1;
            UNSUPPORTED
        });
        let rows = &mut self.part.rows;
        let same = rows[first..].last().is_some_and(|last| last.rule == rule);
        // One row more than allowed is enough to be an error.
        if !same && rows.len() <= MAX_ROWS {
            rows.push(RuleAt { address, rule });
        }
    }

    /// The rule of code which its unwind information calls a signal trampoline. C libraries let
    /// that start a byte early, for those who look up a return address minus one.
    fn signal_rule(&mut self, start: u64, end: u64) -> Result<Rule, Unsupported> {
        self.signal_frames += 1;
        if self.signal_frames > MAX_SIGNAL_FRAMES {
            return Err(Unsupported::SignalFrame);
        }
        let end = end.min(start + 1 + SIGNAL_CODE.len() as u64);
        match self.image.code(start..end) {
            Ok(code) if code.starts_with(&SIGNAL_CODE) || code.ends_with(&SIGNAL_CODE) => {
                Ok(SIGNAL)
            }
            _ => Err(Unsupported::SignalFrame),
        }
    }
}

/// The state that a common entry starts its functions with.
pub(super) fn initial<'a, S: UnwindSection<Bytes<'a>>>(
    section: &S,
    bases: &BaseAddresses,
    entry: &CommonInformationEntry<Bytes<'a>>,
) -> Result<State, Unsupported> {
    if entry.return_address_register() != X86::RA {
        return Err(Unsupported::ReturnAddress);
    }
    let mut state = State::UNSAID;
    let mut instructions = entry.instructions(section, bases);
    while let Some(instruction) = instructions.next().map_err(malformed)? {
        match instruction {
            // There is no address yet to advance.
            Instruction::AdvanceLoc { .. } | Instruction::SetLoc { .. } => {}
            _ => apply(instruction, &mut state, section, entry)?,
        }
    }
    Ok(state)
}

/// What an instruction does that is about neither addresses nor former states.
fn apply<'a, S: UnwindSection<Bytes<'a>>>(
    instruction: Instruction<usize>,
    state: &mut State,
    section: &S,
    entry: &CommonInformationEntry<Bytes<'a>>,
) -> Result<(), Unsupported> {
    use Instruction as I;
    let factor = entry.data_alignment_factor();
    let encoding = entry.encoding();
    let (register, saved) = match instruction {
        I::DefCfa { register, offset } => {
            state.cfa = Cfa::Offset(register, offset as i64);
            return Ok(());
        }
        I::DefCfaSf {
            register,
            factored_offset,
        } => {
            state.cfa = Cfa::Offset(register, factored_offset.wrapping_mul(factor));
            return Ok(());
        }
        I::DefCfaRegister { register } => return state.cfa.set(Some(register), None),
        I::DefCfaOffset { offset } => return state.cfa.set(None, Some(offset as i64)),
        I::DefCfaOffsetSf { factored_offset } => {
            return state
                .cfa
                .set(None, Some(factored_offset.wrapping_mul(factor)));
        }
        I::DefCfaExpression { expression } => {
            let expression = expression.get(section).map_err(malformed)?;
            state.cfa = state::cfa(expression, encoding);
            return Ok(());
        }
        I::Undefined { register } => (register, Saved::Undefined),
        I::SameValue { register } => (register, Saved::Same),
        I::Offset {
            register,
            factored_offset,
        } => {
            let offset = (factored_offset as i64).wrapping_mul(factor);
            (register, Saved::AtCfa(offset))
        }
        I::OffsetExtendedSf {
            register,
            factored_offset,
        } => {
            let offset = factored_offset.wrapping_mul(factor);
            (register, Saved::AtCfa(offset))
        }
        I::ValOffset {
            register,
            factored_offset,
        } => {
            let offset = (factored_offset as i64).wrapping_mul(factor);
            (register, Saved::IsCfa(offset))
        }
        I::ValOffsetSf {
            register,
            factored_offset,
        } => {
            let offset = factored_offset.wrapping_mul(factor);
            (register, Saved::IsCfa(offset))
        }
        I::Register { dest_register, .. } => (dest_register, Saved::Elsewhere),
        I::Expression {
            register,
            expression,
        } => {
            let expression = expression.get(section).map_err(malformed)?;
            (register, state::saved(expression, encoding))
        }
        I::ValExpression { register, .. } => (register, Saved::Elsewhere),
        I::Nop | I::ArgsSize { .. } => return Ok(()),
        _ => return Err(Unsupported::Malformed),
    };
    if let Some(place) = state.saved(register) {
        *place = saved;
    }
    Ok(())
}

fn malformed(_: Error) -> Unsupported {
    Unsupported::Malformed
}
