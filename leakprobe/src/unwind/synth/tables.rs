//! Jump tables of switch statements: where an indirect jump goes, if the instructions before it
//! show the table and its size. Tables of other shapes are left alone; `flow` then has to do without.

use std::collections::BTreeSet;
use std::ops::Range;

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

/// Entries of a table, at most.
const MAX_ENTRIES: u64 = 4096;
/// Instructions that are remembered, at least.
const RECENT: usize = 24;

/// The last instructions of straight code, oldest first.
#[derive(Default)]
pub(super) struct Recent(Vec<Instruction>);

impl Recent {
    /// One more.
    pub fn push(&mut self, i: Instruction) {
        if self.0.len() == 2 * RECENT {
            self.0.drain(..RECENT);
        }
        self.0.push(i);
    }

    /// Whether it moves the stack pointer to somewhere else.
    pub fn switches_stack(&self) -> bool {
        self.0.iter().any(|i| {
            i.mnemonic() == Mnemonic::Mov
                && i.op0_kind() == OpKind::Register
                && i.op0_register() == Register::RSP
                && i.op1_register() != Register::RBP
        })
    }

    /// Whether it is all of a function that jumps to where a word tells.
    pub fn is_stub(&self, entry: u64) -> bool {
        let code = match self.0.as_slice() {
            [first, rest @ ..] if first.mnemonic() == Mnemonic::Endbr64 => rest,
            all => all,
        };
        matches!(code, [jump] if jump.mnemonic() == Mnemonic::Jmp && jump.is_ip_rel_memory_operand())
            && self.0[0].ip() == entry
    }
}

/// Reads memory of the object.
pub(super) type Read<'a> = &'a dyn Fn(Range<u64>) -> Option<Vec<u8>>;

/// Where the last instruction, an indirect jump, goes; every target satisfies `is_code`.
pub(super) fn resolve(
    recent: &Recent,
    read: Read<'_>,
    is_code: impl Fn(u64) -> bool,
) -> Option<Vec<u64>> {
    let (jump, before) = recent.0.split_last()?;
    let table = if jump.op0_kind() == OpKind::Memory {
        absolute(jump, before)?
    } else {
        let load = before
            .iter()
            .rposition(|i| writes(i, jump.op0_register()))?;
        match before[load].mnemonic() {
            Mnemonic::Add => relative(&before[..load], &before[load])?,
            Mnemonic::Mov => absolute(&before[load], &before[..load])?,
            _ => return None,
        }
    };
    let size = table.count * table.entry;
    let bytes = read(table.address..table.address.checked_add(size)?)?;
    let mut targets = BTreeSet::new();
    for entry in bytes.chunks_exact(table.entry as usize) {
        let target = match *entry {
            [a, b, c, d] => {
                let offset = i32::from_le_bytes([a, b, c, d]);
                table.address.wrapping_add_signed(offset.into())
            }
            [a, b, c, d, e, f, g, h] => u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            _ => return None,
        };
        if !is_code(target) {
            return None;
        }
        targets.insert(target);
    }
    Some(targets.into_iter().collect())
}

struct Table {
    address: u64,
    count: u64,
    /// Bytes of an entry: 4, relative to the table, or 8.
    entry: u64,
}

/// A table of addresses: `mov table(,index,8)`, or a jump that does the same.
fn absolute(load: &Instruction, before: &[Instruction]) -> Option<Table> {
    let plain = load.memory_base() == Register::None && load.memory_index_scale() == 8;
    if !plain || load.memory_index() == Register::None {
        return None;
    }
    Some(Table {
        address: load.memory_displacement64(),
        count: bound(before, load.memory_index(), true)?,
        entry: 8,
    })
}

/// A table of distances: `lea table, base; movslq (base,index,4), x; add base, x`.
fn relative(before: &[Instruction], add: &Instruction) -> Option<Table> {
    let pair = [add.op0_register(), add.op1_register()];
    let load = before.iter().rposition(|i| {
        i.mnemonic() == Mnemonic::Movsxd
            && i.op1_kind() == OpKind::Memory
            && i.memory_index_scale() == 4
            && pair.contains(&i.op0_register())
            && pair.contains(&i.memory_base())
    })?;
    let (index, base) = (before[load].memory_index(), before[load].memory_base());
    if index == Register::None || base == before[load].op0_register() && pair[0] == pair[1] {
        return None;
    }
    let lea = before[..load].iter().rev().find(|i| writes(i, base))?;
    if lea.mnemonic() != Mnemonic::Lea || !lea.is_ip_rel_memory_operand() {
        return None;
    }
    Some(Table {
        address: lea.ip_rel_memory_address(),
        count: bound(&before[..load], index, false)?,
        entry: 4,
    })
}

/// How many values an index can have, from the comparison before its use. Without one, a byte
/// (`bytes`) has all of its values, as in the main loops of interpreters.
fn bound(before: &[Instruction], index: Register, bytes: bool) -> Option<u64> {
    let mut index = index.full_register();
    let (mut jump, mut widest) = (None, None);
    for i in before.iter().rev() {
        let is_index =
            i.op0_kind() == OpKind::Register && i.op0_register().full_register() == index;
        match i.mnemonic() {
            Mnemonic::Ja | Mnemonic::Jae => jump = jump.or(Some(i.mnemonic())),
            Mnemonic::Cmp if is_index && is_immediate(i) => {
                let last = i.immediate(1);
                let count = match jump? {
                    Mnemonic::Ja => last.checked_add(1)?,
                    _ => last,
                };
                return (1..=MAX_ENTRIES).contains(&count).then_some(count);
            }
            Mnemonic::And if is_index && is_immediate(i) => {
                let count = i.immediate(1).checked_add(1)?;
                return (1..=MAX_ENTRIES).contains(&count).then_some(count);
            }
            Mnemonic::Mov | Mnemonic::Movzx if is_index && i.op1_kind() == OpKind::Register => {
                widest = widest.or((bytes && is_byte(i)).then_some(1 << 8));
                index = i.op1_register().full_register();
            }
            Mnemonic::Movzx if is_index => {
                return widest.or((bytes && is_byte(i)).then_some(1 << 8));
            }
            _ if writes(i, index) => return widest,
            _ => {}
        }
    }
    widest
}

/// Whether an instruction extends a byte.
fn is_byte(i: &Instruction) -> bool {
    match i.op1_kind() {
        OpKind::Register => i.op1_register().is_gpr8(),
        _ => i.memory_size().size() == 1,
    }
}

fn is_immediate(i: &Instruction) -> bool {
    !matches!(i.op1_kind(), OpKind::Register | OpKind::Memory)
}

/// Whether an instruction changes a register, as far as its first operand tells.
fn writes(i: &Instruction, register: Register) -> bool {
    i.op0_kind() == OpKind::Register
        && i.op0_register().full_register() == register.full_register()
        && !matches!(
            i.mnemonic(),
            Mnemonic::Cmp | Mnemonic::Test | Mnemonic::Push
        )
}
