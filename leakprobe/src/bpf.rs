//! What aya does not offer: many map entries in one system call (one call for each takes seconds for
//! a million blocks), maps that only other maps know, and waiting for the programs that are running.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use leakprobe_common::{
    Block, BlockKey, Chunk, CodeMappings, Control, Page, ProcessState, Rule, RuleCache, StackKey,
    StackTotals,
};

/// `BPF_MAP_UPDATE_ELEM` of the kernel's `include/uapi/linux/bpf.h`.
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
/// `BPF_MAP_LOOKUP_AND_DELETE_ELEM`, likewise.
const BPF_MAP_LOOKUP_AND_DELETE_ELEM: libc::c_int = 21;
/// `BPF_NOEXIST`, likewise.
const BPF_NOEXIST: u64 = 1;

/// `BPF_MAP_LOOKUP_BATCH` of the kernel's `include/uapi/linux/bpf.h`.
const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;
/// `BPF_MAP_UPDATE_BATCH`, likewise.
const BPF_MAP_UPDATE_BATCH: libc::c_int = 26;
/// `BPF_MAP_DELETE_BATCH`, likewise.
const BPF_MAP_DELETE_BATCH: libc::c_int = 27;

/// Entries per system call to begin with. More than any bucket of a well-filled map holds.
const ENTRIES: usize = 16 * 1024;

/// The `batch` member of `union bpf_attr`.
#[repr(C)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// The member of `union bpf_attr` for one entry.
#[repr(C)]
struct EntryAttr {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Types whose every bit pattern is a value, and which have no padding.
///
/// # Safety
///
/// The kernel writes arbitrary bytes into them.
pub unsafe trait Plain: Copy {}

// SAFETY: a number.
unsafe impl Plain for u64 {}
// SAFETY: as above.
unsafe impl Plain for u32 {}
// SAFETY: all of them are `repr(C)` structures of numbers that fill them.
unsafe impl Plain for BlockKey {}
// SAFETY: as above.
unsafe impl Plain for Block {}
// SAFETY: as above.
unsafe impl Plain for StackKey {}
// SAFETY: as above.
unsafe impl Plain for StackTotals {}
// SAFETY: as above.
unsafe impl Plain for Rule {}
// SAFETY: as above.
unsafe impl Plain for Page {}
// SAFETY: as above.
unsafe impl Plain for CodeMappings {}
// SAFETY: as above.
unsafe impl Plain for ProcessState {}
// SAFETY: an array of numbers.
unsafe impl Plain for [u64; Control::ALL] {}
// SAFETY: as above.
unsafe impl Plain for [u64; 2] {}
// SAFETY: an array of such structures.
unsafe impl Plain for Chunk {}
// SAFETY: an array of numbers.
unsafe impl Plain for RuleCache {}

/// The system call. What is missing at the end of `attr` the kernel takes for zeros.
///
/// # Safety
///
/// `attr` begins as the kernel's `union bpf_attr` does for `command`, and what it points to may be
/// read and written as `command` does.
pub(crate) unsafe fn bpf<A>(command: libc::c_int, attr: &mut A) -> io::Result<i64> {
    // SAFETY: the attribute is as long as it says; the rest is the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attr, size_of::<A>()) };
    match result {
        0.. => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The same for commands that make something and return its descriptor.
///
/// # Safety
///
/// As of [`bpf`].
pub(crate) unsafe fn bpf_new<A>(command: libc::c_int, attr: &mut A) -> io::Result<OwnedFd> {
    // SAFETY: the caller's promise.
    let fd = unsafe { bpf(command, attr) }?;
    // SAFETY: the descriptor is new, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}

/// Writes `values` to an array from entry `first` on.
///
/// # Errors
///
/// What the kernel answers; nobody knows how many were written then.
pub fn write_range<V: Plain>(map: BorrowedFd<'_>, first: u32, values: &[V]) -> io::Result<()> {
    if values.is_empty() {
        return Ok(());
    }
    let keys: Vec<u32> = (first..).take(values.len()).collect();
    write(map, &keys, values)
}

/// Writes a value for each key.
///
/// # Errors
///
/// What the kernel answers; nobody knows how many were written then.
pub fn write<K: Plain, V: Plain>(map: BorrowedFd<'_>, keys: &[K], values: &[V]) -> io::Result<()> {
    let mut attr = BatchAttr {
        in_batch: 0,
        out_batch: 0,
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count: keys.len().min(values.len()) as u32,
        map_fd: map.as_raw_fd() as u32,
        elem_flags: 0,
        flags: 0,
    };
    // SAFETY: the kernel reads `count` keys and values of the map's sizes.
    unsafe { bpf(BPF_MAP_UPDATE_BATCH, &mut attr) }?;
    Ok(())
}

/// Removes entries of a hash map; those that are not there any more are passed over.
///
/// # Errors
///
/// What the kernel answers.
pub fn remove<K: Plain>(map: BorrowedFd<'_>, mut keys: &[K]) -> io::Result<()> {
    while !keys.is_empty() {
        let mut attr = BatchAttr {
            in_batch: 0,
            out_batch: 0,
            keys: keys.as_ptr() as u64,
            values: 0,
            count: keys.len() as u32,
            map_fd: map.as_raw_fd() as u32,
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: the kernel reads `count` keys of the map's size.
        let error = unsafe { bpf(BPF_MAP_DELETE_BATCH, &mut attr) }.err();
        let removed = (attr.count as usize).min(keys.len());
        keys = match error.as_ref().and_then(io::Error::raw_os_error) {
            None if error.is_none() => return Ok(()),
            // The first that was not removed is not there.
            Some(libc::ENOENT) => keys.get(removed + 1..).unwrap_or_default(),
            Some(libc::EINTR | libc::EAGAIN) => &keys[removed..],
            _ => return error.map_or(Ok(()), Err),
        };
    }
    Ok(())
}

/// Takes an entry out of a hash map; `None` if it is not there.
///
/// # Errors
///
/// What the kernel answers.
pub fn take<K: Plain, V: Plain>(map: BorrowedFd<'_>, key: &K) -> io::Result<Option<V>> {
    let mut value = MaybeUninit::<V>::uninit();
    let mut attr = EntryAttr {
        map_fd: map.as_raw_fd() as u32,
        padding: 0,
        key: key as *const K as u64,
        value: value.as_mut_ptr() as u64,
        flags: 0,
    };
    // SAFETY: the kernel reads a key and writes a value of the map's sizes.
    match unsafe { bpf(BPF_MAP_LOOKUP_AND_DELETE_ELEM, &mut attr) } {
        // SAFETY: the kernel has written it.
        Ok(_) => Ok(Some(unsafe { value.assume_init() })),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Puts an entry into a hash map, unless there is one with this key.
///
/// # Errors
///
/// What the kernel answers.
pub fn put<K: Plain, V: Plain>(map: BorrowedFd<'_>, key: &K, value: &V) -> io::Result<()> {
    let mut attr = EntryAttr {
        map_fd: map.as_raw_fd() as u32,
        padding: 0,
        key: key as *const K as u64,
        value: value as *const V as u64,
        flags: BPF_NOEXIST,
    };
    // SAFETY: the kernel reads a key and a value of the map's sizes.
    match unsafe { bpf(BPF_MAP_UPDATE_ELEM, &mut attr) } {
        Err(error) if error.raw_os_error() != Some(libc::EEXIST) => Err(error),
        _ => Ok(()),
    }
}

/// Makes an array of one entry.
///
/// # Errors
///
/// What the kernel answers.
pub fn create_array<V: Plain>() -> io::Result<OwnedFd> {
    /// The first members of `union bpf_attr` for `BPF_MAP_CREATE`.
    #[repr(C)]
    struct CreateAttr {
        map_type: u32,
        key_size: u32,
        value_size: u32,
        max_entries: u32,
    }
    /// `BPF_MAP_CREATE` and `BPF_MAP_TYPE_ARRAY` of the kernel's `include/uapi/linux/bpf.h`.
    const BPF_MAP_CREATE: libc::c_int = 0;
    const BPF_MAP_TYPE_ARRAY: u32 = 2;
    let mut attr = CreateAttr {
        map_type: BPF_MAP_TYPE_ARRAY,
        key_size: size_of::<u32>() as u32,
        value_size: size_of::<V>() as u32,
        max_entries: 1,
    };
    // SAFETY: no member is a pointer.
    unsafe { bpf_new(BPF_MAP_CREATE, &mut attr) }
}

/// Calls `each` with every entry of a hash map. Entries that come or go meanwhile may be among
/// them or not.
///
/// # Errors
///
/// What the kernel answers.
pub fn for_each<K: Plain, V: Plain>(
    map: BorrowedFd<'_>,
    mut each: impl FnMut(&K, &V),
) -> io::Result<()> {
    let mut room = ENTRIES;
    let mut keys: Vec<MaybeUninit<K>> = vec![MaybeUninit::uninit(); room];
    let mut values: Vec<MaybeUninit<V>> = vec![MaybeUninit::uninit(); room];
    // For a hash map the kernel keeps a bucket number in these.
    let (mut position, mut next) = (0u32, 0u32);
    let mut first = true;
    loop {
        let mut attr = BatchAttr {
            in_batch: if first { 0 } else { &raw const position as u64 },
            out_batch: &raw mut next as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: room as u32,
            map_fd: map.as_raw_fd() as u32,
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: the attribute says how much room there is behind each pointer.
        let error = unsafe { bpf(BPF_MAP_LOOKUP_BATCH, &mut attr) }.err();
        match error.as_ref().and_then(io::Error::raw_os_error) {
            None if error.is_none() => {}
            Some(libc::ENOENT) => {} // the last batch
            Some(libc::ENOSPC) => {
                // One bucket holds more than there is room for.
                room *= 2;
                keys.resize(room, MaybeUninit::uninit());
                values.resize(room, MaybeUninit::uninit());
                continue;
            }
            Some(libc::EINTR | libc::EAGAIN) => continue,
            _ => return error.map_or(Ok(()), Err),
        }
        let count = (attr.count as usize).min(room);
        for (key, value) in keys[..count].iter().zip(&values[..count]) {
            // SAFETY: the kernel filled in the first `count` of both.
            unsafe { each(key.assume_init_ref(), value.assume_init_ref()) };
        }
        if error.is_some() {
            return Ok(());
        }
        position = next;
        first = false;
    }
}

/// Returns when no BPF program runs any more that began before.
///
/// # Errors
///
/// If the kernel does not offer it, where CPUs run without a clock tick.
pub fn wait_for_programs() -> io::Result<()> {
    // Programs of uprobes run in an RCU read section, and this waits for all of those.
    // SAFETY: the system call takes integers.
    let status = unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if status != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
