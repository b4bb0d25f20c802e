//! Small pieces of code with one thing to get right each, and bytes that are no code at all. Real
//! objects are in tests/synth.

use std::ops::Range;

use super::{Code, rows};
use crate::unwind::{
    END, FRAME_POINTER, FpRule, NONE, PLT, Rule, RuleAt, RuleKind, SIGNAL, UNSUPPORTED,
};

/// Where the code of a test starts.
const BASE: u64 = 0x1000;

/// The rules for some code, with functions at some offsets.
fn analyze(bytes: &[u8], functions: &[u64]) -> Vec<RuleAt> {
    analyze_with(bytes, functions, &[], 0)
}

fn analyze_with(bytes: &[u8], functions: &[u64], pointers: &[u64], entry: u64) -> Vec<RuleAt> {
    let end = BASE + bytes.len() as u64;
    let read = |range: Range<u64>| {
        let start = usize::try_from(range.start.checked_sub(BASE)?).ok()?;
        let end = usize::try_from(range.end.checked_sub(BASE)?).ok()?;
        bytes.get(start..end).map(<[u8]>::to_vec)
    };
    let functions: Vec<_> = functions.iter().map(|at| BASE + at..BASE + at).collect();
    let pointers: Vec<_> = pointers.iter().map(|at| BASE + at).collect();
    let gaps = vec![Range { start: BASE, end }];
    let rows = rows(&Code {
        read: &read,
        gaps: &gaps,
        functions: &functions,
        entry,
        pointers: &pointers,
        framed: &[],
    });
    let first = (end > BASE).then_some(BASE);
    assert_eq!(rows.first().map(|row| row.address), first);
    assert!(rows.is_sorted_by(|a, b| a.address < b.address));
    assert!(rows.iter().all(|row| (BASE..end).contains(&row.address)));
    rows
}

/// The rule at an offset.
fn at(rows: &[RuleAt], offset: u64) -> Rule {
    let after = rows.partition_point(|row| row.address <= BASE + offset);
    rows[after - 1].rule
}

const fn sp(cfa_offset: i32) -> Rule {
    Rule {
        cfa_offset,
        fp_offset: 0,
        kind: RuleKind::Sp as u8,
        fp: FpRule::Same as u8,
    }
}

const fn sp_saved(cfa_offset: i32, fp_offset: i16) -> Rule {
    Rule {
        fp_offset,
        fp: FpRule::Cfa as u8,
        ..sp(cfa_offset)
    }
}

#[test]
fn pushes_and_pops() {
    // push rbx; push rbp; sub rsp,8; mov ebp,edi; add rsp,8; pop rbp; pop rbx; ret
    let code = b"\x53\x55\x48\x83\xec\x08\x89\xfd\x48\x83\xc4\x08\x5d\x5b\xc3";
    let rows = analyze(code, &[0]);
    assert_eq!(at(&rows, 0), sp(8));
    assert_eq!(at(&rows, 1), sp(16));
    assert_eq!(at(&rows, 2), sp_saved(24, -3));
    assert_eq!(at(&rows, 6), sp_saved(32, -3));
    assert_eq!(at(&rows, 12), sp_saved(24, -3));
    assert_eq!(at(&rows, 14).cfa_offset, 8);
}

#[test]
fn frame_pointer() {
    // push rbp; mov rbp,rsp; sub rsp,rax; leave; ret
    let rows = analyze(b"\x55\x48\x89\xe5\x48\x29\xc4\xc9\xc3", &[0]);
    assert_eq!(at(&rows, 1), sp_saved(16, -2));
    assert_eq!(at(&rows, 4), FRAME_POINTER);
    assert_eq!(at(&rows, 7), FRAME_POINTER);
    assert_eq!(at(&rows, 8).cfa_offset, 8);
}

#[test]
fn paths_that_contradict_each_other() {
    // test edi,edi; je 1f; push rbx; 1: nop; ret
    let rows = analyze(b"\x85\xff\x74\x01\x53\x90\xc3", &[0]);
    assert_eq!(at(&rows, 4), sp(8));
    assert_eq!(at(&rows, 5), UNSUPPORTED);
}

#[test]
fn aligned_stack() {
    // lea r10,[rsp+8]; and rsp,-32; push [r10-8]; push rbp; mov rbp,rsp; push r10; call +0
    let code = b"\x4c\x8d\x54\x24\x08\x48\x83\xe4\xe0\x41\xff\x72\xf8\x55\x48\x89\xe5\x41\x52\
        \xe8\x00\x00\x00\x00\x0f\x0b";
    let rows = analyze(code, &[0]);
    let rule = Rule {
        cfa_offset: -8,
        fp_offset: 0,
        kind: RuleKind::FpDeref as u8,
        fp: FpRule::Fp as u8,
    };
    assert_eq!(at(&rows, 19), rule);
}

#[test]
fn stack_probes() {
    // lea r11,[rsp-0x3000]; 1: sub rsp,0x1000; or qword [rsp],0; cmp rsp,r11; jne 1b; nop; ud2
    let code = b"\x4c\x8d\x9c\x24\x00\xd0\xff\xff\x48\x81\xec\x00\x10\x00\x00\
        \x48\x83\x0c\x24\x00\x4c\x39\xdc\x75\xef\x90\x0f\x0b";
    let rows = analyze(code, &[0]);
    assert_eq!(at(&rows, 8), UNSUPPORTED);
    assert_eq!(at(&rows, 25), sp(0x3008));
}

#[test]
fn calls_that_do_not_return() {
    // f: push rbx; call g; 6: push rbx; call f; ret; g: jmp g
    let code = b"\x53\xe8\x07\x00\x00\x00\x53\xe8\xf4\xff\xff\xff\xc3\xeb\xfe";
    let rows = analyze(code, &[0]);
    assert_eq!(at(&rows, 1), sp(16));
    assert_eq!(at(&rows, 6), NONE);
    assert_eq!(at(&rows, 13), sp(8));
}

#[test]
fn jump_tables() {
    // push rbx; cmp edi,1; ja 1f; lea rdx,[rip+2f]; movslq rax,[rdx+rdi*4]; add rax,rdx; jmp rax;
    // 20: pop rbx; ret; 22: nop; 1: pop rbx; ret; 2: .long 20-2b, 22-2b
    let code = b"\x53\x83\xff\x01\x77\x12\x48\x8d\x15\x0e\x00\x00\x00\x48\x63\x04\xba\x48\x01\xd0\
        \xff\xe0\x5b\xc3\x90\x5b\xc3\xfb\xff\xff\xff\xfd\xff\xff\xff";
    let rows = analyze(code, &[0]);
    assert_eq!(at(&rows, 22), sp(16));
    assert_eq!(at(&rows, 24), sp(16));
    assert_eq!(at(&rows, 25), sp(16));
    assert_eq!(at(&rows, 26), sp(8));
}

#[test]
fn branches_of_unknown_jumps() {
    // push rbx; jmp rax; pop rbx; ret
    let rows = analyze(b"\x53\xff\xe0\x5b\xc3", &[0]);
    assert_eq!(at(&rows, 3), sp(16));
    assert_eq!(at(&rows, 4), sp(8));
}

#[test]
fn functions_without_symbols() {
    // ret, padding; push rbx; pop rbx; ret
    let good = b"\xc3\x66\x90\x53\x5b\xc3";
    assert_eq!(at(&analyze(good, &[0]), 4), sp(16));
    // The same, returning to what it has pushed: nobody's function.
    let bad = b"\xc3\x66\x90\x53\x90\xc3";
    assert_eq!(at(&analyze(bad, &[0]), 4), NONE);
    assert_eq!(at(&analyze(bad, &[0]), 1), NONE);
    // One that does not return is a function if a pointer leads there.
    let endless = b"\xc3\x66\x90\x53\xeb\xfe";
    assert_eq!(at(&analyze(endless, &[0]), 4), NONE);
    assert_eq!(at(&analyze_with(endless, &[0], &[3], 0), 4), sp(16));
}

#[test]
fn ends_of_threads() {
    // musl's __clone, from the system call on: test eax,eax; jne 1f; xor ebp,ebp; pop rdi; call r9;
    // mov edi,eax; xor eax,eax; mov al,60; syscall; hlt; 1: ret
    let code = b"\x0f\x05\x85\xc0\x75\x11\x31\xed\x5f\x41\xff\xd1\x89\xc7\x31\xc0\xb0\x3c\
        \x0f\x05\xf4\xc3\x90";
    let rows = analyze(code, &[0]);
    assert_eq!(at(&rows, 4), sp(8));
    assert_eq!(at(&rows, 11), END);
    // The same end of an ordinary function, which has callers: push rbx; call; exit.
    let code = b"\x53\x41\xff\xd1\x89\xc7\x31\xc0\xb0\x3c\x0f\x05\xf4";
    assert_eq!(at(&analyze(code, &[0]), 3), sp(16));
    // A program's entry: xor ebp,ebp; mov rdi,rsp; call; hlt
    let code = b"\x31\xed\x48\x89\xe7\xff\xd0\xf4";
    assert_eq!(at(&analyze_with(code, &[], &[], BASE), 6), END);
}

#[test]
fn signal_trampolines() {
    // nop; mov rax,15; syscall
    let rows = analyze(b"\xc3\x90\x48\xc7\xc0\x0f\x00\x00\x00\x0f\x05\x90", &[0]);
    assert_eq!(at(&rows, 0), sp(8));
    assert_eq!(at(&rows, 1), SIGNAL);
    assert_eq!(at(&rows, 10), SIGNAL);
    assert_eq!(at(&rows, 11), NONE);
}

#[test]
fn linkage_tables() {
    let entry = b"\xff\x25\x00\x10\x00\x00\x68\x00\x00\x00\x00\xe9\xe0\xff\xff\xff";
    let rows = analyze(&[[0xc3; 16], *entry, [0xc3; 16]].concat(), &[]);
    assert_eq!(at(&rows, 16), PLT);
    assert_eq!(at(&rows, 31), PLT);
}

#[test]
fn frame_pointers_throughout() {
    let mut code = vec![0x90; 1 << 16];
    for prologue in code.chunks_exact_mut(1024) {
        prologue[..4].copy_from_slice(b"\x55\x48\x89\xe5");
    }
    assert_eq!(at(&analyze(&code, &[]), 77), FRAME_POINTER);
    // With a symbol it is looked at like any other code.
    assert_ne!(at(&analyze(&code, &[0]), 0), FRAME_POINTER);
}

#[test]
fn nonsense() {
    let mut seed = 1_u64;
    let mut next = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) as u8
    };
    for round in 0..200 {
        let noise: Vec<u8> = (0..2000).map(|_| next()).collect();
        // Mostly what changes the stack, jumps and calls.
        let verbs = *b"\x53\x5b\x55\x5d\xc3\xe8\xeb\x74\x75\xe9\xff\xc9\x48\xc8\x0f\xf4";
        let code: Vec<u8> = noise
            .iter()
            .map(|&byte| {
                if round % 2 == 0 {
                    byte
                } else {
                    verbs[usize::from(byte) % 16]
                }
            })
            .collect();
        analyze_with(&code, &[0, 1, 700, 1999], &[5, 64, 1000], BASE + 3);
    }
    analyze_with(&[], &[0], &[0], BASE).truncate(0);
}

#[test]
fn nonsense_of_the_caller() {
    let read = |_: Range<u64>| Some(vec![0xc3; 3]);
    let backwards = Range { start: 8, end: 4 };
    let last = u64::MAX - 1..u64::MAX;
    let rows = rows(&Code {
        read: &read,
        gaps: &[backwards.clone(), 16..u64::MAX - 1, 20..30, last],
        functions: &[0..u64::MAX, backwards],
        entry: u64::MAX,
        pointers: &[0, u64::MAX],
        framed: &[u64::MAX],
    });
    assert!(rows.iter().any(|row| row.rule != UNSUPPORTED));
}
