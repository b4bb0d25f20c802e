//! Where the running kernel has the members of its structures, from its own type information
//! (`/sys/kernel/btf/vmlinux`): the kernel side is told numbers, and relocates nothing.
//!
//! The format is in the kernel's Documentation/bpf/btf.rst. Nothing else of it is read here.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result};
use leakprobe_common::TaskLayout;

use crate::pid_namespace;

const PATH: &str = "/sys/kernel/btf/vmlinux";

const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;

/// The structures and unions of a kernel.
pub struct Layout<'a> {
    /// Type number to its record: kind, members.
    types: HashMap<u32, &'a [u8]>,
    by_name: HashMap<&'a [u8], u32>,
    strings: &'a [u8],
}

/// What growth mode needs, bytes from the start of a structure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offsets {
    /// Of the file in `struct vm_area_struct`.
    pub file: u64,
    /// Of the flags in it.
    pub flags: u64,
    /// Of the number of minor faults in `struct task_struct`.
    pub faults: u64,
}

/// Where tasks and PIDs have what the kernel side reads: the words of a [`TaskLayout`].
///
/// # Errors
///
/// If the running kernel does not tell.
pub fn tasks() -> Result<[u64; WORDS]> {
    let bytes = fs::read(PATH).with_context(|| {
        format!(
            "failed to read `{PATH}`: have sysfs mounted at /sys, and boot a kernel with \
             CONFIG_DEBUG_INFO_BTF"
        )
    })?;
    let layout = Layout::parse(&bytes).with_context(|| format!("`{PATH}` is damaged"))?;
    let at = |structure: &str, member: &str| {
        layout
            .offset(structure, member)
            .with_context(|| format!("this kernel's `{structure}` has no `{member}`"))
    };
    let namespace = match pid_namespace::is_first() {
        true => 0,
        false => own_namespace()?,
    };
    let layout = TaskLayout {
        tgid: at("task_struct", "tgid")?,
        mm: at("task_struct", "mm")?,
        signal: at("task_struct", "signal")?,
        exit_code: at("task_struct", "exit_code")?,
        group_leader: at("task_struct", "group_leader")?,
        thread_pid: at("task_struct", "thread_pid")?,
        live: at("signal_struct", "live")?,
        group_exit_code: at("signal_struct", "group_exit_code")?,
        level: at("pid", "level")?,
        numbers: at("pid", "numbers")?,
        upid: UPID,
        upid_ns: at("upid", "ns")?,
        inum: at("pid_namespace", "ns")? + at("ns_common", "inum")?,
        namespace,
    };
    // SAFETY: the structure is as many words, without padding.
    Ok(unsafe { std::mem::transmute::<TaskLayout, [u64; WORDS]>(layout) })
}

const WORDS: usize = size_of::<TaskLayout>() / size_of::<u64>();

/// Size of `struct upid`: an `int` and a pointer.
const UPID: u64 = 16;

/// Number of our own PID namespace.
fn own_namespace() -> Result<u64> {
    const NAMESPACE: &str = "/proc/self/ns/pid";
    let file = fs::metadata(NAMESPACE);
    let file = file.with_context(|| format!("failed to look up `{NAMESPACE}`"))?;
    Ok(file.ino())
}

/// Those of the running kernel; `None` if it does not tell.
pub fn offsets() -> Option<Offsets> {
    let bytes = fs::read(PATH)
        .inspect_err(|error| log::debug!("failed to read `{PATH}`: {error}"))
        .ok()?;
    let layout = Layout::parse(&bytes)?;
    Some(Offsets {
        file: layout.offset("vm_area_struct", "vm_file")?,
        flags: layout.offset("vm_area_struct", "vm_flags")?,
        faults: layout.offset("task_struct", "min_flt")?,
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(word.try_into().ok()?))
}

impl<'a> Layout<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        const MAGIC: u32 = 0xeb9f;
        if word(bytes, 0)? & 0xffff != MAGIC {
            return None;
        }
        let header = word(bytes, 4)? as usize;
        let part = |offset: usize, length: usize| {
            let start = header.checked_add(word(bytes, offset)? as usize)?;
            bytes.get(start..start.checked_add(word(bytes, length)? as usize)?)
        };
        let (records, strings) = (part(8, 12)?, part(16, 20)?);
        let mut layout = Self {
            types: HashMap::new(),
            by_name: HashMap::new(),
            strings,
        };
        let (mut at, mut number) = (0, 1);
        while at < records.len() {
            let (name, info) = (word(records, at)?, word(records, at + 4)?);
            let (kind, count) = (info >> 24 & 31, (info & 0xffff) as usize);
            let more = match kind {
                1 | 14 | 17 => 4,         // int, variable, declaration tag
                3 => 12,                  // array
                4 | 5 | 19 => 12 * count, // struct, union, 64-bit enum
                6 | 13 => 8 * count,      // enum, function prototype
                15 => 12 * count,         // section
                _ => 0,
            };
            let record = records.get(at..at.checked_add(12 + more)?)?;
            if kind == KIND_STRUCT || kind == KIND_UNION {
                layout.types.insert(number, record);
                if let Some(name) = layout.string(name).filter(|name| !name.is_empty()) {
                    layout.by_name.insert(name, number);
                }
            }
            (at, number) = (at + 12 + more, number + 1);
        }
        Some(layout)
    }

    fn string(&self, offset: u32) -> Option<&'a [u8]> {
        let rest = self.strings.get(offset as usize..)?;
        rest.split(|&byte| byte == 0).next()
    }

    /// Bytes from the start of a structure to a member, which may be in a nameless part of it.
    fn offset(&self, structure: &str, member: &str) -> Option<u64> {
        let number = *self.by_name.get(structure.as_bytes())?;
        let bits = self.bits(number, member.as_bytes(), 8)?;
        (bits % 8 == 0).then_some(bits / 8)
    }

    fn bits(&self, number: u32, wanted: &[u8], depth: u32) -> Option<u64> {
        let record = *self.types.get(&number)?;
        let has_bit_fields = word(record, 4)? >> 31 != 0;
        for at in (12..record.len()).step_by(12) {
            let (name, kind, offset) = (
                self.string(word(record, at)?)?,
                word(record, at + 4)?,
                word(record, at + 8)?,
            );
            let offset = u64::from(match has_bit_fields {
                true => offset & 0xff_ffff,
                false => offset,
            });
            if name == wanted {
                return Some(offset);
            }
            if name.is_empty()
                && depth > 0
                && let Some(inner) = self.bits(kind, wanted, depth - 1)
            {
                return Some(offset + inner);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A type record: name, kind and count, size, members.
    fn record(name: u32, kind: u32, members: &[[u32; 3]]) -> Vec<u8> {
        let head = [name, kind << 24 | members.len() as u32, 0];
        let words = head.iter().chain(members.iter().flatten());
        words.flat_map(|word| word.to_ne_bytes()).collect()
    }

    fn file(types: &[u8], strings: &[u8]) -> Vec<u8> {
        let (types_len, strings_len) = (types.len() as u32, strings.len() as u32);
        let header = [0x1_eb9f, 24, 0, types_len, types_len, strings_len];
        let header = header.iter().flat_map(|word| word.to_ne_bytes());
        header
            .chain(types.iter().copied())
            .chain(strings.iter().copied())
            .collect()
    }

    #[test]
    fn members_are_found_in_nameless_parts_too() {
        let strings = b"\0vma\0file\0flags\0";
        let types = [
            record(0, KIND_UNION, &[[10, 9, 0]]),
            record(1, KIND_STRUCT, &[[0, 1, 64], [5, 9, 128]]),
        ];
        let bytes = file(&types.concat(), strings);
        let layout = Layout::parse(&bytes).unwrap();
        assert_eq!(layout.offset("vma", "file"), Some(16));
        assert_eq!(layout.offset("vma", "flags"), Some(8));
        assert_eq!(layout.offset("vma", "name"), None);
        assert_eq!(layout.offset("file", "vma"), None);
    }

    #[test]
    fn nonsense_is_none() {
        let bytes = file(&record(1, KIND_STRUCT, &[[5, 9, 128]]), b"\0vma\0file\0");
        for length in 0..bytes.len() {
            let layout = Layout::parse(&bytes[..length]);
            assert!(layout.is_none_or(|it| it.offset("vma", "file").is_none()));
        }
        for at in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 0xff;
            let _ = Layout::parse(&bytes).map(|it| it.offset("vma", "file"));
        }
    }
}
