//! Which row is in which chunk, what of that is not written yet, and which chunks the kernel side
//! does not know yet. Bookkeeping alone: it is `kernel` that makes maps and writes to them.
//!
//! Rows are added a table at a time. A table that cannot be added leaves nothing behind: the next one
//! gets its place.

use leakprobe_common::{CHUNK_ROWS, Chunk, MAX_CHUNKS, Row};

/// All chunks; `M` is the map of one.
pub struct Chunks<M> {
    /// Number of the next row. What stays empty at the end of a chunk has numbers too.
    next: u32,
    /// The same when the last table was complete.
    settled: u32,
    /// Chunks that are not full, or that the kernel side does not know; their numbers have no gaps.
    kept: Vec<Kept<M>>,
    /// Number of the first of them.
    first_kept: u32,
    /// How many chunks the kernel side knows.
    known: u32,
}

struct Kept<M> {
    rows: Box<Chunk>,
    /// `None` until it is written.
    map: Option<M>,
    /// Whether it has rows that its map has not.
    changed: bool,
}

impl<M> Chunks<M> {
    /// None yet.
    pub fn new() -> Self {
        Self {
            next: 0,
            settled: 0,
            kept: Vec::new(),
            first_kept: 0,
            known: 0,
        }
    }

    /// Finds a place for the rows of a page, which are to be in one chunk; returns the number of the
    /// first, or `None` if there is no room.
    pub fn place(&mut self, rows: impl ExactSizeIterator<Item = Row>) -> Option<u32> {
        let mut first = self.next;
        if rows.len() == 0 {
            return Some(first);
        }
        if first as usize % CHUNK_ROWS + rows.len() > CHUNK_ROWS {
            first = first.next_multiple_of(CHUNK_ROWS as u32);
        }
        let number = first / CHUNK_ROWS as u32;
        if rows.len() > CHUNK_ROWS || number as usize >= MAX_CHUNKS {
            return None;
        }
        if number == self.count() {
            self.kept.push(Kept {
                rows: Box::new([Row::default(); CHUNK_ROWS]),
                map: None,
                changed: false,
            });
        }
        self.next = first + rows.len() as u32;
        let chunk = &mut self.kept[(number - self.first_kept) as usize];
        chunk.changed = true;
        let places = chunk.rows[first as usize % CHUNK_ROWS..].iter_mut();
        places.zip(rows).for_each(|(place, row)| *place = row);
        Some(first)
    }

    /// Lets `write` write each chunk that has new rows, whole, and first make its map where there is
    /// none.
    ///
    /// # Errors
    ///
    /// The first of `write`.
    pub fn write<E>(
        &mut self,
        mut write: impl FnMut(&mut Option<M>, &Chunk) -> Result<(), E>,
    ) -> Result<(), E> {
        for chunk in self.kept.iter_mut().filter(|chunk| chunk.changed) {
            write(&mut chunk.map, &chunk.rows)?;
            chunk.changed = false;
        }
        Ok(())
    }

    /// The table is complete, and written.
    pub fn settle(&mut self) {
        self.settled = self.next;
    }

    /// Takes back what was placed since the last table that was complete.
    pub fn roll_back(&mut self) {
        self.next = self.settled;
        let left = self.next.div_ceil(CHUNK_ROWS as u32) - self.first_kept;
        self.kept.truncate(left as usize);
        // What its map holds behind the rows of complete tables is in no page.
        if let Some(last) = self.kept.last_mut() {
            last.changed = false;
        }
    }

    /// Maps that the kernel side does not know, and the number of the first one's chunk.
    pub fn unknown(&self) -> (u32, impl Iterator<Item = &M>) {
        let kept = self.kept[(self.known - self.first_kept) as usize..].iter();
        (self.known, kept.filter_map(|chunk| chunk.map.as_ref()))
    }

    /// The kernel side knows all of them now. Full ones need not be kept any more.
    pub fn all_known(&mut self) {
        self.known = self.count();
        let full = self.next / CHUNK_ROWS as u32;
        self.kept.drain(..(full - self.first_kept) as usize);
        self.first_kept = full;
    }

    /// How many chunks there are.
    pub fn count(&self) -> u32 {
        self.first_kept + self.kept.len() as u32
    }
}

#[cfg(test)]
#[path = "chunks_tests.rs"]
mod tests;
