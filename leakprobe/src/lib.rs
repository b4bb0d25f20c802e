//! leakprobe finds what a running, unmodified process has allocated and not freed, by stack.
//!
//! Data flows one way, and no stage imports a later one:
//! target -> probe -> (kernel) -> snapshot -> symbolize -> report.

mod bpf;
pub mod cli;
pub mod doctor;
pub mod overhead;
pub mod probe;
pub mod record;
pub mod report;
pub mod sampling;
pub mod snapshot;
pub mod symbolize;
pub mod target;
pub mod unwind;
