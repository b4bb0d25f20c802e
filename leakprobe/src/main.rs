//! The command `leakprobe`.

fn main() {}
