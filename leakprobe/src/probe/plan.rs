//! Which instruction of which function gets a probe, before any is placed.

use std::collections::HashSet;

use anyhow::{Context, Result, bail};

use super::functions::{FUNCTIONS, ProbedFunction};
use super::site::{self, Site, SiteCost};
use crate::target::Allocator;

/// A probe to place.
#[derive(Clone, Debug)]
pub struct Point {
    /// The function.
    pub function: &'static ProbedFunction,
    /// Offset of the instruction in the allocator's file, bytes.
    pub offset: u64,
    /// The instruction, and what a hit costs.
    pub site: Site,
}

/// Chooses a site for every function of the table that the allocator has.
///
/// # Errors
///
/// If a function has no place for a probe: its blocks would be missing silently.
pub fn points(allocator: &Allocator) -> Result<Vec<Point>> {
    let path = allocator.object().path();
    let mut points = Vec::new();
    let mut taken = HashSet::new();
    for function in FUNCTIONS {
        let found = allocator.functions(function.name)?;
        for code in found {
            let site = site::choose(&code.code, code.address, function.kind.arguments())
                .with_context(|| {
                    format!("failed to place a probe in `{}` of `{path}`", code.name)
                })?;
            let offset = code.offset + site.offset;
            // Aliases (cfree is free in glibc) share their code, and one probe serves both.
            if taken.insert(offset) {
                points.push(Point {
                    function,
                    offset,
                    site,
                });
            }
        }
    }
    Ok(points)
}

/// Whether a process whose first allocator this is can be profiled.
///
/// # Errors
///
/// If what it gives out is never taken back.
pub fn require_free(allocator: &Allocator) -> Result<()> {
    if !allocator.takes_back() {
        bail!(
            "`{}` defines `malloc` but no `free`: without it nothing can be told about what is freed",
            allocator.object().path()
        );
    }
    Ok(())
}

/// What a hit of most calls costs: as at `malloc`.
pub fn usual_cost(points: &[Point]) -> SiteCost {
    let malloc = points.iter().find(|it| it.function.name == "malloc");
    malloc.map_or(SiteCost::Emulated, |point| point.site.cost)
}
