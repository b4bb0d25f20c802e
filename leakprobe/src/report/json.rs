//! The whole profile for programs, as docs/json.md describes it. The shape is that of the types of
//! [`crate::symbolize`]; nothing is renamed or left out here.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::Formatter;

use super::escape::is_plain;
use crate::symbolize::Profile;

/// Writes one JSON document on one line.
///
/// Errors: only those of `out`.
pub fn write(profile: &Profile, out: &mut dyn Write) -> io::Result<()> {
    write_value(profile, out)
}

/// The same for anything else that has a JSON form.
///
/// Errors: only those of `out`.
pub fn write_value(value: &impl Serialize, out: &mut dyn Write) -> io::Result<()> {
    value.serialize(&mut Serializer::with_formatter(&mut *out, Visible))?;
    out.write_all(b"\n")
}

/// Compact JSON, with the control characters that JSON lets through (DEL and C1, which terminals
/// obey) written as `\u` escapes, so that it can be looked at.
struct Visible;

impl Formatter for Visible {
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        out: &mut W,
        text: &str,
    ) -> io::Result<()> {
        if is_plain(text) {
            return out.write_all(text.as_bytes());
        }
        let mut rest = text;
        while let Some(at) = rest.find(|c: char| c.is_control()) {
            out.write_all(&rest.as_bytes()[..at])?;
            let mut tail = rest[at..].chars();
            if let Some(control) = tail.next() {
                write!(out, "\\u{:04x}", u32::from(control))?;
            }
            rest = tail.as_str();
        }
        out.write_all(rest.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use crate::snapshot::counts::Count;

    use super::*;
    use crate::report::sample;

    #[test]
    fn golden() {
        let mut json = Vec::new();
        write(&sample::profile(), &mut json).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&json).unwrap();
        insta::assert_snapshot!(serde_json::to_string_pretty(&value).unwrap());
    }

    /// All keys of all objects; not those of `losses`, which are names of counters.
    fn keys(value: &serde_json::Value, found: &mut BTreeSet<String>) {
        match value {
            serde_json::Value::Array(items) => items.iter().for_each(|item| keys(item, found)),
            serde_json::Value::Object(object) => {
                for (key, value) in object {
                    found.insert(key.clone());
                    if key != "losses" {
                        keys(value, found);
                    }
                }
            }
            _ => {}
        }
    }

    #[test]
    fn every_field_and_every_counter_is_documented() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/json.md");
        let text = std::fs::read_to_string(path).unwrap();
        let mut names = BTreeSet::new();
        keys(
            &serde_json::to_value(sample::profile()).unwrap(),
            &mut names,
        );
        keys(
            &serde_json::to_value(sample::governed()).unwrap(),
            &mut names,
        );
        keys(&serde_json::to_value(sample::many()).unwrap(), &mut names);
        keys(&serde_json::to_value(sample::growth()).unwrap(), &mut names);
        for dead in sample::dead() {
            keys(&serde_json::to_value(dead).unwrap(), &mut names);
        }
        names.extend(Count::all().map(|count| count.name.to_string()));
        for name in names {
            assert!(
                text.contains(&format!("`{name}`")),
                "{name} is not in docs/json.md"
            );
        }
    }
}
