//! Puts probes into the target: where, and how.

pub mod arch;
pub mod site;
