//! What is counted besides bytes and blocks, under one roof: the kernel side's counters and the
//! few that only the user side can know.

use leakprobe_common::Counter;

/// A named count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// Name in reports.
    pub name: &'static str,
    /// Whether a count above zero makes a result partial.
    pub is_loss: bool,
    /// One phrase that says what is counted.
    pub meaning: &'static str,
}

/// Blocks on record that their stack's totals do not know, or the other way round.
pub const UNBALANCED_BLOCKS: Count = Count {
    name: "unbalanced_blocks",
    is_loss: true,
    meaning: "blocks on record that the totals by stack do not know, or the other way round",
};

/// Stacks whose frames never arrived.
pub const STACKS_WITHOUT_FRAMES: Count = Count {
    name: "stacks_without_frames",
    is_loss: true,
    meaning: "stacks whose frames did not arrive; their bytes and blocks are right",
};

/// Modules of the target for whose code no unwind table could be made, or only a part of it.
pub const MODULES_NOT_UNWOUND: Count = Count {
    name: "modules_not_unwound",
    is_loss: false,
    meaning: "modules through whose code stacks cannot be followed (the notes say why)",
};

/// Updates of the kernel side's unwind tables that failed.
pub const UNWIND_TABLES_NOT_UPDATED: Count = Count {
    name: "unwind_tables_not_updated",
    is_loss: true,
    meaning: "failed updates of the unwind tables: stacks may end early or be wrong (the notes say why)",
};

/// Programs executed by the target that could not be probed from their first instruction.
pub const EXEC_GAP: Count = Count {
    name: "exec_gap",
    is_loss: true,
    meaning: "executed programs whose first allocator calls were missed",
};

/// Programs executed by the target in which no allocator was found.
pub const PROGRAM_WITHOUT_ALLOCATOR: Count = Count {
    name: "program_without_allocator",
    is_loss: true,
    meaning: "executed programs in which no allocator was found",
};

/// Records of the ring buffer that are none of ours.
pub const UNREADABLE_EVENTS: Count = Count {
    name: "unreadable_events",
    is_loss: true,
    meaning: "records of the kernel side that could not be understood",
};

/// The allocator has an operator new of its own, which is not probed.
pub const OPERATORS_NOT_PROBED: Count = Count {
    name: "operators_not_probed",
    is_loss: true,
    meaning: "allocators whose own operator new and delete are not probed: blocks of C++ are missing",
};

/// Growth mode: memory that came by itself.
pub const PAGES_WITHOUT_FAULT: Count = Count {
    name: "pages_without_fault",
    is_loss: true,
    meaning: "pages that came without a fault, which no stack has (locked or populated memory, huge pages made of small ones)",
};

/// Growth mode: this kernel cannot run programs at the end of system calls.
pub const RANGES_NOT_RECORDED: Count = Count {
    name: "ranges_not_recorded",
    is_loss: false,
    meaning: "kernels that do not tell of brk and mmap (the notes say why)",
};

/// The probes were taken away to keep the overhead within its budget.
pub const PROBES_AWAY: Count = Count {
    name: "probes_away",
    is_loss: true,
    meaning: "times the probes were taken away to keep the budget: what was freed meanwhile is not known",
};

const OF_THE_USER_SIDE: [Count; 11] = [
    UNBALANCED_BLOCKS,
    STACKS_WITHOUT_FRAMES,
    MODULES_NOT_UNWOUND,
    UNWIND_TABLES_NOT_UPDATED,
    EXEC_GAP,
    PROGRAM_WITHOUT_ALLOCATOR,
    UNREADABLE_EVENTS,
    OPERATORS_NOT_PROBED,
    PAGES_WITHOUT_FAULT,
    RANGES_NOT_RECORDED,
    PROBES_AWAY,
];

impl From<Counter> for Count {
    fn from(counter: Counter) -> Self {
        Self {
            name: counter.name(),
            is_loss: counter.is_loss(),
            meaning: counter.meaning(),
        }
    }
}

impl Count {
    /// All counts, the kernel side's first.
    pub fn all() -> impl Iterator<Item = Count> {
        Counter::ALL
            .iter()
            .map(|&counter| Count::from(counter))
            .chain(OF_THE_USER_SIDE)
    }

    /// The count of a name.
    pub fn find(name: &str) -> Option<Count> {
        Self::all().find(|count| count.name == name)
    }
}
