//! Names of this very test program, and of files that lie about themselves.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;

use flate2::write::ZlibEncoder;
use proptest::prelude::*;

use super::*;
use crate::target::elf::tests::{elf_of, file};

fn module(file: File) -> Module {
    Module {
        path: "/test".into(),
        file: Some(file),
        debug: None,
    }
}

#[inline(never)]
fn somewhere() -> u64 {
    somewhere as *const () as u64
}

/// Address of [`somewhere`] as this program's file counts.
fn somewhere_in(lookup: &Lookup) -> u64 {
    let mut mappings = crate::target::Mappings::default();
    mappings.refresh(std::process::id()).unwrap();
    let place = mappings.locate(somewhere()).unwrap();
    lookup.address_of(place.offset).unwrap()
}

#[test]
fn lines_are_there_only_if_asked_for() {
    for lines in [true, false] {
        let this = module(File::open("/proc/self/exe").unwrap());
        let mut lookup = Lookup::new(&this, lines);
        let at = somewhere_in(&lookup);
        let frames = lookup.find(&[at, 1 << 40]);
        assert_eq!(frames[1], None);
        let frame = frames[0].as_ref().unwrap().last().unwrap();
        let function = frame.function.as_deref().unwrap();
        assert!(function.contains("somewhere"), "{function}");
        assert_eq!(frame.line.is_some(), lines);
        assert_eq!(lookup.failures().count(), 0);
    }
}

/// A symbol table with one function from 0x1000 to 0x1010.
fn symbols() -> (Vec<u8>, &'static [u8]) {
    let mut table = vec![0; 24];
    table.extend_from_slice(&1u32.to_le_bytes());
    table.extend_from_slice(&[0x12, 0, 1, 0]);
    table.extend_from_slice(&0x1000u64.to_le_bytes());
    table.extend_from_slice(&0x10u64.to_le_bytes());
    (table, b"\0leaky\0")
}

fn with_symbols(others: &[(&str, u32, &[u8])]) -> Vec<u8> {
    let (table, strings) = symbols();
    let mut sections = vec![(".symtab", 2, &table[..]), (".strtab", 3, strings)];
    sections.extend_from_slice(others);
    elf_of(&sections)
}

fn name_at(bytes: &[u8], address: u64) -> Option<String> {
    let mut lookup = Lookup::new(&module(file(bytes)), true);
    let frames = lookup.find(&[address]).remove(0)?;
    frames[0].function.as_deref().map(str::to_owned)
}

#[test]
fn links_in_a_file_lead_nowhere() {
    // blazesym would open these paths; a FIFO would stop it for ever.
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut link = fifo.to_str().unwrap().as_bytes().to_vec();
    link.resize(link.len() / 4 * 4 + 8, 0);
    let mut alt = fifo.to_str().unwrap().as_bytes().to_vec();
    alt.extend_from_slice(b"\x000123456789abcdef0123");
    let bytes = with_symbols(&[(".gnu_debuglink", 1, &link), (".gnu_debugaltlink", 1, &alt)]);
    assert_eq!(name_at(&bytes, 0x1008).as_deref(), Some("leaky"));
    assert_eq!(name_at(&bytes, 0x2000), None);
}

#[test]
fn a_file_that_shrinks_costs_its_names_only() {
    let source = file(&with_symbols(&[]));
    let this = module(source.try_clone().unwrap());
    let mut lookup = Lookup::new(&this, true);
    source.set_len(0).unwrap();
    let frames = lookup.find(&[0x1000]).remove(0).unwrap();
    assert_eq!(frames[0].function.as_deref(), Some("leaky"));
    let mut lookup = Lookup::new(&this, true);
    assert_eq!(lookup.find(&[0x1000]), [None]);
    assert_eq!(lookup.failures().count(), 1);
}

#[test]
fn packed_sections_are_unpacked_within_limits() {
    let pack = |bytes: &[u8], claimed: u64| {
        let mut packed = Vec::new();
        for field in [1, claimed, 1] {
            packed.extend_from_slice(&field.to_le_bytes());
        }
        let mut encoder = ZlibEncoder::new(&mut packed, flate2::Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap();
        packed
    };
    let (table, strings) = symbols();
    for claimed in [strings.len() as u64, 0, u64::MAX] {
        let packed = pack(strings, claimed);
        let mut bytes = elf_of(&[(".symtab", 2, &table), (".strtab", 3, &packed)]);
        // SHF_COMPRESSED of the second section.
        let headers = u64::from_le_bytes(*bytes[40..].first_chunk().unwrap()) as usize;
        bytes[headers + 2 * 64 + 8..][..8].copy_from_slice(&0x800u64.to_le_bytes());
        assert_eq!(name_at(&bytes, 0x1000).as_deref(), Some("leaky"));
    }
}

#[test]
fn mini_debug_info_names_what_was_stripped() {
    // An xz stream of `with_symbols(&[])`, which no pure Rust encoder is needed for: LZMA2 has
    // chunks that are not packed.
    let inner = with_symbols(&[]);
    let packed = xz_stored(&inner);
    let bytes = elf_of(&[(".gnu_debugdata", 1, &packed)]);
    assert_eq!(name_at(&bytes, 0x1000).as_deref(), Some("leaky"));
    let mut damaged = packed.clone();
    damaged[14] ^= 1;
    assert_eq!(
        name_at(&elf_of(&[(".gnu_debugdata", 1, &damaged)]), 0x1000),
        None
    );
}

/// One block with one chunk that is stored as it is, and no check of its content.
fn xz_stored(bytes: &[u8]) -> Vec<u8> {
    let crc = |bytes: &[u8]| crc32fast::hash(bytes).to_le_bytes();
    let mut xz = b"\xfd7zXZ\0\0\0".to_vec();
    xz.extend_from_slice(&crc(&[0, 0]));
    // Header of 12 bytes: one filter, LZMA2, a dictionary of 4 KiB.
    let header = [2, 0, 0x21, 1, 0, 0, 0, 0];
    xz.extend_from_slice(&header);
    xz.extend_from_slice(&crc(&header));
    let mut block = vec![1];
    block.extend_from_slice(&((bytes.len() - 1) as u16).to_be_bytes());
    block.extend_from_slice(bytes);
    block.push(0);
    let size = 12 + block.len() as u64;
    block.resize(block.len().next_multiple_of(4), 0);
    xz.extend_from_slice(&block);
    let mut index = vec![0, 1];
    for mut number in [size, bytes.len() as u64] {
        while number >= 0x80 {
            index.push(number as u8 | 0x80);
            number >>= 7;
        }
        index.push(number as u8);
    }
    index.resize(index.len().next_multiple_of(4), 0);
    let index_crc = crc(&index);
    index.extend_from_slice(&index_crc);
    let backward = (index.len() / 4 - 1) as u32;
    xz.extend_from_slice(&index);
    let mut footer = backward.to_le_bytes().to_vec();
    footer.extend_from_slice(&[0, 0]);
    xz.extend_from_slice(&crc(&footer));
    xz.extend_from_slice(&footer);
    xz.extend_from_slice(b"YZ");
    xz
}

proptest! {
    /// No file makes it panic, hang or read past its end.
    #[test]
    fn no_file_is_too_strange(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u64>(), 0u32..64), 0..8),
        debug in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let bytes = with_symbols(&[
            (".debug_info", 1, &debug),
            (".debug_abbrev", 1, &debug),
            (".debug_line", 1, &debug),
            (".gnu_debugdata", 1, &xz_stored(&with_symbols(&[]))),
        ]);
        let source = file(&bytes);
        for (at, value, shift) in changes {
            let value = (value >> shift).to_le_bytes();
            source.write_at(&value, at.index(bytes.len()) as u64).unwrap();
        }
        let mut lookup = Lookup::new(&module(source), true);
        let _ = lookup.find(&[0, 0x1000, u64::MAX]);
    }
}
