//! Readers of what is no unwind information: code without any, tables on disk, names of JIT code.

use std::fs;

use anyhow::{Context, Result};
use leakprobe::target::read_in_pieces;
use leakprobe::unwind::image::Image;
use leakprobe::unwind::{read_again, rules, write_some};

use crate::mutate::Seed;
use crate::readers::{FILES, number};

/// musl's libc, if it is there: no unwind information from the start.
const MUSL: &str = "/usr/lib/x86_64-linux-musl/libc.so";

/// Real files without their unwind information. Most mutations hit code.
pub fn synth_seeds() -> Result<Vec<Seed>> {
    let paths = FILES.iter().copied().chain([MUSL]);
    let files = paths.filter_map(|path| fs::read(path).ok());
    files
        .map(|mut bytes| {
            forget_information(&mut bytes);
            let image = Image::from_memory(bytes.clone())?;
            let segments = image.segments().iter();
            let hot = segments
                .map(|segment| (segment.offset as usize, segment.file_size as usize))
                .collect();
            Ok(Seed { bytes, hot })
        })
        .collect()
}

/// Gives the section another name, and its program header no meaning.
fn forget_information(bytes: &mut [u8]) {
    const NAME: &[u8] = b".eh_frame";
    const PT_GNU_EH_FRAME: usize = 0x6474_e550;
    for at in 0..bytes.len().saturating_sub(NAME.len()) {
        if bytes[at..].starts_with(NAME) {
            bytes[at + 1] = b'x';
        }
    }
    let programs = number(bytes, 0x20, 8);
    for program in 0..number(bytes, 0x38, 2) {
        let header = programs + program * 56;
        if number(bytes, header, 4) == PT_GNU_EH_FRAME {
            bytes[header..header + 4].fill(0);
        }
    }
}

pub fn read_synth(bytes: &[u8]) -> Result<usize> {
    let image = Image::from_memory(bytes.to_vec())?;
    let rows = rules(&image, None, 1)?.all;
    assert!(rows.is_sorted_by(|a, b| a.address < b.address && a.rule != b.rule));
    if let (Some(first), Some(last)) = (image.segments().first(), image.segments().last()) {
        let within = |address| first.address <= address && address <= last.end();
        assert!(rows.iter().all(|row| within(row.address)));
    }
    Ok(rows.len())
}

pub fn cache_seeds() -> Result<Vec<Seed>> {
    let files = FILES.iter().filter_map(|path| fs::read(path).ok());
    files
        .map(|bytes| {
            let bytes = write_some(&rules(&Image::from_memory(bytes)?, None, 1)?.all);
            // The counts, and the first rules.
            let hot = vec![(48, 40), (88, 80)];
            Ok(Seed { bytes, hot })
        })
        .collect()
}

pub fn read_cache(bytes: &[u8]) -> Result<usize> {
    read_again(bytes).context("it is damaged")
}

/// Maps such as V8 and the JVM write. The first two bytes say where the pieces begin.
pub fn perf_map_seeds() -> Result<Vec<Seed>> {
    let line = |number: u64| match number % 3 {
        0 => format!(
            "{:x} {:x} LazyCompile:~run /srv/app.js:{number}:7\n",
            number * 96,
            80
        ),
        1 => format!("0x{:x} 0x{:x} java.lang.String::<init>\n", number * 64, 200),
        _ => format!("ffffffffffff{:04x} {:x} *top\n", number * 16, 32),
    };
    let seed = |lines: u64| {
        let text: String = (0..lines).map(line).collect();
        let bytes = [&[85, 128], text.as_bytes()].concat();
        Seed {
            bytes,
            hot: Vec::new(),
        }
    };
    Ok([3, 40, 400].map(seed).into())
}

pub fn read_perf_map(bytes: &[u8]) -> Result<usize> {
    let (places, text) = bytes.split_at_checked(2).context("it is too short")?;
    let (first, rest) = text.split_at(text.len() * usize::from(places[0]) / 256);
    let (second, third) = rest.split_at(rest.len() * usize::from(places[1]) / 256);
    let found = read_in_pieces([first, second, third], 96)?;
    Ok(found.into())
}
