//! The functions that an ELF object's symbol tables name. It does not say which object serves a
//! name at run time.

use anyhow::{Context, Result, anyhow};
use object::LittleEndian as LE;
use object::elf::{self, Sym64};
use object::pod;

use super::Image;

/// Symbols of one table, at most.
const MAX_SYMBOLS: u64 = 1 << 21;
/// Bytes of the names of one table, at most.
const MAX_NAMES: u64 = 1 << 27;
/// Bytes of one name that are looked at.
const MAX_NAME: usize = 1 << 12;

/// Functions, sorted by address, the longer first of those at the same one. A function stands here
/// once per name and table that it is in.
#[derive(Debug, Default)]
pub struct Functions {
    list: Vec<Function>,
    names: Vec<u8>,
}

/// A function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function {
    /// Address as the ELF file counts; it lies in an executable segment.
    pub address: u64,
    /// Bytes; 0 if the file does not tell.
    pub size: u64,
    /// Whether the file calls it a function. Otherwise it is a name in the code without a type, as
    /// hand-written assembly often has.
    pub typed: bool,
    name: usize,
}

impl Functions {
    /// All of them.
    pub fn list(&self) -> &[Function] {
        &self.list
    }

    /// The name of one of them, without its version; empty if the file's name is beyond reading.
    pub fn name(&self, function: &Function) -> &[u8] {
        let name = self.names.get(function.name..).unwrap_or_default();
        let name = &name[..name.len().min(MAX_NAME)];
        match name.iter().position(|&byte| byte == 0 || byte == b'@') {
            Some(end) => &name[..end],
            None => &[],
        }
    }

    /// The first of some name. Looks at all of them.
    pub fn find(&self, name: &[u8]) -> Option<&Function> {
        self.list
            .iter()
            .find(|function| self.name(function) == name)
    }
}

/// The functions of .symtab and .dynsym.
pub(super) fn read(image: &Image) -> Result<Functions> {
    let mut functions = Functions::default();
    for kind in [elf::SHT_SYMTAB, elf::SHT_DYNSYM] {
        read_table(image, kind, &mut functions)
            .context("failed to read the symbols of an ELF file")?;
    }
    functions
        .list
        .sort_by_key(|function| (function.address, u64::MAX - function.size));
    Ok(functions)
}

fn read_table(image: &Image, kind: elf::SectionType, functions: &mut Functions) -> Result<()> {
    let Some(section) = image.sections.iter().find(|s| s.sh_type.get(LE) == kind) else {
        return Ok(());
    };
    let Some(names) = image.sections.get(section.sh_link.get(LE) as usize) else {
        return Ok(());
    };
    let entry = size_of::<Sym64<LE>>() as u64;
    let size = section.sh_size.get(LE) / entry * entry;
    let bytes = image
        .source
        .read(section.sh_offset.get(LE), size, MAX_SYMBOLS * entry)?;
    let symbols: &[Sym64<LE>] =
        pod::slice_from_all_bytes(&bytes).map_err(|()| anyhow!("a symbol is cut off"))?;
    let base = functions.names.len();
    let names_size = names.sh_size.get(LE);
    let names = image
        .source
        .read(names.sh_offset.get(LE), names_size, MAX_NAMES)?;
    functions.names.extend(names);
    functions.names.push(0);
    functions.list.extend(symbols.iter().filter_map(|symbol| {
        let kind = symbol.st_type();
        let typed = kind == elf::STT_FUNC || kind == elf::STT_GNU_IFUNC;
        let address = symbol.st_value.get(LE);
        let named = typed || kind == elf::STT_NOTYPE && symbol.st_name.get(LE) != 0;
        let defined = symbol.st_shndx.get(LE) != elf::SHN_UNDEF;
        (named && defined && image.segment(address).is_some()).then(|| Function {
            address,
            size: symbol.st_size.get(LE),
            typed,
            name: base + symbol.st_name.get(LE) as usize,
        })
    }));
    Ok(())
}
