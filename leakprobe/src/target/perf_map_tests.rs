//! The perf map as a hostile target may write it. The interval arithmetic has tests of its own.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

/// A root with a `/tmp`, and the perf map of this very process in it.
struct World {
    dir: TempDir,
    root: Root,
    map: PerfMap,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("tmp")).unwrap();
        let root = Root::at(dir.path()).unwrap();
        let map = PerfMap::of(std::process::id());
        Self { dir, root, map }
    }

    fn path(&self) -> PathBuf {
        self.dir
            .path()
            .join(self.map.path.strip_prefix("/").unwrap())
    }

    fn write(&mut self, bytes: &[u8]) {
        std::fs::write(self.path(), bytes).unwrap();
        self.map.refresh(&self.root);
    }

    fn append(&mut self, bytes: &[u8]) {
        let mut file = OpenOptions::new()
            .append(true)
            .create(true)
            .open(self.path())
            .unwrap();
        file.write_all(bytes).unwrap();
        self.map.refresh(&self.root);
    }

    fn find(&self, address: u64) -> Option<&str> {
        self.map.find(address).map(|name| &**name)
    }
}

#[test]
fn a_map_that_comes_late_and_grows_is_followed() {
    let mut world = World::new();
    world.map.refresh(&world.root);
    assert!(!world.map.exists());
    world.append(b"1000 20 JS:~foo /app/x.js:12:3\n2000 10 JS:");
    assert_eq!(world.find(0x1000), Some("JS:~foo /app/x.js:12:3"));
    assert_eq!(world.find(0x101f), Some("JS:~foo /app/x.js:12:3"));
    assert_eq!(world.find(0x1020), None);
    assert_eq!(world.find(0x2000), None, "its line has no end yet");
    world.append(b"*bar\n1008 8 newest\n");
    assert_eq!(world.find(0x2000), Some("JS:*bar"));
    assert_eq!(world.find(0x1008), Some("newest"));
    assert_eq!(world.find(0x1010), Some("JS:~foo /app/x.js:12:3"));
    assert_eq!(world.map.problem(), None);
}

#[test]
fn a_map_that_was_removed_keeps_serving_and_a_new_one_takes_its_place() {
    let mut world = World::new();
    world.append(b"10 8 first\n");
    std::fs::remove_file(world.path()).unwrap();
    world.map.refresh(&world.root);
    assert_eq!(world.find(0x10), Some("first"));
    world.append(b"20 8 second\n");
    assert_eq!((world.find(0x10), world.find(0x20)), (None, Some("second")));
}

#[test]
fn a_map_that_is_written_anew_is_read_anew() {
    let mut world = World::new();
    world.write(b"10 8 first\n20 8 second\n");
    world.write(b"10 8 other\n");
    assert_eq!((world.find(0x10), world.find(0x20)), (Some("other"), None));
    // Longer than before, as if it had only grown.
    world.write(b"10 8 third and long\n30 8 fourth\n");
    assert_eq!(world.find(0x10), Some("third and long"));
    assert_eq!(world.find(0x30), Some("fourth"));
}

#[test]
fn what_is_not_the_targets_own_regular_file_is_refused() {
    let refused = |world: &mut World, why: &str| {
        world.map.refresh(&world.root);
        assert!(!world.map.exists());
        let problem = world.map.problem().unwrap().to_owned();
        assert!(problem.contains(why), "{problem}");
    };

    let mut world = World::new();
    std::fs::write(world.dir.path().join("tmp/other"), "10 8 x\n").unwrap();
    symlink("other", world.path()).unwrap();
    refused(&mut world, "symbolic link");

    let mut world = World::new();
    nix::unistd::mkfifo(&world.path(), nix::sys::stat::Mode::S_IRWXU).unwrap();
    refused(&mut world, "not a regular file");

    let mut world = World::new();
    std::fs::create_dir(world.path()).unwrap();
    refused(&mut world, "not a regular file");

    let mut world = World::new();
    std::fs::write(world.path(), "10 8 x\n").unwrap();
    world.map.owners = vec![4_000_000_000];
    refused(&mut world, "belongs to user");

    let mut world = World::new();
    std::fs::write(world.path(), "10 8 x\n").unwrap();
    world.map.started = Some(SystemTime::now() + Duration::from_secs(60));
    refused(&mut world, "before the process started");
}

#[test]
fn a_linked_tmp_does_not_lead_out_of_the_root() {
    let outside = tempfile::tempdir().unwrap();
    let mut world = World::new();
    let name = world.map.path.file_name().unwrap().to_owned();
    std::fs::write(outside.path().join(&name), "10 8 outside\n").unwrap();
    std::fs::remove_dir(world.dir.path().join("tmp")).unwrap();
    symlink(outside.path(), world.dir.path().join("tmp")).unwrap();
    world.map.refresh(&world.root);
    assert!(!world.map.exists());
}

#[test]
fn nonsense_is_no_entry() {
    let mut world = World::new();
    world.write(
        b"\n \n10\n10 8\n10 8 \nx 8 a\n10 y b\n-1 8 c\n+10 8 d\n\
          10000000000000000 8 too large\n20 ffffffffffffffffff too large\n",
    );
    assert!(world.map.exists());
    assert!((0..0x1000).all(|address| world.find(address).is_none()));
    // Any range of numbers is fine, and so is any name.
    world.append(b"fffffffffffffff0 ffffffffffffffff end\n0x30 0x8 \xff\xfe\x1b[31m x\r\n");
    assert_eq!(world.find(u64::MAX), Some("end"));
    assert_eq!(world.find(0x30), Some("\u{fffd}\u{fffd}\u{1b}[31m x"));
}

#[test]
fn a_huge_line_loses_its_end_and_no_other_line() {
    let mut world = World::new();
    let mut bytes = b"10 8 ".to_vec();
    bytes.resize(300_000, b'x');
    bytes.extend_from_slice(b"\n20 8 next\n");
    world.write(&bytes);
    assert_eq!(
        world.find(0x10).map(str::len),
        Some(MAX_LINE - "10 8 ".len())
    );
    assert_eq!(world.find(0x20), Some("next"));
}

#[test]
fn reading_ends_with_the_budget() {
    let mut world = World::new();
    world.map.budget = 15;
    world.write(b"10 8 first\n20 8 second\n");
    assert_eq!((world.find(0x10), world.find(0x20)), (Some("first"), None));
    assert!(world.map.problem().unwrap().contains("only the first"));
}

#[test]
fn without_a_process_there_is_a_map_that_nobody_finds() {
    let mut map = PerfMap::of(u32::MAX);
    map.refresh(&Root::at(Path::new("/")).unwrap());
    assert!(!map.exists());
}

proptest! {
    /// However the file grows, the names are those of its whole lines.
    #[test]
    fn pieces_read_one_by_one_are_the_file(
        text in prop::collection::vec(any::<u8>().prop_map(|byte| b"0123456789abcdef \n\n  JS:*\xff"[byte as usize % 24]), 0..400),
        cuts in prop::collection::vec(0usize..400, 0..8),
    ) {
        let mut whole = World::new();
        whole.write(&text);
        let mut grown = World::new();
        let mut cuts: Vec<usize> = cuts.into_iter().map(|at| at.min(text.len())).chain([text.len()]).collect();
        cuts.sort_unstable();
        let mut from = 0;
        for to in cuts {
            grown.append(&text[from..to]);
            from = to;
        }
        for address in 0..0x1000 {
            prop_assert_eq!(whole.find(address), grown.find(address));
        }
    }
}
