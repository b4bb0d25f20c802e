//! The stacks seen so far: each address with the module it was in when it was seen.
//!
//! Addresses are located at once, while the target lives. Its mappings are read again only when
//! an address is in none of the known ones, and not more often than every [`REFRESH`].

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use leakprobe_common::StackKey;

use crate::target::{DebugFiles, Location, Mappings};

/// How long known mappings are good enough although an address is in none of them. Walks by frame
/// pointer end in nonsense now and then, which no mapping will ever hold.
const REFRESH: Duration = Duration::from_millis(20);

/// One frame, before it has a name.
#[derive(Clone, Debug)]
pub struct Address {
    /// Return address in the target.
    pub address: u64,
    /// Where the call before it is; `None` if no mapping was known to hold it.
    pub location: Option<Location>,
}

/// Frames by stack.
#[derive(Debug, Default)]
pub struct Stacks {
    frames: HashMap<StackKey, Arc<[Address]>>,
    broken: HashSet<StackKey>,
    unlocated: Vec<(StackKey, Vec<u64>)>,
    mappings: Mappings,
    refreshed: Option<Instant>,
}

impl Stacks {
    /// None yet; debug information of their modules will be looked for as told.
    pub fn new(debug_files: DebugFiles) -> Self {
        Self {
            mappings: Mappings::new(debug_files),
            ..Self::default()
        }
    }

    /// Adds a stack; it is located by the next [`Self::locate`].
    pub fn add(&mut self, key: StackKey, addresses: Vec<u64>) {
        self.unlocated.push((key, addresses));
    }

    /// Locates what was added since, in the mappings of the process `pid`. A stack with an address
    /// in none of them waits until they may be read again, unless it is wanted `now`.
    pub fn locate(&mut self, pid: u32, now: bool) {
        self.mappings.refresh_names();
        if self.unlocated.is_empty() {
            return;
        }
        let unlocated = std::mem::take(&mut self.unlocated);
        // The kernel maps its trampoline when the first probed call returns, which was before the
        // first stack arrived.
        let trampoline = self.mappings.trampoline().is_some();
        let (known, unknown): (Vec<_>, Vec<_>) = unlocated
            .into_iter()
            .partition(|(_, addresses)| trampoline && self.knows(addresses));
        self.settle(known);
        if unknown.is_empty() {
            return;
        }
        if now || self.refreshed.is_none_or(|at| at.elapsed() >= REFRESH) {
            // An error means that the process is gone: what was known has to do.
            let _ = self.mappings.refresh(pid);
            self.refreshed = Some(Instant::now());
            self.settle(unknown);
        } else {
            self.unlocated = unknown;
        }
    }

    fn settle(&mut self, located: Vec<(StackKey, Vec<u64>)>) {
        for (key, addresses) in located {
            let len = addresses.len();
            let mut frames: Vec<Address> = addresses
                .into_iter()
                .map(|address| Address {
                    address,
                    location: self.mappings.locate(address.wrapping_sub(1)),
                })
                .collect();
            // The first frame is the caller, whatever is known of it. Further down an address in
            // no code shows that the walk went astray there.
            if let Some(astray) = (1..len).find(|&index| frames[index].location.is_none()) {
                frames.truncate(astray);
                self.broken.insert(key);
            }
            self.frames.insert(key, frames.into());
        }
    }

    fn knows(&self, addresses: &[u64]) -> bool {
        addresses
            .iter()
            .map(|address| self.mappings.locate(address.wrapping_sub(1)))
            .all(|at| at.is_some_and(|at| !self.mappings.awaits_name(&at)))
    }

    /// Reads the mappings now, so that they are known should the process end soon.
    pub fn refresh(&mut self, pid: u32) {
        let _ = self.mappings.refresh(pid);
    }

    /// Forgets the mappings: the process has a new address space.
    pub fn start_over(&mut self, pid: u32) {
        self.mappings.start_over();
        self.refresh(pid);
    }

    /// The frames of a stack; `None` if they did not arrive.
    pub fn get(&self, key: &StackKey) -> Option<&Arc<[Address]>> {
        self.frames.get(key)
    }

    /// Name of JIT code that had none when its stack was seen.
    pub fn late_name(&self, address: &Address) -> Option<Arc<str>> {
        let at = address.location.as_ref()?;
        let is_nameless = at.name.is_none() && at.module.may_be_jit();
        is_nameless
            .then(|| self.mappings.jit_name(address.address.wrapping_sub(1)))
            .flatten()
    }

    /// Why names of JIT code are missing.
    pub fn jit_problem(&self) -> Option<&str> {
        self.mappings.jit_problem()
    }

    /// Whether a stack was cut because its walk had left all code.
    pub fn is_broken(&self, key: &StackKey) -> bool {
        self.broken.contains(key)
    }

    /// Address of the kernel's return trampoline in the target, once known.
    pub fn trampoline(&self) -> Option<u64> {
        self.mappings.trampoline()
    }
}
