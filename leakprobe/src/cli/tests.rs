//! What the command line accepts, and what it says about what it does not.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use clap::CommandFactory;

use super::choosing::fail_on;
use super::*;
use crate::analyze::rank::Rank;
use crate::report::Format;

fn words(line: &str) -> Vec<String> {
    std::iter::once("leakprobe")
        .chain(line.split_whitespace())
        .map(String::from)
        .collect()
}

fn config(line: &str) -> Config {
    match parse(words(line)).map(|order| order.command) {
        Ok(Command::Record(config)) => *config,
        other => panic!("{line}: {other:?}"),
    }
}

fn error(line: &str) -> String {
    match parse(words(line)) {
        Err(ParseError::Usage(error)) => error.to_string(),
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn definitions_are_consistent() {
    Args::command().debug_assert();
}

#[test]
fn growth_has_pages() {
    let growth = config("--pid 1 --mode growth --sample-pages 100");
    assert_eq!((growth.mode, growth.sample_pages), (Mode::Growth, 128));
}

#[test]
fn another_procfs_for_all_that_looks_at_processes() {
    let proc = |line| parse(words(line)).unwrap().proc;
    assert_eq!(proc("--pid 1"), None);
    for line in ["--proc /host/proc --pid 1", "doctor --proc /host/proc"] {
        assert_eq!(proc(line), Some("/host/proc".into()), "{line}");
    }
    assert!(error("--proc /host/proc -- true").contains("--proc only makes sense"));
}

#[test]
fn a_pid_alone_gives_the_defaults() {
    let expected = Config {
        choosing: Choosing::default(),
        source: Source::Processes(vec![Selector::Pid(1234)]),
        follow: Follow::No,
        watching: Watching::default(),
        duration: None,
        interval: Duration::from_secs(5),
        outputs: Vec::new(),
        debug_dirs: Vec::new(),
        inlines: true,
        top: 10,
        min_age: None,
        min_size: 0,
        max_size: u64::MAX,
        max_live: 4_194_304,
        sample_bytes: 0,
        mode: Mode::Heap,
        sample_pages: 64,
        max_overhead: None,
        mappings: true,
        guard: true,
        stdout_format: StdoutFormat::Text,
        quiet: false,
        verbose: false,
        color: Color::Auto,
    };
    assert_eq!(config("--pid 1234"), expected);
    assert_eq!(config("-p1234"), expected);
}

#[test]
fn every_option_arrives() {
    let config = config(
        "--duration 1m30s --interval 500ms -o a.svg --output b.FOLDED -o c.json -o d.txt --top 3 \
         --debug-dir /a --debug-dir b --no-inlines \
         --min-age 10s --min-size 64KiB --max-size 10MB --max-live 1000 --sample-bytes 512KiB --max-overhead 2.5% --sort growth --suppressions known --fail-on leak --fail-on live>1MiB --no-guard --no-mappings --format json -v --color never \
         --user nobody --exit-status-of-command -- cmd --pid 5 -- -q",
    );
    let output = |path: &str, format| Output {
        path: path.into(),
        format,
    };
    let expected = Config {
        choosing: Choosing {
            sort: Rank::Growth,
            suppressions: Some("known".into()),
            fail_on: vec![fail_on("leak").unwrap(), fail_on("live>1MiB").unwrap()],
        },
        source: Source::Command {
            argv: ["cmd", "--pid", "5", "--", "-q"]
                .map(OsString::from)
                .to_vec(),
            user: Some("nobody".to_string()),
            pass_exit_status: true,
        },
        follow: Follow::ByDefault,
        watching: Watching::default(),
        duration: Some(Duration::from_secs(90)),
        interval: Duration::from_millis(500),
        outputs: vec![
            output("a.svg", Format::Svg),
            output("b.FOLDED", Format::Folded),
            output("c.json", Format::Json),
            output("d.txt", Format::Text),
        ],
        debug_dirs: vec!["/a".into(), "b".into()],
        inlines: false,
        top: 3,
        min_age: Some(Duration::from_secs(10)),
        min_size: 65_536,
        max_size: 10_000_000,
        max_live: 1000,
        sample_bytes: 524_288,
        mode: Mode::Heap,
        sample_pages: 64,
        max_overhead: Some(250),
        mappings: false,
        guard: false,
        stdout_format: StdoutFormat::Json,
        quiet: false,
        verbose: true,
        color: Color::Never,
    };
    assert_eq!(config, expected);
}

#[test]
fn a_command_named_like_a_subcommand_is_a_command() {
    let Source::Command { argv, .. } = config("-- doctor --pid 1").source else {
        panic!("not a command");
    };
    assert_eq!(argv, ["doctor", "--pid", "1"]);
}

#[test]
fn all_ways_to_name_a_process() {
    let line = "-p 1 --exe /bin/x --comm y --cgroup /a/b --container web --pid 2";
    let expected = vec![
        Selector::Pid(1),
        Selector::Pid(2),
        Selector::Container("web".to_string()),
        Selector::Cgroup("/a/b".into()),
        Selector::Comm("y".into()),
        Selector::Exe("/bin/x".into()),
    ];
    let ps = |line: &str| match parse(words(line)).map(|order| order.command) {
        Ok(Command::Ps(config)) => config,
        other => panic!("{line}: {other:?}"),
    };
    assert_eq!(ps(&format!("ps {line}")).selectors, expected);
    assert_eq!(config(line).source, Source::Processes(expected));
    let expected = PsConfig {
        selectors: Vec::new(),
        interval: Duration::from_secs(2),
        sort: Sort::Rss,
        format: StdoutFormat::Text,
    };
    assert_eq!(ps("ps"), expected);
    let expected = PsConfig {
        interval: Duration::from_millis(500),
        sort: Sort::Growth,
        format: StdoutFormat::Json,
        ..expected
    };
    assert_eq!(
        ps("ps --interval 500ms --sort growth --format json"),
        expected
    );
}

#[test]
fn what_is_followed() {
    for (line, follow) in [
        ("--pid 1", Follow::No),
        ("--comm x", Follow::No),
        ("--exe /x", Follow::No),
        ("--container x", Follow::ByDefault),
        ("--cgroup /x", Follow::ByDefault),
        ("--pid 1 --cgroup /x", Follow::ByDefault),
        ("-- x", Follow::ByDefault),
        ("--pid 1 --follow", Follow::Asked),
        ("--no-follow -- x", Follow::No),
        ("--container x --no-follow", Follow::No),
        ("--container x --mode growth", Follow::No),
        ("--mode growth -- x", Follow::No),
    ] {
        assert_eq!(config(line).follow, follow, "{line}");
    }
}

#[test]
fn subcommands() {
    let get = |line| parse(words(line)).unwrap().command;
    assert!(matches!(get("doctor"), Command::Doctor { pid: None }));
    assert!(matches!(
        get("doctor --pid 7"),
        Command::Doctor { pid: Some(7) }
    ));
    assert!(matches!(
        get("completions zsh"),
        Command::Completions(Shell::Zsh)
    ));
    assert!(matches!(get("man"), Command::Man));
    for line in ["--help", "-h", "--version", "doctor --help"] {
        assert!(
            matches!(parse(words(line)), Err(ParseError::Help(_))),
            "{line}"
        );
    }
}

#[test]
fn each_mistake_gets_one_sentence() {
    for (line, part) in [
        ("", "nothing to profile"),
        ("--", "nothing to profile"),
        ("--duration 5s", "nothing to profile"),
        ("--pid 1 -- true", "both given"),
        ("--pid 1 -o a.png", ".svg, .folded, .json, .txt"),
        ("--pid 1 -o svg", ".svg, .folded, .json, .txt"),
        ("--pid 1 -o -", "--format json"),
        ("--pid 1 -o a.svg -o a.svg", "given twice"),
        ("--pid 1 -o a.svg -o .//a.svg", "given twice"),
        (
            "--pid 1 --min-size 2K --max-size 2047",
            "--min-size (2048 bytes)",
        ),
        (
            "--pid 1 --duration 0s",
            "--duration must be longer than zero",
        ),
        (
            "--pid 1 --interval 0s",
            "--interval must be longer than zero",
        ),
        ("--pid 1 --user bob", "--user only makes sense"),
        ("--user bob", "--user only makes sense"),
        (
            "--pid 1 --exit-status-of-command",
            "--exit-status-of-command only",
        ),
        ("--pid 1 -q -v", "--quiet and --verbose"),
        ("--pid 1 --duration 30", "with its unit"),
        ("--pid 1 --min-size 4Q", "64KiB"),
        ("--pid 0", "positive number"),
        ("--pid nginx", "positive number"),
        ("--pid", "a value is required"),
        ("--container a --container b", "multiple times"),
        ("--pid 1 --follow --no-follow", "cannot be used with"),
        ("--pid 1 --mode growth --follow", "--mode heap"),
        ("ps --interval 0s", "--interval must be longer than zero"),
        ("ps --sort size", "rss, growth"),
        ("ps --user bob", "--user"),
        ("--pid 1 --max-live 0", "1..=134217728"),
        ("--pid 1 --sample-bytes 2GiB", "more than 1GiB"),
        ("--pid 1 --sample-bytes all", "64KiB"),
        ("--pid 1 --sample-pages 0", "such as 64"),
        ("--pid 1 --mode leaks", "heap, growth"),
        ("--pid 1 --sample-pages 8", "--mode growth"),
        ("--pid 1 --mode growth --sample-bytes 1", "--mode heap"),
        ("--pid 1 --mode growth --min-size 1", "--mode heap"),
        ("--pid 1 --mode growth --max-size 1", "--mode heap"),
        ("--pid 1 --format xml", "text, json"),
        ("--pid 1 --durtion 3s", "'--duration'"),
        ("sleep 5", "goes after `--`"),
        ("--pid 1 doctor", "`leakprobe doctor` first"),
        ("completions", "<SHELL>"),
    ] {
        let error = error(line);
        assert!(error.contains(part), "{line}: {error}");
        assert!(!error.contains('\n'), "{line}: {error}");
    }
}

#[test]
fn exit_statuses() {
    let status = |line| format!("{:?}", parse(words(line)).unwrap_err().report());
    assert_eq!(
        status("--pid x"),
        format!("{:?}", std::process::ExitCode::from(2))
    );
}

#[test]
fn completions_and_manual_name_every_option() {
    let mut manual = Vec::new();
    write_man(&mut manual).unwrap();
    let manual = String::from_utf8(manual).unwrap().replace("\\-", "-");
    let mut completions = Vec::new();
    write_completions(Shell::Bash, &mut completions).unwrap();
    let completions = String::from_utf8(completions).unwrap();
    for argument in Args::command().get_arguments() {
        if let Some(long) = argument.get_long() {
            assert!(manual.contains(&format!("--{long}")), "{long}");
            assert!(completions.contains(&format!("--{long}")), "{long}");
        }
        assert!(argument.get_help().is_some(), "{}", argument.get_id());
    }
}

#[test]
fn outputs_are_checked_before_they_are_needed() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let check = |names: &[&str]| {
        let outputs: Vec<_> = names
            .iter()
            .map(|name| Output::new(path(name)).unwrap())
            .collect();
        check_outputs(&outputs).map_err(|error| format!("{error:#}"))
    };
    fs::create_dir(path("directory.svg")).unwrap();
    fs::write(path("file.json"), "old").unwrap();
    symlink(path(""), path("link")).unwrap();
    nix::unistd::mkfifo(&path("fifo.svg"), nix::sys::stat::Mode::S_IRWXU).unwrap();

    assert_eq!(check(&["a.svg", "file.json"]), Ok(()));
    for (names, part) in [
        (&["directory.svg"][..], "it is a directory"),
        (&["missing/a.svg"], "does not exist; create it"),
        (&["file.json/a.svg"], "is not a directory"),
        (&["fifo.svg"], "not an ordinary file"),
        (&["a.svg", "link/a.svg"], "same file"),
    ] {
        let error = check(names).unwrap_err();
        assert!(error.contains(part), "{names:?}: {error}");
    }
    // It leaves nothing behind, and what was there untouched.
    assert_eq!(fs::read_to_string(path("file.json")).unwrap(), "old");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 4);
}

#[test]
fn a_directory_that_takes_no_files_is_named() {
    // Nobody, root included, can make files in /proc.
    let outputs = [Output::new("/proc/a.svg".into()).unwrap()];
    let error = format!("{:#}", check_outputs(&outputs).unwrap_err());
    assert!(error.contains("`/proc` is not writable"), "{error}");
}

#[test]
fn a_file_is_whole_or_not_there() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.json");
    fs::write(directory.path().join("victim"), "untouched").unwrap();
    symlink("victim", &path).unwrap();

    let failed = write_atomically(&path, |out| {
        out.write_all(b"half")?;
        Err(std::io::Error::other("no more"))
    });
    let error = format!("{:#}", failed.unwrap_err());
    assert!(
        error.contains("a.json") && error.contains("no more"),
        "{error}"
    );
    assert!(path.is_symlink());
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);

    write_atomically(&path, |out| out.write_all(b"whole")).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "whole");
    assert!(!path.is_symlink(), "a link is replaced, not followed");
    assert_eq!(
        fs::read_to_string(directory.path().join("victim")).unwrap(),
        "untouched"
    );
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(
        mode & 0o7133,
        0,
        "readable, not executable, not writable by others: {mode:o}"
    );
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);

    assert!(write_atomically(&directory.path().join("no/a.svg"), |_| Ok(())).is_err());
}
