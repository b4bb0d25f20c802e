//! The least that probing can cost: a program that does nothing, where leakprobe would probe
//! `malloc`, its return, and `free`, attached in the way in which leakprobe attaches on this kernel:
//! with uprobe sessions, one program at malloc and its return. Probes of the other allocator functions
//! are left out; they cost nothing as long as nobody calls them.

use std::ffi::{CStr, CString};
use std::num::NonZeroU32;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::programs::UProbe;
use aya::programs::uprobe::UProbeScope;
use leakprobe::probe::multi::{self, Code, LinkKind, Places};
use leakprobe::probe::way::{self, Way};
use leakprobe::probe::{functions, plan};
use leakprobe::target::{Allocator, Process};
use object::write::{Object, Symbol, SymbolSection};
use object::{
    Architecture, BinaryFormat, Endianness, SectionKind, SymbolFlags, SymbolKind, SymbolScope,
};

/// Empty probes in place; gone when dropped.
pub enum Floor {
    /// Attached by aya.
    Single { _programs: Ebpf },
    /// By links of many probes.
    Multi { _links: Vec<OwnedFd> },
}

/// Names of the programs, which are the sections they are in as well.
const ENTRY: &str = "uprobe";
const RETURN: &str = "uretprobe";

/// Where in a function.
#[derive(Clone, Copy)]
enum Place {
    Entry,
    EntryAndReturn,
}

impl Floor {
    /// Places the three probes in a process.
    ///
    /// # Errors
    ///
    /// If the process has no allocator or a probe cannot be placed.
    pub fn place(pid: u32) -> Result<Floor> {
        let wanted = [("malloc", Place::EntryAndReturn), ("free", Place::Entry)];
        Self::place_at(pid, &wanted)
    }

    /// Places two probes in a process: at the entries of malloc and free.
    ///
    /// # Errors
    ///
    /// As of [`Self::place`].
    pub fn entries(pid: u32) -> Result<Floor> {
        Self::place_at(pid, &[("malloc", Place::Entry), ("free", Place::Entry)])
    }

    /// Places one probe in a process: at the entry of malloc.
    ///
    /// # Errors
    ///
    /// As of [`Self::place`].
    pub fn entry_of_malloc(pid: u32) -> Result<Floor> {
        Self::place_at(pid, &[("malloc", Place::Entry)])
    }

    fn place_at(pid: u32, wanted: &[(&str, Place)]) -> Result<Floor> {
        let process = Process::open(pid)?;
        let allocators = Allocator::find(&process, &functions::names())?;
        let allocator = allocators.first().context("no allocator")?;
        let file = format!("/proc/self/fd/{}", allocator.object().file().as_raw_fd());
        let points = plan::points(allocator)?;
        let places = wanted
            .iter()
            .map(|&(function, place)| {
                let point = points.iter().find(|it| it.function.name == function);
                let point = point.with_context(|| format!("`{function}` is not there"))?;
                Ok((point.offset, place))
            })
            .collect::<Result<Vec<_>>>()?;
        match way::choose(false)?.way {
            Way::Single | Way::Tree => Self::single(pid, &file, &places),
            way => Self::multi(way, pid, &CString::new(file)?, &places),
        }
        .context("failed to place empty probes")
    }

    fn single(pid: u32, file: &str, places: &[(u64, Place)]) -> Result<Floor> {
        let pid = NonZeroU32::new(pid).context("0 is no PID")?;
        let mut programs = Ebpf::load(&empty_programs()?).context("failed to load the object")?;
        for &(offset, place) in places {
            let names: &[&str] = match place {
                Place::Entry => &[ENTRY],
                Place::EntryAndReturn => &[RETURN, ENTRY],
            };
            for name in names {
                let program = programs.program_mut(name);
                let program: &mut UProbe =
                    program.context("an empty program is missing")?.try_into()?;
                if program.fd().is_err() {
                    program.load().context("failed to load an empty program")?;
                }
                program.attach(offset, file, UProbeScope::OneProcess(pid))?;
            }
        }
        Ok(Floor::Single {
            _programs: programs,
        })
    }

    fn multi(way: Way, pid: u32, file: &CStr, places: &[(u64, Place)]) -> Result<Floor> {
        let mut links = Vec::new();
        for &(offset, place) in places {
            let kinds: &[(LinkKind, bool)] = match (place, way) {
                (Place::Entry, _) => &[(LinkKind::Multi, false)],
                (Place::EntryAndReturn, Way::Session) => &[(LinkKind::Session, false)],
                _ => &[(LinkKind::Multi, true), (LinkKind::Multi, false)],
            };
            for &(kind, at_return) in kinds {
                let program = multi::load(&Code::nothing(), kind);
                let program = program.context("failed to load an empty program")?;
                let places = Places {
                    file,
                    pid,
                    offsets: &[offset],
                    cookies: None,
                    at_return,
                };
                links.push(multi::link(program.as_fd(), kind, &places)?);
            }
        }
        Ok(Floor::Multi { _links: links })
    }
}

/// An object file with two programs that do nothing.
fn empty_programs() -> Result<Vec<u8>> {
    let mut object = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
    for name in [ENTRY, RETURN] {
        let section = object.add_section(Vec::new(), name.into(), SectionKind::Text);
        object.set_section_data(section, Code::nothing().instructions, 8);
        object.add_symbol(Symbol {
            name: name.into(),
            value: 0,
            size: Code::nothing().instructions.len() as u64,
            kind: SymbolKind::Text,
            scope: SymbolScope::Dynamic,
            weak: false,
            section: SymbolSection::Section(section),
            flags: SymbolFlags::None,
        });
    }
    object.write().context("failed to make an object file")
}
