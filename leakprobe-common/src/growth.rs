//! Growth mode: which pages are recorded, so that both sides choose the same ones.

/// Bytes of a page.
pub const PAGE_BYTES: u64 = 4096;

/// Bytes of a huge page, which one fault may bring.
pub const HUGE_BYTES: u64 = 2 << 20;

/// Bit of a [`crate::BlockKey`]'s address: the record is of a huge page.
pub const HUGE_MARK: u64 = 1;

/// Whether a page is recorded: one in 2^`shift` is. It depends on the address alone, so that all faults of
/// a page are seen or none; and on a number drawn at the attach, so that no pattern of addresses
/// meets always the same ones.
#[inline(always)]
pub const fn is_chosen(address: u64, seed: u64, shift: u64) -> bool {
    // The finalizer of MurmurHash3: each bit of the page number changes half of the result's.
    let mut hash = (address / PAGE_BYTES) ^ seed;
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^= hash >> 33;
    hash & ((1 << (shift & 63)) - 1) == 0
}
