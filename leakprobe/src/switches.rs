//! The switches of the kernel side: those for all of it, and those that belong to one address space,
//! of which there are many if many processes are recorded.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use leakprobe_common::Control;

use crate::bpf;

/// Handle to the switches; all clones set the same ones.
#[derive(Clone)]
pub struct Switches(Arc<Mutex<Maps>>);

/// The values of one address space, by [`Control`].
type View = [u64; Control::ALL];

struct Maps {
    control: OwnedFd,
    /// With many address spaces: the map, and what is in it.
    views: Option<(OwnedFd, HashMap<u64, View>)>,
}

impl Switches {
    /// Of the map `control` alone, or of `views` as well if there are many address spaces.
    pub fn new(control: OwnedFd, views: Option<OwnedFd>) -> Self {
        let views = views.map(|map| (map, HashMap::new()));
        Self(Arc::new(Mutex::new(Maps { control, views })))
    }

    fn maps(&self) -> MutexGuard<'_, Maps> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether each address space has its own.
    pub fn are_many(&self) -> bool {
        self.maps().views.is_some()
    }

    /// Sets one for all.
    ///
    /// # Errors
    ///
    /// If the kernel refuses the map update.
    pub fn set(&self, which: Control, value: u64) -> Result<()> {
        bpf::write_range(self.maps().control.as_fd(), which as u32, &[value])
            .with_context(|| format!("failed to set the switch {which:?} of the BPF programs"))
    }

    /// Sets one of an address space.
    ///
    /// # Errors
    ///
    /// As above.
    pub fn set_of(&self, space: u64, which: Control, value: u64) -> Result<()> {
        self.set_all_of(space, which, &[value])
    }

    /// Sets those of an address space that begin with `which`.
    ///
    /// # Errors
    ///
    /// As above.
    pub fn set_all_of(&self, space: u64, which: Control, values: &[u64]) -> Result<()> {
        let mut maps = self.maps();
        let Some((map, views)) = &mut maps.views else {
            return bpf::write_range(maps.control.as_fd(), which as u32, values).with_context(
                || format!("failed to set the switch {which:?} of the BPF programs"),
            );
        };
        let view = views.entry(space).or_default();
        let places = view.iter_mut().skip(which as usize);
        for (place, value) in places.zip(values) {
            *place = *value;
        }
        bpf::write(map.as_fd(), &[space], &[*view])
            .with_context(|| format!("failed to set the switch {which:?} of a process"))
    }

    /// A forked child's are those of its parent, as known here.
    ///
    /// # Errors
    ///
    /// As above.
    pub fn fork(&self, parent: u64, child: u64) -> Result<()> {
        let mut maps = self.maps();
        let Some((map, views)) = &mut maps.views else {
            return Ok(());
        };
        let view = views.get(&parent).copied().unwrap_or_default();
        views.insert(child, view);
        bpf::write(map.as_fd(), &[child], &[view]).context("failed to set the switches of a child")
    }

    /// Forgets those of an address space that is gone.
    pub fn forget(&self, space: u64) {
        if let Some((map, views)) = &mut self.maps().views {
            views.remove(&space);
            let _ = bpf::remove(map.as_fd(), &[space]); // it only takes room
        }
    }
}
