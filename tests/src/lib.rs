//! What the end-to-end tests share: starting victims, running leakprobe, reading its reports.

pub mod node;
