//! What the figures mean: growth, and what of it is a leak. Nothing here reads the kernel or the process.

pub mod account;
pub mod growth;
pub mod rank;
pub mod rss;
pub mod series;
pub mod survival;
pub mod trend;
pub mod verdict;
