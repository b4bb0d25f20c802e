//! The sections of an ELF object that hold unwind information, found by name, or by the program
//! headers when the section headers are gone.

use std::io::Read;
use std::ops::Range;

use anyhow::{Context, Result, bail};
use gimli::{BaseAddresses, EhFrameHdr, Pointer};
use object::LittleEndian as LE;
use object::elf::{self, CompressionHeader64, FileHeader64, SectionHeader64};

use super::source::Source;
use super::{Image, MAX_SECTION_HEADERS, MAX_SECTION_NAMES, Segment, first, table};

/// Bytes of unwind information of one kind, at most. Node has four million.
const MAX_CFI: u64 = 1 << 27;

/// Unwind information: one section of it.
#[derive(Debug)]
pub struct Cfi {
    /// The section.
    pub bytes: Vec<u8>,
    /// Its address, and others that pointers in it are relative to.
    pub bases: BaseAddresses,
    /// Whether its end is known. Otherwise the bytes go on behind its end, which is marked by an
    /// entry of no length.
    pub sized: bool,
}

/// The section headers and their names.
pub(super) fn read(
    source: &Source,
    header: &FileHeader64<LE>,
) -> Result<(Vec<SectionHeader64<LE>>, Vec<u8>)> {
    let offset = header.e_shoff.get(LE);
    if offset == 0 {
        return Ok(Default::default());
    }
    let entry_size = header.e_shentsize.get(LE);
    let read = |count| {
        table::<SectionHeader64<LE>>(source, offset, entry_size, count, MAX_SECTION_HEADERS)
            .context("failed to read the section headers")
    };
    // More than fit the header's fields are counted in the first section.
    let zeroth = read(1)?;
    let Some(zeroth) = zeroth.first() else {
        return Ok(Default::default());
    };
    let sections = read(match header.e_shnum.get(LE) {
        0 => zeroth.sh_size.get(LE),
        count => count.into(),
    })?;
    let names = match header.e_shstrndx.get(LE) {
        elf::SHN_XINDEX => zeroth.sh_link.get(LE) as usize,
        index => index.0.into(),
    };
    let names = match sections.get(names) {
        Some(names) => source
            .read(
                names.sh_offset.get(LE),
                names.sh_size.get(LE),
                MAX_SECTION_NAMES,
            )
            .unwrap_or_default(),
        None => Vec::new(),
    };
    Ok((sections, names))
}

impl Image {
    /// A section that has bytes in the file.
    fn section(&self, name: &[u8]) -> Option<&SectionHeader64<LE>> {
        self.sections.iter().find(|section| {
            let bytes = self.section_names.get(section.sh_name.get(LE) as usize..);
            bytes.is_some_and(|bytes| bytes.starts_with(name) && bytes.get(name.len()) == Some(&0))
                && section.sh_type.get(LE) != elf::SHT_NOBITS
                && section.sh_size.get(LE) != 0
        })
    }

    /// Where the section headers say that code is, sorted by address, without overlaps: less than
    /// the segments where these hold headers and constants too. All segments if they say nothing.
    pub fn code_ranges(&self) -> Vec<Range<u64>> {
        let flags = elf::SHF_ALLOC | elf::SHF_EXECINSTR;
        let mut ranges: Vec<Range<u64>> = self
            .sections
            .iter()
            .filter(|section| section.sh_flags.get(LE).contains(flags))
            .filter_map(|section| {
                let start = section.sh_addr.get(LE);
                let end = start.checked_add(section.sh_size.get(LE))?;
                let segment = self.segment(start)?;
                Some(start..end.min(segment.address + segment.file_size))
            })
            .filter(|range| !range.is_empty())
            .collect();
        if ranges.is_empty() {
            let whole = |segment: &Segment| segment.address..segment.address + segment.file_size;
            ranges = self.segments.iter().map(whole).collect();
        }
        ranges.sort_by_key(|range| range.start);
        let mut free = 0;
        for range in &mut ranges {
            range.start = range.start.max(free);
            free = free.max(range.end);
        }
        ranges.retain(|range| !range.is_empty());
        ranges
    }

    /// The addresses that pointers can be relative to.
    fn bases(&self, eh_frame: u64) -> BaseAddresses {
        let address = |name: &[u8]| Some(self.section(name)?.sh_addr.get(LE));
        let text = address(b".text").or(self.segments.first().map(|segment| segment.address));
        let got = address(b".got.plt").or(address(b".got"));
        BaseAddresses::default()
            .set_eh_frame(eh_frame)
            .set_text(text.unwrap_or(0))
            .set_got(got.unwrap_or(0))
    }

    /// Offset in the file of an address, and how many bytes of its segment follow there.
    fn file_range(&self, address: u64) -> Option<(u64, u64)> {
        self.programs.iter().find_map(|p| {
            let within = address.checked_sub(p.p_vaddr.get(LE))?;
            let rest = p.p_filesz.get(LE).checked_sub(within)?;
            let offset = p.p_offset.get(LE).checked_add(within)?;
            let rest = rest.min(self.source.len().checked_sub(offset)?);
            (p.p_type.get(LE) == elf::PT_LOAD && rest != 0).then_some((offset, rest))
        })
    }
}

/// See [`Image::eh_frame`].
pub(super) fn eh_frame(image: &Image) -> Result<Option<Cfi>> {
    if let Some(section) = image.section(b".eh_frame") {
        let bytes = image
            .source
            .read(section.sh_offset.get(LE), section.sh_size.get(LE), MAX_CFI)
            .context("failed to read the section `.eh_frame`")?;
        let bases = image.bases(section.sh_addr.get(LE));
        let sized = true;
        return Ok(Some(Cfi {
            bytes,
            bases,
            sized,
        }));
    }
    let Some(address) = eh_frame_address(image) else {
        return Ok(None);
    };
    let Some((offset, size)) = image.file_range(address) else {
        return Ok(None);
    };
    let bytes = image
        .source
        .read(offset, size.min(MAX_CFI), MAX_CFI)
        .context("failed to read the unwind information")?;
    let bases = image.bases(address);
    let sized = false;
    Ok(Some(Cfi {
        bytes,
        bases,
        sized,
    }))
}

/// Where the program headers say that the unwind information is.
fn eh_frame_address(image: &Image) -> Option<u64> {
    /// Bytes of the header before the look-up table, at most.
    const HEADER: u64 = 32;
    let program = image
        .programs
        .iter()
        .find(|p| p.p_type.get(LE) == elf::PT_GNU_EH_FRAME)?;
    let address = program.p_vaddr.get(LE);
    let (offset, size) = image.file_range(address)?;
    let bytes = image.source.read(offset, size.min(HEADER), HEADER).ok()?;
    let bases = image.bases(0).set_eh_frame_hdr(address);
    let header = EhFrameHdr::new(&bytes, gimli::LittleEndian)
        .parse(&bases, 8)
        .ok()?;
    match header.eh_frame_ptr() {
        Pointer::Direct(address) => Some(address),
        Pointer::Indirect(_) => None,
    }
}

/// See [`Image::debug_frame`].
pub(super) fn debug_frame(image: &Image) -> Result<Option<Cfi>> {
    let Some(section) = image.section(b".debug_frame") else {
        return Ok(None);
    };
    let bytes = image
        .source
        .read(section.sh_offset.get(LE), section.sh_size.get(LE), MAX_CFI)
        .and_then(|bytes| {
            if section.sh_flags.get(LE).contains(elf::SHF_COMPRESSED) {
                decompress(&bytes)
            } else {
                Ok(bytes)
            }
        })
        .context("failed to read the section `.debug_frame`")?;
    Ok(Some(Cfi {
        bytes,
        bases: image.bases(0),
        sized: true,
    }))
}

/// The contents of a compressed section.
fn decompress(bytes: &[u8]) -> Result<Vec<u8>> {
    let header: &CompressionHeader64<LE> = first(bytes)?;
    let data = &bytes[size_of::<CompressionHeader64<LE>>()..];
    let size = header.ch_size.get(LE);
    if size > MAX_CFI {
        bail!("its {size} bytes are more than the {MAX_CFI} that leakprobe reads of this");
    }
    let mut contents = Vec::new();
    match header.ch_type.get(LE) {
        elf::ELFCOMPRESS_ZLIB => {
            flate2::read::ZlibDecoder::new(data)
                .take(size)
                .read_to_end(&mut contents)?;
        }
        elf::ELFCOMPRESS_ZSTD => {
            zstd::Decoder::new(data)?
                .take(size)
                .read_to_end(&mut contents)?;
        }
        kind => bail!("it is compressed in an unknown way, {}", kind.0),
    }
    Ok(contents)
}
