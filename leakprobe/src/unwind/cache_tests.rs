use super::super::{END, FRAME_POINTER, RuleAt};
use super::*;

fn table() -> Table {
    Table::pack(&[
        RuleAt {
            address: 0x1_0010,
            rule: FRAME_POINTER,
        },
        RuleAt {
            address: 0x3_0020,
            rule: END,
        },
    ])
}

fn object(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

#[test]
fn what_was_stored_is_found_for_the_same_bytes_alone() {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::at(directory.path().join("new")).unwrap();
    let large: Vec<u8> = (0..3 * BLOCK + 7).map(|n| (n % 251) as u8).collect();
    let slot = cache
        .slot(&object(&large), None, Some(&[0xab; 20]), 2)
        .unwrap();
    assert!(slot.load().is_none());
    cache.store(&slot, &table()).unwrap();
    let again = cache
        .slot(&object(&large), None, Some(&[0xab; 20]), 3)
        .unwrap();
    assert_eq!(again.load(), Some(table()));
    // The same build id does not help an object that is another one.
    for at in [0, BLOCK, large.len() - 1] {
        let mut other = large.clone();
        other[at] ^= 1;
        let slot = cache
            .slot(&object(&other), None, Some(&[0xab; 20]), 2)
            .unwrap();
        assert!(slot.load().is_none());
    }
}

#[test]
fn a_damaged_file_is_none() {
    let key = blake3::hash(b"object");
    let bytes = encode(key, &table());
    assert_eq!(decode(key, &bytes), Some(table()));
    assert_eq!(decode(blake3::hash(b"another"), &bytes), None);
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x40;
        assert_eq!(decode(key, &damaged), None);
        assert_eq!(decode(key, &bytes[..at]), None);
    }
}

#[test]
fn numbers_beyond_the_file_are_refused() {
    let key = blake3::hash(b"object");
    let bytes = encode(key, &table());
    for at in (48..88).step_by(8) {
        for value in [u64::MAX, 1 << 61, 1 << 32] {
            let mut damaged = bytes[..bytes.len() - 32].to_vec();
            damaged[at..at + 8].copy_from_slice(&value.to_le_bytes());
            damaged.extend(blake3::hash(&damaged).as_bytes());
            // Any page may be the first, and the count of crowded pages is only reported.
            let fine = at == 56 || at == 48 && value.is_multiple_of(PAGE_SIZE);
            assert_eq!(decode(key, &damaged).is_some(), fine, "{at} {value:x}");
        }
    }
}

#[test]
fn a_directory_that_others_write_to_is_not_used() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let open = directory.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    assert!(Cache::at(open.clone()).is_err());
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(directory.path(), &link).unwrap();
    assert!(Cache::at(link).is_err());
}
