//! Records of the ring buffer, as plain data.

use leakprobe_common::{
    EventKind, ExecEvent, ExitEvent, ForkEvent, MappingEvent, ProcessState, STACK_END_SHIFT,
    StackEnd, StackKey,
};

/// What the kernel side announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A stack was seen for the first time.
    Stack {
        /// Its totals are under this key.
        key: StackKey,
        /// In which address space.
        space: u64,
        /// Return addresses, leaf first, with the marks of [`leakprobe_common::StackEvent::frames`].
        addresses: Vec<u64>,
        /// Why it ends where it ends.
        end: StackEnd,
    },
    /// A process executed another program.
    Exec {
        /// Number of the new address space, and of the new program.
        space: u64,
        /// Whether its main thread did it.
        by_main_thread: bool,
        /// The process before; if it is the only one, its address space alone.
        before: ProcessState,
    },
    /// A system call maps or unmaps memory.
    Mapping(Box<MappingEvent>),
    /// A process was forked.
    Fork(ProcessState),
    /// A process has ended.
    Exit {
        /// How it was in the end; if it is the only one, its PID and address space alone.
        process: ProcessState,
        /// How it ended: as `wait` tells it.
        status: u32,
        /// When ([`super::now`]).
        time: u64,
    },
}

impl Event {
    /// Reads a record; `None` if it is none of ours.
    pub fn parse(record: &[u8]) -> Option<Self> {
        let word = |index: usize| {
            let bytes = record.get(index * 8..index * 8 + 8)?;
            Some(u64::from_ne_bytes(bytes.try_into().ok()?))
        };
        let process = |first: usize| {
            let mut words = [0; WORDS];
            for (index, place) in words.iter_mut().enumerate() {
                *place = word(first + index)?;
            }
            // SAFETY: the structure is as many words, without padding.
            Some(unsafe { std::mem::transmute::<[u64; WORDS], ProcessState>(words) })
        };
        match word(0)? {
            kind if kind == EventKind::Stack as u64 => {
                let len = word(4)?;
                let end = *StackEnd::ALL.get((len >> STACK_END_SHIFT) as usize)?;
                let addresses = (0..len as u32 as usize)
                    .map(|frame| word(5 + frame))
                    .collect::<Option<Vec<_>>>()?;
                let key = StackKey {
                    id: word(1)?,
                    program: word(2)?,
                };
                Some(Event::Stack {
                    key,
                    space: word(3)?,
                    addresses,
                    end,
                })
            }
            kind if kind == EventKind::Exec as u64 && record.len() >= size_of::<ExecEvent>() => {
                Some(Event::Exec {
                    space: word(1)?,
                    by_main_thread: word(2)? == 1,
                    before: process(3)?,
                })
            }
            kind if kind == EventKind::Mapping as u64 => {
                let mut words = [0; MAPPING_WORDS];
                for (index, place) in words.iter_mut().enumerate() {
                    *place = word(index)?;
                }
                // SAFETY: the structure is as many words, without padding.
                let event =
                    unsafe { std::mem::transmute::<[u64; MAPPING_WORDS], MappingEvent>(words) };
                Some(Event::Mapping(Box::new(event)))
            }
            kind if kind == EventKind::Fork as u64 && record.len() >= size_of::<ForkEvent>() => {
                Some(Event::Fork(process(1)?))
            }
            kind if kind == EventKind::Exit as u64 && record.len() >= size_of::<ExitEvent>() => {
                Some(Event::Exit {
                    status: word(1)? as u32,
                    time: word(2)?,
                    process: process(3)?,
                })
            }
            _ => None,
        }
    }
}

const MAPPING_WORDS: usize = size_of::<MappingEvent>() / size_of::<u64>();
const WORDS: usize = size_of::<ProcessState>() / size_of::<u64>();

#[cfg(test)]
mod tests {
    use leakprobe_common::{MAX_FRAMES, StackEvent};

    use super::*;

    #[test]
    fn a_stack_record_is_read_back() {
        let mut event = StackEvent {
            kind: EventKind::Stack as u64,
            key: StackKey { id: 7, program: 1 },
            space: 2,
            len: 2 | (StackEnd::NoRow as u64) << STACK_END_SHIFT,
            frames: [0; MAX_FRAMES + 1],
        };
        event.frames[..2].copy_from_slice(&[0x10, 0x20]);
        // SAFETY: the type is plain data without padding.
        let bytes =
            unsafe { std::slice::from_raw_parts((&raw const event).cast::<u8>(), 40 + 2 * 8) };
        let read = Event::parse(bytes).unwrap();
        let expected = Event::Stack {
            key: StackKey { id: 7, program: 1 },
            space: 2,
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
