//! Accounts of real processes, whose `/proc/PID/smaps` was kept (without most of the libraries, and of V8's pages
//! all but twelve). What is expected was summed up by other means: by what the kernel's text says of each mapping
//! alone, and for the JVM by its own native memory tracking.

use super::*;
use crate::target::regions_from;

const NODE_GLIBC: &str = include_str!("recorded/node20-glibc.smaps");
const NODE_MUSL: &str = include_str!("recorded/node24-musl.smaps");
const JVM: &str = include_str!("recorded/jvm17-g1.smaps");

/// KiB by kind.
fn kib(look: &Look<'_>) -> BTreeMap<Kind, u64> {
    let account = Account::new(0, &Seen::of(look), None);
    let sum: u64 = account.lines.iter().map(|line| line.bytes).sum();
    assert_eq!(
        difference(account.rss_bytes, sum),
        account.unexplained_bytes
    );
    let lines = account.lines.iter();
    lines.map(|line| (line.kind, line.bytes >> 10)).collect()
}

fn rss(regions: &[Region]) -> u64 {
    regions.iter().map(|it| it.rss).sum()
}

/// Stacks of these sizes in KiB at these addresses, all of it resident.
fn stacks(stacks: &[(u64, u64)]) -> ThreadStacks {
    let span = |&(start, kib): &(u64, u64)| Span {
        start,
        end: start + (kib << 10),
        rss: kib << 10,
    };
    ThreadStacks {
        threads: stacks.len() as u64,
        stacks: stacks.iter().map(span).collect(),
    }
}

#[test]
fn node_with_glibc() {
    let regions = regions_from(NODE_GLIBC);
    let kib = kib(&Look {
        rss: rss(&regions),
        regions: &regions,
        allocator: Some("glibc"),
        ..Look::default()
    });
    assert_eq!((kib[&Kind::V8Heap], kib[&Kind::V8Code]), (3548, 32));
    // The main arena and four others.
    assert_eq!(kib[&Kind::Allocator], 13_024 + 2920);
    // With the program's zeros.
    assert_eq!(
        (kib[&Kind::File], kib[&Kind::FilePrivate]),
        (37_600, 140 + 164 + 20)
    );
    assert_eq!(kib[&Kind::MainStack], 64);
}

#[test]
fn node_with_musl() {
    let regions = regions_from(NODE_MUSL);
    let kib = kib(&Look {
        rss: rss(&regions),
        regions: &regions,
        ..Look::default()
    });
    assert_eq!((kib[&Kind::V8Heap], kib[&Kind::V8Code]), (14_716, 40));
    assert_eq!((kib[&Kind::File], kib[&Kind::MainStack]), (46_768, 68));
    assert!(!kib.contains_key(&Kind::Anonymous), "{kib:?}");
}

#[test]
fn a_jvm() {
    let regions = regions_from(JVM);
    let kib = kib(&Look {
        rss: rss(&regions),
        regions: &regions,
        allocator: Some("glibc"),
        ..Look::default()
    });
    assert_eq!(kib[&Kind::JvmHeap], 85_120 + 464 + 468 + 8);
    // "Class" and "Metaspace" committed, of which 40 KiB were never touched, and the archive of classes.
    assert_eq!(
        kib[&Kind::JvmMetaspace],
        (1812 + 6880) + (256 + 156 + 828) + 10_008
    );
    assert_eq!(kib[&Kind::JvmCode], 2224 + 588 + 456);
    assert_eq!(kib[&Kind::Allocator], 104 + 23_952);
    assert!(kib[&Kind::JvmGc] >= 880 + 2556 + 1212 + 256, "{kib:?}");
}

/// A look with a heap, a mapping of 1 MiB and a file.
const SMALL: &str = "\
1000000-1100000 rw-p 00000000 00:00 0 [heap]
Rss: 1024 kB
Anonymous: 1024 kB
VmFlags: rd wr ac
2000000-2100000 rw-p 00000000 00:00 0
Rss: 512 kB
Anonymous: 512 kB
VmFlags: rd wr ac
3000000-3100000 rw-p 00000000 08:01 7 /lib/x.so
Rss: 100 kB
Anonymous: 60 kB
VmFlags: rd wr ac
";

#[test]
fn live_blocks_are_not_counted_twice() {
    let regions = regions_from(SMALL);
    let look = |resident, large: &[u64]| Look {
        rss: 1640 << 10,
        regions: &regions,
        live: Some(LiveMemory {
            resident,
            large: large.to_vec(),
        }),
        ..Look::default()
    };
    let small = kib(&look(100 << 10, &[]));
    assert_eq!(
        (small[&Kind::LiveBlocks], small[&Kind::Allocator]),
        (100, 924)
    );
    assert_eq!(small[&Kind::Anonymous], 512);
    // A mapping in which a large block begins is the allocator's.
    let large = kib(&look(600 << 10, &[0x200_0010]));
    assert_eq!(
        (large[&Kind::LiveBlocks], large[&Kind::Allocator]),
        (600, 936)
    );
    // What more is live than the heap has cannot be resident in it.
    let more = kib(&look(9000 << 10, &[]));
    assert_eq!(more.get(&Kind::Allocator), None);
    assert_eq!(more[&Kind::LiveBlocks], 1024);
    let account = Account::new(0, &Seen::of(&look(0, &[])), None);
    assert_eq!(account.unexplained_bytes, 4 << 10);
}

#[test]
fn the_allocators_own_state() {
    let regions = regions_from(SMALL);
    let span = |start, kib: u64| Span {
        start,
        end: start + (kib << 10),
        rss: kib << 10,
    };
    let look = Look {
        rss: 1636 << 10,
        regions: &regions,
        live: Some(LiveMemory {
            resident: 300 << 10,
            large: Vec::new(),
        }),
        heap: Some(HeapMemory {
            used: 500 << 10,
            free: 400 << 10,
            unreadable: 0,
        }),
        heap_spans: vec![
            span(0x100_0000, 1024),
            span(0x200_0000, 64),
            span(0x300_0000, 16),
        ],
        ..Look::default()
    };
    let kib = self::kib(&look);
    let expected = [
        (Kind::LiveBlocks, 300),
        (Kind::BeforeAttach, 200),
        (Kind::AllocatorFree, 400),
        (Kind::AllocatorOverhead, 1024 + 64 + 16 - 900),
        (Kind::Anonymous, 512 - 64),
        (Kind::FilePrivate, 60 - 16),
        (Kind::File, 40),
    ];
    assert_eq!(kib, expected.into());
    let kib = self::kib(&Look { live: None, ..look });
    // In growth mode no block is known, so none is old.
    assert_eq!(kib[&Kind::Blocks], 500);
    assert!(!kib.contains_key(&Kind::BeforeAttach), "{kib:?}");
}

#[test]
fn stacks_are_taken_out_of_what_they_are_joined_to() {
    let regions = regions_from(SMALL);
    let look = Look {
        rss: rss(&regions),
        regions: &regions,
        stacks: stacks(&[(0x200_0000, 64), (0x204_0000, 32)]),
        ..Look::default()
    };
    let parts = kib(&look);
    assert_eq!(
        (parts[&Kind::ThreadStacks], parts[&Kind::Anonymous]),
        (96, 416)
    );
    let account = Account::new(5, &Seen::of(&look), Some(&Seen::default()));
    let line = account.line(Kind::ThreadStacks).unwrap();
    assert_eq!((line.count, line.start_count), (Some(2), Some(0)));
    assert_eq!(account.growth(Kind::ThreadStacks), Some(96 << 10));
    assert_eq!(account.growth(Kind::JvmHeap), Some(0));
    assert_eq!(account.bytes(Kind::JvmHeap), 0);
}

#[test]
fn memory_that_is_shared() {
    let text = |name: &str| format!("1000000-1100000 rw-s 00000000 00:01 5 {name}\nRss: 64 kB\n");
    for (name, kind) in [
        ("/memfd:x (deleted)", Kind::SharedMemory),
        ("/dev/zero (deleted)", Kind::SharedMemory),
        ("/SYSV00000000 (deleted)", Kind::SharedMemory),
        ("/dev/shm/x", Kind::SharedMemory),
        ("/memfd:java_heap (deleted)", Kind::JvmHeap),
        ("/dev/dri/card0", Kind::Device),
        ("anon_inode:[io_uring]", Kind::Device),
        ("/data/db", Kind::File),
    ] {
        let regions = regions_from(&text(name));
        let look = Look {
            regions: &regions,
            ..Look::default()
        };
        assert_eq!(kib(&look), [(kind, 64)].into(), "{name}");
    }
}

#[test]
fn the_end_is_compared_with_the_start() {
    let (before, after) = (regions_from(SMALL), regions_from(NODE_MUSL));
    let seen = |regions: &[Region]| {
        Seen::of(&Look {
            rss: rss(regions),
            regions,
            ..Look::default()
        })
    };
    let account = Account::new(7, &seen(&after), Some(&seen(&before)));
    assert_eq!(account.start_rss_bytes, Some(1636 << 10));
    // Kinds of which there was something at either moment, in one order.
    assert!(account.lines.is_sorted_by_key(|line| line.kind));
    let anonymous = account.line(Kind::Anonymous).unwrap();
    assert_eq!(
        (anonymous.bytes, anonymous.start_bytes),
        (0, Some(512 << 10))
    );
    assert_eq!(account.growth(Kind::Anonymous), Some(-(512 << 10)));
}
