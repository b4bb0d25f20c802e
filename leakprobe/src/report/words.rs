//! Phrases that several formats share: what a frame is called, who the target is, what was lost.

use super::escape::{shorten, visible};
use super::human;
use crate::analyze::rank::Rank;
use crate::overhead::Overhead;
use crate::sampling::Interval;
use crate::snapshot::counts::Count;
use crate::snapshot::{Completeness, Evidence, Mapped};
use crate::symbolize::{Frame, Profile, Sampling, Stack};
use crate::target::{AllocatorInfo, TargetInfo};

/// What things are called.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// What is there.
    pub live: &'static str,
    /// What has come.
    pub allocated: &'static str,
    /// What of that has gone.
    pub freed: &'static str,
    /// What is counted.
    pub block: &'static str,
    /// More than one.
    pub blocks: &'static str,
}

const OF_THE_HEAP: Terms = Terms {
    live: "live",
    allocated: "allocated",
    freed: "freed",
    block: "block",
    blocks: "blocks",
};

const OF_GROWTH: Terms = Terms {
    live: "resident",
    allocated: "faulted",
    freed: "gone",
    block: "page",
    blocks: "pages",
};

/// What follows an allocator if others are probed: ` and glibc`.
pub fn other_allocators(others: &[AllocatorInfo]) -> String {
    match others {
        [] => String::new(),
        [other] => format!(" and {}", shorten(&visible(&other.name), 30)),
        _ => format!(" and {} others", others.len()),
    }
}

impl Terms {
    /// Those of a recording.
    pub fn of(profile: &Profile) -> Self {
        match profile.growth {
            None => OF_THE_HEAP,
            Some(_) => OF_GROWTH,
        }
    }

    /// A count of blocks: `1 block`, `10,240 blocks`.
    pub fn count(&self, count: u64) -> String {
        format!("{} {}", human::count(count), self.unit(count))
    }

    /// The word after a count.
    pub fn unit(&self, count: u64) -> &'static str {
        match count {
            1 => self.block,
            _ => self.blocks,
        }
    }
}

/// What stands for a name that is not known.
pub const UNKNOWN: &str = "[unknown]";

/// What a frame is called: its function, else where it is. Safe to print.
pub fn frame(frame: &Frame) -> String {
    match frame.function.as_deref().map(str::trim) {
        Some(function) if !function.is_empty() => visible(function).into_owned(),
        _ => location(frame).unwrap_or_else(|| UNKNOWN.to_string()),
    }
}

/// What stands where a stack is unfinished, below its outermost frame.
pub fn end(stack: &Stack) -> Option<String> {
    stack.end.map(unfinished)
}

/// The same of a reason.
pub fn unfinished(end: &str) -> String {
    format!("[unfinished: {}]", end.replace('_', " "))
}

/// Where a frame is: `module+0xoffset`. Safe to print.
pub fn location(frame: &Frame) -> Option<String> {
    let module = visible(frame.module.as_deref()?.trim());
    match frame.offset {
        Some(offset) => Some(format!("{module}+{offset:#x}")),
        None => Some(module.into_owned()),
    }
}

/// The name of the process. Safe to print.
pub fn comm(target: &TargetInfo) -> String {
    match target.comm.trim() {
        "" => UNKNOWN.to_string(),
        comm => shorten(&visible(comm), 64).into_owned(),
    }
}

/// `pid 1234`, and the other one where the process sees another.
pub fn pid(target: &TargetInfo) -> String {
    match target {
        TargetInfo { pid, ns_pid, .. } if pid != ns_pid => {
            format!("pid {pid} ({ns_pid} in its own namespace)")
        }
        TargetInfo { pid, .. } => format!("pid {pid}"),
    }
}

/// `docker container web (60fac30309e9), pod shop-5d9 in namespace prod`. Safe to print.
pub fn container(target: &TargetInfo) -> Option<String> {
    let it = target.container.as_ref()?;
    let safe = |text: &str| shorten(&visible(text), 64).into_owned();
    let runtime = it.runtime.as_deref().map(safe);
    let runtime = runtime.map_or(String::new(), |runtime| format!("{runtime} "));
    let id = safe(it.short_id());
    let name = match &it.name {
        Some(name) => format!("{} ({id})", safe(name)),
        None => id,
    };
    let pod = match (&it.pod_name, &it.pod_uid) {
        (Some(name), _) => format!(", pod {}", safe(name)),
        (None, Some(uid)) => format!(", pod {}", safe(uid)),
        (None, None) => String::new(),
    };
    let namespace = it.namespace.as_deref().map(safe);
    let namespace = namespace.map_or(String::new(), |it| format!(" in namespace {it}"));
    Some(format!("{runtime}container {name}{pod}{namespace}"))
}

/// Live bytes and blocks.
pub fn live(profile: &Profile) -> String {
    let terms = Terms::of(profile);
    format!(
        "{}{} {} in {}{}",
        human::bytes(profile.totals.live_bytes),
        between(profile.interval.as_ref()),
        terms.live,
        about(profile),
        terms.count(profile.totals.live_count)
    )
}

/// Of a sample, what it is one of.
pub fn sampled(profile: &Profile) -> Option<String> {
    if let Some(growth) = profile.growth {
        let pages = growth.sample_pages;
        return (pages > 1).then(|| format!("one page in {pages}"));
    }
    let Sampling {
        sample_bytes,
        changed,
    } = profile.sampling?;
    let rate = human::round_bytes(sample_bytes);
    let changed = match changed {
        true => ", at the end (the notes say when it changed)",
        false => "",
    };
    Some(format!("one allocation per {rate}{changed}"))
}

/// What was recorded, if not the heap.
pub fn growth(profile: &Profile) -> Option<String> {
    let growth = profile.growth?;
    Some(format!(
        "GROWTH: memory that the kernel gave it since the attach, by the stack of the page fault; its \
         own memory was {} then and is {} now",
        human::bytes(growth.own_bytes_before),
        human::bytes(growth.own_bytes),
    ))
}

/// What is mapped, which is not memory.
pub fn mapped(mapped: Option<Mapped>) -> Option<String> {
    let Mapped { bytes, count } = mapped.filter(|mapped| mapped.count > 0)?;
    let calls = if count == 1 { "call" } else { "calls" };
    Some(format!(
        "mapped {} by {} {calls} (addresses, not memory)",
        human::bytes(bytes),
        human::count(count)
    ))
}

/// What the recording has cost, and which functions have.
pub fn overhead(profile: &Profile) -> Option<String> {
    let &Overhead {
        percent,
        cpu_ns,
        handler_ns,
        trap_ns,
        ref functions,
        ..
    } = profile.overhead.as_ref()?;
    let percent = match percent {
        0 => "less than 1".to_owned(),
        percent => percent.to_string(),
    };
    let cpu = human::duration(cpu_ns);
    let all = u128::from(handler_ns) + u128::from(trap_ns);
    let shares: Vec<String> = functions
        .iter()
        .map(|it| (it.function, u128::from(it.overhead_ns) * 100 / all.max(1)))
        .filter(|&(_, share)| share > 0)
        .map(|(function, share)| format!("{function} {share} %"))
        .collect();
    let shares = match shares.is_empty() {
        true => String::new(),
        false => format!("; of that {}", shares.join(", ")),
    };
    Some(format!(
        "overhead {percent} % of its {cpu} of CPU time (estimated{shares})"
    ))
}

/// The interval of live bytes, after their estimate: ` (1.5 to 2.0 MiB)`.
pub fn between(interval: Option<&Interval>) -> String {
    match interval {
        Some(Interval { live_bytes, .. }) => format!(" ({})", human::bytes_between(*live_bytes)),
        None => String::new(),
    }
}

/// The most that all stacks had live: bytes, and when.
pub fn peak(profile: &Profile) -> Option<(u64, String)> {
    let peak = profile.peak?;
    let at = human::duration(peak.at_ns?);
    let is_ranked = profile.sorted_by == Rank::Peak;
    let how = match is_much_more(peak.live_bytes, profile.totals.live_bytes) && !is_ranked {
        true => " (`--sort peak` tells of what)",
        false => "",
    };
    Some((peak.live_bytes, format!("after {at}{how}")))
}

/// Whether a peak is half as much again as what is live, and more by so much that it matters.
fn is_much_more(peak: u64, live: u64) -> bool {
    /// More than a processor keeps to itself (`leakprobe_common::PEAK_GRAIN`).
    const MATTERS: u64 = 128 << 10;
    let more = peak.saturating_sub(live);
    more >= MATTERS && more >= live / 2
}

/// What a stack had live at the most, if that is much more than now.
pub fn peak_of(stack: &Stack) -> Option<String> {
    let peak = stack.peak?;
    is_much_more(peak.peak_bytes, stack.totals.live_bytes).then(|| {
        format!(
            "peak {}; {} at the peak of all",
            human::bytes(peak.peak_bytes),
            human::bytes(peak.at_peak_bytes)
        )
    })
}

/// What of the live bytes may be gone, if the probes were not always there to see it.
pub fn unconfirmed(profile: &Profile) -> Option<String> {
    let unconfirmed = profile.unconfirmed?;
    let budget = profile.budget.as_ref()?;
    Some(format!(
        "of that, {} in {} unconfirmed: the probes were there for {} % of the work, {} times",
        human::bytes(unconfirmed.unconfirmed_bytes),
        human::blocks(unconfirmed.unconfirmed_count),
        budget.seen_percent,
        human::count(budget.windows),
    ))
}

/// Before a count of blocks, of which a sample tells less than of bytes.
pub fn about(profile: &Profile) -> &'static str {
    match sampled(profile) {
        Some(_) => "about ",
        None => "",
    }
}

/// Why there is nothing to show, when no byte is live.
pub fn nothing_live(profile: &Profile) -> &'static str {
    let totals = &profile.totals;
    let partial = profile.evidence.verdict == Completeness::Partial;
    if profile.growth.is_some() {
        return match (totals.allocated_count, partial) {
            (_, true) => "nothing resident of what was recorded, but not all was recorded",
            (0, false) => "nothing resident: no page was recorded",
            (_, false) => "nothing resident: every page that was recorded has gone",
        };
    }
    if totals.live_count > 0 {
        "nothing live but blocks of zero bytes"
    } else if profile.sampling.is_some() {
        "nothing live in the sample: no stack, or only such that hold little"
    } else if totals.freed_count < totals.allocated_count {
        "nothing live: no block that is not freed passes the filter"
    } else if totals.allocated_count == 0 && !partial {
        "nothing live: nothing was allocated while recording"
    } else if partial {
        "nothing live: every block that was recorded was freed, but not all were recorded"
    } else {
        "nothing live: every block allocated while recording was freed"
    }
}

/// A counter above zero.
pub struct Loss<'a> {
    /// Its name.
    pub name: String,
    /// Its count.
    pub count: u64,
    /// One sentence that says what is counted; empty for a counter that is not known here.
    pub meaning: &'a str,
    /// Whether it makes the result partial.
    pub is_loss: bool,
}

/// All counters above zero, those that make the result partial first.
pub fn losses(evidence: &Evidence) -> Vec<Loss<'_>> {
    let mut losses: Vec<_> = evidence
        .losses
        .iter()
        .map(|(name, &count)| {
            let known = Count::find(name);
            Loss {
                name: visible(name).into_owned(),
                count,
                meaning: known.map_or("", |known| known.meaning),
                // Better one warning too many than one too few.
                is_loss: known.is_none_or(|known| known.is_loss),
            }
        })
        .collect();
    losses.sort_by_key(|loss| !loss.is_loss);
    losses
}
