//! What the allocators of many processes are called, for a list of them.
//!
//! The same objects are looked for as in [`super::Allocator`], which needs much more of one process;
//! here each file is opened once, however many processes map it.

use std::collections::{HashMap, HashSet};

use anyhow::Result;

use super::allocator::{file_name, is_allocator, role};
use super::{ElfObject, Mapping, proc_fs};

/// What is known of files: rank and name of those that serve allocator calls.
#[derive(Debug, Default)]
pub struct AllocatorNames {
    files: HashMap<FileKey, Option<(u8, String)>>,
}

/// Device, inode, and whether it is looked at as an executable, of which more symbols count.
type FileKey = ((u32, u32), u64, bool);

impl AllocatorNames {
    /// What the object is called that serves the allocator calls of a process: `glibc`, `musl`,
    /// `jemalloc` for a library of that name, `built in` for one in the executable. `None` if it has
    /// none. `functions` are those of which it has some.
    ///
    /// # Errors
    ///
    /// If the process cannot be read.
    pub fn of(&mut self, pid: u32, functions: &[&str]) -> Result<Option<String>> {
        let exe = std::fs::read_link(proc_fs::pid(pid, "exe")).ok();
        let mut seen = HashSet::new();
        let mut best: Option<(u8, String)> = None;
        for mapping in Mapping::read_all(pid)? {
            let is_executable = exe.as_deref() == Some(&*mapping.path);
            let key = (mapping.device, mapping.inode, is_executable);
            if !mapping.executable || mapping.inode == 0 || !seen.insert(key) {
                continue;
            }
            let role = self
                .files
                .entry(key)
                .or_insert_with(|| look(&mapping, pid, functions, is_executable));
            if let Some((rank, name)) = role
                && best.as_ref().is_none_or(|(lowest, _)| *rank < *lowest)
            {
                best = Some((*rank, name.clone()));
            }
        }
        Ok(best.map(|(rank, name)| match rank {
            0 => "built in".to_owned(),
            1 => library(&name).to_owned(),
            _ => name,
        }))
    }
}

fn look(
    mapping: &Mapping,
    pid: u32,
    functions: &[&str],
    is_executable: bool,
) -> Option<(u8, String)> {
    let file_name = file_name(&mapping.path);
    if file_name.starts_with("ld-linux") {
        return None; // glibc's loader has a malloc for itself alone
    }
    let file = mapping.open(pid).ok()?;
    let (object, symbols) =
        ElfObject::open(file, file_name.clone(), functions, is_executable).ok()?;
    is_allocator(&object, &symbols)
        .then(|| role(&file_name, is_executable, symbols.contains_key("pvalloc")))
}

/// `jemalloc` of `libjemalloc.so.2`.
fn library(file_name: &str) -> &str {
    let name = file_name.strip_prefix("lib").unwrap_or(file_name);
    name.find(".so").map_or(name, |end| &name[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_libraries() {
        for (file, name) in [
            ("libjemalloc.so.2", "jemalloc"),
            ("libtcmalloc_minimal.so.4.5.9", "tcmalloc_minimal"),
            ("libmimalloc.so.2.0", "mimalloc"),
            ("preload.so", "preload"),
            ("strange", "strange"),
        ] {
            assert_eq!(library(file), name);
        }
    }

    #[test]
    fn this_process_has_one() {
        let mut names = AllocatorNames::default();
        let own = names
            .of(std::process::id(), &["malloc", "pvalloc"])
            .unwrap();
        assert!(own.is_some());
        let files = names.files.len();
        assert_eq!(
            names
                .of(std::process::id(), &["malloc", "pvalloc"])
                .unwrap(),
            own
        );
        assert_eq!(names.files.len(), files);
        assert!(names.of(u32::MAX, &["malloc"]).is_err());
    }
}
