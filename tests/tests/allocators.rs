//! Processes with several objects that define malloc: a library that is preloaded and passes requests on, or
//! takes its memory from the C library, and one that is loaded while recording. Blocks count once, whoever
//! gives them out.

use std::process::Command;

use leakprobe_tests::exact::{self, is_at};
use leakprobe_tests::report::{Report, Stack, Totals};
use leakprobe_tests::{Leakprobe, Summary, Victim, assert_exact, leakprobe_path, victim_path};

const JEMALLOC: &str = "/usr/lib/x86_64-linux-gnu/libjemalloc.so.2";

/// jemalloc keeps what it knows of a thread where programs have little room left once they run.
const ROOM: (&str, &str) = ("GLIBC_TUNABLES", "glibc.rtld.optional_static_tls=8192");

/// What `take_back` of the victim `dlopened` allocates and frees: blocks, and bytes.
const BACK: (u64, u64) = (10, 10 * 5000);

fn path(flavor: &str, name: &str) -> String {
    let path = victim_path(flavor, name);
    path.to_str()
        .expect("paths of victims are UTF-8")
        .to_owned()
}

fn names(report: &Report) -> Vec<&str> {
    let others = report.other_allocators.iter();
    others.map(|it| it.name.as_str()).collect()
}

/// A victim with a library before its C library.
fn preloaded(library: &str, flavor: &str, name: &str) -> Victim {
    let mut command = Command::new(victim_path(flavor, name));
    command.env("LD_PRELOAD", path(flavor, library));
    Victim::start(&mut command)
}

/// All that a victim does is in the report, once.
fn check(library: &str, flavor: &str, name: &str, options: &[&str]) {
    let mut victim = preloaded(library, flavor, name);
    // On a slow machine some do hardly anything else for 10 s.
    let leakprobe = Leakprobe::attach(victim.pid(), &[options, &["--no-guard"]].concat());
    victim.go();
    let summary = victim.summary();
    let report = leakprobe.interrupt().report();
    assert_exact(&summary, &report);
    victim.end_well();
}

#[test]
fn requests_that_are_passed_on_count_once() {
    let victims = [
        "malloc",
        "calloc",
        "realloc",
        "posix_memalign",
        "aligned_alloc",
        "memalign",
        "valloc",
        "free",
        "threads",
        "fork",
    ];
    for flavor in ["glibc", "musl"] {
        for name in victims {
            check("passing.so", flavor, name, &[]);
        }
        check("passing.so", flavor, "malloc", &["--follow"]);
    }
}

#[test]
fn chunks_of_a_pool_are_not_the_programs() {
    for flavor in ["glibc", "musl"] {
        for name in ["malloc", "calloc", "free"] {
            check("pooling.so", flavor, name, &[]);
        }
    }
}

/// An allocator without free, and the next one's.
#[test]
fn a_library_may_define_malloc_alone() {
    for flavor in ["glibc", "musl"] {
        check("watching.so", flavor, "malloc", &[]);
    }
}

#[test]
fn the_report_names_all() {
    let victim = preloaded("passing.so", "glibc", "malloc");
    let leakprobe = Leakprobe::attach(victim.pid(), &[]);
    let report = leakprobe.interrupt().report();
    let first = report.allocator.as_ref().map(|it| it.name.as_str());
    assert_eq!((first, names(&report)), (Some("passing.so"), vec!["glibc"]));
    assert_eq!(report.evidence.notes, [""; 0]);
    victim.end_well();
}

/// A block that one allocator passes on to the next is not drawn twice, nor are a pool's chunks.
#[test]
fn a_sample_is_one_of_the_programs_blocks() {
    for flavor in ["glibc", "musl"] {
        for library in ["passing.so", "pooling.so", "watching.so"] {
            let mut victim = preloaded(library, flavor, "sampled");
            let options = ["--sample-bytes", "2KiB", "--no-guard"];
            let leakprobe = Leakprobe::attach(victim.pid(), &options);
            victim.go();
            let summary = victim.summary();
            let report = leakprobe.interrupt().report();
            assert_eq!(report.evidence.verdict, "complete", "{:?}", report.evidence);
            let (truth, found) = (summary.allocated_bytes, report.totals.allocated_bytes);
            // As in the test of samples.
            assert!(
                found.abs_diff(truth) <= truth / 100,
                "{library} of {flavor}: {truth} bytes were allocated, the estimate is {found}"
            );
            victim.end_well();
        }
    }
}

/// What was called before is mapped while a command is started: nothing of its is missed.
#[test]
fn of_a_command_all_are_probed_from_the_first_call() {
    for option in ["--no-follow", "--follow"] {
        // leakprobe is started with it, too.
        let outcome = Leakprobe::start_by(
            Command::new("sh")
                .args(["-c", "printf gg | LD_PRELOAD=$1 $0 $2 -o report.json -- $3"])
                .arg(leakprobe_path())
                .arg(path("glibc", "passing.so"))
                .arg(option)
                .arg(path("glibc", "malloc")),
        )
        .finish();
        let line = outcome
            .stdout
            .lines()
            .find(|line| line.starts_with("{\"victim\""))
            .unwrap_or_else(|| panic!("no summary in {}", outcome.stdout));
        let summary: Summary = serde_json::from_str(line).expect("the summary cannot be read");
        let report = outcome.report();
        assert_exact(&summary, &report);
        let first = report.allocator.as_ref().map(|it| it.name.as_str());
        assert_eq!((first, names(&report)), (Some("passing.so"), vec!["glibc"]));
    }
}

/// A program that loads allocators.
fn loading(flavor: &str, args: &[&str]) -> Victim {
    let mut command = Command::new(victim_path(flavor, "dlopened"));
    Victim::start(command.args(args).env(ROOM.0, ROOM.1))
}

/// What `dlopened` did after the second go byte is in the report to the byte.
/// (So many processes did the same; the summary is of `said` of them.)
fn assert_late(summary: &Summary, report: &Report, processes: u64, said: u64) {
    assert_eq!(exact::contradictions(report), Vec::<String>::new());
    for leak in &summary.leaks {
        let live = sum(report, |stack| {
            is_at(leak, stack) && stack.totals.live_count > 0
        });
        let place = &leak.stack;
        let expected = (leak.bytes * processes / said, leak.count * processes / said);
        assert_eq!((live.live_bytes, live.live_count), expected, "at {place:?}");
    }
    let back = sum(report, |stack| stack.names().first() == Some(&"take_back"));
    assert_eq!(back.freed_count, processes * BACK.0);
    assert_eq!(back.freed_bytes, processes * BACK.1);
    assert_eq!(
        (back.live_count, back.allocated_count),
        (0, processes * BACK.0)
    );
}

fn sum(report: &Report, is: impl Fn(&Stack) -> bool) -> Totals {
    let mut sum = Totals::default();
    for stack in report.stacks.iter().filter(|stack| is(stack)) {
        sum += stack.totals;
    }
    sum
}

/// Lets a process load a library, and waits until leakprobe has it.
fn load(victim: &mut Victim, leakprobe: &Leakprobe, library: &str) {
    victim.go();
    assert_eq!(victim.line(), "loaded");
    leakprobe.wait_until_it_says(&format!(
        "`{library}`, which defines malloc too, was loaded"
    ));
}

#[test]
fn an_allocator_that_is_loaded_later_is_probed() {
    let pool = ("glibc", path("glibc", "pooling.so"));
    let musl = ("musl", path("musl", "pooling.so"));
    for (flavor, library) in [("glibc", JEMALLOC.to_owned()), pool, musl] {
        for (name, way) in [
            (Some("session"), "--no-follow"),
            (Some("multi"), "--no-follow"),
            (Some("single"), "--no-follow"),
            (None, "--follow"),
        ] {
            let mut victim = loading(flavor, &[&library]);
            let pid = victim.pid().to_string();
            let mut command = Command::new(leakprobe_path());
            command.args(["--pid", &pid, "-o", "report.json", way]);
            command.envs(name.map(|name| ("LEAKPROBE_ATTACH", name)));
            let leakprobe = Leakprobe::start_by(&mut command);
            leakprobe.wait_until_recording();
            load(&mut victim, &leakprobe, &library);
            victim.go();
            let summary = victim.summary();
            let report = leakprobe.interrupt().report();
            assert_late(&summary, &report, 1, 1);
            let losses = &report.evidence.losses;
            assert_eq!(losses.get("late_allocators"), Some(&1), "{losses:?}");
            assert_eq!(report.evidence.verdict, "partial");
            let file = library.rsplit('/').next().expect("a path has a last part");
            assert_eq!(names(&report), [file]);
            victim.end_well();
        }
    }
}

#[test]
fn after_an_exec_it_is_found_again() {
    for option in ["--no-follow", "--follow"] {
        let mut victim = loading("glibc", &[JEMALLOC, "exec"]);
        let leakprobe = Leakprobe::attach(victim.pid(), &[option, "-v"]);
        let found = format!("`{JEMALLOC}` is probed");
        victim.go();
        assert_eq!(victim.line(), "loaded");
        leakprobe.wait_until_it_mentions(&found);
        victim.go();
        victim.summary();
        victim.go();
        victim.wait_until_ready();
        victim.go();
        assert_eq!(victim.line(), "loaded");
        // Its probes are in place since the program before, but not all is known by which stacks are walked.
        leakprobe.wait_until_it_mentions(&found);
        victim.go();
        let summary = victim.summary();
        let report = leakprobe.interrupt().report();
        let programs = match option {
            "--follow" => 2,
            _ => 1,
        };
        assert_late(&summary, &report, programs, 1);
        let early = sum(&report, |stack| {
            stack.names().first() == Some(&"take_early")
        });
        assert!(
            (10..=10 * programs).contains(&early.live_count),
            "{early:?}"
        );
        let losses = &report.evidence.losses;
        assert_eq!(losses.get("late_allocators"), Some(&1), "{losses:?}");
        assert!(!losses.contains_key("exec_gap"), "{losses:?}");
        victim.end_well();
    }
}

#[test]
fn each_worker_that_loads_one_is_told() {
    let mut victim = loading("glibc", &[JEMALLOC, "4"]);
    let leakprobe = Leakprobe::attach(victim.pid(), &["--follow", "-v"]);
    victim.go();
    assert_eq!(victim.line(), "loaded");
    for _ in 0..4 {
        leakprobe.wait_until_it_mentions(&format!("`{JEMALLOC}` is probed"));
    }
    victim.go();
    let summary = victim.summary();
    let report = leakprobe.interrupt().report();
    assert_late(&summary, &report, 4, 4);
    let losses = &report.evidence.losses;
    assert_eq!(losses.get("late_allocators"), Some(&4), "{losses:?}");
    victim.end_well();
}
