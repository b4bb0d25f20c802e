//! Mappings in a row, without a gap between them: what somebody has reserved as a whole is in one, however it was
//! cut up later.

use crate::target::Region;

/// Addresses of mappings in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// First address.
    pub(super) start: u64,
    /// Address after the last.
    pub(super) end: u64,
}

impl Run {
    /// Whether a mapping is one of them.
    pub(super) fn holds(&self, region: &Region) -> bool {
        self.start <= region.start() && region.end() <= self.end
    }

    /// Bytes of addresses.
    pub(super) fn size(&self) -> u64 {
        self.end - self.start
    }
}

/// All runs of mappings that are `wanted`, lowest address first. None goes on over the address `cut`.
pub(super) fn runs(regions: &[Region], cut: u64, wanted: impl Fn(&Region) -> bool) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for region in regions.iter().filter(|it| wanted(it)) {
        match runs.last_mut() {
            Some(run) if run.end == region.start() && run.end != cut => run.end = region.end(),
            _ => runs.push(Run {
                start: region.start(),
                end: region.end(),
            }),
        }
    }
    runs
}
