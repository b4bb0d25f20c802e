//! The comparison of a report with what a victim says it did: no tolerance, by stack.

use crate::report::{Report, Stack, Totals};
use crate::victim::{Leak, Summary};

/// Panics unless the report says exactly what the victim did: the same totals, the same live bytes
/// and blocks at each expected stack, nothing live anywhere else, and all of that complete.
pub fn assert_exact(summary: &Summary, report: &Report) {
    let mut faults = Vec::new();
    let mut expect = |what: &str, expected: u64, found: u64| {
        if expected != found {
            faults.push(format!("{what}: expected {expected}, found {found}"));
        }
    };

    let totals = &report.totals;
    let leaked = |count: fn(&Leak) -> u64| summary.leaks.iter().map(count).sum();
    expect("live bytes", leaked(|leak| leak.bytes), totals.live_bytes);
    expect("live blocks", leaked(|leak| leak.count), totals.live_count);
    expect(
        "allocated bytes",
        summary.allocated_bytes,
        totals.allocated_bytes,
    );
    expect(
        "allocated blocks",
        summary.allocated_count,
        totals.allocated_count,
    );
    expect("freed bytes", summary.freed_bytes, totals.freed_bytes);
    expect("freed blocks", summary.freed_count, totals.freed_count);
    let unknown = report.evidence.losses.get("unknown_frees").copied();
    expect(
        "frees of blocks from before",
        summary.unknown_frees,
        unknown.unwrap_or(0),
    );

    for leak in &summary.leaks {
        let mut found = Totals::default();
        for stack in report.stacks.iter().filter(|stack| is_at(leak, stack)) {
            found += stack.totals;
        }
        let place = leak.stack.join(" < ");
        expect(&format!("bytes at {place}"), leak.bytes, found.live_bytes);
        expect(&format!("blocks at {place}"), leak.count, found.live_count);
    }
    for stack in &report.stacks {
        let places = summary.leaks.iter().filter(|leak| is_at(leak, stack));
        if stack.totals.live_count > 0 && places.count() != 1 {
            faults.push(format!("live, but not expected: {}", describe(stack)));
        }
    }

    faults.extend(contradictions(report));
    if report.evidence.verdict != "complete" {
        faults.push(format!("the verdict is {:?}", report.evidence));
    }
    assert!(
        faults.is_empty(),
        "the report is not what the victim did:\n  {}\nsummary: {summary:?}\nevidence: {:?}\nstacks:\n  {}",
        faults.join("\n  "),
        report.evidence,
        report
            .stacks
            .iter()
            .map(describe)
            .collect::<Vec<_>>()
            .join("\n  ")
    );
}

/// What in a report cannot be true whatever the target did.
pub fn contradictions(report: &Report) -> Vec<String> {
    let mut faults = Vec::new();
    if report.schema != 1 {
        faults.push(format!("the schema is {}", report.schema));
    }
    let mut sum = Totals::default();
    for stack in &report.stacks {
        sum += stack.totals;
        let totals = &stack.totals;
        if totals.allocated_bytes != totals.live_bytes + totals.freed_bytes
            || totals.allocated_count != totals.live_count + totals.freed_count
        {
            faults.push(format!(
                "allocated is not live and freed: {}",
                describe(stack)
            ));
        }
        let live = totals.live_count > 0;
        if stack.oldest_ns.is_some() != live || stack.newest_ns.is_some() != live {
            faults.push(format!(
                "ages without live blocks, or the other way: {}",
                describe(stack)
            ));
        }
        if stack.oldest_ns < stack.newest_ns || stack.oldest_ns > Some(report.duration_ns) {
            faults.push(format!("impossible ages: {}", describe(stack)));
        }
    }
    if sum != report.totals {
        faults.push(format!(
            "the stacks sum up to {sum:?}, the totals are {:?}",
            report.totals
        ));
    }
    if let Some(peak) = report.peak {
        let at_peak = report.stacks.iter().filter_map(|it| it.at_peak_bytes);
        if at_peak.sum::<u64>() != peak.live_bytes || peak.at_ns > Some(report.duration_ns) {
            faults.push(format!("the stacks do not sum up to {peak:?}"));
        }
    }
    for stack in &report.stacks {
        if stack.at_peak_bytes > stack.peak_bytes {
            faults.push(format!(
                "more at the peak than ever, {:?} and {:?}: {}",
                stack.at_peak_bytes,
                stack.peak_bytes,
                describe(stack)
            ));
        }
    }
    let live = |stack: &Stack| stack.totals.live_bytes;
    if !report
        .stacks
        .is_sorted_by(|one, next| live(one) >= live(next))
    {
        faults.push("the stacks are not sorted by live bytes".to_string());
    }
    faults
}

/// Whether the stack is at the place of the leak.
pub fn is_at(leak: &Leak, stack: &Stack) -> bool {
    let names = stack.names();
    if leak.anywhere {
        names
            .windows(leak.stack.len())
            .any(|part| part == leak.stack)
    } else {
        names.len() >= leak.stack.len() && names[..leak.stack.len()] == leak.stack
    }
}

fn describe(stack: &Stack) -> String {
    format!("{:?} at {}", stack.totals, stack.names().join(" < "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary() -> Summary {
        serde_json::from_str(
            r#"{"victim":"v","leaks":[{"stack":["leak","left"],"bytes":30,"count":2}],
                "allocated_bytes":40,"allocated_count":3,"freed_bytes":10,"freed_count":1}"#,
        )
        .unwrap()
    }

    /// A true report of that, but that the words `from` became `to`.
    fn report(from: &str, to: &str) -> Report {
        let json = r#"{"schema":1,"duration_ns":9,
            "target":{"pid":1,"ns_pid":1,"comm":"v","start_time":1},
            "allocator":{"name":"glibc","path":"/libc.so.6"},
            "totals":{"live_bytes":30,"live_count":2,"allocated_bytes":40,"allocated_count":3,
                "freed_bytes":10,"freed_count":1},
            "evidence":{"verdict":"complete","losses":{},"notes":[]},
            "stacks":[{"live_bytes":30,"live_count":2,"allocated_bytes":40,"allocated_count":3,
                "freed_bytes":10,"freed_count":1,"oldest_ns":5,"newest_ns":4,"frames":[
                {"function":"leak","inlined":false},{"function":"left","inlined":true},
                {"module":"libc.so.6","offset":1,"inlined":false}]}]}"#;
        assert!(json.contains(from), "{from}");
        serde_json::from_str(&json.replace(from, to)).unwrap()
    }

    #[test]
    fn the_truth_passes() {
        assert_exact(&summary(), &report("v", "v"));
    }

    #[test]
    fn every_lie_is_found() {
        for (from, to) in [
            (r#""schema":1"#, r#""schema":2"#),
            (
                r#""totals":{"live_bytes":30"#,
                r#""totals":{"live_bytes":31"#,
            ),
            (r#""live_count":2"#, r#""live_count":3"#),
            (r#""allocated_bytes":40"#, r#""allocated_bytes":41"#),
            (r#""freed_count":1"#, r#""freed_count":2"#),
            (r#""function":"left""#, r#""function":"right""#),
            (r#""function":"leak""#, r#""offset":7"#),
            (r#""oldest_ns":5,"#, ""),
            (r#""oldest_ns":5"#, r#""oldest_ns":3"#),
            (r#""oldest_ns":5"#, r#""oldest_ns":50"#),
            ("complete", "partial"),
            (r#""losses":{}"#, r#""losses":{"unknown_frees":1}"#),
        ] {
            let lie = std::panic::catch_unwind(|| assert_exact(&summary(), &report(from, to)));
            assert!(lie.is_err(), "not found: {to}");
        }
    }

    #[test]
    fn names_may_stand_anywhere_only_when_said() {
        let mut leak = summary().leaks.remove(0);
        let stack = &report(
            r#"{"function":"leak""#,
            r#"{"function":"std::alloc","inlined":false},{"function":"leak""#,
        )
        .stacks[0];
        assert!(!is_at(&leak, stack));
        leak.anywhere = true;
        assert!(is_at(&leak, stack));
    }
}
