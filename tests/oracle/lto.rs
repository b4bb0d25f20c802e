//! Allocates on thousands of different stacks of Rust, built with LTO and without frame pointers:
//! steps chosen at random, nested to a random depth, through closures, trait objects, iterators,
//! sorting, formatting, threads, and panics that are caught. Every eighth block stays.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::fmt::{self, Display, Write as _};
use std::io::{Read, Write};
use std::panic::{catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex, Once};

thread_local! {
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    /// How many more steps.
    static BUDGET: Cell<u32> = const { Cell::new(0) };
    static RANDOM: Cell<u32> = const { Cell::new(1) };
}

fn below(limit: u32) -> u32 {
    let next = RANDOM
        .get()
        .wrapping_mul(1_664_525)
        .wrapping_add(1_013_904_223);
    RANDOM.set(next);
    (next >> 8) % limit
}

fn keep<T>(block: T) {
    if below(8) == 0 {
        std::mem::forget(block);
    }
}

const LEAVES: &[fn()] = &[
    || keep(vec![0_u8; 1 + below(99) as usize]),
    || keep(Box::new([DEPTH.get(); 9])),
    || keep(format!("{} and {:?}", DEPTH.get(), Some("text"))),
    || keep(Arc::new(Mutex::new(String::from("a text")))),
    || {
        keep(
            (0..5)
                .map(|n| (n.to_string(), n))
                .collect::<BTreeMap<_, _>>(),
        )
    },
    || {
        keep(
            (0..5)
                .map(|n| (n.to_string(), n))
                .collect::<HashMap<_, _>>(),
        )
    },
    || {
        keep(
            "one two three"
                .split(' ')
                .map(str::to_uppercase)
                .collect::<Vec<_>>()
                .join("-"),
        )
    },
    || keep(std::fs::read_dir("/proc/self/task").map(Iterator::count)),
    || keep(std::env::current_dir()),
    || keep(std::ffi::CString::new("text")),
    || keep(catch_unwind(|| resume_unwind(Box::new(5)))),
];

/// Counts items by way of a map's entries.
trait Pairs: Iterator {
    fn pairs(self) -> BTreeMap<Self::Item, u32>
    where
        Self: Sized,
        Self::Item: Ord,
    {
        let mut map = BTreeMap::new();
        for item in self {
            map.entry(item)
                .and_modify(|count| *count += 1)
                .or_insert_with(|| {
                    nest();
                    1
                });
        }
        map
    }
}
impl<I: Iterator> Pairs for I {}

trait Shape {
    fn area(&self, scale: u32) -> u32;
}
struct Square(u32);
struct Scaled(Box<dyn Shape>, [u64; 20]);
impl Shape for Square {
    fn area(&self, scale: u32) -> u32 {
        nest();
        self.0 * scale
    }
}
impl Shape for Scaled {
    fn area(&self, scale: u32) -> u32 {
        self.0.area(scale + 1) + self.1[3] as u32
    }
}

struct Nested;
impl Display for Nested {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        nest();
        f.pad("nested")
    }
}

struct Guard;
impl Drop for Guard {
    fn drop(&mut self) {
        let depth = DEPTH.replace(DEPTH.get().min(2));
        nest();
        DEPTH.set(depth);
    }
}

fn recurse(levels: u32, sum: &mut dyn FnMut(u32)) {
    let mut room = [0_u64; 30];
    std::hint::black_box(&mut room);
    if levels == 0 {
        return nest();
    }
    recurse(levels - 1, &mut |n| sum(n + room[1] as u32));
    sum(levels);
}

const STEPS: &[fn()] = &[
    || keep(Scaled(Box::new(Square(2)), [0; 20]).area(below(3))),
    || (Box::new(nest) as Box<dyn Fn()>)(),
    || {
        keep(
            (0..3)
                .map(|n| {
                    nest();
                    n
                })
                .filter(|n| n % 2 == 0)
                .collect::<Vec<_>>(),
        )
    },
    || {
        [5, 2, 4, 1].sort_by(|a: &i32, b| {
            if below(3) == 0 {
                nest()
            }
            a.cmp(b)
        })
    },
    || {
        [5, 2, 4, 1].sort_unstable_by_key(|a: &i32| {
            if below(4) == 0 {
                nest()
            }
            -a
        })
    },
    || {
        let _ = write!(String::new(), "{:>20} {}", Nested, 1.5);
    },
    || keep(format!("{Nested:<10}")),
    || {
        let _guard = Guard;
        nest()
    },
    || {
        keep(catch_unwind(|| {
            let _guard = Guard;
            nest();
            resume_unwind(Box::new("caught"))
        }))
    },
    || recurse(below(4), &mut |_| {}),
    || keep("abcab".chars().pairs()),
    || Once::new().call_once(nest),
    || {
        if below(4) > 0 {
            return nest();
        }
        let (depth, random) = (DEPTH.get(), below(1 << 20));
        let thread = std::thread::spawn(move || {
            DEPTH.set(depth);
            BUDGET.set(10);
            RANDOM.set(random);
            nest();
        });
        thread.join().expect("nothing escapes");
    },
    || {
        keep(
            std::iter::successors(Some(2_u32), |n| {
                nest();
                (*n > 0).then(|| n - 1)
            })
            .count(),
        )
    },
    || {
        keep(
            HashMap::<u32, String>::new()
                .entry(1)
                .or_insert_with(|| {
                    nest();
                    "text".into()
                })
                .clone(),
        )
    },
];

#[inline(never)]
fn nest() {
    let depth = DEPTH.get();
    let budget = BUDGET.replace(BUDGET.get().saturating_sub(1));
    if depth == 0 || budget == 0 || below(6) == 0 {
        return LEAVES[below(LEAVES.len() as u32) as usize]();
    }
    DEPTH.set(depth - 1);
    STEPS[below(STEPS.len() as u32) as usize]();
    DEPTH.set(depth);
}

fn main() {
    println!("ready {}", std::process::id());
    let mut byte = [0];
    std::io::stdin()
        .read_exact(&mut byte)
        .expect("stdin can be read");
    for _ in 0..1500 {
        DEPTH.set(1 + below(9));
        BUDGET.set(30);
        nest();
    }
    println!("done");
    std::io::stdout().flush().expect("stdout can be written");
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}
