//! Tables of objects that were seen before, on disk.
//!
//! A table is found again by a hash of the whole object, so nobody can have another object's table
//! replaced by one of his making; the build id is in the file's name for people alone. The cache is a
//! help, never needed: whatever is wrong with it, the table is made anew.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result, bail};
use leakprobe_common::{CHUNK_ROWS, FpRule, PAGE_SIZE, Page, Row, Rule, RuleKind};

use super::table::Table;

/// First bytes of a file; the number counts up whenever the rules of some object may come out
/// differently, or are written differently.
const MAGIC: &[u8; 16] = b"leakprobe rows 2";

/// Objects larger than this take longer to hash than their tables to make, bytes.
const MAX_OBJECT: u64 = 1 << 30;

/// Bytes of a table's file, at most.
const MAX_FILE: u64 = 1 << 28;

/// Bytes of all files; the oldest go when there are more.
const MAX_ALL: u64 = 1 << 28;

/// Bytes hashed at a time.
const BLOCK: usize = 1 << 20;

/// Hash of an object.
type Key = blake3::Hash;

/// A directory of tables.
#[derive(Debug)]
pub struct Cache {
    directory: PathBuf,
}

/// Where a table is to be found, or put.
pub struct Slot {
    key: Key,
    path: PathBuf,
}

impl Cache {
    /// The cache of this user: `/var/cache/leakprobe` for root, `leakprobe` in `XDG_CACHE_HOME` or
    /// `~/.cache` for others.
    ///
    /// # Errors
    ///
    /// If there is no place for it that belongs to this user alone.
    pub fn open() -> Result<Self> {
        let directory = if nix::unistd::geteuid().is_root() {
            PathBuf::from("/var/cache/leakprobe")
        } else if let Some(home) = std::env::var_os("XDG_CACHE_HOME") {
            Path::new(&home).join("leakprobe")
        } else {
            let home =
                std::env::var_os("HOME").context("neither HOME nor XDG_CACHE_HOME is set")?;
            Path::new(&home).join(".cache/leakprobe")
        };
        Self::at(directory)
    }

    /// A cache in some directory, which is made if it is not there.
    ///
    /// # Errors
    ///
    /// If it cannot be made, or belongs to others too.
    pub fn at(directory: PathBuf) -> Result<Self> {
        let made = DirBuilder::new()
            .mode(0o700)
            .recursive(true)
            .create(&directory);
        let shown = directory.display();
        made.with_context(|| format!("failed to make the folder `{shown}`"))?;
        let metadata = fs::symlink_metadata(&directory)
            .with_context(|| format!("failed to look at `{shown}`"))?;
        let ours = metadata.is_dir()
            && metadata.uid() == nix::unistd::geteuid().as_raw()
            && metadata.mode() & 0o022 == 0;
        if !ours {
            bail!("`{shown}` is not a folder of this user alone");
        }
        Ok(Self { directory })
    }

    /// Whether tables can be put there, and not only be found.
    ///
    /// # Errors
    ///
    /// If not.
    pub fn check(&self) -> Result<&Path> {
        let shown = self.directory.display();
        tempfile::tempfile_in(&self.directory)
            .with_context(|| format!("failed to make a file in `{shown}`"))?;
        Ok(&self.directory)
    }

    /// The slot of an object and its debug file; `None` if they cannot be read or are too large.
    pub fn slot(
        &self,
        object: &File,
        debug: Option<&File>,
        build_id: Option<&[u8]>,
        threads: usize,
    ) -> Option<Slot> {
        let mut key = hash(object, threads).ok()??;
        if let Some(debug) = debug {
            let debug = hash(debug, threads).ok()??;
            key = blake3::hash(&[*key.as_bytes(), *debug.as_bytes()].concat());
        }
        let id = build_id.unwrap_or_default();
        let id: String = id
            .iter()
            .take(20)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let name = format!(
            "{}-{}",
            if id.is_empty() { "none" } else { &id },
            key.to_hex()
        );
        Some(Slot {
            key,
            path: self.directory.join(name),
        })
    }

    /// Keeps a table.
    ///
    /// # Errors
    ///
    /// If it cannot be written; nothing is left behind then.
    pub fn store(&self, slot: &Slot, table: &Table) -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(&self.directory)?;
        file.write_all(&encode(slot.key, table))?;
        file.persist(&slot.path).map_err(|error| error.error)?;
        self.prune();
        Ok(())
    }

    fn prune(&self) {
        let Ok(entries) = fs::read_dir(&self.directory) else {
            return;
        };
        let mut files: Vec<_> = entries
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let metadata = entry.metadata().ok().filter(fs::Metadata::is_file)?;
                Some((metadata.modified().ok()?, metadata.len(), entry.path()))
            })
            .collect();
        files.sort();
        let mut all: u64 = files.iter().map(|(_, size, _)| size).sum();
        for (_, size, path) in files {
            if all <= MAX_ALL {
                return;
            }
            let _ = fs::remove_file(path); // another leakprobe may have done so
            all -= size;
        }
    }
}

impl Slot {
    /// The table that was put here; `None` if there is none, or it is damaged.
    pub fn load(&self) -> Option<Table> {
        let file = File::open(&self.path).ok()?;
        let mut bytes = Vec::new();
        file.take(MAX_FILE).read_to_end(&mut bytes).ok()?;
        decode(self.key, &bytes)
    }
}

/// Hash of a file's contents: of the hashes of its blocks, which several threads make.
fn hash(file: &File, threads: usize) -> io::Result<Option<Key>> {
    let size = file.metadata()?.len();
    if size > MAX_OBJECT {
        return Ok(None);
    }
    let blocks = size.div_ceil(BLOCK as u64);
    let share = blocks.div_ceil(threads.max(1) as u64).max(1);
    let part = |first: u64| -> io::Result<Vec<Key>> {
        let mut block = vec![0; BLOCK];
        (first..(first + share).min(blocks))
            .map(|number| {
                let from = number * BLOCK as u64;
                let here = &mut block[..(size - from).min(BLOCK as u64) as usize];
                file.read_exact_at(here, from)?;
                Ok(blake3::hash(here))
            })
            .collect()
    };
    let parts: io::Result<Vec<Vec<Key>>> = thread::scope(|scope| {
        let workers: Vec<_> = (0..blocks)
            .step_by(share as usize)
            .map(|first| scope.spawn(move || part(first)))
            .collect();
        workers
            .into_iter()
            .map(|worker| {
                worker
                    .join()
                    .unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
            })
            .collect()
    });
    let mut all = blake3::Hasher::new();
    all.update(&size.to_le_bytes());
    for key in parts?.iter().flatten() {
        all.update(key.as_bytes());
    }
    Ok(Some(all.finalize()))
}

fn encode(key: Key, table: &Table) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(96 + table.pages.len() * 4 + table.rows.len() * 4);
    bytes.extend(MAGIC);
    bytes.extend(key.as_bytes());
    for number in [
        table.start,
        table.crowded_pages as u64,
        table.rules.len() as u64,
        table.pages.len() as u64,
        table.rows.len() as u64,
    ] {
        bytes.extend(number.to_le_bytes());
    }
    for rule in &table.rules {
        bytes.extend(rule.cfa_offset.to_le_bytes());
        bytes.extend(rule.fp_offset.to_le_bytes());
        bytes.extend([rule.kind, rule.fp]);
    }
    for page in &table.pages {
        bytes.extend(page.count.to_le_bytes());
    }
    for row in &table.rows {
        bytes.extend(row.offset.to_le_bytes());
        bytes.extend(row.rule.to_le_bytes());
    }
    bytes.extend(blake3::hash(&bytes).as_bytes());
    bytes
}

fn decode(key: Key, bytes: &[u8]) -> Option<Table> {
    let (bytes, sum) = bytes.split_last_chunk::<32>()?;
    if blake3::hash(bytes) != *sum {
        return None;
    }
    let rest = bytes.strip_prefix(MAGIC)?.strip_prefix(key.as_bytes())?;
    let (numbers, rest) = rest.split_at_checked(40)?;
    let mut numbers = numbers
        .as_chunks()
        .0
        .iter()
        .map(|&number| u64::from_le_bytes(number));
    let mut number = || numbers.next();
    let (start, crowded) = (number()?, number()? as usize);
    let (rules, pages, rows) = (number()? as usize, number()? as usize, number()? as usize);
    let (rule_bytes, rest) = rest.split_at_checked(rules.checked_mul(8)?)?;
    let (page_bytes, row_bytes) = rest.split_at_checked(pages.checked_mul(4)?)?;
    if row_bytes.len() != rows.checked_mul(4)? || start % PAGE_SIZE != 0 {
        return None;
    }
    let mut table = Table {
        start,
        crowded_pages: crowded,
        ..Table::default()
    };
    for &[a, b, c, d, e, f, kind, fp] in rule_bytes.as_chunks().0 {
        let known = kind <= RuleKind::Signal as u8 && fp & 15 <= FpRule::Lost as u8;
        table.rules.push(known.then_some(Rule {
            cfa_offset: i32::from_le_bytes([a, b, c, d]),
            fp_offset: i16::from_le_bytes([e, f]),
            kind,
            fp,
        })?);
    }
    let mut first = 0u32;
    for &count in page_bytes.as_chunks().0 {
        let count = u32::from_le_bytes(count);
        if count as usize > CHUNK_ROWS {
            return None;
        }
        table.pages.push(Page { first, count });
        first = first.checked_add(count)?;
    }
    for &[a, b, c, d] in row_bytes.as_chunks().0 {
        let rule = u16::from_le_bytes([c, d]);
        table.rows.push((usize::from(rule) < rules).then_some(Row {
            offset: u16::from_le_bytes([a, b]),
            rule,
        })?);
    }
    (first as usize == rows).then_some(table)
}

/// For the fuzzer: a table's file, all but its sum.
#[doc(hidden)]
pub fn write_some(rules: &[super::RuleAt]) -> Vec<u8> {
    let mut bytes = encode(blake3::hash(b""), &Table::pack(rules));
    bytes.truncate(bytes.len() - blake3::OUT_LEN);
    bytes
}

/// For the fuzzer: reads a table's file, all but its sum, whose place this takes. Gives how many
/// rows it has.
#[doc(hidden)]
pub fn read_again(bytes: &[u8]) -> Option<usize> {
    let key = Key::from_bytes(*bytes.get(MAGIC.len()..)?.first_chunk()?);
    let whole = [bytes, blake3::hash(bytes).as_bytes()].concat();
    let table = decode(key, &whole)?;
    assert_eq!(encode(key, &table), whole);
    for page in 0..=table.pages.len() as u64 {
        for within in [0, 1, PAGE_SIZE - 1] {
            table.find(table.start.wrapping_add(page * PAGE_SIZE + within));
        }
    }
    Some(table.rows.len())
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
