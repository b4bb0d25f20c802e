//! Which allocations are recorded when not all of them are: the probability by size, in classes, so
//! that both sides work with the very same numbers.

/// Classes of sizes: each size below 16, then 16 classes for each power of two.
pub const SIZE_CLASSES: usize = 1024;

/// The probability 1.
pub const CERTAIN: u64 = 1 << 32;

/// By class: the probability in 2^-32, less one, so that 1 fits as well.
pub type Chances = [u32; SIZE_CLASSES];

/// Bits of a count after the point: a sampled block stands for many, and for parts of one.
pub const COUNT_FRACTION_BITS: u32 = 20;

/// Class of a size in bytes, below [`SIZE_CLASSES`].
#[inline(always)]
pub const fn size_class(size: u64) -> u64 {
    if size < 16 {
        return size;
    }
    let exponent = 63 - size.leading_zeros() as u64;
    (exponent - 3) << 4 | (size >> (exponent - 4) & 15)
}

/// Bytes that a block of `size` bytes stands for, which was recorded with the probability `chance`
/// (in 2^-32, not 0), rounded down.
#[inline(always)]
pub const fn scaled_bytes(size: u64, chance: u64) -> u64 {
    if chance == CERTAIN {
        return size;
    }
    // The quotient of size * 2^32, in two steps since that may not fit.
    ((size / chance) << 32) + ((size % chance) << 32) / chance
}

/// Blocks that such a block stands for, in 2^-20, rounded down.
#[inline(always)]
pub const fn scaled_count(chance: u64) -> u64 {
    if chance == CERTAIN {
        return 1 << COUNT_FRACTION_BITS;
    }
    (1 << (32 + COUNT_FRACTION_BITS)) / chance
}
