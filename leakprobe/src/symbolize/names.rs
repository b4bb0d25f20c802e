//! Gives names to locations, from the files that were held open while the target lived.
//!
//! Every location is looked up once, however many stacks pass through it. A file that cannot be
//! understood costs its names, not the report: its frames stay module and offset.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;

use blazesym::symbolize::source::{Elf, Source};
use blazesym::symbolize::{CodeInfo, Input, Sym, Symbolized, Symbolizer};
use object::read::ReadCache;
use object::{Object, ObjectSegment};

use super::Frame;
use crate::snapshot::Address;
use crate::target::{Location, Module};

/// Names of locations, as far as they are known.
pub struct Names {
    symbolizer: Symbolizer,
    /// By module (its place in memory, which the `Arc` in the value keeps) and file offset.
    frames: HashMap<(*const Module, u64), Arc<[Frame]>>,
    modules: HashMap<*const Module, (Arc<Module>, Vec<Segment>)>,
    failures: BTreeMap<String, String>,
}

/// A loaded segment: file offset, size and address as the ELF file counts.
type Segment = (u64, u64, u64);

impl Default for Names {
    fn default() -> Self {
        Self {
            symbolizer: Symbolizer::builder()
                .enable_code_info(true)
                .enable_inlined_fns(true)
                .enable_demangling(true)
                .build(),
            frames: HashMap::new(),
            modules: HashMap::new(),
            failures: BTreeMap::new(),
        }
    }
}

impl Names {
    /// Looks up what is not known yet, module by module.
    pub fn learn<'a>(&mut self, addresses: impl Iterator<Item = &'a Address>) {
        let mut unknown: HashMap<*const Module, (Arc<Module>, Vec<u64>)> = HashMap::new();
        for Location { module, offset } in addresses.filter_map(|frame| frame.location.as_ref()) {
            let key = Arc::as_ptr(module);
            if !self.frames.contains_key(&(key, *offset)) {
                unknown
                    .entry(key)
                    .or_insert_with(|| (Arc::clone(module), Vec::new()))
                    .1
                    .push(*offset);
            }
        }
        for (key, (module, mut offsets)) in unknown {
            offsets.sort_unstable();
            offsets.dedup();
            let segments = &self
                .modules
                .entry(key)
                .or_insert_with(|| (Arc::clone(&module), segments(&module).unwrap_or_default()))
                .1;
            let found = lookup(&self.symbolizer, &module, &offsets).unwrap_or_else(|reason| {
                self.failures
                    .insert(module.path.to_string_lossy().into_owned(), reason);
                vec![None; offsets.len()]
            });
            for (offset, names) in offsets.iter().zip(found) {
                let place = Frame {
                    module: Some(module_name(&module)),
                    offset: address_of(segments, *offset)
                        .or(module.file.is_none().then_some(*offset)),
                    ..Frame::default()
                };
                let mut frames = names.unwrap_or_else(|| vec![Frame::default()]);
                for frame in &mut frames {
                    frame.module.clone_from(&place.module);
                    frame.offset = place.offset;
                }
                self.frames.insert((key, *offset), frames.into());
            }
        }
    }

    /// The frames at an address, innermost first; more than one where functions were inlined.
    pub fn get(&self, address: &Address) -> Arc<[Frame]> {
        address
            .location
            .as_ref()
            .and_then(|at| self.frames.get(&(Arc::as_ptr(&at.module), at.offset)))
            .map_or_else(|| vec![Frame::default()].into(), Arc::clone)
    }

    /// Modules whose names could not be read, and why.
    pub fn failures(&self) -> impl Iterator<Item = (&str, &str)> {
        self.failures
            .iter()
            .map(|(path, reason)| (path.as_str(), reason.as_str()))
    }
}

fn module_name(module: &Module) -> String {
    if module.path.as_os_str().is_empty() {
        return "[anonymous]".to_owned();
    }
    module
        .path
        .file_name()
        .unwrap_or(module.path.as_os_str())
        .to_string_lossy()
        .into_owned()
}

/// Names at file offsets of a module, in their order; `Err` with a reason if none can be had.
fn lookup(
    symbolizer: &Symbolizer,
    module: &Module,
    offsets: &[u64],
) -> Result<Vec<Option<Vec<Frame>>>, String> {
    let Some(file) = &module.file else {
        return Ok(vec![None; offsets.len()]);
    };
    // The descriptor, not the path: the path may lead elsewhere, or nowhere, by now.
    let source = Source::Elf(Elf::new(PathBuf::from(format!(
        "/proc/self/fd/{}",
        file.as_raw_fd()
    ))));
    let symbolized = symbolizer
        .symbolize(&source, Input::FileOffset(offsets))
        .map_err(|error| format!("{error:#}"))?;
    Ok(symbolized
        .into_iter()
        .map(|symbolized| match symbolized {
            Symbolized::Sym(sym) => Some(frames(&sym)),
            Symbolized::Unknown(_) => None,
        })
        .collect())
}

/// A symbol and the functions inlined into it, innermost first.
fn frames(sym: &Sym<'_>) -> Vec<Frame> {
    let frame = |name: &str, code: Option<&CodeInfo<'_>>, inlined| Frame {
        function: Some(name.to_owned()),
        file: code.map(|code| code.to_path().to_string_lossy().into_owned()),
        line: code.and_then(|code| code.line),
        inlined,
        ..Frame::default()
    };
    let mut frames: Vec<Frame> = sym
        .inlined
        .iter()
        .map(|function| frame(&function.name, function.code_info.as_ref(), true))
        .rev()
        .collect();
    frames.push(frame(&sym.name, sym.code_info.as_deref(), false));
    frames
}

fn segments(module: &Module) -> Option<Vec<Segment>> {
    let cache = ReadCache::new(module.file.as_ref()?.try_clone().ok()?);
    let elf = object::File::parse(&cache).ok()?;
    Some(
        elf.segments()
            .map(|segment| {
                (
                    segment.file_range().0,
                    segment.file_range().1,
                    segment.address(),
                )
            })
            .collect(),
    )
}

/// Address of a file offset, as the ELF file counts.
fn address_of(segments: &[Segment], offset: u64) -> Option<u64> {
    segments.iter().find_map(|&(start, size, address)| {
        let within = offset.checked_sub(start)?;
        (within < size)
            .then(|| address.checked_add(within))
            .flatten()
    })
}
