//! Puts tables into the kernel side's maps, and tells it which of them are in use.
//!
//! Rows and rules are only ever added, whole tables at a time; what a walk may be reading is never
//! changed. Only lists of mappings change: a walk uses the one that was valid when it began, and none is
//! written over while a walk may use it.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::maps::{Map, MapData};
use leakprobe_common::{
    CACHE_ENTRIES, CACHE_GENERATION_BITS, Chunk, CodeMapping, CodeMappings, Control, MAX_MAPPINGS,
    MAX_PAGES, MAX_RULES, Page, Row, Rule, RuleCache, TABLES_SLOT_SHIFT, TABLES_UNCACHED,
};
use thiserror::Error;

use super::chunks::Chunks;
use super::table::Table;
use super::{FRAME_POINTER, NONE};
use crate::bpf;
use crate::switches::Switches;

/// Number of the rule [`NONE`]. It is 0 in every map that nothing was written to.
pub const NONE_NUMBER: u32 = 0;
/// Number of the rule [`FRAME_POINTER`].
pub const FRAME_POINTER_NUMBER: u32 = 1;

/// A table did not fit.
#[derive(Debug, Error)]
#[error("the unwind tables are full: {0}")]
pub struct Full(&'static str);

/// The maps of the kernel side.
pub struct KernelTables {
    switches: Switches,
    rules: MapData,
    pages: MapData,
    mappings: MapData,
    cache: MapData,
    chunks: MapData,
    rows: Chunks<OwnedFd>,
    contents: Contents,
    generation: u64,
    /// The switch as it was set last.
    tables: u64,
    /// Lists of mappings that nobody uses, the one given up last at the end.
    unused: VecDeque<u32>,
}

/// What the maps hold.
#[derive(Default)]
struct Contents {
    rules: HashMap<Rule, u16>,
    pages: u32,
    rows: u32,
}

/// A list of mappings in use.
#[derive(Debug, PartialEq, Eq)]
pub struct List(u32);

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
    /// Takes the maps out of a loaded object, in which there is room for so many lists of mappings;
    /// nothing is in them yet.
    ///
    /// # Errors
    ///
    /// If the object is not ours.
    pub fn take(ebpf: &mut Ebpf, switches: Switches, lists: u32) -> Result<Self> {
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
            switches,
            rules,
            pages,
            mappings,
            cache,
            chunks,
            rows: Chunks::new(),
            contents: Contents::default(),
            generation: 0,
            tables: 0,
            unused: (0..lists).collect(),
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
    /// `Full` if there is no room for it, or what the kernel answers. Nothing of it is there then.
    pub fn load(&mut self, table: &Table) -> Result<Place> {
        let numbers = self.number_rules(&table.rules)?;
        let place = self.add(table, &numbers);
        match &place {
            Ok(place) => {
                self.rows.settle();
                self.contents.pages += place.pages;
                self.contents.rows += table.rows.len() as u32;
            }
            Err(_) => self.rows.roll_back(),
        }
        place
    }

    fn add(&mut self, table: &Table, numbers: &[u16]) -> Result<Place> {
        if self.contents.pages as usize + table.pages.len() > MAX_PAGES {
            return Err(Full("too much code").into());
        }
        let mut pages = Vec::with_capacity(table.pages.len());
        for &Page { first, count } in &table.pages {
            let rows = &table.rows[first as usize..][..count as usize];
            let rows = rows.iter().map(|row| Row {
                offset: row.offset,
                rule: numbers[usize::from(row.rule)],
            });
            let first = self.rows.place(rows).ok_or(Full("too many rows"))?;
            pages.push(Page { first, count });
        }
        self.rows.write(write_chunk)?;
        let place = Place {
            start: table.start,
            first_page: self.contents.pages,
            pages: pages.len() as u32,
        };
        bpf::write_range(self.pages.fd().as_fd(), place.first_page, &pages)
            .context("failed to write unwind tables to the map PAGES")?;
        Ok(place)
    }

    /// Puts new chunks into their map, all at once: each such call waits for running programs.
    fn add_chunks(&mut self) -> Result<()> {
        let (first, maps) = self.rows.unknown();
        let fds: Vec<u32> = maps.map(|map| map.as_raw_fd() as u32).collect();
        bpf::write_range(self.chunks.fd().as_fd(), first, &fds)
            .context("failed to add maps of unwind rows")?;
        self.rows.all_known();
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
            numbers.push(number);
        }
        let written = if known.len() > MAX_RULES {
            Err(Full("too many different rules").into())
        } else {
            bpf::write_range(self.rules.fd().as_fd(), first as u32, &added)
                .context("failed to write unwind rules")
        };
        if written.is_err() {
            // No later table may take them for written.
            for rule in added {
                known.remove(&rule);
            }
        }
        written.map(|()| numbers)
    }

    /// Makes these the mappings of an address space in which a program runs, sorted by address; returns
    /// where they are, and how many did not fit. What was in use before is to be given up.
    ///
    /// # Errors
    ///
    /// If there are too many processes already, or the kernel refuses.
    pub fn publish(
        &mut self,
        space: u64,
        program: u64,
        mappings: &[CodeMapping],
    ) -> Result<(List, usize)> {
        let next = self.generation + 1;
        let list = *self
            .unused
            .front()
            .context("there are more processes than lists of mappings")?;
        if self.generation > 0 {
            wait_for_walks(); // one may still use what is written over now
        }
        self.add_chunks()?;
        let uncached = next.is_multiple_of(1 << CACHE_GENERATION_BITS);
        if uncached {
            self.clear_cache(space)?;
        }
        let mut all = Box::new(CodeMappings {
            program,
            entries: [UNUSED; MAX_MAPPINGS],
        });
        for (place, mapping) in all.entries.iter_mut().zip(mappings) {
            *place = *mapping;
        }
        let fd = self.mappings.fd().as_fd();
        bpf::write_range(fd, list, std::slice::from_ref(&*all))
            .context("failed to write the target's mappings")?;
        let tables = (next & u64::from(u32::MAX)) | u64::from(list) << TABLES_SLOT_SHIFT;
        self.switches.set_of(space, Control::Tables, tables)?;
        if uncached && self.switches.are_many() {
            self.switches.set(Control::Tables, 0)?;
        }
        (self.generation, self.tables) = (next, tables);
        self.unused.pop_front();
        Ok((List(list), mappings.len().saturating_sub(MAX_MAPPINGS)))
    }

    /// Nobody begins a walk by this list any more.
    pub fn give_up(&mut self, list: List) {
        self.unused.push_back(list.0);
    }

    /// Empties the cache of rules. Nobody may look at it meanwhile: a word could be half written.
    fn clear_cache(&mut self, space: u64) -> Result<()> {
        match self.switches.are_many() {
            true => self.switches.set(Control::Tables, TABLES_UNCACHED)?,
            false => {
                let tables = self.tables | TABLES_UNCACHED;
                self.switches.set_of(space, Control::Tables, tables)?;
            }
        }
        wait_for_walks();
        let empty: Box<RuleCache> = Box::new([0; CACHE_ENTRIES]);
        bpf::write_range(self.cache.fd().as_fd(), 0, std::slice::from_ref(&*empty))
            .context("failed to clear the cache of unwind rules")
    }

    /// Kernel memory of the tables as allocated, bytes: chunks by need, all else whole.
    pub fn bytes(&self) -> usize {
        self.rows.count() as usize * size_of::<Chunk>()
            + size_of::<RuleCache>()
            + MAX_PAGES * size_of::<Page>()
            + MAX_RULES * size_of::<Rule>()
            + 2 * size_of::<CodeMappings>()
    }

    /// Rows of all tables.
    pub fn rows(&self) -> u32 {
        self.contents.rows
    }
}

/// Writes a chunk to its map, which is made if there is none. (What was in it already is written
/// again, unchanged.)
fn write_chunk(map: &mut Option<OwnedFd>, rows: &Chunk) -> Result<()> {
    let map = match map {
        Some(map) => map,
        None => map.insert(bpf::create_array::<Chunk>().context("failed to create a map of rows")?),
    };
    bpf::write_range(map.as_fd(), 0, std::slice::from_ref(rows))
        .context("failed to write unwind rows")
}

/// Returns when no walk runs any more that began before.
fn wait_for_walks() {
    if bpf::wait_for_programs().is_err() {
        std::thread::sleep(Duration::from_millis(100)); // longer than any walk takes
    }
}

/// A mapping that one rule serves as a whole.
pub const fn by_rule(start: u64, end: u64, rule: u32) -> CodeMapping {
    CodeMapping {
        start,
        end,
        bias: 0,
        first_page: 0,
        pages: 0,
        rule,
        unused: 0,
    }
}

/// Sorts behind all mappings.
const UNUSED: CodeMapping = by_rule(i64::MAX as u64, i64::MAX as u64, NONE_NUMBER);
