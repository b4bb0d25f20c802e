//! Loads the BPF programs and attaches them to the planned points, for one process only.
//!
//! Attaching is all or nothing: nothing is recorded before every probe is in place, and an error
//! on the way takes back what was placed. The kernel removes the probes by itself when leakprobe
//! ends, however it ends, since they belong to its file descriptors.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow, bail};
use aya::maps::{Array, Map, MapData, PerCpuArray, RingBuf};
use aya::programs::{ProgramError, RawTracePoint};
use aya::{Ebpf, EbpfLoader};
use leakprobe_common::{Chances, Control, MAX_ALLOCATORS, ProcessState};

use super::children::Children;
use super::growth::Pages;
use super::layout;
use super::links::{Link, Linker, Program};
use super::plan::Point;
use super::refusal::{explain_permission, explain_program};
use super::system_calls;
use super::version::Version;
use super::way::{self, Way};
use crate::sampling;
use crate::switches::Switches;
use crate::target::{Allocator, Process};
use crate::unwind::KernelTables;
use crate::{bpf, pid_namespace};

/// The compiled kernel side.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("LEAKPROBE_BPF_OBJECT"));

/// What is recorded, at most.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Live blocks.
    pub max_live: u32,
    /// Smallest block recorded, in bytes.
    pub min_size: u64,
    /// Largest block recorded, in bytes.
    pub max_size: u64,
    /// One block is recorded in about so many bytes; 0 records every block.
    pub sample_bytes: u64,
    /// In growth mode: of the pages.
    pub pages: Option<Pages>,
    /// Whether that may change ([`Probes::set_sample`]).
    pub changing: bool,
    /// Whether many processes are recorded, which [`Probes::take_in`] names.
    pub many: bool,
    /// Whether what they fork and execute is recorded too ([`Way::Tree`]).
    pub follow: bool,
}

/// Lists of mappings that there is room for: of one process, the one in use and the next; of many.
const LISTS: [u32; 2] = [2, 256];

/// The loaded programs and their links.
pub struct Probes {
    ebpf: Ebpf,
    switches: Switches,
    /// Of many processes: the map of those that are known, and of those that are wanted.
    processes: Option<[OwnedFd; 2]>,
    linker: Linker,
    links: Vec<Link>,
    /// At system calls.
    calls: Vec<Link>,
    children: Children,
    detaching: Vec<JoinHandle<()>>,
}

/// Programs, and the tracepoints they are attached to.
const TRACEPOINTS: [(&str, &str); 5] = [
    ("signal_deliver", "signal_deliver"),
    ("process_fork", "sched_process_fork"),
    ("process_exec", "sched_process_exec"),
    ("oom_victim", "mark_victim"),
    ("thread_exit", "sched_process_exit"),
];

/// Levels of `aya_log`: 0 is silence, 4 is debug.
const LOG_DEBUG: u8 = 4;

impl Probes {
    /// Loads the programs for a process. Nothing is attached to it yet.
    ///
    /// # Errors
    ///
    /// If the kernel refuses; for lack of permission with the capabilities to give.
    pub fn load(process: &Process, limits: Limits, verbose: bool) -> Result<Self> {
        Version::require_oldest(Version::running())?;
        let tasks = layout::tasks()?;
        let pid = u64::from(process.pid());
        let log_level = if verbose { LOG_DEBUG } else { 0 };
        let pages = limits.pages.unwrap_or_default();
        let layout = pages.layout.unwrap_or_default();
        let sampling = limits.sample_bytes > 0 || limits.changing || pages.shift > 0;
        let mut loader = EbpfLoader::new();
        if !sampling {
            loader.map_max_entries("MARKS", 1);
        }
        if limits.pages.is_none() {
            for of_pages in ["RANGES", "MOVED"] {
                loader.map_max_entries(of_pages, 1);
            }
        }
        let max_pages = limits.pages.map_or(u32::MAX, |pages| pages.most());
        let mut ebpf = loader
            .map_max_entries("BLOCKS", limits.max_live.min(max_pages))
            .override_global("MIN_SIZE", &limits.min_size, true)
            .override_global("MAX_SIZE", &limits.max_size, true)
            .override_global("SAMPLING", &u64::from(sampling), true)
            .override_global("PAGES_SHIFT", &pages.shift, true)
            .override_global("PAGES_SEED", &pages.seed, true)
            .override_global("VM_FILE", &layout.file, true)
            .override_global("VM_FLAGS", &layout.flags, true)
            .override_global("TASK_FAULTS", &layout.faults, true)
            .override_global("TARGET_PID", &pid, true)
            .override_global("TASK_LAYOUT", &tasks, true)
            .override_global("MANY", &u64::from(limits.many), true)
            .map_max_entries("MAPPINGS", LISTS[usize::from(limits.many)])
            .override_global("AYA_LOG_LEVEL", &log_level, true)
            .load(OBJECT)
            .map_err(explain_permission)
            .context("failed to load the BPF object")?;
        draw_by(&mut ebpf, limits.sample_bytes)?;
        let way = match limits.pages {
            None => way::choose(limits.follow)?.way,
            Some(_) => Way::Single, // there is nothing to place
        };
        let linker = Linker::new(way, OBJECT, &ebpf)?;
        let views = limits.many.then(|| descriptor(&mut ebpf, "VIEWS"));
        let switches = Switches::new(descriptor(&mut ebpf, "CONTROL")?, views.transpose()?);
        let processes = match limits.many {
            false => None,
            true => Some([
                descriptor(&mut ebpf, "PROCESSES")?,
                descriptor(&mut ebpf, "WANTED")?,
            ]),
        };
        for (name, tracepoint) in TRACEPOINTS {
            let is_needed = match name {
                "signal_deliver" => limits.pages.is_none(), // for calls in flight
                "process_fork" => limits.many,
                _ => true,
            };
            if !is_needed {
                continue;
            }
            let program: &mut RawTracePoint = program(&mut ebpf, name)?;
            program
                .load()
                .map_err(explain_program)
                .with_context(|| format!("failed to load the program `{name}`"))?;
            program
                .attach(tracepoint)
                .with_context(|| format!("failed to attach to the tracepoint `{tracepoint}`"))?;
        }
        Ok(Self {
            ebpf,
            switches,
            processes,
            linker,
            links: Vec::new(),
            calls: Vec::new(),
            children: Children::default(),
            detaching: Vec::new(),
        })
    }

    /// Loads the programs that [`Self::attach`] would load; how many they are.
    ///
    /// # Errors
    ///
    /// If the kernel refuses one.
    pub fn load_all(&mut self) -> Result<usize> {
        Ok(TRACEPOINTS.len() + self.linker.load(&mut self.ebpf)?)
    }

    /// Places probes in an allocator, for the process only; in the way [`Way::Tree`] for all that it
    /// forks, too. Probes placed earlier stay.
    ///
    /// # Errors
    ///
    /// If one cannot be placed; those placed before it are taken back.
    pub fn attach(
        &mut self,
        process: &Process,
        allocator: &Allocator,
        points: &[Point],
    ) -> Result<()> {
        let mut links = self
            .linker
            .place(&mut self.ebpf, process, allocator, points)?;
        if process.has_ended() {
            return Err(anyhow!(
                "process {} ended while it was being attached to",
                process.pid()
            ));
        }
        self.links.append(&mut links);
        Ok(())
    }

    /// From now on probes do not outlive this process in the target's code, however it ends: a process of its own
    /// looks after them, which is this program once more, so that has to be leakprobe.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn guard(&mut self) -> Result<()> {
        self.linker.guard()
    }

    /// Places probes that run a program at system calls of an object that a process has mapped, for the process
    /// only. What [`system_calls::MAPPINGS`] sees there is told at once, whether [`Self::record`] or not, until they
    /// are taken away.
    ///
    /// # Errors
    ///
    /// If one cannot be placed; those placed before it are taken back.
    pub fn attach_calls(
        &mut self,
        process: &Process,
        object: ((u32, u32, u64), &File),
        points: &[system_calls::Point],
        program: &str,
    ) -> Result<()> {
        let mut links =
            self.linker
                .place_calls(&mut self.ebpf, process, object, points, program)?;
        self.calls.append(&mut links);
        Ok(())
    }

    /// Takes those out of this hand; they stay in place until dropped.
    pub fn take_calls(&mut self) -> Vec<Link> {
        std::mem::take(&mut self.calls)
    }

    /// Takes in a process that was forked by one that is attached to in the way [`Way::Tree`], or that has
    /// executed another program. It has its probes already; some kernels might take them away again, so
    /// this should be soon. `true` if one has, and calls were missed. In other ways it does nothing.
    ///
    /// # Errors
    ///
    /// If the kernel refuses, or the process has ended.
    pub fn adopt(&mut self, process: &Process) -> Result<bool> {
        self.links.retain(|link| !link.is_over());
        let (mut links, lost) = self.linker.adopt(process)?;
        self.links.append(&mut links);
        Ok(lost)
    }

    /// Starts or stops recording, at once for all probes.
    ///
    /// # Errors
    ///
    /// If the kernel refuses the map update.
    pub fn record(&mut self, active: bool) -> Result<()> {
        self.switches.set(Control::Active, u64::from(active))
    }

    /// Records this process as one of many, from its first call on; which number its address space and
    /// program have.
    ///
    /// # Errors
    ///
    /// If the kernel refuses the map update.
    pub fn take_in(&mut self, process: &Process, space: u64) -> Result<()> {
        let Some(maps) = &self.processes else {
            return Ok(());
        };
        let pid = process.pid();
        let state = ProcessState {
            pid: pid.into(),
            space,
            program: space,
            ..ProcessState::default()
        };
        let [known, wanted] = maps;
        match pid_namespace::is_first() {
            true => bpf::write(known.as_fd(), &[pid], &[state]),
            false => bpf::write(wanted.as_fd(), &[u64::from(pid)], &[state]),
        }
        .with_context(|| format!("failed to tell the BPF programs of process {pid}"))
    }

    /// The switches of the programs.
    pub fn switches(&self) -> &Switches {
        &self.switches
    }

    /// Tells the programs where the kernel's return trampoline is in an address space.
    ///
    /// # Errors
    ///
    /// If the kernel refuses the map update.
    pub fn set_trampoline(&mut self, space: u64, address: u64) -> Result<()> {
        self.switches.set_of(space, Control::Trampoline, address)
    }

    /// Tells the programs where the target's heap ends.
    ///
    /// # Errors
    ///
    /// If the kernel refuses the map update.
    pub fn set_break(&mut self, address: u64) -> Result<()> {
        self.switches.set(Control::Break, address)
    }

    /// Tells the programs how to recognise calls that come from the own code of the process's allocators: of
    /// the first [`MAX_ALLOCATORS`].
    ///
    /// # Errors
    ///
    /// If the target cannot be read or the kernel refuses the map update.
    pub fn describe<'a>(
        &mut self,
        process: &Process,
        space: u64,
        allocators: impl Iterator<Item = &'a Allocator>,
    ) -> Result<()> {
        let mut ranges = [0; 2 * MAX_ALLOCATORS];
        let mut places = ranges.chunks_exact_mut(2);
        for allocator in allocators {
            let Some((start, end)) = allocator.code_range(process)? else {
                continue;
            };
            let Some(place) = places.next() else {
                break;
            };
            place.copy_from_slice(&[start, end]);
        }
        self.switches
            .set_all_of(space, Control::Allocators, &ranges)
    }

    /// Changes the sample: one block in about so many bytes is recorded from now on; 0 records all.
    ///
    /// # Errors
    ///
    /// If the kernel refuses the map update.
    pub fn set_sample(&mut self, bytes: u64) -> Result<()> {
        draw_by(&mut self.ebpf, bytes)
    }

    /// Tells the programs for which part of the target's work they are in place, in 2^-32; 0: all.
    ///
    /// # Errors
    ///
    /// If the kernel refuses the map update.
    pub fn set_duty(&mut self, duty: u64) -> Result<()> {
        self.switches.set(Control::Duty, duty)
    }

    /// The maps of the unwind tables; can be taken once.
    ///
    /// # Errors
    ///
    /// If they were taken before.
    pub fn unwind_tables(&mut self) -> Result<KernelTables> {
        let lists = LISTS[usize::from(self.switches.are_many())];
        KernelTables::take(&mut self.ebpf, self.switches.clone(), lists)
    }

    /// Calls by number of the function, [`leakprobe_common::Calls`] by CPU; can be taken once.
    ///
    /// # Errors
    ///
    /// If they were taken before.
    pub fn calls(&mut self) -> Result<PerCpuArray<MapData, [u64; 2]>> {
        let map = self.ebpf.take_map("CALLS");
        let map = map.context("the BPF object has no map CALLS")?;
        Ok(PerCpuArray::try_from(map)?)
    }

    /// The ring buffer of events; can be taken once.
    ///
    /// # Errors
    ///
    /// If it was taken before.
    pub fn events(&mut self) -> Result<RingBuf<MapData>> {
        let map = self
            .ebpf
            .take_map("EVENTS")
            .context("the BPF object has no map EVENTS")?;
        Ok(RingBuf::try_from(map)?)
    }

    /// The loaded object, for its log and its maps.
    pub fn ebpf(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// Descriptors of the programs that are attached, and where each of them runs.
    ///
    /// # Errors
    ///
    /// If one is not loaded, or a descriptor cannot be duplicated.
    pub fn programs(&mut self) -> Result<Vec<(Program, OwnedFd)>> {
        self.linker.programs(&mut self.ebpf)
    }

    /// How probes are attached.
    pub fn way(&self) -> Way {
        self.linker.way()
    }

    /// Since when a process has the probes of an allocator that it has mapped from the one that forked
    /// it, or because another one that is followed has them; `None` if it has not. (Programs with more
    /// rights than those who execute them lose theirs.)
    pub fn follows(&self, process: &Process, allocator: &Allocator) -> Option<u64> {
        self.linker.follows(process, allocator)
    }

    /// Since when what followed processes fork has the probes of an allocator; 0 if nobody is followed.
    pub fn follows_since(&self, allocator: &Allocator) -> u64 {
        self.linker.follows_since(allocator)
    }

    /// Probes in place.
    pub fn placed(&self) -> usize {
        self.links.iter().map(Link::probes).sum()
    }

    /// Stops recording, and returns when no program runs any more that began before: the maps stand
    /// still then.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn stop(&mut self) -> Result<()> {
        self.record(false)?;
        if bpf::wait_for_programs().is_err() {
            // Not available where CPUs run without a clock tick. Removing a probe waits as well.
            self.detach();
        }
        Ok(())
    }

    /// Removes the probes. The kernel takes some 100 ms for each link, one after the other.
    fn detach(&mut self) {
        self.links.clear();
    }

    /// Takes the probes that are in place out of this hand; they stay in place until dropped.
    pub fn take(&mut self) -> Vec<Link> {
        std::mem::take(&mut self.links)
    }

    /// Removes probes in a thread of their own, see [`Self::wait_for_detach`].
    pub fn detach_in_background(&mut self, placed: Vec<Link>) {
        self.detaching.retain(|thread| !thread.is_finished());
        self.detaching
            .push(std::thread::spawn(move || drop(placed)));
    }

    /// Removes what is in place soon: each link in a thread of its own, as the kernel takes its time for
    /// each.
    pub fn detach_at_once(&mut self) {
        for link in self.take() {
            self.detach_in_background(vec![link]);
        }
    }

    /// Removes the probes at system calls likewise.
    pub fn detach_calls_at_once(&mut self) {
        for link in self.take_calls() {
            self.detach_in_background(vec![link]);
        }
    }

    /// Whether everything that was to be removed is.
    pub fn is_detached(&self) -> bool {
        self.detaching.iter().all(JoinHandle::is_finished)
    }

    /// Removes the probes from children that the process has forked, if there are new ones; to be
    /// asked now and then.
    pub fn spare_children(&mut self, process: &Process) {
        if !self.linker.leaves_breakpoints() || !self.children.came(process.pid()) {
            return;
        }
        match self.linker.sweep(process) {
            Ok(links) => self.detach_in_background(links),
            // They are slower than need be, and the next new child is another chance.
            Err(error) => log::debug!("forked children keep their breakpoints: {error:#}"),
        }
    }

    /// Waits for the threads that remove probes.
    pub fn wait_for_detach(&mut self) {
        for thread in self.detaching.drain(..) {
            let _ = thread.join(); // it only closes descriptors
        }
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        self.detach();
        self.calls.clear();
        self.wait_for_detach();
    }
}

/// Sets the table by which the programs draw.
fn draw_by(ebpf: &mut Ebpf, sample_bytes: u64) -> Result<()> {
    // Not taken out: the programs that are loaded later need its descriptor open.
    let chances = ebpf
        .map_mut("CHANCES")
        .context("the BPF object has no map CHANCES")?;
    Array::<_, Chances>::try_from(chances)?
        .set(0, *sampling::chances(sample_bytes), 0)
        .context("failed to write the table of probabilities")
}

/// The descriptor of a map, which stays with the object.
fn descriptor(ebpf: &mut Ebpf, name: &str) -> Result<OwnedFd> {
    let map = ebpf.map(name);
    let map = map.with_context(|| format!("the BPF object has no map {name}"))?;
    let (Map::Array(data) | Map::HashMap(data)) = map else {
        bail!("the map {name} of the BPF object is neither an array nor a hash map");
    };
    let fd = data.fd().as_fd().try_clone_to_owned();
    fd.context("failed to duplicate a descriptor")
}

fn program<'a, P>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut P>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
{
    let program = ebpf
        .program_mut(name)
        .with_context(|| format!("the BPF object has no program `{name}`"))?;
    Ok(program.try_into()?)
}
