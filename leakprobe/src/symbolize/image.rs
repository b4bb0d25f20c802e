//! A copy of what names are made of, in memory of our own.
//!
//! blazesym maps the files it reads, follows the links in them to other files by path, and unpacks
//! their sections whatever size those come to. With a container's file that would be a crash when
//! the file shrinks, a look at files of the host, and all of our memory. So it never sees one: it
//! gets an ELF file that is made here, of checked sections with names of our own, unpacked, within
//! limits and without links. Code and data stay behind, which are the bulk of a program.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use nix::sys::memfd::{MFdFlags, memfd_create};
use object::elf;

use super::symbols;
use crate::target::elf::{Elf, Section};

/// Most bytes of symbols, and as many again of debug information.
const MAX_BYTES: u64 = 1 << 30;

/// Most bytes that MiniDebugInfo takes packed, unpacked, and for unpacking in KiB.
const MAX_MINI: (u64, u64, u32) = (16 << 20, 64 << 20, 128 << 10);

/// Symbol tables and the strings they point into.
const SYMBOLS: &[&str] = &[".symtab", ".strtab", ".dynsym", ".dynstr"];

/// What lines and inlined functions come from.
const LINES: &[&str] = &[
    ".debug_abbrev",
    ".debug_addr",
    ".debug_aranges",
    ".debug_info",
    ".debug_line",
    ".debug_line_str",
    ".debug_ranges",
    ".debug_rnglists",
    ".debug_str",
    ".debug_str_offsets",
    ".debug_types",
];

/// Copies the symbols of a file and, if asked for, its debug information; the latter is left out
/// if it is too large or damaged, which the sentence beside the copy says.
///
/// # Errors
///
/// If it is no ELF file, cannot be read, or its symbols are too many.
pub fn copy(file: &File, lines: bool) -> io::Result<(File, Option<String>)> {
    let elf = Elf::parse(file)?;
    let mut image = Image::new()?;
    let mut budget = MAX_BYTES;
    for name in SYMBOLS {
        image.add_all(file, &elf, name, &mut budget)?;
    }
    let mut without_lines = None;
    if lines {
        let (end, sections) = (image.end, image.sections.len());
        let mut budget = MAX_BYTES;
        let mut all = LINES.iter();
        if let Err(error) = all.try_for_each(|name| image.add_all(file, &elf, name, &mut budget)) {
            image.end = end;
            image.sections.truncate(sections);
            without_lines = Some(format!("its debug information cannot be used: {error}"));
        }
    }
    Ok((image.finish()?, without_lines))
}

/// Unpacks the symbols that Fedora and others put into stripped files (MiniDebugInfo).
///
/// # Errors
///
/// If they cannot be read, or take too much memory.
pub fn unpack_mini(file: &File) -> io::Result<Option<File>> {
    let elf = Elf::parse(file)?;
    let Some(section) = elf.section(".gnu_debugdata") else {
        return Ok(None);
    };
    let packed = elf.bytes(section, MAX_MINI.0)?;
    let mut unpacked = lzma_rust2::XzReader::new_mem_limit(&packed[..], false, MAX_MINI.2);
    let mut image = Image::new()?;
    image.end = 0;
    let size = image.append(&mut unpacked, MAX_MINI.1)?;
    image.file.set_len(size)?;
    copy(&image.file, false).map(|(file, _)| Some(file))
}

/// An ELF file that grows: the header's place, then sections, then their names and headers.
struct Image {
    file: File,
    end: u64,
    sections: Vec<Placed>,
}

struct Placed {
    name: &'static str,
    kind: u32,
    entry_size: u64,
    offset: u64,
    size: u64,
}

const HEADER: u64 = 64;

impl Image {
    fn new() -> io::Result<Self> {
        let file = File::from(memfd_create(c"leakprobe-names", MFdFlags::MFD_CLOEXEC)?);
        Ok(Self {
            file,
            end: HEADER,
            sections: Vec::new(),
        })
    }

    /// Adds the section of a name, if there is one.
    fn add_all(
        &mut self,
        from: &File,
        elf: &Elf<'_>,
        name: &'static str,
        budget: &mut u64,
    ) -> io::Result<()> {
        let Some(section) = elf.section(name) else {
            return Ok(());
        };
        let offset = self.end.next_multiple_of(16);
        self.end = offset;
        let size = if name.ends_with("sym") {
            let mut table = elf.bytes(section, *budget)?;
            symbols::tidy(&mut table);
            self.append(&mut &table[..], *budget)?
        } else if section.flags & elf::SHF_COMPRESSED.0 == 0 {
            let mut bytes = At {
                file: from,
                offset: section.offset,
                left: section.size,
            };
            self.append(&mut bytes, *budget)?
        } else {
            self.unpack(from, section, *budget)?
        };
        *budget -= size;
        self.sections.push(Placed {
            name,
            kind: section.kind,
            entry_size: section.entry_size,
            offset,
            size,
        });
        Ok(())
    }

    fn unpack(&mut self, from: &File, section: &Section, budget: u64) -> io::Result<u64> {
        let mut packed = At {
            file: from,
            offset: section.offset,
            left: section.size,
        };
        let mut header = [0; 24];
        packed.read_exact(&mut header)?;
        let kind = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
        if kind == elf::ELFCOMPRESS_ZLIB.0 {
            self.append(&mut flate2::read::ZlibDecoder::new(packed), budget)
        } else if kind == elf::ELFCOMPRESS_ZSTD.0 {
            let mut unpacked = zstd::Decoder::new(packed)?;
            unpacked.window_log_max(27)?; // 128 MiB, what the format itself recommends as a limit
            self.append(&mut unpacked, budget)
        } else {
            Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "it is packed in an unknown way",
            ))
        }
    }

    /// Appends all that can be read. Returns how much that was.
    fn append(&mut self, from: &mut impl Read, limit: u64) -> io::Result<u64> {
        let start = self.end;
        let mut buffer = vec![0; 1 << 20];
        loop {
            let read = from.read(&mut buffer)?;
            if read == 0 {
                return Ok(self.end - start);
            }
            if self.end - start + read as u64 > limit {
                let limit = limit >> 20;
                return Err(io::Error::new(
                    io::ErrorKind::FileTooLarge,
                    format!("it comes to more than {limit} MiB"),
                ));
            }
            self.file.write_all_at(&buffer[..read], self.end)?;
            self.end += read as u64;
        }
    }

    fn finish(mut self) -> io::Result<File> {
        let mut names = vec![0];
        let mut headers = vec![0; 64];
        let mut add = |name: &str, kind: u32, offset: u64, size: u64, entry: u64| {
            let mut header = Vec::with_capacity(64);
            header.extend_from_slice(&(names.len() as u32).to_le_bytes());
            header.extend_from_slice(&kind.to_le_bytes());
            // Flags, address, offset, size; link and info; alignment, entry size.
            for field in [0, 0, offset, size, 0, 16, entry] {
                header.extend_from_slice(&u64::to_le_bytes(field));
            }
            names.extend_from_slice(name.as_bytes());
            names.push(0);
            headers.extend_from_slice(&header);
        };
        for section in &self.sections {
            add(
                section.name,
                section.kind,
                section.offset,
                section.size,
                section.entry_size,
            );
        }
        let names_at = self.end.next_multiple_of(16);
        let own: u64 = ".shstrtab\0".len() as u64;
        let names_size = 1
            + self
                .sections
                .iter()
                .map(|section| section.name.len() as u64 + 1)
                .sum::<u64>()
            + own;
        add(".shstrtab", elf::SHT_STRTAB.0, names_at, names_size, 0);
        let headers_at = (names_at + names_size).next_multiple_of(16);
        self.file.write_all_at(&names, names_at)?;
        self.file.write_all_at(&headers, headers_at)?;

        let mut header = Vec::with_capacity(HEADER as usize);
        header.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
        // A shared object, for x86-64: of another kind names would be relocated.
        header.extend_from_slice(&[3, 0, 62, 0, 1, 0, 0, 0]);
        for field in [0, 0, headers_at] {
            header.extend_from_slice(&u64::to_le_bytes(field));
        }
        header.extend_from_slice(&[0; 4]);
        let count = self.sections.len() as u16 + 2;
        for field in [64, 56, 0, 64, count, count - 1] {
            header.extend_from_slice(&u16::to_le_bytes(field));
        }
        self.file.write_all_at(&header, 0)?;
        self.end = headers_at;
        Ok(self.file)
    }
}

/// Bytes of a file from a place on, whoever else reads the same file.
struct At<'a> {
    file: &'a File,
    offset: u64,
    left: u64,
}

impl Read for At<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = self.left.min(buffer.len() as u64) as usize;
        let read = self.file.read_at(&mut buffer[..wanted], self.offset)?;
        self.offset = self
            .offset
            .checked_add(read as u64)
            .ok_or(io::ErrorKind::InvalidData)?;
        self.left -= read as u64;
        Ok(read)
    }
}
