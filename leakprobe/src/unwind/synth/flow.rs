//! Follows what is known of the stack through the code of a function, over all its branches, until
//! nothing changes. Where paths meet with different stacks, nothing is known.
//!
//! Whether a call into another object comes back, code does not tell. It is taken to, but the code
//! behind it counts only where no other path leads, and not if that makes the function's stack
//! uneven.

use std::collections::{BTreeMap, HashMap, HashSet};

use iced_x86::{FlowControl, Instruction, InstructionInfoFactory, Mnemonic};

use super::discover::{Discovery, Trust, target};
use super::state::{SP, State, Value};
use super::step::step;
use super::text::{INSIDE, INSTRUCTION, Padding, START, SystemCall, TARGET, exits};
use crate::unwind::{Rule, UNSUPPORTED};

/// Number of a state, by index of code.
pub(super) type Id = u16;
/// Not reached.
pub(super) const NEVER: Id = 0;
/// Reached, nothing known.
pub(super) const NOTHING: Id = 1;
/// State at a function's entry.
pub(super) const ENTRY: Id = 2;
/// States, at most.
const MAX_STATES: usize = 60_000;
/// Instructions of one function that are looked at, again and again, at most.
const MAX_STEPS: usize = 1 << 20;
/// The same, of all functions.
const MAX_ALL_STEPS: usize = 32 << 20;
/// How often a function is begun anew because a call turned out not to return.
const MAX_ATTEMPTS: usize = 16;

/// The states, each once.
pub(super) struct States {
    list: Vec<State>,
    ids: HashMap<State, Id>,
}

impl States {
    fn new() -> Self {
        let list = vec![State::NOTHING, State::NOTHING, State::ENTRY];
        let ids = HashMap::from([(State::NOTHING, NOTHING), (State::ENTRY, ENTRY)]);
        Self { list, ids }
    }

    /// By number.
    pub fn get(&self, id: Id) -> &State {
        &self.list[usize::from(id)]
    }

    fn id(&mut self, state: &State) -> Id {
        if let Some(&id) = self.ids.get(state) {
            return id;
        }
        if self.list.len() >= MAX_STATES {
            return NOTHING;
        }
        let id = self.list.len() as Id;
        self.list.push(*state);
        self.ids.insert(*state, id);
        id
    }
}

/// What following some code has shown.
#[derive(Default)]
struct Outcome {
    /// It returns with another stack than it came with, or runs into bytes that are no code.
    uneven: bool,
    /// Paths meet with different stacks.
    conflicts: bool,
    /// It comes to an end, or goes on in code that is known.
    ends: bool,
    /// It returns with the stack that it came with.
    returns: bool,
    /// It calls with a stack that is not aligned to 16 bytes. Some do, but few.
    crooked: bool,
}

impl Outcome {
    fn is_good(&self, trust: Trust) -> bool {
        let even = !self.uneven && !self.conflicts;
        match trust {
            Trust::Known => true,
            Trust::Pointed => even && self.ends && !self.crooked,
            Trust::LeftOver => even && self.returns && !self.crooked,
        }
    }
}

/// Code to follow: address, state, and the last call that it is not known to have returned.
type Path = (u64, Id, Option<u64>);

/// The analysis of all code.
pub(super) struct Flow<'d, 'c> {
    pub found: &'d mut Discovery<'c>,
    pub states: States,
    /// By index of code, the state before the instruction that starts there.
    pub at: Vec<Id>,
    /// Addresses of calls out of which nobody returns, and of the instructions from there to the
    /// end of the thread.
    pub last_calls: Vec<u64>,
    /// Indirect jumps to unknown places, and the states before them.
    pub jumps: BTreeMap<u64, Id>,
    info: InstructionInfoFactory,
    /// What to put back if all was for nothing.
    undo: Vec<(usize, Id)>,
    /// Calls that do not return.
    final_calls: HashSet<u64>,
    paths: Vec<Path>,
    /// Code behind calls that may not return, and the calls.
    later: BTreeMap<u64, (Id, u64)>,
    /// Such code that is also jumped to, perhaps by another function: only if none does.
    last: BTreeMap<u64, (Id, u64)>,
    /// Such that was followed, by address.
    weak: HashMap<u64, u64>,
    steps: usize,
    all_steps: usize,
}

impl<'d, 'c> Flow<'d, 'c> {
    pub fn new(found: &'d mut Discovery<'c>) -> Self {
        Self {
            at: vec![NEVER; found.text.len()],
            found,
            states: States::new(),
            last_calls: Vec::new(),
            jumps: BTreeMap::new(),
            info: InstructionInfoFactory::new(),
            undo: Vec::new(),
            final_calls: HashSet::new(),
            paths: Vec::new(),
            later: BTreeMap::new(),
            last: BTreeMap::new(),
            weak: HashMap::new(),
            steps: 0,
            all_steps: 0,
        }
    }

    /// Follows code from an address on that is entered in some state, perhaps only if a call
    /// returned (`via`). What is in doubt is kept only if all of it makes sense; returns whether it
    /// was kept.
    pub fn follow(&mut self, address: u64, state: Id, via: Option<u64>, trust: Trust) -> bool {
        let (calls, jumps) = (self.last_calls.len(), self.jumps.clone());
        for _ in 0..MAX_ATTEMPTS {
            self.undo.clear();
            self.weak.clear();
            self.steps = 0;
            let mut outcome = Outcome::default();
            let blamed = self.run((address, state, via), &mut outcome);
            if blamed.is_none() && outcome.is_good(trust) {
                return true;
            }
            self.put_back();
            self.last_calls.truncate(calls);
            self.jumps.clone_from(&jumps);
            match blamed {
                Some(call) => self.final_calls.insert(call),
                None => return false,
            };
            if blamed == via {
                return false;
            }
        }
        false
    }

    /// Follows what was left for last.
    pub fn follow_last(&mut self) {
        while let Some((address, (state, call))) = self.last.pop_first() {
            if self.is_new(address) && !self.final_calls.contains(&call) {
                self.follow(address, state, Some(call), Trust::Known);
            }
        }
    }

    fn put_back(&mut self) {
        for (index, id) in self.undo.drain(..).rev() {
            self.at[index] = id;
        }
    }

    /// Follows all paths. Returns a call that seems not to return, if the stack is uneven.
    fn run(&mut self, start: Path, outcome: &mut Outcome) -> Option<u64> {
        self.paths.clear();
        self.later.clear();
        self.paths.push(start);
        loop {
            while let Some(path) = self.paths.pop() {
                if let Some(call) = self.path(path, start.0, outcome) {
                    return Some(call);
                }
            }
            let (address, (state, call)) = self.later.pop_first()?;
            if self.is_new(address) {
                self.weak.insert(address, call);
                self.paths.push((address, state, Some(call)));
            }
        }
    }

    /// Follows a path to its end.
    fn path(&mut self, path: Path, entry: u64, outcome: &mut Outcome) -> Option<u64> {
        let (mut address, mut id, via) = path;
        let mut number = SystemCall::default();
        let mut compared = None;
        loop {
            // Falling into what comes next is no way to end a function.
            let jumped = address == path.0;
            let Some((index, end)) = self.found.text.find(address) else {
                outcome.ends |= jumped;
                return self.leaves(id, via, outcome);
            };
            let marks = self.found.text.marks[index];
            if marks & START != 0 && address != entry {
                outcome.ends |= jumped;
                return self.leaves(id, via, outcome);
            }
            if marks & INSIDE != 0 {
                outcome.uneven = true;
                return via;
            }
            match self.meet(index, id) {
                Meeting::Known => {
                    outcome.ends = true;
                    return None;
                }
                Meeting::Joined(joined, conflict) => {
                    if conflict {
                        outcome.conflicts = true;
                        if let Some(call) = via.or(self.weak.get(&address).copied()) {
                            return Some(call);
                        }
                    }
                    id = joined;
                }
            }
            let i = self.found.text.decoder(address)?.decode();
            if i.is_invalid() || i.len() > end - index {
                outcome.uneven = true;
                return via;
            }
            self.steps += 1;
            self.all_steps += 1;
            if self.steps > MAX_STEPS || self.all_steps > MAX_ALL_STEPS {
                self.give_up();
                return None;
            }
            if marks & INSTRUCTION == 0 {
                self.found.text.mark(index, i.len());
            }
            number.see(&i);
            let mut state = *self.states.get(id);
            let before = id;
            step(&mut state, &i, &mut self.info);
            if state != *self.states.get(id) {
                id = self.states.id(&state);
            }
            match i.flow_control() {
                FlowControl::Next if i.mnemonic() != Mnemonic::Hlt => {}
                FlowControl::Next => {
                    // A way to crash; compilers do not know that it is one.
                    outcome.ends = true;
                    if self.found.text.padding(i.next_ip()) != Padding::ToEnd {
                        self.later.insert(i.next_ip(), (id, i.ip()));
                    }
                    return None;
                }
                FlowControl::Exception => {
                    outcome.ends = true;
                    return None;
                }
                FlowControl::Interrupt if i.mnemonic() == Mnemonic::Int => {}
                FlowControl::Interrupt => return None,
                FlowControl::Return => {
                    outcome.ends = true;
                    return self.leaves(before, via, outcome);
                }
                FlowControl::ConditionalBranch | FlowControl::XbeginXabortXend => {
                    let mut there = id;
                    if let Some(equal) = compared {
                        match i.mnemonic() {
                            Mnemonic::Je => there = self.with_sp(id, equal),
                            Mnemonic::Jne => id = self.with_sp(id, equal),
                            _ => {}
                        }
                    }
                    self.paths.extend(target(&i).map(|to| (to, there, via)));
                }
                FlowControl::UnconditionalBranch => {
                    self.paths.extend(target(&i).map(|to| (to, id, via)));
                    return None;
                }
                FlowControl::IndirectBranch => {
                    match self.found.tables.get(&i.ip()) {
                        Some(targets) => {
                            self.paths.extend(targets.iter().map(|&to| (to, id, via)));
                        }
                        None => {
                            outcome.ends = true;
                            self.jumps.insert(i.ip(), id);
                        }
                    }
                    return None;
                }
                FlowControl::Call | FlowControl::IndirectCall => {
                    outcome.crooked |= self.states.get(before).is_crooked();
                    if !self.comes_back(&i, before, id, number) {
                        outcome.ends = true;
                        return None;
                    }
                }
            }
            compared = self.compares_sp(&i, before);
            address = i.next_ip();
        }
    }

    /// Puts a state at an instruction.
    fn meet(&mut self, index: usize, id: Id) -> Meeting {
        let known = self.at[index];
        if known == NEVER {
            self.undo.push((index, NEVER));
            self.at[index] = id;
            return Meeting::Joined(id, false);
        }
        if known == id {
            return Meeting::Known;
        }
        let (old, new) = (*self.states.get(known), *self.states.get(id));
        let state = old.join(&new);
        if state == old {
            return Meeting::Known;
        }
        let joined = self.states.id(&state);
        self.undo.push((index, known));
        self.at[index] = joined;
        let conflict = lost(old.rule(), state.rule()) && lost(new.rule(), state.rule());
        Meeting::Joined(joined, conflict)
    }

    /// A return, or a jump to another function: with the stack as it was, if all is well. Otherwise
    /// the last call that perhaps did not return is to blame.
    fn leaves(&mut self, id: Id, via: Option<u64>, outcome: &mut Outcome) -> Option<u64> {
        let state = self.states.get(id);
        let known = matches!(state.registers[SP], Value::Cfa(_));
        if state.is_balanced() {
            outcome.returns = true;
            return None;
        }
        outcome.uneven = true;
        via.filter(|_| known)
    }

    /// Whether the code behind a call is to be followed now.
    fn comes_back(&mut self, i: &Instruction, before: Id, after: Id, number: SystemCall) -> bool {
        if i.mnemonic() == Mnemonic::Syscall {
            return !number.ends();
        }
        let state = self.states.get(before);
        if (state.has_left() || state.has_lost_fp()) && exits(&self.found.text, i.next_ip()) {
            self.last_calls.push(i.ip());
            return true;
        }
        if self.final_calls.contains(&i.ip()) {
            return false;
        }
        let next = i.next_ip();
        let local =
            target(i).filter(|&to| self.found.text.find(to).is_some() && !self.found.is_import(to));
        if self.found.is_final(i) || local.is_some_and(|to| !self.found.returns(to)) {
            return false;
        }
        match self.found.text.padding(next) {
            Padding::None if local.is_some() => true,
            Padding::ToEnd => false,
            _ if self.found.text.marks(next) & TARGET != 0 => {
                self.last.insert(next, (after, i.ip()));
                false
            }
            _ => {
                self.later.insert(next, (after, i.ip()));
                false
            }
        }
    }

    /// What the stack pointer was compared with, if that is better known than itself.
    fn compares_sp(&self, i: &Instruction, before: Id) -> Option<Value> {
        use iced_x86::{OpKind, Register};
        if i.mnemonic() != Mnemonic::Cmp || i.op1_kind() != OpKind::Register {
            return None;
        }
        let other = match (i.op0_register(), i.op1_register()) {
            (Register::RSP, other) | (other, Register::RSP) => other,
            _ => return None,
        };
        let value = self.states.get(before).registers[other.number()];
        matches!(value, Value::Cfa(_)).then_some(value)
    }

    fn with_sp(&mut self, id: Id, value: Value) -> Id {
        let mut state = *self.states.get(id);
        state.registers[SP] = value;
        self.states.id(&state)
    }

    /// Forgets all of a function that takes too long.
    fn give_up(&mut self) {
        for &(index, _) in &self.undo {
            self.at[index] = NOTHING;
        }
        self.paths.clear();
        self.later.clear();
    }

    /// Whether an address is in the gaps and no instruction was followed there.
    pub fn is_new(&self, address: u64) -> bool {
        let found = self.found.text.find(address);
        found.is_some_and(|(index, _)| {
            self.at[index] == NEVER && self.found.text.marks[index] & INSIDE == 0
        })
    }
}

/// What is there where a path arrives.
enum Meeting {
    /// All that it brings.
    Known,
    /// This now, which is news; and whether two rules contradict each other.
    Joined(Id, bool),
}

/// Whether a rule is worse than another.
fn lost(before: Rule, after: Rule) -> bool {
    before != UNSUPPORTED && after == UNSUPPORTED
}
