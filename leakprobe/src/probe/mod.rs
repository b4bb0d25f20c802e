//! Puts probes into the target: where, and how.

pub mod arch;
pub mod functions;
pub mod plan;
mod programs;
pub mod site;

pub use programs::{Limits, Probes};
