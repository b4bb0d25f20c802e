//! Shows what the unwind information of ELF files comes to: how many rows and rules, how long
//! reading takes, and what could not be followed.
//!
//! `cargo run --release --example unwind_table -- [--threads N] FILE...`

use std::collections::BTreeSet;
use std::fs::File;
use std::time::Instant;

use anyhow::{Context, Result};
use leakprobe::unwind::cfi::{self, Table};
use leakprobe::unwind::image::Image;
use leakprobe::unwind::{NONE, Rule};

fn main() -> Result<()> {
    let mut threads = 2;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--threads" {
            let value = arguments.next().context("--threads takes a number")?;
            threads = value.parse().context("--threads takes a number")?;
        } else {
            show(&argument, threads).with_context(|| format!("failed to read `{argument}`"))?;
        }
    }
    Ok(())
}

fn show(path: &str, threads: usize) -> Result<()> {
    let file = File::open(path)?;
    let mut times = Vec::new();
    let mut table = Table::default();
    for _ in 0..5 {
        let start = Instant::now();
        let image = Image::open(&file)?;
        table = cfi::table(&image, threads)?;
        times.push(start.elapsed());
    }
    let rules: BTreeSet<Rule> = table.rows.iter().map(|row| row.rule).collect();
    let pairs = table.rows.windows(2);
    let (mut gaps, mut gap_bytes) = (0, 0);
    for pair in pairs.filter(|pair| pair[0].rule == NONE) {
        gaps += 1;
        gap_bytes += pair[1].address - pair[0].address;
    }
    println!("{path}");
    println!(
        "  {} rows, {} rules, {gaps} gaps of {gap_bytes} bytes",
        table.rows.len(),
        rules.len()
    );
    println!(
        "  {} threads: first {:.1?}, best {:.1?}",
        threads,
        times[0],
        times.iter().min().context("no run")?
    );
    for (reason, count) in &table.unsupported {
        println!("  {count} unsupported: {reason}");
    }
    Ok(())
}
