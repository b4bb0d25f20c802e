//! What a program maps beside its allocator: by stack in the report, and range by range as the kernel tells
//! it. Only for the latter leakprobe is used as a library, which no other test does: a report is too late.

use std::time::Instant;

use leakprobe::probe::{Limits, Probes, system_calls};
use leakprobe::snapshot::Event;
use leakprobe::snapshot::mappings::{Disagreement, Mappings};
use leakprobe::target::{Allocator, Mapping, Process, pages};
use leakprobe::unwind::image::Image;
use leakprobe_tests::code::patched_code;
use leakprobe_tests::{LIMIT, Leakprobe, Report, Summary, Victim};
use rustix::process::Signal;

/// Of each flavor, by one thread and by several.
const OPERATIONS: usize = 10_000;

/// Lets a victim map and unmap at random, and compares what is known of its ranges with what the kernel says
/// each time it stands still, which is after so many operations of each of its threads.
fn follow(flavor: &str, threads: usize, steps: usize) {
    let seed = std::process::id().to_string();
    let arguments = [seed.as_str(), &threads.to_string(), &steps.to_string()];
    let mut victim = Victim::spawn_with(flavor, "remap", &arguments);
    let process = Process::open(victim.pid()).expect("a process");
    let limits = Limits {
        max_live: 1,
        min_size: 0,
        max_size: u64::MAX,
        sample_bytes: 0,
        pages: None,
        changing: false,
        many: false,
        follow: false,
    };
    let mut probes = Probes::load(&process, limits, false).expect("programs");
    let mut events = probes.events().expect("a ring buffer");
    for object in Allocator::objects(&process).expect("mappings") {
        let file = object.open(process.pid()).expect("a mapped file");
        let image = Image::open(&file).expect("an object");
        let sites = system_calls::find(&image, &system_calls::MAPPINGS).expect("code");
        if !sites.points.is_empty() {
            probes
                .attach_calls(
                    &process,
                    (object.identity(), &file),
                    &sites.points,
                    system_calls::MAPPINGS.program,
                )
                .expect("probes");
        }
    }
    let read = || Mapping::read_all(process.pid()).expect("mappings");
    let mut mappings = Mappings::new(&read(), pages::heap_start(process.pid()));
    let mut seen = 0;
    for round in 0..OPERATIONS / (threads * steps) {
        victim.go();
        assert_eq!(victim.line(), "done");
        while let Some(record) = events.next() {
            if let Some(Event::Mapping(event)) = Event::parse(&record) {
                mappings.see(&event);
                seen += 1;
            }
        }
        let found = mappings.compare(&mappings.as_of_now(), &read());
        assert_eq!(
            found,
            Disagreement::default(),
            "{flavor}, {threads} threads, seed {seed}, round {round}"
        );
    }
    println!("{flavor}: {seen} records of {OPERATIONS} operations by {threads} threads");
    assert!(seen > OPERATIONS / 2, "{seen} records");
    victim.end_well();
}

#[test]
fn random_system_calls_one_by_one() {
    for flavor in ["glibc", "musl", "glibc-static", "musl-static"] {
        follow(flavor, 1, 1);
    }
}

/// Where threads are given the addresses that another one has just given back.
#[test]
fn random_system_calls_of_threads() {
    for flavor in ["glibc", "musl", "glibc-static", "musl-static"] {
        follow(flavor, 4, 25);
    }
}

/// Bytes and calls of the program at a place: names in its stacks, one after the other.
fn at(report: &Report, place: &[impl AsRef<str>]) -> (u64, u64) {
    let mappings = report.mappings.as_ref().expect("mappings");
    let is_at = |names: &[&str]| {
        names.windows(place.len()).any(|it| {
            it.iter()
                .zip(place)
                .all(|(name, part)| *name == part.as_ref())
        })
    };
    let stacks = mappings.stacks.iter();
    let own = stacks.filter(|stack| stack.owner == "program" && is_at(&stack.names()));
    own.map(|stack| stack.mapped)
        .fold((0, 0), |sum, it| (sum.0 + it.bytes, sum.1 + it.count))
}

fn assert_mapped(summary: &Summary, report: &Report, what: &str) {
    let mappings = report.mappings.as_ref().expect("mappings");
    let stacks: Vec<_> = mappings
        .stacks
        .iter()
        .map(|it| (&*it.owner, it.mapped, it.names()))
        .collect();
    let (mut bytes, mut calls) = (0, 0);
    for leak in &summary.leaks {
        let found = at(report, &leak.stack);
        let expected = match leak.stack[0].as_str() {
            "take_blocks" => (0, 0), // the allocator's, whatever it has mapped for them
            _ => (leak.bytes, leak.count),
        };
        assert_eq!(found, expected, "{what}: {:?} of {stacks:#?}", leak.stack);
        (bytes, calls) = (bytes + found.0, calls + found.1);
    }
    let (thread_bytes, threads) = at(report, &["start_threads", "main"]);
    assert_eq!(threads, 3, "{what}: {stacks:#?}");
    assert!(thread_bytes > 3 * 100_000, "{what}: {stacks:#?}");
    let program = (mappings.program.bytes, mappings.program.count);
    assert_eq!(
        program,
        (bytes + thread_bytes, calls + threads),
        "{what}: {stacks:#?}"
    );
    assert!(mappings.allocator.bytes >= 6 << 20, "{what}: {stacks:#?}");
    let advised = mappings.advised.program;
    assert_eq!((advised.bytes, advised.count), (4 * 4096, 2), "{what}");
    assert_eq!(mappings.unexplained_bytes, Some(0), "{what}");
    let losses = &report.evidence.losses;
    assert!(!losses.contains_key("mappings_gone"), "{what}: {losses:?}");
}

/// Also where calls of the allocator are left out by chance, and so none is seen in flight.
#[test]
fn what_each_stack_has_mapped() {
    for flavor in ["glibc", "musl", "glibc-static", "musl-static"] {
        for options in [&[][..], &["--sample-bytes", "1GiB"]] {
            let mut victim = Victim::spawn(flavor, "mapped");
            let leakprobe = Leakprobe::attach(victim.pid(), options);
            victim.go();
            let summary = victim.summary();
            let report = leakprobe.interrupt().report();
            victim.end_well();
            assert_mapped(&summary, &report, &format!("{flavor} {options:?}"));
            assert_eq!(report.evidence.verdict, "complete");
        }
    }
}

#[test]
fn not_if_it_is_not_wanted() {
    let mut victim = Victim::spawn("glibc", "mapped");
    let leakprobe = Leakprobe::attach(victim.pid(), &["--no-mappings"]);
    victim.go();
    victim.summary();
    let report = leakprobe.interrupt().report();
    victim.end_well();
    assert!(report.mappings.is_none());
}

/// Threads that do little else than run into these probes go on unharmed when leakprobe is gone.
#[test]
fn killed_in_the_middle() {
    for flavor in ["glibc", "musl", "musl-static"] {
        let mut victim = Victim::spawn_with(flavor, "remap", &["1", "4", "3000"]);
        let round = |victim: &mut Victim| {
            victim.go();
            assert_eq!(victim.line(), "done");
        };
        round(&mut victim);
        let leakprobe = Leakprobe::attach(victim.pid(), &[]);
        assert_ne!(patched_code(victim.pid()), []);
        round(&mut victim);
        victim.go();
        leakprobe.signal(Signal::KILL);
        assert_eq!(leakprobe.end().status.code(), None);
        assert_eq!(victim.line(), "done");
        let until = Instant::now() + LIMIT;
        while !patched_code(victim.pid()).is_empty() {
            assert!(Instant::now() < until, "{:?}", patched_code(victim.pid()));
            round(&mut victim);
        }
        round(&mut victim);
        victim.end_well();
    }
}
