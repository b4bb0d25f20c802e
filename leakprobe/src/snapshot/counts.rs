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

/// Stacks that there was no room to follow over time.
pub const STACKS_NOT_FOLLOWED: Count = Count {
    name: "stacks_not_followed",
    is_loss: false,
    meaning: "stacks whose growth is not known: there were more than are followed, and these held the least",
};

/// Frames of the reported stacks that are in no known module.
pub const FRAMES_WITHOUT_MODULE: Count = Count {
    name: "frames_without_module",
    is_loss: false,
    meaning: "frames where nothing was mapped any more when that was looked up: they have no names",
};

/// Frames of the reported stacks that have a module and no name.
pub const FRAMES_WITHOUT_SYMBOL: Count = Count {
    name: "frames_without_symbol",
    is_loss: false,
    meaning: "frames for which their modules have no symbols: they are told by module and offset",
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
    meaning: "executed programs whose first allocator calls were missed, or all of a short one",
};

/// Forked children that were without probes for a time.
pub const FORK_GAP: Count = Count {
    name: "fork_gap",
    is_loss: true,
    meaning: "forked children whose first allocator calls may have been missed",
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

/// Allocators that were loaded by a program that runs.
pub const LATE_ALLOCATORS: Count = Count {
    name: "late_allocators",
    is_loss: true,
    meaning: "allocators that were loaded while recording, whose first calls were missed",
};

/// Allocators that could not be probed, beside others.
pub const ALLOCATORS_NOT_PROBED: Count = Count {
    name: "allocators_not_probed",
    is_loss: true,
    meaning: "objects that define malloc beside the allocator and could not be probed: blocks of theirs are missing",
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

/// Growth mode: pages that move are not followed.
pub const MOVES_NOT_FOLLOWED: Count = Count {
    name: "moves_not_followed",
    is_loss: false,
    meaning: "objects whose mremap is not followed: what it moves counts as gone, and as pages_without_fault (the notes say why)",
};

/// System calls that map memory are not followed.
pub const MAPPINGS_NOT_PROBED: Count = Count {
    name: "mappings_not_probed",
    is_loss: false,
    meaning: "reasons why what is mapped is not, or not all, told by stack: of many processes it is not (docs/mappings.md)",
};

/// Memory that no system call is known to have mapped.
pub const MAPPINGS_UNEXPLAINED: Count = Count {
    name: "mappings_unexplained",
    is_loss: false,
    meaning: "pages of memory that was mapped since the attach by calls that were not seen",
};

/// Memory that was thought to be mapped.
pub const MAPPINGS_GONE: Count = Count {
    name: "mappings_gone",
    is_loss: false,
    meaning: "pages that were unmapped by calls that were not seen, and left out at the end",
};

/// The probes were taken away to keep the overhead within its budget.
pub const PROBES_AWAY: Count = Count {
    name: "probes_away",
    is_loss: true,
    meaning: "times the probes were taken away to keep the budget: what was freed meanwhile is not known",
};

const OF_THE_USER_SIDE: [Count; 21] = [
    UNBALANCED_BLOCKS,
    STACKS_WITHOUT_FRAMES,
    STACKS_NOT_FOLLOWED,
    FRAMES_WITHOUT_MODULE,
    FRAMES_WITHOUT_SYMBOL,
    MODULES_NOT_UNWOUND,
    UNWIND_TABLES_NOT_UPDATED,
    EXEC_GAP,
    FORK_GAP,
    PROGRAM_WITHOUT_ALLOCATOR,
    UNREADABLE_EVENTS,
    OPERATORS_NOT_PROBED,
    LATE_ALLOCATORS,
    ALLOCATORS_NOT_PROBED,
    PAGES_WITHOUT_FAULT,
    RANGES_NOT_RECORDED,
    MOVES_NOT_FOLLOWED,
    MAPPINGS_NOT_PROBED,
    MAPPINGS_UNEXPLAINED,
    MAPPINGS_GONE,
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
