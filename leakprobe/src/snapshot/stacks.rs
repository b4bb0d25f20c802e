//! The stacks seen so far: each address with the module it was in when it was seen.
//!
//! Addresses are located at once, while the target lives. Its mappings are read again only when
//! an address is in none of the known ones, and not more often than every [`REFRESH`].

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use leakprobe_common::{FRAME_EXACT, StackEnd, StackKey};

use crate::target::{DebugFiles, Location, Mappings};

/// How long known mappings are good enough although an address is in none of them. A walk over a
/// damaged stack ends in nonsense, which no mapping will ever hold.
pub const REFRESH: Duration = Duration::from_millis(20);

/// One frame, before it has a name.
#[derive(Clone, Debug)]
pub struct Address {
    /// Return address in the target; with `exact`, that of the next instruction.
    pub address: u64,
    /// Whether a signal interrupted the code there, instead of a call.
    pub exact: bool,
    /// Where the call before it is; `None` if no mapping was known to hold it.
    pub location: Option<Location>,
}

/// The frames of a stack.
#[derive(Clone, Debug)]
pub struct Trace {
    /// Leaf first.
    pub frames: Arc<[Address]>,
    /// Why there are no more.
    pub end: StackEnd,
}

/// A stack that waits to be located.
#[derive(Debug)]
struct Arrival {
    key: StackKey,
    addresses: Vec<u64>,
    end: StackEnd,
}

/// Frames by stack.
#[derive(Debug, Default)]
pub struct Stacks {
    traces: HashMap<StackKey, Trace>,
    arrivals: Vec<Arrival>,
    mappings: Mappings,
    refreshed: Option<Instant>,
    /// Whether the kernel will map its return trampoline.
    awaits_trampoline: bool,
}

impl Stacks {
    /// None yet; debug information of their modules will be looked for as told. Whether they are of
    /// probed functions, for whose returns the kernel maps a trampoline.
    pub fn new(debug_files: DebugFiles, of_functions: bool) -> Self {
        Self {
            mappings: Mappings::new(debug_files),
            awaits_trampoline: of_functions,
            ..Self::default()
        }
    }

    /// Adds a stack; it is located by the next [`Self::locate`].
    pub fn add(&mut self, key: StackKey, addresses: Vec<u64>, end: StackEnd) {
        self.arrivals.push(Arrival {
            key,
            addresses,
            end,
        });
    }

    /// Locates what was added since, in the mappings of the process `pid`. A stack with an address
    /// in none of them waits until they may be read again, unless it is wanted `now`. Tells whether
    /// they were.
    pub fn locate(&mut self, pid: u32, now: bool) -> bool {
        self.mappings.refresh_names();
        if self.arrivals.is_empty() {
            return false;
        }
        let arrivals = std::mem::take(&mut self.arrivals);
        // The kernel maps its trampoline when the first probed call returns, which was before the
        // first stack arrived.
        let trampoline = !self.awaits_trampoline || self.mappings.trampoline().is_some();
        let (known, unknown): (Vec<_>, Vec<_>) = arrivals
            .into_iter()
            .partition(|arrival| trampoline && self.knows(arrival));
        self.settle(known);
        if unknown.is_empty() {
            return false;
        }
        if now || self.refreshed.is_none_or(|at| at.elapsed() >= REFRESH) {
            self.refresh(pid);
            self.settle(unknown);
            return true;
        }
        self.arrivals = unknown;
        false
    }

    /// Whether stacks wait until the mappings may be read again.
    pub fn waits(&self) -> bool {
        !self.arrivals.is_empty()
    }

    fn settle(&mut self, arrivals: Vec<Arrival>) {
        for arrival in arrivals {
            let mut frames: Vec<Address> = arrival
                .addresses
                .iter()
                .map(|&frame| Address {
                    address: frame & !FRAME_EXACT,
                    exact: frame & FRAME_EXACT != 0,
                    location: self.mappings.locate(looked_up(frame)),
                })
                .collect();
            // The first frame is the caller, whatever is known of it. At the end of a walk that left
            // all code is a word that is no return address.
            if arrival.end == StackEnd::NoMapping && frames.len() > 1 {
                frames.pop_if(|frame| frame.location.is_none());
            }
            let trace = Trace {
                frames: frames.into(),
                end: arrival.end,
            };
            self.traces.insert(arrival.key, trace);
        }
    }

    fn knows(&self, arrival: &Arrival) -> bool {
        arrival
            .addresses
            .iter()
            .map(|&frame| self.mappings.locate(looked_up(frame)))
            .all(|at| at.is_some_and(|at| !self.mappings.awaits_name(&at)))
    }

    /// Reads the mappings now. An error means that the process is gone: what was known has to do.
    pub fn refresh(&mut self, pid: u32) {
        let _ = self.mappings.refresh(pid);
        self.refreshed = Some(Instant::now());
    }

    /// Reads the mappings anew: the process has a new address space.
    pub fn start_over(&mut self, pid: u32) {
        self.mappings.start_over();
        self.refresh(pid);
    }

    /// The mappings known by now.
    pub fn mappings(&self) -> &Mappings {
        &self.mappings
    }

    /// Name of JIT code that had none when its stack was seen.
    pub fn late_name(&self, address: &Address) -> Option<Arc<str>> {
        let at = address.location.as_ref()?;
        let is_nameless = at.name.is_none() && at.module.may_be_jit();
        let call = address.address.wrapping_sub(u64::from(!address.exact));
        is_nameless.then(|| self.mappings.jit_name(call)).flatten()
    }

    /// Why names of JIT code are missing.
    pub fn jit_problem(&self) -> Option<&str> {
        self.mappings.jit_problem()
    }

    /// A stack; `None` if its frames did not arrive.
    pub fn get(&self, key: &StackKey) -> Option<&Trace> {
        self.traces.get(key)
    }

    /// Address of the kernel's return trampoline in the target, once known.
    pub fn trampoline(&self) -> Option<u64> {
        self.mappings.trampoline()
    }
}

/// The call before a return address, which may be the last instruction of its function.
fn looked_up(frame: u64) -> u64 {
    if frame & FRAME_EXACT != 0 {
        frame & !FRAME_EXACT
    } else {
        frame.wrapping_sub(1)
    }
}
