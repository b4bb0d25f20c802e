//! Probe sites on x86-64.
//!
//! A uprobe replaces the first byte of an instruction by `int3`. The kernel then either does that
//! instruction's work itself (one trap) or lets the processor execute a copy of it in single-step
//! mode (two). What it emulates and what it refuses is written in its
//! `arch/x86/kernel/uprobes.c`; here only that counts as emulated which Linux 6.1 to 6.18 all
//! emulate, so `endbr64` and the long nops do not. Everything is decoded from the function's first
//! byte on, because a probe in the middle of an instruction corrupts the target.
//!
//! Two things are taken on trust, because a function's bytes cannot show them: that nothing outside
//! the function jumps into the middle of its prologue, and that no jump table does. Compilers
//! build neither.

use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Formatter, GasFormatter, Instruction,
    InstructionInfoFactory, OpAccess, OpKind, Register,
};

use crate::probe::site::{Arguments, Site, SiteCost, SiteError};

/// Integer arguments of the System V calling convention, in order.
const ARGUMENT_REGISTERS: [Register; 3] = [Register::RDI, Register::RSI, Register::RDX];

/// See [`crate::probe::site::choose`].
///
/// The site is the first emulated instruction that every call reaches, before anything has changed
/// an argument register or touched the stack pointer. Without one it is the
/// first instruction, behind the `endbr64` if there is one.
///
/// A branch of the function back to its first byte is no hindrance: it is a call of itself, with
/// arguments and stack as for any other call, and no other site would tell the two apart.
pub fn choose(code: &[u8], address: u64, arguments: Arguments) -> Result<Site, SiteError> {
    let prologue = straight_line(code, address)?;
    let targets = branch_targets(code, address);
    let reached_once = |offset: u64| !targets.iter().any(|target| (1..=offset).contains(target));

    let cheap = undisturbed(&prologue, &ARGUMENT_REGISTERS[..arguments.count()])
        .find(|instruction| is_emulated(bytes_of(instruction, code, address)));
    if let Some(instruction) = cheap
        && reached_once(offset_of(instruction, address))
    {
        return Ok(site(instruction, address, SiteCost::Emulated));
    }

    let behind_endbr64 = match prologue.as_slice() {
        [first, second, ..] if first.code() == Code::Endbr64 => Some(second),
        _ => None,
    };
    let entry = behind_endbr64
        .filter(|instruction| reached_once(offset_of(instruction, address)))
        .unwrap_or(&prologue[0]);
    let bytes = bytes_of(entry, code, address);
    match refusal(entry, bytes) {
        Some(reason) => Err(SiteError::Refused {
            address: entry.ip(),
            instruction: text(entry),
            reason,
        }),
        None if is_emulated(bytes) => Ok(site(entry, address, SiteCost::Emulated)),
        None => Ok(site(entry, address, SiteCost::SingleStepped)),
    }
}

fn site(instruction: &Instruction, address: u64, cost: SiteCost) -> Site {
    Site {
        offset: offset_of(instruction, address),
        cost,
        instruction: text(instruction),
    }
}

/// The instructions every call executes, in order: up to and including the first that may go
/// elsewhere. Never empty.
fn straight_line(code: &[u8], address: u64) -> Result<Vec<Instruction>, SiteError> {
    if code.is_empty() {
        return Err(SiteError::Empty { address });
    }
    let mut instructions = Vec::new();
    for instruction in Decoder::with_ip(64, code, address, DecoderOptions::NONE).iter() {
        if instruction.is_invalid() {
            break;
        }
        instructions.push(instruction);
        if instruction.flow_control() != FlowControl::Next {
            break;
        }
    }
    if instructions.is_empty() {
        let shown: Vec<String> = code
            .iter()
            .take(8)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        return Err(SiteError::Undecodable {
            address,
            bytes: shown.join(" "),
        });
    }
    Ok(instructions)
}

/// Offsets within the function that its own branches go to. Where the bytes make no sense (data
/// between the code, the end of bytes cut short) decoding goes on with the next byte: a target that
/// is none only costs a cheap site.
fn branch_targets(code: &[u8], address: u64) -> Vec<u64> {
    let mut decoder = Decoder::with_ip(64, code, address, DecoderOptions::NONE);
    let mut instruction = Instruction::default();
    let mut targets = Vec::new();
    while decoder.can_decode() {
        let start = decoder.position();
        decoder.decode_out(&mut instruction);
        if instruction.is_invalid() {
            // Always within the code: something was left to decode.
            let _ = decoder.set_position(start + 1);
            decoder.set_ip(address.wrapping_add(start as u64 + 1));
            continue;
        }
        let target = branch_target(&instruction);
        targets.extend(target.map(|target| target.wrapping_sub(address)));
    }
    targets.retain(|&target| target < code.len() as u64);
    targets
}

/// Where a branch or a call leads that says so itself.
pub(super) fn branch_target(instruction: &Instruction) -> Option<u64> {
    let direct = matches!(
        instruction.op0_kind(),
        OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64
    );
    direct.then(|| instruction.near_branch_target())
}

/// The instructions before which nothing has written to `arguments` or touched the stack pointer.
/// Reading it is already too much: the copy could be used to write over the return address.
fn undisturbed<'a>(
    instructions: &'a [Instruction],
    arguments: &'a [Register],
) -> impl Iterator<Item = &'a Instruction> {
    let mut factory = InstructionInfoFactory::new();
    let mut disturbed = false;
    instructions.iter().take_while(move |instruction| {
        let before = disturbed;
        disturbed |= factory
            .info(instruction)
            .used_registers()
            .iter()
            .any(|used| {
                let register = used.register().full_register();
                register == Register::RSP || writes(used.access()) && arguments.contains(&register)
            });
        // xrstor and the like do not tell all that they write.
        disturbed |= instruction.is_save_restore_instruction();
        !before
    })
}

pub(super) fn writes(access: OpAccess) -> bool {
    !matches!(
        access,
        OpAccess::None | OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess
    )
}

/// Whether Linux 6.1 to 6.18 all emulate the instruction of these bytes.
fn is_emulated(bytes: &[u8]) -> bool {
    matches!(
        bytes,
        [0x50..=0x57]                     // push of rax to rdi
            | [0x41, 0x50..=0x57]         // push of r8 to r15; no other prefix will do
            | [0x90]                      // nop
            | [0xeb | 0x70..=0x7f, _]     // jmp, jcc, 8 bits
            | [0xe9 | 0xe8, _, _, _, _]   // jmp, call, 32 bits
            | [0x0f, 0x80..=0x8f, _, _, _, _] // jcc, 32 bits
    )
}

/// Why a probe must not go on this instruction, if it must not: the kernel refuses it, or its copy
/// would not do in single-step mode what the original does. Rather too much than too little.
pub(super) fn refusal(instruction: &Instruction, bytes: &[u8]) -> Option<&'static str> {
    const KERNEL: &str = "the kernel does not probe this instruction";
    let opcode = bytes
        .iter()
        .position(|byte| !is_legacy_prefix(*byte))
        .unwrap_or(0);
    let (prefixes, opcode) = bytes.split_at(opcode);
    let opcode = match opcode {
        [0x40..=0x4f, rest @ ..] => rest,
        all => all,
    };
    // Segment overrides (all but fs and gs) and lock.
    if prefixes
        .iter()
        .any(|prefix| matches!(prefix, 0x26 | 0x2e | 0x36 | 0x3e | 0xf0))
    {
        return Some("the kernel does not probe an instruction with this prefix");
    }
    let is_branch = instruction.flow_control() != FlowControl::Next;
    if is_branch && prefixes.contains(&0x66) {
        return Some("the kernel does not probe a branch with an operand size prefix");
    }
    if instruction.is_string_instruction()
        && (instruction.has_rep_prefix() || instruction.has_repne_prefix())
    {
        return Some("a repeated instruction would be counted once per repetition");
    }
    // A load of ss holds off the single-step trap.
    if instruction.op0_register() == Register::SS {
        return Some(KERNEL);
    }
    let refused = match opcode {
        [0x0f, second, ..] => matches!(
            second,
            0x00 | 0x01 | 0x05
                ..=0x09 | 0x0b | 0x0c | 0x30 | 0x34 | 0x35 | 0x37 | 0x78 | 0x79 | 0xae
        ),
        [first, ..] => matches!(
            first,
            0x62 // EVEX; VEX is judged by its last opcode byte, which is not worth telling apart
                | 0xc4 | 0xc5
                | 0x6c..=0x6f // ins, outs
                | 0xcc..=0xcf // int3, int, into, iret
                | 0xe4..=0xe7 | 0xec..=0xef // in, out
                | 0xf1 | 0xf4 | 0xfa | 0xfb // int1, hlt, cli, sti
        ),
        [] => true,
    };
    refused.then_some(KERNEL)
}

fn is_legacy_prefix(byte: u8) -> bool {
    matches!(
        byte,
        0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3
    )
}

/// Bytes from the start of the function. Wraps as addresses do: the file may claim any address.
fn offset_of(instruction: &Instruction, address: u64) -> u64 {
    instruction.ip().wrapping_sub(address)
}

fn bytes_of<'a>(instruction: &Instruction, code: &'a [u8], address: u64) -> &'a [u8] {
    let start = offset_of(instruction, address) as usize;
    &code[start..start + instruction.len()]
}

fn text(instruction: &Instruction) -> String {
    let mut formatter = GasFormatter::new();
    let options = formatter.options_mut();
    options.set_space_after_operand_separator(true);
    options.set_branch_leading_zeros(false);
    options.set_uppercase_hex(false);
    options.set_rip_relative_addresses(true);
    let mut text = String::new();
    formatter.format(instruction, &mut text);
    text
}

#[cfg(test)]
#[path = "x86_64_tests.rs"]
mod tests;
