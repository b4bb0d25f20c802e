//! The target's executable mappings, and what file each of them shows.
//!
//! An address means something only as long as its mapping lives. So addresses are turned into a
//! module and an offset when a stack is first seen, with the files held open: the target may be
//! dead when they are given names.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail};

use super::debug_files::{DebugFiles, undeleted};
use super::module::{CodeRange, Location, Module};
use super::perf_map::PerfMap;
use super::proc_fs;
use super::root::Root;
use crate::capability::{Capability, advice, advice_to_look};

/// One line of `/proc/PID/maps`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// Address after the last.
    pub end: u64,
    /// Whether code in it can run.
    pub executable: bool,
    /// Offset of the first byte in the file.
    pub offset: u64,
    /// Device of the file, major and minor; 0:0 without a file.
    pub device: (u32, u32),
    /// Inode of the file; 0 without a file.
    pub inode: u64,
    /// Path as in the target's mount namespace, or a name in brackets, or empty.
    pub path: PathBuf,
}

impl Mapping {
    /// Reads a line of `/proc/PID/maps`; `None` if it is none.
    pub fn parse(line: &[u8]) -> Option<Self> {
        // The path is all that follows the fifth field, spaces included.
        let mut rest = line;
        let mut field = || {
            let start = rest.iter().position(|&byte| byte != b' ')?;
            let end = rest[start..].iter().position(|&byte| byte == b' ');
            let end = end.map_or(rest.len(), |end| start + end);
            let field = std::str::from_utf8(&rest[start..end]).ok()?;
            rest = &rest[end..];
            Some(field)
        };
        let (start, end) = field()?.split_once('-')?;
        let permissions = field()?;
        let offset = field()?;
        let (major, minor) = field()?.split_once(':')?;
        let inode = field()?.parse().ok()?;
        let path = rest.trim_ascii_start();
        let hex = |digits| u64::from_str_radix(digits, 16).ok();
        Some(Self {
            start: hex(start)?,
            end: hex(end)?,
            executable: permissions.as_bytes().get(2) == Some(&b'x'),
            offset: hex(offset)?,
            device: (hex(major)? as u32, hex(minor)? as u32),
            inode,
            path: PathBuf::from(std::ffi::OsStr::from_bytes(path)),
        })
    }

    /// Device and inode of the file: two mappings with the same show the same file.
    pub fn identity(&self) -> (u32, u32, u64) {
        (self.device.0, self.device.1, self.inode)
    }

    /// Reads all mappings of a process; there are none of one that is about to end.
    ///
    /// # Errors
    ///
    /// If `/proc/PID/maps` cannot be read. A line that cannot be understood is left out.
    pub fn read_all(pid: u32) -> Result<Vec<Self>> {
        let path = proc_fs::pid(pid, "maps");
        let text = proc_fs::read_whole(&path)
            .with_context(|| format!("failed to read `{}`", path.display()))?;
        Ok(text
            .split(|&byte| byte == b'\n')
            .filter_map(Self::parse)
            .collect())
    }

    /// Opens the very file that is mapped, whatever is at its path by now.
    ///
    /// # Errors
    ///
    /// If the mapping is gone or has no file.
    pub fn open(&self, pid: u32) -> Result<File> {
        let link = proc_fs::pid(pid, "map_files").join(format!("{:x}-{:x}", self.start, self.end));
        let error = match File::open(&link) {
            Ok(file) => return Ok(file),
            Err(error) => error,
        };
        let shown = self.path.display();
        if error.kind() != io::ErrorKind::PermissionDenied {
            return Err(error)
                .with_context(|| format!("failed to open `{shown}` of process {pid}"));
        }
        // Without CAP_CHECKPOINT_RESTORE the link cannot be followed, and another user's not be
        // seen without CAP_DAC_READ_SEARCH. By path, within the target's root, and only if it leads
        // to the same file.
        match Root::of(pid).and_then(|root| root.open(&self.path)) {
            Ok(file) if self.is_same_file(&file) => Ok(file),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error)
                .with_context(|| {
                    let advice = advice_to_look();
                    format!("permission to read `{shown}` of process {pid} was denied: {advice}")
                }),
            Ok(_) | Err(_) => bail!(
                "what process {pid} has mapped is not, or not to be told as, what is at `{shown}` \
                 by now: {}",
                advice(&[Capability::CheckpointRestore, Capability::DacReadSearch])
            ),
        }
    }

    fn is_same_file(&self, file: &File) -> bool {
        use std::os::unix::fs::MetadataExt;
        file.metadata().is_ok_and(|found| {
            found.ino() == self.inode
                && (libc::major(found.dev()), libc::minor(found.dev())) == self.device
        })
    }
}

/// Ranges of adjacent mappings without a file, at least one of which is executable.
fn reserved_for_code(mappings: &[Mapping]) -> Vec<(u64, u64)> {
    let mut ranges: Vec<(u64, u64, bool)> = Vec::new();
    for mapping in mappings {
        let has_name = mapping.path.as_os_str().as_bytes().starts_with(b"[")
            && !mapping.path.as_os_str().as_bytes().starts_with(b"[anon:");
        if mapping.inode != 0 || has_name {
            continue;
        }
        match ranges.last_mut() {
            Some((_, end, executable)) if *end == mapping.start => {
                *end = mapping.end;
                *executable |= mapping.executable;
            }
            _ => ranges.push((mapping.start, mapping.end, mapping.executable)),
        }
    }
    ranges
        .into_iter()
        .filter(|&(.., executable)| executable)
        .map(|(start, end, _)| (start, end))
        .collect()
}

/// The modules ever seen, in any process, and where debug information of new ones is looked for.
#[derive(Clone, Debug, Default)]
pub struct Library(Arc<Mutex<Shelves>>);

#[derive(Debug, Default)]
struct Shelves {
    modules: HashMap<ModuleKey, Arc<Module>>,
    debug_files: DebugFiles,
}

/// The executable mappings of one address space.
#[derive(Debug, Default)]
pub struct Mappings {
    executable: Vec<CodeRange>,
    reserved: Vec<(u64, u64)>,
    library: Library,
    trampoline: Option<u64>,
    root: Option<Root>,
    /// Once there is memory that may hold JIT code.
    jit: Option<PerfMap>,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct ModuleKey {
    device: (u32, u32),
    inode: u64,
    path: PathBuf,
}

impl Library {
    /// Nothing seen yet; debug information of modules will be looked for as told.
    pub fn new(debug_files: DebugFiles) -> Self {
        Self(Arc::new(Mutex::new(Shelves {
            debug_files,
            ..Shelves::default()
        })))
    }

    fn module(&self, pid: u32, mapping: Mapping, root: Option<&Root>, at: &Path) -> Arc<Module> {
        let mut shelves = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Shelves {
            modules,
            debug_files,
        } = &mut *shelves;
        let key = ModuleKey {
            device: mapping.device,
            inode: mapping.inode,
            // It stays the same module when its file is removed.
            path: undeleted(&mapping.path).to_owned(),
        };
        let module = modules.entry(key).or_insert_with(|| {
            let file = (mapping.inode != 0)
                .then(|| mapping.open(pid).ok())
                .flatten();
            // After a plain chroot the kernel shows the path from the root above.
            let path = undeleted(&mapping.path);
            let inside = path.strip_prefix(at).map(|path| Path::new("/").join(path));
            let debug = file
                .as_ref()
                .and_then(|file| debug_files.find(root, inside.as_deref().unwrap_or(path), file));
            Arc::new(Module {
                path: mapping.path,
                file,
                debug,
            })
        });
        Arc::clone(module)
    }
}

impl Mappings {
    /// None yet; their modules will be in this library.
    pub fn new(library: Library) -> Self {
        Self {
            library,
            ..Self::default()
        }
    }

    /// Those of a child that was just forked: the same, as far as known.
    pub fn fork(&self) -> Self {
        Self {
            executable: self.executable.clone(),
            reserved: self.reserved.clone(),
            library: self.library.clone(),
            trampoline: self.trampoline,
            root: None,
            jit: None,
        }
    }

    /// Reads the mappings anew. Of those that are gone, the modules stay known.
    ///
    /// # Errors
    ///
    /// If `/proc/PID/maps` cannot be read.
    pub fn refresh(&mut self, pid: u32) -> Result<()> {
        let mappings = Mapping::read_all(pid)?;
        if mappings.is_empty() {
            return Ok(()); // a process that has just ended: what was known stays
        }
        self.root = Root::of(pid).ok().or(self.root.take());
        let root_path = fs::read_link(proc_fs::pid(pid, "root")).unwrap_or_default();
        self.reserved = reserved_for_code(&mappings);
        self.executable.clear();
        for mapping in mappings.into_iter().filter(|mapping| mapping.executable) {
            if mapping.path == Path::new("[uprobes]") {
                self.trampoline = Some(mapping.start);
            }
            let (start, end, offset) = (mapping.start, mapping.end, mapping.offset);
            let root = self.root.as_ref();
            let module = self.library.module(pid, mapping, root, &root_path);
            if module.may_be_jit() && self.jit.is_none() {
                self.jit = Some(PerfMap::of(pid));
            }
            self.executable.push(CodeRange {
                start,
                end,
                offset,
                module,
            });
        }
        self.refresh_names();
        Ok(())
    }

    /// Where the code at an address is from; `None` if no known mapping holds code there.
    pub fn locate(&self, address: u64) -> Option<Location> {
        let after = self
            .executable
            .partition_point(|range| range.start <= address);
        let range = self.executable.get(after.checked_sub(1)?)?;
        let from = if range.module.file.is_some() {
            range.offset
        } else {
            0
        };
        (address < range.end).then(|| Location {
            module: Arc::clone(&range.module),
            offset: address - range.start + from,
            name: range
                .module
                .may_be_jit()
                .then(|| self.jit_name(address))
                .flatten(),
        })
    }

    /// Takes in the names of JIT code that were written since.
    pub fn refresh_names(&mut self) {
        if let (Some(jit), Some(root)) = (&mut self.jit, &self.root) {
            jit.refresh(root);
        }
    }

    /// What its compiler calls the code at an address, as far as is known by now.
    pub fn jit_name(&self, address: u64) -> Option<Arc<str>> {
        self.jit.as_ref()?.find(address).cloned()
    }

    /// Whether a place is in JIT code that has no name yet, and will have one soon.
    pub fn awaits_name(&self, at: &Location) -> bool {
        at.name.is_none()
            && at.module.may_be_jit()
            && self.jit.as_ref().is_some_and(PerfMap::exists)
    }

    /// Why names of JIT code are missing.
    pub fn jit_problem(&self) -> Option<&str> {
        self.jit.as_ref()?.problem()
    }

    /// The executable mappings, sorted by address.
    pub fn executable(&self) -> &[CodeRange] {
        &self.executable
    }

    /// Address ranges without a file in which some mapping is executable, and the others next to it
    /// may become so at any time: what programs that generate code reserve for it.
    pub fn reserved_for_code(&self) -> &[(u64, u64)] {
        &self.reserved
    }

    /// Address of the kernel's return trampoline, once the target has it.
    pub fn trampoline(&self) -> Option<u64> {
        self.trampoline
    }
}

#[cfg(test)]
#[path = "mappings_tests.rs"]
mod tests;
