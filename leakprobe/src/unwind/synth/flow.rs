//! Follows what is known of the stack through the code of a function, over all its branches, until
//! nothing changes. Where paths meet with different stacks, nothing is known. Single paths are in
//! `path`.
//!
//! Whether a call into another object comes back, code does not tell. It is taken to, but the code
//! behind it counts only where no other path leads, and not if that makes the function's stack
//! uneven.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::discover::Discovery;
use super::functions::Trust;
use super::state::{SP, Value};
use super::states::{Id, NEVER, NOTHING, States};
use super::text::INSIDE;

/// Instructions of one function that are looked at, again and again, at most.
const MAX_STEPS: usize = 1 << 19;
/// The same, of all functions, for each byte of code, and in all. Real code takes less than half a
/// step for a byte.
const MAX_STEPS_PER_BYTE: usize = 4;
const MAX_ALL_STEPS: usize = 8 << 20;
/// How often a function is begun anew because a call turned out not to return.
const MAX_ATTEMPTS: usize = 16;

/// What following some code has shown.
#[derive(Default)]
pub(super) struct Outcome {
    /// It returns with another stack than it came with, or runs into bytes that are no code.
    pub uneven: bool,
    /// Paths meet with different stacks.
    pub conflicts: bool,
    /// It comes to an end, or goes on in code that is known.
    pub ends: bool,
    /// It returns with the stack that it came with.
    pub returns: bool,
    /// It calls with a stack that is not aligned to 16 bytes. Some do, but few.
    pub crooked: bool,
}

impl Outcome {
    fn is_good(&self, trust: Trust) -> bool {
        let even = !self.uneven && !self.conflicts && !self.crooked;
        match trust {
            Trust::Known => true,
            Trust::Pointed => even && self.ends,
            Trust::LeftOver => even && self.returns,
        }
    }
}

/// Code to follow.
#[derive(Clone, Copy)]
pub(super) struct Path {
    /// Where it starts.
    pub address: u64,
    /// State there.
    pub state: Id,
    /// The last call before it that is not known to have returned.
    pub via: Option<u64>,
}

/// The analysis of all code.
pub(super) struct Flow<'d, 'c> {
    pub found: &'d mut Discovery<'c>,
    pub states: States,
    /// By index of code, the state before the instruction that starts there.
    pub at: Vec<Id>,
    /// Calls out of which threads do not return, but end.
    pub last_calls: Vec<u64>,
    /// Indirect jumps to unknown places, and the states before them.
    pub jumps: BTreeMap<u64, Id>,
    pub(super) paths: Vec<Path>,
    /// Code behind calls that may not return: state, and the call.
    pub(super) later: BTreeMap<u64, (Id, u64)>,
    /// Such code that is also jumped to, perhaps by another function: only if none does.
    pub(super) last: BTreeMap<u64, (Id, u64)>,
    /// Calls that do not return.
    pub(super) final_calls: HashSet<u64>,
    /// What was followed of `later`: address, and the call.
    pub(super) weak: HashMap<u64, u64>,
    /// What to put back if all was for nothing: index and state.
    undo: Vec<(usize, Id)>,
    /// The same, of `jumps`.
    pub(super) new_jumps: Vec<u64>,
    steps: usize,
    all_steps: usize,
    max_all_steps: usize,
}

impl<'d, 'c> Flow<'d, 'c> {
    pub fn new(found: &'d mut Discovery<'c>) -> Self {
        Self {
            at: vec![NEVER; found.text.len()],
            max_all_steps: MAX_ALL_STEPS.min(found.text.len() * MAX_STEPS_PER_BYTE),
            found,
            states: States::new(),
            last_calls: Vec::new(),
            jumps: BTreeMap::new(),
            paths: Vec::new(),
            later: BTreeMap::new(),
            last: BTreeMap::new(),
            final_calls: HashSet::new(),
            weak: HashMap::new(),
            undo: Vec::new(),
            new_jumps: Vec::new(),
            steps: 0,
            all_steps: 0,
        }
    }

    /// Follows code, and all that it leads to. What is in doubt is kept only if all of it makes
    /// sense; returns whether it was kept.
    pub fn follow(&mut self, start: Path, trust: Trust) -> bool {
        let calls = self.last_calls.len();
        for _ in 0..MAX_ATTEMPTS {
            self.undo.clear();
            self.new_jumps.clear();
            self.weak.clear();
            self.steps = 0;
            let mut outcome = Outcome::default();
            let blamed = self.run(start, &mut outcome);
            if blamed.is_none() && outcome.is_good(trust) {
                return true;
            }
            self.put_back();
            self.last_calls.truncate(calls);
            match blamed {
                Some(call) => self.final_calls.insert(call),
                None => return false,
            };
            if blamed == start.via {
                return false;
            }
        }
        false
    }

    /// Follows what was left for last.
    pub fn follow_last(&mut self) {
        while let Some((address, (state, call))) = self.last.pop_first() {
            if self.is_new(address) && !self.final_calls.contains(&call) {
                let via = Some(call);
                self.follow(
                    Path {
                        address,
                        state,
                        via,
                    },
                    Trust::Known,
                );
            }
        }
    }

    fn put_back(&mut self) {
        for (index, id) in self.undo.drain(..).rev() {
            self.at[index] = id;
        }
        for address in self.new_jumps.drain(..) {
            self.jumps.remove(&address);
        }
    }

    /// Follows all paths. Returns a call that seems not to return, if the stack is uneven.
    fn run(&mut self, start: Path, outcome: &mut Outcome) -> Option<u64> {
        self.paths.clear();
        self.later.clear();
        self.paths.push(start);
        loop {
            while let Some(path) = self.paths.pop() {
                if let Some(call) = self.path(path, start.address, outcome) {
                    return Some(call);
                }
            }
            let (address, (state, call)) = self.later.pop_first()?;
            if self.is_new(address) {
                self.weak.insert(address, call);
                let via = Some(call);
                self.paths.push(Path {
                    address,
                    state,
                    via,
                });
            }
        }
    }

    /// Puts a state at an instruction; the state there now, if that is news, and whether the rules
    /// contradict each other.
    pub(super) fn meet(&mut self, index: usize, id: Id) -> Option<(Id, bool)> {
        let known = self.at[index];
        let (now, conflict) = match known {
            NEVER => (id, false),
            _ if known == id => return None,
            _ => {
                let joined = self.states.join(known, id);
                (joined.id, joined.conflict)
            }
        };
        if now == known {
            return None;
        }
        self.undo.push((index, known));
        self.at[index] = now;
        Some((now, conflict))
    }

    /// A return, or a jump to another function: with the stack as it was, if all is well. Otherwise
    /// the last call that perhaps did not return is to blame.
    pub(super) fn leaves(&self, id: Id, via: Option<u64>, outcome: &mut Outcome) -> Option<u64> {
        let state = self.states.get(id);
        if state.is_balanced() {
            outcome.returns = true;
            return None;
        }
        outcome.uneven = true;
        via.filter(|_| matches!(state.registers[SP], Value::Cfa(_)))
    }

    /// Counts work; whether there was too much of it. Then nothing is known of the function.
    pub(super) fn is_too_much(&mut self, steps: usize) -> bool {
        self.steps += steps;
        self.all_steps += steps;
        let is = self.steps > MAX_STEPS || self.all_steps > self.max_all_steps;
        if is {
            for &(index, _) in &self.undo {
                self.at[index] = NOTHING;
            }
            self.paths.clear();
            self.later.clear();
        }
        is
    }

    /// Whether an address is in the gaps and no instruction was followed there.
    pub fn is_new(&self, address: u64) -> bool {
        let found = self.found.text.find(address);
        found.is_some_and(|(index, _)| {
            self.at[index] == NEVER && self.found.text.marks[index] & INSIDE == 0
        })
    }
}
