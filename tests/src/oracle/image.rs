//! What the oracle reads from an ELF file: call frame information, symbols, and how file offsets and
//! addresses belong together. The files are this machine's own programs, so what cannot be read is
//! simply not known; it never panics over a file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use object::{
    Object, ObjectSection, ObjectSegment, ObjectSymbol, SegmentFlags, SymbolKind, SymbolSection,
};

use super::cfi::Cfi;

/// An ELF file, or the vDSO.
pub struct Image {
    /// `.eh_frame` and `.debug_frame`, as far as there.
    pub cfi: Vec<Cfi>,
    /// Address, end, name; sorted by address.
    symbols: Vec<(u64, u64, String)>,
    /// File offset, its end, address; only of code.
    segments: Vec<(u64, u64, u64)>,
    /// What a file of debug information has to have as well.
    pub build_id: Option<Vec<u8>>,
}

impl Image {
    /// Reads an ELF file. `debug` are files that may be the same with what was stripped from it.
    pub fn parse(bytes: &[u8], debug: &[PathBuf]) -> Option<Image> {
        let file = object::File::parse(bytes).ok()?;
        let mut image = Image {
            cfi: sections(&file),
            symbols: symbols(&file),
            segments: file.segments().filter_map(|s| code(&s)).collect(),
            build_id: file.build_id().ok()?.map(<[u8]>::to_vec),
        };
        for path in debug.iter().filter(|_| image.build_id.is_some()) {
            let bytes = std::fs::read(path)
                .unwrap_or_else(|error| panic!("failed to read `{}`: {error}", path.display()));
            let Ok(debug) = object::File::parse(&*bytes) else {
                continue;
            };
            if debug.build_id().ok().flatten() == image.build_id.as_deref() {
                let more = sections(&debug).into_iter().filter(|cfi| cfi.is_debug);
                image.cfi.extend(more);
                image.symbols = symbols(&debug);
            }
        }
        Some(image)
    }

    /// What to add to the file's addresses when the byte at `offset` is mapped at `start`.
    pub fn bias(&self, start: u64, offset: u64) -> Option<u64> {
        let page = !0xfff;
        self.segments.iter().find_map(|&(from, end, address)| {
            let is_in = from & page <= offset && offset < end;
            is_in.then(|| start.wrapping_sub(address.wrapping_add(offset).wrapping_sub(from)))
        })
    }

    /// The function at an address, as the file's symbols say; `?` if they do not.
    pub fn function(&self, address: u64) -> &str {
        let after = self
            .symbols
            .partition_point(|(start, ..)| *start <= address);
        self.symbols[..after]
            .iter()
            .rev()
            .take(8)
            .find(|(_, end, _)| address < *end)
            .map_or("?", |(.., name)| name)
    }

    /// Where a function begins in the file.
    pub fn function_offset(&self, name: &str) -> Option<u64> {
        let &(address, ..) = self.symbols.iter().find(|(.., symbol)| symbol == name)?;
        self.segments.iter().find_map(|&(from, end, start)| {
            let at = address.checked_sub(start)?.checked_add(from)?;
            (at < end).then_some(at)
        })
    }
}

/// Reads a file; `None` if it is no ELF file.
pub fn read(path: &Path, debug: &[PathBuf]) -> Option<Image> {
    Image::parse(&std::fs::read(path).ok()?, debug)
}

fn code(segment: &object::Segment<'_, '_>) -> Option<(u64, u64, u64)> {
    let SegmentFlags::Elf { p_flags, .. } = segment.flags() else {
        return None;
    };
    let (offset, size) = segment.file_range();
    (p_flags.0 & object::elf::PF_X.0 != 0).then(|| (offset, offset + size, segment.address()))
}

fn sections(file: &object::File<'_>) -> Vec<Cfi> {
    let text = file
        .section_by_name(".text")
        .map_or(0, |text| text.address());
    [(".eh_frame", false), (".debug_frame", true)]
        .into_iter()
        .filter_map(|(name, is_debug)| {
            let section = file.section_by_name(name)?;
            let data: Arc<[u8]> = section.uncompressed_data().ok()?.into();
            Some(Cfi::new(data, is_debug, section.address(), text))
        })
        .filter(|cfi| !cfi.data.is_empty())
        .collect()
}

fn is_absolute(symbol: &object::Symbol<'_, '_>) -> bool {
    symbol.section() == SymbolSection::Absolute
}

fn symbols(file: &object::File<'_>) -> Vec<(u64, u64, String)> {
    let mut found: Vec<_> = file
        .symbols()
        .chain(file.dynamic_symbols())
        // A label of assembler, such as `_start`, has no kind.
        .filter(|symbol| matches!(symbol.kind(), SymbolKind::Text | SymbolKind::Unknown))
        .filter(|symbol| !symbol.is_undefined() && !is_absolute(symbol))
        .filter_map(|symbol| {
            // Assembler often gives no size: such a name is good for its first bytes only.
            let end = symbol.address().checked_add(symbol.size().max(64))?;
            Some((symbol.address(), end, symbol.name().ok()?.to_string()))
        })
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}
