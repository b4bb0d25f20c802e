//! Where the entries of a section of unwind information are. Looks at nothing of them but length
//! and kind, so that the rest can be done in parallel, and so that one entry which cannot be
//! understood does not hide those behind it.

use anyhow::{Result, ensure};

/// Entries about functions, at most. Node has 150 000.
const MAX_FDES: usize = 1 << 22;
/// Common entries, at most: `.debug_frame` has one for each source file.
const MAX_CIES: usize = 1 << 18;

/// How a section marks common entries: by the field behind the length.
#[derive(Clone, Copy)]
pub(super) struct Kind {
    /// Bytes of that field in entries whose length takes 4 bytes, and 12 bytes.
    id_size: [usize; 2],
    /// Whether common entries have all bits of it set, or none.
    ones: bool,
}

/// `.eh_frame`
pub(super) const EH_FRAME: Kind = Kind {
    id_size: [4, 4],
    ones: false,
};

/// `.debug_frame`
pub(super) const DEBUG_FRAME: Kind = Kind {
    id_size: [4, 8],
    ones: true,
};

/// Offsets of a section's entries.
#[derive(Default)]
pub(super) struct Entries {
    /// Common entries.
    pub cies: Vec<usize>,
    /// Entries about functions.
    pub fdes: Vec<usize>,
}

/// Finds the entries of a section. It ends where an entry does not fit; if its size is not known
/// then also at an entry of no length.
pub(super) fn find(bytes: &[u8], kind: Kind, sized: bool) -> Result<Entries> {
    let mut found = Entries::default();
    let mut offset = 0;
    while let Some(length) = word::<4>(bytes, offset) {
        let (header, id_size, length) = if length == u64::from(u32::MAX) {
            let Some(length) = word::<8>(bytes, offset + 4) else {
                break;
            };
            (12, kind.id_size[1], length)
        } else {
            (4, kind.id_size[0], length)
        };
        let start = offset + header;
        if length == 0 && !sized {
            break;
        }
        let Some(end) = usize::try_from(length)
            .ok()
            .and_then(|length| start.checked_add(length))
            .filter(|&end| end <= bytes.len())
        else {
            break;
        };
        if let Some(id) = bytes[start..end].get(..id_size) {
            let mark = if kind.ones { u8::MAX } else { 0 };
            let (list, max) = if id.iter().all(|&byte| byte == mark) {
                (&mut found.cies, MAX_CIES)
            } else {
                (&mut found.fdes, MAX_FDES)
            };
            ensure!(list.len() < max, "it has more than {max} entries of a kind");
            list.push(offset);
        }
        offset = end;
    }
    Ok(found)
}

/// A number of N bytes.
fn word<const N: usize>(bytes: &[u8], offset: usize) -> Option<u64> {
    let bytes = bytes.get(offset..offset.checked_add(N)?)?;
    let mut word = [0; 8];
    word[..N].copy_from_slice(bytes);
    Some(u64::from_le_bytes(word))
}
