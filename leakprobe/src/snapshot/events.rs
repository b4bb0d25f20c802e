//! Records of the ring buffer, as plain data.

use leakprobe_common::{EventKind, ExecEvent, STACK_END_SHIFT, StackEnd, StackKey};

/// What the kernel side announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A stack was seen for the first time.
    Stack {
        /// Its totals are under this key.
        key: StackKey,
        /// Return addresses, leaf first, with the marks of [`leakprobe_common::StackEvent::frames`].
        addresses: Vec<u64>,
        /// Why it ends where it ends.
        end: StackEnd,
    },
    /// The target executed another program.
    Exec {
        /// Number of the new address space.
        space: u64,
        /// Whether its main thread did it.
        by_main_thread: bool,
    },
}

impl Event {
    /// Reads a record; `None` if it is none of ours.
    pub fn parse(record: &[u8]) -> Option<Self> {
        let word = |index: usize| {
            let bytes = record.get(index * 8..index * 8 + 8)?;
            Some(u64::from_ne_bytes(bytes.try_into().ok()?))
        };
        match word(0)? {
            kind if kind == EventKind::Stack as u64 => {
                let len = word(3)?;
                let end = *StackEnd::ALL.get((len >> STACK_END_SHIFT) as usize)?;
                let addresses = (0..len as u32 as usize)
                    .map(|frame| word(4 + frame))
                    .collect::<Option<Vec<_>>>()?;
                let key = StackKey {
                    id: word(1)?,
                    space: word(2)?,
                };
                Some(Event::Stack {
                    key,
                    addresses,
                    end,
                })
            }
            kind if kind == EventKind::Exec as u64 && record.len() >= size_of::<ExecEvent>() => {
                Some(Event::Exec {
                    space: word(1)?,
                    by_main_thread: word(2)? == 1,
                })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use leakprobe_common::{MAX_FRAMES, StackEvent};

    use super::*;

    #[test]
    fn a_stack_record_is_read_back() {
        let mut event = StackEvent {
            kind: EventKind::Stack as u64,
            key: StackKey { id: 7, space: 1 },
            len: 2 | (StackEnd::NoRow as u64) << STACK_END_SHIFT,
            frames: [0; MAX_FRAMES + 1],
        };
        event.frames[..2].copy_from_slice(&[0x10, 0x20]);
        // SAFETY: the type is plain data without padding.
        let bytes =
            unsafe { std::slice::from_raw_parts((&raw const event).cast::<u8>(), 32 + 2 * 8) };
        let read = Event::parse(bytes).unwrap();
        let expected = Event::Stack {
            key: StackKey { id: 7, space: 1 },
            addresses: vec![0x10, 0x20],
            end: StackEnd::NoRow,
        };
        assert_eq!(read, expected);
    }

    #[test]
    fn a_short_record_is_none() {
        for len in 0..24 {
            assert_eq!(Event::parse(&vec![1; len]), None);
        }
    }
}
