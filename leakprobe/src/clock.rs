//! The clock that the kernel side and the user side share.

use anyhow::{Context, Result};
use nix::time::{ClockId, clock_gettime};

/// Nanoseconds on the clock of the kernel side: `bpf_ktime_get_ns` is `CLOCK_MONOTONIC`.
///
/// # Errors
///
/// If there is no such clock.
pub fn now() -> Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).context("failed to read the clock")?;
    Ok(now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
}
