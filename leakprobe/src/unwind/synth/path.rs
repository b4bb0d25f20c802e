//! Follows one path through the code, instruction by instruction, to where it ends or meets another.

use iced_x86::{FlowControl, Instruction, Mnemonic, OpKind, Register};

use super::discover::target;
use super::flow::{Flow, Outcome, Path};
use super::state::Value;
use super::states::Id;
use super::text::{INSIDE, INSTRUCTION, Padding, START, SystemCall, TARGET, exits};

/// Where a path is.
struct Place {
    /// State before the instruction, and after it.
    before: Id,
    after: Id,
    via: Option<u64>,
    number: SystemCall,
    /// What the stack pointer was just compared with.
    compared: Option<Value>,
}

impl Flow<'_, '_> {
    /// Follows a path to its end; `entry` is where the function starts. Returns a call that seems
    /// not to return, if the stack is uneven.
    pub(super) fn path(&mut self, path: Path, entry: u64, outcome: &mut Outcome) -> Option<u64> {
        let Some((mut index, end)) = self.found.text.find(path.address) else {
            outcome.ends = true;
            return self.leaves(path.state, path.via, outcome);
        };
        let mut decoder = self.found.text.decoder(path.address)?;
        let mut place = Place {
            before: path.state,
            after: path.state,
            via: path.via,
            number: SystemCall::default(),
            compared: None,
        };
        let mut i = Instruction::default();
        while index < end {
            let address = decoder.ip();
            let marks = self.found.text.marks[index];
            if marks & START != 0 && address != entry {
                // Falling into the next function is no way to end one.
                outcome.ends |= address == path.address;
                return self.leaves(place.after, path.via, outcome);
            }
            if marks & INSIDE != 0 {
                outcome.uneven = true;
                return path.via;
            }
            let Some((now, conflict)) = self.meet(index, place.after) else {
                outcome.ends = true;
                return None;
            };
            if conflict {
                outcome.conflicts = true;
                let blamed = path.via.or_else(|| self.weak.get(&address).copied());
                if blamed.is_some() {
                    return blamed;
                }
            }
            decoder.decode_out(&mut i);
            if i.is_invalid() {
                outcome.uneven = true;
                return path.via;
            }
            if self.is_too_much(1) {
                return None;
            }
            if marks & INSTRUCTION == 0 {
                self.found.text.mark(index, i.len());
            }
            place.number.see(&i);
            place.before = now;
            let bytes = self.found.text.bytes(index..index + i.len());
            place.after = self.states.after(now, &i, bytes);
            match self.goes_on(&i, &mut place, outcome) {
                Ok(true) => {}
                Ok(false) => return None,
                Err(blamed) => return blamed,
            }
            place.compared = self.compares_sp(&i, now);
            index += i.len();
        }
        self.leaves(place.after, path.via, outcome)
    }

    /// Notes where an instruction leads to; whether that is the next one, too. The error is what
    /// [`Flow::leaves`] says of a return.
    fn goes_on(
        &mut self,
        i: &Instruction,
        place: &mut Place,
        outcome: &mut Outcome,
    ) -> Result<bool, Option<u64>> {
        match i.flow_control() {
            FlowControl::Next if i.mnemonic() != Mnemonic::Hlt => return Ok(true),
            FlowControl::Next => {
                // A way to crash; compilers do not know that it is one.
                if self.found.text.padding(i.next_ip()) != Padding::ToEnd {
                    self.later.insert(i.next_ip(), (place.after, i.ip()));
                }
            }
            FlowControl::Exception => {}
            FlowControl::Interrupt => return Ok(i.mnemonic() == Mnemonic::Int),
            FlowControl::Return => {
                outcome.ends = true;
                return Err(self.leaves(place.before, place.via, outcome));
            }
            FlowControl::ConditionalBranch | FlowControl::XbeginXabortXend => {
                let mut there = place.after;
                match (i.mnemonic(), place.compared) {
                    (Mnemonic::Je, Some(equal)) => there = self.states.with_sp(there, equal),
                    (Mnemonic::Jne, Some(equal)) => {
                        place.after = self.states.with_sp(place.after, equal);
                    }
                    _ => {}
                }
                self.jump(target(i), there, place.via);
                return Ok(true);
            }
            FlowControl::UnconditionalBranch => {
                self.jump(target(i), place.after, place.via);
                return Ok(false);
            }
            FlowControl::IndirectBranch => self.jump_indirectly(i, place),
            FlowControl::Call | FlowControl::IndirectCall => {
                let is_call = i.mnemonic() != Mnemonic::Syscall;
                outcome.crooked |= is_call && self.states.get(place.before).is_crooked();
                if self.comes_back(i, place) {
                    return Ok(true);
                }
            }
        }
        outcome.ends = true;
        Ok(false)
    }

    fn jump(&mut self, to: Option<u64>, state: Id, via: Option<u64>) {
        self.paths.extend(to.map(|address| Path {
            address,
            state,
            via,
        }));
    }

    fn jump_indirectly(&mut self, i: &Instruction, place: &Place) {
        let Some(targets) = self.found.tables.get(&i.ip()) else {
            if self.jumps.insert(i.ip(), place.after).is_none() {
                self.new_jumps.push(i.ip());
            }
            return;
        };
        let work = targets.len();
        self.paths.extend(targets.iter().map(|&address| Path {
            address,
            state: place.after,
            via: place.via,
        }));
        // If so, there are no more paths.
        self.is_too_much(work);
    }

    /// Whether the code behind a call is to be followed now.
    fn comes_back(&mut self, i: &Instruction, place: &Place) -> bool {
        if i.mnemonic() == Mnemonic::Syscall {
            return !place.number.ends();
        }
        let next = i.next_ip();
        let state = self.states.get(place.before);
        if (state.has_left() || state.has_lost_fp()) && exits(&self.found.text, next) {
            self.last_calls.push(i.ip());
            return true;
        }
        if self.final_calls.contains(&i.ip()) || self.found.is_final(i) {
            return false;
        }
        let functions = &self.found.functions;
        let local =
            target(i).filter(|&to| self.found.text.find(to).is_some() && !functions.is_import(to));
        if local.is_some_and(|to| !functions.returns(to)) {
            return false;
        }
        match self.found.text.padding(next) {
            Padding::None if local.is_some() => return true,
            Padding::ToEnd => {}
            _ if self.found.text.marks(next) & TARGET != 0 => {
                self.last.insert(next, (place.after, i.ip()));
            }
            _ => {
                self.later.insert(next, (place.after, i.ip()));
            }
        }
        false
    }

    /// What the stack pointer is compared with, if more is known of that than of itself.
    fn compares_sp(&self, i: &Instruction, before: Id) -> Option<Value> {
        if i.mnemonic() != Mnemonic::Cmp || i.op1_kind() != OpKind::Register {
            return None;
        }
        let other = match (i.op0_register(), i.op1_register()) {
            (Register::RSP, other) | (other, Register::RSP) => other,
            _ => return None,
        };
        if !other.is_gpr64() {
            return None;
        }
        let value = self.states.get(before).registers[other.number()];
        matches!(value, Value::Cfa(_)).then_some(value)
    }
}
