//! Rules made of the code next to those that the object's unwind information holds.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use leakprobe::unwind::synth::{Code, rows};
use leakprobe::unwind::{FpRule, NONE, Rule, RuleAt, RuleKind, UNSUPPORTED};

use crate::oracle::{Place, Subject};

/// How the two compare at some instructions.
#[derive(Debug, Default)]
pub struct Count {
    pub all: usize,
    pub equal: usize,
    /// The frame pointer is known to be saved, where the unwind information still finds it in its
    /// register, or the other way round: both are right between the push and the next write.
    pub alike: usize,
    /// Ours counts from the frame pointer, theirs from the stack pointer, or the other way round.
    pub other_register: usize,
    pub fp_lost: usize,
    pub unsupported: usize,
    pub none: usize,
    /// Theirs is of a kind that cannot be compared.
    pub theirs: usize,
    pub wrong: usize,
}

#[derive(Debug, Default)]
pub struct Report {
    pub calls: Count,
    pub places: Count,
    pub rows: usize,
    pub time: Duration,
    /// What is not equal at calls, and what is wrong anywhere, in order.
    pub differences: Vec<(u64, &'static str, Rule, Rule)>,
    /// Where the calls are.
    call_places: BTreeSet<u64>,
}

impl Report {
    /// Whether a call is there.
    pub fn is_call(&self, address: u64) -> bool {
        self.call_places.contains(&address)
    }
}

/// What `synth` makes of an object's code, and how long it takes.
pub fn synthesize(subject: &Subject<'_>) -> (Vec<RuleAt>, Duration) {
    let (gaps, functions) = (subject.code(), subject.functions());
    let pointers = subject.pointers();
    let read = |range| subject.read(range);
    let code = Code {
        read: &read,
        gaps: &gaps,
        functions: &functions,
        entry: object::Object::entry(&subject.file),
        pointers: &pointers,
        framed: &[],
    };
    let start = Instant::now();
    let rows = rows(&code);
    (rows, start.elapsed())
}

/// Compares all instructions.
pub fn compare(data: &[u8]) -> Report {
    let subject = Subject::new(data);
    let (rows, time) = synthesize(&subject);
    let mut report = Report {
        time,
        rows: rows.len(),
        ..Default::default()
    };
    for (address, place) in subject.places() {
        add(&mut report, &rows, address, &place);
    }
    report
}

/// The rule for an address.
pub fn rule_at(rows: &[RuleAt], address: u64) -> Rule {
    let after = rows.partition_point(|row| row.address <= address);
    after.checked_sub(1).map_or(NONE, |index| rows[index].rule)
}

fn add(report: &mut Report, rows: &[RuleAt], address: u64, place: &Place) {
    let ours = rule_at(rows, address);
    let difference = difference(ours, place.rule);
    if place.is_call {
        report.call_places.insert(address);
    }
    for count in [
        Some(&mut report.places),
        place.is_call.then_some(&mut report.calls),
    ] {
        let Some(count) = count else { continue };
        count.all += 1;
        *match difference {
            "equal" => &mut count.equal,
            "alike" => &mut count.alike,
            "other register" => &mut count.other_register,
            "fp lost" => &mut count.fp_lost,
            "unsupported" => &mut count.unsupported,
            "none" => &mut count.none,
            "theirs" => &mut count.theirs,
            _ => &mut count.wrong,
        } += 1;
    }
    if difference != "equal" && (place.is_call || difference == "wrong") {
        report
            .differences
            .push((address, difference, ours, place.rule));
    }
}

fn difference(ours: Rule, theirs: Rule) -> &'static str {
    let fp = |rule: Rule| rule.fp & 15;
    let is_cfa = |rule: Rule| rule.kind == RuleKind::Sp as u8 || rule.kind == RuleKind::Fp as u8;
    if ours == theirs {
        "equal"
    } else if theirs == UNSUPPORTED {
        "theirs"
    } else if ours == UNSUPPORTED {
        "unsupported"
    } else if ours == NONE {
        "none"
    } else if ours.kind == theirs.kind
        && ours.cfa_offset == theirs.cfa_offset
        && ours.fp & 0xf0 == theirs.fp & 0xf0
    {
        let same = |rule| fp(rule) == FpRule::Same as u8;
        if fp(ours) == FpRule::Lost as u8 {
            "fp lost"
        } else if same(ours) || same(theirs) {
            "alike"
        } else {
            "wrong"
        }
    } else if is_cfa(ours) && is_cfa(theirs) && ours.kind != theirs.kind {
        "other register"
    } else {
        "wrong"
    }
}
