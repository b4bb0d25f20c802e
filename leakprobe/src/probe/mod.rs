//! Puts probes into the target: where, and how.

pub mod arch;
mod children;
pub mod danger;
pub mod feature;
pub mod functions;
pub mod growth;
pub mod guardian;
mod layout;
mod links;
pub mod multi;
mod object;
mod perf;
pub mod plan;
mod programs;
mod refusal;
pub mod site;
pub mod system_calls;
mod threads;
pub mod tree;
pub mod trial;
pub mod version;
pub mod way;

pub use links::{Link, Program, Runs};
pub use programs::{Limits, Probes};
pub use refusal::explain;
