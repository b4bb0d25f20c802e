//! Finds the separate file with the debug information of a module, and opens it.
//!
//! It must be opened while the target lives: a container's files go with it. A file is taken only
//! if it was made from the very same link, which the build id says, or where there is none the
//! CRC-32 of the link to it. Files of the target are looked up in the target's root alone.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};

use super::elf::Elf;
use super::root::{Root, open_regular};

/// Where distributions install debug information.
const SYSTEM: &str = "/usr/lib/debug";

/// Most bytes that are read to compute CRCs, so that no target can keep us busy.
const CRC_BUDGET: u64 = 1 << 30;

/// Looks for debug information.
#[derive(Debug)]
pub struct DebugFiles {
    dirs: Vec<PathBuf>,
    lines: bool,
    crc_budget: u64,
}

impl Default for DebugFiles {
    fn default() -> Self {
        Self {
            dirs: Vec::new(),
            lines: true,
            crc_budget: CRC_BUDGET,
        }
    }
}

/// What a debug file has to be of.
struct Wanted<'a> {
    path: &'a Path,
    name: &'a OsStr,
    build_id: Option<Vec<u8>>,
    link: Option<(std::ffi::OsString, u32)>,
}

impl DebugFiles {
    /// With directories of the user, searched first. `lines`: source lines are wanted too, not only
    /// the names of functions.
    ///
    /// # Errors
    ///
    /// If one of the directories cannot be read.
    pub fn new(dirs: Vec<PathBuf>, lines: bool) -> Result<Self> {
        for dir in &dirs {
            std::fs::read_dir(dir).with_context(|| {
                format!("failed to read `{}`, given with --debug-dir", dir.display())
            })?;
        }
        Ok(Self {
            dirs,
            lines,
            ..Self::default()
        })
    }

    /// The debug information of a module, if it is in another file and that is found. `path` is the
    /// module's own, as its root has it.
    pub fn find(&mut self, root: Option<&Root>, path: &Path, module: &File) -> Option<File> {
        let elf = Elf::parse(module).ok()?;
        let best = if self.lines { ".debug_info" } else { ".symtab" };
        if elf.section(best).is_some() {
            return None; // it is all there
        }
        let wanted = Wanted {
            path,
            name: path.file_name()?,
            build_id: elf.build_id(),
            link: elf.debug_link(),
        };
        let hosts: Vec<PathBuf> = self
            .dirs
            .iter()
            .flat_map(|dir| wanted.in_dir(dir))
            .collect();
        // The host's own files next: nobody can change them under our hands. They know nothing of
        // the target but by the build id.
        let hosts = hosts
            .into_iter()
            .chain(wanted.by_build_id(Path::new(SYSTEM)));
        let found = hosts
            .filter_map(|path| open_regular(&path).ok())
            .find(|file| self.fits(file, &wanted));
        found.or_else(|| {
            let root = root?;
            wanted
                .in_root()
                .into_iter()
                .filter_map(|path| root.open(&path).ok())
                .find(|file| self.fits(file, &wanted))
        })
    }

    fn fits(&mut self, file: &File, wanted: &Wanted<'_>) -> bool {
        let Ok(elf) = Elf::parse(file) else {
            return false;
        };
        match (&wanted.build_id, elf.build_id(), &wanted.link) {
            (Some(wanted), Some(found), _) => *wanted == found,
            (_, _, Some((_, crc))) => self.crc(file) == Some(*crc),
            _ => false,
        }
    }

    fn crc(&mut self, file: &File) -> Option<u32> {
        let size = file.metadata().ok()?.len();
        self.crc_budget = self.crc_budget.checked_sub(size)?;
        let mut hasher = crc32fast::Hasher::new();
        let mut buffer = vec![0; 1 << 20];
        let mut offset = 0;
        while offset < size {
            let read = file.read_at(&mut buffer, offset).ok()?;
            if read == 0 {
                break;
            }
            hasher.update(&buffer[..read]);
            offset += read as u64;
        }
        Some(hasher.finalize())
    }
}

impl Wanted<'_> {
    /// Where a directory of the user may have it.
    fn in_dir(&self, dir: &Path) -> Vec<PathBuf> {
        let mut paths: Vec<PathBuf> = self.by_build_id(dir).into_iter().collect();
        let folder = self.path.parent().and_then(relative);
        for name in [Some(with_debug(self.name)), self.link_name()]
            .into_iter()
            .flatten()
        {
            paths.extend(folder.as_ref().map(|folder| dir.join(folder).join(&name)));
            paths.push(dir.join(name));
        }
        paths
    }

    /// Where the target's own root may have it.
    fn in_root(&self) -> Vec<PathBuf> {
        let mut paths: Vec<PathBuf> = self.by_build_id(Path::new(SYSTEM)).into_iter().collect();
        if let (Some(name), Some(folder)) = (self.link_name(), self.path.parent()) {
            paths.push(folder.join(&name));
            paths.push(folder.join(".debug").join(&name));
            paths.extend(relative(folder).map(|folder| Path::new(SYSTEM).join(folder).join(&name)));
        }
        paths
    }

    fn by_build_id(&self, dir: &Path) -> Option<PathBuf> {
        let hex = |bytes: &[u8]| {
            bytes
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect::<String>()
        };
        let (first, rest) = self.build_id.as_ref()?.split_at(1);
        Some(
            dir.join(".build-id")
                .join(hex(first))
                .join(hex(rest) + ".debug"),
        )
    }

    fn link_name(&self) -> Option<PathBuf> {
        self.link.as_ref().map(|(name, _)| name.into())
    }
}

fn with_debug(name: &OsStr) -> PathBuf {
    let mut name = name.to_owned();
    name.push(".debug");
    name.into()
}

/// A path without its root. A mapping's name need not be a path, and could climb out of where it is
/// put (`/memfd:../x`): `None` then.
fn relative(path: &Path) -> Option<PathBuf> {
    let path = path.strip_prefix("/").unwrap_or(path);
    let plain = |part| matches!(part, Component::Normal(_));
    path.components().all(plain).then(|| path.to_owned())
}

/// The path of a mapped file, without what the kernel appends when it was deleted or replaced.
pub fn undeleted(path: &Path) -> &Path {
    let bytes = path.as_os_str().as_bytes();
    let bytes = bytes.strip_suffix(b" (deleted)").unwrap_or(bytes);
    Path::new(OsStr::from_bytes(bytes))
}

#[cfg(test)]
#[path = "debug_files_tests.rs"]
mod tests;
