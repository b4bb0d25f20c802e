//! Which addresses of a process have memory without a file, where heaps can be: sorted ranges, neighbours joined.

use std::os::unix::ffi::OsStrExt;

use crate::target::Mapping;

/// The memory without a file.
#[derive(Debug, Default)]
pub struct Space {
    ranges: Vec<(u64, u64)>,
    starts: Vec<(u64, u64)>,
    brk: Vec<(u64, u64)>,
}

impl Space {
    /// Of these mappings, which are sorted by address as the kernel gives them.
    pub fn new(mappings: &[Mapping]) -> Self {
        let mut space = Self::default();
        for mapping in mappings {
            let path = mapping.path.as_os_str().as_bytes();
            let range = (mapping.start, mapping.end);
            if range.0 >= range.1 {
                continue;
            }
            if path == b"[heap]" {
                push(&mut space.brk, range);
            } else if mapping.inode == 0 && (path.is_empty() || path.starts_with(b"[anon")) {
                space.starts.push(range);
            } else {
                continue;
            }
            push(&mut space.ranges, range);
        }
        space
    }

    /// All of it, that of `brk` included; neighbours are one.
    pub fn ranges(&self) -> &[(u64, u64)] {
        &self.ranges
    }

    /// The mappings one by one, without that of `brk`.
    pub fn mappings(&self) -> &[(u64, u64)] {
        &self.starts
    }

    /// The memory of `brk` in pieces: usually one.
    pub fn brk_pieces(&self) -> &[(u64, u64)] {
        &self.brk
    }

    /// From its first address to its last.
    pub fn brk(&self) -> Option<(u64, u64)> {
        Some((self.brk.first()?.0, self.brk.last()?.1))
    }

    /// The range around an address.
    pub fn anonymous(&self, address: u64) -> Option<(u64, u64)> {
        around(&self.ranges, address)
    }

    /// The mapping around an address; none if it is that of `brk`.
    pub fn mapping(&self, address: u64) -> Option<(u64, u64)> {
        around(&self.starts, address)
    }
}

/// The range around an address, of sorted ones.
pub fn around(ranges: &[(u64, u64)], address: u64) -> Option<(u64, u64)> {
    let after = ranges.partition_point(|&(start, _)| start <= address);
    let range = *ranges.get(after.checked_sub(1)?)?;
    (address < range.1).then_some(range)
}

fn push(ranges: &mut Vec<(u64, u64)>, (start, end): (u64, u64)) {
    match ranges.last_mut() {
        Some(last) if last.1 == start => last.1 = end,
        _ => ranges.push((start, end)),
    }
}
