//! The table, and by simulation that estimates are right on the average and intervals as often as
//! they say. The seeds are fixed: these tests pass or fail always.

use super::*;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// SplitMix64: small, and good enough for this.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((bits ^ (bits >> 31)) >> 32) as u32
    }
}

/// Sizes between two, each power of two as often as any other.
fn mixed(count: usize, from: u64, to: u64) -> Vec<u64> {
    let mut random = Random(7);
    let octaves = (to as f64 / from as f64).log2();
    let mut size = || {
        let exponent = f64::from(random.next()) / CERTAIN as f64 * octaves;
        (from as f64 * exponent.exp2()) as u64
    };
    (0..count).map(|_| size()).collect()
}

/// What came out of many recordings of the same blocks.
#[derive(Debug)]
struct Outcome {
    /// Mean of the estimates over the truth, bytes and blocks.
    mean: (f64, f64),
    /// Percent of the recordings with anything in them whose interval holds the truth, bytes and
    /// blocks.
    coverage: (f64, f64),
}

fn simulate(blocks: &[u64], rate: u64, runs: u64) -> Outcome {
    let chances = chances(rate);
    let drawn: Vec<(u64, u32)> = blocks
        .iter()
        .map(|&size| (size, chances[size_class(size) as usize]))
        .collect();
    let bytes: u64 = blocks.iter().sum();
    let count = blocks.len() as u64;
    let mut random = Random(42);
    let (mut mean, mut held, mut seen) = ((0.0, 0.0), (0.0, 0.0), 0.0);
    let within = |truth, (low, high)| f64::from(u8::from(low <= truth && truth <= high));
    for _ in 0..runs {
        let mut estimate = Estimate::default();
        for &(size, chance) in &drawn {
            if random.next() <= chance {
                estimate.add(size, u64::from(chance) + 1);
            }
        }
        mean.0 += estimate.bytes() as f64 / bytes as f64 / runs as f64;
        mean.1 += estimate.count() as f64 / count as f64 / runs as f64;
        if estimate == Estimate::default() {
            continue;
        }
        let interval = estimate.interval();
        held.0 += within(bytes, interval.live_bytes);
        held.1 += within(count, interval.live_count);
        seen += 1.0;
    }
    Outcome {
        mean,
        coverage: (100.0 * held.0 / seen, 100.0 * held.1 / seen),
    }
}

fn assert_within(what: &str, value: f64, (low, high): (f64, f64)) {
    assert!(low <= value && value <= high, "{what}: {value}");
}

#[test]
fn classes_and_their_sizes_are_inverse() {
    for class in 0..=size_class(u64::MAX) {
        let (first, last) = sizes(class).unwrap();
        assert_eq!((size_class(first), size_class(last)), (class, class));
        assert!(first == 0 || size_class(first - 1) == class - 1);
    }
    assert_eq!(sizes(size_class(u64::MAX)).unwrap().1, u64::MAX);
    assert_eq!(sizes(SIZE_CLASSES as u64 - 1), None);
}

#[test]
fn chances_follow_the_formula() {
    let rate = 512 * KIB;
    let chances = chances(rate);
    let probability =
        |size: u64| (f64::from(chances[size_class(size) as usize]) + 1.0) / CERTAIN as f64;
    for (size, tolerance) in [
        (1, 1e-4),
        (16, 1e-4),
        (31, 1e-4),
        (1000, 0.03),
        (70_000, 0.03),
        (MIB, 0.03),
        (16 * MIB, 1e-6),
    ] {
        let exact = 1.0 - (-(size as f64) / rate as f64).exp();
        assert!(
            (probability(size) / exact - 1.0).abs() < tolerance,
            "{size}: {} instead of {exact}",
            probability(size)
        );
    }
    assert_eq!(probability(0), probability(1));
    assert_eq!(probability(u64::MAX), 1.0);
    assert!(chances.is_sorted());
}

#[test]
fn no_chance_is_lost_and_none_is_left_without_a_rate() {
    // Four in 2^32 for a block of one byte: coarse, but never none, and known exactly.
    assert_eq!(chances(1 << 30)[0], 3);
    assert_eq!(chances(u64::MAX)[0], 0);
    assert!(chances(0).iter().all(|&chance| chance == u32::MAX));
}

#[test]
fn what_is_certain_is_exact() {
    let mut estimate = Estimate::default();
    for size in [0, 1, 16, 4097, 1 << 40] {
        estimate.add(size, CERTAIN);
    }
    let (bytes, count) = ((1 << 40) + 4114, 5);
    assert_eq!((estimate.bytes(), estimate.count()), (bytes, count));
    let expected = Interval {
        live_bytes: (bytes, bytes),
        live_count: (count, count),
    };
    assert_eq!(estimate.interval(), expected);
}

#[test]
fn nonsense_of_the_map_is_survived() {
    let mut estimate = Estimate::default();
    for chance in [0, CERTAIN, u64::MAX] {
        estimate.add(1, chance);
    }
    assert_eq!(estimate.interval().live_count, (3, 3));
    estimate.add(u64::MAX, 1);
    let Interval {
        live_bytes: (low, high),
        ..
    } = estimate.interval();
    assert!(low <= estimate.bytes() && estimate.bytes() <= high);
}

#[test]
fn an_interval_holds_its_estimate_and_what_was_recorded() {
    for rate in [4 * KIB, 512 * KIB] {
        let chances = chances(rate);
        for size in [1, 100, 4096, 500_000, 3 * MIB] {
            let mut estimate = Estimate::default();
            for blocks in 1..20 {
                estimate.add(size, u64::from(chances[size_class(size) as usize]) + 1);
                let Interval {
                    live_bytes,
                    live_count,
                } = estimate.interval();
                assert!(size * blocks <= live_bytes.0 && blocks <= live_count.0);
                assert!((live_bytes.0..=live_bytes.1).contains(&estimate.bytes()));
                assert!((live_count.0..=live_count.1).contains(&estimate.count()));
            }
        }
    }
}

#[test]
fn the_interval_of_blocks_of_one_size_is_the_binomial_score_interval() {
    // Wilson's interval for a share of 10 of n at p = 1/4, solved for n.
    let mut estimate = Estimate::default();
    (0..10).for_each(|_| estimate.add(1, CERTAIN / 4));
    let score = |n: f64| (10.0 - n * 0.25) / (n * 0.25 * 0.75).sqrt();
    let (low, high) = estimate.interval().live_count;
    assert!(score(low as f64) >= Z && score(low as f64 + 1.0) <= Z);
    assert!(score(high as f64) <= -Z && score(high as f64 - 1.0) >= -Z);
}

#[test]
fn sums_of_stacks_are_as_of_all_their_blocks() {
    let of = |sizes: &[u64]| {
        let mut estimate = Estimate::default();
        for &size in sizes {
            estimate.add(size, size * 1_000_000);
        }
        estimate
    };
    let both = of(&[100, 200, 300, 4000]);
    let mut one = of(&[100, 200]);
    one.merge(&of(&[300, 4000]));
    assert_eq!(one.interval(), both.interval());
    assert_eq!((one.bytes(), one.count()), (both.bytes(), both.count()));
}

#[test]
fn blocks_of_all_sizes() {
    let blocks = mixed(1000, 16, MIB);
    for rate in [4, 32, 128, 512] {
        let Outcome { mean, coverage } = simulate(&blocks, rate * KIB, 2000);
        assert_within("mean of bytes", mean.0, (0.99, 1.01));
        assert_within("coverage of bytes", coverage.0, (92.0, 98.0));
        // What is wrong: when some small blocks are not seen, nothing tells that they exist. The
        // bytes are missed little by that, the blocks much (docs/sampling.md).
        assert!(coverage.1 < 92.0, "better than documented: {}", coverage.1);
    }
}

#[test]
fn blocks_of_similar_sizes() {
    for (blocks, rate) in [
        (vec![100; 10_000], 8),
        (vec![100; 10_000], 64),
        (vec![64 * KIB; 100], 64),
        (vec![64 * KIB; 100], 512),
        (mixed(5000, 256, KIB), 16),
        (mixed(5000, 256, KIB), 128),
    ] {
        let Outcome { mean, coverage } = simulate(&blocks, rate * KIB, 3000);
        assert_within("mean of bytes", mean.0, (0.99, 1.01));
        assert_within("mean of blocks", mean.1, (0.99, 1.01));
        assert_within("coverage of bytes", coverage.0, (92.0, 98.0));
        assert_within("coverage of blocks", coverage.1, (92.0, 98.0));
    }
}

/// Large blocks, which are certain, must not hide how little is known of the small ones.
#[test]
fn few_recorded_blocks_beside_certain_ones() {
    let mut blocks = vec![4 * MIB; 10];
    blocks.extend(vec![100; 5000]);
    let Outcome { mean, coverage } = simulate(&blocks, 64 * KIB, 3000);
    assert_within("mean of bytes", mean.0, (0.99, 1.01));
    assert_within("coverage of bytes", coverage.0, (92.0, 98.0));
}

#[test]
fn a_stack_of_three_times_the_rate_appears_in_95_of_100() {
    let chance = f64::from(chances(64 * KIB)[size_class(96) as usize]) / CERTAIN as f64;
    let blocks = (3 * 64 * KIB / 96) as i32;
    assert_within("missing", (1.0 - chance).powi(blocks), (0.045, 0.055));
}
