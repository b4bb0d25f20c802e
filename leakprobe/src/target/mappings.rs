//! The target's executable mappings, and what file each of them shows.
//!
//! An address means something only as long as its mapping lives. So addresses are turned into a
//! module and an offset when a stack is first seen, with the files held open: the target may be
//! dead when they are given names.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};

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
    fn parse(line: &[u8]) -> Option<Self> {
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

    /// Reads all mappings of a process.
    ///
    /// # Errors
    ///
    /// If `/proc/PID/maps` cannot be read. A line that cannot be understood is left out.
    pub fn read_all(pid: u32) -> Result<Vec<Self>> {
        let path = format!("/proc/{pid}/maps");
        let text = fs::read(&path).with_context(|| format!("failed to read `{path}`"))?;
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
        let link = format!("/proc/{pid}/map_files/{:x}-{:x}", self.start, self.end);
        let error = match File::open(&link) {
            Ok(file) => return Ok(file),
            Err(error) => error,
        };
        // Without CAP_CHECKPOINT_RESTORE the link cannot be followed. By path, within the
        // target's root, and only if it leads to the same file.
        open_beneath(pid, &self.path)
            .ok()
            .filter(|file| self.is_same_file(file))
            .ok_or(error)
            .with_context(|| format!("failed to open `{}` of process {pid}", self.path.display()))
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

/// Opens a path as the target's root has it. No link leads out of that root.
fn open_beneath(pid: u32, path: &Path) -> Result<File> {
    use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
    let root = File::open(format!("/proc/{pid}/root"))?;
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    Ok(File::from(openat2(&root, path, how)?))
}

/// A file with code, held open.
#[derive(Debug)]
pub struct Module {
    /// Path as in the target's mount namespace, or a name in brackets. May hold any characters.
    pub path: PathBuf,
    /// The file; `None` for code that has none (vDSO, JIT) or whose file could not be opened.
    pub file: Option<File>,
}

impl Module {
    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        let metadata = self.file.as_ref().and_then(|file| file.metadata().ok());
        metadata.map_or(0, |metadata| metadata.len())
    }
}

/// Where an address is.
#[derive(Clone, Debug)]
pub struct Location {
    /// The module.
    pub module: Arc<Module>,
    /// Offset in the module's file; without a file, from the start of the mapping.
    pub offset: u64,
}

/// An executable mapping, and what it shows.
#[derive(Clone, Debug)]
pub struct CodeRange {
    /// First address.
    pub start: u64,
    /// Address after the last.
    pub end: u64,
    /// Offset of the first byte in the module's file.
    pub offset: u64,
    /// The module.
    pub module: Arc<Module>,
}

/// The executable mappings of one address space, with the modules ever seen in it.
#[derive(Debug, Default)]
pub struct Mappings {
    executable: Vec<CodeRange>,
    reserved: Vec<(u64, u64)>,
    modules: HashMap<ModuleKey, Arc<Module>>,
    trampoline: Option<u64>,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct ModuleKey {
    device: (u32, u32),
    inode: u64,
    path: PathBuf,
}

impl Mappings {
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
        self.reserved = reserved_for_code(&mappings);
        self.executable.clear();
        for mapping in mappings.into_iter().filter(|mapping| mapping.executable) {
            if mapping.path == Path::new("[uprobes]") {
                self.trampoline = Some(mapping.start);
            }
            let (start, end, offset) = (mapping.start, mapping.end, mapping.offset);
            let module = self.module(pid, mapping);
            self.executable.push(CodeRange {
                start,
                end,
                offset,
                module,
            });
        }
        Ok(())
    }

    /// Forgets what is mapped where: the process has a new address space. Modules stay known.
    pub fn start_over(&mut self) {
        self.executable.clear();
        self.reserved.clear();
        self.trampoline = None;
    }

    fn module(&mut self, pid: u32, mapping: Mapping) -> Arc<Module> {
        let key = ModuleKey {
            device: mapping.device,
            inode: mapping.inode,
            path: mapping.path.clone(),
        };
        let module = self.modules.entry(key).or_insert_with(|| {
            let file = (mapping.inode != 0)
                .then(|| mapping.open(pid).ok())
                .flatten();
            Arc::new(Module {
                path: mapping.path,
                file,
            })
        });
        Arc::clone(module)
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
        })
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
mod tests {
    use super::*;

    #[test]
    fn a_path_keeps_its_spaces() {
        let mapping = Mapping::parse(b"7f00-7f10 r-xp 00001000 fe:01 42   /a b (deleted)").unwrap();
        assert_eq!(
            (mapping.start, mapping.end, mapping.offset),
            (0x7f00, 0x7f10, 0x1000)
        );
        assert_eq!((mapping.device, mapping.inode), ((0xfe, 1), 42));
        assert_eq!(mapping.path, Path::new("/a b (deleted)"));
        assert!(mapping.executable);
    }

    #[test]
    fn nonsense_is_no_mapping() {
        for line in [
            &b""[..],
            b"/SYSV",
            b"1-2",
            b"x-y r-xp 0 0:0 0",
            b"1-2 r-xp 0 0 0",
        ] {
            assert_eq!(Mapping::parse(line), None);
        }
    }

    #[test]
    fn this_program_finds_its_own_code() {
        let mut mappings = Mappings::default();
        mappings.refresh(std::process::id()).unwrap();
        let location = mappings
            .locate(this_program_finds_its_own_code as *const () as u64)
            .unwrap();
        assert_eq!(location.module.path, std::env::current_exe().unwrap());
        assert!(location.module.file.is_some());
        assert!(mappings.locate(0).is_none());
        assert!(mappings.locate(u64::MAX).is_none());
    }
}
