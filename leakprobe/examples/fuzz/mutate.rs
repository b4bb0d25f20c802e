//! Makes inputs from seeds, by mutations that binary formats are known to trip over.

/// A file to start from.
pub struct Seed {
    /// Its contents.
    pub bytes: Vec<u8>,
    /// Where its numbers are: half of the mutations go there. Start and length, bytes.
    pub hot: Vec<(usize, usize)>,
}

/// Numbers that are the same for the same seed and number of input (SplitMix64).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64, number: u64) -> Self {
        let mut random = Self(seed);
        random.0 = random
            .next()
            .wrapping_add(number.wrapping_mul(0x2545_f491_4f6c_dd1d));
        random
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`; 0 if there is none.
    pub fn below(&mut self, end: usize) -> usize {
        self.next().checked_rem(end as u64).unwrap_or(0) as usize
    }
}

/// One input: a seed with some mutations. Mostly few, since many make most formats unreadable.
pub fn input(seeds: &[Seed], random: &mut Random) -> Vec<u8> {
    let seed = &seeds[random.below(seeds.len())];
    let mut bytes = seed.bytes.clone();
    let most = [2, 4, 32][random.below(3)];
    for _ in 0..=random.below(most) {
        let place = match seed.hot.get(random.below(seed.hot.len() * 2)) {
            Some(&(start, size)) => start + random.below(size),
            None => random.below(bytes.len()),
        };
        mutate(&mut bytes, place, random);
    }
    bytes
}

fn mutate(bytes: &mut Vec<u8>, place: usize, random: &mut Random) {
    let Some(byte) = bytes.get_mut(place) else {
        return;
    };
    match random.below(16) {
        0..3 => *byte ^= 1 << random.below(8),
        3..5 => *byte = random.next() as u8,
        5 => *byte = [0, 1, 0x7f, 0x80, 0xff][random.below(5)],
        6..11 => {
            let size = [1, 2, 4, 4, 8, 8][random.below(6)];
            let place = place & !(size - 1);
            let number = number(bytes, place, random).to_le_bytes();
            if let Some(there) = bytes.get_mut(place..place + size) {
                there.copy_from_slice(&number[..size]);
            }
        }
        // Copied from elsewhere.
        11..13 => {
            let size = 1 + random.below(64);
            let from = random.below(bytes.len());
            let size = size.min(bytes.len() - from).min(bytes.len() - place);
            bytes.copy_within(from..from + size, place);
        }
        13 => {
            let end = (place + 1 + random.below(32)).min(bytes.len());
            bytes.drain(place..end);
        }
        14 => {
            let size = random.below(16);
            let more: Vec<u8> = (0..size).map(|_| random.next() as u8).collect();
            bytes.splice(place..place, more);
        }
        _ => {
            if random.below(8) == 0 {
                bytes.truncate(place);
            } else {
                let end = (place + 1 + random.below(64)).min(bytes.len());
                bytes[place..end].fill([0, 0xff][random.below(2)]);
            }
        }
    }
}

/// A number that may be too large, too small, or just beside one that was right.
fn number(bytes: &[u8], place: usize, random: &mut Random) -> u64 {
    let mut old = [0; 8];
    let rest = bytes.get(place..).unwrap_or_default();
    let size = rest.len().min(8);
    old[..size].copy_from_slice(&rest[..size]);
    let old = u64::from_le_bytes(old);
    let near = random.below(17) as u64;
    match random.below(8) {
        0 => near,
        1 => near.wrapping_neg(),
        2 => old.wrapping_add(near),
        3 => old.wrapping_sub(near),
        4 => (bytes.len() as u64 + 8).wrapping_sub(near),
        5 => (1 << random.below(64)) - near.min(1),
        6 => [u32::MAX.into(), i32::MAX as u64, u64::MAX, i64::MAX as u64][random.below(4)],
        _ => random.next() >> random.below(64),
    }
}
