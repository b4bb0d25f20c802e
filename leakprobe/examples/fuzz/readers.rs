//! The readers: what they are fed with, and what must be true of what they make of it. To add one,
//! add a line to the table.

use std::fs;
use std::hint::black_box;

use anyhow::{Context, Result};
use leakprobe::unwind::cfi;
use leakprobe::unwind::image::Image;
use leakprobe::unwind::{NONE, RuleAt};

use crate::mutate::Seed;
use crate::others;
use crate::test_elf::elf;

/// Something that reads files nobody vouches for.
pub struct Reader {
    /// What it is called here.
    pub name: &'static str,
    /// Files that it can read.
    pub seeds: fn() -> Result<Vec<Seed>>,
    /// Reads one, and says how much that was: rows, symbols or whatever it makes. Errors are fine;
    /// panics if what was read is impossible.
    pub read: fn(&[u8]) -> Result<usize>,
}

/// All readers.
pub const READERS: &[Reader] = &[
    Reader {
        name: "elf",
        seeds: elf_seeds,
        read: read_elf,
    },
    Reader {
        name: "cfi",
        seeds: cfi_seeds,
        read: read_cfi,
    },
    Reader {
        name: "synth",
        seeds: others::synth_seeds,
        read: others::read_synth,
    },
    Reader {
        name: "cache",
        seeds: others::cache_seeds,
        read: others::read_cache,
    },
    Reader {
        name: "perf-map",
        seeds: others::perf_map_seeds,
        read: others::read_perf_map,
    },
];

/// Small libraries and programs that most systems with glibc have.
pub const FILES: [&str; 6] = [
    "/usr/lib/x86_64-linux-gnu/libdl.so.2",
    "/usr/lib/x86_64-linux-gnu/libutil.so.1",
    "/usr/lib/x86_64-linux-gnu/libgcc_s.so.1",
    "/usr/lib64/libdl.so.2",
    "/usr/lib64/libgcc_s.so.1",
    "/usr/bin/true",
];

/// Where the made-up code of [`read_cfi`] is: at 0, and this long.
const CODE: usize = 1 << 17;
/// Where its `.eh_frame` is: as far from the code as in a small library.
const EH_FRAME: u64 = CODE as u64;

pub fn number(bytes: &[u8], offset: usize, size: usize) -> usize {
    let bytes = bytes.get(offset..offset + size).unwrap_or_default();
    let number = |number, byte: &u8| number << 8 | usize::from(*byte);
    bytes.iter().rev().fold(0, number)
}

/// Real files; their headers, symbols and unwind information are where their numbers are. And a
/// made-up one with all sections that are read.
fn elf_seeds() -> Result<Vec<Seed>> {
    let mut files: Vec<Vec<u8>> = FILES
        .iter()
        .filter_map(|path| fs::read(path).ok())
        .collect();
    for section in cfi_seeds()?.iter().take(4) {
        let [eh_frame, debug_frame] = split(&section.bytes);
        let sections = [
            (".eh_frame", EH_FRAME, eh_frame),
            (".debug_frame", 0, debug_frame),
        ];
        files.push(elf(0, &[0; 4096], &sections));
    }
    Ok(files.into_iter().map(elf_seed).collect())
}

fn elf_seed(bytes: Vec<u8>) -> Seed {
    let (programs, sections) = (number(&bytes, 0x20, 8), number(&bytes, 0x28, 8));
    let program_count = number(&bytes, 0x38, 2);
    let section_count = number(&bytes, 0x3c, 2);
    let mut hot = vec![
        (0, 64),
        (programs, program_count * 56),
        (sections, section_count * 64),
    ];
    for section in 0..section_count {
        let header = sections + section * 64;
        // Symbols, names, notes, and what is small, such as .eh_frame_hdr.
        let (kind, size) = (
            number(&bytes, header + 4, 4),
            number(&bytes, header + 32, 8),
        );
        if [2, 3, 7, 11].contains(&kind) || size < 4096 {
            hot.push((number(&bytes, header + 24, 8), size.max(1)));
        }
    }
    Seed { bytes, hot }
}

fn read_elf(bytes: &[u8]) -> Result<usize> {
    let image = Image::from_memory(bytes.to_vec())?;
    let segments = image.segments();
    assert!(segments.is_sorted_by(|a, b| a.end() <= b.address));
    for segment in segments {
        for start in [segment.address, segment.end() - 1] {
            for end in [start.saturating_add(64), u64::MAX] {
                if let Ok(code) = image.code(start..end) {
                    assert_eq!(code.len() as u64, end - start);
                }
            }
        }
    }
    if let Ok(functions) = image.functions() {
        assert!(
            functions
                .list()
                .is_sorted_by_key(|function| function.address)
        );
        for function in functions.list() {
            black_box(functions.name(function));
            let end = function.address.saturating_add(function.size);
            if let Ok(code) = image.code(function.address..end) {
                assert_eq!(code.len() as u64, function.size);
            }
        }
    }
    black_box((image.build_id(), image.entry()));
    rows(&image)
}

/// Pieces of real sections, as `.eh_frame`, and rewritten, as `.debug_frame`. The first two bytes
/// say how many bytes the former has.
fn cfi_seeds() -> Result<Vec<Seed>> {
    /// Entries of one piece.
    const PIECE: usize = 24;
    let mut seeds = Vec::new();
    for file in FILES.iter().filter_map(|path| fs::read(path).ok()) {
        let Some(cfi) = Image::from_memory(file)?.eh_frame()? else {
            continue;
        };
        let entries = entries(&cfi.bytes);
        let Some(&(_, common)) = entries.first() else {
            continue;
        };
        for piece in entries[1..].chunks(PIECE).take(20) {
            let eh_frame = eh_frame(common, piece);
            let debug_frame = debug_frame(piece);
            let size = (eh_frame.len() as u16).to_le_bytes();
            let bytes = [&size, &eh_frame[..], &debug_frame].concat();
            seeds.push(Seed {
                bytes,
                hot: Vec::new(),
            });
        }
    }
    Ok(seeds)
}

/// The entries of a section: where they are, and what is in them behind the length.
fn entries(section: &[u8]) -> Vec<(usize, &[u8])> {
    let mut entries = Vec::new();
    let mut offset = 0;
    while let length @ 1.. = number(section, offset, 4) {
        let Some(entry) = section.get(offset + 4..offset + 4 + length) else {
            break;
        };
        entries.push((offset, entry));
        offset += 4 + length;
    }
    entries
}

fn push(section: &mut Vec<u8>, entry: &[u8]) {
    section.extend((entry.len() as u32).to_le_bytes());
    section.extend(entry);
}

/// A section with one common entry, at its start, and some others, whose code is side by side.
fn eh_frame(common: &[u8], entries: &[(usize, &[u8])]) -> Vec<u8> {
    let mut section = Vec::new();
    push(&mut section, common);
    let mut code = 0;
    for (_, entry) in entries {
        let mut entry = entry.to_vec();
        let place = section.len() as u64 + 4;
        if number(&entry, 0, 4) != 0 && entry.len() >= 13 {
            entry[..4].copy_from_slice(&(place as u32).to_le_bytes());
            let start = (code as u64).wrapping_sub(EH_FRAME + place + 4);
            entry[4..8].copy_from_slice(&(start as u32).to_le_bytes());
            code += number(&entry, 8, 4);
        }
        push(&mut section, &entry);
    }
    section
}

/// The same for debuggers: addresses are absolute, and there is no augmentation.
fn debug_frame(entries: &[(usize, &[u8])]) -> Vec<u8> {
    let mut section = Vec::new();
    let common = [
        0xff, 0xff, 0xff, 0xff, 1, 0, 1, 0x78, 16, 0x0c, 7, 8, 0x90, 1,
    ];
    push(&mut section, &common);
    let mut code = CODE / 2;
    for (_, entry) in entries {
        let size = number(entry, 8, 4);
        if number(entry, 0, 4) != 0 && entry.len() >= 13 {
            let numbers = [(code as u64).to_le_bytes(), (size as u64).to_le_bytes()];
            push(
                &mut section,
                &[&[0; 4], &numbers.concat()[..], &entry[13..]].concat(),
            );
            code += size;
        }
    }
    section
}

fn split(bytes: &[u8]) -> [&[u8]; 2] {
    let rest = bytes.get(2..).unwrap_or_default();
    let (eh_frame, debug_frame) = rest.split_at(number(bytes, 0, 2).min(rest.len()));
    [eh_frame, debug_frame]
}

fn read_cfi(bytes: &[u8]) -> Result<usize> {
    let [eh_frame, debug_frame] = split(bytes);
    let sections = [
        (".eh_frame", EH_FRAME, eh_frame),
        (".debug_frame", 0, debug_frame),
    ];
    rows(&Image::from_memory(elf(0, &[0; CODE], &sections))?)
}

/// Makes an image's rows, and says how many.
fn rows(image: &Image) -> Result<usize> {
    let table = cfi::table(image, 1).context("no rows")?;
    let rows = table.rows;
    assert!(rows.is_sorted_by(|a: &RuleAt, b| a.address < b.address && a.rule != b.rule));
    assert!(rows.last().is_none_or(|row| row.rule == NONE));
    let (first, last) = (image.segments().first(), image.segments().last());
    if let (Some(first), Some(last), [start, .., end]) = (first, last, &rows[..]) {
        assert!(first.address <= start.address && end.address <= last.end());
    }
    Ok(rows.len())
}
