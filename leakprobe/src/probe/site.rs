//! Where in a function to put its probe.
//!
//! A probe at a function's first byte always works, but the kernel executes only a few instructions
//! itself; every other one costs a second trap, up to twenty times the price. Most functions
//! have a cheap instruction a few bytes further on where arguments and stack are still those of the
//! caller, and this module finds it. It decides from bytes alone: it reads no file, attaches
//! nothing, and does not know what the function does. What is particular to a processor is in
//! [`crate::probe::arch`].

use std::fmt;

/// Bytes to look at when the size of a function is not known.
pub const UNKNOWN_SIZE: usize = 256;

/// How many of a function's integer arguments the probe reads. They must still be in their
/// registers at the site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Arguments {
    /// The first.
    One,
    /// The first two.
    Two,
    /// The first three.
    Three,
}

impl Arguments {
    /// The number, 1 to 3.
    pub const fn count(self) -> usize {
        match self {
            Arguments::One => 1,
            Arguments::Two => 2,
            Arguments::Three => 3,
        }
    }
}

/// What a hit of the probe costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SiteCost {
    /// One trap: the kernel does the instruction's work itself.
    Emulated,
    /// Two traps: the processor executes a copy of the instruction in single-step mode.
    SingleStepped,
}

impl fmt::Display for SiteCost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SiteCost::Emulated => "emulated",
            SiteCost::SingleStepped => "single-stepped",
        })
    }
}

/// Where to put a probe. Each call of the function passes here exactly once, with the arguments in
/// their registers and the return address on top of the stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// Bytes from the start of the function.
    pub offset: u64,
    /// What a hit costs.
    pub cost: SiteCost,
    /// The instruction there, for a person.
    pub instruction: String,
}

/// Why a function cannot be probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SiteError {
    /// There is no code.
    Empty {
        /// Address of the function.
        address: u64,
    },
    /// The bytes at the entry are no instruction.
    Undecodable {
        /// Address of those bytes.
        address: u64,
        /// The bytes, in hexadecimal.
        bytes: String,
    },
    /// The only possible site holds an instruction that cannot be probed.
    Refused {
        /// Address of the instruction.
        address: u64,
        /// The instruction, for a person.
        instruction: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// leakprobe does not know the instructions of this processor.
    Architecture,
}

impl fmt::Display for SiteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SiteError::Empty { address } => {
                write!(
                    f,
                    "the function at {address:#x} has no code to put a probe into"
                )
            }
            SiteError::Undecodable { address, bytes } => write!(
                f,
                "the bytes {bytes} at {address:#x} are no instruction: the symbol does not point \
                 to code, or the file is damaged"
            ),
            SiteError::Refused {
                address,
                instruction,
                reason,
            } => {
                write!(
                    f,
                    "cannot put a probe on `{instruction}` at {address:#x}: {reason}"
                )
            }
            SiteError::Architecture => {
                f.write_str("leakprobe cannot place probes on this processor, only on x86-64")
            }
        }
    }
}

impl std::error::Error for SiteError {}

/// Chooses where to put the probe of the function whose code, from its first byte, is `code` and
/// whose first byte is at `address` (which only serves to name places).
///
/// `code` ends with the function, or is [`UNKNOWN_SIZE`] bytes if nobody knows where that is.
///
/// # Errors
///
/// When the function has no place a probe can go to; see [`SiteError`].
pub fn choose(code: &[u8], address: u64, arguments: Arguments) -> Result<Site, SiteError> {
    super::arch::choose(code, address, arguments)
}
