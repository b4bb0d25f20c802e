//! The functions found so far, and which of them can return. It looks at no code.

use std::collections::BTreeMap;
use std::ops::Range;

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
    /// Why it is taken for one.
    pub trust: Trust,
    /// Whether it does nothing but jump to where a word says, as stubs for other objects do.
    pub import: bool,
    /// Whether it leads to bytes that are no code.
    pub broken: bool,
    /// Whether a call of it can come back.
    returns: bool,
    /// Where the code goes on that waits for its return, and whose code that is.
    waiting: Vec<(u64, usize)>,
    /// Functions that return if it does.
    dependents: Vec<usize>,
}

/// All functions, by number: in the order they were found.
#[derive(Debug, Default)]
pub(super) struct Functions {
    pub list: Vec<Function>,
    by_entry: BTreeMap<u64, usize>,
}

impl Functions {
    /// Number of the function at an address, and whether it is new.
    pub fn add(&mut self, entry: u64, trust: Trust) -> (usize, bool) {
        if let Some(&known) = self.by_entry.get(&entry) {
            return (known, false);
        }
        let number = self.list.len();
        self.list.push(Function {
            entry,
            trust,
            ..Default::default()
        });
        self.by_entry.insert(entry, number);
        (number, true)
    }

    /// Number of the function that starts at an address.
    pub fn at(&self, entry: u64) -> Option<usize> {
        self.by_entry.get(&entry).copied()
    }

    /// Takes back that a function starts at an address.
    pub fn forget(&mut self, entry: u64) {
        self.by_entry.remove(&entry);
    }

    /// Forgets all but where they start.
    pub fn reset(&mut self) {
        for function in &mut self.list {
            *function = Function {
                entry: function.entry,
                trust: function.trust,
                ..Default::default()
            };
        }
    }

    /// Whether a call of this address can come back.
    pub fn returns(&self, address: u64) -> bool {
        self.at(address)
            .is_none_or(|number| self.list[number].returns)
    }

    /// Whether a function is a stub for one of another object.
    pub fn is_import(&self, address: u64) -> bool {
        self.at(address)
            .is_some_and(|number| self.list[number].import)
    }

    /// Where the last function up to an address starts, and the next one.
    pub fn around(&self, address: u64) -> Range<u64> {
        let entry = |found: (&u64, &usize)| *found.0;
        let before = self.by_entry.range(..=address).next_back();
        let after = address.checked_add(1);
        let after = after.and_then(|after| self.by_entry.range(after..).next());
        before.map_or(0, entry)..after.map_or(u64::MAX, entry)
    }

    /// Notes that a function can return. Returns the code that has waited for that.
    pub fn set_returns(&mut self, number: usize) -> Vec<(u64, usize)> {
        let (mut list, mut work) = (vec![number], Vec::new());
        while let Some(number) = list.pop() {
            let function = &mut self.list[number];
            if !function.returns {
                function.returns = true;
                work.append(&mut function.waiting);
                list.append(&mut function.dependents);
            }
        }
        work
    }

    /// Notes that `number` returns if `on` does.
    pub fn depend(&mut self, number: usize, on: usize) -> Vec<(u64, usize)> {
        if self.list[on].returns {
            return self.set_returns(number);
        }
        if number != on {
            self.list[on].dependents.push(number);
        }
        Vec::new()
    }

    /// Whether code that calls a function goes on. If not, it waits.
    pub fn goes_on(&mut self, called: usize, waiting: (u64, usize)) -> bool {
        let function = &mut self.list[called];
        if !function.returns {
            function.waiting.push(waiting);
        }
        function.returns
    }
}
