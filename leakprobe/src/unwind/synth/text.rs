//! The code under analysis: the bytes of all gaps, side by side, with an index for every byte, so
//! that what is found out about an instruction fits in arrays.

use std::ops::Range;

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic};

use super::Code;

/// Bytes of code that are analysed, at most; what lies behind them stays unknown.
pub(super) const MAX_BYTES: usize = 8 << 20;

/// An instruction starts here.
pub(super) const INSTRUCTION: u8 = 1;
/// A byte of an instruction other than its first.
pub(super) const INSIDE: u8 = 2;
/// A function starts here.
pub(super) const START: u8 = 4;
/// A jump leads here.
pub(super) const TARGET: u8 = 8;
/// A pointer leads here.
pub(super) const POINTER: u8 = 16;

/// Bytes of padding that are looked at, at most; more than that does not stand within functions.
const MAX_PADDING: usize = 256;

/// The bytes of the gaps.
#[derive(Default)]
pub(super) struct Bytes {
    bytes: Vec<u8>,
    /// Address and index of the first byte, and length, sorted.
    gaps: Vec<(u64, usize, usize)>,
}

impl Bytes {
    /// Reads the gaps that hold more than padding. They must be sorted and not overlap; one that
    /// does is left out.
    pub fn read(code: &Code<'_>) -> Self {
        let mut all = Self::default();
        let mut free = 0;
        for gap in code.gaps {
            let size = gap.end.saturating_sub(gap.start);
            let room = MAX_BYTES - all.bytes.len();
            if size == 0 || gap.start < free || room == 0 {
                continue;
            }
            free = gap.end;
            let Some(bytes) = (code.read)(gap.start..gap.start + size.min(room as u64)) else {
                continue;
            };
            let bytes = &bytes[..bytes.len().min(room).min(size as usize)];
            if padding(bytes, gap.start) < bytes.len() {
                all.gaps.push((gap.start, all.bytes.len(), bytes.len()));
                all.bytes.extend_from_slice(bytes);
            }
        }
        all
    }
}

/// The bytes of the gaps, and what is noted of each.
pub(super) struct Text<'b> {
    bytes: &'b [u8],
    gaps: &'b [(u64, usize, usize)],
    /// By index, [`INSTRUCTION`] and so on.
    pub marks: Vec<u8>,
}

impl<'b> Text<'b> {
    pub fn new(source: &'b Bytes) -> Self {
        Self {
            bytes: &source.bytes,
            gaps: &source.gaps,
            marks: vec![0; source.bytes.len()],
        }
    }

    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The gaps: addresses and indices.
    pub fn gaps(&self) -> impl Iterator<Item = (Range<u64>, Range<usize>)> + use<'b> {
        self.gaps
            .iter()
            .map(|&(address, index, len)| (address..address + len as u64, index..index + len))
    }

    /// The bytes at some indices.
    pub fn bytes(&self, indices: Range<usize>) -> &'b [u8] {
        self.bytes.get(indices).unwrap_or_default()
    }

    /// Index of an address, and of the end of its gap.
    pub fn find(&self, address: u64) -> Option<(usize, usize)> {
        let after = self.gaps.partition_point(|gap| gap.0 <= address);
        let &(start, index, len) = self.gaps.get(after.checked_sub(1)?)?;
        let within = usize::try_from(address - start).ok()?;
        (within < len).then(|| (index + within, index + len))
    }

    /// The marks at an address; 0 outside of the gaps.
    pub fn marks(&self, address: u64) -> u8 {
        self.find(address).map_or(0, |(index, _)| self.marks[index])
    }

    /// Decodes from an address to the end of its gap.
    pub fn decoder(&self, address: u64) -> Option<Decoder<'b>> {
        let (index, end) = self.find(address)?;
        let bytes = &self.bytes[index..end];
        Some(Decoder::with_ip(64, bytes, address, DecoderOptions::NONE))
    }

    /// What padding follows at an address.
    pub fn padding(&self, address: u64) -> Padding {
        let Some((index, end)) = self.find(address) else {
            return Padding::ToEnd;
        };
        let end = end.min(index + MAX_PADDING);
        match padding(&self.bytes[index..end], address) {
            after if index + after == end => Padding::ToEnd,
            after if self.marks[index + after] & (START | POINTER) != 0 => Padding::ToEnd,
            0 => Padding::None,
            _ => Padding::ToCode,
        }
    }

    /// Notes that a jump or a pointer leads to an address.
    pub fn mark_address(&mut self, address: u64, mark: u8) {
        if let Some((index, _)) = self.find(address) {
            self.marks[index] |= mark;
        }
    }

    /// Notes that an instruction starts at an index.
    pub fn mark(&mut self, index: usize, len: usize) {
        self.marks[index] |= INSTRUCTION;
        for mark in &mut self.marks[index + 1..index + len] {
            *mark |= INSIDE;
        }
    }
}

/// Padding at a place.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Padding {
    None,
    /// Some, to code that may belong to the same function.
    ToCode,
    /// Perhaps some, to the next function or the end of the gap.
    ToEnd,
}

/// How many bytes of padding some code begins with.
pub(super) fn padding(bytes: &[u8], address: u64) -> usize {
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        if matches!(byte, 0x90 | 0xcc | 0) {
            at += 1;
            continue;
        }
        // The longest nops of compilers begin with prefixes.
        if !matches!(byte, 0x0f | 0x66 | 0x2e | 0xf3) {
            break;
        }
        let ip = address.wrapping_add(at as u64);
        let i = Decoder::with_ip(64, &bytes[at..], ip, DecoderOptions::NONE).decode();
        if i.mnemonic() != Mnemonic::Nop {
            break;
        }
        at += i.len();
    }
    at
}

/// Follows how the number of a system call gets into eax, through straight code.
#[derive(Clone, Copy, Default)]
pub(super) struct SystemCall(Option<u32>);

impl SystemCall {
    /// Looks at an instruction.
    pub fn see(&mut self, i: &Instruction) {
        use iced_x86::{OpKind, Register};
        let register = i.op0_register();
        if i.op0_kind() != OpKind::Register || register.full_register() != Register::RAX {
            return;
        }
        let immediate = matches!(
            i.op1_kind(),
            OpKind::Immediate8 | OpKind::Immediate32 | OpKind::Immediate32to64
        );
        self.0 = match i.mnemonic() {
            Mnemonic::Xor | Mnemonic::Sub if i.op1_register() == register => Some(0),
            Mnemonic::Mov if immediate && register == Register::AL => {
                self.0.map(|eax| eax & !0xff | i.immediate(1) as u32 & 0xff)
            }
            Mnemonic::Mov if immediate => Some(i.immediate(1) as u32),
            Mnemonic::Cmp | Mnemonic::Test => self.0,
            _ => None,
        };
    }

    /// Whether the system call now does not return: rt_sigreturn, exit, exit_group.
    pub fn ends(self) -> bool {
        matches!(self.0, Some(15 | 60 | 231))
    }
}

/// Whether code does nothing but end the thread or process, without another call.
pub(super) fn exits(text: &Text<'_>, address: u64) -> bool {
    /// More instructions than that takes.
    const ENOUGH: usize = 12;
    let Some(decoder) = text.decoder(address) else {
        return false;
    };
    let mut number = SystemCall::default();
    for i in decoder.into_iter().take(ENOUGH) {
        match i.mnemonic() {
            Mnemonic::Hlt => return true,
            Mnemonic::Syscall => return number.ends(),
            Mnemonic::Mov | Mnemonic::Xor | Mnemonic::Sub | Mnemonic::Nop => number.see(&i),
            _ => return false,
        }
    }
    false
}
