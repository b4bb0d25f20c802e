//! Where debug files are looked for, and which of them are not taken.

use std::fs;
use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::super::elf::tests::{build_id_note, elf_of, file, link};
use super::*;

const ID: &[u8] = b"\xabuild-id";
const OTHER: &[u8] = b"\xabuild-ID";

/// A module called /opt/app/tool, a root with it, and a directory of the user's.
struct World {
    root: TempDir,
    dir: TempDir,
    module: File,
}

fn debug_file(id: &[u8], mark: &[u8]) -> Vec<u8> {
    let note = build_id_note(id);
    elf_of(&[(".note.gnu.build-id", 7, &note), (".debug_info", 1, mark)])
}

impl World {
    fn new(id: Option<&[u8]>, linked: Option<(&str, u32)>) -> Self {
        let note = id.map(build_id_note);
        let link = linked.map(|(name, crc)| link(name, crc));
        let mut sections: Vec<(&str, u32, &[u8])> = Vec::new();
        sections.extend(
            note.as_ref()
                .map(|note| (".note.gnu.build-id", 7, &note[..])),
        );
        sections.extend(link.as_ref().map(|link| (".gnu_debuglink", 1, &link[..])));
        Self {
            root: tempfile::tempdir().unwrap(),
            dir: tempfile::tempdir().unwrap(),
            module: file(&elf_of(&sections)),
        }
    }

    fn put(&self, dir: &TempDir, path: &str, bytes: &[u8]) {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// What is in the `.debug_info` of the file that is found.
    fn find(&self) -> Option<String> {
        let mut files = DebugFiles::new(vec![self.dir.path().to_owned()], true).unwrap();
        let root = Root::at(self.root.path()).unwrap();
        let found = files.find(Some(&root), Path::new("/opt/app/tool"), &self.module)?;
        let elf = Elf::parse(&found).unwrap();
        let bytes = elf.bytes(elf.section(".debug_info").unwrap(), 100).unwrap();
        Some(String::from_utf8(bytes).unwrap())
    }
}

#[test]
fn a_build_id_leads_to_the_file_in_all_its_places() {
    let by_id = ".build-id/ab/75696c642d6964.debug";
    let world = World::new(Some(ID), Some(("tool.dbg", 0)));
    assert_eq!(world.find(), None);
    // From the last place that is looked at to the first.
    for (in_root, path) in [
        (true, "usr/lib/debug/opt/app/tool.dbg"),
        (true, "opt/app/.debug/tool.dbg"),
        (true, "opt/app/tool.dbg"),
        (true, &*format!("usr/lib/debug/{by_id}")),
        (false, "tool.dbg"),
        (false, "opt/app/tool.dbg"),
        (false, "tool.debug"),
        (false, "opt/app/tool.debug"),
        (false, by_id),
    ] {
        let dir = if in_root { &world.root } else { &world.dir };
        world.put(dir, path, &debug_file(ID, path.as_bytes()));
        assert_eq!(world.find().as_deref(), Some(path));
    }
}

#[test]
fn a_file_of_another_build_is_passed_over() {
    let world = World::new(Some(ID), Some(("tool.dbg", 0)));
    world.put(&world.dir, "tool.debug", &debug_file(OTHER, b"other"));
    world.put(&world.dir, "opt/app/tool.debug", b"no ELF file");
    world.put(
        &world.root,
        "opt/app/tool.dbg",
        &debug_file(OTHER, b"other"),
    );
    assert_eq!(world.find(), None);
    world.put(
        &world.root,
        "opt/app/.debug/tool.dbg",
        &debug_file(ID, b"right"),
    );
    assert_eq!(world.find().as_deref(), Some("right"));
}

#[test]
fn without_a_build_id_the_crc_must_be_right() {
    let right = elf_of(&[(".debug_info", 1, b"right")]);
    let world = World::new(None, Some(("tool.dbg", crc32fast::hash(&right))));
    world.put(
        &world.root,
        "opt/app/tool.dbg",
        &elf_of(&[(".debug_info", 1, b"wrong")]),
    );
    assert_eq!(world.find(), None);
    world.put(&world.root, "opt/app/.debug/tool.dbg", &right);
    assert_eq!(world.find().as_deref(), Some("right"));
    // Nothing says whose a file is that only has a fitting name.
    let world = World::new(None, None);
    world.put(&world.dir, "tool.debug", &right);
    assert_eq!(world.find(), None);
}

#[test]
fn a_container_cannot_point_outside_of_its_root() {
    let world = World::new(Some(ID), Some(("tool.dbg", 0)));
    let outside = tempfile::tempdir().unwrap();
    world.put(&outside, "tool.dbg", &debug_file(ID, b"outside"));
    fs::create_dir_all(world.root.path().join("opt")).unwrap();
    symlink(outside.path(), world.root.path().join("opt/app")).unwrap();
    assert_eq!(world.find(), None);
}

#[test]
fn a_module_that_has_it_all_needs_no_other_file() {
    let mut world = World::new(Some(ID), None);
    world.put(&world.dir, "tool.debug", &debug_file(ID, b"other"));
    world.module = file(&debug_file(ID, b"own"));
    assert_eq!(world.find(), None);
}

#[test]
fn names_that_are_no_paths_do_not_climb_out() {
    assert_eq!(relative(Path::new("/usr/bin")), Some("usr/bin".into()));
    assert_eq!(relative(Path::new("/memfd:../../etc")), None);
    assert_eq!(undeleted(Path::new("/a/b (deleted)")), Path::new("/a/b"));
    assert!(DebugFiles::new(vec!["/nonexistent".into()], true).is_err());
}
