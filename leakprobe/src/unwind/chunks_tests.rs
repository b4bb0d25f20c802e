//! Rows are found where their pages say, whatever the tables' sizes are.

use super::*;

/// A kernel side that remembers. A map is its place in `maps`.
#[derive(Default)]
struct Kernel {
    maps: Vec<Box<Chunk>>,
    /// The map of each chunk.
    chunks: Vec<usize>,
    writes: usize,
    /// Writes that succeed before one fails.
    patience: Option<usize>,
    /// Pages that were loaded: their first rows' numbers, and their rows.
    pages: Vec<(u32, Vec<Row>)>,
}

impl Kernel {
    /// Loads a table with pages of so many rows.
    fn load(&mut self, chunks: &mut Chunks<usize>, sizes: &[usize]) -> Result<(), &'static str> {
        let result = self.try_load(chunks, sizes);
        match &result {
            Ok(pages) => {
                chunks.settle();
                self.pages.extend_from_slice(pages);
            }
            Err(_) => chunks.roll_back(),
        }
        result.map(drop)
    }

    fn try_load(
        &mut self,
        chunks: &mut Chunks<usize>,
        sizes: &[usize],
    ) -> Result<Vec<(u32, Vec<Row>)>, &'static str> {
        let mut pages = Vec::new();
        for &size in sizes {
            // No two pages' rows are the same.
            let rule = (self.pages.len() + pages.len() + 1) as u16;
            let rows: Vec<Row> = (0..size)
                .map(|row| Row {
                    offset: row as u16,
                    rule,
                })
                .collect();
            let first = chunks.place(rows.iter().copied()).ok_or("full")?;
            pages.push((first, rows));
        }
        chunks.write(|map, rows| {
            if let Some(patience) = &mut self.patience {
                *patience = patience.checked_sub(1).ok_or("refused")?;
            }
            let map = *map.get_or_insert(self.maps.len());
            match self.maps.get_mut(map) {
                Some(known) => **known = *rows,
                None => self.maps.push(Box::new(*rows)),
            }
            self.writes += 1;
            Ok::<(), &str>(())
        })?;
        Ok(pages)
    }

    /// Makes all chunks known.
    fn publish(&mut self, chunks: &mut Chunks<usize>) {
        let (first, maps) = chunks.unknown();
        assert_eq!(first as usize, self.chunks.len());
        self.chunks.extend(maps);
        chunks.all_known();
        assert_eq!(chunks.count() as usize, self.chunks.len());
    }

    /// Publishes, and looks up every row of every page.
    fn check(&mut self, chunks: &mut Chunks<usize>) {
        self.publish(chunks);
        for (first, rows) in &self.pages {
            if rows.is_empty() {
                continue;
            }
            let (chunk, slot) = (*first as usize / CHUNK_ROWS, *first as usize % CHUNK_ROWS);
            let found = &self.maps[self.chunks[chunk]][slot..][..rows.len()];
            assert!(found == rows, "the page at row {first} is not there");
        }
    }
}

fn new() -> (Kernel, Chunks<usize>) {
    (Kernel::default(), Chunks::new())
}

#[test]
fn a_table_may_end_with_its_chunk() {
    let (mut kernel, mut chunks) = new();
    kernel.load(&mut chunks, &[CHUNK_ROWS - 7, 7]).unwrap();
    assert_eq!((chunks.count(), kernel.maps.len()), (1, 1));
    kernel.check(&mut chunks);
    kernel.load(&mut chunks, &[5]).unwrap();
    assert_eq!((chunks.count(), kernel.maps.len()), (2, 2));
    kernel.check(&mut chunks);
    // The same when the kernel side hears of both chunks at once.
    let (mut kernel, mut chunks) = new();
    kernel.load(&mut chunks, &[CHUNK_ROWS]).unwrap();
    kernel.load(&mut chunks, &[5]).unwrap();
    kernel.check(&mut chunks);
    assert_eq!(kernel.maps.len(), 2);
}

#[test]
fn an_empty_table_needs_no_chunk() {
    let (mut kernel, mut chunks) = new();
    kernel.load(&mut chunks, &[]).unwrap();
    kernel.load(&mut chunks, &[0]).unwrap();
    kernel.check(&mut chunks);
    assert_eq!((chunks.count(), kernel.writes), (0, 0));
    kernel.load(&mut chunks, &[CHUNK_ROWS]).unwrap();
    kernel.load(&mut chunks, &[]).unwrap(); // at the end of a chunk
    kernel.load(&mut chunks, &[0]).unwrap();
    kernel.check(&mut chunks);
    kernel.load(&mut chunks, &[]).unwrap(); // and when that is known
    kernel.check(&mut chunks);
    assert_eq!((chunks.count(), kernel.writes), (1, 1));
    kernel.load(&mut chunks, &[3]).unwrap();
    kernel.load(&mut chunks, &[]).unwrap(); // in the middle of one
    kernel.check(&mut chunks);
    assert_eq!((chunks.count(), kernel.writes), (2, 2));
}

#[test]
fn tables_one_after_the_other_cross_chunks() {
    let sizes = [1, 700, CHUNK_ROWS / 2, 1000, CHUNK_ROWS, 3, CHUNK_ROWS - 3];
    for publish_each in [true, false] {
        let (mut kernel, mut chunks) = new();
        for round in 0..20 {
            let table = [sizes[round % 7], sizes[(round * 3 + 1) % 7]];
            kernel.load(&mut chunks, &table).unwrap();
            if publish_each {
                kernel.check(&mut chunks);
            }
        }
        kernel.check(&mut chunks);
        assert_eq!(kernel.maps.len(), chunks.count() as usize);
    }
}

#[test]
fn a_table_may_need_several_chunks() {
    let (mut kernel, mut chunks) = new();
    kernel.load(&mut chunks, &[10]).unwrap();
    kernel.check(&mut chunks);
    kernel.load(&mut chunks, &[6000; 9]).unwrap(); // two of them to a chunk
    kernel.check(&mut chunks);
    assert_eq!(chunks.count(), 5);
    kernel.load(&mut chunks, &[CHUNK_ROWS; 3]).unwrap(); // ends with its last chunk
    kernel.load(&mut chunks, &[1]).unwrap();
    kernel.check(&mut chunks);
    assert_eq!((chunks.count(), kernel.maps.len()), (9, 9));
}

#[test]
fn only_chunks_with_new_rows_are_written() {
    let (mut kernel, mut chunks) = new();
    kernel.load(&mut chunks, &[CHUNK_ROWS - 1]).unwrap();
    kernel.load(&mut chunks, &[2]).unwrap(); // does not fit the first
    assert_eq!(kernel.writes, 2);
    kernel.load(&mut chunks, &[2]).unwrap(); // the second one again
    assert_eq!((kernel.writes, kernel.maps.len()), (3, 2));
    kernel.check(&mut chunks);
}

#[test]
fn a_refused_table_leaves_nothing_behind() {
    for publish_before in [true, false] {
        for patience in 0..4 {
            let (mut kernel, mut chunks) = new();
            kernel.load(&mut chunks, &[100]).unwrap();
            if publish_before {
                kernel.check(&mut chunks);
            }
            kernel.patience = Some(patience);
            let refused = kernel.load(&mut chunks, &[200, CHUNK_ROWS, CHUNK_ROWS, 9]);
            assert_eq!(refused, Err("refused"));
            kernel.patience = None;
            assert_eq!(chunks.count(), 1);
            kernel.check(&mut chunks);
            kernel.load(&mut chunks, &[300, CHUNK_ROWS]).unwrap();
            kernel.check(&mut chunks);
            assert_eq!(chunks.count(), 2);
            assert_eq!(kernel.pages[1].0, 100);
        }
    }
}

#[test]
fn there_is_an_end_of_chunks() {
    let (mut kernel, mut chunks) = new();
    for _ in 1..MAX_CHUNKS {
        kernel.load(&mut chunks, &[CHUNK_ROWS]).unwrap();
        kernel.publish(&mut chunks);
    }
    assert_eq!(kernel.load(&mut chunks, &[5, CHUNK_ROWS]), Err("full"));
    assert_eq!(kernel.load(&mut chunks, &[CHUNK_ROWS + 1]), Err("full"));
    kernel.load(&mut chunks, &[CHUNK_ROWS]).unwrap();
    kernel.check(&mut chunks);
    assert_eq!(kernel.load(&mut chunks, &[1]), Err("full"));
    kernel.load(&mut chunks, &[]).unwrap();
    assert_eq!(chunks.count() as usize, MAX_CHUNKS);
}
