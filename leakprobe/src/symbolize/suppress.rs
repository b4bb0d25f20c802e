//! Stacks that somebody has looked at and wants to hear no more of: one rule a line, in a file. They are left
//! out of what is ranked and judged, and counted, so that nobody is led to believe that they were not there.
//!
//! `leak:` rules mean what they mean to LeakSanitizer, so that its files can be used.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use regex::{Regex, RegexBuilder};
use serde::Serialize;

use super::Frame;
use crate::snapshot::Totals;

/// Bytes that a compiled expression may take; the crate's own default is ten times that.
const MOST_BYTES: usize = 1 << 20;

/// Rules; none by default.
#[derive(Debug, Default)]
pub struct Suppressions {
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    text: String,
    pattern: Pattern,
}

#[derive(Debug)]
enum Pattern {
    /// The whole name, with or without its arguments.
    Function(String),
    /// File name or whole path of the object that the code is in.
    Module(String),
    /// Anywhere in the function's name.
    Regex(Regex),
    /// Anywhere in the function's name, the module's path or the source file's.
    Leak(Regex),
}

/// What was left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Suppressed {
    /// Stacks.
    pub stacks: u64,
    /// Bytes live in them.
    pub live_bytes: u64,
    /// Blocks live in them.
    pub live_count: u64,
    /// By rule, all rules there are in their order; a stack counts for the first that matches.
    pub rules: Vec<RuleUse>,
}

/// What a rule has left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleUse {
    /// As it was written.
    pub rule: String,
    /// Stacks; 0 if it was not needed.
    pub stacks: u64,
    /// Bytes live in them.
    pub live_bytes: u64,
}

impl Suppressions {
    /// Reads the rules of a file.
    ///
    /// # Errors
    ///
    /// The first line that is none, why, and what to write.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut rules = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let pattern =
                Pattern::parse(line).map_err(|why| format!("line {}: {why}", index + 1))?;
            rules.push(Rule {
                text: line.to_owned(),
                pattern,
            });
        }
        Ok(Self { rules })
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// To go through the stacks of a snapshot.
    pub fn begin(&self) -> Matches<'_> {
        let rules = self.rules.iter().map(|rule| RuleUse {
            rule: rule.text.clone(),
            stacks: 0,
            live_bytes: 0,
        });
        Matches {
            rules: &self.rules,
            known: HashMap::new(),
            suppressed: Suppressed {
                rules: rules.collect(),
                ..Suppressed::default()
            },
        }
    }
}

/// Frames at one address, innermost first, and the path of the module.
type Place<'a> = (Arc<[Frame]>, Option<&'a Path>);

/// What has matched so far.
pub struct Matches<'a> {
    rules: &'a [Rule],
    /// First rule that the frames match; by their place in memory, which the `Arc` in the value keeps.
    known: HashMap<*const Frame, (Arc<[Frame]>, Option<usize>)>,
    suppressed: Suppressed,
}

impl Matches<'_> {
    /// Whether a stack is suppressed, which is counted.
    pub fn take<'a>(&mut self, stack: impl Iterator<Item = Place<'a>>, totals: &Totals) -> bool {
        let first = stack.filter_map(|place| self.first_rule(place)).min();
        let Some(index) = first else {
            return false;
        };
        self.suppressed.stacks += 1;
        self.suppressed.live_bytes += totals.live_bytes;
        self.suppressed.live_count += totals.live_count;
        if let Some(rule) = self.suppressed.rules.get_mut(index) {
            rule.stacks += 1;
            rule.live_bytes += totals.live_bytes;
        }
        true
    }

    /// What was found.
    pub fn end(self) -> Suppressed {
        self.suppressed
    }

    fn first_rule(&mut self, (frames, path): Place<'_>) -> Option<usize> {
        let key = frames.as_ptr();
        if let Some((_, known)) = self.known.get(&key) {
            return *known;
        }
        let path = path.map(Path::to_string_lossy).unwrap_or_default();
        let matches = |rule: &Rule| {
            frames
                .iter()
                .any(|frame| rule.pattern.matches(frame, &path))
        };
        let first = self.rules.iter().position(matches);
        self.known.insert(key, (frames, first));
        first
    }
}

impl Pattern {
    fn parse(line: &str) -> Result<Self, String> {
        const ADVICE: &str = "write `function:NAME`, `module:NAME`, `re:REGEX` or `leak:PATTERN`";
        let (kind, value) = line
            .split_once(':')
            .ok_or_else(|| format!("`{line}` is no rule; {ADVICE}"))?;
        let value = value.trim();
        if value.is_empty() {
            return Err(format!("`{line}` names nothing; {ADVICE}"));
        }
        match kind.trim_end() {
            "function" => Ok(Self::Function(value.to_owned())),
            "module" => Ok(Self::Module(value.to_owned())),
            "re" => regex(value).map(Self::Regex),
            "leak" => regex(&of_lsan(value)).map(Self::Leak),
            _ => Err(format!("`{line}` is no rule; {ADVICE}")),
        }
    }

    /// Whether it matches a frame in the module at `path`.
    fn matches(&self, frame: &Frame, path: &str) -> bool {
        let function = frame.function.as_deref();
        match self {
            Self::Function(name) => function.is_some_and(|it| {
                let rest = it.strip_prefix(name.as_str());
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('('))
            }),
            Self::Module(name) => frame.module.as_deref() == Some(name) || path == name,
            Self::Regex(regex) => function.is_some_and(|it| regex.is_match(it)),
            Self::Leak(regex) => {
                let names = [function, Some(path), frame.file.as_deref()];
                names.into_iter().flatten().any(|it| regex.is_match(it))
            }
        }
    }
}

fn regex(pattern: &str) -> Result<Regex, String> {
    let built = RegexBuilder::new(pattern).size_limit(MOST_BYTES).build();
    built.map_err(|error| {
        // The crate draws where it is wrong, over several lines, and says why in the last one.
        let text = error.to_string();
        let why = text.lines().last().unwrap_or_default().trim();
        let why = why.strip_prefix("error: ").unwrap_or(why);
        format!("`{pattern}` is no regular expression: {why}")
    })
}

/// A pattern of LeakSanitizer: anywhere in the name, but for `^` at the start and `$` at the end; `*` is anything.
fn of_lsan(pattern: &str) -> String {
    let (start, rest) = match pattern.strip_prefix('^') {
        Some(rest) => ("^", rest),
        None => ("", pattern),
    };
    let (rest, end) = match rest.strip_suffix('$') {
        Some(rest) => (rest, "$"),
        None => (rest, ""),
    };
    let parts: Vec<String> = rest.split('*').map(regex::escape).collect();
    format!("(?s){start}{}{end}", parts.join(".*"))
}

#[cfg(test)]
#[path = "suppress_tests.rs"]
mod tests;
