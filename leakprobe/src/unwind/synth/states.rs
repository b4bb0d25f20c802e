//! All states of an analysis, each once and with a number, and what follows from them: that is asked
//! for millions of times, and mostly for the same.

use std::collections::HashMap;

use iced_x86::{FlowControl, Instruction, InstructionInfoFactory, OpKind};

use super::state::{SP, State, Value};
use super::step::{part_of, step};
use crate::unwind::{Rule, UNSUPPORTED};

/// Number of a state.
pub(super) type Id = u16;
/// Not reached.
pub(super) const NEVER: Id = 0;
/// Reached, nothing known.
pub(super) const NOTHING: Id = 1;
/// State at a function's entry.
pub(super) const ENTRY: Id = 2;

/// States, at most.
const MAX_STATES: usize = 60_000;
/// Answers that are remembered, of each kind; a power of two.
const REMEMBERED: usize = 1 << 12;

/// The states.
pub(super) struct States {
    list: Vec<State>,
    /// Registers of which something is known, as bits, by state.
    known: Vec<u16>,
    ids: HashMap<State, Id>,
    info: InstructionInfoFactory,
    steps: Vec<(Step, Id)>,
    joins: Vec<((Id, Id), Joined)>,
}

/// A state and an instruction.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Step {
    state: Id,
    len: u8,
    bytes: [u8; 8],
}

/// Two states made one.
#[derive(Clone, Copy, Default)]
pub(super) struct Joined {
    /// The one.
    pub id: Id,
    /// Whether both have a rule, and the one has none.
    pub conflict: bool,
}

impl States {
    pub fn new() -> Self {
        let mut states = Self {
            list: Vec::new(),
            known: Vec::new(),
            ids: HashMap::new(),
            info: InstructionInfoFactory::new(),
            steps: vec![Default::default(); REMEMBERED],
            joins: vec![Default::default(); REMEMBERED],
        };
        // NEVER is nobody's number.
        states.add(&State::NOTHING);
        states.add(&State::NOTHING);
        states.add(&State::ENTRY);
        states
    }

    /// By number.
    pub fn get(&self, id: Id) -> &State {
        &self.list[usize::from(id)]
    }

    /// The rules of all states, by number.
    pub fn rules(&self) -> Vec<Rule> {
        self.list.iter().map(State::rule).collect()
    }

    /// The number of a state.
    fn id(&mut self, state: &State) -> Id {
        match self.ids.get(state) {
            Some(&id) => id,
            None if self.list.len() >= MAX_STATES => NOTHING,
            None => self.add(state),
        }
    }

    fn add(&mut self, state: &State) -> Id {
        let id = self.list.len() as Id;
        let known = state.registers.iter().enumerate();
        let known = known.filter(|(_, value)| **value != Value::Unknown);
        self.known
            .push(known.fold(0, |bits, (number, _)| bits | 1 << number));
        self.list.push(*state);
        self.ids.insert(*state, id);
        id
    }

    /// The state after an instruction with these bytes.
    pub fn after(&mut self, id: Id, i: &Instruction, bytes: &[u8]) -> Id {
        if !self.concerns(id, i) {
            return id;
        }
        let mut key = Step {
            state: id,
            len: i.len() as u8,
            bytes: [0; 8],
        };
        let short = bytes.len() <= key.bytes.len();
        let mut place = 0;
        if short {
            key.bytes[..bytes.len()].copy_from_slice(bytes);
            place = mix(u64::from_ne_bytes(key.bytes) ^ u64::from(id) << 48);
            let (known, after) = self.steps[place];
            if known == key {
                return after;
            }
        }
        let before = self.get(id);
        let mut state = *before;
        let base = before.base;
        step(&mut state, i, &mut self.info);
        let after = if state == *self.get(id) {
            id
        } else {
            self.id(&state)
        };
        // A base is where it is made.
        if short && state.base == base {
            self.steps[place] = (key, after);
        }
        after
    }

    /// Whether an instruction may change a state, at a glance.
    fn concerns(&self, id: Id, i: &Instruction) -> bool {
        /// Registers that instructions may write without naming them.
        const UNNAMED: u16 = 0b0000_1111_1100_1111;
        let known = self.known[usize::from(id)];
        let named = |operand| match i.op_kind(operand) {
            OpKind::Register => part_of(i.op_register(operand)),
            OpKind::Memory => part_of(i.memory_base()),
            _ => None,
        };
        known & UNNAMED != 0
            || i.flow_control() != FlowControl::Next
            || i.is_stack_instruction()
            || (0..i.op_count())
                .any(|operand| named(operand).is_some_and(|register| known & 1 << register != 0))
    }

    /// What is known if either of two states can be.
    pub fn join(&mut self, a: Id, b: Id) -> Joined {
        let place = mix(u64::from(a) << 16 | u64::from(b));
        let (known, joined) = self.joins[place];
        if known == (a, b) {
            return joined;
        }
        let state = self.get(a).join(self.get(b));
        let rules = [self.get(a).rule(), self.get(b).rule()];
        let conflict =
            rules.iter().all(|&rule: &Rule| rule != UNSUPPORTED) && state.rule() == UNSUPPORTED;
        let id = if state == *self.get(a) {
            a
        } else {
            self.id(&state)
        };
        let joined = Joined { id, conflict };
        self.joins[place] = ((a, b), joined);
        joined
    }

    /// A state with another stack pointer.
    pub fn with_sp(&mut self, id: Id, value: Value) -> Id {
        let mut state = *self.get(id);
        state.registers[SP] = value;
        self.id(&state)
    }
}

/// Where to remember an answer.
fn mix(key: u64) -> usize {
    (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as usize % REMEMBERED
}
