//! What the calling convention of one architecture says: where arguments, results and return
//! addresses are. One module per architecture.

mod x86_64;

pub use x86_64::*;
