//! Against the C library of this machine, and against files that lie.

use std::fs::{self, File};
use std::io::Write;

use super::*;
use crate::unwind::test_elf::elf;

fn libc_path() -> String {
    let maps = fs::read_to_string("/proc/self/maps").expect("maps of this process");
    let line = maps.lines().find(|line| line.contains("libc.so.6"));
    let path = line.and_then(|line| line.split_whitespace().nth(5));
    path.expect("the tests run with a C library").to_owned()
}

fn libc() -> Image {
    Image::open(&File::open(libc_path()).expect("a file")).expect("an image")
}

#[test]
fn the_c_library_has_all_that_is_asked_for() {
    let image = libc();
    let functions = image.functions().expect("symbols");
    let malloc = *functions.find(b"malloc").expect("malloc");
    assert!(malloc.typed && malloc.size > 16);
    let code = image.code(malloc.address..malloc.address + malloc.size);
    assert_eq!(code.expect("code").len() as u64, malloc.size);
    assert!(image.segment(malloc.address).is_some());
    assert_eq!(image.build_id().map(|id| id.len()), Some(20));
    assert!(image.eh_frame().expect("unwind information").is_some());
    let sorted = |list: &[Function]| list.is_sorted_by_key(|function| function.address);
    assert!(sorted(functions.list()));
}

#[test]
fn without_section_headers_the_program_headers_do() {
    let whole = libc();
    let mut bytes = fs::read(libc_path()).expect("a file");
    bytes[0x28..0x30].fill(0); // e_shoff
    let image = Image::from_memory(bytes).expect("an image");
    let (whole, found) = (whole.eh_frame(), image.eh_frame());
    let (whole, found) = (
        whole.expect("readable").expect("there"),
        found.expect("readable").expect("there"),
    );
    assert!(whole.sized && !found.sized);
    assert!(found.bytes.starts_with(&whole.bytes));
    assert_eq!(whole.bases.eh_frame.section, found.bases.eh_frame.section);
    assert_eq!(image.build_id(), libc().build_id());
    assert!(image.functions().expect("none").list().is_empty());
}

#[test]
fn code_is_read_within_segments_only() {
    let image = libc();
    let segment = image.segments()[0];
    let end = segment.address + segment.file_size;
    assert!(image.code(end - 1..end).is_ok());
    assert!(image.code(end - 1..end + 1).is_err());
    assert!(image.code(0..u64::MAX).is_err());
    assert!(image.code(u64::MAX - 1..u64::MAX).is_err());
    let (start, end) = (segment.address + 1, segment.address);
    assert!(image.code(start..end).is_ok_and(|code| code.is_empty()));
}

#[test]
fn what_is_no_program_is_an_error() {
    let mut file = tempfile::tempfile().expect("a temporary file");
    assert!(Image::open(&file).is_err());
    file.write_all(&[0x7f; 4096]).expect("room for it");
    assert!(Image::open(&file).is_err());
    let zero = Image::open(&File::open("/dev/zero").expect("a device"));
    assert!(format!("{:#}", zero.unwrap_err()).contains("regular file"));
    let mut bytes = fs::read(libc_path()).expect("a file");
    bytes[0x12] = 3; // e_machine: 386
    let other = Image::from_memory(bytes);
    assert!(format!("{:#}", other.unwrap_err()).contains("x86-64"));
}

#[test]
fn sizes_that_files_claim_are_not_allocated() {
    let bytes = fs::read(libc_path()).expect("a file");
    let sections = u64::from_le_bytes(bytes[0x28..0x30].try_into().expect("8 bytes")) as usize;
    let count = usize::from(bytes[0x3c]);
    for section in 0..count {
        let mut bytes = bytes.clone();
        let size = sections + 64 * section + 0x20;
        bytes[size..size + 8].fill(0x7f);
        let image = Image::from_memory(bytes).expect("an image");
        let _ = (image.functions(), image.eh_frame(), image.debug_frame());
        image.build_id();
    }
}

#[test]
fn compressed_sections_are_decompressed() {
    let contents = [7; 1000];
    let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    zlib.write_all(&contents).expect("room for it");
    let zlib = zlib.finish().expect("room for it");
    let zstd = zstd::encode_all(&contents[..], 0).expect("room for it");
    for (kind, data) in [(1u32, zlib), (2, zstd)] {
        let read = |size: u64| {
            let header = [kind.into(), size, 1].map(u64::to_le_bytes).concat();
            let section = [&header[..], &data].concat();
            let mut file = elf(0x1000, &[0x90; 16], &[(".debug_frame", 0, &section)]);
            let sections = u64::from_le_bytes(file[0x28..0x30].try_into().expect("8 bytes"));
            let flags = sections as usize + 64 + 8;
            file[flags + 1] = 8; // SHF_COMPRESSED
            let image = Image::from_memory(file).expect("an image");
            Ok::<_, anyhow::Error>(image.debug_frame()?.expect("there").bytes)
        };
        assert_eq!(read(1000).expect("readable"), contents);
        // No more than announced, and no more than allowed.
        assert_eq!(read(10).expect("readable"), contents[..10]);
        assert!(read(1 << 40).is_err());
    }
}
