//! System calls in x86-64 code: their numbers, where they are constants, and where probes can see them.
//!
//! Instructions are those that branches and calls lead to from functions that are known, and constants are
//! followed through straight code; where a branch leads in, nothing is known. The kernel refuses a probe on `syscall` itself. The
//! instruction behind it sees the result, and all arguments, for a system call changes `rax`, `rcx` and
//! `r11` alone. What has to be known before the call is seen at the instruction in front of it. It reads
//! no file and does not know what the calls are for.

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
    /// How often there are the bytes of one where no way was found to lead to.
    pub unreached: usize,
}

/// The system calls in code at `address` that can be got to from the functions that start there: between
/// them there may be data, which does not tell where an instruction begins.
pub fn system_calls(code: &[u8], address: u64, functions: &[u64]) -> SystemCalls {
    let reached = Reached::from(code, address, functions);
    let mut found = SystemCalls::default();
    let places = code.windows(SYSCALL.len()).enumerate();
    for (at, _) in places.filter(|(_, bytes)| *bytes == SYSCALL) {
        if !reached.begins.has(at) {
            found.unreached += 1;
            continue;
        }
        let way = reached.straight_to(at);
        let mut constants = Constants::default();
        way.iter()
            .for_each(|instruction| constants.see(instruction));
        let Some(number) = constants.of(Register::RAX) else {
            found.unknown += 1;
            continue;
        };
        let may_probe = |it: &Instruction| {
            let start = it.ip().wrapping_sub(address) as usize;
            let bytes = code.get(start..start + it.len());
            bytes.is_some_and(|bytes| refusal(it, bytes).is_none())
        };
        let before = way.last().filter(|it| may_probe(it));
        let after = at + SYSCALL.len();
        let is_passed = reached.begins.has(after) && !reached.targets.has(after);
        let after = is_passed.then(|| reached.decode(after));
        found.known.push(SystemCall {
            number,
            address: address + at as u64,
            before: before.and_then(arguments_before),
            after: after.filter(may_probe).map(|it| it.ip()),
        });
    }
    found
}

/// A set of offsets.
struct Offsets(Vec<u64>);

impl Offsets {
    fn below(end: usize) -> Self {
        Self(vec![0; end.div_ceil(64)])
    }

    fn has(&self, offset: usize) -> bool {
        let word = self.0.get(offset / 64);
        word.is_some_and(|word| word >> (offset % 64) & 1 == 1)
    }

    /// Whether it was not in there.
    fn insert(&mut self, offset: usize) -> bool {
        let is_new = !self.has(offset);
        self.0[offset / 64] |= 1 << (offset % 64);
        is_new
    }
}

/// Where instructions begin that can be got to.
struct Reached<'a> {
    code: &'a [u8],
    address: u64,
    begins: Offsets,
    /// Those that are got to otherwise than from the one before.
    targets: Offsets,
}

/// Instructions before a system call among which its number is looked for.
const STRAIGHT: usize = 64;

/// Bytes of the longest instruction.
const LONGEST: usize = 15;

impl<'a> Reached<'a> {
    /// Follows all branches and calls. Bytes that are no instruction end the way that leads there.
    fn from(code: &'a [u8], address: u64, functions: &[u64]) -> Self {
        let mut reached = Self {
            code,
            address,
            begins: Offsets::below(code.len()),
            targets: Offsets::below(code.len()),
        };
        let mut starts = Vec::new();
        functions
            .iter()
            .for_each(|&it| reached.lead_to(it, &mut starts));
        let mut decoder = Decoder::with_ip(64, code, address, DecoderOptions::NONE);
        let mut instruction = Instruction::default();
        while let Some(start) = starts.pop() {
            // Within the code, as all that are noted.
            let _ = decoder.set_position(start);
            decoder.set_ip(address.wrapping_add(start as u64));
            while decoder.can_decode() && !reached.begins.has(decoder.position()) {
                let at = decoder.position();
                decoder.decode_out(&mut instruction);
                if instruction.is_invalid() {
                    break;
                }
                reached.begins.insert(at);
                if let Some(target) = branch_target(&instruction) {
                    reached.lead_to(target, &mut starts);
                }
                if !goes_on(&instruction) {
                    break;
                }
            }
        }
        reached
    }

    /// Notes where something leads, once, if that is in this code.
    fn lead_to(&mut self, target: u64, starts: &mut Vec<usize>) {
        let offset = usize::try_from(target.wrapping_sub(self.address)).unwrap_or(usize::MAX);
        if offset < self.code.len() && self.targets.insert(offset) {
            starts.push(offset);
        }
    }

    fn decode(&self, at: usize) -> Instruction {
        let address = self.address.wrapping_add(at as u64);
        Decoder::with_ip(64, &self.code[at..], address, DecoderOptions::NONE).decode()
    }

    /// The instructions from which one goes straight to the one at an offset, and nothing leads in between.
    fn straight_to(&self, mut at: usize) -> Vec<Instruction> {
        let mut way = Vec::new();
        while way.len() < STRAIGHT && !self.targets.has(at) {
            let mut places = (at.saturating_sub(LONGEST)..at).rev();
            let leads_here = |place: usize| {
                let instruction = self.decode(place);
                (place + instruction.len() == at && goes_on(&instruction))
                    .then_some((place, instruction))
            };
            let last = places.find(|&it| self.begins.has(it));
            let Some((place, instruction)) = last.and_then(leads_here) else {
                break;
            };
            way.push(instruction);
            at = place;
        }
        way.reverse();
        way
    }
}

/// Whether an instruction may go on with the next one.
fn goes_on(instruction: &Instruction) -> bool {
    matches!(
        instruction.flow_control(),
        FlowControl::Next
            | FlowControl::ConditionalBranch
            | FlowControl::Call
            | FlowControl::IndirectCall
    )
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
        let found = system_calls(code, 0x1000, &[0x1000]);
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
        let found = system_calls(&code, 0, &[0]);
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
        assert_eq!(system_calls(&code, 0, &[0]).unknown, 1);
        // call, which may change it
        let code = [0xb8, 9, 0, 0, 0, 0xe8, 0, 0, 0, 1, 0x0f, 0x05, 0xc3];
        assert_eq!(system_calls(&code, 0, &[0]).unknown, 1);
        // A branch to the instruction behind: je over; mov $9,%eax; syscall; over: ret
        let code = [0x74, 7, 0xb8, 9, 0, 0, 0, 0x0f, 0x05, 0xc3];
        assert_eq!(only(&code).after, None);
    }

    #[test]
    fn data_is_no_code() {
        // jmp over; data that seems to be `mov $imm,%eax` with the next four bytes; over: mov $9,%eax;
        // syscall; ret
        let code = [0xeb, 1, 0xb8, 0xb8, 9, 0, 0, 0, 0x0f, 0x05, 0xc3];
        let call = only(&code);
        assert_eq!((call.address, call.after), (0x1008, Some(0x100a)));
        assert_eq!(call.before.unwrap().address, 0x1003);
        // Behind a return, where nothing leads to: mov $9,%eax; syscall; ret
        let code = [0xc3, 0xb8, 9, 0, 0, 0, 0x0f, 0x05, 0xc3];
        let found = system_calls(&code, 0, &[0]);
        assert_eq!((found.known.len(), found.unreached), (0, 1));
        // Unless a function is known to be there, or called: call it; ret
        assert_eq!(system_calls(&code, 0, &[1]).known.len(), 1);
        let code = [0xe8, 1, 0, 0, 0, 0xc3, 0xb8, 9, 0, 0, 0, 0x0f, 0x05, 0xc3];
        assert_eq!(only(&code).number, 9);
        // Somewhere else.
        assert_eq!(system_calls(&code, 0, &[1000]).unreached, 1);
    }

    #[test]
    fn nothing_behind_what_is_no_instruction() {
        let code = [0x06, 0xb8, 9, 0, 0, 0, 0x0f, 0x05, 0xc3];
        assert_eq!(system_calls(&code, 0, &[0]).unreached, 1);
        assert_eq!(system_calls(&[0x0f], 0, &[0]), SystemCalls::default());
    }
}
