//! Finds functions and what code they reach, before anything is known of their stacks: calls and
//! jumps are followed from known functions on, and code behind a call only if the called function
//! can return. It says nothing about frames; `flow` does.

use std::collections::{HashMap, HashSet, VecDeque};

use iced_x86::{FlowControl, Instruction, Mnemonic, OpKind};

use super::Code;
use super::functions::{Functions, Trust};
use super::tables::{self, Recent};
use super::text::{Bytes, INSIDE, INSTRUCTION, POINTER, Padding, START, SystemCall, TARGET, Text};

/// Instructions and jumps that are looked at, at most, in all.
const MAX_WORK: usize = 4 << 20;

/// What is known of the functions.
pub(super) struct Discovery<'a> {
    code: &'a Code<'a>,
    pub text: Text<'a>,
    pub functions: Functions,
    /// By index of code: the number of the function that reached it first.
    owner: Vec<u32>,
    /// Where the indirect jumps go, by their addresses.
    pub tables: HashMap<u64, Vec<u64>>,
    /// Addresses in the gaps that instructions compute.
    pub pointers: Vec<u64>,
    seen_pointers: HashSet<u64>,
    /// Calls: what of, see [`key`], and what comes next.
    calls: Vec<(u64, u64)>,
    /// Functions of other objects that do not return.
    finals: HashSet<u64>,
    /// Blocks to look at, and whose they are.
    blocks: VecDeque<(u64, usize)>,
    work: usize,
}

impl<'a> Discovery<'a> {
    pub fn new(code: &'a Code<'a>, bytes: &'a Bytes) -> Self {
        let mut text = Text::new(bytes);
        for &pointer in code.pointers {
            text.mark_address(pointer, POINTER);
        }
        Self {
            code,
            owner: vec![u32::MAX; text.len()],
            text,
            functions: Functions::default(),
            tables: HashMap::new(),
            pointers: Vec::new(),
            seen_pointers: HashSet::new(),
            calls: Vec::new(),
            finals: HashSet::new(),
            blocks: VecDeque::new(),
            work: 0,
        }
    }

    /// Adds functions and follows their code, and that of all they lead to.
    pub fn follow(&mut self, entries: &[u64], trust: Trust) {
        for &entry in entries {
            if self.text.marks(entry) & INSIDE == 0 {
                self.function(entry, trust);
            }
        }
        while let Some((address, function)) = self.blocks.pop_front() {
            self.block(address, function);
        }
    }

    /// Finds out which functions of other objects do not return, from where their calls stand, and
    /// follows all code anew if there are any.
    pub fn learn(&mut self) {
        let mut counts: HashMap<u64, (usize, usize)> = HashMap::new();
        for &(key, next) in &self.calls {
            if self.text.find(key).is_none() || self.functions.is_import(key) {
                let (all, last) = counts.entry(key).or_default();
                *all += 1;
                *last += usize::from(self.text.padding(next) == Padding::ToEnd);
            }
        }
        // A compiler may know of some call that it does not return although others do.
        counts.retain(|_, (all, last)| *last * 8 >= *all);
        self.finals = counts.into_keys().collect();
        if self.finals.is_empty() {
            return;
        }
        for mark in &mut self.text.marks {
            *mark &= START | POINTER;
        }
        self.owner.fill(u32::MAX);
        self.tables.clear();
        self.pointers.clear();
        self.seen_pointers.clear();
        self.calls.clear();
        self.functions.reset();
        let entries = self.functions.list.iter().enumerate();
        let entries = entries.map(|(number, function)| (function.entry, number));
        self.blocks.extend(entries);
        self.follow(&[], Trust::Known);
    }

    /// Whether a call is one of a function of another object that does not return.
    pub fn is_final(&self, call: &Instruction) -> bool {
        !self.finals.is_empty() && key(call).is_some_and(|key| self.finals.contains(&key))
    }

    /// Takes back that a function starts at an address.
    pub fn forget(&mut self, entry: u64) {
        if let Some((index, _)) = self.text.find(entry) {
            self.text.marks[index] &= !START;
            self.functions.forget(entry);
        }
    }

    /// The number of the function that starts at an address in the gaps.
    fn function(&mut self, entry: u64, trust: Trust) -> Option<usize> {
        let (index, _) = self.text.find(entry)?;
        let (number, is_new) = self.functions.add(entry, trust);
        if is_new {
            self.text.marks[index] |= START;
            self.blocks.push_back((entry, number));
        }
        Some(number)
    }

    fn set_returns(&mut self, function: usize) {
        self.blocks.extend(self.functions.set_returns(function));
    }

    fn depend(&mut self, function: usize, on: usize) {
        self.blocks.extend(self.functions.depend(function, on));
    }

    /// Follows code to where it does not go on at the next instruction.
    fn block(&mut self, start: u64, function: usize) {
        let entry = self.functions.list[function].entry;
        let mut recent = Recent::default();
        let mut number = SystemCall::default();
        let Some((mut index, end)) = self.text.find(start) else {
            // It goes on in code that is known otherwise.
            return self.set_returns(function);
        };
        let Some(mut decoder) = self.text.decoder(start) else {
            return;
        };
        let mut i = Instruction::default();
        while index < end {
            let address = decoder.ip();
            let marks = self.text.marks[index];
            if marks & START != 0 && address != entry {
                if let Some(on) = self.functions.at(address) {
                    self.depend(function, on);
                }
                return;
            }
            if marks & INSTRUCTION != 0 {
                return match self.owner[index] as usize {
                    on if on == function => {}
                    on if on < self.functions.list.len() => self.depend(function, on),
                    // `flow` came here first.
                    _ => self.set_returns(function),
                };
            }
            decoder.decode_out(&mut i);
            self.work += 1;
            if i.is_invalid() || self.work > MAX_WORK {
                self.functions.list[function].broken = true;
                return;
            }
            // One that begins within another is a sign of bytes that are no code.
            self.functions.list[function].broken |= marks & INSIDE != 0;
            self.text.mark(index, i.len());
            self.owner[index] = function as u32;
            recent.push(i);
            number.see(&i);
            self.note_pointer(&i);
            if !self.goes_on(&i, function, &recent, number) {
                self.functions.list[function].import |= recent.is_stub(entry);
                return;
            }
            index += i.len();
        }
        self.set_returns(function);
    }

    fn note_pointer(&mut self, i: &Instruction) {
        let to = match i.mnemonic() {
            Mnemonic::Lea if i.is_ip_rel_memory_operand() => i.ip_rel_memory_address(),
            // In programs for fixed addresses, but it may be any number.
            Mnemonic::Mov if i.op1_kind() == OpKind::Immediate32 => i.immediate(1),
            _ => return,
        };
        if self.text.find(to).is_some() && self.seen_pointers.insert(to) {
            self.pointers.push(to);
        }
        if i.mnemonic() == Mnemonic::Lea {
            self.text.mark_address(to, POINTER);
        }
    }

    /// Follows where an instruction leads to; whether that is the next one, too.
    fn goes_on(
        &mut self,
        i: &Instruction,
        function: usize,
        recent: &Recent,
        number: SystemCall,
    ) -> bool {
        match i.flow_control() {
            FlowControl::Next => i.mnemonic() != Mnemonic::Hlt,
            FlowControl::ConditionalBranch | FlowControl::XbeginXabortXend => {
                self.jump(target(i), function);
                true
            }
            FlowControl::UnconditionalBranch => {
                self.jump(target(i), function);
                false
            }
            FlowControl::IndirectBranch => {
                self.jump_indirectly(i, function, recent);
                false
            }
            FlowControl::Return => {
                self.set_returns(function);
                false
            }
            FlowControl::Call | FlowControl::IndirectCall => self.call(i, function, number),
            FlowControl::Interrupt => i.mnemonic() == Mnemonic::Int,
            FlowControl::Exception => false,
        }
    }

    fn jump(&mut self, targets: impl IntoIterator<Item = u64>, function: usize) {
        for to in targets {
            self.work += 1;
            self.text.mark_address(to, TARGET);
            self.blocks.push_back((to, function));
        }
    }

    fn jump_indirectly(&mut self, i: &Instruction, function: usize, recent: &Recent) {
        let is_code = |to| self.text.find(to).is_some() && self.text.marks(to) & INSIDE == 0;
        match tables::resolve(recent, self.code.read, is_code) {
            Some(targets) => {
                self.jump(targets.iter().copied(), function);
                self.tables.insert(i.ip(), targets);
            }
            // Such as longjmp.
            None if recent.switches_stack() => {}
            None => self.set_returns(function),
        }
    }

    /// A call, or a system call; whether it comes back now.
    fn call(&mut self, i: &Instruction, function: usize, number: SystemCall) -> bool {
        if i.mnemonic() == Mnemonic::Syscall {
            return !number.ends();
        }
        self.calls.extend(key(i).map(|key| (key, i.next_ip())));
        if self.is_final(i) {
            return false;
        }
        let Some(to) = target(i) else {
            return true;
        };
        let trust = match self.functions.list[function].trust {
            Trust::Known => Trust::Known,
            _ => Trust::Pointed,
        };
        let marks = self.text.marks(to);
        let is_code = marks & INSTRUCTION != 0 && marks & START == 0;
        if marks & INSIDE != 0 || trust != Trust::Known && is_code {
            return true;
        }
        let Some(called) = self.function(to, trust) else {
            return true;
        };
        self.functions.goes_on(called, (i.next_ip(), function))
    }
}

/// What tells a called function from others: its address, or that of the word with its address.
fn key(call: &Instruction) -> Option<u64> {
    let slot = || {
        let is_slot = call.is_ip_rel_memory_operand();
        is_slot.then(|| call.ip_rel_memory_address())
    };
    target(call).or_else(slot)
}

/// Where a direct jump or call goes.
pub(super) fn target(i: &Instruction) -> Option<u64> {
    let direct = matches!(
        i.op0_kind(),
        OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64
    );
    direct.then(|| i.near_branch_target())
}
