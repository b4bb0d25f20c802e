use super::choose;
use crate::probe::site::Arguments::{self, One, Three, Two};
use crate::probe::site::SiteCost::{self, Emulated, SingleStepped};
use crate::probe::site::SiteError;

/// Instructions, each given with what it says.
type Listing<'a> = &'a [(&'a str, &'a [u8])];

const ADDRESS: u64 = 0x1000;

fn bytes_of(instructions: Listing) -> Vec<u8> {
    instructions
        .iter()
        .flat_map(|(_, bytes)| bytes.iter().copied())
        .collect()
}

#[track_caller]
fn assert_site(instructions: Listing, arguments: Arguments, expected: (u64, SiteCost, &str)) {
    let site = choose(&bytes_of(instructions), ADDRESS, arguments).expect("a site");
    assert_eq!(
        (site.offset, site.cost, site.instruction.as_str()),
        expected
    );
}

#[track_caller]
fn assert_error(instructions: Listing, part: &str) {
    let error = choose(&bytes_of(instructions), ADDRESS, One)
        .expect_err("no site")
        .to_string();
    assert!(error.contains(part), "{error}");
}

const ENDBR64: (&str, &[u8]) = ("endbr64", &[0xf3, 0x0f, 0x1e, 0xfa]);
const PUSH_RBX: (&str, &[u8]) = ("push %rbx", &[0x53]);
const PUSH_RBP: (&str, &[u8]) = ("push %rbp", &[0x55]);
const TEST_RDI: (&str, &[u8]) = ("test %rdi, %rdi", &[0x48, 0x85, 0xff]);
const RET: (&str, &[u8]) = ("ret", &[0xc3]);
const NOP: (&str, &[u8]) = ("nop", &[0x90]);

#[test]
fn push_at_the_entry() {
    let malloc: Listing = &[("push %r12", &[0x41, 0x54]), PUSH_RBP, PUSH_RBX];
    assert_site(malloc, One, (0, Emulated, "push %r12"));
}

#[test]
fn musl_stub() {
    let malloc: Listing = &[("jmp .+0x1970", &[0xe9, 0x6b, 0x19, 0, 0])];
    assert_site(malloc, Three, (0, Emulated, "jmp 0x2970"));
}

#[test]
fn musl_stub_behind_endbr64() {
    let free: Listing = &[ENDBR64, ("jmp .+2", &[0xeb, 0x00])];
    assert_site(free, One, (4, Emulated, "jmp 0x1006"));
}

#[test]
fn push_behind_endbr64() {
    assert_site(
        &[ENDBR64, PUSH_RBP, PUSH_RBX],
        Two,
        (4, Emulated, "push %rbp"),
    );
}

#[test]
fn glibc_free_is_probed_at_its_branch() {
    let free: Listing = &[
        TEST_RDI,
        ("je .+0xc5", &[0x0f, 0x84, 0xbf, 0, 0, 0]),
        PUSH_RBP,
        RET,
    ];
    assert_site(free, One, (3, Emulated, "je 0x10c8"));
}

#[test]
fn nothing_behind_a_conditional_branch_is_reached_by_every_call() {
    // jrcxz is a branch that is not emulated, so the push behind it must not be chosen.
    let code: Listing = &[TEST_RDI, ("jrcxz .+3", &[0xe3, 0x01]), PUSH_RBX, RET];
    assert_site(code, One, (0, SingleStepped, "test %rdi, %rdi"));
}

#[test]
fn nothing_behind_a_call_is_chosen() {
    let call: (&str, &[u8]) = ("call *%rax", &[0xff, 0xd0]);
    assert_site(
        &[call, PUSH_RBX, RET],
        One,
        (0, SingleStepped, "call *%rax"),
    );
    let fentry: (&str, &[u8]) = ("call .+5", &[0xe8, 0, 0, 0, 0]);
    assert_site(
        &[ENDBR64, fentry, PUSH_RBX],
        One,
        (4, Emulated, "call 0x1009"),
    );
}

/// `mul` writes rdx without naming it: harmless for calloc, whose arguments are two.
#[test]
fn implicit_writes_count() {
    let calloc: Listing = &[
        ("mov %rdi, %rax", &[0x48, 0x89, 0xf8]),
        ("mul %rsi", &[0x48, 0xf7, 0xe6]),
        ("jo .+0x10", &[0x70, 0x0e]),
        RET,
    ];
    assert_site(calloc, Two, (6, Emulated, "jo 0x1016"));
    assert_site(calloc, Three, (0, SingleStepped, "mov %rdi, %rax"));
}

#[test]
fn a_lost_argument_ends_the_search() {
    let valloc: Listing = &[
        ("mov %rdi, %rsi", &[0x48, 0x89, 0xfe]),
        ("mov $0x1000, %edi", &[0xbf, 0x00, 0x10, 0, 0]),
        ("jmp .+5", &[0xe9, 0, 0, 0, 0]),
    ];
    assert_site(valloc, One, (0, SingleStepped, "mov %rdi, %rsi"));
}

#[test]
fn part_of_an_argument_register_is_the_argument() {
    let cases: Listing = &[
        ("mov $1, %dil", &[0x40, 0xb7, 0x01]),
        ("mov $1, %di", &[0x66, 0xbf, 0x01, 0x00]),
        ("xor %edi, %edi", &[0x31, 0xff]),
        ("cmove %rax, %rdi", &[0x48, 0x0f, 0x44, 0xf8]),
        ("xchg %rax, %rdi", &[0x48, 0x97]),
    ];
    for &(name, bytes) in cases {
        let site =
            choose(&bytes_of(&[(name, bytes), PUSH_RBX, RET]), ADDRESS, One).expect("a site");
        assert_eq!((site.offset, site.cost), (0, SingleStepped), "{name}");
    }
}

#[test]
fn an_argument_that_is_not_needed_may_be_lost() {
    let code: Listing = &[("xor %esi, %esi", &[0x31, 0xf6]), PUSH_RBX, RET];
    assert_site(code, One, (2, Emulated, "push %rbx"));
    assert_site(code, Two, (0, SingleStepped, "xor %esi, %esi"));
}

#[test]
fn a_moved_stack_pointer_ends_the_search() {
    let code: Listing = &[
        ("sub $0x18, %rsp", &[0x48, 0x83, 0xec, 0x18]),
        PUSH_RBX,
        NOP,
        RET,
    ];
    assert_site(code, One, (0, SingleStepped, "sub $0x18, %rsp"));
    let code: Listing = &[ENDBR64, ("pop %rax", &[0x58]), PUSH_RBX, RET];
    assert_site(code, One, (4, SingleStepped, "pop %rax"));
}

#[test]
fn a_write_to_the_stack_ends_the_search() {
    let cases: Listing = &[
        ("mov %rax, (%rsp)", &[0x48, 0x89, 0x04, 0x24]),
        ("mov %rdi, 8(%rsp)", &[0x48, 0x89, 0x7c, 0x24, 0x08]),
        ("lea 8(%rsp), %r10", &[0x4c, 0x8d, 0x54, 0x24, 0x08]),
    ];
    for &(name, bytes) in cases {
        let site =
            choose(&bytes_of(&[(name, bytes), PUSH_RBX, RET]), ADDRESS, One).expect("a site");
        assert_eq!((site.offset, site.cost), (0, SingleStepped), "{name}");
    }
}

#[test]
fn a_loop_back_to_the_entry_is_a_call_of_itself() {
    let code: Listing = &[TEST_RDI, ("jne .-3", &[0x75, 0xfb]), RET];
    assert_site(code, One, (3, Emulated, "jne 0x1000"));
}

#[test]
fn a_branch_into_the_prologue_leaves_only_the_entry() {
    // To the site itself.
    let code: Listing = &[TEST_RDI, PUSH_RBX, NOP, ("jmp .-2", &[0xeb, 0xfc]), RET];
    assert_site(code, One, (0, SingleStepped, "test %rdi, %rdi"));
    // In between.
    let code: Listing = &[
        ("inc %eax", &[0xff, 0xc0]),
        TEST_RDI,
        PUSH_RBX,
        ("jmp .-4", &[0xeb, 0xfa]),
        RET,
    ];
    assert_site(code, One, (0, SingleStepped, "inc %eax"));
    // Behind the site: no matter.
    let code: Listing = &[TEST_RDI, PUSH_RBX, NOP, ("jmp .-1", &[0xeb, 0xfd]), RET];
    assert_site(code, One, (3, Emulated, "push %rbx"));
}

#[test]
fn a_loop_back_behind_endbr64_leaves_only_endbr64() {
    let code: Listing = &[ENDBR64, TEST_RDI, ("jne .-3", &[0x75, 0xfb]), RET];
    assert_site(code, One, (0, SingleStepped, "endbr64"));
}

#[test]
fn branches_are_found_behind_bytes_that_are_no_instructions() {
    let with_branch = |branch: &[u8]| {
        let data: (&str, &[u8]) = ("data, then a branch", &[0x06]);
        let code = bytes_of(&[TEST_RDI, PUSH_RBX, RET, data, ("jmp", branch)]);
        choose(&code, ADDRESS, One).expect("a site").offset
    };
    assert_eq!(with_branch(&[0xeb, 0xfb]), 0, "to the site");
    assert_eq!(with_branch(&[0xeb, 0xfc]), 3, "behind the site");
}

#[test]
fn what_only_new_kernels_emulate_is_not_chosen() {
    let cases: Listing = &[
        ("5-byte nop", &[0x0f, 0x1f, 0x44, 0x00, 0x00]),
        ("2-byte nop", &[0x66, 0x90]),
        ("push with needless prefix", &[0x40, 0x53]),
        ("push of 16 bits", &[0x66, 0x53]),
        ("bnd jmp", &[0xf2, 0xe9, 0, 0, 0, 0]),
        ("push of a constant", &[0x6a, 0x01]),
        ("push of memory", &[0xff, 0x37]),
        (
            "rip-relative cmp",
            &[0x80, 0x3d, 0x01, 0x02, 0x14, 0x00, 0x00],
        ),
    ];
    for &(name, bytes) in cases {
        let site = choose(&bytes_of(&[(name, bytes), RET]), ADDRESS, One).expect("a site");
        assert_eq!((site.offset, site.cost), (0, SingleStepped), "{name}");
    }
}

#[test]
fn what_the_kernel_refuses_is_an_error() {
    let cases: Listing = &[
        ("int3", &[0xcc]),
        ("int $0x80", &[0xcd, 0x80]),
        ("hlt", &[0xf4]),
        ("cli", &[0xfa]),
        ("in", &[0xec]),
        ("outsb", &[0x6e]),
        ("syscall", &[0x0f, 0x05]),
        ("ud2", &[0x0f, 0x0b]),
        ("mov %eax, %ss", &[0x8e, 0xd0]),
        ("vzeroupper", &[0xc5, 0xf8, 0x77]),
        ("lock incl", &[0xf0, 0xff, 0x07]),
        ("notrack jmp", &[0x3e, 0xff, 0xe0]),
        ("jmp of 16 bits", &[0x66, 0xe9, 0, 0, 0, 0]),
        ("rep stos", &[0xf3, 0xaa]),
    ];
    for &(name, bytes) in cases {
        let error = choose(&bytes_of(&[(name, bytes), RET]), ADDRESS, One).expect_err(name);
        assert!(
            matches!(
                error,
                SiteError::Refused {
                    address: ADDRESS,
                    ..
                }
            ),
            "{name}: {error}"
        );
    }
    assert_error(
        &[("hlt", &[0xf4])],
        "cannot put a probe on `hlt` at 0x1000: the kernel",
    );
}

/// What a cheap site is found behind may well be something that could not be probed itself.
#[test]
fn a_refused_entry_does_not_forbid_a_site_behind_it() {
    let code: Listing = &[("lock incl (%rax)", &[0xf0, 0xff, 0x00]), PUSH_RBX, RET];
    assert_site(code, One, (3, Emulated, "push %rbx"));
}

#[test]
fn no_code_and_no_instructions() {
    assert_error(&[], "the function at 0x1000 has no code");
    assert_error(
        &[("no opcode", &[0x06, 0x01])],
        "the bytes 06 01 at 0x1000 are no instruction",
    );
    assert_error(&[("a jmp cut short", &[0xe9, 0x00])], "are no instruction");
}

#[test]
fn code_cut_short_keeps_what_is_whole() {
    let code: Listing = &[TEST_RDI, ("a je cut short", &[0x0f, 0x84])];
    assert_site(code, One, (0, SingleStepped, "test %rdi, %rdi"));
}

#[test]
fn an_address_at_the_end_of_memory_is_no_trouble() {
    let code = bytes_of(&[TEST_RDI, PUSH_RBX, RET]);
    let site = choose(&code, u64::MAX - 1, One).expect("a site");
    assert_eq!((site.offset, site.cost), (3, Emulated));
}

/// Any bytes at all: never a panic, and a site within them.
#[test]
fn any_bytes() {
    let mut state = 1_u64;
    let mut bytes = [0_u8; 24];
    for _ in 0..20_000 {
        for byte in &mut bytes {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            *byte = (state >> 56) as u8;
        }
        if let Ok(site) = choose(&bytes, state, Two) {
            assert!(site.offset < bytes.len() as u64);
        }
    }
}
