//! Puts probes into the target: where, and how.

pub mod arch;
pub mod danger;
pub mod feature;
pub mod functions;
pub mod plan;
mod programs;
pub mod site;
pub mod trial;
pub mod version;

pub use programs::{Limits, Probes};
