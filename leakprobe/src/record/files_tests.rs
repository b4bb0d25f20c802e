//! Which files are left, in real folders.

use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::*;
use crate::cli::{Command, parse};
use crate::report::sample;
use crate::snapshot::{Cause, Death};

fn config(line: &str) -> Config {
    let words = ["leakprobe", "--pid", "1"].into_iter();
    match parse(words.chain(line.split_whitespace())).map(|order| order.command) {
        Ok(Command::Record(config)) => *config,
        other => panic!("{line}: {other:?}"),
    }
}

/// In a folder, which stands for `DIR` in the line.
fn files(folder: &TempDir, line: &str) -> (Files, Config) {
    let config = config(&line.replace("DIR", folder.path().to_str().unwrap()));
    (Files::new(&config, 1).unwrap(), config)
}

fn names(folder: &TempDir) -> Vec<String> {
    let entries = fs::read_dir(folder.path()).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn leave(files: &mut Files, config: &Config, count: usize) {
    for _ in 0..count {
        let profile = sample::profile();
        files.write_numbered(&profile, config, &mut |_| {}).unwrap();
    }
}

fn finish(files: &Files, config: &Config, profile: &Profile) -> Vec<PathBuf> {
    let mut written = Vec::new();
    let wrote = &mut |path: &Path| written.push(path.to_owned());
    files.write_final(profile, config, wrote).unwrap();
    written
}

fn dead(comm: &str) -> Profile {
    let mut profile = sample::profile();
    profile.target.comm = comm.to_string();
    profile.death = Some(Death {
        pid: 77,
        at: std::time::Duration::from_secs(1),
        cause: Cause::Unknown,
    });
    profile
}

#[test]
fn numbers_go_up_and_the_final_one_has_none() {
    let folder = folder();
    let (mut files, config) = files(&folder, "--every 1s -o DIR/a.json -o DIR/b.txt");
    leave(&mut files, &config, 2);
    let written = finish(&files, &config, &sample::profile());
    assert_eq!(written.len(), 2);
    let expected = [
        "a-001.json",
        "a-002.json",
        "a.json",
        "b-001.txt",
        "b-002.txt",
        "b.txt",
    ];
    assert_eq!(names(&folder), expected);
    let text = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
    assert_eq!(text("a-001.json"), text("a.json"));
}

#[test]
fn the_newest_of_each_output_are_kept() {
    let folder = folder();
    let (mut files, config) = files(&folder, "--every 1s --keep 2 -o DIR/a.json -o DIR/b.txt");
    fs::write(folder.path().join("a-000.json"), "not ours").unwrap();
    leave(&mut files, &config, 5);
    let expected = [
        "a-000.json",
        "a-004.json",
        "a-005.json",
        "b-004.txt",
        "b-005.txt",
    ];
    assert_eq!(names(&folder), expected);
}

#[test]
fn a_size_limit_is_kept_but_for_the_newest() {
    let folder = folder();
    let (mut files, config) = files(
        &folder,
        "--every 1s --keep-size 1 -o DIR/a.json -o DIR/b.txt",
    );
    leave(&mut files, &config, 3);
    assert_eq!(names(&folder), ["a-003.json", "b-003.txt"]);

    let size = |name: &str| fs::metadata(folder.path().join(name)).unwrap().len();
    files.keep_size = Some(2 * size("a-003.json") + 2 * size("b-003.txt"));
    leave(&mut files, &config, 4);
    let expected = ["a-006.json", "a-007.json", "b-006.txt", "b-007.txt"];
    assert_eq!(names(&folder), expected);
    // The oldest first, one by one.
    files.keep_size = files.keep_size.map(|size| size - 1);
    files.rotate().unwrap();
    assert_eq!(
        names(&folder),
        expected[1..]
            .iter()
            .filter(|it| **it != "a-006.json")
            .copied()
            .collect::<Vec<_>>()
    );
}

#[test]
fn only_its_own_files_are_removed() {
    let folder = folder();
    let path = |name: &str| folder.path().join(name);
    let (mut files, config) = files(&folder, "--every 1s --keep 1 -o DIR/a.json");
    leave(&mut files, &config, 1);
    // Moved away, and something else put in its place.
    fs::rename(path("a-001.json"), path("moved")).unwrap();
    fs::write(path("a-001.json"), "not ours").unwrap();
    leave(&mut files, &config, 1);
    assert_eq!(names(&folder), ["a-001.json", "a-002.json", "moved"]);
    // A link to another file of ours.
    fs::remove_file(path("a-002.json")).unwrap();
    symlink("moved", path("a-002.json")).unwrap();
    leave(&mut files, &config, 1);
    assert_eq!(
        names(&folder),
        ["a-001.json", "a-002.json", "a-003.json", "moved"]
    );
    // Removed by somebody else.
    fs::remove_file(path("a-003.json")).unwrap();
    leave(&mut files, &config, 1);
    assert_eq!(
        names(&folder),
        ["a-001.json", "a-002.json", "a-004.json", "moved"]
    );
}

#[test]
fn a_death_has_files_of_its_own() {
    let folder = folder();
    let line = "-o DIR/a.json --on-death DIR/%e-%p.txt --on-death DIR/dead.json";
    let (files, config) = files(&folder, line);
    finish(&files, &config, &sample::profile());
    assert_eq!(names(&folder), ["a.json"]);
    finish(&files, &config, &dead("a/b"));
    assert_eq!(names(&folder), ["a.json", "a_b-77.txt", "dead.json"]);
}

#[test]
fn of_deaths_the_newest_are_kept() {
    let folder = folder();
    let path = |name: &str| folder.path().join(name);
    let line = "--keep 2 -o DIR/a.json --on-death DIR/%e-%p-%t.txt";
    for name in [
        "node-1-20200101T000000Z.txt",
        "node-2-20210101T000000Z.txt",
        "node-3-20190101T000000Z.txt",
        "php-1-20200101T000000Z.txt",
        "node-1-20200101T000000Z.txt.old",
        "node-x-20200101T000000Z.txt",
        "notes.txt",
    ] {
        fs::write(path(name), "x").unwrap();
    }
    symlink("notes.txt", path("node-9-20180101T000000Z.txt")).unwrap();
    fs::create_dir(path("node-8-20180101T000000Z.txt")).unwrap();
    let (files, config) = files(&folder, line);
    finish(&files, &config, &dead("node"));
    let mut left = names(&folder);
    let newest = left.iter().position(|name| name.starts_with("node-77-20"));
    left.remove(newest.unwrap());
    assert_eq!(
        left,
        [
            "a.json",
            "node-1-20200101T000000Z.txt.old",
            "node-2-20210101T000000Z.txt",
            "node-8-20180101T000000Z.txt",
            "node-9-20180101T000000Z.txt",
            "node-x-20200101T000000Z.txt",
            "notes.txt",
            "php-1-20200101T000000Z.txt",
        ]
    );
    assert_eq!(fs::read_to_string(path("notes.txt")).unwrap(), "x");
}

#[test]
fn what_cannot_be_written_does_not_keep_the_others() {
    let folder = folder();
    let line = "--every 1s -o DIR/a.json -o DIR/b.json --on-death DIR/c.json";
    let (mut files, config) = files(&folder, line);
    for name in ["a.json", "a-001.json"] {
        fs::create_dir(folder.path().join(name)).unwrap();
    }
    let mut count = 0;
    let mut wrote = |_: &Path| count += 1;
    let error = files.write_numbered(&dead("x"), &config, &mut wrote);
    let error = error.unwrap_err();
    assert!(format!("{error:#}").contains("a-001.json"), "{error:#}");
    let error = files
        .write_final(&dead("x"), &config, &mut wrote)
        .unwrap_err();
    assert_eq!(count, 3);
    assert!(format!("{error:#}").contains("a.json"), "{error:#}");
    let expected = ["a-001.json", "a.json", "b-001.json", "b.json", "c.json"];
    assert_eq!(names(&folder), expected);
}

#[test]
fn folders_are_checked_before() {
    let folder = folder();
    for (line, part) in [
        (
            "--on-death DIR/missing/%p.svg",
            "choose another path with --on-death",
        ),
        ("-o DIR/a.svg --on-death DIR/a.svg", "same file"),
        ("-o DIR/missing/a.svg", "choose another path with -o"),
    ] {
        let config = config(&line.replace("DIR", folder.path().to_str().unwrap()));
        let error = match check(&config.outputs, &config.watching.on_death) {
            Err(error) => format!("{error:#}"),
            Ok(()) => panic!("{line}: nothing is wrong"),
        };
        assert!(error.contains(part), "{line}: {error}");
    }
}
