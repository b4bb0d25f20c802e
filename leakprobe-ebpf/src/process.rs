//! Which processes are recorded. One is known by the probes being its alone; many, by a map that forks,
//! execs and exits keep up to date.
//!
//! A process is a number of an address space, which is part of every key, and the number of its program,
//! which children that are forked share, and so their stacks. What only concerns many processes the
//! verifier removes where there is one.

use aya_ebpf::Global;
use aya_ebpf::bindings::{BPF_ANY, BPF_F_NO_PREALLOC};
use aya_ebpf::helpers::generated::{
    bpf_get_current_task, bpf_get_smp_processor_id, bpf_ktime_get_ns,
};
use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_probe_read_kernel};
use aya_ebpf::macros::map;
use aya_ebpf::maps::HashMap;
use leakprobe_common::{
    Block, Control, Counter, MAX_ALLOCATORS, OOM_CHOSEN, OOM_SOMEBODY, ProcessState, TaskLayout,
};

use crate::blocks::{self, stands_for};
use crate::maps::{add, control, control_at, count, set_control};

/// 1 if many processes are recorded.
#[unsafe(no_mangle)]
pub static MANY: Global<u64> = Global::new(0);

/// The PID of the only process, as the user side sees it.
#[unsafe(no_mangle)]
pub static TARGET_PID: Global<u64> = Global::new(0);

/// Members of the kernel's structures.
#[unsafe(no_mangle)]
pub static TASK_LAYOUT: Global<TaskLayout> = Global::new(NO_LAYOUT);

const NO_LAYOUT: TaskLayout = TaskLayout {
    tgid: 0,
    mm: 0,
    signal: 0,
    exit_code: 0,
    group_leader: 0,
    thread_pid: 0,
    live: 0,
    group_exit_code: 0,
    level: 0,
    numbers: 0,
    upid: 0,
    upid_ns: 0,
    inum: 0,
    namespace: 0,
};

/// The processes, by the kernel's PID.
#[map]
pub static PROCESSES: HashMap<u32, ProcessState> =
    HashMap::with_max_entries(1 << 16, BPF_F_NO_PREALLOC);

/// Those that the user side wants, and of which it knows only the PID in its own namespace: by that.
#[map]
pub static WANTED: HashMap<u64, ProcessState> =
    HashMap::with_max_entries(1 << 16, BPF_F_NO_PREALLOC);

/// The switches of each address space, by its number: those of [`Control`] that belong to one.
#[map]
pub static VIEWS: HashMap<u64, View> = HashMap::with_max_entries(1 << 16, BPF_F_NO_PREALLOC);

/// See [`VIEWS`].
pub type View = [u64; Control::ALL];

/// Whose an event is.
#[derive(Clone, Copy)]
pub struct Owner {
    /// Number of the address space.
    pub space: u64,
    /// Number of the program.
    pub program: u64,
}

/// Reads a member of the layout.
macro_rules! member {
    ($name:ident) => {{
        let layout: *const TaskLayout = (&raw const TASK_LAYOUT).cast();
        // SAFETY: the static is a layout; volatile, because the user side sets it.
        unsafe { core::ptr::read_volatile(&raw const (*layout).$name) }
    }};
}

/// A word of the kernel's memory; 0 if it cannot be read.
#[inline(always)]
fn word(address: u64) -> u64 {
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_kernel(address as *const u64) }.unwrap_or(0)
}

/// Half a word of it.
#[inline(always)]
fn half(address: u64) -> u32 {
    // SAFETY: as above.
    unsafe { bpf_probe_read_kernel(address as *const u32) }.unwrap_or(0)
}

/// PID of a task's process as the user side sees it; 0 if it does not.
#[inline(always)]
fn pid_of(task: u64) -> u64 {
    let namespace = member!(namespace);
    if namespace == 0 {
        return half(task + member!(tgid)).into();
    }
    let pid = word(word(task + member!(group_leader)) + member!(thread_pid));
    let level = half(pid + member!(level));
    let mut number = pid + member!(numbers);
    let mut at = 0;
    // More than the kernel nests (MAX_PID_NS_LEVEL).
    while at < 33 {
        if at > level {
            break;
        }
        if u64::from(half(word(number + member!(upid_ns)) + member!(inum))) == namespace {
            return half(number).into();
        }
        number += member!(upid);
        at += 1;
    }
    0
}

#[inline(always)]
fn task() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_get_current_task() }
}

/// The kernel's PID of the running process.
#[inline(always)]
fn kernel_pid() -> u32 {
    (bpf_get_current_pid_tgid() >> 32) as u32
}

/// Whether the running process is the only target.
#[inline(always)]
pub fn is_target() -> bool {
    let pid = match member!(namespace) {
        0 => kernel_pid().into(),
        _ => pid_of(task()),
    };
    pid == TARGET_PID.load()
}

/// The running process, if it is one of many.
#[inline(always)]
pub fn current() -> Option<*mut ProcessState> {
    let pid = kernel_pid();
    if let Some(state) = PROCESSES.get_ptr_mut(pid) {
        return Some(state);
    }
    if member!(namespace) == 0 {
        return None;
    }
    adopt(pid);
    PROCESSES.get_ptr_mut(pid)
}

/// Takes in the running process if the user side wants it.
#[inline(never)]
fn adopt(kernel_pid: u32) -> u64 {
    let pid = pid_of(task());
    if let Some(wanted) = WANTED.get_ptr(pid) {
        // SAFETY: map values stay valid while the program runs.
        if PROCESSES
            .insert(kernel_pid, unsafe { &*wanted }, BPF_ANY as u64)
            .is_err()
        {
            count(Counter::ProcessesFull);
        }
        let _ = WANTED.remove(pid);
    }
    0
}

/// Whose the running thread's calls are. `None` if its process is not recorded.
#[inline(always)]
pub fn owner() -> Option<Owner> {
    if MANY.load() == 0 {
        let space = control(Control::Space);
        return Some(Owner {
            space,
            program: space,
        });
    }
    // SAFETY: map values stay valid while the program runs.
    current().map(|state| unsafe {
        Owner {
            space: (*state).space,
            program: (*state).program,
        }
    })
}

/// Value of a switch that belongs to one address space.
#[inline(always)]
pub fn view(which: Control, space: u64) -> u64 {
    view_at(which as u32, space)
}

/// The same by its number, which is below [`Control::ALL`].
#[inline(always)]
fn view_at(which: u32, space: u64) -> u64 {
    if MANY.load() == 0 {
        return control_at(which);
    }
    match VIEWS.get_ptr(space) {
        // SAFETY: the index is that of a switch; an aligned word is read whole.
        Some(view) => unsafe { core::ptr::read_volatile(view.cast::<u64>().add(which as usize)) },
        None => 0,
    }
}

/// Whether an address is in the code of the functions of one of an address space's allocators: 1 if so.
#[inline(never)]
pub fn is_in_allocator(ip: u64, space: u64) -> u64 {
    let mut at = 0;
    while at < MAX_ALLOCATORS as u32 {
        let place = Control::Allocators as u32 + 2 * at;
        let start = view_at(place, space);
        if start == 0 {
            break;
        }
        if ip >= start && ip < view_at(place + 1, space) {
            return 1;
        }
        at += 1;
    }
    0
}

/// Whether an address space has several allocators.
#[inline(always)]
pub fn has_allocators(space: u64) -> bool {
    view_at(Control::Allocators as u32 + 2, space) != 0
}

/// Counts a block for the running process that it was given.
#[inline(always)]
pub fn allocated(block: &Block) {
    if MANY.load() == 0 {
        return;
    }
    if let Some(state) = current() {
        let (bytes, blocks) = stands_for(block);
        // SAFETY: map values stay valid while the program runs.
        unsafe {
            add(&raw mut (*state).allocated_bytes, bytes);
            add(&raw mut (*state).allocated_count, blocks);
        }
    }
}

/// Counts one that it gave back.
#[inline(always)]
pub fn freed(block: &Block) {
    if MANY.load() == 0 {
        return;
    }
    if let Some(state) = current() {
        let (bytes, blocks) = stands_for(block);
        // SAFETY: as above.
        unsafe {
            add(&raw mut (*state).freed_bytes, bytes);
            add(&raw mut (*state).freed_count, blocks);
        }
    }
}

/// Whether a block that the running process gives back, and that is not on record, was its parent's
/// when it was forked. Then it is counted as such.
#[inline(always)]
pub fn was_inherited(address: u64) -> bool {
    if MANY.load() == 0 {
        return false;
    }
    let Some(state) = current() else { return false };
    // SAFETY: map values stay valid while the program runs.
    let (parent, forked) = unsafe { ((*state).parent, (*state).forked) };
    if parent == 0 {
        return false;
    }
    let Some(block) = blocks::find(address, parent) else {
        return false;
    };
    // SAFETY: as above.
    let block = unsafe { *block };
    if block.time > forked {
        return false;
    }
    count(Counter::InheritedFrees);
    let (bytes, blocks) = stands_for(&block);
    // SAFETY: as above.
    unsafe {
        add(&raw mut (*state).inherited_freed_bytes, bytes);
        add(&raw mut (*state).inherited_freed_count, blocks);
    }
    true
}

/// A number that no address space has: the CPU, and when.
#[inline(always)]
fn new_space() -> u64 {
    // SAFETY: the helpers have no preconditions.
    unsafe { bpf_ktime_get_ns() << 12 | u64::from(bpf_get_smp_processor_id()) & 0xfff }
}

/// The running process has forked `child`, which does not run yet. What is to be announced of it;
/// `None` if it is only a thread, or not recorded.
#[inline(always)]
pub fn fork(child: u64) -> Option<ProcessState> {
    let parent = current()?;
    let child_pid = half(child + member!(tgid));
    if child_pid == kernel_pid() {
        return None;
    }
    // SAFETY: map values stay valid while the program runs.
    let mut state = unsafe { *parent };
    let shares_memory = word(child + member!(mm)) == word(task() + member!(mm));
    state.pid = pid_of(child);
    // SAFETY: the helper has no preconditions.
    state.forked = unsafe { bpf_ktime_get_ns() };
    if !shares_memory {
        state.parent = state.space;
        state.space = new_space();
        state.inherited_bytes = left(
            state.allocated_bytes + state.inherited_bytes,
            state.freed_bytes + state.inherited_freed_bytes,
        );
        state.inherited_count = left(
            state.allocated_count + state.inherited_count,
            state.freed_count + state.inherited_freed_count,
        );
        if let Some(view) = VIEWS.get_ptr(state.parent) {
            // SAFETY: as above.
            let _ = VIEWS.insert(state.space, unsafe { &*view }, BPF_ANY as u64);
        }
    } else {
        // vfork: until its exec it works on its parent's memory.
        (state.parent, state.inherited_bytes, state.inherited_count) = (0, 0, 0);
    }
    (state.allocated_bytes, state.allocated_count) = (0, 0);
    (state.freed_bytes, state.freed_count) = (0, 0);
    (state.inherited_freed_bytes, state.inherited_freed_count) = (0, 0);
    if PROCESSES.insert(child_pid, &state, BPF_ANY as u64).is_err() {
        count(Counter::ProcessesFull);
        return None;
    }
    Some(state)
}

#[inline(always)]
fn left(given: u64, freed: u64) -> u64 {
    if given > freed { given - freed } else { 0 }
}

/// The running process has executed another program: the process before and after.
#[inline(always)]
pub fn exec() -> Option<(ProcessState, ProcessState)> {
    let state = current()?;
    // SAFETY: map values stay valid while the program runs.
    let before = unsafe { *state };
    let space = new_space();
    let after = ProcessState {
        pid: before.pid,
        space,
        program: space,
        ..ProcessState::default()
    };
    PROCESSES
        .insert(kernel_pid(), &after, BPF_ANY as u64)
        .ok()?;
    Some((before, after))
}

/// The OOM killer has chosen a process: its task, or before Linux 6.9 the kernel's PID of it.
#[inline(always)]
pub fn chosen_by_oom_killer(victim: u64) {
    let is_pid = victim >> 32 == 0;
    if MANY.load() == 0 {
        let (chosen, pid) = match (is_pid, member!(namespace)) {
            (false, _) => (OOM_CHOSEN, pid_of(victim)),
            (true, 0) => (OOM_CHOSEN, victim),
            // What it is called in another namespace nobody tells.
            (true, _) => (OOM_SOMEBODY, TARGET_PID.load()),
        };
        if pid == TARGET_PID.load() {
            set_control(Control::OomVictim, chosen);
        }
        return;
    }
    let pid = match is_pid {
        true => victim as u32,
        false => half(victim + member!(tgid)),
    };
    if let Some(state) = PROCESSES.get_ptr_mut(pid) {
        // SAFETY: map values stay valid while the program runs.
        unsafe { (*state).oom = OOM_CHOSEN };
    }
}

/// The last thread of the running process ends: the process, and how it ends.
#[inline(always)]
pub fn exit() -> Option<(ProcessState, u64)> {
    // SAFETY: map values stay valid while the program runs.
    let state = if MANY.load() != 0 {
        unsafe { *current()? }
    } else if is_target() {
        ProcessState {
            pid: TARGET_PID.load(),
            space: control(Control::Space),
            oom: control(Control::OomVictim),
            ..ProcessState::default()
        }
    } else {
        return None;
    };
    let task = task();
    let signal = word(task + member!(signal));
    if half(signal + member!(live)) != 0 {
        return None;
    }
    let status = match half(signal + member!(group_exit_code)) {
        0 => half(task + member!(exit_code)),
        status => status,
    };
    if MANY.load() != 0 {
        let _ = PROCESSES.remove(kernel_pid());
    }
    Some((state, u64::from(status)))
}
