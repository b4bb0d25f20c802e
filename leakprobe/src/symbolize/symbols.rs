//! Puts a symbol table right before names are looked up in it.
//!
//! Two kinds of symbols go. Labels without a size in the middle of a function: whoever looks for
//! the nearest symbol would find them and never the function (`construct_stub_create_deopt_addr` in
//! V8's `Builtins_JSConstructStubGeneric`). And those that end behind the last address: no linker
//! makes them.

/// Bytes of a symbol in a 64-bit file.
const SIZE: usize = 24;

/// Removes them from the bytes of a table.
pub fn tidy(table: &mut Vec<u8>) {
    table.truncate(table.len() / SIZE * SIZE);
    let mut functions: Vec<(u64, u64)> = table
        .chunks_exact(SIZE)
        .map(Symbol::parse)
        .filter(|symbol| symbol.kind == FUNCTION && symbol.size > 0)
        .filter_map(|symbol| Some((symbol.start, symbol.start.checked_add(symbol.size)?)))
        .collect();
    functions.sort_unstable();
    // Where the functions that start so far down at the latest end.
    let mut furthest = 0;
    for (_, end) in &mut functions {
        furthest = furthest.max(*end);
        *end = furthest;
    }
    let in_function = |address: u64| {
        let after = functions.partition_point(|&(start, _)| start <= address);
        after > 0 && functions[after - 1].1 > address
    };
    let mut kept = 0;
    for at in (0..table.len()).step_by(SIZE) {
        let symbol = Symbol::parse(&table[at..at + SIZE]);
        let is_label = symbol.size == 0 && symbol.kind != FUNCTION && in_function(symbol.start);
        if !is_label && symbol.start.checked_add(symbol.size).is_some() {
            table.copy_within(at..at + SIZE, kept);
            kept += SIZE;
        }
    }
    table.truncate(kept);
}

/// `STT_FUNC`.
const FUNCTION: u8 = 2;

struct Symbol {
    kind: u8,
    start: u64,
    size: u64,
}

impl Symbol {
    fn parse(bytes: &[u8]) -> Self {
        let number = |at: usize| {
            bytes[at..]
                .first_chunk()
                .map_or(0, |n| u64::from_le_bytes(*n))
        };
        Self {
            kind: bytes[4] & 0xf,
            start: number(8),
            size: number(16),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(symbols: &[(u8, u64, u64)]) -> Vec<u8> {
        let mut table = Vec::new();
        for &(kind, start, size) in symbols {
            table.extend_from_slice(&[0, 0, 0, 0, kind, 0, 1, 0]);
            table.extend_from_slice(&start.to_le_bytes());
            table.extend_from_slice(&size.to_le_bytes());
        }
        table
    }

    #[test]
    fn labels_inside_of_functions_go() {
        let mut symbols = table(&[
            (2, 0x100, 0x50), // a function
            (0, 0x120, 0),    // a label in it
            (2, 0x110, 0x10), // a function in a function
            (0, 0x140, 0),    // a label in the outer one, behind the inner one
            (0, 0x150, 0),    // behind both
            (2, 0x130, 0),    // a function without a size, in another one
            (1, u64::MAX, 1), // ends where there is nothing
            (2, u64::MAX, 0),
        ]);
        symbols.extend_from_slice(b"more");
        tidy(&mut symbols);
        let expected = [
            (2, 0x100, 0x50),
            (2, 0x110, 0x10),
            (0, 0x150, 0),
            (2, 0x130, 0),
            (2, u64::MAX, 0),
        ];
        assert_eq!(symbols, table(&expected));
    }
}
