//! The unwind table of one object: its rules in the pages and rows that the kernel side reads, with
//! numbers of its own that mean something to nobody else yet.

use std::collections::HashMap;

use leakprobe_common::{CHUNK_ROWS, MAX_PAGES, MAX_RULES, PAGE_SIZE, Page, Row, Rule};

use super::{NONE, RuleAt};

/// Rows by page of code.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Address, as the ELF file counts, where the first page begins; a multiple of [`PAGE_SIZE`].
    pub start: u64,
    /// Pages without gaps; [`Page::first`] counts in `rows`.
    pub pages: Vec<Page>,
    /// Rows of all pages; [`Row::rule`] counts in `rules`.
    pub rows: Vec<Row>,
    /// Each rule once.
    pub rules: Vec<Rule>,
    /// Pages that had more rows, or more different rules, than there is room for; they have none.
    pub crowded_pages: usize,
}

impl Table {
    /// Makes a table of rules sorted by address.
    pub fn pack(sorted: &[RuleAt]) -> Self {
        let mut table = Self::default();
        let (Some(first), Some(last)) = (sorted.first(), sorted.last()) else {
            return table;
        };
        table.start = first.address / PAGE_SIZE * PAGE_SIZE;
        let mut ids = HashMap::new();
        let mut in_force = NONE;
        let mut rest = sorted;
        let count = ((last.address - table.start) / PAGE_SIZE + 1).min(MAX_PAGES as u64);
        for page in 0..count {
            // What began on an earlier page goes on.
            let start = table.start + page * PAGE_SIZE;
            let here = rest.partition_point(|row| row.address - start < PAGE_SIZE);
            let (here, after) = rest.split_at(here);
            rest = after;
            let first = table.rows.len();
            let known = table.rules.len();
            let carried = (here.first().is_none_or(|row| row.address > start)).then_some(RuleAt {
                address: start,
                rule: in_force,
            });
            let mut fits = true;
            let mut before = None;
            for row in carried.iter().chain(here) {
                if before == Some(row.rule) {
                    continue;
                }
                before = Some(row.rule);
                let id = *ids.entry(row.rule).or_insert_with(|| {
                    table.rules.push(row.rule);
                    table.rules.len() - 1
                });
                fits &= id < MAX_RULES && table.rows.len() - first < CHUNK_ROWS;
                if !fits {
                    break;
                }
                table.rows.push(Row {
                    offset: (row.address - start) as u16,
                    rule: id as u16,
                });
            }
            if let Some(last) = here.last() {
                in_force = last.rule;
            }
            if !fits {
                table.crowded_pages += 1;
                table.rows.truncate(first);
                for rule in table.rules.drain(known..) {
                    ids.remove(&rule);
                }
            }
            table.pages.push(Page {
                first: first as u32,
                count: (table.rows.len() - first) as u32,
            });
        }
        table
    }

    /// The rule at an address.
    pub fn find(&self, address: u64) -> Option<Rule> {
        let relative = address.checked_sub(self.start)?;
        let page = self.pages.get((relative / PAGE_SIZE) as usize)?;
        let rows = &self.rows[page.first as usize..][..page.count as usize];
        let after = rows.partition_point(|row| u64::from(row.offset) <= relative % PAGE_SIZE);
        Some(self.rules[usize::from(rows.get(after.checked_sub(1)?)?.rule)])
    }
}

#[cfg(test)]
mod tests {
    use super::super::{FRAME_POINTER, SIGNAL};
    use super::*;

    #[test]
    fn every_address_has_the_rule_of_the_row_before_it() {
        let rules = [
            (0x1_fff0, FRAME_POINTER),
            (0x1_fffe, SIGNAL),
            (0x4_0000, NONE),
            (0x4_0001, SIGNAL),
            (0x4_8000, NONE),
        ]
        .map(|(address, rule)| RuleAt { address, rule });
        let table = Table::pack(&rules);
        assert_eq!(table.pages.len(), 4);
        for address in (0x1_0000..0x5_0000).step_by(1) {
            let expected = rules
                .iter()
                .rev()
                .find(|row| row.address <= address)
                .map_or(NONE, |row| row.rule);
            assert_eq!(table.find(address), Some(expected), "{address:x}");
        }
        assert_eq!(table.find(0xffff), None);
        assert_eq!(table.find(0x5_0000), None);
    }

    #[test]
    fn a_crowded_page_has_no_rows_and_is_counted() {
        let mut rules: Vec<RuleAt> = (0..PAGE_SIZE)
            .map(|address| RuleAt {
                address,
                rule: if address % 2 == 0 { SIGNAL } else { NONE },
            })
            .collect();
        rules.push(RuleAt {
            address: PAGE_SIZE + 8,
            rule: SIGNAL,
        });
        let table = Table::pack(&rules);
        assert_eq!((table.crowded_pages, table.pages[0].count), (1, 0));
        assert_eq!(table.find(17), None);
        assert_eq!(table.find(PAGE_SIZE), Some(NONE));
        assert_eq!(table.find(PAGE_SIZE + 9), Some(SIGNAL));
    }

    #[test]
    fn nothing_makes_an_empty_table() {
        assert_eq!(Table::pack(&[]), Table::default());
    }
}
