//! Probes at system calls in the target's own code, in each object that it has mapped.

use std::collections::HashSet;

use anyhow::{Context, Result};

use crate::probe::Probes;
use crate::probe::system_calls::{self, Wanted};
use crate::report::escape;
use crate::target::{Allocator, Mapping, Process};
use crate::unwind::image::Image;

/// Which are in place.
pub(super) struct CallProbes {
    wanted: &'static Wanted,
    /// Objects that were looked through: device and inode.
    looked: HashSet<(u32, u32, u64)>,
    calls: usize,
    problems: Vec<String>,
}

impl CallProbes {
    /// None yet.
    pub(super) fn new(wanted: &'static Wanted) -> Self {
        Self {
            wanted,
            looked: HashSet::new(),
            calls: 0,
            problems: Vec::new(),
        }
    }

    /// Looks through what a process has mapped since the last look, and probes it.
    pub(super) fn place(&mut self, probes: &mut Probes, process: &Process) {
        let objects = Allocator::objects(process).unwrap_or_default();
        for object in objects {
            if !self.looked.insert(object.identity()) {
                continue;
            }
            if let Err(error) = self.probe_object(probes, process, &object) {
                let path = object.path.to_string_lossy();
                let path = escape::visible(&path);
                let purpose = self.wanted.purpose;
                let problem =
                    format!("system calls of `{path}` that {purpose} are not followed: {error:#}");
                if !process.has_ended() && !self.problems.contains(&problem) {
                    self.problems.push(problem);
                }
            }
        }
    }

    fn probe_object(
        &mut self,
        probes: &mut Probes,
        process: &Process,
        object: &Mapping,
    ) -> Result<()> {
        let file = object.open(process.pid())?;
        let Ok(image) = Image::open(&file) else {
            return Ok(()); // no ELF file
        };
        let sites =
            system_calls::find(&image, self.wanted).context("failed to look through its code")?;
        if sites.calls.is_empty() {
            return Ok(());
        }
        let path = object.path.to_string_lossy();
        let path = escape::visible(&path);
        log::debug!(
            "`{path}`: {} system calls that {}, {} of which cannot be probed; {} others have \
             no constant number, {} were not reached",
            sites.calls.len(),
            self.wanted.purpose,
            sites.hidden,
            sites.unknown,
            sites.unreached
        );
        if sites.hidden > 0 {
            self.problems.push(format!(
                "{} system calls that {} cannot be probed in `{path}`",
                sites.hidden, self.wanted.purpose
            ));
        }
        self.calls += sites.calls.len() - sites.hidden;
        if sites.points.is_empty() {
            return Ok(());
        }
        let object = (object.identity(), &file);
        probes.attach_calls(process, object, &sites.points, self.wanted.program)
    }

    /// The probes have gone with the program that had them.
    pub(super) fn begin_again(&mut self) {
        self.looked.clear();
    }

    /// How many system calls are probed.
    pub(super) fn calls(&self) -> usize {
        self.calls
    }

    /// What is not, and why.
    pub(super) fn problems(&self) -> &[String] {
        &self.problems
    }
}
