//! Finds functions and what code they reach, before anything is known of their stacks: calls and
//! jumps are followed from known functions on, and code behind a call only if the called function
//! can return. It says nothing about frames; `flow` does.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::ops::Range;

use iced_x86::{FlowControl, Instruction, Mnemonic, OpKind};

use super::Code;
use super::tables::{self, Recent};
use super::text::{INSIDE, INSTRUCTION, POINTER, Padding, START, SystemCall, TARGET, Text};

/// Instructions that are looked at, at most, in all.
const MAX_INSTRUCTIONS: usize = 8 << 20;

/// Why an address is taken for a function's entry, or code's state for known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Trust {
    /// A symbol says so, or known code goes there.
    #[default]
    Known,
    /// A pointer leads there, or code that is itself in doubt.
    Pointed,
    /// Nothing does.
    LeftOver,
}

/// A function.
#[derive(Debug, Default)]
pub(super) struct Function {
    /// Where it starts.
    pub entry: u64,
    /// Whether a call of it can come back.
    returns: bool,
    /// Whether it does nothing but jump to where a word says, as stubs for other objects do.
    import: bool,
    /// Why it is taken for one.
    pub trust: Trust,
    /// Whether it leads to bytes that are no code.
    pub broken: bool,
    /// Where the code goes on that waits for this one's return, and whose code that is.
    waiting: Vec<(u64, usize)>,
    /// Functions that return if this one does.
    dependents: Vec<usize>,
}

/// What is known of the functions.
pub(super) struct Discovery<'a> {
    code: &'a Code<'a>,
    pub text: Text,
    /// In the order they were found.
    pub functions: Vec<Function>,
    by_entry: BTreeMap<u64, usize>,
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
    work: VecDeque<(u64, usize)>,
    instructions: usize,
}

impl<'a> Discovery<'a> {
    pub fn new(code: &'a Code<'a>) -> Self {
        let mut text = Text::read(code);
        for &pointer in code.pointers {
            text.mark_address(pointer, POINTER);
        }
        Self {
            code,
            owner: vec![u32::MAX; text.len()],
            text,
            functions: Vec::new(),
            by_entry: BTreeMap::new(),
            tables: HashMap::new(),
            pointers: Vec::new(),
            seen_pointers: HashSet::new(),
            calls: Vec::new(),
            finals: HashSet::new(),
            work: VecDeque::new(),
            instructions: 0,
        }
    }

    /// Adds functions and follows their code, and that of all they lead to.
    pub fn follow(&mut self, entries: &[u64], trust: Trust) {
        for &entry in entries {
            if self.text.marks(entry) & INSIDE == 0 {
                self.function(entry, trust);
            }
        }
        while let Some((address, function)) = self.work.pop_front() {
            self.block(address, function);
        }
    }

    /// Finds out which functions of other objects do not return, from where their calls stand, and
    /// follows all code anew if there are any.
    pub fn learn(&mut self) {
        let mut counts: HashMap<u64, (usize, usize)> = HashMap::new();
        for &(key, next) in &self.calls {
            if self.text.find(key).is_none() || self.is_import(key) {
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
        for (number, function) in self.functions.iter_mut().enumerate() {
            *function = Function {
                entry: function.entry,
                trust: function.trust,
                ..Default::default()
            };
            self.work.push_back((function.entry, number));
        }
        self.follow(&[], Trust::Known);
    }

    /// Whether a call is one of a function of another object that does not return.
    pub fn is_final(&self, call: &Instruction) -> bool {
        !self.finals.is_empty() && key(call).is_some_and(|key| self.finals.contains(&key))
    }

    /// Whether a call of this address can come back.
    pub fn returns(&self, address: u64) -> bool {
        match self.by_entry.get(&address) {
            Some(&function) => self.functions[function].returns,
            None => true,
        }
    }

    /// Whether a function is a stub for one of another object.
    pub fn is_import(&self, address: u64) -> bool {
        let known = self.by_entry.get(&address);
        known.is_some_and(|&function| self.functions[function].import)
    }

    /// The functions around an address: where the last one before it starts, and the next one.
    pub fn around(&self, address: u64) -> Range<u64> {
        let before = self.by_entry.range(..=address).next_back();
        let after = self.by_entry.range(address + 1..).next();
        let entry = |found: (&u64, &usize)| *found.0;
        before.map_or(0, entry)..after.map_or(u64::MAX, entry)
    }

    /// Takes back that a function starts at an address.
    pub fn forget(&mut self, entry: u64) {
        if let Some((index, _)) = self.text.find(entry) {
            self.text.marks[index] &= !START;
            self.by_entry.remove(&entry);
        }
    }

    /// The number of the function that starts at an address in the gaps.
    fn function(&mut self, entry: u64, trust: Trust) -> Option<usize> {
        let (index, _) = self.text.find(entry)?;
        if let Some(&known) = self.by_entry.get(&entry) {
            return Some(known);
        }
        let number = self.functions.len();
        self.functions.push(Function {
            entry,
            trust,
            ..Default::default()
        });
        self.by_entry.insert(entry, number);
        self.text.marks[index] |= START;
        self.work.push_back((entry, number));
        Some(number)
    }

    /// Notes that a function can return, and what follows from it.
    fn set_returns(&mut self, function: usize) {
        let mut list = vec![function];
        while let Some(number) = list.pop() {
            let function = &mut self.functions[number];
            if !function.returns {
                function.returns = true;
                self.work.extend(function.waiting.drain(..));
                list.append(&mut function.dependents);
            }
        }
    }

    /// Notes that `function` returns if `on` does.
    fn depend(&mut self, function: usize, on: usize) {
        if self.functions[on].returns {
            self.set_returns(function);
        } else if function != on {
            self.functions[on].dependents.push(function);
        }
    }

    /// Follows code to where it does not go on at the next instruction.
    fn block(&mut self, start: u64, function: usize) {
        let mut address = start;
        let mut recent = Recent::default();
        let mut number = SystemCall::default();
        loop {
            let Some((index, end)) = self.text.find(address) else {
                // It goes on in code that is known otherwise.
                return self.set_returns(function);
            };
            let entry = self.functions[function].entry;
            if self.text.marks[index] & START != 0 && address != entry {
                if let Some(&on) = self.by_entry.get(&address) {
                    self.depend(function, on);
                }
                return;
            }
            if self.text.marks[index] & INSTRUCTION != 0 {
                match self.owner[index] as usize {
                    on if on == function => {}
                    on if on < self.functions.len() => self.depend(function, on),
                    // `flow` came here first.
                    _ => self.set_returns(function),
                }
                return;
            }
            let Some(i) = self.decode(address) else {
                self.functions[function].broken = true;
                return;
            };
            self.broken_by_overlap(index, i.len().min(end - index), function);
            self.owner[index] = function as u32;
            self.instructions += 1;
            recent.push(i);
            number.see(&i);
            self.note_pointer(&i);
            if !self.goes_on(&i, function, &recent, number) {
                if recent.is_stub(entry) {
                    self.functions[function].import = true;
                }
                return;
            }
            address = i.next_ip();
        }
    }

    fn decode(&self, address: u64) -> Option<Instruction> {
        if self.instructions >= MAX_INSTRUCTIONS {
            return None;
        }
        let i = self.text.decoder(address)?.decode();
        (!i.is_invalid()).then_some(i)
    }

    /// Marks an instruction; one that begins within another is a sign of bytes that are no code.
    fn broken_by_overlap(&mut self, index: usize, len: usize, function: usize) {
        if self.text.marks[index] & INSIDE != 0 {
            self.functions[function].broken = true;
        }
        self.text.mark(index, len);
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
                let targets = tables::resolve(recent, self.code.read, |to| {
                    self.text.find(to).is_some() && self.text.marks(to) & INSIDE == 0
                });
                match targets {
                    Some(targets) => {
                        self.jump(targets.iter().copied(), function);
                        self.tables.insert(i.ip(), targets);
                    }
                    // Such as longjmp.
                    None if recent.switches_stack() => {}
                    None => self.set_returns(function),
                }
                false
            }
            FlowControl::Return => {
                self.set_returns(function);
                false
            }
            FlowControl::Call => self.call(i, function, number),
            FlowControl::IndirectCall => {
                self.calls.extend(key(i).map(|key| (key, i.next_ip())));
                !self.is_final(i)
            }
            FlowControl::Interrupt => i.mnemonic() == Mnemonic::Int,
            FlowControl::Exception => false,
        }
    }

    fn jump(&mut self, targets: impl IntoIterator<Item = u64>, function: usize) {
        for to in targets {
            self.text.mark_address(to, TARGET);
            self.work.push_back((to, function));
        }
    }

    /// A direct call, or a system call.
    fn call(&mut self, i: &Instruction, function: usize, number: SystemCall) -> bool {
        let Some(to) = target(i) else {
            return !(i.mnemonic() == Mnemonic::Syscall && number.ends());
        };
        self.calls.push((to, i.next_ip()));
        if self.is_final(i) {
            return false;
        }
        let trust = match self.functions[function].trust {
            Trust::Known => Trust::Known,
            _ => Trust::Pointed,
        };
        let marks = self.text.marks(to);
        if marks & INSIDE != 0
            || trust != Trust::Known && marks & INSTRUCTION != 0 && marks & START == 0
        {
            return true;
        }
        let Some(called) = self.function(to, trust) else {
            return true;
        };
        if !self.functions[called].returns {
            let waiting = (i.next_ip(), function);
            self.functions[called].waiting.push(waiting);
            return false;
        }
        true
    }
}

/// What tells a called function from others: its address, or that of the word with its address.
fn key(call: &Instruction) -> Option<u64> {
    let slot = || {
        call.is_ip_rel_memory_operand()
            .then(|| call.ip_rel_memory_address())
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
