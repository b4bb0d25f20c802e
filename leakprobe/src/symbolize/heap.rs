//! The allocator's own state with the names of the stacks whose blocks keep free memory from going back.

use leakprobe_common::StackKey;
use serde::Serialize;

use super::profile::frames;
use super::{Frame, Names};
use crate::snapshot::{Snapshot, Stacks};
use crate::target::heaps::{HeapState, Pin};

/// What the allocator has and keeps (docs/allocator-state.md).
#[derive(Clone, Debug, Serialize)]
pub struct HeapReport {
    /// By its books.
    #[serde(flatten)]
    pub state: HeapState,
    /// The stacks whose blocks keep free memory from going back, most resident bytes first.
    pub pins: Vec<NamedPin>,
}

/// A stack whose blocks do that.
#[derive(Clone, Debug, Serialize)]
pub struct NamedPin {
    /// How much, and how many blocks do it.
    #[serde(flatten)]
    pub pin: Pin,
    /// Its frames, leaf first; none of blocks that are not on record.
    pub frames: Vec<Frame>,
}

/// Names the stacks.
pub(super) fn heap(
    state: HeapState,
    snapshot: &Snapshot,
    stacks: &Stacks,
    names: &mut Names,
) -> HeapReport {
    let keys: Vec<Option<StackKey>> = state
        .pins
        .iter()
        .map(|pin| {
            let mut known = snapshot.stacks.iter().map(|stack| stack.key);
            known.find(|key| Some(key.id) == pin.stack)
        })
        .collect();
    let traces = keys.iter().flatten().filter_map(|key| stacks.get(key));
    names.learn(traces.flat_map(|trace| &*trace.frames));
    let pins = state.pins.iter().zip(keys).map(|(&pin, key)| NamedPin {
        pin,
        frames: key.map_or(Vec::new(), |key| frames(&key, stacks, names)),
    });
    HeapReport {
        pins: pins.collect(),
        state,
    }
}
