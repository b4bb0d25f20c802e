//! Which allocator function it is, and how it is called: the cookie of its entry probe.

/// How a function gives its block out.
#[repr(u64)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gives {
    /// It returns the address.
    Returned = 0,
    /// It stores the address where its first argument points, and returns 0.
    Stored = 1,
    /// It returns the address, and takes its first argument, an old block, in return.
    Replaced = 2,
}

/// Functions that can be told apart, at most; a power of two.
pub const MAX_FUNCTIONS: usize = 16;

/// Stands for a function where calls are counted: the probes at system calls that map memory.
pub const SYSTEM_CALLS: usize = MAX_FUNCTIONS - 1;

/// Calls of a function.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// All that came by its probe.
    pub entered: u64,
    /// Of these, calls that were followed to their return; of a function that takes blocks back, calls
    /// with a block on record.
    pub followed: u64,
}

/// What a function gives out, and which of its first three arguments say how much. Packed into the
/// number that the kernel hands to a probe's program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature(u64);

impl Signature {
    /// Where the number of the size's argument is, two bits.
    pub const SIZE_SHIFT: u32 = 2;
    /// Where the number of the count's argument is, two bits; 3 stands for a count of one.
    pub const COUNT_SHIFT: u32 = 4;
    /// Set if the function may leave all to another probed one.
    pub const FORWARDS: u64 = 1 << 6;
    /// Where the function's number is, below [`MAX_FUNCTIONS`].
    pub const FUNCTION_SHIFT: u32 = 8;

    /// A function that asks for a size.
    pub const fn sized(gives: Gives, size: u8) -> Self {
        Self::counted(gives, 3, size)
    }

    /// A function that asks for a count of things of a size.
    pub const fn counted(gives: Gives, count: u8, size: u8) -> Self {
        let (count, size) = ((count & 3) as u64, (size & 3) as u64);
        Self(gives as u64 | size << Self::SIZE_SHIFT | count << Self::COUNT_SHIFT)
    }

    /// A function that takes a block back.
    pub const fn taking() -> Self {
        Self(0)
    }

    /// The function of this number, of which the lowest bits are taken.
    pub const fn numbered(self, function: usize) -> Self {
        let number = (function & (MAX_FUNCTIONS - 1)) as u64;
        Self(self.0 | number << Self::FUNCTION_SHIFT)
    }

    /// A function that may leave all to another probed one.
    pub const fn forwarding(self) -> Self {
        Self(self.0 | Self::FORWARDS)
    }

    /// The number.
    pub const fn cookie(self) -> u64 {
        self.0
    }
}
