//! Finds the object that defines `malloc` for a process.
//!
//! Which one that is, is the dynamic linker's choice: the executable comes first, then whatever is
//! preloaded or linked, the C library last. glibc's and musl's own are recognised by file name;
//! any other object that exports `malloc` goes before them.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use anyhow::{Result, bail};

use super::object::Symbol;
use super::{AllocatorInfo, ElfObject, Mapping, Process};

/// `operator new(unsigned long)` of the Itanium C++ ABI.
const OPERATOR_NEW: &str = "_Znwm";

/// The object that serves a process's allocator calls.
#[derive(Debug)]
pub struct Allocator {
    object: ElfObject,
    symbols: HashMap<String, Vec<Symbol>>,
    name: String,
    others: Vec<String>,
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

impl Allocator {
    /// Finds the allocator of a process among its mapped objects; `functions` are the names that
    /// may be asked for later, `malloc` among them.
    ///
    /// # Errors
    ///
    /// If no mapped object defines `malloc`, with what can be done; or if the process cannot be
    /// read.
    pub fn find(process: &Process, functions: &[&str]) -> Result<Self> {
        Self::search(process, functions)?.map_or_else(
            || bail!(
                "no allocator found in process {}: none of its objects defines `malloc`. If it is \
                 a static program, it must keep its symbols (not be stripped); a Go program or one \
                 with an allocator of its own cannot be profiled yet",
                process.pid()
            ),
            Ok,
        )
    }

    /// As [`Self::find`], with `None` while no mapped object defines `malloc`.
    ///
    /// # Errors
    ///
    /// If the process cannot be read.
    pub fn search(process: &Process, functions: &[&str]) -> Result<Option<Self>> {
        let exe = process.exe();
        let mut seen = HashSet::new();
        let mut found = Vec::new();
        for mapping in Mapping::read_all(process.pid())? {
            let identity = (mapping.device.0, mapping.device.1, mapping.inode);
            if !mapping.executable || mapping.inode == 0 || !seen.insert(identity) {
                continue;
            }
            let file_name = file_name(&mapping.path);
            if file_name.starts_with("ld-linux") {
                continue; // glibc's loader has a malloc for itself alone
            }
            // A file that cannot be opened or is not ELF does not hold the allocator.
            let Ok(file) = mapping.open(process.pid()) else {
                continue;
            };
            let path = mapping.path.to_string_lossy().into_owned();
            let is_executable = exe.as_deref() == Some(&*mapping.path);
            let names: Vec<&str> = functions.iter().copied().chain([OPERATOR_NEW]).collect();
            let Ok((object, mut symbols)) = ElfObject::open(file, path, &names, is_executable)
            else {
                continue;
            };
            // A static program's is libstdc++'s, which calls malloc.
            let has_operator_new = symbols.remove(OPERATOR_NEW).is_some() && !object.is_static();
            // A static program may use no more than aligned_alloc.
            let uses_another = object.is_static() && !symbols.is_empty();
            if !symbols.contains_key("malloc") && !uses_another {
                continue;
            }
            let (rank, name) = if is_executable {
                (0, file_name)
            } else if file_name.starts_with("ld-musl-") || file_name.starts_with("libc.musl-") {
                (2, "musl".to_owned())
            } else if file_name.starts_with("libc.so") || file_name.starts_with("libc-2.") {
                // musl's only file is often also called libc.so.
                let musl = !symbols.contains_key("pvalloc");
                (2, if musl { "musl" } else { "glibc" }.to_owned())
            } else {
                (1, file_name)
            };
            found.push((
                rank,
                Self {
                    object,
                    symbols,
                    name,
                    others: Vec::new(),
                    has_operator_new,
                    identity,
                },
            ));
        }
        found.sort_by_key(|&(rank, _)| rank);
        let mut found = found.into_iter().map(|(_, allocator)| allocator);
        let Some(mut first) = found.next() else {
            return Ok(None);
        };
        first.others = found.map(|other| other.object.path().to_owned()).collect();
        Ok(Some(first))
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
                let identity = (mapping.device.0, mapping.device.1, mapping.inode);
                let within = mapping.executable
                    && identity == self.identity
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

    /// Paths of other objects that define `malloc` too, and are not probed.
    pub fn others(&self) -> &[String] {
        &self.others
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

fn file_name(path: &Path) -> String {
    let name = path
        .file_name()
        .unwrap_or(path.as_os_str())
        .to_string_lossy();
    name.strip_suffix(" (deleted)").unwrap_or(&name).to_owned()
}
