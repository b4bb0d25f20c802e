//! What one instruction does to what is known. Every write to a register or to a word that is known
//! is seen; writes through other pointers are taken not to hit the places where a function saves
//! registers.

use iced_x86::{Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register};

use super::state::{FP, SP, State, VOLATILE, Value};

/// Changes `state` as the instruction does. Calls are taken as having returned.
pub(super) fn step(state: &mut State, i: &Instruction, info: &mut InstructionInfoFactory) {
    match i.mnemonic() {
        Mnemonic::Push => push(state, i),
        Mnemonic::Pop => pop(state, i),
        Mnemonic::Pushf | Mnemonic::Pushfq => moved(state, i.stack_pointer_increment()),
        Mnemonic::Popf | Mnemonic::Popfq => moved(state, i.stack_pointer_increment()),
        Mnemonic::Call => state.call(),
        Mnemonic::Syscall => {
            // rax, rcx and r11.
            for register in [0, 1, 11] {
                state.registers[register] = Value::Unknown;
            }
        }
        Mnemonic::Leave => {
            let fp = state.registers[FP];
            set(state, SP, fp, i.ip());
            let saved = state.load(fp);
            state.registers[FP] = saved;
            moved(state, 8);
        }
        Mnemonic::Enter if i.immediate8_2nd() == 0 => {
            let fp = state.registers[FP];
            moved(state, -8);
            let sp = state.registers[SP];
            state.store(sp, 8, fp);
            state.registers[FP] = sp;
            moved(state, -i32::from(i.immediate16()));
        }
        Mnemonic::Mov if i.op0_kind() == OpKind::Memory => {
            let value = register(i.op1_register()).map_or(Value::Unknown, |r| state.registers[r]);
            state.store(address(state, i), i.memory_size().size(), value);
        }
        Mnemonic::Mov => write(state, i, |state| match i.op1_kind() {
            OpKind::Memory if i.memory_size().size() == 8 => state.load(address(state, i)),
            OpKind::Register => {
                register(i.op1_register()).map_or(Value::Unknown, |r| state.registers[r])
            }
            _ => Value::Unknown,
        }),
        Mnemonic::Lea => write(state, i, |state| address(state, i)),
        Mnemonic::Add => add(state, i, info, 1),
        Mnemonic::Sub => add(state, i, info, -1),
        _ => other(state, i, info),
    }
}

/// The number of a whole register.
fn register(register: Register) -> Option<usize> {
    register.is_gpr64().then(|| register.number())
}

/// The number of a register of which `register` is a part.
pub(super) fn part_of(register: Register) -> Option<usize> {
    register.is_gpr().then(|| register.full_register().number())
}

fn set(state: &mut State, register: usize, value: Value, address: u64) {
    if register == SP && !matches!(value, Value::Cfa(_) | Value::Base(_)) {
        state.rebase(address);
    } else {
        state.registers[register] = value;
    }
}

/// Moves the stack pointer.
fn moved(state: &mut State, bytes: i32) {
    state.registers[SP] = state.registers[SP].plus(bytes.into());
}

fn push(state: &mut State, i: &Instruction) {
    let value = match i.op0_kind() {
        OpKind::Register => register(i.op0_register()).map(|r| state.registers[r]),
        OpKind::Memory => Some(state.load(address(state, i))),
        _ => None,
    };
    let bytes = i.stack_pointer_increment();
    moved(state, bytes);
    let sp = state.registers[SP];
    state.store(
        sp,
        bytes.unsigned_abs() as usize,
        value.unwrap_or(Value::Unknown),
    );
}

fn pop(state: &mut State, i: &Instruction) {
    let sp = state.registers[SP];
    let value = state.load(sp);
    moved(state, i.stack_pointer_increment());
    match i.op0_kind() {
        OpKind::Register => match register(i.op0_register()) {
            Some(register) => set(state, register, value, i.ip()),
            None => write(state, i, |_| Value::Unknown),
        },
        // An address that uses the stack pointer means the one after the pop.
        _ => state.store(address(state, i), i.memory_size().size(), value),
    }
}

/// Writes a register operand. A half of a register is not worth following.
fn write(state: &mut State, i: &Instruction, value: impl Fn(&State) -> Value) {
    let Some(number) = part_of(i.op0_register()) else {
        return;
    };
    let mut value = match register(i.op0_register()) {
        Some(_) => value(state),
        None => Value::Unknown,
    };
    // Pointers to local variables are many. Only those that survive calls serve to restore the
    // stack pointer.
    let sp = state.registers[SP];
    if VOLATILE[number] && matches!(value, Value::Cfa(..-8)) {
        let keep = value.from(sp).is_some_and(|bytes| bytes <= 0);
        if !keep {
            value = Value::Unknown;
        }
    }
    set(state, number, value, i.ip());
}

fn add(state: &mut State, i: &Instruction, info: &mut InstructionInfoFactory, sign: i64) {
    let immediate = matches!(
        i.op1_kind(),
        OpKind::Immediate8to64 | OpKind::Immediate32to64 | OpKind::Immediate8 | OpKind::Immediate32
    );
    match (i.op0_kind(), register(i.op0_register())) {
        (OpKind::Register, Some(register)) if immediate => {
            let bytes = (i.immediate(1) as i64).saturating_mul(sign);
            let value = state.registers[register].plus(bytes);
            set(state, register, value, i.ip());
        }
        _ => other(state, i, info),
    }
}

/// Where the memory operand is.
fn address(state: &State, i: &Instruction) -> Value {
    let plain = i.memory_index() == Register::None && i.segment_prefix() == Register::None;
    match register(i.memory_base()) {
        Some(base) if plain => state.registers[base].plus(i.memory_displacement64() as i64),
        _ => Value::Unknown,
    }
}

/// Any other instruction: what it writes is unknown afterwards.
fn other(state: &mut State, i: &Instruction, info: &mut InstructionInfoFactory) {
    let memory = if i.op0_kind() == OpKind::Memory {
        let place = address(state, i);
        state
            .overlaps(place, i.memory_size().size())
            .then_some(place)
    } else {
        None
    };
    if memory.is_none() && !concerns(state, i) {
        return;
    }
    let info = info.info(i);
    if let Some(place) = memory
        && info.used_memory().iter().any(|used| writes(used.access()))
    {
        state.store(place, i.memory_size().size(), Value::Unknown);
    }
    for used in info.used_registers() {
        if writes(used.access())
            && let Some(number) = part_of(used.register())
        {
            set(state, number, Value::Unknown, i.ip());
        }
    }
}

/// Whether it can write to a register of which something is known. Only volatile registers and rbx
/// are ever written by instructions that do not name them.
fn concerns(state: &State, i: &Instruction) -> bool {
    let known = |register: usize| state.registers[register] != Value::Unknown;
    let unnamed = |register: usize| VOLATILE[register] || register == 3;
    (0..16).any(|register| unnamed(register) && known(register))
        || (0..i.op_count()).any(|operand| {
            i.op_kind(operand) == OpKind::Register
                && part_of(i.op_register(operand)).is_some_and(known)
        })
}

fn writes(access: OpAccess) -> bool {
    matches!(
        access,
        OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite
    )
}
