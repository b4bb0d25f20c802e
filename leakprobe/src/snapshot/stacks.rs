//! The stacks seen so far: each address with the module it was in when it was seen.
//!
//! Addresses are located at once, while the target lives. Its mappings are read again only when
//! an address is in none of the known ones, and not more often than every [`REFRESH`].

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use leakprobe_common::{FRAME_EXACT, StackEnd, StackKey};

use crate::target::{Library, Location, Mappings};

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
    /// Address space in which it was seen first.
    space: u64,
}

/// In the keys of [`Stacks::alike`].
const NO_PROGRAM: u64 = u64::MAX;

/// What makes stacks the same: modules (by their place in memory, which the library keeps) and offsets, the
/// names of JIT code, and how they end.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Identity(Vec<(usize, u64)>, StackEnd);

/// A stack that waits to be located.
#[derive(Debug)]
struct Arrival {
    key: StackKey,
    space: u64,
    addresses: Vec<u64>,
    end: StackEnd,
}

/// An address space.
#[derive(Debug)]
struct Place {
    pid: u32,
    mappings: Mappings,
    refreshed: Option<Instant>,
}

/// Frames by stack.
#[derive(Debug)]
pub struct Stacks {
    traces: HashMap<StackKey, Trace>,
    arrivals: Vec<Arrival>,
    places: HashMap<u64, Place>,
    library: Library,
    /// Stacks by where their frames are, which differs from their addresses: by it, stacks of
    /// different programs are the same.
    alike: HashMap<Identity, StackKey>,
    /// What [`Self::alike`] has found.
    known: HashMap<StackKey, StackKey>,
    /// Whether the kernel will map its return trampoline.
    awaits_trampoline: bool,
    jit_problem: Option<String>,
}

impl Stacks {
    /// None yet; the modules of their addresses will be in this library. Whether they are of
    /// probed functions, for whose returns the kernel maps a trampoline.
    pub fn new(library: Library, of_functions: bool) -> Self {
        Self {
            traces: HashMap::new(),
            arrivals: Vec::new(),
            places: HashMap::new(),
            library,
            alike: HashMap::new(),
            known: HashMap::new(),
            awaits_trampoline: of_functions,
            jit_problem: None,
        }
    }

    /// A new address space, of which nothing is known, of the process `pid`.
    pub fn enter(&mut self, space: u64, pid: u32) {
        let place = Place {
            pid,
            mappings: Mappings::new(self.library.clone()),
            refreshed: None,
        };
        self.places.insert(space, place);
    }

    /// One that is a copy of another: of a process that was forked.
    pub fn fork(&mut self, parent: u64, space: u64, pid: u32) {
        let Some(parent) = self.places.get(&parent) else {
            return self.enter(space, pid);
        };
        let place = Place {
            pid,
            mappings: parent.mappings.fork(),
            refreshed: None,
        };
        self.places.insert(space, place);
    }

    /// One is gone. What waits to be located there has to do with what is known.
    pub fn leave(&mut self, space: u64) {
        let (gone, others) = std::mem::take(&mut self.arrivals)
            .into_iter()
            .partition(|arrival| arrival.space == space);
        self.arrivals = others;
        self.settle(gone);
        if let Some(place) = self.places.remove(&space) {
            let problem = place.mappings.jit_problem().map(str::to_owned);
            self.jit_problem = self.jit_problem.take().or(problem);
        }
    }

    /// Adds a stack; it is located by the next [`Self::locate`].
    pub fn add(&mut self, key: StackKey, space: u64, addresses: Vec<u64>, end: StackEnd) {
        self.arrivals.push(Arrival {
            key,
            space,
            addresses,
            end,
        });
    }

    /// Locates what was added since, in the mappings of its process. A stack with an address
    /// in none of them waits until they may be read again, unless it is wanted `now`. Tells the address
    /// spaces of which they were.
    pub fn locate(&mut self, now: bool) -> Vec<u64> {
        for place in self.places.values_mut() {
            place.mappings.refresh_names();
        }
        if self.arrivals.is_empty() {
            return Vec::new();
        }
        let arrivals = std::mem::take(&mut self.arrivals);
        let (known, unknown): (Vec<_>, Vec<_>) = arrivals
            .into_iter()
            .partition(|arrival| self.knows(arrival));
        self.settle(known);
        let mut refreshed = Vec::new();
        for arrival in unknown {
            let Some(place) = self.places.get_mut(&arrival.space) else {
                self.settle(vec![arrival]);
                continue;
            };
            if refreshed.contains(&arrival.space) {
                self.settle(vec![arrival]);
            } else if now || place.refreshed.is_none_or(|at| at.elapsed() >= REFRESH) {
                place.refresh();
                refreshed.push(arrival.space);
                self.settle(vec![arrival]);
            } else {
                self.arrivals.push(arrival);
            }
        }
        refreshed
    }

    /// Whether stacks wait until the mappings may be read again.
    pub fn waits(&self) -> bool {
        !self.arrivals.is_empty()
    }

    fn settle(&mut self, arrivals: Vec<Arrival>) {
        for arrival in arrivals {
            let mappings = self.places.get(&arrival.space).map(|it| &it.mappings);
            let locate = |frame| mappings.and_then(|it| it.locate(looked_up(frame)));
            let mut frames: Vec<Address> = arrival
                .addresses
                .iter()
                .map(|&frame| Address {
                    address: frame & !FRAME_EXACT,
                    exact: frame & FRAME_EXACT != 0,
                    location: locate(frame),
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
                space: arrival.space,
            };
            self.traces.insert(arrival.key, trace);
        }
    }

    fn knows(&self, arrival: &Arrival) -> bool {
        let Some(place) = self.places.get(&arrival.space) else {
            return true; // or will never
        };
        let mappings = &place.mappings;
        // The kernel maps its trampoline when the first probed call returns, which was before the
        // first stack arrived.
        if self.awaits_trampoline && mappings.trampoline().is_none() {
            return false;
        }
        arrival
            .addresses
            .iter()
            .map(|&frame| mappings.locate(looked_up(frame)))
            .all(|at| at.is_some_and(|at| !mappings.awaits_name(&at)))
    }

    /// Reads the mappings of an address space now. An error means that the process is gone: what was
    /// known has to do.
    pub fn refresh(&mut self, space: u64) {
        if let Some(place) = self.places.get_mut(&space) {
            place.refresh();
        }
    }

    /// Whether the mappings of an address space were read longer ago than this.
    pub fn is_stale(&self, space: u64, age: Duration) -> bool {
        let place = self.places.get(&space);
        place.is_some_and(|it| it.refreshed.is_none_or(|at| at.elapsed() > age))
    }

    /// The mappings known by now.
    pub fn mappings(&self, space: u64) -> Option<&Mappings> {
        self.places.get(&space).map(|place| &place.mappings)
    }

    /// Name of JIT code that had none when its stack was seen.
    pub fn late_name(&self, trace: &Trace, address: &Address) -> Option<Arc<str>> {
        let at = address.location.as_ref()?;
        let is_nameless = at.name.is_none() && at.module.may_be_jit();
        let call = address.address.wrapping_sub(u64::from(!address.exact));
        let mappings = is_nameless.then(|| self.mappings(trace.space)).flatten();
        mappings.and_then(|it| it.jit_name(call))
    }

    /// The key of all stacks with the same frames, of whatever program; the stack's own as long as its
    /// frames have not arrived.
    pub fn alike(&mut self, key: StackKey) -> StackKey {
        if let Some(known) = self.known.get(&key) {
            return *known;
        }
        let Some(trace) = self.traces.get(&key) else {
            return key;
        };
        let next = StackKey {
            id: self.alike.len() as u64,
            program: NO_PROGRAM,
        };
        let alike = *self.alike.entry(trace.identity()).or_insert(next);
        if alike == next {
            self.traces.insert(alike, trace.clone());
        }
        self.known.insert(key, alike);
        alike
    }

    /// The program of a stack is gone: returns the key under which the stack is known from now on.
    pub fn bury(&mut self, key: StackKey) -> StackKey {
        let alike = self.alike(key);
        self.known.remove(&key);
        if alike != key {
            self.traces.remove(&key);
        }
        alike
    }

    /// Why names of JIT code are missing.
    pub fn jit_problem(&self) -> Option<&str> {
        let places = self.places.values();
        let problems = places.filter_map(|it| it.mappings.jit_problem());
        problems.chain(self.jit_problem.as_deref()).min() // the same each time
    }

    /// A stack; `None` if its frames did not arrive.
    pub fn get(&self, key: &StackKey) -> Option<&Trace> {
        self.traces.get(key)
    }

    /// Address of the kernel's return trampoline in an address space, once known.
    pub fn trampoline(&self, space: u64) -> Option<u64> {
        self.mappings(space).and_then(Mappings::trampoline)
    }
}

impl Trace {
    fn identity(&self) -> Identity {
        let frames = self.frames.iter().map(|frame| match &frame.location {
            Some(at) => {
                let place = match &at.name {
                    Some(name) => BuildHasherDefault::<DefaultHasher>::default().hash_one(name),
                    None if at.module.may_be_jit() => frame.address,
                    None => at.offset,
                };
                (Arc::as_ptr(&at.module).addr(), place)
            }
            None => (0, frame.address),
        });
        Identity(frames.collect(), self.end)
    }
}

impl Place {
    fn refresh(&mut self) {
        let _ = self.mappings.refresh(self.pid);
        self.refreshed = Some(Instant::now());
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
