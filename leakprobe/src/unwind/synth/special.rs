//! Code that no following of the stack explains: where threads start, where signal handlers return
//! to, procedure linkage tables, and runtimes whose code keeps frame pointers.

use std::ops::Range;

use iced_x86::{FlowControl, Mnemonic};

use super::text::{START, Text};
use crate::unwind::{END, PLT, Rule, SIGNAL};

/// `mov $15, %rax; syscall`: rt_sigreturn, as glibc and musl write it.
const SIGNAL_RETURN: [u8; 9] = [0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05];

/// `push %rbp; mov %rsp, %rbp`.
const PROLOGUE: [u8; 4] = [0x55, 0x48, 0x89, 0xe5];

/// Smaller gaps are analysed, not taken to be all of one kind.
pub(super) const LARGE: u64 = 64 << 10;

/// Instructions from a place to the end of a thread, at most.
const LAST: usize = 64;

/// Ranges of addresses with a rule of their own.
pub(super) fn rules(text: &Text<'_>, entry: u64, last_calls: &[u64]) -> Vec<(Range<u64>, Rule)> {
    let mut rules = Vec::new();
    for (addresses, indices) in text.gaps() {
        let bytes = text.bytes(indices);
        let address = |index: usize| addresses.start + index as u64;
        for (index, window) in bytes.windows(SIGNAL_RETURN.len()).enumerate() {
            if window == SIGNAL_RETURN {
                // Return addresses are looked up minus one, and this one nobody has called.
                let start = address(index.saturating_sub(1));
                rules.push((start..address(index + window.len()), SIGNAL));
            }
        }
        let first = (addresses.start.wrapping_neg() % 16) as usize;
        let entries = bytes.get(first..).unwrap_or_default().chunks_exact(16);
        for (number, bytes) in entries.enumerate() {
            // jmp *slot; push number; jmp to the first entry.
            if bytes[..2] == [0xff, 0x25] && bytes[6] == 0x68 && bytes[11] == 0xe9 {
                let start = address(first + number * 16);
                rules.push((start..start + 16, PLT));
            }
        }
    }
    rules.extend(to_end(text, entry).map(|range| (range, END)));
    for &call in last_calls {
        rules.extend(to_end(text, call).map(|range| (range, END)));
    }
    rules
}

/// From an address straight on to where it does not go on.
fn to_end(text: &Text<'_>, start: u64) -> Option<Range<u64>> {
    let mut end = start;
    for i in text.decoder(start)?.into_iter().take(LAST) {
        if i.is_invalid() || end != start && text.marks(end) & START != 0 {
            break;
        }
        end = i.next_ip();
        let goes_on = match i.flow_control() {
            FlowControl::Next => i.mnemonic() != Mnemonic::Hlt,
            FlowControl::ConditionalBranch => true,
            FlowControl::Call | FlowControl::IndirectCall => true,
            _ => false,
        };
        if !goes_on {
            break;
        }
    }
    (end > start).then_some(start..end)
}

/// Whether code keeps frame pointers throughout, as V8's builtins do: their prologues are dense.
pub(super) fn keeps_frame_pointers(bytes: &[u8]) -> bool {
    let prologues = bytes.windows(PROLOGUE.len()).filter(|w| *w == PROLOGUE);
    prologues.count() >= bytes.len() / 4096
}
