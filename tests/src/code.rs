//! The code of a process as it is in memory, compared with the files it came from: a probe is a
//! breakpoint in that code, so it tells whether any is there.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

/// Where the executable mappings of a process differ from their files: the file, and how many
/// bytes. Panics when the process is gone.
pub fn patched_code(pid: u32) -> Vec<(String, usize)> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))
        .unwrap_or_else(|error| panic!("failed to read the mappings of process {pid}: {error}"));
    let memory = File::open(format!("/proc/{pid}/mem"))
        .unwrap_or_else(|error| panic!("failed to open the memory of process {pid}: {error}"));
    maps.lines()
        .filter_map(Mapping::parse)
        .filter_map(|mapping| {
            let name = mapping.path.to_string();
            // The process may be in a container, which has its own files.
            let file = File::open(format!("/proc/{pid}/root{name}"))
                .unwrap_or_else(|error| panic!("failed to open `{name}`: {error}"));
            let in_memory = read(&memory, mapping.start, mapping.len, &name);
            // A mapping reaches to the end of a page, its file need not.
            let len = file.metadata().expect("an open file has metadata").len();
            let in_file = mapping.len.min(len.saturating_sub(mapping.offset));
            let bytes = read(&file, mapping.offset, in_file, &name);
            let differences = bytes.iter().zip(&in_memory).filter(|(a, b)| a != b).count();
            (differences > 0).then_some((name, differences))
        })
        .collect()
}

struct Mapping<'a> {
    start: u64,
    len: u64,
    offset: u64,
    path: &'a str,
}

impl<'a> Mapping<'a> {
    /// A line of `maps`, when it is of code from a file.
    fn parse(line: &'a str) -> Option<Mapping<'a>> {
        // A path may hold spaces, and stands aligned.
        let mut words = line.splitn(6, ' ');
        let (start, end) = words.next()?.split_once('-')?;
        let is_code = words.next()?.contains('x');
        let offset = words.next()?;
        let path = words.nth(2)?.trim_start();
        let number = |text| u64::from_str_radix(text, 16).ok();
        (is_code && path.starts_with('/')).then_some(Mapping {
            start: number(start)?,
            len: number(end)?.checked_sub(number(start)?)?,
            offset: number(offset)?,
            path,
        })
    }
}

fn read(file: &File, offset: u64, len: u64, name: &str) -> Vec<u8> {
    let mut bytes = vec![0; len as usize];
    file.read_exact_at(&mut bytes, offset)
        .unwrap_or_else(|error| panic!("failed to read the code of `{name}`: {error}"));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_of_a_process_without_probes_is_its_files() {
        assert_eq!(patched_code(std::process::id()), []);
    }

    #[test]
    fn a_mapping_of_code_is_read() {
        let line = "7f00-9f00 r-xp 00001000 fe:00 12 /lib/a library.so";
        let mapping = Mapping::parse(line).expect("it is code from a file");
        assert_eq!((mapping.start, mapping.len), (0x7f00, 0x2000));
        assert_eq!(
            (mapping.offset, mapping.path),
            (0x1000, "/lib/a library.so")
        );
        assert!(Mapping::parse("7f00-9f00 rw-p 00001000 fe:00 12 /lib/a").is_none());
        assert!(Mapping::parse("7f00-9f00 r-xp 00000000 00:00 0 [vdso]").is_none());
    }
}
