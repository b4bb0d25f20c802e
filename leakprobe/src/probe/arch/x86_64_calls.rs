//! System calls in x86-64 code: their numbers, where they are constants, and where probes can see them.
//!
//! The code is decoded from a function's first byte on, and constants are followed through straight
//! code; where a branch leads in, nothing is known. The kernel refuses a probe on `syscall` itself. The
//! instruction behind it sees the result, and all arguments, for a system call changes `rax`, `rcx` and
//! `r11` alone. What has to be known before the call is seen at the instruction in front of it. It reads
//! no file and does not know what the calls are for.

use std::collections::HashSet;

use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpKind,
    Register,
};

use super::x86_64::{branch_target, refusal, writes};

/// The bytes of `syscall`.
pub const SYSCALL: [u8; 2] = [0x0f, 0x05];

/// A system call whose number is a constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SystemCall {
    /// Its number.
    pub number: u32,
    /// Address of `syscall`.
    pub address: u64,
    /// Where a probe sees its first two arguments before it; `None` if nowhere.
    pub before: Option<Before>,
    /// Address of the next instruction, where a probe sees its result; `None` if that must not be probed, or
    /// is reached otherwise, too.
    pub after: Option<u64>,
}

/// A place before a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Before {
    /// Address of the instruction.
    pub address: u64,
    /// Numbers of the registers that hold the first two arguments there.
    pub arguments: [u8; 2],
}

/// What was found in some code.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SystemCalls {
    /// Those whose number is a constant.
    pub known: Vec<SystemCall>,
    /// How many others.
    pub unknown: usize,
}

/// The system calls in code that begins with a function, at `address`, and may go on with others. What
/// follows bytes that are no instruction is left out.
pub fn system_calls(code: &[u8], address: u64) -> SystemCalls {
    let mut found = SystemCalls::default();
    let instructions: Vec<Instruction> = Decoder::with_ip(64, code, address, DecoderOptions::NONE)
        .iter()
        .take_while(|instruction| !instruction.is_invalid())
        .collect();
    let targets: HashSet<u64> = instructions.iter().filter_map(branch_target).collect();
    let mut constants = Constants::default();
    for (index, instruction) in instructions.iter().enumerate() {
        if targets.contains(&instruction.ip()) {
            constants = Constants::default();
        }
        if instruction.mnemonic() == Mnemonic::Syscall {
            let number = constants.of(Register::RAX);
            found.unknown += usize::from(number.is_none());
            let may_probe = |it: &&Instruction| {
                let start = it.ip().wrapping_sub(address) as usize;
                let bytes = code.get(start..start + it.len());
                bytes.is_some_and(|bytes| refusal(it, bytes).is_none())
            };
            let is_target = |at: u64| targets.contains(&at);
            let after = instructions.get(index + 1).filter(may_probe);
            let before = index.checked_sub(1).map(|it| &instructions[it]);
            let before = before.filter(may_probe);
            found.known.extend(number.map(|number| {
                SystemCall {
                    number,
                    address: instruction.ip(),
                    before: before
                        .filter(|_| !is_target(instruction.ip()))
                        .and_then(arguments_before),
                    after: after.map(Instruction::ip).filter(|&it| !is_target(it)),
                }
            }));
        }
        constants.see(instruction);
    }
    found
}

/// Where the first two arguments are before the last instruction in front of a system call.
fn arguments_before(last: &Instruction) -> Option<Before> {
    if last.flow_control() != FlowControl::Next {
        return None;
    }
    let copied = copy(last);
    let mut arguments = [0; 2];
    for (place, argument) in arguments.iter_mut().zip([Register::RDI, Register::RSI]) {
        let source = match copied {
            Some((to, from)) if to == argument => from,
            _ if written(last).contains(&argument) => return None,
            _ => argument,
        };
        *place = source.number() as u8;
    }
    Some(Before {
        address: last.ip(),
        arguments,
    })
}

/// What `mov` copies whole: the register it goes to, and from which.
fn copy(instruction: &Instruction) -> Option<(Register, Register)> {
    let registers = instruction.mnemonic() == Mnemonic::Mov
        && instruction.op0_kind() == OpKind::Register
        && instruction.op1_kind() == OpKind::Register;
    let (to, from) = (instruction.op0_register(), instruction.op1_register());
    (registers && to.is_gpr64() && from.is_gpr64()).then_some((to, from))
}

/// The general registers that an instruction writes to, whole or in part.
fn written(instruction: &Instruction) -> Vec<Register> {
    let mut factory = InstructionInfoFactory::new();
    let used = factory.info(instruction).used_registers().iter();
    used.filter(|used| writes(used.access()))
        .map(|used| used.register().full_register())
        .collect()
}

/// Registers that hold constants, in straight code.
#[derive(Default)]
struct Constants {
    values: [Option<u32>; 16],
    pushed: Option<u32>,
}

impl Constants {
    fn of(&self, register: Register) -> Option<u32> {
        self.values[register.full_register().number() & 15]
    }

    /// Follows an instruction.
    fn see(&mut self, instruction: &Instruction) {
        let pushed = self.pushed.take();
        match instruction.flow_control() {
            FlowControl::Next => {}
            FlowControl::ConditionalBranch => return,
            // A system call is a call to the decoder.
            FlowControl::Call if instruction.mnemonic() == Mnemonic::Syscall => {
                for register in [Register::RAX, Register::RCX, Register::R11] {
                    self.values[register.number()] = None;
                }
                return;
            }
            _ => return *self = Self::default(),
        }
        if instruction.mnemonic() == Mnemonic::Push {
            self.pushed = immediate(instruction, 0);
        }
        let value = self.result(instruction, pushed);
        for register in written(instruction) {
            if register.is_gpr64() {
                self.values[register.number() & 15] = None;
            }
        }
        if value.is_some() {
            self.values[instruction.op0_register().full_register().number() & 15] = value;
        }
    }

    /// The constant that an instruction leaves in its first register, if it does.
    fn result(&self, instruction: &Instruction, pushed: Option<u32>) -> Option<u32> {
        let to = instruction.op0_register();
        if instruction.op0_kind() != OpKind::Register || !to.is_gpr() {
            return None;
        }
        let is_whole = to.is_gpr32() || to.is_gpr64();
        match instruction.mnemonic() {
            Mnemonic::Xor | Mnemonic::Sub if instruction.op1_register() == to => {
                is_whole.then_some(0)
            }
            Mnemonic::Mov if is_whole && instruction.op1_kind() == OpKind::Register => {
                self.of(instruction.op1_register())
            }
            Mnemonic::Mov if is_whole => immediate(instruction, 1),
            Mnemonic::Mov if to == Register::AL => {
                let low = immediate(instruction, 1)? & 0xff;
                Some(self.of(to)? & !0xff | low)
            }
            Mnemonic::Pop if to.is_gpr64() => pushed,
            _ => None,
        }
    }
}

/// An operand that is a number.
fn immediate(instruction: &Instruction, operand: u32) -> Option<u32> {
    let kind = instruction.op_kind(operand);
    let is_number = matches!(
        kind,
        OpKind::Immediate8
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32
            | OpKind::Immediate32to64
            | OpKind::Immediate64
    );
    is_number.then(|| u32::try_from(instruction.immediate(operand)).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(code: &[u8]) -> SystemCall {
        let found = system_calls(code, 0x1000);
        assert_eq!((found.known.len(), found.unknown), (1, 0), "{found:?}");
        found.known[0]
    }

    #[test]
    fn a_wrapper() {
        // mov $11,%eax; syscall; cmp $-4095,%rax; ret
        let code = [
            0xb8, 11, 0, 0, 0, 0x0f, 0x05, 0x48, 0x3d, 0x01, 0xf0, 0xff, 0xff, 0xc3,
        ];
        let expected = SystemCall {
            number: 11,
            address: 0x1005,
            before: Some(Before {
                address: 0x1000,
                arguments: [7, 6],
            }),
            after: Some(0x1007),
        };
        assert_eq!(only(&code), expected);
    }

    #[test]
    fn arguments_that_are_copied_last() {
        // mov $11,%eax; mov %rbx,%rdi; mov %rbp,%rsi; syscall; ret
        let code = [
            0xb8, 11, 0, 0, 0, 0x48, 0x89, 0xdf, 0x48, 0x89, 0xee, 0x0f, 0x05, 0xc3,
        ];
        let before = only(&code).before.unwrap();
        assert_eq!((before.address, before.arguments), (0x1008, [7, 5]));
        // mov $11,%eax; xor %edi,%edi; syscall; ret
        let code = [0xb8, 11, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05, 0xc3];
        assert_eq!(only(&code).before, None);
    }

    #[test]
    fn numbers_in_other_registers() {
        // mov $12,%edx; mov %rdx,%rax; syscall; mov %rdx,%rax; syscall; ret
        let code = [
            0xba, 12, 0, 0, 0, 0x48, 0x89, 0xd0, 0x0f, 0x05, 0x48, 0x89, 0xd0, 0x0f, 0x05, 0xc3,
        ];
        let found = system_calls(&code, 0);
        let numbers: Vec<u32> = found.known.iter().map(|it| it.number).collect();
        assert_eq!(numbers, [12, 12]);
        // push $9; pop %rax; syscall; ret
        assert_eq!(only(&[0x6a, 9, 0x58, 0x0f, 0x05, 0xc3]).number, 9);
        // xor %eax,%eax; mov $56,%al; syscall; ret
        assert_eq!(only(&[0x31, 0xc0, 0xb0, 56, 0x0f, 0x05, 0xc3]).number, 56);
    }

    #[test]
    fn where_a_branch_leads_in_nothing_is_known() {
        // mov $9,%eax; jmp +0; (target) syscall; ret
        let code = [0xb8, 9, 0, 0, 0, 0xeb, 0, 0x0f, 0x05, 0xc3];
        assert_eq!(system_calls(&code, 0).unknown, 1);
        // call, which may change it
        let code = [0xb8, 9, 0, 0, 0, 0xe8, 0, 0, 0, 1, 0x0f, 0x05, 0xc3];
        assert_eq!(system_calls(&code, 0).unknown, 1);
        // A branch to the instruction behind: jmp over; mov $9,%eax; syscall; over: ret
        let code = [0xeb, 7, 0xb8, 9, 0, 0, 0, 0x0f, 0x05, 0xc3];
        assert_eq!(only(&code).after, None);
    }

    #[test]
    fn nothing_behind_what_is_no_instruction() {
        let code = [0x06, 0xb8, 9, 0, 0, 0, 0x0f, 0x05, 0xc3];
        assert_eq!(system_calls(&code, 0), SystemCalls::default());
        assert_eq!(system_calls(&[0x0f], 0), SystemCalls::default());
    }
}
