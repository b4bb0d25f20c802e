//! The verdict in words: one sentence with the figures it rests on, and what to do next. Formats print these.

use super::escape::shorten;
use super::{human, ranking, words};
use crate::analyze::verdict::{Change, Confidence, Kind, Missing, Runtime};
use crate::symbolize::{Frame, Profile, Verdict};

/// The word that a report begins with.
pub fn title(kind: Kind) -> &'static str {
    match kind {
        Kind::Leak => "LEAK",
        Kind::RetainedByAllocator => "RETAINED BY ALLOCATOR",
        Kind::RuntimeHeap => "RUNTIME HEAP",
        Kind::Peak => "PEAK",
        Kind::Steady => "STEADY",
        Kind::NotEnoughEvidence => "NOT ENOUGH EVIDENCE",
    }
}

/// `medium confidence`.
pub fn confidence(confidence: Confidence) -> &'static str {
    match confidence {
        Confidence::Low => "low confidence",
        Confidence::Medium => "medium confidence",
        Confidence::High => "high confidence",
    }
}

/// What was found. Safe to print.
pub fn sentence(profile: &Profile, verdict: &Verdict) -> String {
    let finding = &verdict.finding;
    let growth = finding
        .growth
        .as_ref()
        .map(ranking::rate)
        .unwrap_or_default();
    match finding.kind {
        Kind::Leak if finding.is_mapped => {
            let first = verdict.stacks.first();
            let first = first.map(|it| format!(", most of all by `{}`", name(&it.frames)));
            format!(
                "RSS {} ({growth}), of which the program has mapped most itself{}{}",
                finding.rss.map_or(String::new(), from_to),
                first.unwrap_or_default(),
                limit(verdict)
            )
        }
        Kind::Leak => {
            let what = match finding.leaking_stacks {
                1 => "1 stack grows on".to_owned(),
                count => format!("{} stacks grow on, together", human::count(count as u64)),
            };
            let first = verdict
                .stacks
                .first()
                .map(|it| format!(", first of all `{}`", name(&it.frames)));
            format!(
                "{what} by {growth}{}{}",
                first.unwrap_or_default(),
                limit(verdict)
            )
        }
        Kind::RetainedByAllocator => {
            let bytes = |change: Option<Change>| {
                change.map_or(String::new(), |it| human::bytes(it.end_bytes))
            };
            format!(
                "{} of {} RSS are free memory that the allocator keeps; live blocks {}{}{}",
                bytes(finding.kept),
                bytes(finding.rss),
                finding.live.map_or(String::new(), from_to),
                pinned(profile),
                limit(verdict),
            )
        }
        Kind::RuntimeHeap => format!(
            "{} {}, RSS {}{}",
            finding.runtime.map_or("a runtime's heap", whose),
            finding.runtime_heap.map_or(String::new(), from_to),
            finding.rss.map_or(String::new(), from_to),
            limit(verdict),
        ),
        Kind::Peak => format!(
            "{} were live at the peak, {} are at the end: freed again, no leak",
            human::bytes(finding.peak_bytes.unwrap_or_default()),
            human::bytes(finding.live.map_or(0, |it| it.end_bytes)),
        ),
        Kind::Steady => {
            let rss = finding.rss.map(|it| format!("; RSS {}", from_to(it)));
            let live = finding
                .live
                .map(|it| format!("live blocks {}", from_to(it)));
            format!(
                "no stack grows on; {}{}",
                live.unwrap_or_default(),
                rss.unwrap_or_default()
            )
        }
        Kind::NotEnoughEvidence => match finding.missing {
            Some(Missing::Explanation) => format!(
                "RSS {} ({growth}), and nothing that was recorded explains it{}",
                finding.rss.map_or(String::new(), from_to),
                limit(verdict)
            ),
            _ => "the recording is too short to tell growth from chance".to_owned(),
        },
    }
}

/// What helps, or what to run next: whole sentences.
pub fn next(profile: &Profile, verdict: &Verdict) -> Vec<String> {
    let finding = &verdict.finding;
    let allocator = profile.allocator.as_ref().map_or("", |it| it.name.as_str());
    let sentences: &[&str] = match (finding.kind, finding.runtime, finding.missing) {
        (Kind::RetainedByAllocator, ..) if allocator.contains("musl") => &[
            "musl gives a group of blocks back only when all of them are free: a few that stay keep it",
            "preload another allocator (jemalloc, mimalloc), use an image with glibc, or allocate what stays apart from what goes",
        ],
        (Kind::RetainedByAllocator, ..) if allocator.contains("glibc") => &[
            "call malloc_trim(0) now and then, set MALLOC_ARENA_MAX=2 if there are many threads, or preload jemalloc",
        ],
        (Kind::RetainedByAllocator, ..) => {
            &["make the allocator give back what is free, or bound its caches"]
        }
        (Kind::RuntimeHeap, Some(Runtime::V8), _) => &[
            "the objects are JavaScript's: take heap snapshots (`node --heapsnapshot-signal=SIGUSR2`) and compare them",
            "`--max-old-space-size` bounds the heap",
        ],
        (Kind::RuntimeHeap, Some(Runtime::Metaspace), _) => &[
            "classes are loaded and not unloaded: `jcmd PID VM.classloader_stats` tells by whom",
            "`-XX:MaxMetaspaceSize` bounds them",
        ],
        (Kind::RuntimeHeap, ..) => &[
            "the objects are Java's: `jcmd PID GC.class_histogram` twice, or a heap dump, tells which",
            "`-Xmx` bounds the heap",
        ],
        (Kind::Peak, ..) => &["`--sort peak` ranks the stacks by what they had live at the peak"],
        (Kind::NotEnoughEvidence, _, Some(Missing::Explanation)) => {
            &["`--mode growth` shows which code gets the pages"]
        }
        (Kind::NotEnoughEvidence, ..) => &["record for a minute or longer (`--duration 1m`)"],
        _ => &[],
    };
    sentences.iter().map(|&it| it.to_owned()).collect()
}

/// `grew from 1.0 MiB to 3.0 MiB`.
fn from_to(change: Change) -> String {
    let (start, end) = (
        human::bytes(change.start_bytes),
        human::bytes(change.end_bytes),
    );
    match () {
        () if start == end => format!("stayed at {end}"),
        () if change.growth() > 0 => format!("grew from {start} to {end}"),
        () => format!("fell from {start} to {end}"),
    }
}

fn whose(runtime: Runtime) -> &'static str {
    match runtime {
        Runtime::V8 => "V8's heap",
        Runtime::Jvm => "the Java heap",
        Runtime::Metaspace => "the JVM's metaspace",
    }
}

/// When the limit is reached.
fn limit(verdict: &Verdict) -> String {
    match verdict.finding.seconds_until_limit {
        Some(seconds) if seconds < 1e9 => {
            let time = human::duration((seconds * 1e9) as u64);
            format!("; at this rate the limit of its control group is reached in {time}")
        }
        _ => String::new(),
    }
}

/// Whose blocks keep most of the free memory from going back.
fn pinned(profile: &Profile) -> String {
    let pins = profile.heap.iter().flat_map(|heap| &heap.pins);
    let Some(first) = pins.into_iter().find(|pin| !pin.frames.is_empty()) else {
        return String::new();
    };
    format!(
        "; {} of it cannot go back because of {} of `{}`",
        human::bytes(first.pin.pinned.resident_bytes),
        human::blocks(first.pin.blocks),
        name(&first.frames)
    )
}

/// The function that stands for a stack: the innermost that is not of a C or C++ library.
fn name(frames: &[Frame]) -> String {
    const LIBRARIES: [&str; 4] = ["libc.", "libc-", "ld-musl-", "libstdc++."];
    let is_own = |frame: &&Frame| {
        let module = frame.module.as_deref().unwrap_or_default();
        frame.function.is_some() && !LIBRARIES.iter().any(|it| module.starts_with(it))
    };
    let frame = frames.iter().find(is_own).or(frames.first());
    let name = frame.map_or_else(|| words::UNKNOWN.to_owned(), words::frame);
    shorten(&name, 80).into_owned()
}
