//! What is in an executable mapping, as far as unwinding is concerned.

use std::fs::File;
use std::io::IoSliceMut;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;

use crate::target::CodeRange;

/// More bytes than any vDSO has.
const MAX_VDSO: u64 = 1 << 20;

/// What the code of a mapping comes from.
pub enum Contents<'a> {
    /// An ELF file.
    File(&'a File),
    /// An ELF file that exists in memory alone: the vDSO.
    Memory(Vec<u8>),
    /// The program made it: frame pointers have to do.
    Generated,
    /// The kernel's own, from which nobody calls.
    Kernel,
}

/// Looks what is in a mapping of the process `pid`.
///
/// # Errors
///
/// If its file or its memory cannot be read.
pub fn of(pid: u32, range: &CodeRange) -> Result<Contents<'_>> {
    let path = &range.module.path;
    Ok(match &range.module.file {
        Some(file) => {
            let mut magic = [0; 4];
            if file.read_exact_at(&mut magic, 0).is_err() || &magic != b"\x7fELF" {
                return Ok(Contents::Generated); // code in a file of the program's own making
            }
            Contents::File(file)
        }
        None if path == Path::new("[vdso]") => Contents::Memory(vdso(pid, range)?),
        None if path.as_os_str().is_empty() || path.to_string_lossy().starts_with("[anon:") => {
            Contents::Generated
        }
        None if path == Path::new("[uprobes]") || path == Path::new("[vsyscall]") => {
            Contents::Kernel
        }
        None => bail!("its file could not be opened"),
    })
}

/// The image of the vDSO: the kernel maps it whole. Not by `/proc/PID/mem`, a file that belongs to the
/// user of the process.
fn vdso(pid: u32, range: &CodeRange) -> Result<Vec<u8>> {
    let size = (range.end - range.start).min(MAX_VDSO) as usize;
    let mut bytes = vec![0; size];
    let remote = RemoteIoVec {
        base: range.start as usize,
        len: size,
    };
    let local = IoSliceMut::new(&mut bytes);
    let read = process_vm_readv(Pid::from_raw(pid as i32), &mut [local], &[remote])
        .context("failed to read the vDSO")?;
    bytes.truncate(read);
    Ok(bytes)
}
