//! Build ids, from an ELF object's notes. No other note is looked at.

use object::LittleEndian as LE;
use object::elf::{self, NoteHeader32, ProgramHeader64, SectionHeader64};
use object::pod;

use super::source::Source;

/// Bytes of notes that are searched in one place, at most.
const MAX_NOTES: u64 = 1 << 16;
/// Places with notes that are searched, at most.
const MAX_PLACES: usize = 64;
/// Bytes of a build id, at most. Real ones have 8 to 32.
const MAX_BUILD_ID: usize = 64;

/// The build id, from the segments with notes, or else from the sections.
pub(super) fn build_id(
    source: &Source,
    programs: &[ProgramHeader64<LE>],
    sections: &[SectionHeader64<LE>],
) -> Option<Vec<u8>> {
    let segments = programs
        .iter()
        .filter(|p| p.p_type.get(LE) == elf::PT_NOTE)
        .map(|p| (p.p_offset, p.p_filesz, p.p_align));
    let sections = sections
        .iter()
        .filter(|s| s.sh_type.get(LE) == elf::SHT_NOTE)
        .map(|s| (s.sh_offset, s.sh_size, s.sh_addralign));
    segments
        .chain(sections)
        .take(MAX_PLACES)
        .find_map(|(offset, size, align)| {
            let size = size.get(LE).min(MAX_NOTES);
            let notes = source.read(offset.get(LE), size, MAX_NOTES).ok()?;
            find(&notes, if align.get(LE) == 8 { 8 } else { 4 })
        })
}

/// The build id among some notes.
fn find(mut notes: &[u8], align: usize) -> Option<Vec<u8>> {
    while let Ok((header, rest)) = pod::from_bytes::<NoteHeader32<LE>>(notes) {
        let head = notes.len() - rest.len();
        let name_size = header.n_namesz.get(LE) as usize;
        let size = header.n_descsz.get(LE) as usize;
        let name = rest.get(..name_size)?;
        let start = (head + name_size).next_multiple_of(align);
        let description = notes.get(start..start.checked_add(size)?)?;
        if header.n_type.get(LE) == elf::NT_GNU_BUILD_ID && name == b"GNU\0" {
            return (1..=MAX_BUILD_ID)
                .contains(&size)
                .then(|| description.to_vec());
        }
        notes = notes.get((start + size).next_multiple_of(align)..)?;
    }
    None
}
