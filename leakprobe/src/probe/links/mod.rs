//! Attaches programs to the points of an allocator, in one of four ways, and keeps what was attached
//! until it is dropped. Which way, [`super::way`] chooses; what is attached, the table of functions.

mod order;
mod placed;

use std::collections::HashMap;
use std::ffi::CString;
use std::fs::File;
use std::num::NonZeroU32;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::programs::UProbe;
use aya::programs::uprobe::{UProbeAttachLocation, UProbeAttachPoint, UProbeLink, UProbeScope};
use leakprobe_common::Signature;

use self::order::{MULTI, Plan, SESSION, SINGLE};
use self::placed::Placed;
use super::functions::Kind;
use super::guardian::Guardian;
use super::multi::{self, LinkKind, Places};
use super::object::Programs;
use super::plan::Point;
use super::refusal::{explain_event, explain_permission, explain_program};
use super::system_calls;
use super::tree::{self, Tree};
use super::way::Way;
use crate::target::{Allocator, Process};

/// Probes in place. The kernel removes them when this is dropped, and waits some 100 ms meanwhile.
pub enum Link {
    /// One.
    One(UProbeLink),
    /// Many, by one descriptor.
    Many {
        /// The kernel's link.
        _link: OwnedFd,
        /// How many; one at the entry and one at the return of a function are two.
        probes: usize,
    },
    /// All of an allocator, for a process and what it forks.
    Tree(tree::Placed),
}

impl Link {
    /// How many probes.
    pub fn probes(&self) -> usize {
        match self {
            Link::One(_) => 1,
            Link::Many { probes, .. } => *probes,
            Link::Tree(placed) => placed.probes(),
        }
    }

    /// Whether it was for a process alone that has ended.
    pub fn is_over(&self) -> bool {
        matches!(self, Link::Tree(placed) if placed.is_over())
    }
}

/// Where in a call a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runs {
    /// At the entry.
    Entry,
    /// At the return.
    Return,
    /// At both.
    Both,
    /// At system calls that map memory.
    SystemCall,
}

/// A program that is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Program {
    /// Where in a call it runs.
    pub runs: Runs,
    /// To the functions that give blocks out, or to the others.
    pub gives: bool,
}

/// What attaches probes.
pub struct Linker {
    way: Way,
    /// Ready to load for one link that places many probes.
    programs: Option<Programs>,
    /// Those that were.
    loaded: HashMap<&'static str, OwnedFd>,
    /// The program of system calls, once it is needed.
    calls: Option<OwnedFd>,
    placed: Vec<Placed>,
    tree: Tree,
    /// If there is one to be told.
    guardian: Option<Guardian>,
}

impl Linker {
    /// For the programs of `object`, which aya has loaded already, and of which no map was taken yet.
    ///
    /// # Errors
    ///
    /// If the object cannot be made ready.
    pub fn new(way: Way, object: &[u8], ebpf: &Ebpf) -> Result<Self> {
        let programs = match way {
            Way::Single | Way::Tree => None,
            Way::Session | Way::Multi => Some(Programs::ready(object, ebpf)?),
        };
        Ok(Self {
            way,
            programs,
            loaded: HashMap::new(),
            calls: None,
            placed: Vec::new(),
            tree: Tree::default(),
            guardian: None,
        })
    }

    /// The links of many probes each.
    fn plans(&self) -> &'static [Plan] {
        match self.way {
            Way::Session => SESSION,
            Way::Multi => MULTI,
            Way::Single | Way::Tree => &[],
        }
    }

    /// Loads the programs that are to be attached, unless they are; how many they are.
    ///
    /// # Errors
    ///
    /// If the kernel refuses one.
    pub fn load(&mut self, ebpf: &mut Ebpf) -> Result<usize> {
        let Some(programs) = &self.programs else {
            for name in SINGLE {
                uprobe(ebpf, name)?;
            }
            return Ok(SINGLE.len());
        };
        for plan in self.plans() {
            if !self.loaded.contains_key(plan.program) {
                let program = programs.load(plan.program, plan.kind)?;
                self.loaded.insert(plan.program, program);
            }
        }
        Ok(self.loaded.len())
    }

    /// Descriptors of the programs that are attached, and where each of them runs.
    ///
    /// # Errors
    ///
    /// If one is not loaded, or a descriptor cannot be duplicated.
    pub fn programs(&self, ebpf: &mut Ebpf) -> Result<Vec<(Program, OwnedFd)>> {
        let mut programs = Vec::new();
        let mut add = |runs, gives, fd: BorrowedFd<'_>| {
            let fd = fd.try_clone_to_owned();
            let fd = fd.context("failed to duplicate a descriptor")?;
            programs.push((Program { runs, gives }, fd));
            Ok::<_, anyhow::Error>(())
        };
        for plan in self.plans() {
            let program = self.loaded.get(plan.program);
            let program = program.with_context(|| format!("`{}` is not loaded", plan.program))?;
            add(plan.runs(), plan.gives, program.as_fd())?;
        }
        if self.plans().is_empty() {
            for name in SINGLE {
                let runs = match name {
                    "leave_call" => Runs::Return,
                    _ => Runs::Entry,
                };
                let gives = name != Kind::Free.entry_program();
                add(runs, gives, uprobe(ebpf, name)?.fd()?.as_fd())?;
            }
        }
        if let Some(program) = &self.calls {
            add(Runs::SystemCall, false, program.as_fd())?;
        }
        Ok(programs)
    }

    /// How probes are attached.
    pub fn way(&self) -> Way {
        self.way
    }

    /// Places probes at all points, for the process only; or in the way [`Way::Tree`] for all it forks,
    /// too, which may be done for one process after the other.
    ///
    /// # Errors
    ///
    /// If one cannot be placed; those placed before it are taken back.
    pub fn place(
        &mut self,
        ebpf: &mut Ebpf,
        process: &Process,
        allocator: &Allocator,
        points: &[Point],
    ) -> Result<Vec<Link>> {
        self.load(ebpf)?;
        if self.way == Way::Tree {
            let mut program = |name| {
                let fd = uprobe(ebpf, name)?.fd()?.as_fd().try_clone_to_owned();
                fd.context("failed to duplicate a descriptor")
            };
            let programs = tree::Programs {
                enter_call: program("enter_call")?,
                leave_call: program("leave_call")?,
                enter_free: program("enter_free")?,
            };
            let placed = self.tree.attach(process, allocator, points, &programs)?;
            return Ok(placed.into_iter().map(Link::Tree).collect());
        }
        let offsets: Vec<u64> = points.iter().map(|point| point.offset).collect();
        self.announce(allocator.object().file(), &offsets)?;
        // The open file is the mapped one, whatever its path leads to by now.
        let file = format!("/proc/self/fd/{}", allocator.object().file().as_raw_fd());
        let path = allocator.object().path();
        if self.way == Way::Single {
            return place_each(ebpf, process.pid(), &file, points)
                .with_context(|| format!("failed to attach to `{path}`"));
        }
        let file = CString::new(file).context("a path with a zero in it")?;
        let mut links = Vec::new();
        for plan in self.plans() {
            let points = plan.among(points);
            let Some(program) = self.loaded.get(plan.program).filter(|_| !points.is_empty()) else {
                continue;
            };
            let offsets: Vec<u64> = points.iter().map(|point| point.offset).collect();
            let signatures = points.iter().map(|point| point.function.signature());
            let cookies: Vec<u64> = signatures.map(Signature::cookie).collect();
            let places = Places {
                file: &file,
                pid: process.pid(),
                offsets: &offsets,
                cookies: Some(&cookies),
                at_return: plan.at_return,
            };
            let link = multi::link(program.as_fd(), plan.kind, &places)
                .map_err(explain_permission)
                .with_context(|| {
                    let names: Vec<&str> = points.iter().map(|it| it.function.name).collect();
                    format!(
                        "failed to place probes in `{}` of `{path}`",
                        names.join("`, `")
                    )
                })?;
            links.push(Link::Many {
                _link: link,
                probes: points.len() * plan.probes(),
            });
        }
        let file = allocator.object().file();
        self.note_placed(allocator.identity(), false, file, offsets)?;
        Ok(links)
    }

    /// From now on a guardian looks after what is placed; what [`Way::Tree`] places has one anyway.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn guard(&mut self) -> Result<()> {
        if self.way != Way::Tree {
            self.guardian = Some(Guardian::start(self.way)?);
        }
        Ok(())
    }

    /// Tells the guardian where there will be probes.
    fn announce(&self, file: &File, offsets: &[u64]) -> Result<()> {
        let guardian = self.guardian.as_ref();
        guardian.map_or(Ok(()), |it| it.expect(file, offsets))
    }

    /// Notes where links were placed.
    fn note_placed(
        &mut self,
        object: (u32, u32, u64),
        at_calls: bool,
        file: &File,
        offsets: Vec<u64>,
    ) -> Result<()> {
        let file = file.as_fd().try_clone_to_owned();
        self.placed
            .retain(|placed| (placed.object, placed.at_calls) != (object, at_calls));
        self.placed.push(Placed {
            object,
            at_calls,
            file: file.context("failed to duplicate a descriptor")?,
            offsets,
        });
        Ok(())
    }

    /// Places probes that run a program at system calls of an object, for the process only.
    ///
    /// # Errors
    ///
    /// If one cannot be placed; those placed before it are taken back.
    pub fn place_calls(
        &mut self,
        ebpf: &mut Ebpf,
        process: &Process,
        (object, file): ((u32, u32, u64), &File),
        points: &[system_calls::Point],
        program: &str,
    ) -> Result<Vec<Link>> {
        let offsets: Vec<u64> = points.iter().map(|point| point.offset).collect();
        self.announce(file, &offsets)?;
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let Some(programs) = &self.programs else {
            let program = uprobe(ebpf, program)?;
            let fd = program.fd()?.as_fd().try_clone_to_owned();
            self.calls = Some(fd.context("failed to duplicate a descriptor")?);
            let places = points.iter().map(|point| (point.offset, point.cookie));
            return places
                .map(|place| place_one(program, process.pid(), &path, place))
                .collect();
        };
        let program = match self.calls.take() {
            Some(loaded) => loaded,
            None => programs.load(program, LinkKind::Multi)?,
        };
        let program = self.calls.insert(program);
        let path = CString::new(path).context("a path with a zero in it")?;
        let cookies: Vec<u64> = points.iter().map(|point| point.cookie).collect();
        let places = Places {
            file: &path,
            pid: process.pid(),
            offsets: &offsets,
            cookies: Some(&cookies),
            at_return: false,
        };
        let link =
            multi::link(program.as_fd(), LinkKind::Multi, &places).map_err(explain_permission)?;
        self.note_placed(object, true, file, offsets)?;
        Ok(vec![Link::Many {
            _link: link,
            probes: points.len(),
        }])
    }

    /// Takes in a process that one of those has forked to which probes are attached with all it forks.
    /// `true` if it has been without them.
    ///
    /// # Errors
    ///
    /// If the kernel refuses, or the process has ended.
    pub fn adopt(&mut self, process: &Process) -> Result<(Vec<Link>, bool)> {
        match self.way {
            Way::Tree => {
                let (placed, lost) = self.tree.adopt(process)?;
                Ok((placed.into_iter().map(Link::Tree).collect(), lost))
            }
            Way::Session | Way::Multi | Way::Single => Ok((Vec::new(), false)),
        }
    }

    /// Since when a process has the probes of an allocator that it has mapped from the one that forked
    /// it, or because another one that is attached to has them; `None` if it has not.
    pub fn follows(&self, process: &Process, allocator: &Allocator) -> Option<u64> {
        match self.way {
            Way::Tree => self.tree.reaches(process, allocator.identity()),
            Way::Session | Way::Multi | Way::Single => None,
        }
    }

    /// Since when what followed processes fork has the probes of an allocator; 0 if nobody is followed.
    pub fn follows_since(&self, allocator: &Allocator) -> u64 {
        match self.way {
            Way::Tree => self.tree.since(allocator.identity()).unwrap_or(u64::MAX),
            Way::Session | Way::Multi | Way::Single => 0,
        }
    }

    /// Whether children of the process keep breakpoints, see [`Self::sweep`].
    pub fn leaves_breakpoints(&self) -> bool {
        !self.placed.is_empty()
    }

    /// Links that do nothing, in the same places. When they are dropped, the kernel looks at all
    /// processes that have the code, and removes the breakpoints where no link wants them: from
    /// children that the process has forked.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn sweep(&self, process: &Process) -> Result<Vec<Link>> {
        self.placed.iter().map(|it| it.sweep(process)).collect()
    }
}

/// One by one.
fn place_each(ebpf: &mut Ebpf, pid: u32, file: &str, points: &[Point]) -> Result<Vec<Link>> {
    let mut links = Vec::new();
    for point in points {
        let kind = point.function.kind;
        // The return first, as above.
        for name in kind
            .return_program()
            .into_iter()
            .chain([kind.entry_program()])
        {
            let place = (point.offset, point.function.signature().cookie());
            let link = place_one(uprobe(ebpf, name)?, pid, file, place).with_context(|| {
                format!(
                    "failed to place a probe on `{}` in `{}`",
                    point.site.instruction, point.function.name,
                )
            })?;
            links.push(link);
        }
    }
    Ok(links)
}

/// At an offset, with a cookie.
fn place_one(
    program: &mut UProbe,
    pid: u32,
    file: &str,
    (offset, cookie): (u64, u64),
) -> Result<Link> {
    let pid = NonZeroU32::new(pid).context("0 is no PID")?;
    let place = UProbeAttachPoint {
        location: UProbeAttachLocation::AbsoluteOffset(offset),
        cookie: Some(cookie),
    };
    let link = program
        .attach(place, file, UProbeScope::OneProcess(pid))
        .and_then(|id| program.take_link(id))
        .map_err(explain_event)?;
    Ok(Link::One(link))
}

/// A program that aya attaches, loaded.
fn uprobe<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut UProbe> {
    let program = ebpf
        .program_mut(name)
        .with_context(|| format!("the BPF object has no program `{name}`"))?;
    let program: &mut UProbe = program.try_into()?;
    if program.fd().is_err() {
        program
            .load()
            .map_err(explain_program)
            .with_context(|| format!("failed to load the program `{name}`"))?;
    }
    Ok(program)
}
