//! Where probes are, for those who take out what the kernel leaves of them.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use anyhow::{Context, Result};

use super::Link;
use crate::probe::multi::{self, Code, LinkKind, Places};
use crate::target::Process;

/// Where links of many probes were placed.
pub(super) struct Placed {
    /// Device and inode of the file.
    pub object: (u32, u32, u64),
    /// Whether at its system calls, not at its functions.
    pub at_calls: bool,
    pub file: OwnedFd,
    pub offsets: Vec<u64>,
}

impl Placed {
    /// A link that does nothing, in the same places, see [`super::Linker::sweep`].
    pub fn sweep(&self, process: &Process) -> Result<Link> {
        let Self { file, offsets, .. } = self;
        let program = multi::load(&Code::nothing(), LinkKind::Multi)
            .context("failed to load an empty program")?;
        let file = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let places = Places {
            file: &file.context("a path with a zero in it")?,
            pid: process.pid(),
            offsets,
            cookies: None,
            at_return: false,
        };
        let link = multi::link(program.as_fd(), LinkKind::Multi, &places)
            .context("failed to place empty probes")?;
        Ok(Link::Many {
            _link: link,
            probes: 0,
        })
    }
}
