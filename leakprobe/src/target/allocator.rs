//! Finds the objects that define `malloc` for a process.
//!
//! Which of them serves it, is the dynamic linker's choice: the executable comes first, then whatever is
//! preloaded or linked, the C library last. glibc's and musl's own are recognised by file name;
//! any other object that exports `malloc` goes before them. The others may serve it as well: called by
//! the first, or by whoever has asked for their functions by `dlsym`.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use anyhow::{Result, anyhow};

use super::object::Symbol;
use super::{AllocatorInfo, ElfObject, Mapping, Process};

/// `operator new(unsigned long)` of the Itanium C++ ABI.
const OPERATOR_NEW: &str = "_Znwm";

/// An object that serves a process's allocator calls.
#[derive(Debug)]
pub struct Allocator {
    object: ElfObject,
    symbols: HashMap<String, Vec<Symbol>>,
    name: String,
    rank: Rank,
    has_operator_new: bool,
    identity: (u32, u32, u64),
}

/// A function of the allocator.
#[derive(Clone, Debug)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// Offset in the file, bytes.
    pub offset: u64,
    /// Address as the ELF file counts.
    pub address: u64,
    /// Its first bytes of code.
    pub code: Vec<u8>,
}

/// Which of the allocators of a process serves it: the least. Whether it cannot do so alone, having no
/// `free`; and its [`role`].
type Rank = (bool, u8);

impl Allocator {
    /// The allocators of a process, the one that serves it first; `functions` are the names that may be
    /// asked for later, `malloc` and `free` among them.
    ///
    /// # Errors
    ///
    /// If no mapped object defines `malloc`, with what can be done; or if the process cannot be
    /// read.
    pub fn find(process: &Process, functions: &[&str]) -> Result<Vec<Self>> {
        let exe = process.exe();
        let mut found: Vec<Self> = Self::objects(process)?
            .iter()
            .filter_map(|it| Self::in_object(process, exe.as_deref(), it, functions).ok()?)
            .collect();
        if found.is_empty() {
            return Err(Self::none(process));
        }
        found.sort_by_key(Self::rank);
        Ok(found)
    }

    /// Why there is none.
    pub fn none(process: &Process) -> anyhow::Error {
        match unreadable(process) {
            Some(error) => error.context("no allocator found"),
            None => anyhow!(
                "no allocator found in process {}: none of its objects defines `malloc`. If it is \
                 a static program, it must keep its symbols (not be stripped); a Go program or one \
                 with an allocator of its own cannot be profiled yet",
                process.pid()
            ),
        }
    }

    /// A mapping of each object whose code a process has mapped.
    ///
    /// # Errors
    ///
    /// If the process cannot be read.
    pub fn objects(process: &Process) -> Result<Vec<Mapping>> {
        let mut seen = HashSet::new();
        let mut mappings = Mapping::read_all(process.pid())?;
        mappings.retain(|mapping| {
            mapping.executable && mapping.inode != 0 && seen.insert(mapping.identity())
        });
        Ok(mappings)
    }

    /// The allocator in one of them, if it is one. `exe` is the process's executable.
    ///
    /// # Errors
    ///
    /// If the file cannot be opened: the mapping may be gone.
    pub fn in_object(
        process: &Process,
        exe: Option<&Path>,
        mapping: &Mapping,
        functions: &[&str],
    ) -> Result<Option<Self>> {
        let file_name = file_name(&mapping.path);
        if file_name.starts_with("ld-linux") {
            return Ok(None); // glibc's loader has a malloc for itself alone
        }
        let file = mapping.open(process.pid())?;
        let path = mapping.path.to_string_lossy().into_owned();
        let is_executable = exe == Some(&*mapping.path);
        let names: Vec<&str> = functions.iter().copied().chain([OPERATOR_NEW]).collect();
        let Ok((object, mut symbols)) = ElfObject::open(file, path, &names, is_executable) else {
            return Ok(None); // not ELF
        };
        // A static program's is libstdc++'s, which calls malloc.
        let has_operator_new = symbols.remove(OPERATOR_NEW).is_some() && !object.is_static();
        if !is_allocator(&object, &symbols) {
            return Ok(None);
        }
        let has_pvalloc = symbols.contains_key("pvalloc");
        let (role, name) = role(&file_name, is_executable, has_pvalloc);
        let is_part = !object.is_static() && !symbols.contains_key("free");
        Ok(Some(Self {
            object,
            symbols,
            name,
            rank: (is_part, role),
            has_operator_new,
            identity: mapping.identity(),
        }))
    }

    /// Its place among the allocators of a process, of which the least serves it.
    pub fn rank(&self) -> (bool, u8) {
        self.rank
    }

    /// Whether it takes back what it gives out. What only passes requests on need not.
    pub fn takes_back(&self) -> bool {
        !self.rank.0
    }

    /// What a report says of it.
    pub fn info(&self) -> AllocatorInfo {
        AllocatorInfo {
            name: self.name.clone(),
            path: self.object.path().to_owned(),
        }
    }

    /// The object.
    pub fn object(&self) -> &ElfObject {
        &self.object
    }

    /// Device and inode: two processes with the same share its code.
    pub fn identity(&self) -> (u32, u32, u64) {
        self.identity
    }

    /// Addresses of the process between which all of the allocator's functions lie; what they call
    /// of one another, they call from there. `None` if they are not mapped in one piece.
    ///
    /// # Errors
    ///
    /// If the process cannot be read.
    pub fn code_range(&self, process: &Process) -> Result<Option<(u64, u64)>> {
        let symbols = || self.symbols.values().flatten();
        let (Some(start), Some(end)) = (
            symbols().map(|symbol| symbol.offset).min(),
            symbols()
                .map(|symbol| symbol.offset.saturating_add(symbol.size))
                .max(),
        ) else {
            return Ok(None);
        };
        Ok(Mapping::read_all(process.pid())?
            .iter()
            .find_map(|mapping| {
                let within = mapping.executable
                    && mapping.identity() == self.identity
                    && start >= mapping.offset
                    && end <= mapping.offset + (mapping.end - mapping.start);
                let address = |offset| mapping.start + (offset - mapping.offset);
                within.then(|| (address(start), address(end)))
            }))
    }

    /// Whether the object has an operator new of its own: it need not go through malloc.
    pub fn has_operator_new(&self) -> bool {
        self.has_operator_new
    }

    /// All functions of a name: different symbol versions may have different code.
    ///
    /// # Errors
    ///
    /// If their code cannot be read.
    pub fn functions(&self, name: &str) -> Result<Vec<Function>> {
        let symbols = self.symbols.get(name).map_or(&[][..], Vec::as_slice);
        symbols
            .iter()
            .map(|symbol| {
                Ok(Function {
                    name: name.to_owned(),
                    offset: symbol.offset,
                    address: symbol.address,
                    code: self.object.code(symbol)?,
                })
            })
            .collect()
    }
}

/// Whether an object serves allocator calls.
pub(super) fn is_allocator(object: &ElfObject, symbols: &HashMap<String, Vec<Symbol>>) -> bool {
    // A static program may use no more than aligned_alloc.
    symbols.contains_key("malloc") || (object.is_static() && !symbols.is_empty())
}

/// Which of the objects that define `malloc` serves a process, the lowest number first, and what the
/// allocator is called.
pub(super) fn role(file_name: &str, is_executable: bool, has_pvalloc: bool) -> (u8, String) {
    if is_executable {
        (0, file_name.to_owned())
    } else if file_name.starts_with("ld-musl-") || file_name.starts_with("libc.musl-") {
        (2, "musl".to_owned())
    } else if file_name.starts_with("libc.so") || file_name.starts_with("libc-2.") {
        // musl's only file is often also called libc.so.
        let name = if has_pvalloc { "glibc" } else { "musl" };
        (2, name.to_owned())
    } else {
        (1, file_name.to_owned())
    }
}

pub(super) fn file_name(path: &Path) -> String {
    let name = path
        .file_name()
        .unwrap_or(path.as_os_str())
        .to_string_lossy();
    name.strip_suffix(" (deleted)").unwrap_or(&name).to_owned()
}

/// Why one of the files that the process executes cannot be opened, if so: it may be the one with the
/// allocator.
fn unreadable(process: &Process) -> Option<anyhow::Error> {
    let mappings = Mapping::read_all(process.pid()).ok()?;
    mappings
        .into_iter()
        .filter(|mapping| mapping.executable && mapping.inode != 0)
        .find_map(|mapping| mapping.open(process.pid()).err())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_this_process() {
        let process = Process::open(std::process::id()).unwrap();
        let found = Allocator::find(&process, &["malloc", "free", "pvalloc"]).unwrap();
        assert!(found.is_sorted_by_key(Allocator::rank));
        assert!(found[0].takes_back());
        assert!(process.code_size().is_some_and(|bytes| bytes > 0));
    }
}
