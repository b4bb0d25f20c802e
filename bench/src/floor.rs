//! The least that probing can cost: a program that does nothing, where leakprobe would probe
//! `malloc`, its return, and `free`, attached by the same library in the same way. Probes of the
//! other allocator functions are left out; they cost nothing as long as nobody calls them.

use std::num::NonZeroU32;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, ensure};
use aya::Ebpf;
use aya::programs::UProbe;
use aya::programs::uprobe::UProbeScope;
use leakprobe::probe::{functions, plan};
use leakprobe::target::{Allocator, Process};
use object::write::{Object, Symbol, SymbolSection};
use object::{
    Architecture, BinaryFormat, Endianness, SectionKind, SymbolFlags, SymbolKind, SymbolScope,
};

/// Empty probes in place; gone when dropped.
pub struct Floor {
    _programs: Ebpf,
}

/// Names of the programs, which are the sections they are in as well.
const ENTRY: &str = "uprobe";
const RETURN: &str = "uretprobe";

/// `r0 = 0; exit`, two instructions of `struct bpf_insn` (include/uapi/linux/bpf.h).
const NOTHING: [u8; 16] = [0xb7, 0, 0, 0, 0, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];

impl Floor {
    /// Places the three probes in a process.
    ///
    /// # Errors
    ///
    /// If the process has no allocator or a probe cannot be placed.
    pub fn place(pid: u32) -> Result<Floor> {
        Self::place_at(
            pid,
            &[("malloc", RETURN), ("malloc", ENTRY), ("free", ENTRY)],
        )
    }

    /// Places one probe in a process: at the entry of malloc.
    ///
    /// # Errors
    ///
    /// As of [`Self::place`].
    pub fn entry_of_malloc(pid: u32) -> Result<Floor> {
        Self::place_at(pid, &[("malloc", ENTRY)])
    }

    fn place_at(pid: u32, wanted: &[(&str, &str)]) -> Result<Floor> {
        let process = Process::open(pid)?;
        let allocator = Allocator::find(&process, &functions::names())?;
        let file = format!("/proc/self/fd/{}", allocator.object().file().as_raw_fd());
        let pid = NonZeroU32::new(pid).context("0 is no PID")?;
        let mut programs = Ebpf::load(&empty_programs()?).context("failed to load the object")?;
        let mut placed = 0;
        for point in plan::points(&allocator)? {
            let here = wanted
                .iter()
                .filter(|(function, _)| *function == point.function.name);
            for (_, name) in here {
                let program: &mut UProbe = programs
                    .program_mut(name)
                    .context("an empty program is missing")?
                    .try_into()?;
                if program.fd().is_err() {
                    program.load().context("failed to load an empty program")?;
                }
                program
                    .attach(point.offset, &file, UProbeScope::OneProcess(pid))
                    .with_context(|| {
                        format!(
                            "failed to place an empty probe in `{}`",
                            point.function.name
                        )
                    })?;
                placed += 1;
            }
        }
        ensure!(
            placed == wanted.len(),
            "{placed} empty probes were placed, not {}",
            wanted.len()
        );
        Ok(Floor {
            _programs: programs,
        })
    }
}

/// An object file with two programs that do nothing.
fn empty_programs() -> Result<Vec<u8>> {
    let mut object = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
    for name in [ENTRY, RETURN] {
        let section = object.add_section(Vec::new(), name.into(), SectionKind::Text);
        object.set_section_data(section, NOTHING.as_slice(), 8);
        object.add_symbol(Symbol {
            name: name.into(),
            value: 0,
            size: NOTHING.len() as u64,
            kind: SymbolKind::Text,
            scope: SymbolScope::Dynamic,
            weak: false,
            section: SymbolSection::Section(section),
            flags: SymbolFlags::None,
        });
    }
    object.write().context("failed to make an object file")
}
