//! Puts probes into the target: where, and how.

pub mod arch;
pub mod feature;
pub mod functions;
pub mod plan;
mod programs;
pub mod seccomp;
pub mod site;
pub mod trial;

pub use programs::{Limits, Probes};
