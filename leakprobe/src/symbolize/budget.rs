//! What was done to keep a recording's overhead within its budget.

use serde::Serialize;

/// An account of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Budget {
    /// Percent of the target's CPU time that the probes may take.
    pub percent: f64,
    /// Each change, the first ones if there were too many.
    pub steps: Vec<BudgetStep>,
    /// Steps that are not listed.
    pub more_steps: u64,
    /// How often the probes were taken away.
    pub windows: u64,
    /// Percent of the target's work (its CPU time without what the probes took) in which the probes
    /// were in place.
    pub seen_percent: f64,
}

/// A change.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct BudgetStep {
    /// When, nanoseconds after the start.
    pub at_ns: u64,
    /// From then on one block in about so many bytes was recorded; 0: all.
    pub sample_bytes: u64,
    /// Whether the probes were in place for windows only.
    pub windows: bool,
    /// Whether the system calls that map memory were probed.
    pub system_calls: bool,
}

/// More steps than a reader wants to see.
const MOST_STEPS: usize = 100;

impl Budget {
    /// Notes a step.
    pub fn step(&mut self, step: BudgetStep) {
        if self.steps.len() < MOST_STEPS {
            self.steps.push(step);
        } else {
            self.more_steps += 1;
        }
    }
}
