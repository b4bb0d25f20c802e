//! Unwind tables as the kernel side reads them: rules in rows, rows in pages, pages by mapping.
//!
//! A row says by which rule a frame is left whose code lies between the row's address and the next
//! row's. Rules are few, so each exists once, and a row is four bytes.

/// Bytes of code that one page of rows is about.
pub const PAGE_SIZE: u64 = 1 << 16;

/// Rows of one chunk, 64 KiB. All rows of a page are in one chunk.
pub const CHUNK_ROWS: usize = 1 << 14;

/// Chunks of rows, at most (64 MiB of rows).
pub const MAX_CHUNKS: usize = 1 << 10;

/// Pages, at most (1 GiB of code).
pub const MAX_PAGES: usize = 1 << 14;

/// Rules, at most: as many as a row can name.
pub const MAX_RULES: usize = 1 << 16;

/// Executable mappings of one process, at most; a power of two.
pub const MAX_MAPPINGS: usize = 1 << 10;

/// How a frame is left: where the caller's stack pointer, frame pointer and return address are. On
/// x86-64 the return address is always in the word below the CFA (the canonical frame address: the
/// caller's stack pointer after the call).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    /// Bytes, see [`RuleKind`].
    pub cfa_offset: i32,
    /// Where the caller's frame pointer is, in words from what [`Rule::fp`] names.
    pub fp_offset: i16,
    /// [`RuleKind`].
    pub kind: u8,
    /// Low half: [`FpRule`]. High half: words to add after the dereference of
    /// [`RuleKind::SpDeref`] and [`RuleKind::FpDeref`], 0 to 15.
    pub fp: u8,
}

/// How the CFA is found.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleKind {
    /// Nothing is known of this code: a gap between functions, or code without unwind information.
    None = 0,
    /// The unwind information says something that these rules cannot.
    Unsupported = 1,
    /// The outermost frame: nobody called it.
    End = 2,
    /// Stack pointer plus [`Rule::cfa_offset`].
    Sp = 3,
    /// Frame pointer plus [`Rule::cfa_offset`].
    Fp = 4,
    /// Of a procedure linkage table: stack pointer plus 8, plus 8 more from the 11th byte of each
    /// 16 byte entry on, where the relocation index has been pushed.
    Plt = 5,
    /// The word at stack pointer plus [`Rule::cfa_offset`], plus the words in [`Rule::fp`].
    SpDeref = 6,
    /// The word at frame pointer plus [`Rule::cfa_offset`], plus the words in [`Rule::fp`].
    FpDeref = 7,
    /// The trampoline to which a signal handler returns: the stack pointer points to a `ucontext`,
    /// which holds all registers.
    Signal = 8,
}

/// Where the caller's frame pointer is.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FpRule {
    /// Still in its register.
    Same = 0,
    /// In the word at the CFA plus [`Rule::fp_offset`] words.
    Cfa = 1,
    /// In the word at the frame pointer plus [`Rule::fp_offset`] words.
    Fp = 2,
    /// In the word at the stack pointer plus [`Rule::fp_offset`] words.
    Sp = 3,
    /// Nobody knows.
    Lost = 4,
}

/// A row of a page.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// Address within the page, bytes.
    pub offset: u16,
    /// Number of the rule.
    pub rule: u16,
}

/// Rows of one chunk: one map value.
pub type Chunk = [Row; CHUNK_ROWS];

/// The rows of [`PAGE_SIZE`] bytes of code, sorted by address; the first is at the page's start.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Number of the first row, counted over all chunks.
    pub first: u32,
    /// How many rows, 1 to [`CHUNK_ROWS`]; 0 where nothing is known.
    pub count: u32,
}

/// An executable mapping.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeMapping {
    /// First address.
    pub start: u64,
    /// Address after the last.
    pub end: u64,
    /// What to take from an address to get where it is in the pages.
    pub bias: u64,
    /// Number of the first page.
    pub first_page: u32,
    /// How many pages; 0 if one rule serves the whole mapping.
    pub pages: u32,
    /// That rule.
    pub rule: u32,
    /// Nothing.
    pub unused: u32,
}

/// The executable mappings of a process: one map value.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CodeMappings {
    /// Which program they belong to, as in [`crate::StackKey`].
    pub program: u64,
    /// Sorted by address. What is not used starts at the end of all addresses.
    pub entries: [CodeMapping; MAX_MAPPINGS],
}

/// Why a stack ends where it ends.
#[repr(u64)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StackEnd {
    /// The thread starts there: the stack is whole.
    Start = 0,
    /// It has more frames than are recorded.
    DepthLimit = 1,
    /// The code is in no mapping that was known by then.
    NoMapping = 2,
    /// The code has no unwind information.
    NoRow = 3,
    /// The unwind information is of a kind that is not followed.
    Unsupported = 4,
    /// The stack's memory could not be read.
    UnreadableStack = 5,
    /// The caller's frame would lie below its callee's.
    WrongWay = 6,
}

impl StackEnd {
    /// All of them, by their value.
    pub const ALL: [Self; 7] = [
        Self::Start,
        Self::DepthLimit,
        Self::NoMapping,
        Self::NoRow,
        Self::Unsupported,
        Self::UnreadableStack,
        Self::WrongWay,
    ];

    /// Name in reports; `None` if the stack is whole.
    pub const fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::Start => return None,
            Self::DepthLimit => "depth_limit",
            Self::NoMapping => "no_mapping",
            Self::NoRow => "no_row",
            Self::Unsupported => "unsupported",
            Self::UnreadableStack => "unreadable_stack",
            Self::WrongWay => "wrong_way",
        })
    }
}

/// Bit of [`crate::Control::Tables`]: nothing may be taken from the cache of rules or put there.
pub const TABLES_UNCACHED: u64 = 1 << 63;

/// From this bit of [`crate::Control::Tables`] on, 16 bits are the number of the [`CodeMappings`].
pub const TABLES_SLOT_SHIFT: u32 = 32;

/// Bits of [`crate::Control::Tables`] with which the cache of rules marks its entries. Before they
/// start over, the user side clears the cache.
pub const CACHE_GENERATION_BITS: u32 = 14;

/// Entries of the cache of rules; a power of two.
pub const CACHE_ENTRIES: usize = 1 << 13;

/// The cache of rules: one map value.
pub type RuleCache = [u64; CACHE_ENTRIES];
