//! Where an image's bytes come from. Reading is all it does, and it never asks for more memory than
//! the file has bytes or the caller allows.

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, bail, ensure};

/// An ELF object's bytes.
#[derive(Debug)]
pub(super) enum Source {
    /// In a file of that many bytes.
    File { file: File, len: u64 },
    /// In memory.
    Memory(Vec<u8>),
}

impl Source {
    /// Of a regular file: anything else could block or never end.
    pub fn file(file: &File) -> Result<Self> {
        let file = file
            .try_clone()
            .context("failed to duplicate a descriptor")?;
        let metadata = file.metadata().context("failed to ask for the file size")?;
        ensure!(metadata.is_file(), "this is not a regular file");
        let len = metadata.len();
        Ok(Self::File { file, len })
    }

    /// How many bytes there are.
    pub fn len(&self) -> u64 {
        match self {
            Self::File { len, .. } => *len,
            Self::Memory(bytes) => bytes.len() as u64,
        }
    }

    /// Reads `size` bytes, of which there must be no more than `max`.
    pub fn read(&self, offset: u64, size: u64, max: u64) -> Result<Vec<u8>> {
        if size > max {
            bail!("{size} bytes are more than the {max} that leakprobe reads of this");
        }
        let end = offset.checked_add(size).filter(|&end| end <= self.len());
        let Some(end) = end else {
            bail!("{size} bytes at offset {offset:#x} are not in the file");
        };
        match self {
            Self::File { file, .. } => {
                let mut bytes = vec![0; usize::try_from(size)?];
                file.read_exact_at(&mut bytes, offset)
                    .with_context(|| format!("failed to read {size} bytes at {offset:#x}"))?;
                Ok(bytes)
            }
            Self::Memory(bytes) => Ok(bytes[offset as usize..end as usize].to_vec()),
        }
    }
}
