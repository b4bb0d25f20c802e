//! Growth mode: events of page faults for every thread of the target, and programs at the end of the
//! system calls that give addresses.
//!
//! Threads that are started later inherit the event of the thread that starts them; forked children do
//! not. Nobody else pays for the faults; the system calls of other processes pay for a program that
//! looks whose they are.

use std::fs;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result};
use aya::programs::{FExit, PerfEvent};
use aya::{Btf, Ebpf};
use aya_obj::generated::perf_event_attr;
use leakprobe_common::PAGE_BYTES;
use nix::sys::sysinfo::sysinfo;

use super::layout::{self, Offsets};
use super::refusal::explain_program;
use super::{multi, system_calls, threads};

/// Which pages are recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pages {
    /// One in two to the power of this.
    pub shift: u64,
    /// See [`leakprobe_common::is_chosen`].
    pub seed: u64,
    /// Where the kernel has what is asked for each.
    pub layout: Option<Offsets>,
}

impl Pages {
    /// One in `sample_pages`, a power of two; which ones, is drawn.
    pub fn draw(sample_pages: u64) -> Self {
        Self {
            shift: u64::from(sample_pages.max(1).ilog2()),
            seed: random(),
            layout: layout::offsets(),
        }
    }

    /// Twice as many records as all memory of the machine and its swap can need, for those of pages that have gone
    /// stay until the next look. Tables that are larger only take longer to read.
    pub fn most(&self) -> u32 {
        const LEAST: u64 = 1 << 16;
        let pages = (memory() / PAGE_BYTES) >> self.shift;
        let most = (2 * pages).max(LEAST).next_power_of_two();
        u32::try_from(most).unwrap_or(u32::MAX)
    }
}

/// Bytes of memory and swap of the machine; 0 if the kernel does not tell.
fn memory() -> u64 {
    sysinfo().map_or(0, |it| it.ram_total().saturating_add(it.swap_total()))
}

/// A number that nobody knows before.
fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0)
}

const FAULT: &str = "page_fault";

/// Programs, and the functions of the kernel at whose end they run.
const SYSTEM_CALLS: [(&str, &str); 3] = [
    ("leave_brk", "__x64_sys_brk"),
    ("leave_mmap", "__x64_sys_mmap"),
    ("leave_mremap", "__x64_sys_mremap"),
];

/// Events of page faults, in place until dropped.
#[derive(Debug, Default)]
pub struct Faults {
    events: Vec<OwnedFd>,
}

impl Faults {
    /// Gives each thread of process `pid` an event, until there is none without.
    ///
    /// # Errors
    ///
    /// If the kernel refuses, or the process has ended.
    pub fn attach(ebpf: &mut Ebpf, pid: u32) -> Result<Self> {
        let program = fault_program(ebpf)?;
        let program = program
            .fd()
            .context("the program of page faults is not loaded")?;
        let mut events = Vec::new();
        threads::attach_to_each(pid, |thread| {
            events.push(event_from_the_start(thread, program.as_fd())?);
            Ok(())
        })
        .context("failed to watch page faults")?;
        Ok(Self { events })
    }

    /// How many threads had one made for them.
    pub fn threads(&self) -> usize {
        self.events.len()
    }
}

/// Attaches to the system calls; how many they are.
///
/// # Errors
///
/// If this kernel cannot run programs at the end of its functions, or has not those.
pub fn attach_system_calls(ebpf: &mut Ebpf) -> Result<usize> {
    let types = Btf::from_sys_fs().context("failed to read the kernel's type information")?;
    for (name, function) in SYSTEM_CALLS {
        let program = ebpf.program_mut(name);
        let program = program.with_context(|| format!("the BPF object has no program `{name}`"))?;
        let program: &mut FExit = program.try_into()?;
        program
            .load(function, &types)
            .map_err(explain_program)
            .with_context(|| format!("failed to load the program `{name}`"))?;
        program
            .attach()
            .with_context(|| format!("failed to attach to the end of `{function}`"))?;
    }
    Ok(SYSTEM_CALLS.len())
}

/// Loads the program of page faults.
///
/// # Errors
///
/// If the kernel refuses it.
pub fn load(ebpf: &mut Ebpf) -> Result<()> {
    fault_program(ebpf).map(drop)
}

/// Descriptors of the programs that are loaded.
///
/// # Errors
///
/// If one cannot be duplicated.
pub fn programs(ebpf: &mut Ebpf) -> Result<Vec<OwnedFd>> {
    let mut programs = Vec::new();
    let at_calls = SYSTEM_CALLS.iter().map(|(name, _)| *name);
    let names = at_calls.chain([FAULT, system_calls::MOVES.program]);
    for name in names {
        let fd = ebpf.program(name).and_then(|program| program.fd().ok());
        if let Some(fd) = fd {
            let fd = fd.as_fd().try_clone_to_owned();
            programs.push(fd.context("failed to duplicate a descriptor")?);
        }
    }
    Ok(programs)
}

fn fault_program(ebpf: &mut Ebpf) -> Result<&mut PerfEvent> {
    let program = ebpf.program_mut(FAULT);
    let program = program.with_context(|| format!("the BPF object has no program `{FAULT}`"))?;
    let program: &mut PerfEvent = program.try_into()?;
    if program.fd().is_err() {
        program
            .load()
            .map_err(explain_program)
            .with_context(|| format!("failed to load the program `{FAULT}`"))?;
    }
    Ok(program)
}

/// Makes an event that no other thread has inherited before its program was in place. Else the kernel
/// might swap the two when it switches between the threads, and one would be without the program.
fn event_from_the_start(thread: u32, program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    const TRIES: u32 = 100;
    let mut tries = 0;
    loop {
        let before = last_started();
        let event = event(thread, program)?;
        tries += 1;
        if last_started() == before || tries == TRIES {
            return Ok(event);
        }
    }
}

/// Number of the thread that was started last, of all there are.
fn last_started() -> Option<u32> {
    let text = fs::read_to_string("/proc/loadavg").ok()?;
    text.split_whitespace().last()?.parse().ok()
}

/// Makes an event of a thread's page faults that runs the program. It belongs to the descriptor.
fn event(thread: u32, program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // Numbers from the kernel's include/uapi/linux/perf_event.h.
    const PERF_TYPE_SOFTWARE: u32 = 1;
    const PERF_COUNT_SW_PAGE_FAULTS_MIN: u64 = 5;
    const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 8;
    const PERF_EVENT_IOC_ENABLE: libc::c_ulong = 0x2400;
    // SAFETY: a structure of numbers.
    let mut attributes: perf_event_attr = unsafe { mem::zeroed() };
    attributes.size = size_of::<perf_event_attr>() as u32;
    attributes.type_ = PERF_TYPE_SOFTWARE;
    attributes.config = PERF_COUNT_SW_PAGE_FAULTS_MIN;
    attributes.__bindgen_anon_1.sample_period = 1;
    // Until the program is in place.
    attributes.set_disabled(1);
    attributes.set_inherit(1);
    attributes.set_inherit_thread(1);
    let (any_cpu, no_group) = (-1, -1);
    // SAFETY: the kernel reads as much as the structure says.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &raw const attributes,
            thread as libc::pid_t,
            any_cpu,
            no_group,
            PERF_FLAG_FD_CLOEXEC,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, and nobody else has it.
    let event = unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) };
    let link = multi::link_event(program, event.as_fd(), 0)?;
    // SAFETY: the request has no argument but a flag.
    if unsafe { libc::ioctl(event.as_raw_fd(), PERF_EVENT_IOC_ENABLE, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(link) // which keeps the event
}
