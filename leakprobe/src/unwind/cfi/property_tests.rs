//! Random unwind information, read by us and by gimli.

use gimli::{DebugFrame, EhFrame, Error, LittleEndian, UnwindContext, UnwindSection};
use proptest::prelude::*;

use super::tests::rule_at;
use super::*;
use crate::unwind::UNSUPPORTED;
use crate::unwind::test_elf::elf;

const CODE: u64 = 0x40_0000;
const EH_FRAME: u64 = 0x50_0000;
const SET_LOC: u8 = 1;

/// A section of unwind information: common entries, and functions.
#[derive(Clone, Debug)]
struct Program {
    cies: Vec<(u64, i64, bool, Vec<Vec<u8>>)>,
    /// Common entry, bytes between the function before and this one, bytes, instructions.
    fdes: Vec<(prop::sample::Index, u64, u64, Vec<Vec<u8>>)>,
}

fn uleb(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn sleb(mut value: i64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while !(-0x40..0x40).contains(&value) {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8 & 0x7f);
    bytes
}

fn register() -> impl Strategy<Value = u8> {
    prop_oneof![4 => Just(6u8), 4 => Just(7u8), 3 => Just(16u8), 1 => 0..17u8]
}

/// Offsets, in units of the data alignment or bytes.
fn offset() -> impl Strategy<Value = i64> {
    prop_oneof![
        6 => -4i64..20,
        2 => (0i64..300).prop_map(|words| words * 8),
        1 => -70_000i64..70_000,
        1 => any::<i64>(),
    ]
}

fn expression() -> impl Strategy<Value = Vec<u8>> {
    let base = || {
        (6..8u8, offset())
            .prop_map(|(register, offset)| [vec![0x70 + register], sleb(offset)].concat())
    };
    let deref = || base().prop_map(|base| [base, vec![6]].concat());
    let plus = (deref(), 0..20u64)
        .prop_map(|(deref, words)| [deref, vec![0x23], uleb(words * 8)].concat());
    let number = prop_oneof![Just(11u8), 0..16u8];
    let plt = number.prop_map(|number| {
        vec![
            0x77,
            8,
            0x80,
            0,
            0x3f,
            0x1a,
            0x30 + number,
            0x2a,
            0x33,
            0x24,
            0x22,
        ]
    });
    let anything = prop::collection::vec(any::<u8>(), 0..6);
    prop_oneof![base(), deref(), plus, plt, anything]
        .prop_map(|bytes| [uleb(bytes.len() as u64), bytes].concat())
}

/// An instruction that common entries may have, too.
fn setting() -> impl Strategy<Value = Vec<u8>> {
    let with = |code: u8| {
        move |(register, offset): (u8, i64)| [vec![code, register], uleb(offset as u64)].concat()
    };
    let with_signed = |code: u8| {
        move |(register, offset): (u8, i64)| [vec![code, register], sleb(offset)].concat()
    };
    prop_oneof![
        4 => (register(), offset()).prop_map(with(0x0c)),
        1 => (register(), offset()).prop_map(with_signed(0x12)),
        3 => register().prop_map(|register| vec![0x0d, register]),
        4 => offset().prop_map(|offset| [vec![0x0e], uleb(offset as u64)].concat()),
        1 => offset().prop_map(|offset| [vec![0x13], sleb(offset)].concat()),
        2 => expression().prop_map(|bytes| [vec![0x0f], bytes].concat()),
        3 => Just(vec![0x90, 1]),
        5 => (register(), offset())
            .prop_map(|(register, offset)| [vec![0x80 | register], uleb(offset as u64)].concat()),
        1 => (register(), offset()).prop_map(with(0x05)),
        1 => (register(), offset()).prop_map(with_signed(0x11)),
        1 => (register(), offset()).prop_map(with(0x14)),
        1 => (register(), offset()).prop_map(with_signed(0x15)),
        1 => register().prop_map(|register| vec![0x07, register]),
        1 => register().prop_map(|register| vec![0x08, register]),
        1 => (register(), register()).prop_map(|(to, from)| vec![0x09, to, from]),
        2 => (register(), expression())
            .prop_map(|(register, bytes)| [vec![0x10, register], bytes].concat()),
        1 => (register(), expression())
            .prop_map(|(register, bytes)| [vec![0x16, register], bytes].concat()),
        1 => Just(vec![0x00]),
        1 => any::<u8>().prop_map(|size| [vec![0x2e], uleb(size.into())].concat()),
    ]
}

fn instruction() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        10 => setting(),
        8 => (0x40..0x50u8).prop_map(|advance| vec![advance]),
        1 => (0..40u8).prop_map(|advance| vec![0x02, advance]),
        1 => (0..40u8).prop_map(|advance| vec![0x03, advance, 0]),
        1 => (0..40u8).prop_map(|advance| vec![0x04, advance, 0, 0, 0]),
        // The writer makes an address of it.
        1 => (0..100u8).prop_map(|offset| vec![SET_LOC, offset]),
        3 => register().prop_map(|register| vec![0xc0 | register]),
        1 => register().prop_map(|register| vec![0x06, register]),
        2 => Just(vec![0x0a]),
        2 => Just(vec![0x0b]),
    ]
}

fn program() -> impl Strategy<Value = Program> {
    let factor = prop_oneof![6 => Just(-8i64), 1 => Just(-4i64), 1 => Just(1i64), 1 => -9..9i64];
    let usual = Just(vec![vec![0x0c, 7, 8], vec![0x90, 1]]);
    let settings = (usual, prop::collection::vec(setting(), 0..3))
        .prop_map(|(usual, others)| [usual, others].concat());
    let initial = prop_oneof![4 => settings, 1 => prop::collection::vec(setting(), 0..4)];
    let cie = (1..3u64, factor, any::<bool>(), initial);
    let gap = prop_oneof![2 => Just(0u64), 1 => 1..20u64];
    let fde = (
        any::<prop::sample::Index>(),
        gap,
        1..120u64,
        prop::collection::vec(instruction(), 0..25),
    );
    (
        prop::collection::vec(cie, 1..4),
        prop::collection::vec(fde, 0..8),
    )
        .prop_map(|(cies, fdes)| Program { cies, fdes })
}

/// Writes a section as an assembler would.
fn write(program: &Program, debug: bool, reverse: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut offsets = Vec::new();
    for (code_factor, data_factor, relative, instructions) in &program.cies {
        offsets.push(bytes.len());
        let mut cie = vec![if debug { 0xff } else { 0 }; 4];
        cie.extend(if debug { &b"\x01\0"[..] } else { b"\x01zR\0" });
        cie.extend(uleb(*code_factor));
        cie.extend(sleb(*data_factor));
        cie.push(16);
        if !debug {
            cie.extend([1, if *relative { 0x1b } else { 0x03 }]);
        }
        cie.extend(instructions.concat());
        bytes.extend((cie.len() as u32).to_le_bytes());
        bytes.extend(cie);
    }
    let mut end = CODE;
    let mut fdes: Vec<_> = program.fdes.iter().collect();
    let mut placed: Vec<_> = fdes
        .drain(..)
        .map(|fde| {
            let start = end + fde.1;
            end = start + fde.2;
            (start, fde)
        })
        .collect();
    if reverse {
        placed.reverse();
    }
    for (start, (cie, _, size, instructions)) in placed {
        let cie = cie.index(program.cies.len());
        let pointer = bytes.len() + 4;
        let mut fde = Vec::new();
        if debug {
            fde.extend((offsets[cie] as u32).to_le_bytes());
            fde.extend(start.to_le_bytes());
            fde.extend(size.to_le_bytes());
        } else {
            let base = EH_FRAME + pointer as u64 + 4;
            let relative = if program.cies[cie].2 { base } else { 0 };
            fde.extend(((pointer - offsets[cie]) as u32).to_le_bytes());
            fde.extend((start.wrapping_sub(relative) as u32).to_le_bytes());
            fde.extend((*size as u32).to_le_bytes());
            fde.push(0);
        }
        for instruction in instructions {
            let [SET_LOC, offset] = instruction[..] else {
                fde.extend(instruction);
                continue;
            };
            let address = start + u64::from(offset);
            fde.push(SET_LOC);
            if debug {
                fde.extend(address.to_le_bytes());
            } else {
                let base = EH_FRAME + (pointer + fde.len()) as u64;
                let relative = if program.cies[cie].2 { base } else { 0 };
                fde.extend((address.wrapping_sub(relative) as u32).to_le_bytes());
            }
        }
        bytes.extend((fde.len() as u32).to_le_bytes());
        bytes.extend(fde);
    }
    bytes
}

/// Compares one address. Returns false if gimli knows no function there.
fn compare_at<'a, S>(
    section: &S,
    bases: &BaseAddresses,
    address: u64,
    rule: crate::unwind::Rule,
) -> bool
where
    S: UnwindSection<Bytes<'a>>,
{
    let mut context = UnwindContext::new();
    let cie = S::cie_from_offset;
    let row = section.unwind_info_for_address(bases, &mut context, address, cie);
    match row {
        Ok(row) => oracle::compare(rule, row, section, address),
        Err(Error::NoUnwindInfoForAddress) => return false,
        // gimli remembers fewer states than we do.
        Err(Error::StackFull) => {}
        Err(_) => assert_eq!(rule, UNSUPPORTED, "at {address:#x}"),
    }
    true
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn random_programs_have_the_rules_that_gimli_finds(
        eh in program(),
        debug in prop::option::of(program()),
        reverse in any::<bool>(),
        threads in 1..4usize,
    ) {
        let eh_frame = write(&eh, false, reverse);
        let debug_frame = debug.map(|debug| write(&debug, true, reverse)).unwrap_or_default();
        let code = vec![0; 0x800];
        let sections = [
            (".eh_frame", EH_FRAME, &eh_frame[..]),
            (".debug_frame", 0, &debug_frame[..]),
        ];
        let image = Image::from_memory(elf(CODE, &code, &sections)).expect("an image");
        let rows = table(&image, threads).expect("rows").rows;
        prop_assert!(rows.is_sorted_by(|a, b| a.address < b.address && a.rule != b.rule));
        prop_assert!(rows.last().is_none_or(|row| row.rule == NONE));

        let bases = BaseAddresses::default().set_eh_frame(EH_FRAME);
        let eh_frame = EhFrame::new(&eh_frame, LittleEndian);
        let debug_frame = DebugFrame::new(&debug_frame, LittleEndian);
        for address in CODE..CODE + 0x480 {
            let rule = rule_at(&rows, address);
            if !compare_at(&eh_frame, &bases, address, rule)
                && !compare_at(&debug_frame, &bases, address, rule)
            {
                prop_assert_eq!(rule, NONE);
            }
        }
    }
}
