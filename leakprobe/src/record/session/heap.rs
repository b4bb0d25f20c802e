//! What a recording of the heap has beside what every recording has: allocators, and the points in
//! them that are probed.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use anyhow::{Result, anyhow};

use super::refuse_danger;
use crate::cli::Config;
use crate::overhead::Calibration;
use crate::probe::plan::{self, Point};
use crate::probe::{Probes, functions};
use crate::record::command::Command;
use crate::snapshot::counts::{ALLOCATORS_NOT_PROBED, OPERATORS_NOT_PROBED};
use crate::target::{Allocator, AllocatorInfo, Process};

/// A recording of the heap.
#[derive(Default)]
pub(super) struct Heap {
    /// The allocators of all processes, in the order in which they were found.
    found: Vec<Found>,
    /// Which of them objects are that were looked at.
    known: HashMap<ObjectKey, Option<usize>>,
}

/// An object: device and inode, path, whether it is looked at as an executable. (The inode of a file
/// that is gone may be another's by now, hardly ever with the same path.)
type ObjectKey = ((u32, u32, u64), PathBuf, bool);

/// An allocator, and the points in it that are probed.
pub(super) struct Found {
    pub(super) allocator: Allocator,
    pub(super) points: Vec<Point>,
    /// Why it is not.
    problem: Option<String>,
}

impl Heap {
    /// Finds the allocators of a process, for which a command is let run until one is mapped.
    pub(super) fn find(
        &mut self,
        process: &Process,
        command: Option<&mut Command>,
    ) -> Result<Vec<usize>> {
        let found = match command {
            None => self.search(process)?,
            Some(command) => command.run_until_mapped(process, || {
                let found = self.search(process)?;
                Ok((!found.is_empty()).then_some(found))
            })?,
        };
        refuse_danger(process.pid())?;
        match found.is_empty() {
            true => Err(Allocator::none(process)),
            false => self.usable(found),
        }
    }

    /// All allocators of a process that it has mapped by now, the one that serves it first; also those that
    /// are not [`Self::usable`].
    pub(super) fn search(&mut self, process: &Process) -> Result<Vec<usize>> {
        let exe = process.exe();
        let mut found = Vec::new();
        for mapping in Allocator::objects(process)? {
            let is_executable = exe.as_deref() == Some(&*mapping.path);
            let key = (mapping.identity(), mapping.path.clone(), is_executable);
            if let Some(known) = self.known.get(&key) {
                found.extend(*known);
                continue;
            }
            let names = functions::names();
            // What cannot be opened is looked at again the next time.
            if let Ok(new) = Allocator::in_object(process, exe.as_deref(), &mapping, &names) {
                let number = new.map(|it| self.add(it));
                self.known.insert(key, number);
                found.extend(number);
            }
        }
        found.sort_by_key(|&number| self.get(number).map(|it| it.allocator.rank()));
        found.dedup();
        Ok(found)
    }

    /// Those of the allocators of a process that can be probed, of which the first must.
    ///
    /// # Errors
    ///
    /// Why it cannot.
    pub(super) fn usable(&self, mut allocators: Vec<usize>) -> Result<Vec<usize>> {
        if let Some(first) = allocators.first().and_then(|&number| self.get(number)) {
            plan::require_free(&first.allocator)?;
            if let Some(problem) = &first.problem {
                return Err(anyhow!("{problem}"));
            }
        }
        allocators.retain(|&number| self.is_usable(number));
        Ok(allocators)
    }

    /// Whether an allocator can be probed.
    pub(super) fn is_usable(&self, number: usize) -> bool {
        self.get(number).is_some_and(|it| it.problem.is_none())
    }

    /// Takes in an allocator, unless it is known.
    fn add(&mut self, allocator: Allocator) -> usize {
        let same = |found: &Found| found.allocator.identity() == allocator.identity();
        if let Some(known) = self.found.iter().position(same) {
            return known;
        }
        let (points, problem) = match plan::points(&allocator) {
            Ok(points) => (points, None),
            Err(error) => (Vec::new(), Some(format!("{error:#}"))),
        };
        self.found.push(Found {
            allocator,
            points,
            problem,
        });
        self.found.len() - 1
    }

    /// An allocator, by its number.
    pub(super) fn get(&self, number: usize) -> Option<&Found> {
        self.found.get(number)
    }

    /// Some of them.
    pub(super) fn allocators(&self, numbers: &[usize]) -> impl Iterator<Item = &Allocator> {
        let found = numbers.iter().filter_map(|&it| self.get(it));
        found.map(|it| &it.allocator)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.found.len()
    }

    /// Functions that are probed.
    pub(super) fn functions(&self) -> usize {
        self.found.iter().map(|found| found.points.len()).sum()
    }

    /// What a report calls the allocator.
    pub(super) fn info(&self, number: Option<usize>) -> Option<AllocatorInfo> {
        Some(self.get(number?)?.allocator.info())
    }

    /// What it calls others than `first`.
    pub(super) fn infos(&self, numbers: &[usize], first: Option<usize>) -> Vec<AllocatorInfo> {
        let others = numbers.iter().copied().filter(|&it| Some(it) != first);
        others.filter_map(|it| self.info(Some(it))).collect()
    }

    /// The numbers of all that are probed.
    pub(super) fn all(&self) -> Vec<usize> {
        (0..self.len()).filter(|&it| self.is_usable(it)).collect()
    }

    /// What a trap costs, to be found out.
    pub(super) fn calibration(&self, probes: &Probes, system_calls: bool) -> Calibration {
        let points = self.found.first().map_or(&[][..], |found| &found.points);
        Calibration {
            way: probes.way(),
            cost: plan::usual_cost(points),
            system_calls,
        }
    }

    /// Notes what of the blocks of these allocators is not seen. May be asked again.
    pub(super) fn note_gaps(&self, losses: &mut BTreeMap<String, u64>, notes: &mut Vec<String>) {
        let count = |is: fn(&Found) -> bool| self.found.iter().filter(|it| is(it)).count() as u64;
        if count(|it| it.problem.is_none() && it.allocator.has_operator_new()) > 0 {
            losses.insert(OPERATORS_NOT_PROBED.name.to_owned(), 1);
        }
        let problems = count(|it| it.problem.is_some());
        if problems > 0 {
            losses.insert(ALLOCATORS_NOT_PROBED.name.to_owned(), problems);
        }
        for Found {
            allocator, problem, ..
        } in &self.found
        {
            let path = allocator.object().path();
            let note = problem
                .as_ref()
                .map(|why| format!("`{path}` defines malloc too, and is not probed: {why}"));
            notes.extend(note.filter(|note| !notes.contains(note)));
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
