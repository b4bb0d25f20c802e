//! leakprobe finds what a running, unmodified process has allocated and not freed, by stack.
//!
//! Data flows one way, and no stage imports a later one:
//! target -> probe -> (kernel) -> snapshot -> analyze -> symbolize -> report.

pub mod analyze;
mod bpf;
pub mod capability;
pub mod cli;
mod clock;
pub mod doctor;
pub mod overhead;
pub mod pid_namespace;
pub mod probe;
pub mod ps;
pub mod record;
pub mod report;
pub mod sampling;
pub mod snapshot;
mod switches;
pub mod symbolize;
pub mod target;
pub mod unwind;
