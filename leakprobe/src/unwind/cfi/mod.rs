//! Rules from unwind information: every row of an object's `.eh_frame`, and of its `.debug_frame`
//! where the former says nothing.
//!
//! gimli reads entries and instructions. Which registers' rules matter, and which rules can be
//! followed, is decided here, so only those are kept, which is several times faster than keeping all:
//! a Node has half a million rows, and the target's start waits for them. An entry that cannot be
//! understood costs its own functions their rules, and no others.

use std::collections::BTreeMap;
use std::fmt;
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use gimli::{
    BaseAddresses, CommonInformationEntry, DebugFrame, EhFrame, EndianSlice, LittleEndian,
    UnwindOffset, UnwindSection,
};

use super::image::{Cfi, Image};
use super::{NONE, RuleAt};

mod entries;
mod join;
#[cfg(test)]
mod oracle;
mod program;
#[cfg(test)]
mod property_tests;
mod state;
#[cfg(test)]
mod tests;

use program::Worker;
use state::State;

/// Rows of one object, at most. Node has half a million.
pub const MAX_ROWS: usize = 1 << 23;

type Bytes<'a> = EndianSlice<'a, LittleEndian>;

/// The rules of an object's code.
#[derive(Debug, Default)]
pub struct Table {
    /// Sorted by address. Nothing is known of what lies before the first row; the last row is
    /// [`NONE`]. Neighbours differ.
    pub rows: Vec<RuleAt>,
    /// How many times unwind information could not be turned into a row other than
    /// [`super::UNSUPPORTED`], by the reason.
    pub unsupported: BTreeMap<Unsupported, usize>,
}

/// Why unwind information is not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unsupported {
    /// The CFA is found by another register than the stack and frame pointers.
    CfaRegister,
    /// The CFA is found by an expression of a kind that is not followed.
    CfaExpression,
    /// A number is too large for a rule, or no multiple of a word.
    Range,
    /// The return address is not in the word below the CFA.
    ReturnAddress,
    /// The caller's stack pointer is not the CFA.
    StackPointer,
    /// A frame that interrupts another, but not Linux's signal trampoline.
    SignalFrame,
    /// The unwind information is malformed, or of an unknown kind.
    Malformed,
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CfaRegister => "the frame is found by another register than rsp and rbp",
            Self::CfaExpression => "the frame is found by an expression that is not followed",
            Self::Range => "an offset is too large or no multiple of 8",
            Self::ReturnAddress => "the return address is not right below the frame",
            Self::StackPointer => "the caller's stack pointer is not where the frame ends",
            Self::SignalFrame => "it interrupts other code, but is no known signal trampoline",
            Self::Malformed => "the unwind information is malformed",
        })
    }
}

/// The rules that an object is unwound by at run time (`.eh_frame`), made by up to `threads` threads.
///
/// # Errors
///
/// If its unwind information cannot be read, or would make more than [`MAX_ROWS`] rows. An object
/// without any has no rows.
pub fn run_time(image: &Image, threads: usize) -> Result<Table> {
    let Some(cfi) = image.eh_frame()? else {
        return Ok(Table::default());
    };
    let mut section = EhFrame::new(&cfi.bytes, LittleEndian);
    section.set_address_size(8);
    read(image, &cfi, &section, entries::EH_FRAME, threads)
        .context("failed to read the unwind information in `.eh_frame`")
}

/// The rules that an object has for debuggers (`.debug_frame`).
///
/// # Errors
///
/// As for [`run_time`].
pub fn debuggers(image: &Image, threads: usize) -> Result<Table> {
    let Some(cfi) = image.debug_frame()? else {
        return Ok(Table::default());
    };
    let mut section = DebugFrame::new(&cfi.bytes, LittleEndian);
    section.set_address_size(8);
    read(image, &cfi, &section, entries::DEBUG_FRAME, threads)
        .context("failed to read the unwind information in `.debug_frame`")
}

/// Both, those for run time first.
///
/// # Errors
///
/// As for [`run_time`].
pub fn table(image: &Image, threads: usize) -> Result<Table> {
    let mut table = run_time(image, threads)?;
    let other = debuggers(image, threads)?;
    table.rows = fill(&table.rows, &other.rows);
    for (reason, count) in other.unsupported {
        *table.unsupported.entry(reason).or_default() += count;
    }
    Ok(table)
}

/// Where the functions start that `.eh_frame` tells of, in its order. Those of which it is not to be understood
/// are left out.
///
/// # Errors
///
/// If it cannot be read.
pub fn functions(image: &Image) -> Result<Vec<u64>> {
    let Some(cfi) = image.eh_frame()? else {
        return Ok(Vec::new());
    };
    let mut section = EhFrame::new(&cfi.bytes, LittleEndian);
    section.set_address_size(8);
    let found = entries::find(&cfi.bytes, entries::EH_FRAME, cfi.sized)?;
    let cies = common(&section, &cfi.bases, &found.cies);
    let start = |&offset: &usize| {
        let fde = section.fde_from_offset(&cfi.bases, offset.into(), |_, _, offset| {
            let offset = UnwindOffset::into(offset);
            let cie = cies.get(&offset).map(|cie| cie.entry.clone());
            cie.ok_or(gimli::Error::NotCieId(offset as u64))
        });
        let fde = fde.ok().filter(|fde| !fde.is_signal_trampoline());
        fde.map(|fde| fde.initial_address())
    };
    Ok(found.fdes.iter().filter_map(start).collect())
}

/// Rows with what they do not know taken from others. Both are sorted by address.
pub fn fill(rows: &[RuleAt], others: &[RuleAt]) -> Vec<RuleAt> {
    let mut filled = Vec::with_capacity(rows.len() + others.len());
    let (mut rows, mut others) = (rows.iter().peekable(), others.iter().peekable());
    let (mut rule, mut other) = (NONE, NONE);
    loop {
        let address = match (rows.peek(), others.peek()) {
            (None, None) => return filled,
            (Some(row), None) | (None, Some(row)) => row.address,
            (Some(row), Some(other)) => row.address.min(other.address),
        };
        while let Some(row) = rows.next_if(|row| row.address == address) {
            rule = row.rule;
        }
        while let Some(row) = others.next_if(|row| row.address == address) {
            other = row.rule;
        }
        let rule = if rule == NONE { other } else { rule };
        join::push(&mut filled, RuleAt { address, rule });
    }
}

/// A common entry, and the state that it starts its functions with.
struct Cie<'a> {
    entry: CommonInformationEntry<Bytes<'a>>,
    state: Result<State, Unsupported>,
}

/// Common entries by their offset in the section.
type Cies<'a> = BTreeMap<usize, Cie<'a>>;

/// The rules of one section.
fn read<'a, S>(
    image: &Image,
    cfi: &'a Cfi,
    section: &S,
    kind: entries::Kind,
    threads: usize,
) -> Result<Table>
where
    S: UnwindSection<Bytes<'a>> + Sync,
    S::Offset: UnwindOffset<usize>,
{
    let found = entries::find(&cfi.bytes, kind, cfi.sized)?;
    let cies = common(section, &cfi.bases, &found.cies);
    let size = found.fdes.len().div_ceil(threads.max(1)).max(1);
    let parts = thread::scope(|scope| {
        let workers: Vec<_> = found
            .fdes
            .chunks(size)
            .map(|fdes| {
                let mut worker = Worker::new(image, section, &cfi.bases, &cies);
                scope.spawn(move || worker.run(fdes).map(|()| worker.part))
            })
            .collect();
        workers
            .into_iter()
            .map(|worker| {
                let failed = |_| anyhow!("a thread that reads unwind information failed");
                worker.join().map_err(failed)?
            })
            .collect::<Result<Vec<_>>>()
    })?;
    let table = join::join(parts);
    ensure!(
        table.rows.len() <= MAX_ROWS,
        "there are more than {MAX_ROWS} rows of it"
    );
    Ok(table)
}

/// The common entries. Those that gimli cannot read are left out.
fn common<'a, S>(section: &S, bases: &BaseAddresses, offsets: &[usize]) -> Cies<'a>
where
    S: UnwindSection<Bytes<'a>>,
{
    offsets
        .iter()
        .filter_map(|&offset| {
            let entry = section.cie_from_offset(bases, offset.into()).ok()?;
            let state = program::initial(section, bases, &entry);
            Some((offset, Cie { entry, state }))
        })
        .collect()
}
