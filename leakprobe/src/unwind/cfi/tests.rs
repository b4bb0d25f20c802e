//! Against the C library of this machine, and single rules.

use std::fs::File;

use gimli::{EhFrame, LittleEndian};

use super::*;
use crate::unwind::test_elf::elf;
use crate::unwind::{END, FpRule, PLT, Rule, RuleKind, SIGNAL, UNSUPPORTED};

/// The rule at an address.
pub fn rule_at(rows: &[RuleAt], address: u64) -> Rule {
    let after = rows.partition_point(|row| row.address <= address);
    after.checked_sub(1).map_or(NONE, |row| rows[row].rule)
}

fn loaded(name: &str) -> Image {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("maps of this process");
    let line = maps.lines().find(|line| line.contains(name));
    let path = line.and_then(|line| line.split_whitespace().nth(5));
    let path = path.expect("it is loaded");
    Image::open(&File::open(path).expect("a file")).expect("an image")
}

#[test]
fn the_libraries_of_this_process_are_read_as_gimli_reads_them() {
    let program = std::env::current_exe().expect("the path of this test");
    let program = program.to_str().expect("a path in UTF-8");
    for name in ["libc.so.6", "libgcc_s.so.1", "ld-linux", program] {
        let image = loaded(name);
        let rows = table(&image, 2).expect("rows").rows;
        assert!(rows.is_sorted_by(|a, b| a.address < b.address && a.rule != b.rule));
        assert_eq!(rows.last().map(|row| row.rule), Some(NONE));
        let cfi = image.eh_frame().expect("readable").expect("there");
        let section = EhFrame::new(&cfi.bytes, LittleEndian);
        let count = oracle::compare_all(&section, &cfi.bases, |address| rule_at(&rows, address));
        assert!(count > 400, "{name} has only {count} rows");
    }
}

#[test]
fn how_many_threads_read_makes_no_difference() {
    let image = loaded("libc.so.6");
    let one = table(&image, 1).expect("rows").rows;
    for threads in [0, 2, 3, 64] {
        assert!(table(&image, threads).expect("rows").rows == one);
    }
}

#[test]
fn the_c_library_has_signal_trampoline_and_linkage_table() {
    let rows = table(&loaded("libc.so.6"), 1).expect("rows").rows;
    let has = |rule| rows.iter().any(|row| row.rule == rule);
    assert!(has(SIGNAL) && has(PLT) && has(END));
}

/// The rows of one function of 100 bytes at 0x1000 with these instructions, after the usual
/// `def_cfa rsp 8; offset ra -8`.
fn rows_of(instructions: &[u8], signal: bool, code: &[u8]) -> Vec<RuleAt> {
    let augmentation: &[u8] = if signal { b"zRS\0" } else { b"zR\0" };
    let mut cie = [&[0, 0, 0, 0, 1], augmentation, &[1, 0x78, 16, 1, 0x03]].concat();
    cie.extend([0x0c, 7, 8, 0x90, 1]);
    let mut eh_frame = (cie.len() as u32).to_le_bytes().to_vec();
    eh_frame.extend(cie);
    let back = eh_frame.len() as u32 + 4;
    let fde = [
        &back.to_le_bytes()[..],
        &0x1000u32.to_le_bytes(),
        &100u32.to_le_bytes(),
        &[0],
    ];
    let fde = [&fde.concat(), instructions].concat();
    eh_frame.extend((fde.len() as u32).to_le_bytes());
    eh_frame.extend(fde);
    let mut text = vec![0x90; 0x200];
    text[..code.len()].copy_from_slice(code);
    let file = elf(0x1000, &text, &[(".eh_frame", 0x8000, &eh_frame)]);
    let rows = table(&Image::from_memory(file).expect("an image"), 1)
        .expect("rows")
        .rows;
    assert_eq!(
        rows.last(),
        Some(&RuleAt {
            address: 0x1064,
            rule: NONE
        })
    );
    rows
}

fn rule_of(instructions: &[u8]) -> Rule {
    rows_of(instructions, false, &[])[0].rule
}

fn rule(kind: RuleKind, cfa_offset: i32, fp: u8, fp_offset: i16) -> Rule {
    let kind = kind as u8;
    Rule {
        cfa_offset,
        fp_offset,
        kind,
        fp,
    }
}

#[test]
fn a_prologue_makes_its_rows() {
    // advance 1, def_cfa_offset 16, offset rbp -16, advance 3, def_cfa_register rbp
    let rows = rows_of(&[0x41, 0x0e, 16, 0x86, 2, 0x43, 0x0d, 6], false, &[]);
    let expected = [
        (0x1000, rule(RuleKind::Sp, 8, FpRule::Same as u8, 0)),
        (0x1001, rule(RuleKind::Sp, 16, FpRule::Cfa as u8, -2)),
        (0x1004, rule(RuleKind::Fp, 16, FpRule::Cfa as u8, -2)),
        (0x1064, NONE),
    ];
    assert_eq!(rows.len(), 4);
    for (row, (address, rule)) in rows.iter().zip(expected) {
        assert_eq!(*row, RuleAt { address, rule });
    }
}

#[test]
fn rules_are_what_the_instructions_say() {
    let same = FpRule::Same as u8;
    // undefined ra
    assert_eq!(rule_of(&[0x07, 16]), END);
    // offset ra -16; same_value rsp; def_cfa r10 0
    assert_eq!(rule_of(&[0x90, 2]), UNSUPPORTED);
    assert_eq!(rule_of(&[0x08, 7]), UNSUPPORTED);
    assert_eq!(rule_of(&[0x0c, 10, 0]), UNSUPPORTED);
    // val_offset rsp 0
    assert_eq!(rule_of(&[0x14, 7, 0]), rule(RuleKind::Sp, 8, same, 0));
    // expression rbp: breg6 -16, breg7 24, breg6 3, breg3 0; register rbp in rbx
    let sp = |fp: FpRule, offset| rule(RuleKind::Sp, 8, fp as u8, offset);
    assert_eq!(rule_of(&[0x10, 6, 2, 0x76, 0x70]), sp(FpRule::Fp, -2));
    assert_eq!(rule_of(&[0x10, 6, 2, 0x77, 24]), sp(FpRule::Sp, 3));
    assert_eq!(rule_of(&[0x10, 6, 2, 0x76, 3]), sp(FpRule::Lost, 0));
    assert_eq!(rule_of(&[0x10, 6, 2, 0x73, 0]), sp(FpRule::Lost, 0));
    assert_eq!(rule_of(&[0x09, 6, 3]), sp(FpRule::Lost, 0));
    // def_cfa_expression: breg6 -40, deref; breg7 120, deref, plus_uconst 8; plus_uconst 4, 128
    let (fp, sp) = (RuleKind::FpDeref, RuleKind::SpDeref);
    assert_eq!(rule_of(&[0x0f, 3, 0x76, 0x58, 6]), rule(fp, -40, same, 0));
    let plus =
        |add, size| rule_of(&[0x0f, size, 0x77, 0xf8, 0, 6, 0x23, add, 1][..2 + size as usize]);
    assert_eq!(plus(8, 6), rule(sp, 120, same | 1 << 4, 0));
    assert_eq!(plus(120, 6), rule(sp, 120, same | 15 << 4, 0));
    assert_eq!(plus(4, 6), UNSUPPORTED);
    assert_eq!(plus(0x80, 7), UNSUPPORTED);
}

#[test]
fn linkage_tables_push_at_the_11th_byte() {
    let plt = |number| {
        rule_of(&[
            0x0f, 11, 0x77, 8, 0x80, 0, 0x3f, 0x1a, number, 0x2a, 0x33, 0x24, 0x22,
        ])
    };
    assert_eq!(plt(0x30 + 11), PLT);
    for number in [5, 9, 10, 12] {
        assert_eq!(plt(0x30 + number), UNSUPPORTED);
    }
}

#[test]
fn signal_trampolines_are_known_by_their_code() {
    const CODE: [u8; 10] = [0x90, 0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05];
    for (code, rule) in [
        (&CODE[..], SIGNAL),
        (&CODE[1..], SIGNAL),
        (&CODE[..9], UNSUPPORTED),
    ] {
        let rows = rows_of(&[0x0e, 99], true, code);
        assert_eq!(
            rows[0],
            RuleAt {
                address: 0x1000,
                rule
            }
        );
        assert_eq!(rows.len(), 2);
    }
}

#[test]
fn a_malformed_program_keeps_the_rows_before_its_error() {
    // advance 4, then restore_state of nothing; an unknown instruction; a cut one
    for malformed in [&[0x44, 0x0b][..], &[0x44, 0x3f], &[0x44, 0x0c]] {
        let rows = rows_of(malformed, false, &[]);
        let expected = rule(RuleKind::Sp, 8, FpRule::Same as u8, 0);
        assert_eq!(
            rows[0],
            RuleAt {
                address: 0x1000,
                rule: expected
            }
        );
        assert_eq!(
            rows[1],
            RuleAt {
                address: 0x1004,
                rule: UNSUPPORTED
            }
        );
    }
}

#[test]
fn gaps_are_filled_from_others() {
    let at = |address, rule| RuleAt { address, rule };
    let rows = [at(10, END), at(20, NONE), at(40, PLT), at(50, NONE)];
    let others = [
        at(0, SIGNAL),
        at(15, PLT),
        at(25, END),
        at(30, NONE),
        at(45, END),
        at(60, NONE),
    ];
    let filled = [
        at(0, SIGNAL),
        at(10, END),
        at(20, PLT),
        at(25, END),
        at(30, NONE),
        at(40, PLT),
        at(50, END),
        at(60, NONE),
    ];
    assert_eq!(fill(&rows, &others), filled);
    assert_eq!(fill(&rows, &[]), rows);
    assert_eq!(fill(&[], &rows), rows);
}

#[test]
fn of_overlapping_functions_the_first_counts() {
    let at = |address, rule| RuleAt { address, rule };
    let part = |start, end, rows: &[RuleAt]| join::Part {
        ranges: vec![join::Range {
            start,
            end,
            first: 0,
            count: rows.len(),
        }],
        rows: rows.to_vec(),
        ..Default::default()
    };
    let parts = vec![
        part(20, 60, &[at(20, PLT), at(30, SIGNAL), at(50, END)]),
        part(10, 40, &[at(10, END)]),
        part(10, 30, &[at(10, UNSUPPORTED)]),
        part(60, 70, &[at(60, END)]),
        part(80, 90, &[at(80, PLT)]),
        part(82, 84, &[at(82, END)]),
    ];
    let rows = join::join(parts).rows;
    let expected = [
        at(10, END),
        at(40, SIGNAL),
        at(50, END),
        at(70, NONE),
        at(80, PLT),
        at(90, NONE),
    ];
    assert_eq!(rows, expected);
}

#[test]
fn one_bad_entry_does_not_hide_the_others() {
    let image = loaded("libc.so.6");
    let whole = table(&image, 1).expect("rows");
    let cfi = image.eh_frame().expect("readable").expect("there");
    let text = *image.segments().first().expect("code");
    let code = vec![0; text.size as usize];
    let mut bytes = cfi.bytes;
    let entries = entries::find(&bytes, entries::EH_FRAME, true).expect("entries");
    // Its CIE is where none is.
    bytes[entries.fdes[7] + 4] ^= 4;
    let address = cfi.bases.eh_frame.section.expect("an address");
    let image = elf(text.address, &code, &[(".eh_frame", address, &bytes)]);
    let table = table(&Image::from_memory(image).expect("an image"), 1).expect("rows");
    assert!(table.rows.len() + 100 > whole.rows.len());
    assert!(table.unsupported.contains_key(&Unsupported::Malformed));
}
