//! Which programs are attached to which functions, and in which order.

use super::Runs;
use crate::probe::multi::LinkKind;
use crate::probe::plan::Point;

/// A link of many probes: for which functions, and what runs there.
pub(super) struct Plan {
    pub program: &'static str,
    pub kind: LinkKind,
    pub at_return: bool,
    /// For the functions that give blocks out, or for the others.
    pub gives: bool,
}

const FREE: Plan = Plan {
    program: "enter_free",
    kind: LinkKind::Multi,
    at_return: false,
    gives: false,
};

/// Entries and returns together.
pub(super) const SESSION: &[Plan] = &[
    Plan {
        program: "session_call",
        kind: LinkKind::Session,
        at_return: false,
        gives: true,
    },
    FREE,
];

/// The return first: a call that is entered in between is not followed.
pub(super) const MULTI: &[Plan] = &[
    Plan {
        program: "leave_call",
        kind: LinkKind::Multi,
        at_return: true,
        gives: true,
    },
    Plan {
        program: "enter_call",
        kind: LinkKind::Multi,
        at_return: false,
        gives: true,
    },
    FREE,
];

/// Of both ways by perf events.
pub(super) const SINGLE: [&str; 3] = ["leave_call", "enter_call", "enter_free"];

impl Plan {
    /// The points among all of them.
    pub fn among<'a>(&self, all: &'a [Point]) -> Vec<&'a Point> {
        all.iter()
            .filter(|point| point.function.kind.gives() == self.gives)
            .collect()
    }

    /// Where in a call the program runs.
    pub fn runs(&self) -> Runs {
        match (self.kind, self.at_return) {
            (LinkKind::Session, _) => Runs::Both,
            (_, true) => Runs::Return,
            (_, false) => Runs::Entry,
        }
    }

    /// How many probes one place is.
    pub fn probes(&self) -> usize {
        match self.kind {
            LinkKind::Session => 2,
            LinkKind::Multi | LinkKind::None => 1,
        }
    }
}
