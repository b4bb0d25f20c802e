//! Loads the BPF programs and attaches them to the planned points, for one process only.
//!
//! Attaching is all or nothing: nothing is recorded before every probe is in place, and an error
//! on the way takes back what was placed. The kernel removes the probes by itself when leakprobe
//! ends, however it ends, since they belong to its file descriptors.

use std::fs;
use std::num::NonZeroU32;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow, bail};
use aya::maps::{Array, Map, MapData, RingBuf};
use aya::programs::uprobe::{UProbeAttachLocation, UProbeAttachPoint, UProbeLink, UProbeScope};
use aya::programs::{ProgramError, RawTracePoint, UProbe};
use aya::{Ebpf, EbpfLoader};
use leakprobe_common::{Chances, Control, Signature};

use super::plan::Point;
use super::version::Version;
use crate::bpf;
use crate::sampling;
use crate::target::{Allocator, Process};
use crate::unwind::KernelTables;

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
}

/// The loaded programs and their links.
pub struct Probes {
    ebpf: Ebpf,
    control: Array<MapData, u64>,
    control_fd: OwnedFd,
    links: Vec<UProbeLink>,
    detaching: Vec<JoinHandle<()>>,
}

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
        let namespace = fs::metadata("/proc/self/ns/pid")
            .context("failed to look up our own PID namespace in /proc/self/ns/pid")?;
        // The kernel keeps 12 bits of major and 20 bits of minor number.
        let device =
            u64::from(libc::major(namespace.dev())) << 20 | u64::from(libc::minor(namespace.dev()));
        let inode = namespace.ino();
        let pid = process.pid();
        let log_level = if verbose { LOG_DEBUG } else { 0 };
        let mut ebpf = EbpfLoader::new()
            .map_max_entries("BLOCKS", limits.max_live)
            .override_global("MIN_SIZE", &limits.min_size, true)
            .override_global("MAX_SIZE", &limits.max_size, true)
            .override_global("SAMPLING", &u64::from(limits.sample_bytes > 0), true)
            .override_global("TARGET_PID", &pid, true)
            .override_global("PID_NS_DEVICE", &device, true)
            .override_global("PID_NS_INODE", &inode, true)
            .override_global("AYA_LOG_LEVEL", &log_level, true)
            .load(OBJECT)
            .map_err(explain_permission)
            .context("failed to load the BPF object")?;
        // Not taken out: the programs that are loaded later need its descriptor open.
        let chances = ebpf
            .map_mut("CHANCES")
            .context("the BPF object has no map CHANCES")?;
        Array::<_, Chances>::try_from(chances)?
            .set(0, *sampling::chances(limits.sample_bytes), 0)
            .context("failed to write the table of probabilities")?;
        let control = ebpf
            .take_map("CONTROL")
            .context("the BPF object has no map CONTROL")?;
        let Map::Array(data) = &control else {
            bail!("the map CONTROL of the BPF object is no array");
        };
        let control_fd = data.fd().as_fd().try_clone_to_owned();
        let control_fd = control_fd.context("failed to duplicate a descriptor")?;
        let control = Array::try_from(control)?;
        for name in ["signal_deliver", "process_exec", "thread_exit"] {
            let program: &mut RawTracePoint = program(&mut ebpf, name)?;
            program
                .load()
                .map_err(explain_refusal)
                .with_context(|| format!("failed to load the program `{name}`"))?;
            let tracepoint = match name {
                "signal_deliver" => "signal_deliver",
                "process_exec" => "sched_process_exec",
                _ => "sched_process_exit",
            };
            program
                .attach(tracepoint)
                .with_context(|| format!("failed to attach to the tracepoint `{tracepoint}`"))?;
        }
        Ok(Self {
            ebpf,
            control,
            control_fd,
            links: Vec::new(),
            detaching: Vec::new(),
        })
    }

    /// Places probes in an allocator, for the process only. Probes placed earlier stay.
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
        // The open file is the mapped one, whatever its path leads to by now.
        let file = format!("/proc/self/fd/{}", allocator.object().file().as_raw_fd());
        let pid = NonZeroU32::new(process.pid()).context("0 is no PID")?;
        let mut links = Vec::new();
        for point in points {
            let kind = point.function.kind;
            // The return first: a call that is entered in between is not followed.
            for name in kind
                .return_program()
                .into_iter()
                .chain([kind.entry_program()])
            {
                let program: &mut UProbe = program(&mut self.ebpf, name)?;
                if program.fd().is_err() {
                    program
                        .load()
                        .map_err(explain_refusal)
                        .with_context(|| format!("failed to load the program `{name}`"))?;
                }
                let place = UProbeAttachPoint {
                    location: UProbeAttachLocation::AbsoluteOffset(point.offset),
                    cookie: point.function.signature().map(Signature::cookie),
                };
                let link = program
                    .attach(place, &file, UProbeScope::OneProcess(pid))
                    .and_then(|id| program.take_link(id))
                    .map_err(explain_permission)
                    .with_context(|| {
                        format!(
                            "failed to place a probe on `{}` in `{}` of `{}`",
                            point.site.instruction,
                            point.function.name,
                            allocator.object().path()
                        )
                    })?;
                links.push(link);
            }
        }
        if process.has_ended() {
            return Err(anyhow!(
                "process {} ended while it was being attached to",
                process.pid()
            ));
        }
        self.links.append(&mut links);
        Ok(())
    }

    /// Starts or stops recording, at once for all probes.
    ///
    /// # Errors
    ///
    /// If the kernel refuses the map update.
    pub fn record(&mut self, active: bool) -> Result<()> {
        self.set(Control::Active, u64::from(active))
    }

    /// Tells the programs where the kernel's return trampoline is in the target.
    ///
    /// # Errors
    ///
    /// If the kernel refuses the map update.
    pub fn set_trampoline(&mut self, address: u64) -> Result<()> {
        self.set(Control::Trampoline, address)
    }

    /// Tells the programs how to recognise calls that come from the allocator's own code.
    ///
    /// # Errors
    ///
    /// If the target cannot be read or the kernel refuses the map update.
    pub fn describe(&mut self, process: &Process, allocator: &Allocator) -> Result<()> {
        if let Some((start, end)) = allocator.code_range(process)? {
            self.set(Control::AllocatorEnd, end)?;
            self.set(Control::AllocatorStart, start)?;
        }
        Ok(())
    }

    fn set(&mut self, which: Control, value: u64) -> Result<()> {
        self.control
            .set(which as u32, value, 0)
            .with_context(|| format!("failed to set the switch {which:?} of the BPF programs"))
    }

    /// The maps of the unwind tables; can be taken once.
    ///
    /// # Errors
    ///
    /// If they were taken before.
    pub fn unwind_tables(&mut self) -> Result<KernelTables> {
        let control = self.control_fd.try_clone();
        KernelTables::take(
            &mut self.ebpf,
            control.context("failed to duplicate a descriptor")?,
        )
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

    /// Probes in place.
    pub fn placed(&self) -> usize {
        self.links.len()
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

    /// Removes the probes. The kernel takes some 100 ms for each, one after the other.
    fn detach(&mut self) {
        self.links.clear();
    }

    /// Takes the probes that are in place out of this hand; they stay in place until dropped.
    pub fn take(&mut self) -> Vec<UProbeLink> {
        std::mem::take(&mut self.links)
    }

    /// Removes probes in a thread of their own, see [`Self::wait_for_detach`].
    pub fn detach_in_background(&mut self, placed: Vec<UProbeLink>) {
        self.detaching
            .push(std::thread::spawn(move || drop(placed)));
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
        self.wait_for_detach();
    }
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

/// Why the kernel would not load a program, in one sentence: the verifier's log has thousands of
/// lines, of which the last but the statistics says what was wrong.
fn explain_refusal(error: ProgramError) -> anyhow::Error {
    let ProgramError::LoadError {
        io_error,
        verifier_log,
    } = error
    else {
        return explain_permission(error);
    };
    let log = verifier_log.to_string();
    let statistics = [
        "processed ",
        "verification time",
        "stack depth",
        "peak_states",
    ];
    let reason = log
        .lines()
        .map(str::trim)
        .rfind(|line| !line.is_empty() && !statistics.iter().any(|start| line.starts_with(start)));
    match reason {
        None => explain_permission(io_error),
        Some(reason) => {
            log::debug!("{log}");
            anyhow!(
                "this kernel's verifier refused it: {reason}. Please report this with the version \
                 of the kernel; -v shows the whole log"
            )
        }
    }
}

/// Adds to a refusal what would lift it.
fn explain_permission<E>(error: E) -> anyhow::Error
where
    E: std::error::Error + Send + Sync + 'static,
{
    let mut source: Option<&dyn std::error::Error> = Some(&error);
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<std::io::Error>()
            && io.kind() == std::io::ErrorKind::PermissionDenied
        {
            return anyhow::Error::new(error).context(
                "the kernel denied permission: run leakprobe as root, or give it \
                 CAP_SYS_ADMIN and CAP_SYS_PTRACE (`leakprobe doctor` tells more)",
            );
        }
        source = cause.source();
    }
    anyhow::Error::new(error)
}
