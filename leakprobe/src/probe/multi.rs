//! One link for many user space probes, of which aya 0.14 knows nothing: the kernel wants to be told
//! when a program is loaded that it will be attached in this way. So both are asked for here, by the
//! bare system call. What is attached where is decided elsewhere.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use crate::bpf::bpf_new;

// Numbers from the kernel's include/uapi/linux/bpf.h.
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_BTF_LOAD: libc::c_int = 18;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_PROG_TYPE_KPROBE: u32 = 2;
const BPF_F_UPROBE_MULTI_RETURN: u32 = 1;

/// Bytes of an instruction (`struct bpf_insn`).
const INSTRUCTION: usize = 8;

/// Bytes that the verifier's log of a refused program may take; only its end matters.
const LOG: usize = 16 << 20;

/// What a program is loaded for (`enum bpf_attach_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum LinkKind {
    /// None: for a perf event, of which the program need not know when it is loaded.
    None = 0,
    /// A program that runs at entries, or one that runs at returns.
    Multi = 48,
    /// A program that runs at both, and may decide at the entry to spare the return.
    Session = 57,
}

/// A program to load.
pub struct Code<'a> {
    /// Its name, of which the kernel keeps 15 bytes.
    pub name: &'a str,
    /// Its licence.
    pub license: &'a CStr,
    /// Instructions in the kernel's encoding, eight bytes each.
    pub instructions: &'a [u8],
    /// What the types of its functions are. Without it no callbacks.
    pub types: Option<Types<'a>>,
}

/// Where the type information for a program is.
pub struct Types<'a> {
    /// Loaded by [`load_btf`].
    pub btf: BorrowedFd<'a>,
    /// Which instruction begins which function.
    pub functions: Records<'a>,
    /// Which instruction is of which line, for the verifier's log.
    pub lines: Records<'a>,
}

/// Records of the same size.
pub struct Records<'a> {
    /// All of them.
    pub bytes: &'a [u8],
    /// Bytes of one.
    pub size: usize,
}

/// Where a program is to be attached.
pub struct Places<'a> {
    /// The file that holds the code.
    pub file: &'a CStr,
    /// The process, of which all threads are probed.
    pub pid: u32,
    /// Offsets in the file, bytes.
    pub offsets: &'a [u64],
    /// What the program is told at each offset.
    pub cookies: Option<&'a [u64]>,
    /// Whether at the returns of the functions that begin there. Not for sessions.
    pub at_return: bool,
}

/// Start of `union bpf_attr` for `BPF_PROG_LOAD`.
#[repr(C)]
#[derive(Default)]
struct ProgramLoad {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    expected_attach_type: u32,
    btf: u32,
    function_size: u32,
    functions: u64,
    function_count: u32,
    line_size: u32,
    lines: u64,
    line_count: u32,
    /// Makes the size a multiple of eight without bytes of unknown content.
    zero: u32,
}

/// Start of `union bpf_attr` for `BPF_LINK_CREATE` with its part `uprobe_multi`.
#[repr(C)]
struct LinkCreate {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
    path: u64,
    offsets: u64,
    counter_offsets: u64,
    cookies: u64,
    count: u32,
    uprobe_flags: u32,
    pid: u32,
    /// As above.
    zero: u32,
}

/// Start of `union bpf_attr` for `BPF_BTF_LOAD`.
#[repr(C)]
struct BtfLoad {
    btf: u64,
    log_buffer: u64,
    size: u32,
    log_size: u32,
}

impl Code<'static> {
    /// `r0 = 0; exit`: all that an empty program is made of.
    pub fn nothing() -> Self {
        const NOTHING: [u8; 2 * INSTRUCTION] =
            [0xb7, 0, 0, 0, 0, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];
        Self {
            name: "nothing",
            license: c"Dual MIT/GPL",
            instructions: &NOTHING,
            types: None,
        }
    }
}

impl Code<'_> {
    fn request(&self, kind: LinkKind) -> ProgramLoad {
        let mut name = [0; 16];
        for (to, &from) in name[..15].iter_mut().zip(self.name.as_bytes()) {
            *to = from;
        }
        let mut request = ProgramLoad {
            program_type: BPF_PROG_TYPE_KPROBE,
            instruction_count: (self.instructions.len() / INSTRUCTION) as u32,
            instructions: self.instructions.as_ptr() as u64,
            license: self.license.as_ptr() as u64,
            name,
            expected_attach_type: kind as u32,
            ..ProgramLoad::default()
        };
        if let Some(types) = &self.types {
            request.btf = types.btf.as_raw_fd() as u32;
            (
                request.functions,
                request.function_count,
                request.function_size,
            ) = types.functions.request();
            (request.lines, request.line_count, request.line_size) = types.lines.request();
        }
        request
    }
}

impl Records<'_> {
    /// Address, number and size.
    fn request(&self) -> (u64, u32, u32) {
        match self.bytes.len().checked_div(self.size) {
            None | Some(0) => (0, 0, 0),
            Some(count) => (self.bytes.as_ptr() as u64, count as u32, self.size as u32),
        }
    }
}

/// Loads a program.
///
/// # Errors
///
/// What the kernel answers; why, [`refusal`] tells.
pub fn load(code: &Code<'_>, kind: LinkKind) -> io::Result<OwnedFd> {
    // SAFETY: all that the request points to lives as long as `code`, and is as long as it says.
    unsafe { bpf_new(BPF_PROG_LOAD, &mut code.request(kind)) }
}

/// What the verifier says of a program that was not loaded.
pub fn refusal(code: &Code<'_>, kind: LinkKind) -> String {
    let mut log = vec![0; LOG];
    let mut request = code.request(kind);
    (request.log_level, request.log_size) = (1, LOG as u32);
    request.log_buffer = log.as_mut_ptr() as u64;
    // SAFETY: as above; the kernel writes `LOG` bytes at the most, and ends with a zero.
    drop(unsafe { bpf_new(BPF_PROG_LOAD, &mut request) });
    let end = log.iter().position(|&byte| byte == 0).unwrap_or(log.len());
    String::from_utf8_lossy(&log[..end]).into_owned()
}

/// Loads type information.
///
/// # Errors
///
/// What the kernel answers.
pub fn load_btf(btf: &[u8]) -> io::Result<OwnedFd> {
    let mut request = BtfLoad {
        btf: btf.as_ptr() as u64,
        log_buffer: 0,
        size: btf.len() as u32,
        log_size: 0,
    };
    // SAFETY: `btf` is as long as the request says.
    unsafe { bpf_new(BPF_BTF_LOAD, &mut request) }
}

/// Attaches a program everywhere or nowhere. It is detached when the descriptor is closed, which
/// waits until it runs nowhere any more: once, not once for each place.
///
/// # Errors
///
/// What the kernel answers; ESRCH if there is no such process.
pub fn link(program: BorrowedFd<'_>, kind: LinkKind, places: &Places<'_>) -> io::Result<OwnedFd> {
    let cookies = match places.cookies {
        None => 0,
        Some(cookies) if cookies.len() == places.offsets.len() => cookies.as_ptr() as u64,
        Some(_) => return Err(io::ErrorKind::InvalidInput.into()),
    };
    let mut request = LinkCreate {
        program: program.as_raw_fd() as u32,
        target: 0,
        attach_type: kind as u32,
        flags: 0,
        path: places.file.as_ptr() as u64,
        offsets: places.offsets.as_ptr() as u64,
        counter_offsets: 0,
        cookies,
        count: places.offsets.len() as u32,
        uprobe_flags: match places.at_return {
            true => BPF_F_UPROBE_MULTI_RETURN,
            false => 0,
        },
        pid: places.pid,
        zero: 0,
    };
    // SAFETY: the path ends with a zero, and there are as many offsets and cookies as it says.
    unsafe { bpf_new(BPF_LINK_CREATE, &mut request) }
}

/// Runs a program whenever a perf event happens, for as long as the descriptor is open, which keeps the
/// event open too. The program is told `cookie`.
///
/// # Errors
///
/// What the kernel answers.
pub fn link_event(
    program: BorrowedFd<'_>,
    event: BorrowedFd<'_>,
    cookie: u64,
) -> io::Result<OwnedFd> {
    /// Start of `union bpf_attr` for `BPF_LINK_CREATE` with its part `perf_event`.
    #[repr(C)]
    struct LinkCreate {
        program: u32,
        target: u32,
        attach_type: u32,
        flags: u32,
        cookie: u64,
    }
    const BPF_PERF_EVENT: u32 = 41;
    let mut request = LinkCreate {
        program: program.as_raw_fd() as u32,
        target: event.as_raw_fd() as u32,
        attach_type: BPF_PERF_EVENT,
        flags: 0,
        cookie,
    };
    // SAFETY: no member is a pointer.
    unsafe { bpf_new(BPF_LINK_CREATE, &mut request) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the kernel's header: where the members are that come after others.
    #[test]
    fn requests_are_laid_out_as_the_kernel_reads_them() {
        use std::mem::offset_of;
        assert_eq!(offset_of!(ProgramLoad, expected_attach_type), 68);
        assert_eq!(offset_of!(ProgramLoad, functions), 80);
        assert_eq!(offset_of!(ProgramLoad, lines), 96);
        assert_eq!(size_of::<ProgramLoad>(), 112);
        assert_eq!(offset_of!(LinkCreate, path), 16);
        assert_eq!(offset_of!(LinkCreate, pid), 56);
        assert_eq!(size_of::<LinkCreate>(), 64);
    }

    #[test]
    fn no_records_are_no_request() {
        let none = Records {
            bytes: &[],
            size: 8,
        };
        assert_eq!(none.request(), (0, 0, 0));
        let unknown = Records {
            bytes: &[1],
            size: 0,
        };
        assert_eq!(unknown.request(), (0, 0, 0));
    }

    #[test]
    fn a_cookie_for_each_place() {
        let places = Places {
            file: c"/",
            pid: 0,
            offsets: &[0, 1],
            cookies: Some(&[0]),
            at_return: false,
        };
        let stdin = io::stdin();
        let error = link(std::os::fd::AsFd::as_fd(&stdin), LinkKind::Multi, &places);
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
