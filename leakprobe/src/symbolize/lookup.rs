//! Functions and lines at the addresses of one module.
//!
//! A module can say what its code is called in three places: a separate file with debug
//! information, its own symbols and debug information, and MiniDebugInfo. They are asked in that
//! order, each for what the ones before it do not know.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use blazesym::symbolize::source::{Elf as ElfSource, Source};
use blazesym::symbolize::{CodeInfo, Input, Sym, Symbolized, Symbolizer};

use super::{Frame, image};
use crate::target::Module;
use crate::target::elf::Elf;

/// What is known of one module.
#[derive(Default)]
pub struct Lookup {
    segments: Vec<crate::target::elf::Segment>,
    sources: Vec<Image>,
    failures: Vec<String>,
}

/// One file's copy, and what was read of it so far.
struct Image {
    file: File,
    lines: bool,
    symbolizer: Symbolizer,
}

impl Lookup {
    /// Reads what a module has; `lines` with source lines and inlined functions.
    pub fn new(module: &Module, lines: bool) -> Self {
        let mut this = Self::default();
        let Some(file) = &module.file else {
            return this;
        };
        match Elf::parse(file) {
            Ok(elf) => this.segments = elf.segments().to_vec(),
            Err(error) => {
                this.failures.push(error.to_string());
                return this;
            }
        }
        for file in module.debug.iter().chain([file]) {
            match image::copy(file, lines) {
                Ok((file, without_lines)) => {
                    this.failures.extend(without_lines);
                    this.sources.push(Image::new(file, lines));
                }
                Err(error) => this.failures.push(error.to_string()),
            }
        }
        match image::unpack_mini(file) {
            Ok(mini) => this
                .sources
                .extend(mini.map(|file| Image::new(file, false))),
            Err(error) => this.failures.push(format!("its MiniDebugInfo: {error}")),
        }
        this
    }

    /// What went wrong so far.
    pub fn failures(&mut self) -> impl Iterator<Item = String> {
        self.failures.drain(..)
    }

    /// Address of a file offset, as the module's own file counts.
    pub fn address_of(&self, offset: u64) -> Option<u64> {
        crate::target::elf::address_of(&self.segments, offset)
    }

    /// The frames at addresses, each innermost first; none where nothing is known.
    pub fn find(&mut self, addresses: &[u64]) -> Vec<Option<Vec<Frame>>> {
        let mut found: Vec<Option<Vec<Frame>>> = vec![None; addresses.len()];
        self.sources.retain_mut(|source| {
            let unknown: Vec<usize> = (0..addresses.len())
                .filter(|&index| found[index].is_none())
                .collect();
            let wanted: Vec<u64> = unknown.iter().map(|&index| addresses[index]).collect();
            // blazesym is well tested, but on whole files; these may hold anything.
            match catch_unwind(AssertUnwindSafe(|| source.find(&wanted))) {
                Ok(Ok(names)) => {
                    for (index, names) in unknown.into_iter().zip(names) {
                        found[index] = names;
                    }
                    true
                }
                Ok(Err(reason)) => {
                    self.failures.push(reason);
                    true
                }
                Err(_) => {
                    self.failures.push("its symbols make no sense".to_owned());
                    false
                }
            }
        });
        found
    }
}

impl Image {
    fn new(file: File, lines: bool) -> Self {
        let symbolizer = Symbolizer::builder()
            .enable_code_info(lines)
            .enable_inlined_fns(lines)
            .enable_demangling(true)
            .set_debug_dirs(Some::<[PathBuf; 0]>([]))
            .build();
        Self {
            file,
            lines,
            symbolizer,
        }
    }

    fn find(&self, addresses: &[u64]) -> Result<Vec<Option<Vec<Frame>>>, String> {
        if addresses.is_empty() {
            return Ok(Vec::new());
        }
        let mut found = self.ask(addresses, self.lines)?;
        // Debug information that is damaged or has lost a part may not name what it describes.
        let nameless: Vec<usize> = (0..addresses.len())
            .filter(|&index| {
                found[index]
                    .last()
                    .is_none_or(|frame| frame.function.is_none())
            })
            .collect();
        if self.lines && !nameless.is_empty() {
            let wanted: Vec<u64> = nameless.iter().map(|&index| addresses[index]).collect();
            for (index, mut named) in nameless.into_iter().zip(self.ask(&wanted, false)?) {
                match (found[index].last_mut(), named.pop()) {
                    (Some(frame), Some(named)) => frame.function = named.function,
                    (None, named) => found[index].extend(named),
                    (Some(_), None) => {}
                }
            }
        }
        Ok(found
            .into_iter()
            .map(|frames| (!frames.is_empty()).then_some(frames))
            .collect())
    }

    fn ask(&self, addresses: &[u64], lines: bool) -> Result<Vec<Vec<Frame>>, String> {
        let mut source = ElfSource::new(format!("/proc/self/fd/{}", self.file.as_raw_fd()));
        source.debug_syms = lines;
        let symbolized = self
            .symbolizer
            .symbolize(&Source::Elf(source), Input::VirtOffset(addresses))
            .map_err(|error| format!("{error:#}"))?;
        Ok(symbolized
            .into_iter()
            .map(|symbolized| match symbolized {
                Symbolized::Sym(sym) => frames(&sym),
                Symbolized::Unknown(_) => Vec::new(),
            })
            .collect())
    }
}

/// A symbol and the functions inlined into it, innermost first.
fn frames(sym: &Sym<'_>) -> Vec<Frame> {
    let frame = |name: &str, code: Option<&CodeInfo<'_>>, inlined| Frame {
        function: (!name.is_empty()).then(|| name.into()),
        file: code.map(|code| code.to_path().to_string_lossy().into()),
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

#[cfg(test)]
#[path = "lookup_tests.rs"]
mod tests;
