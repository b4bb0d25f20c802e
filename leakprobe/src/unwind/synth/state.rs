//! What is known of registers and stack at one place of a function, and which rule follows from it.
//! How instructions change it is in `step`.

use std::hash::{Hash, Hasher};

use crate::unwind::{FpRule, Rule, RuleKind, UNSUPPORTED};

/// What a register or a word of the stack holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Value {
    /// Anything.
    Unknown,
    /// What the frame pointer register held at the function's entry.
    Caller,
    /// The CFA plus so many bytes.
    Cfa(i32),
    /// [`State::base`] plus so many bytes.
    Base(i32),
}

impl Value {
    /// This many bytes further on.
    pub fn plus(self, bytes: i64) -> Value {
        let add = |offset: i32| i32::try_from(i64::from(offset).saturating_add(bytes)).ok();
        match self {
            Value::Cfa(offset) => add(offset).map_or(Value::Unknown, Value::Cfa),
            Value::Base(offset) => add(offset).map_or(Value::Unknown, Value::Base),
            Value::Unknown | Value::Caller => Value::Unknown,
        }
    }

    /// A number of its own.
    fn number(self) -> u64 {
        let (kind, offset) = match self {
            Value::Unknown => (0, 0),
            Value::Caller => (1, 0),
            Value::Cfa(offset) => (2, offset),
            Value::Base(offset) => (3, offset),
        };
        kind << 32 | u64::from(offset as u32)
    }

    /// Bytes from `other` to this, if both count from the same.
    pub fn from(self, other: Value) -> Option<i64> {
        match (self, other) {
            (Value::Cfa(a), Value::Cfa(b)) | (Value::Base(a), Value::Base(b)) => {
                Some(i64::from(a) - i64::from(b))
            }
            _ => None,
        }
    }
}

/// A word of the stack of which more is known than that it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Slot {
    /// Where it is; [`Value::Unknown`] in a slot that is not used.
    pub place: Value,
    /// What it holds.
    pub value: Value,
}

const FREE: Slot = Slot {
    place: Value::Unknown,
    value: Value::Unknown,
};

/// Number of rsp in [`State::registers`].
pub(super) const SP: usize = 4;
/// Number of rbp.
pub(super) const FP: usize = 5;
/// Whether a function may change a register, by number: rax, rcx, rdx, rsi, rdi, r8 to r11.
pub(super) const VOLATILE: [bool; 16] = {
    let mut volatile = [true; 16];
    let kept = [3, SP, FP, 12, 13, 14, 15];
    let mut i = 0;
    while i < kept.len() {
        volatile[kept[i]] = false;
        i += 1;
    }
    volatile
};

/// What is known at one place. Two states are equal if the same is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    /// By the numbers that instructions use.
    pub registers: [Value; 16],
    /// Address of the instruction that last gave the stack pointer a value whose distance to the
    /// CFA is not known, such as by aligning it; that value is the base. 0 without one.
    pub base: u64,
    /// Sorted, what is not used first.
    slots: [Slot; 4],
}

/// In one go: they are hashed all the time.
impl Hash for State {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let mut bytes = [0; 25 * 8];
        let slots = self.slots.iter().flat_map(|slot| [slot.place, slot.value]);
        let values = self.registers.into_iter().chain(slots).map(Value::number);
        let words = values.chain([self.base]);
        for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
            to.copy_from_slice(&word.to_ne_bytes());
        }
        hasher.write(&bytes);
    }
}

impl State {
    /// Nothing known.
    pub const NOTHING: State = State {
        registers: [Value::Unknown; 16],
        base: 0,
        slots: [FREE; 4],
    };

    /// At a function's entry.
    pub const ENTRY: State = {
        let mut state = State::NOTHING;
        state.registers[SP] = Value::Cfa(-8);
        state.registers[FP] = Value::Caller;
        state
    };

    /// What a word of the stack holds.
    pub fn load(&self, place: Value) -> Value {
        let slot = self.slots.iter().find(|slot| slot.place == place);
        slot.map_or(Value::Unknown, |slot| slot.value)
    }

    /// Whether a write of so many bytes touches a known word.
    pub fn overlaps(&self, place: Value, size: usize) -> bool {
        self.slots.iter().any(|slot| touches(slot, place, size))
    }

    /// Writes to the stack.
    pub fn store(&mut self, place: Value, size: usize, value: Value) {
        for slot in &mut self.slots {
            if touches(slot, place, size) {
                *slot = FREE;
            }
        }
        // Where the CFA is needs to be remembered only where its distance is not known.
        let useful = match value {
            Value::Caller => matches!(place, Value::Cfa(_) | Value::Base(_)),
            Value::Cfa(_) => matches!(place, Value::Base(_)),
            _ => false,
        };
        if useful && size == 8 && self.slots[0] == FREE {
            self.slots[0] = Slot { place, value };
        }
        self.slots.sort_unstable();
    }

    /// Forgets words of which that is so.
    fn forget(&mut self, gone: impl Fn(&Slot) -> bool) {
        for slot in &mut self.slots {
            if gone(slot) {
                *slot = FREE;
            }
        }
        self.slots.sort_unstable();
    }

    /// Gives the stack pointer a value that nothing is known of.
    pub fn rebase(&mut self, address: u64) {
        for register in &mut self.registers {
            if matches!(register, Value::Base(_)) {
                *register = Value::Unknown;
            }
        }
        self.forget(|slot| matches!(slot.place, Value::Base(_)));
        self.base = address;
        self.registers[SP] = Value::Base(0);
    }

    /// After the return of a called function.
    pub fn call(&mut self) {
        for (register, volatile) in self.registers.iter_mut().zip(VOLATILE) {
            if volatile {
                *register = Value::Unknown;
            }
        }
        let sp = self.registers[SP];
        self.forget(|slot| slot.place.from(sp).is_some_and(|bytes| bytes < 0));
    }

    /// What is known if either of two states can be.
    pub fn join(&self, other: &State) -> State {
        let mut joined = *self;
        for (register, other) in joined.registers.iter_mut().zip(other.registers) {
            if *register != other {
                *register = Value::Unknown;
            }
        }
        joined.forget(|slot| !other.slots.contains(slot));
        if self.base != other.base {
            let sp = joined.registers[SP];
            joined.rebase(0);
            joined.registers[SP] = match sp {
                Value::Base(_) => Value::Unknown,
                sp => sp,
            };
        }
        joined
    }

    /// Whether a return from here, or a jump to another function, is one from the function whose
    /// entry is known.
    pub fn is_balanced(&self) -> bool {
        self.registers[SP] == Value::Cfa(-8) && self.registers[FP] == Value::Caller
    }

    /// Whether the return address is no longer on the stack.
    pub fn has_left(&self) -> bool {
        matches!(self.registers[SP], Value::Cfa(offset) if offset > -8)
    }

    /// Whether the stack is not as aligned as calls must find it.
    pub fn is_crooked(&self) -> bool {
        matches!(self.registers[SP], Value::Cfa(offset) if offset % 16 != 0)
    }

    /// Whether nobody knows the caller's frame pointer.
    pub fn has_lost_fp(&self) -> bool {
        self.fp_rule().0 == FpRule::Lost
    }

    /// How the frame is left at this place.
    pub fn rule(&self) -> Rule {
        let (sp, fp) = (self.registers[SP], self.registers[FP]);
        let (kind, cfa_offset, words) = match (sp, fp) {
            _ if self.has_left() => return UNSUPPORTED,
            (_, Value::Cfa(-16)) if self.load(fp) == Value::Caller => (RuleKind::Fp, 16, 0),
            (Value::Cfa(offset), _) => (RuleKind::Sp, -i64::from(offset), 0),
            (_, Value::Cfa(offset)) => (RuleKind::Fp, -i64::from(offset), 0),
            _ => match self.stored_cfa() {
                Some(found) => found,
                None => return UNSUPPORTED,
            },
        };
        let Ok(cfa_offset) = i32::try_from(cfa_offset) else {
            return UNSUPPORTED;
        };
        let (fp, fp_offset) = self.fp_rule();
        Rule {
            cfa_offset,
            fp_offset,
            kind: kind as u8,
            fp: fp as u8 | words << 4,
        }
    }

    /// Where a word near the stack or frame pointer tells the CFA.
    fn stored_cfa(&self) -> Option<(RuleKind, i64, u8)> {
        self.slots.iter().find_map(|slot| {
            let Value::Cfa(offset) = slot.value else {
                return None;
            };
            let words = u8::try_from(offset.checked_neg()? / 8).ok()?;
            if offset % 8 != 0 || words > 15 {
                return None;
            }
            let from = |register: usize| slot.place.from(self.registers[register]);
            let at_fp = from(FP).map(|bytes| (RuleKind::FpDeref, bytes, words));
            at_fp.or_else(|| Some((RuleKind::SpDeref, from(SP)?, words)))
        })
    }

    fn fp_rule(&self) -> (FpRule, i16) {
        let saved = self.slots.iter().filter(|slot| slot.value == Value::Caller);
        let words = |bytes: i64| i16::try_from(bytes / 8).ok().filter(|_| bytes % 8 == 0);
        let from = |slot: &Slot, register: usize| words(slot.place.from(self.registers[register])?);
        // The highest is the first that was stored.
        for slot in saved.rev() {
            let found = match slot.place {
                Value::Cfa(offset) => words(offset.into()).map(|words| (FpRule::Cfa, words)),
                _ => from(slot, FP)
                    .map(|words| (FpRule::Fp, words))
                    .or_else(|| Some((FpRule::Sp, from(slot, SP)?))),
            };
            if let Some(found) = found {
                return found;
            }
        }
        match self.registers[FP] {
            Value::Caller => (FpRule::Same, 0),
            _ => (FpRule::Lost, 0),
        }
    }
}

fn touches(slot: &Slot, place: Value, size: usize) -> bool {
    let from = slot.place.from(place);
    from.is_some_and(|bytes| bytes > -8 && bytes < size as i64)
}
