//! What a recording of the heap has beside what every recording has: an allocator, and the points in
//! it that are probed.

use std::collections::BTreeMap;

use anyhow::Result;

use super::exec::Search;
use super::refuse_danger;
use crate::cli::Config;
use crate::overhead::Calibration;
use crate::probe::plan::{self, Point};
use crate::probe::{Probes, functions};
use crate::record::command::Command;
use crate::snapshot::counts::OPERATORS_NOT_PROBED;
use crate::target::{Allocator, Process};

/// A recording of the heap.
pub(super) struct Heap {
    pub(super) allocator: Allocator,
    pub(super) points: Vec<Point>,
    /// While a new program's allocator is looked for.
    pub(super) searching: Option<Search>,
}

impl Heap {
    /// Finds the allocator, for which a command is let run until it is mapped.
    pub(super) fn find(process: &Process, command: Option<&mut Command>) -> Result<Self> {
        let names = functions::names();
        let allocator = match command {
            None => Allocator::find(process, &names)?,
            Some(command) => command.run_to_allocator(process, &names)?,
        };
        refuse_danger(process.pid())?;
        let points = plan::points(&allocator)?;
        Ok(Self {
            allocator,
            points,
            searching: None,
        })
    }

    /// What a trap costs, to be found out.
    pub(super) fn calibration(&self, probes: &Probes) -> Calibration {
        Calibration {
            way: probes.way(),
            cost: plan::usual_cost(&self.points),
        }
    }

    /// What of the process's blocks is not seen.
    pub(super) fn note_others(&self, losses: &mut BTreeMap<String, u64>, notes: &mut Vec<String>) {
        if self.allocator.has_operator_new() {
            losses.insert(OPERATORS_NOT_PROBED.name.to_owned(), 1);
        }
        for path in self.allocator.others() {
            notes.push(format!("`{path}` defines malloc too, and is not probed"));
        }
    }
}

/// A reader of the report must know what was left out on request.
pub(super) fn note_filters(config: &Config, notes: &mut Vec<String>) {
    if config.min_size > 0 || config.max_size < u64::MAX {
        let upper = match config.max_size {
            u64::MAX => String::new(),
            max => format!(" and at most {max}"),
        };
        notes.push(format!(
            "only blocks of at least {}{upper} bytes were recorded",
            config.min_size
        ));
    }
    if let Some(min_age) = config.min_age {
        let age = humantime::format_duration(min_age);
        notes.push(format!("live figures leave out blocks younger than {age}"));
    }
}
