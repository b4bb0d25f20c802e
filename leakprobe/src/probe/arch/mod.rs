//! What is particular to a processor about placing probes; one module each.

// Built everywhere: it only looks at bytes, and its tests should run on any machine.
pub mod x86_64;
pub mod x86_64_calls;

#[cfg(target_arch = "x86_64")]
pub use x86_64::choose;

/// Stands in for a processor that has no module yet.
#[cfg(not(target_arch = "x86_64"))]
pub fn choose(
    _code: &[u8],
    _address: u64,
    _arguments: super::site::Arguments,
) -> Result<super::site::Site, super::site::SiteError> {
    Err(super::site::SiteError::Architecture)
}
