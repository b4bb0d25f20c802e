//! ELF files made by hand, for the tests here and elsewhere, and how they are read.

use std::io::Write;

use proptest::prelude::*;

use super::*;

/// A file with some bytes in it.
pub fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// An ELF file of sections: name, type, bytes.
pub fn elf_of(sections: &[(&str, u32, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0; 64];
    let mut names = vec![0];
    let mut headers = vec![0; 64];
    let with_names = sections.iter().copied().chain([(".shstrtab", 3, &b""[..])]);
    for (name, kind, content) in with_names {
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        let mut header = [0; 64];
        header[..4].copy_from_slice(&(names.len() as u32).to_le_bytes());
        header[4..8].copy_from_slice(&kind.to_le_bytes());
        names.extend_from_slice(name.as_bytes());
        names.push(0);
        let content = if name == ".shstrtab" { &names } else { content };
        header[24..32].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
        header[32..40].copy_from_slice(&(content.len() as u64).to_le_bytes());
        bytes.extend_from_slice(content);
        headers.extend_from_slice(&header);
    }
    let at = bytes.len() as u64;
    let count = (headers.len() / 64) as u16;
    bytes.extend_from_slice(&headers);
    bytes[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    bytes[16..20].copy_from_slice(&[3, 0, 62, 0]);
    bytes[40..48].copy_from_slice(&at.to_le_bytes());
    bytes[58..60].copy_from_slice(&64u16.to_le_bytes());
    bytes[60..62].copy_from_slice(&count.to_le_bytes());
    bytes[62..64].copy_from_slice(&(count - 1).to_le_bytes());
    bytes
}

/// A note with a build id.
pub fn build_id_note(id: &[u8]) -> Vec<u8> {
    let mut note = Vec::new();
    for number in [4, id.len() as u32, elf::NT_GNU_BUILD_ID.0] {
        note.extend_from_slice(&number.to_le_bytes());
    }
    note.extend_from_slice(b"GNU\0");
    note.extend_from_slice(id);
    note
}

/// A link to a file with a CRC.
pub fn link(name: &str, crc: u32) -> Vec<u8> {
    let mut link = name.as_bytes().to_vec();
    link.resize((name.len() + 4) & !3, 0);
    link.extend_from_slice(&crc.to_le_bytes());
    link
}

#[test]
fn a_link_is_a_name_and_never_a_path() {
    for (name, is_taken) in [
        ("x.debug", true),
        ("/etc/passwd", false),
        ("..", false),
        ("", false),
    ] {
        let bytes = elf_of(&[(".gnu_debuglink", 1, &link(name, 7))]);
        let file = file(&bytes);
        let found = Elf::parse(&file).unwrap().debug_link();
        assert_eq!(found, is_taken.then(|| (name.into(), 7)));
    }
}

#[test]
fn this_program_is_read() {
    let file = File::open("/proc/self/exe").unwrap();
    let elf = Elf::parse(&file).unwrap();
    let text = elf.section(".text").unwrap();
    let address = address_of(elf.segments(), text.offset).unwrap();
    assert_eq!(
        address_of(elf.segments(), text.offset + 1),
        Some(address + 1)
    );
    assert_eq!(address_of(elf.segments(), u64::MAX), None);
    assert!(
        elf.section(".symtab")
            .is_some_and(|table| table.entry_size == 24)
    );
    assert!(elf.section(".bss").is_none(), "it has no bytes");
    assert!(elf.bytes(text, 16).is_err());
}

#[test]
fn a_build_id_is_found_behind_other_notes() {
    let mut notes = Vec::new();
    for (kind, description) in [(1u32, &b"abi"[..]), (3, b"0123456789abcdef")] {
        notes.extend_from_slice(&4u32.to_le_bytes());
        notes.extend_from_slice(&(description.len() as u32).to_le_bytes());
        notes.extend_from_slice(&kind.to_le_bytes());
        notes.extend_from_slice(b"GNU\0");
        notes.extend_from_slice(description);
        notes.resize(notes.len().next_multiple_of(4), 0);
    }
    assert_eq!(build_id(&notes).as_deref(), Some(&b"0123456789abcdef"[..]));
    assert_eq!(build_id(&notes[..40]), None);
}

proptest! {
    #[test]
    fn no_file_is_too_strange(
        mut bytes in prop::collection::vec(any::<u8>(), 64..600),
        fields in prop::collection::vec((0usize..590, any::<u64>(), any::<bool>()), 0..12),
    ) {
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[54..56].copy_from_slice(&56u16.to_le_bytes());
        bytes[58..60].copy_from_slice(&64u16.to_le_bytes());
        for (at, value, small) in fields {
            let value = if small { value % 600 } else { value };
            if let Some(field) = bytes.get_mut(at..at + 8) {
                field.copy_from_slice(&value.to_le_bytes());
            }
        }
        let file = file(&bytes);
        if let Ok(elf) = Elf::parse(&file) {
            let _ = (elf.build_id(), elf.debug_link(), address_of(elf.segments(), 64));
        }
    }
}
