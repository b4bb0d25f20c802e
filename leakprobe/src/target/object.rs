//! Reads the little that is needed of an ELF file: which functions it defines, and where.
//!
//! The files come from containers nobody vouches for. They are read piece by piece (never mapped:
//! a mapped file that shrinks would kill us), and every number in them is checked.

use std::collections::HashMap;
use std::fs::File;

use anyhow::{Context, Result};
use object::elf::{FileHeader64, STT_FUNC, STT_GNU_IFUNC, Sym64};
use object::read::elf::{ElfFile64, SectionHeader, Sym, SymbolTable};
use object::read::{ReadCache, ReadRef};
use object::{LittleEndian, Object, ObjectSegment, SegmentFlags};

/// Bytes of all names of a symbol table, at most.
const MAX_NAMES: u64 = 1 << 28;

/// More bytes than any allocator function needs to show its first instructions.
const MAX_CODE: u64 = 4096;

/// An ELF file that is held open.
#[derive(Debug)]
pub struct ElfObject {
    file: File,
    path: String,
    segments: Vec<Segment>,
    is_static: bool,
}

#[derive(Clone, Copy, Debug)]
struct Segment {
    address: u64,
    size: u64,
    offset: u64,
}

/// A function, by its place in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Symbol {
    /// Offset in the file, bytes.
    pub offset: u64,
    /// Address as the ELF file counts.
    pub address: u64,
    /// Bytes; 0 if the file does not tell.
    pub size: u64,
}

impl ElfObject {
    /// Opens an ELF file and finds some of its functions by name: among what it exports, since only
    /// that can serve the other objects of a process; or, in a static executable that exports none
    /// of them, among all its symbols.
    ///
    /// # Errors
    ///
    /// If it cannot be read or is no ELF file.
    pub fn open(
        file: File,
        path: String,
        names: &[&str],
        is_executable: bool,
    ) -> Result<(Self, HashMap<String, Vec<Symbol>>)> {
        let cache = ReadCache::new(
            file.try_clone()
                .context("failed to duplicate a descriptor")?,
        );
        let elf = ElfFile64::<LittleEndian, _>::parse(&cache)
            .with_context(|| format!("failed to parse `{path}` as an ELF file"))?;
        let segments: Vec<Segment> = elf
            .segments()
            .filter(|segment| {
                matches!(segment.flags(), SegmentFlags::Elf { p_flags, .. } if p_flags.contains(object::elf::PF_X))
            })
            .map(|segment| {
                let (offset, file_size) = segment.file_range();
                Segment { address: segment.address(), size: segment.size().min(file_size), offset }
            })
            .collect();
        let mut this = Self {
            file,
            path,
            segments,
            is_static: false,
        };
        let mut found = this.find(&elf, elf.elf_dynamic_symbol_table(), names);
        if is_executable && found.is_empty() && elf.section_by_name(".interp").is_none() {
            found = this.find(&elf, elf.elf_symbol_table(), names);
            this.is_static = true;
        }
        Ok((this, found))
    }

    /// The functions of some names in a symbol table. Symbols at the same place are one. All names
    /// are read at once: Node exports a hundred thousand.
    fn find<'data, R: ReadRef<'data>>(
        &self,
        elf: &ElfFile64<'data, LittleEndian, R>,
        table: &SymbolTable<'data, FileHeader64<LittleEndian>, R>,
        names: &[&str],
    ) -> HashMap<String, Vec<Symbol>> {
        let mut found: HashMap<String, Vec<Symbol>> = HashMap::new();
        let endian = elf.endian();
        let strings = elf
            .elf_section_table()
            .section(table.string_section())
            .ok()
            .filter(|section| section.sh_size(endian) <= MAX_NAMES)
            .and_then(|section| section.data(endian, elf.data()).ok())
            .unwrap_or_default();
        let name_of = |symbol: &Sym64<LittleEndian>| {
            let name = strings.get(symbol.st_name(endian) as usize..)?;
            let end = name.iter().position(|&byte| byte == 0)?;
            std::str::from_utf8(&name[..end]).ok()
        };
        for symbol in table.symbols() {
            let is_function = matches!(symbol.st_type(), STT_FUNC | STT_GNU_IFUNC);
            if !is_function || symbol.is_undefined(endian) {
                continue;
            }
            let Some(name) = name_of(symbol).filter(|name| names.contains(name)) else {
                continue;
            };
            let address = symbol.st_value(endian);
            let Some(offset) = self.file_offset(address) else {
                continue;
            };
            let known = found.entry(name.to_owned()).or_default();
            if known.iter().all(|known| known.offset != offset) {
                known.push(Symbol {
                    offset,
                    address,
                    size: symbol.st_size(endian),
                });
            }
        }
        found
    }

    /// Path as in the target's mount namespace.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether it is a static executable, which holds only the functions that it uses.
    pub fn is_static(&self) -> bool {
        self.is_static
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Offset in the file of an address in an executable segment.
    fn file_offset(&self, address: u64) -> Option<u64> {
        self.segments.iter().find_map(|segment| {
            let within = address.checked_sub(segment.address)?;
            (within < segment.size)
                .then(|| segment.offset.checked_add(within))
                .flatten()
        })
    }

    /// The first bytes of a function.
    ///
    /// # Errors
    ///
    /// If the file cannot be read there.
    pub fn code(&self, symbol: &Symbol) -> Result<Vec<u8>> {
        use std::os::unix::fs::FileExt;
        let size = if symbol.size == 0 {
            256
        } else {
            symbol.size.min(MAX_CODE)
        };
        let mut code = vec![0; size as usize];
        let read = self
            .file
            .read_at(&mut code, symbol.offset)
            .with_context(|| format!("failed to read code of `{}`", self.path))?;
        code.truncate(read);
        Ok(code)
    }
}
