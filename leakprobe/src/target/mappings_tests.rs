//! Lines of `/proc/PID/maps`, and places in this very program.

use super::*;

#[test]
fn a_path_keeps_its_spaces() {
    let mapping = Mapping::parse(b"7f00-7f10 r-xp 00001000 fe:01 42   /a b (deleted)").unwrap();
    assert_eq!(
        (mapping.start, mapping.end, mapping.offset),
        (0x7f00, 0x7f10, 0x1000)
    );
    assert_eq!((mapping.device, mapping.inode), ((0xfe, 1), 42));
    assert_eq!(mapping.path, Path::new("/a b (deleted)"));
    assert!(mapping.executable);
}

#[test]
fn nonsense_is_no_mapping() {
    for line in [
        &b""[..],
        b"/SYSV",
        b"1-2",
        b"x-y r-xp 0 0:0 0",
        b"1-2 r-xp 0 0 0",
    ] {
        assert_eq!(Mapping::parse(line), None);
    }
}

#[test]
fn this_program_finds_its_own_code() {
    let mut mappings = Mappings::default();
    mappings.refresh(std::process::id()).unwrap();
    let location = mappings
        .locate(this_program_finds_its_own_code as *const () as u64)
        .unwrap();
    assert_eq!(location.module.path, std::env::current_exe().unwrap());
    assert!(location.module.file.is_some());
    assert!(mappings.locate(0).is_none());
    assert!(mappings.locate(u64::MAX).is_none());
}

/// A process that is killed shows all of its mappings or none.
#[test]
fn no_part_is_taken_for_the_whole() {
    for _ in 0..200 {
        let mut command = std::process::Command::new("sleep");
        let mut child = command.arg("100").spawn().expect("failed to start sleep");
        let pid = child.id();
        // It is asleep, so its mappings stay as they are.
        let state = || fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
        while !state().contains("nanosleep") {}
        let whole = Mapping::read_all(pid).expect("it has mappings");
        child.kill().expect("failed to kill it");
        while let Ok(found) = Mapping::read_all(pid)
            && !found.is_empty()
        {
            assert_eq!(found, whole);
        }
        child.wait().expect("failed to wait for it");
    }
}
