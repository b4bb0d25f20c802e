//! What unwinding needs of one ELF object: where its code is, the code, its functions' symbols and
//! its unwind information. It knows no rules; `cfi` and `synth` make those.
//!
//! Nobody vouches for these files. They are read piece by piece (never mapped: a mapped file that
//! shrinks would kill us), every number in them is checked, and no piece is larger than its limit,
//! whatever the file claims. Section headers are only a help: without them, or with nonsense in
//! them, the program headers have to do, as they do for the loader.

use std::fs::File;
use std::ops::Range;

use anyhow::{Context, Result, anyhow, bail, ensure};
use object::LittleEndian as LE;
use object::elf::{self, FileHeader64, ProgramHeader64, SectionHeader64};
use object::pod;

mod notes;
mod sections;
mod source;
mod symbols;
#[cfg(test)]
mod tests;

pub use sections::Cfi;
use source::Source;
pub use symbols::{Function, Functions};

/// Program headers, at most. The largest real objects have some twenty.
const MAX_PROGRAM_HEADERS: u64 = 1 << 12;
/// Section headers, at most.
const MAX_SECTION_HEADERS: u64 = 1 << 16;
/// Bytes of all section names, at most.
const MAX_SECTION_NAMES: u64 = 1 << 20;
/// Bytes of code that one call of [`Image::code`] reads, at most.
pub const MAX_CODE: u64 = 1 << 26;

/// An ELF object for x86-64, held open, or a copy of one in memory.
///
/// Addresses are as the ELF file counts. Nothing but headers is read before it is asked for.
#[derive(Debug)]
pub struct Image {
    source: Source,
    entry: u64,
    segments: Vec<Segment>,
    programs: Vec<ProgramHeader64<LE>>,
    sections: Vec<SectionHeader64<LE>>,
    section_names: Vec<u8>,
}

/// An executable segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First address.
    pub address: u64,
    /// Bytes in memory.
    pub size: u64,
    /// Offset in the file.
    pub offset: u64,
    /// Bytes in the file: at most `size`, and none that lie behind the file's end.
    pub file_size: u64,
}

impl Segment {
    /// Address after the last.
    pub fn end(&self) -> u64 {
        self.address + self.size
    }
}

impl Image {
    /// Reads the headers of an ELF file. Errors do not name it: the caller knows its path.
    ///
    /// # Errors
    ///
    /// If it is not a regular file, cannot be read, or is no program or library for x86-64.
    pub fn open(file: &File) -> Result<Self> {
        Self::new(Source::file(file)?)
    }

    /// Reads the headers of an ELF object that was copied from memory, such as the vDSO.
    ///
    /// # Errors
    ///
    /// If it is no program or library for x86-64.
    pub fn from_memory(bytes: Vec<u8>) -> Result<Self> {
        Self::new(Source::Memory(bytes))
    }

    fn new(source: Source) -> Result<Self> {
        let size = size_of::<FileHeader64<LE>>() as u64;
        let bytes = source
            .read(0, size, size)
            .context("failed to read the ELF header")?;
        let header: &FileHeader64<LE> = first(&bytes)?;
        ensure!(header.e_ident.magic == elf::ELFMAG, "this is no ELF file");
        ensure!(
            header.e_ident.class == elf::ELFCLASS64
                && header.e_ident.data == elf::ELFDATA2LSB
                && header.e_machine.get(LE) == elf::EM_X86_64,
            "this ELF file is not for x86-64"
        );
        let kind = header.e_type.get(LE);
        ensure!(
            kind == elf::ET_EXEC || kind == elf::ET_DYN,
            "this ELF file is neither a program nor a shared library"
        );
        let (sections, section_names) = sections::read(&source, header).unwrap_or_default();
        let programs = programs(&source, header, &sections)?;
        Ok(Self {
            entry: header.e_entry.get(LE),
            segments: segments(&programs, source.len()),
            source,
            programs,
            sections,
            section_names,
        })
    }

    /// The executable segments, sorted by address, without overlaps.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The executable segment in which an address lies.
    pub fn segment(&self, address: u64) -> Option<&Segment> {
        let after = self.segments.partition_point(|s| s.address <= address);
        let segment = &self.segments[after.checked_sub(1)?];
        (address < segment.end()).then_some(segment)
    }

    /// Where the program starts; 0 in most libraries.
    pub fn entry(&self) -> u64 {
        self.entry
    }

    /// The code at some addresses, which lie in one executable segment.
    ///
    /// # Errors
    ///
    /// If they do not, or are more than [`MAX_CODE`] bytes, or the file cannot be read there.
    pub fn code(&self, range: Range<u64>) -> Result<Vec<u8>> {
        let size = range.end.saturating_sub(range.start);
        let offset = self
            .segment(range.start)
            .and_then(|segment| {
                let within = range.start - segment.address;
                let end = within.checked_add(size.min(MAX_CODE + 1))?;
                (end <= segment.file_size).then(|| segment.offset + within)
            })
            .with_context(|| {
                format!(
                    "addresses {:#x} to {:#x} are not all code",
                    range.start, range.end
                )
            })?;
        self.source
            .read(offset, size, MAX_CODE)
            .with_context(|| format!("failed to read code at {:#x}", range.start))
    }

    /// What the file loads at some addresses, code or data.
    ///
    /// # Errors
    ///
    /// If it does not load all of them, or they are more than [`MAX_CODE`] bytes, or the file cannot
    /// be read there.
    pub fn bytes(&self, range: Range<u64>) -> Result<Vec<u8>> {
        let size = range.end.saturating_sub(range.start);
        let offset = self.programs.iter().find_map(|program| {
            let within = range.start.checked_sub(program.p_vaddr.get(LE))?;
            let end = within.checked_add(size)?;
            (program.p_type.get(LE) == elf::PT_LOAD && end <= program.p_filesz.get(LE))
                .then(|| program.p_offset.get(LE).checked_add(within))?
        });
        let offset = offset.with_context(|| {
            format!("{:#x} to {:#x} are not all loaded", range.start, range.end)
        })?;
        self.source
            .read(offset, size, MAX_CODE)
            .with_context(|| format!("failed to read what is loaded at {:#x}", range.start))
    }

    /// The functions that .symtab and .dynsym name, sorted by address. Read anew at each call.
    ///
    /// # Errors
    ///
    /// If there are more than the limits allow, or the file cannot be read.
    pub fn functions(&self) -> Result<Functions> {
        symbols::read(self)
    }

    /// The build id, if it has one.
    pub fn build_id(&self) -> Option<Vec<u8>> {
        notes::build_id(&self.source, &self.programs, &self.sections)
    }

    /// Unwind information for exceptions: the section `.eh_frame`, or else what the program
    /// headers say is it. `None` if there is none.
    ///
    /// # Errors
    ///
    /// If it is larger than the limit, or the file cannot be read.
    pub fn eh_frame(&self) -> Result<Option<Cfi>> {
        sections::eh_frame(self)
    }

    /// Unwind information for debuggers: the section `.debug_frame`, decompressed. `None` if there
    /// is none.
    ///
    /// # Errors
    ///
    /// If it is larger than the limit, cannot be decompressed, or the file cannot be read.
    pub fn debug_frame(&self) -> Result<Option<Cfi>> {
        sections::debug_frame(self)
    }
}

/// The header at the start of some bytes.
fn first<T: pod::Pod>(bytes: &[u8]) -> Result<&T> {
    match pod::from_bytes(bytes) {
        Ok((header, _)) => Ok(header),
        Err(()) => Err(anyhow!("a header is cut off")),
    }
}

/// The program headers.
fn programs(
    source: &Source,
    header: &FileHeader64<LE>,
    sections: &[SectionHeader64<LE>],
) -> Result<Vec<ProgramHeader64<LE>>> {
    let count = match header.e_phnum.get(LE) {
        elf::PN_XNUM => sections.first().map_or(0, |first| first.sh_info.get(LE)),
        count => count.into(),
    };
    table(
        source,
        header.e_phoff.get(LE),
        header.e_phentsize.get(LE),
        count.into(),
        MAX_PROGRAM_HEADERS,
    )
    .context("failed to read the program headers")
}

/// A table of headers.
fn table<T: pod::Pod>(
    source: &Source,
    offset: u64,
    entry_size: u16,
    count: u64,
    max: u64,
) -> Result<Vec<T>> {
    if count == 0 {
        return Ok(Vec::new());
    }
    if usize::from(entry_size) != size_of::<T>() {
        bail!("entries of {entry_size} bytes are not known");
    }
    let entry_size = u64::from(entry_size);
    let bytes = source.read(offset, count.saturating_mul(entry_size), max * entry_size)?;
    match pod::slice_from_all_bytes(&bytes) {
        Ok(entries) => Ok(entries.to_vec()),
        Err(()) => bail!("a table is cut off"),
    }
}

/// The executable ones of the segments. Of two that overlap, the one at the higher address goes.
fn segments(programs: &[ProgramHeader64<LE>], len: u64) -> Vec<Segment> {
    let mut segments: Vec<Segment> = programs
        .iter()
        .filter(|p| p.p_type.get(LE) == elf::PT_LOAD && p.p_flags.get(LE).contains(elf::PF_X))
        .map(|p| {
            let (offset, size) = (p.p_offset.get(LE), p.p_memsz.get(LE));
            let file_size = p.p_filesz.get(LE).min(size);
            Segment {
                address: p.p_vaddr.get(LE),
                size,
                offset,
                file_size: file_size.min(len.saturating_sub(offset)),
            }
        })
        .filter(|s| s.size != 0 && s.address.checked_add(s.size).is_some())
        .collect();
    segments.sort_by_key(|s| (s.address, s.size));
    let mut free = 0;
    segments.retain(|segment| {
        let fits = segment.address >= free;
        if fits {
            free = segment.end();
        }
        fits
    });
    segments
}
