//! What an address in the target means: a module and a place in it.
//!
//! A module holds open all that its names and its unwind rules will be made of, because the target
//! may be dead by then.

use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

/// A file with code, held open.
#[derive(Debug)]
pub struct Module {
    /// Path as in the target's mount namespace, or a name in brackets. May hold any characters.
    pub path: PathBuf,
    /// The file; `None` for code that has none (vDSO, JIT) or whose file could not be opened.
    pub file: Option<File>,
    /// The file with its debug information, if that is another one. Of the same link, but no more
    /// to be trusted than `file`.
    pub debug: Option<File>,
}

impl Module {
    /// Whether a JIT compiler may have put its code here: memory that shows no file anybody else
    /// can open.
    pub fn may_be_jit(&self) -> bool {
        const NAMELESS: [&[u8]; 5] = [
            b"[anon",
            b"/memfd:",
            b"/dev/zero",
            b"/SYSV",
            b"/anon_hugepage",
        ];
        let path = self.path.as_os_str().as_bytes();
        path.is_empty() || NAMELESS.iter().any(|start| path.starts_with(start))
    }

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
    /// Name of JIT code, as its compiler had it when the address was located. It cannot be asked
    /// later: such code moves.
    pub name: Option<Arc<str>>,
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
