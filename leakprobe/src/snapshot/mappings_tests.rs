use std::path::PathBuf;

use super::*;

const PAGE: u64 = PAGE_BYTES;

fn event(call: u32, stack: u64, arguments: [u64; 5], result: u64) -> MappingEvent {
    MappingEvent {
        call: call.into(),
        stack,
        arguments,
        result,
        ..MappingEvent::default()
    }
}

fn before(call: u32, thread: u64, address: u64, length: u64) -> MappingEvent {
    MappingEvent {
        call: u64::from(call) | MappingSite::BEFORE,
        thread,
        arguments: [address, length, 0, 0, 0],
        ..MappingEvent::default()
    }
}

fn mmap(stack: u64, pages: std::ops::Range<u64>) -> MappingEvent {
    let length = (pages.end - pages.start) * PAGE;
    let flags = MAP_PRIVATE | MAP_ANONYMOUS;
    let arguments = [0, length, 3, flags, 0];
    event(mapping_call::MMAP, stack, arguments, pages.start * PAGE)
}

fn mapping(pages: std::ops::Range<u64>, path: &str) -> Mapping {
    Mapping {
        start: pages.start * PAGE,
        end: pages.end * PAGE,
        executable: false,
        offset: 0,
        device: (0, 0),
        inode: 0,
        path: PathBuf::from(path),
    }
}

/// First and last page, and stack.
fn ranges(mappings: &Mappings) -> Vec<(u64, u64, u64)> {
    let ranges = mappings.ranges();
    ranges
        .map(|(start, end, origin)| (start / PAGE, end / PAGE, origin.stack.id))
        .collect()
}

fn seen(events: &[MappingEvent]) -> Mappings {
    let mut mappings = Mappings::default();
    events.iter().for_each(|event| mappings.see(event));
    mappings
}

#[test]
fn a_part_and_more_than_one() {
    let all = [mmap(1, 10..20), mmap(2, 20..30)];
    let mut mappings = seen(&all);
    let length = 2 * PAGE - 1; // rounded up
    mappings.see(&event(
        mapping_call::MUNMAP,
        0,
        [12 * PAGE, length, 0, 0, 0],
        0,
    ));
    assert_eq!(ranges(&mappings), [(10, 12, 1), (14, 20, 1), (20, 30, 2)]);
    mappings.see(&event(
        mapping_call::MUNMAP,
        0,
        [15 * PAGE, 10 * PAGE, 0, 0, 0],
        0,
    ));
    assert_eq!(ranges(&mappings), [(10, 12, 1), (14, 15, 1), (25, 30, 2)]);
    mappings.see(&mmap(3, 11..26)); // MAP_FIXED
    assert_eq!(ranges(&mappings), [(10, 11, 1), (11, 26, 3), (26, 30, 2)]);
}

#[test]
fn what_is_taken_may_be_given_to_another_before_the_call_returns() {
    let mut mappings = seen(&[mmap(1, 10..20)]);
    mappings.see(&before(mapping_call::MUNMAP, 7, 10 * PAGE, 10 * PAGE));
    mappings.see(&mmap(2, 15..25));
    let arguments = [10 * PAGE, 10 * PAGE, 0, 0, 0];
    let after = MappingEvent {
        thread: 7,
        ..event(mapping_call::MUNMAP, 0, arguments, 0)
    };
    mappings.see(&after);
    assert_eq!(ranges(&mappings), [(15, 25, 2)]);
}

#[test]
fn what_failed_has_changed_nothing() {
    let error = (-22i64) as u64;
    let mut mappings = seen(&[mmap(1, 10..20), mmap(1, 20..22)]);
    let expected = ranges(&mappings);
    for call in [mapping_call::MUNMAP, mapping_call::MREMAP] {
        mappings.see(&before(call, 0, 12 * PAGE, 9 * PAGE));
        mappings.see(&event(call, 0, [12 * PAGE, 9 * PAGE, PAGE, 0, 0], error));
    }
    let arguments = [0, PAGE, 3, MAP_PRIVATE | MAP_ANONYMOUS, 0];
    mappings.see(&event(mapping_call::MMAP, 2, arguments, error));
    mappings.see(&before(mapping_call::MUNMAP, 0, 12 * PAGE + 1, PAGE));
    let pages = |ranges: &[(u64, u64, u64)]| -> u64 { ranges.iter().map(|it| it.1 - it.0).sum() };
    assert_eq!(pages(&ranges(&mappings)), pages(&expected));
    assert!(ranges(&mappings).iter().all(|it| it.2 == 1));
}

#[test]
fn what_is_moved_keeps_its_owner_and_what_is_added_has_another() {
    let mremap = |from: u64, old: u64, new: u64, flags, to: u64| {
        let arguments = [from * PAGE, old * PAGE, new * PAGE, flags, 0];
        event(mapping_call::MREMAP, 9, arguments, to * PAGE)
    };
    let mut mappings = seen(&[mmap(1, 10..14), mmap(2, 14..20)]);
    mappings.see(&mremap(12, 4, 6, 1, 40));
    let expected = [
        (10, 12, 1),
        (16, 20, 2),
        (40, 42, 1),
        (42, 44, 2),
        (44, 46, 9),
    ];
    assert_eq!(ranges(&mappings), expected);
    mappings.see(&mremap(40, 6, 3, 0, 40));
    let expected = [(10, 12, 1), (16, 20, 2), (40, 42, 1), (42, 43, 2)];
    assert_eq!(ranges(&mappings), expected);
    mappings.see(&mremap(40, 3, 4, 0, 40));
    assert_eq!(ranges(&mappings)[4], (43, 44, 9));
    mappings.see(&mremap(10, 2, 2, MREMAP_DONTUNMAP | 1, 50));
    assert_eq!(ranges(&mappings)[0], (10, 12, 1));
    assert_eq!(ranges(&mappings)[5], (50, 52, 1));
}

#[test]
fn the_heap() {
    let brk = |stack, address: u64| {
        let result = address;
        event(mapping_call::BRK, stack, [address, 0, 0, 0, 0], result)
    };
    let mut mappings = Mappings::new(&[mapping(10..12, "[heap]")], 10 * PAGE);
    mappings.see(&brk(0, 12 * PAGE));
    mappings.see(&brk(1, 14 * PAGE + 5));
    assert_eq!(ranges(&mappings), [(10, 12, 0), (12, 15, 1)]);
    mappings.see(&brk(2, 14 * PAGE + 9));
    mappings.see(&brk(3, 11 * PAGE));
    assert_eq!(ranges(&mappings), [(10, 11, 0)]);
    let mut empty = Mappings::new(&[], 10 * PAGE + 1);
    empty.see(&brk(4, 13 * PAGE));
    assert_eq!(ranges(&empty), [(11, 13, 4)]);
}

#[test]
fn what_was_recorded_before_the_mappings_were_read_is_told_again() {
    let mut mappings = Mappings::new(&[mapping(10..20, ""), mapping(50..56, "")], 0);
    mappings.see(&mmap(1, 10..20));
    let arguments = [40 * PAGE, 4 * PAGE, 6 * PAGE, 1, 0];
    mappings.see(&event(mapping_call::MREMAP, 2, arguments, 50 * PAGE));
    assert_eq!(ranges(&mappings), [(10, 20, 1), (50, 54, 0), (54, 56, 2)]);
}

#[test]
fn what_does_not_agree() {
    let mut mappings = seen(&[mmap(1, 10..20), mmap(2, 30..40)]);
    let earlier = mappings.as_of_now();
    mappings.see(&mmap(3, 70..80)); // while they are read: it may be there or not
    let mapped = [
        mapping(8..15, ""),
        mapping(30..40, "[anon:name]"),
        mapping(50..60, "[stack]"),
    ];
    let found = mappings.compare(&earlier, &mapped);
    let expected = Disagreement {
        unexplained: 2 * PAGE,
        gone: 5 * PAGE,
    };
    assert_eq!(found, expected);
    assert_eq!(ranges(&mappings), [(10, 15, 1), (30, 40, 2), (70, 80, 3)]);
    let again = mappings.compare(
        &mappings.as_of_now(),
        &[
            mapping(10..15, ""),
            mapping(30..40, ""),
            mapping(70..80, ""),
        ],
    );
    assert_eq!(again, Disagreement::default());
}

#[test]
fn what_is_given_back_stays_mapped() {
    let mut mappings = Mappings::default();
    mappings.see(&mmap(1, 16..24));
    let advise = |advice, length, result| {
        let arguments = [16 * PAGE, length, advice, 0, 0];
        event(mapping_call::MADVISE, 0, arguments, result)
    };
    mappings.see(&advise(MADV_DONTNEED, 2 * PAGE, 0));
    mappings.see(&advise(MADV_FREE, PAGE + 1, 0));
    let sequential = 2;
    mappings.see(&advise(sequential, PAGE, 0));
    let invalid = (-22_i64).cast_unsigned();
    mappings.see(&advise(MADV_DONTNEED, PAGE, invalid));
    let by_allocator = MappingEvent {
        by_allocator: 1,
        ..advise(MADV_FREE, PAGE, 0)
    };
    mappings.see(&by_allocator);
    let summary = mappings.summary(0, None);
    let of = |pages, count| Mapped {
        bytes: pages * PAGE,
        count,
    };
    let expected = Advised {
        program: of(4, 2),
        allocator: of(1, 1),
    };
    assert_eq!(summary.advised, expected);
    assert_eq!(summary.stacks[0].mapped, of(8, 1));
}
