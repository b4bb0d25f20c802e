//! How the code of a process would be unwound, module by module, and how much of it. For people:
//! the doctor tells them. Nothing is loaded, cached or sent to the kernel.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;

use super::contents::{self, Contents};
use super::image::Image;
use super::{NONE, RuleAt, UNSUPPORTED, object};
use crate::target::Mappings;

/// Less than this between two functions is no code: it aligns the second one. Bytes.
const MIN_GAP: u64 = 16;

/// A module, and how it would be unwound.
#[derive(Debug)]
pub struct Survey {
    /// Path as in the target's mount namespace, or a name in brackets. May hold any characters.
    pub path: PathBuf,
    /// How.
    pub how: How,
}

/// How the code of a module would be unwound.
#[derive(Debug)]
pub enum How {
    /// By rules.
    Rules(Coverage),
    /// By frame pointers: the program generated it.
    FramePointers,
    /// Not at all, and why not.
    Not(anyhow::Error),
}

/// How much of a module's code has rules. All but `rows` are bytes; they add up to `code`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// How many rows its table has.
    pub rows: usize,
    /// All code: the executable sections (or segments) without what aligns functions.
    pub code: u64,
    /// Code that unwind information covers.
    pub informed: u64,
    /// Code whose rules were made from its instructions.
    pub made: u64,
    /// Code with no rule, or one that cannot be followed.
    pub unknown: u64,
}

/// Looks at all modules that the process `pid` has mapped code of, in the order of their addresses.
/// The kernel's own, from which nobody calls, are left out.
pub fn survey(pid: u32, mappings: &Mappings) -> Vec<Survey> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut seen = Vec::new();
    let mut surveys = Vec::new();
    for range in mappings.executable() {
        let key = Arc::as_ptr(&range.module);
        if seen.contains(&key) {
            continue;
        }
        seen.push(key);
        let debug = range.module.debug.as_ref();
        let image = match contents::of(pid, range) {
            Ok(Contents::Kernel) => continue,
            Ok(Contents::Generated) => Ok(None),
            Ok(Contents::File(file)) => Image::open(file).map(Some),
            Ok(Contents::Memory(bytes)) => Image::from_memory(bytes).map(Some),
            Err(error) => Err(error),
        };
        let how = match image {
            Ok(None) => How::FramePointers,
            Ok(Some(image)) => {
                let debug = debug.and_then(|debug| Image::open(debug).ok());
                coverage(&image, debug.as_ref(), threads).map_or_else(How::Not, How::Rules)
            }
            Err(error) => How::Not(error),
        };
        let path = range.module.path.clone();
        surveys.push(Survey { path, how });
    }
    surveys
}

/// How much of an object's code has rules; `debug` is its debug file, if there is one.
///
/// # Errors
///
/// If it cannot be read, or has more than the limits allow.
pub fn coverage(image: &Image, debug: Option<&Image>, threads: usize) -> Result<Coverage> {
    let object::Rules {
        informed: known,
        all,
    } = object::rules(image, debug, threads)?;
    let mut coverage = Coverage {
        rows: all.len(),
        ..Coverage::default()
    };
    let is_rule = |row: &RuleAt| row.rule != NONE && row.rule != UNSUPPORTED;
    for range in image.code_ranges() {
        let (mut at, end) = (range.start, range.end);
        // Unknown bytes up to here that may be nothing but alignment.
        let mut gap = 0;
        while at < end {
            let (rule, next) = rule_at(&all, at);
            let (before, next_known) = rule_at(&known, at);
            let next = next.min(next_known).min(end);
            let bytes = next - at;
            at = next;
            if rule.is_none_or(|row| row.rule == NONE) {
                gap += bytes;
                continue;
            }
            coverage.skip(gap);
            gap = 0;
            coverage.code += bytes;
            match (rule.is_some_and(is_rule), before.is_some_and(is_rule)) {
                (true, true) => coverage.informed += bytes,
                (true, false) => coverage.made += bytes,
                (false, _) => coverage.unknown += bytes,
            }
        }
        coverage.skip(gap);
    }
    Ok(coverage)
}

impl Coverage {
    fn skip(&mut self, gap: u64) {
        if gap >= MIN_GAP {
            self.code += gap;
            self.unknown += gap;
        }
    }
}

/// The row in force at an address, and where the next one begins.
fn rule_at(rows: &[RuleAt], address: u64) -> (Option<&RuleAt>, u64) {
    let after = rows.partition_point(|row| row.address <= address);
    let next = rows.get(after).map_or(u64::MAX, |row| row.address);
    (after.checked_sub(1).map(|row| &rows[row]), next)
}

#[cfg(test)]
mod tests {
    use super::super::test_elf::elf;
    use super::*;

    #[test]
    fn code_without_information_is_told_apart() {
        // push rbp; mov rbp, rsp; call +4; pop rbp; ret; then a function of nothing but that.
        let code = [
            0x55, 0x48, 0x89, 0xe5, 0xe8, 0x07, 0, 0, 0, 0x5d, 0xc3, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc,
            0x31, 0xc0, 0xc3,
        ];
        let mut bytes = code.to_vec();
        // Neither code nor alignment.
        bytes.extend([0x06; 64]);
        let image = Image::from_memory(elf(0x1000, &bytes, &[])).unwrap();
        let found = coverage(&image, None, 1).unwrap();
        assert_eq!((found.informed, found.made, found.unknown), (0, 14, 64));
        assert_eq!(found.code, 78);
    }

    #[test]
    fn this_program_and_its_libraries_can_be_unwound() {
        let pid = std::process::id();
        let mut mappings = Mappings::default();
        mappings.refresh(pid).unwrap();
        let modules = survey(pid, &mappings);
        assert!(modules.len() > 1);
        assert!(modules.iter().any(|module| module.path.ends_with("[vdso]")));
        for module in modules {
            let How::Rules(found) = module.how else {
                panic!("{module:?}");
            };
            assert_eq!(found.code, found.informed + found.made + found.unknown);
            let path = module.path;
            assert!(found.informed > found.code / 10 * 8, "{path:?}: {found:?}");
            assert!(found.unknown < found.code / 20, "{path:?}: {found:?}");
        }
    }
}
