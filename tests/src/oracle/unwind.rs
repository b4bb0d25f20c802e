//! From a sample to its frames: framehop steps, and where it is known to be unable, or would guess,
//! this module says what holds instead:
//!
//! - code of a JIT compiler and V8's embedded builtins, which keep frame pointers: framehop's own
//!   fallback;
//! - the kernel's signal frame: the interrupted registers, from where the kernel puts them;
//! - rules with expressions: carried out by [`super::cfi`];
//! - anything else without a rule: the oracle gives up, and says where.

use framehop::x86_64::{CacheX86_64, UnwindRegsX86_64};
use framehop::{FrameAddress, Unwinder};

use super::cfi::{Registers, Rule};
use super::sampler::Sample;
use super::space::{Mapping, Space};

/// Frames that leakprobe records at the most.
pub const MAX_FRAMES: usize = 127;

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Frame {
    /// File name of the code.
    pub module: String,
    /// Address of the call's last byte, or of an interrupted instruction, as the file counts.
    pub offset: u64,
    /// The same in memory.
    pub address: u64,
}

/// How a walk ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum End {
    /// At the start of the thread.
    Start,
    /// After [`MAX_FRAMES`].
    Depth,
    /// In an allocator call that leakprobe follows: its return address is the kernel's trampoline.
    /// The call is not the outermost one, or a signal handler interrupted it.
    Trampoline,
    /// The oracle cannot go on; why, and where.
    GaveUp(String),
}

/// A stack as the oracle sees it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Stack {
    /// Leaf first: the caller of the allocator.
    pub frames: Vec<Frame>,
    /// How it ended.
    pub end: End,
    /// Whether a signal handler is in it.
    pub has_signal: bool,
}

/// `mov $15, %rax; syscall`: what a signal handler returns to, in glibc and in musl.
const RT_SIGRETURN: [u8; 9] = [0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05];

/// Walks samples of one process.
pub struct Walker<'s> {
    space: &'s Space,
    /// Reads code of the process.
    code: Box<dyn Fn(u64) -> Option<[u8; 9]> + 's>,
    caches: [CacheX86_64; 2],
}

impl<'s> Walker<'s> {
    /// `code` reads the target's code.
    pub fn new(space: &'s Space, code: impl Fn(u64) -> Option<[u8; 9]> + 's) -> Walker<'s> {
        Walker {
            space,
            code: Box::new(code),
            caches: [CacheX86_64::new(), CacheX86_64::new()],
        }
    }

    /// Walks one sample, from the caller of the sampled function down.
    pub fn walk(&mut self, sample: &Sample) -> Stack {
        let memory = |address: u64| {
            let at = usize::try_from(address.checked_sub(sample.sp)?).ok()?;
            let bytes = sample.stack.get(at..at.checked_add(8)?)?;
            Some(u64::from_ne_bytes(bytes.try_into().ok()?))
        };
        let mut stack = Stack {
            frames: Vec::new(),
            end: End::Depth,
            has_signal: false,
        };
        let Some(ip) = memory(sample.sp) else {
            stack.end = End::GaveUp("no stack in the sample".to_string());
            return stack;
        };
        let mut at = Registers {
            ip,
            sp: sample.sp + 8,
            bp: sample.bp,
        };
        // An interrupted instruction is looked up as it is, a call by its last byte.
        let mut is_call = true;
        while stack.frames.len() < MAX_FRAMES {
            let trampoline = self.space.find(at.ip);
            if trampoline.is_some_and(|mapping| mapping.name == "[uprobes]") {
                stack.end = End::Trampoline;
                return stack;
            }
            let look_up = if is_call {
                at.ip.wrapping_sub(1)
            } else {
                at.ip
            };
            let Some(mapping) = self.space.find(look_up) else {
                let last = stack.frames.last().map(|frame| self.space.describe(frame));
                let last = last.as_deref().unwrap_or("the allocator");
                stack.end = End::GaveUp(format!("an address in no mapping after {last}"));
                return stack;
            };
            stack.frames.push(Frame {
                module: mapping.name.clone(),
                offset: look_up.wrapping_sub(mapping.bias),
                address: look_up,
            });
            is_call = true;
            match self.step(mapping, look_up, at, &memory) {
                Ok(Step::Caller(caller)) => at = caller,
                Ok(Step::Interrupted(interrupted)) => {
                    at = interrupted;
                    is_call = false;
                    stack.has_signal = true;
                }
                Err(end) => {
                    stack.end = end;
                    return stack;
                }
            }
        }
        stack
    }

    fn step(
        &mut self,
        mapping: &Mapping,
        look_up: u64,
        at: Registers,
        memory: &dyn Fn(u64) -> Option<u64>,
    ) -> Result<Step, End> {
        if (self.code)(at.ip) == Some(RT_SIGRETURN) {
            return interrupted(at.sp, memory)
                .map(Step::Interrupted)
                .ok_or_else(|| gave_up("signal frame beyond the sampled stack", mapping, look_up));
        }
        let address = look_up.wrapping_sub(mapping.bias);
        if is_thread_start(mapping, address) {
            return Err(End::Start);
        }
        let described = mapping.image.as_ref().and_then(|image| {
            let mut cfis = image.cfi.iter();
            cfis.find_map(|cfi| Some((cfi, cfi.rule(address)?)))
        });
        let unwinder = match described {
            Some((cfi, Rule::Plain)) => usize::from(cfi.is_debug),
            Some((cfi, Rule::Expressions)) => {
                return cfi
                    .evaluate(address, at, memory)
                    .map(Step::Caller)
                    .ok_or_else(|| gave_up("expression", mapping, look_up));
            }
            Some((_, Rule::OtherRegister)) => {
                return Err(gave_up("rule by another register", mapping, look_up));
            }
            None if keeps_frame_pointers(mapping, address) => 0,
            None => return Err(gave_up("no rule", mapping, look_up)),
        };
        let lookup_address = if look_up == at.ip {
            FrameAddress::from_instruction_pointer(at.ip)
        } else {
            FrameAddress::from_return_address(at.ip).ok_or(End::Start)?
        };
        let mut registers = UnwindRegsX86_64::new(at.ip, at.sp, at.bp);
        let next = self.space.unwinders[unwinder].unwind_frame(
            lookup_address,
            &mut registers,
            &mut self.caches[unwinder],
            &mut |address| memory(address).ok_or(()),
        );
        match next {
            Ok(Some(ip)) => Ok(Step::Caller(Registers {
                ip,
                sp: registers.sp(),
                bp: registers.bp(),
            })),
            Ok(None) => Err(End::Start),
            Err(error) => Err(gave_up(&error.to_string(), mapping, look_up)),
        }
    }
}

enum Step {
    Caller(Registers),
    Interrupted(Registers),
}

fn gave_up(why: &str, mapping: &Mapping, address: u64) -> End {
    // Addresses of memory would make each reason another one.
    let why = why.split(" at 0x").next().unwrap_or(why);
    End::GaveUp(format!("{why}: {}", describe(mapping, address)))
}

/// Module and function at an address in memory.
pub fn describe(mapping: &Mapping, address: u64) -> String {
    let function = mapping
        .image
        .as_ref()
        .map_or("?", |image| image.function(address - mapping.bias));
    format!("{} {function}", mapping.name)
}

/// The registers in the signal frame that the kernel left at `sp` (struct ucontext of
/// arch/x86/include/uapi/asm/sigcontext.h: registers from byte 40 on, of which RBP is the 11th, RSP
/// the 16th, RIP the 17th).
fn interrupted(sp: u64, memory: &dyn Fn(u64) -> Option<u64>) -> Option<Registers> {
    let register = |number: u64| memory(sp.checked_add(40 + 8 * number)?);
    Some(Registers {
        bp: register(10)?,
        sp: register(15)?,
        ip: register(16)?,
    })
}

/// Code that is known to keep frame pointers although nothing describes it: that of JIT compilers,
/// V8's embedded builtins, and the assembler of its garbage collector.
fn keeps_frame_pointers(mapping: &Mapping, address: u64) -> bool {
    match &mapping.image {
        None => true,
        Some(image) => {
            let name = image.function(address);
            name.starts_with("Builtins_")
                || name.starts_with("v8_Default_embedded_blob")
                || name == "PushAllRegistersAndIterateStack"
        }
    }
}

/// Code below which there is nothing. glibc's says so; musl's has no description, or one that is right
/// for the thread that calls it and not for the one that it starts.
fn is_thread_start(mapping: &Mapping, address: u64) -> bool {
    let names = ["_start", "__clone"];
    let image = mapping.image.as_ref();
    image.is_some_and(|image| names.contains(&image.function(address)))
}
