//! What the figures mean: the verdict, growth, peaks, and what was left out as known.

use serde::Deserialize;

use super::Frame;

/// How live bytes have changed.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct LiveGrowth {
    /// How fast; `None` if too little was seen.
    pub bytes_per_second: Option<f64>,
    /// Not less than this.
    pub low: Option<f64>,
    /// Not more than this.
    pub high: Option<f64>,
    /// `growing`, `levelled_off`, `flat` or `unknown`.
    pub trend: String,
}

/// Known stacks that were left out.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Suppressed {
    /// How many.
    pub stacks: u64,
    /// Live bytes of theirs.
    pub live_bytes: u64,
    /// Live blocks of theirs.
    pub live_count: u64,
    /// By rule.
    pub rules: Vec<RuleUse>,
}

/// What a rule has left out.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct RuleUse {
    /// As it was written.
    pub rule: String,
    /// How many stacks.
    pub stacks: u64,
    /// Live bytes of theirs.
    pub live_bytes: u64,
}

/// The most that was live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Peak {
    /// Bytes.
    pub live_bytes: u64,
    /// Nanoseconds after the start of the recording.
    pub at_ns: Option<u64>,
}

/// What becomes of the memory.
#[derive(Clone, Debug, Deserialize)]
pub struct Verdict {
    /// `leak`, `retained_by_allocator`, `runtime_heap`, `peak`, `steady` or `not_enough_evidence`.
    pub kind: String,
    /// `low`, `medium` or `high`.
    pub confidence: String,
    /// Stacks that leak.
    #[serde(default)]
    pub stacks: Vec<Suspect>,
    /// How many there are.
    pub leaking_stacks: u64,
    /// Whether it is of mappings.
    pub is_mapped: bool,
    /// Of a runtime's heap: `v8`, `jvm` or `metaspace`.
    pub runtime: Option<String>,
    /// Seconds until the control group's limit is reached.
    pub seconds_until_limit: Option<f64>,
}

/// A stack that leaks.
#[derive(Clone, Debug, Deserialize)]
pub struct Suspect {
    /// Its frames, leaf first.
    pub frames: Vec<Frame>,
    /// Bytes.
    pub live_bytes: u64,
}
