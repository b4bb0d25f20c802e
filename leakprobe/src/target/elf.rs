//! The frame of an ELF file: its segments, its sections, its build id, its link to debug
//! information.
//!
//! It reads files of containers, so each number is checked before it is used, and no more than a
//! few MiB are read whatever the file says of itself. What is in the sections is not its business.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;

use object::elf;

/// Most bytes of a section's or segment's note, and of a link.
const MAX_SMALL: u64 = 64 << 10;

/// Most bytes of the section names.
const MAX_NAMES: u64 = 4 << 20;

/// A 64-bit little-endian ELF file.
#[derive(Debug)]
pub struct Elf<'a> {
    file: &'a File,
    segments: Vec<Segment>,
    sections: Vec<Section>,
}

/// A segment.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// What it is for; `PT_LOAD` is mapped.
    pub kind: u32,
    /// Place in the file, bytes.
    pub offset: u64,
    /// Bytes in the file.
    pub size: u64,
    /// Address as the file counts.
    pub address: u64,
}

/// A section that has bytes in the file.
#[derive(Clone, Debug)]
pub struct Section {
    /// Its name.
    pub name: String,
    /// What is in it, such as `SHT_NOTE`.
    pub kind: u32,
    /// Flags, such as `SHF_COMPRESSED`.
    pub flags: u64,
    /// Place in the file, bytes.
    pub offset: u64,
    /// Bytes in the file.
    pub size: u64,
    /// Bytes of each entry in a table.
    pub entry_size: u64,
}

impl<'a> Elf<'a> {
    /// Reads the headers. Without section headers there are no sections; that is no error.
    ///
    /// # Errors
    ///
    /// If the file is no 64-bit little-endian ELF file, or cannot be read.
    pub fn parse(file: &'a File) -> io::Result<Self> {
        let header = read(file, 0, 64)?;
        if header[..4] != elf::ELFMAG || header[4] != 2 || header[5] != 1 {
            return Err(invalid("it is not a 64-bit little-endian ELF file"));
        }
        let table = |offset: usize, count: usize, entry: usize| {
            let count = u64::from(u16_at(&header, count));
            read(file, u64_at(&header, offset), count * entry as u64)
        };
        let segments = match u16_at(&header, 54) {
            56 => table(32, 56, 56)?,
            _ => Vec::new(),
        };
        let sections = match u16_at(&header, 58) {
            64 => table(40, 60, 64).unwrap_or_default(),
            _ => Vec::new(),
        };
        let headers: Vec<&[u8]> = sections.chunks_exact(64).collect();
        let names = headers
            .get(usize::from(u16_at(&header, 62)))
            .map(|names| (u64_at(names, 24), u64_at(names, 32)))
            .filter(|&(_, size)| size <= MAX_NAMES)
            .and_then(|(offset, size)| read(file, offset, size).ok())
            .unwrap_or_default();
        Ok(Self {
            file,
            segments: segments.chunks_exact(56).map(Segment::parse).collect(),
            sections: headers
                .into_iter()
                .filter_map(|header| Section::parse(header, &names))
                .collect(),
        })
    }

    /// All segments.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The first section of a name that has bytes in the file.
    pub fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.name == name)
    }

    /// The bytes of a section, unless they are more than `limit`.
    ///
    /// # Errors
    ///
    /// If they are, or cannot be read.
    pub fn bytes(&self, section: &Section, limit: u64) -> io::Result<Vec<u8>> {
        if section.size > limit {
            return Err(invalid(&format!(
                "its section {} is too large",
                section.name
            )));
        }
        read(self.file, section.offset, section.size)
    }

    /// Identity of what was linked, which separate debug information shares.
    pub fn build_id(&self) -> Option<Vec<u8>> {
        let sections = self
            .sections
            .iter()
            .filter(|section| section.kind == elf::SHT_NOTE.0);
        let segments = self
            .segments
            .iter()
            .filter(|segment| segment.kind == elf::PT_NOTE.0);
        // In a debug file the segments point at what is not there.
        sections
            .map(|section| (section.offset, section.size))
            .chain(segments.map(|segment| (segment.offset, segment.size)))
            .filter(|&(_, size)| size <= MAX_SMALL)
            .filter_map(|(offset, size)| read(self.file, offset, size).ok())
            .find_map(|notes| build_id(&notes))
    }

    /// Name of the file with the debug information, and the CRC-32 of that.
    pub fn debug_link(&self) -> Option<(OsString, u32)> {
        let section = self.section(".gnu_debuglink")?;
        let bytes = self.bytes(section, MAX_SMALL).ok()?;
        let end = bytes.iter().position(|&byte| byte == 0)?;
        let crc = bytes.get((end + 4) & !3..)?.first_chunk()?;
        let name = OsStr::from_bytes(&bytes[..end]);
        // A name, never a path: that would lead anywhere.
        let is_name = !name.is_empty() && !bytes[..end].contains(&b'/');
        (is_name && name != "." && name != "..")
            .then(|| (name.to_owned(), u32::from_le_bytes(*crc)))
    }
}

/// Address, as a file counts, of a place in it, if one of its segments is mapped there.
pub fn address_of(segments: &[Segment], offset: u64) -> Option<u64> {
    let mapped = segments
        .iter()
        .filter(|segment| segment.kind == elf::PT_LOAD.0);
    mapped.into_iter().find_map(|segment| {
        let within = offset.checked_sub(segment.offset)?;
        (within < segment.size)
            .then(|| segment.address.checked_add(within))
            .flatten()
    })
}

impl Segment {
    fn parse(header: &[u8]) -> Self {
        Self {
            kind: u32_at(header, 0),
            offset: u64_at(header, 8),
            size: u64_at(header, 32),
            address: u64_at(header, 16),
        }
    }
}

impl Section {
    fn parse(header: &[u8], names: &[u8]) -> Option<Self> {
        let kind = u32_at(header, 4);
        if kind == elf::SHT_NULL.0 || kind == elf::SHT_NOBITS.0 {
            return None;
        }
        let name = names.get(u32_at(header, 0) as usize..)?;
        let name = &name[..name.iter().position(|&byte| byte == 0)?];
        Some(Self {
            name: String::from_utf8_lossy(name).into_owned(),
            kind,
            flags: u64_at(header, 8),
            offset: u64_at(header, 24),
            size: u64_at(header, 32),
            entry_size: u64_at(header, 56),
        })
    }
}

/// The build id among notes: name "GNU", type `NT_GNU_BUILD_ID`.
fn build_id(mut notes: &[u8]) -> Option<Vec<u8>> {
    while notes.len() >= 12 {
        let padded = |at| (u32_at(notes, at) as usize).checked_next_multiple_of(4);
        let name_end = 12usize.checked_add(padded(0)?)?;
        let end = name_end.checked_add(padded(4)?)?;
        let description = notes.get(name_end..name_end.checked_add(u32_at(notes, 4) as usize)?)?;
        let is_build_id = u32_at(notes, 8) == elf::NT_GNU_BUILD_ID.0;
        if is_build_id && notes[12..].starts_with(b"GNU\0") {
            return (8..=64)
                .contains(&description.len())
                .then(|| description.to_vec());
        }
        notes = notes.get(end..)?;
    }
    None
}

fn read(file: &File, offset: u64, size: u64) -> io::Result<Vec<u8>> {
    // A size is believed only if the file has as much.
    let end = offset.checked_add(size);
    if end.is_none_or(|end| file.metadata().is_ok_and(|metadata| end > metadata.len())) {
        return Err(invalid("it ends in the middle"));
    }
    let mut bytes = vec![0; size as usize];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
#[path = "elf_tests.rs"]
pub(crate) mod tests;
