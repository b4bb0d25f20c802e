//! Puts tables into the kernel side's maps, and tells it which of them are in use.
//!
//! Rows and rules are only ever added, whole tables at a time; what a walk may be reading is never
//! changed. Only the list of mappings changes: it exists twice, and a walk uses the one that was
//! valid when it began.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::maps::{Map, MapData};
use leakprobe_common::{
    CACHE_ENTRIES, CACHE_GENERATION_BITS, CHUNK_ROWS, Chunk, CodeMapping, CodeMappings, Control,
    MAX_CHUNKS, MAX_MAPPINGS, MAX_PAGES, MAX_RULES, Page, Row, Rule, RuleCache, TABLES_UNCACHED,
};
use thiserror::Error;

use super::table::Table;
use super::{FRAME_POINTER, NONE};
use crate::bpf;

/// Number of the rule [`NONE`]. It is 0 in every map that nothing was written to.
const NONE_NUMBER: u32 = 0;
/// Number of the rule [`FRAME_POINTER`].
pub const FRAME_POINTER_NUMBER: u32 = 1;

/// A table did not fit.
#[derive(Debug, Error)]
#[error("the unwind tables are full: {0}")]
pub struct Full(&'static str);

/// The maps of the kernel side.
pub struct KernelTables {
    control: OwnedFd,
    rules: MapData,
    pages: MapData,
    mappings: MapData,
    cache: MapData,
    chunks: MapData,
    /// The chunk that is being filled, and its map.
    chunk: Box<Chunk>,
    chunk_map: Option<OwnedFd>,
    /// Chunks that are not in their map yet, the last ones.
    new_chunks: Vec<OwnedFd>,
    contents: Contents,
    generation: u64,
}

/// What the maps hold.
#[derive(Default)]
struct Contents {
    rules: HashMap<Rule, u16>,
    pages: u32,
    /// Over all chunks.
    rows: u32,
    chunks: u32,
}

/// Where a table is.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Address, as the ELF file counts, where the first page begins.
    pub start: u64,
    /// Number of the first page.
    pub first_page: u32,
    /// How many pages.
    pub pages: u32,
}

impl KernelTables {
    /// Takes the maps out of a loaded object, whose switches are in the map `control`; nothing is in
    /// them yet.
    ///
    /// # Errors
    ///
    /// If the object is not ours.
    pub fn take(ebpf: &mut Ebpf, control: OwnedFd) -> Result<Self> {
        let mut map = |name| {
            ebpf.take_map(name)
                .with_context(|| format!("the BPF object has no map {name}"))
        };
        let mut array = |name| match map(name)? {
            Map::Array(data) => Ok(data),
            _ => anyhow::bail!("the map {name} of the BPF object is no array"),
        };
        let (rules, pages) = (array("RULES")?, array("PAGES")?);
        let (mappings, cache) = (array("MAPPINGS")?, array("CACHE")?);
        let Map::ArrayOfMaps(chunks) = map("CHUNKS")? else {
            anyhow::bail!("the map CHUNKS of the BPF object is no array of maps");
        };
        let mut this = Self {
            control,
            rules,
            pages,
            mappings,
            cache,
            chunks,
            chunk: Box::new([Row::default(); CHUNK_ROWS]),
            chunk_map: None,
            new_chunks: Vec::new(),
            contents: Contents::default(),
            generation: 0,
        };
        let [none, frame_pointer] = this.number_rules(&[NONE, FRAME_POINTER])?[..] else {
            unreachable!("two numbers for two rules");
        };
        debug_assert_eq!(
            (u32::from(none), u32::from(frame_pointer)),
            (NONE_NUMBER, FRAME_POINTER_NUMBER)
        );
        Ok(this)
    }

    /// Adds a table. It is not in use before a mapping names it.
    ///
    /// # Errors
    ///
    /// `Full` if there is no room for it (nothing is in use of it then), or what the kernel
    /// answers.
    pub fn load(&mut self, table: &Table) -> Result<Place> {
        let numbers = self.number_rules(&table.rules)?;
        if self.contents.pages as usize + table.pages.len() > MAX_PAGES {
            return Err(Full("too much code").into());
        }
        let mut pages = Vec::with_capacity(table.pages.len());
        for page in &table.pages {
            let rows = &table.rows[page.first as usize..][..page.count as usize];
            // All rows of a page are in one chunk.
            let mut slot = self.contents.rows as usize % CHUNK_ROWS;
            if slot + rows.len() > CHUNK_ROWS {
                self.flush()?;
                self.contents.rows = self.contents.rows.next_multiple_of(CHUNK_ROWS as u32);
                self.chunk_map = None;
                slot = 0;
            }
            pages.push(Page {
                first: self.contents.rows,
                count: page.count,
            });
            for (place, row) in self.chunk[slot..].iter_mut().zip(rows) {
                *place = Row {
                    offset: row.offset,
                    rule: numbers[usize::from(row.rule)],
                };
            }
            self.contents.rows += page.count;
            if slot + rows.len() == CHUNK_ROWS {
                self.flush()?;
                self.chunk_map = None;
            }
        }
        self.flush()?;
        let place = Place {
            start: table.start,
            first_page: self.contents.pages,
            pages: pages.len() as u32,
        };
        bpf::write_range(self.pages.fd().as_fd(), place.first_page, &pages)
            .context("failed to write unwind tables to the map PAGES")?;
        self.contents.pages += place.pages;
        Ok(place)
    }

    /// Writes the chunk that is being filled. (What is in it already is written again, unchanged.)
    fn flush(&mut self) -> Result<()> {
        let number = (self.contents.rows.saturating_sub(1)) / CHUNK_ROWS as u32;
        if self.contents.rows == 0 {
            return Ok(());
        }
        if self.chunk_map.is_none() {
            if number as usize >= MAX_CHUNKS {
                return Err(Full("too many rows").into());
            }
            let map = bpf::create_array::<Chunk>().context("failed to create a map of rows")?;
            let copy = map
                .try_clone()
                .context("failed to duplicate a descriptor")?;
            self.new_chunks.push(copy);
            self.contents.chunks = number + 1;
            self.chunk_map = Some(map);
        }
        let map = self.chunk_map.as_ref().context("no chunk")?;
        bpf::write_range(map.as_fd(), 0, std::slice::from_ref(&*self.chunk))
            .context("failed to write unwind rows")
    }

    /// Puts new chunks into their map, all at once: each such call waits for running programs.
    fn add_chunks(&mut self) -> Result<()> {
        let first = self.contents.chunks - self.new_chunks.len() as u32;
        let fds: Vec<u32> = self
            .new_chunks
            .iter()
            .map(|fd| fd.as_raw_fd() as u32)
            .collect();
        bpf::write_range(self.chunks.fd().as_fd(), first, &fds)
            .context("failed to add maps of unwind rows")?;
        self.new_chunks.clear();
        Ok(())
    }

    /// The kernel side's numbers of some rules, which are added where they are new.
    fn number_rules(&mut self, rules: &[Rule]) -> Result<Vec<u16>> {
        let known = &mut self.contents.rules;
        let first = known.len();
        let mut added = Vec::new();
        let mut numbers = Vec::with_capacity(rules.len());
        for &rule in rules {
            let next = known.len();
            let number = *known.entry(rule).or_insert_with(|| {
                added.push(rule);
                next as u16
            });
            if known.len() > MAX_RULES {
                for rule in added {
                    known.remove(&rule);
                }
                return Err(Full("too many different rules").into());
            }
            numbers.push(number);
        }
        bpf::write_range(self.rules.fd().as_fd(), first as u32, &added)
            .context("failed to write unwind rules")?;
        Ok(numbers)
    }

    /// Makes these the target's mappings, sorted by address; returns how many did not fit.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn publish(&mut self, space: u64, mappings: &[CodeMapping]) -> Result<usize> {
        if self.generation > 0 {
            wait_for_walks(); // one may still use what is written over now
        }
        self.add_chunks()?;
        let next = self.generation + 1;
        if next.is_multiple_of(1 << CACHE_GENERATION_BITS) {
            self.clear_cache()?;
        }
        let mut all = Box::new(CodeMappings {
            space,
            entries: [UNUSED; MAX_MAPPINGS],
        });
        for (place, mapping) in all.entries.iter_mut().zip(mappings) {
            *place = *mapping;
        }
        bpf::write_range(
            self.mappings.fd().as_fd(),
            (next & 1) as u32,
            std::slice::from_ref(&*all),
        )
        .context("failed to write the target's mappings")?;
        self.switch_to(next)?;
        self.generation = next;
        Ok(mappings.len().saturating_sub(MAX_MAPPINGS))
    }

    fn switch_to(&mut self, tables: u64) -> Result<()> {
        bpf::write_range(self.control.as_fd(), Control::Tables as u32, &[tables])
            .context("failed to switch to the new unwind tables")
    }

    /// Empties the cache of rules. Nobody may look at it meanwhile: a word could be half written.
    fn clear_cache(&mut self) -> Result<()> {
        self.switch_to(self.generation | TABLES_UNCACHED)?;
        wait_for_walks();
        let empty: Box<RuleCache> = Box::new([0; CACHE_ENTRIES]);
        bpf::write_range(self.cache.fd().as_fd(), 0, std::slice::from_ref(&*empty))
            .context("failed to clear the cache of unwind rules")
    }

    /// Kernel memory of what is loaded, bytes.
    pub fn bytes(&self) -> usize {
        self.contents.rows.div_ceil(CHUNK_ROWS as u32) as usize * size_of::<Chunk>()
            + size_of::<RuleCache>()
            + MAX_PAGES * size_of::<Page>()
            + MAX_RULES * size_of::<Rule>()
            + 2 * size_of::<CodeMappings>()
    }

    /// Rows that are loaded.
    pub fn rows(&self) -> u32 {
        self.contents.rows
    }
}

/// Returns when no walk runs any more that began before.
fn wait_for_walks() {
    if bpf::wait_for_programs().is_err() {
        std::thread::sleep(Duration::from_millis(100)); // longer than any walk takes
    }
}

/// Sorts behind all mappings.
const UNUSED: CodeMapping = CodeMapping {
    start: i64::MAX as u64,
    end: i64::MAX as u64,
    bias: 0,
    first_page: 0,
    pages: 0,
    rule: NONE_NUMBER,
    unused: 0,
};
