//! Finds the rule by which a frame is left: from the tables that the user side made of the
//! target's unwind information.
//!
//! An address leads to a mapping, a page, a row, and the row names a rule. What was found is kept
//! in a cache; a cache entry is one word that holds the whole address, so it can be neither torn
//! nor taken for another's, and the number of the tables it is from, so it is never out of date.

use aya_ebpf::btf_maps::{Array as InnerArray, ArrayOfMaps};
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::Array;
use leakprobe_common::{
    CACHE_ENTRIES, CACHE_GENERATION_BITS, CHUNK_ROWS, Chunk, CodeMapping, CodeMappings, Control,
    MAX_CHUNKS, MAX_MAPPINGS, MAX_PAGES, MAX_RULES, PAGE_SIZE, Page, Row, Rule, RuleCache,
    TABLES_SLOT_SHIFT, TABLES_UNCACHED,
};

use crate::maps::{control, opaque};
use crate::process::{MANY, Owner, view};

/// Rules, by their number.
#[map]
pub static RULES: Array<Rule> = Array::with_max_entries(MAX_RULES as u32, 0);

/// Pages of rows. A module's are in one piece.
#[map]
pub static PAGES: Array<Page> = Array::with_max_entries(MAX_PAGES as u32, 0);

/// Rows, in chunks that come and go with what the target has mapped.
#[btf_map]
pub static CHUNKS: ArrayOfMaps<InnerArray<Chunk, 1>, MAX_CHUNKS> = ArrayOfMaps::new();

/// Lists of mappings. One that is in use is not written to. The user side sets how many; two do for
/// one process.
#[map]
pub static MAPPINGS: Array<CodeMappings> = Array::with_max_entries(2, 0);

/// What was found, by a part of the address.
#[map]
pub static CACHE: Array<RuleCache> = Array::with_max_entries(1, 0);

const CACHE_BITS: u32 = CACHE_ENTRIES.trailing_zeros();
/// Addresses of programs that do not ask for more (four-level page tables).
const ADDRESS_BITS: u32 = 47;
const RULE_BITS: u32 = 16;
// An entry: rule, number of the tables, and what of the address the entry's place does not tell.
const _: () = assert!(ADDRESS_BITS - CACHE_BITS + CACHE_GENERATION_BITS + RULE_BITS <= 64);

/// Instead of a rule's number: the address is in no known mapping.
pub const NO_MAPPING: u32 = u32::MAX;

/// The tables of one moment.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Tables {
    /// [`Control::Tables`]: counts up with every change; the cache's entries are marked with it.
    generation: u64,
    /// Whose they are.
    program: u64,
}

/// The tables of this moment.
#[inline(always)]
pub fn tables(owner: Owner) -> Tables {
    let mut generation = view(Control::Tables, owner.space);
    if MANY.load() != 0 {
        generation |= control(Control::Tables) & TABLES_UNCACHED;
    }
    Tables {
        generation,
        program: owner.program,
    }
}

/// -1 if `a` is less than `b`, else 0, without a branch that the verifier would follow both ways.
#[inline(always)]
fn less(a: u64, b: u64) -> u64 {
    opaque(((a as i64).wrapping_sub(b as i64) >> 63) as u64)
}

impl Tables {
    /// Those before the user side has made any.
    pub const NONE: Self = Self {
        generation: 0,
        program: 0,
    };

    /// Whether these are the same ones, so that a walk by them goes the same way.
    #[inline(always)]
    pub fn are(self, others: Self) -> bool {
        self.generation == others.generation && self.generation & TABLES_UNCACHED == 0
    }

    /// Number of the rule at an address, or [`NO_MAPPING`].
    #[inline(always)]
    pub fn find(self, address: u64) -> u32 {
        const INDEX: u64 = CACHE_ENTRIES as u64 - 1;
        let Some(cache) = CACHE.get_ptr_mut(0) else {
            return NO_MAPPING;
        };
        let high = address >> CACHE_BITS;
        let index = opaque(address ^ high) & INDEX;
        let known = high << (CACHE_GENERATION_BITS + RULE_BITS)
            | (self.generation & ((1 << CACHE_GENERATION_BITS) - 1)) << RULE_BITS;
        // SAFETY: the index is masked; an aligned word is read and written whole.
        let place = unsafe { cache.cast::<u64>().add(index as usize) };
        let entry = unsafe { core::ptr::read_volatile(place) };
        // No rule's number is 0 in the cache: an entry of zeros is an empty one.
        let cacheable = address >> ADDRESS_BITS == 0 && self.generation & TABLES_UNCACHED == 0;
        if entry >> RULE_BITS == known >> RULE_BITS && entry as u16 != 0 && cacheable {
            return entry as u32 & 0xffff;
        }
        let rule = self.search(address);
        if rule != NO_MAPPING && cacheable {
            // SAFETY: as above.
            unsafe { core::ptr::write_volatile(place, known | rule as u64) };
        }
        rule
    }

    #[inline(always)]
    fn search(self, address: u64) -> u32 {
        let Some(mappings) = MAPPINGS.get((self.generation >> TABLES_SLOT_SHIFT) as u32 & 0xffff)
        else {
            return NO_MAPPING;
        };
        let mut index = 0;
        let mut step = MAX_MAPPINGS as u64 / 2;
        while step > 0 {
            let candidate = mapping(mappings, index + step);
            index += step & !less(address, candidate.start);
            step >>= 1;
        }
        let mapping = mapping(mappings, index);
        if address < mapping.start || address >= mapping.end || mappings.program != self.program {
            return NO_MAPPING;
        }
        if mapping.pages == 0 {
            return mapping.rule;
        }
        let relative = address - mapping.bias;
        let page = relative / PAGE_SIZE;
        if page >= mapping.pages as u64 {
            return 0;
        }
        let Some(page) = PAGES.get(mapping.first_page + page as u32) else {
            return 0;
        };
        let (first, count) = (page.first as u64, page.count as u64);
        if count == 0 {
            return 0;
        }
        // Hidden: a constant could be put in one place with a global that the user side sets.
        let only = opaque(0) as u32;
        let Some(rows) = CHUNKS.get_value((first / CHUNK_ROWS as u64) as u32, &only) else {
            return 0;
        };
        let offset = relative % PAGE_SIZE;
        let mut index = 0;
        let mut step = CHUNK_ROWS as u64 / 2;
        while step > 0 {
            let candidate = row(rows, first + index + step);
            let beyond = less(count, index + step + 1);
            index += step & !(beyond | less(offset, candidate.offset as u64));
            step >>= 1;
        }
        row(rows, first + index).rule as u32
    }
}

#[inline(always)]
fn mapping(mappings: &CodeMappings, index: u64) -> &CodeMapping {
    let index = opaque(index) & (MAX_MAPPINGS as u64 - 1);
    // SAFETY: the mask keeps the index in range.
    unsafe { mappings.entries.get_unchecked(index as usize) }
}

#[inline(always)]
fn row(rows: &Chunk, index: u64) -> &Row {
    let index = opaque(index) & (CHUNK_ROWS as u64 - 1);
    // SAFETY: the mask keeps the index in range.
    unsafe { rows.get_unchecked(index as usize) }
}
