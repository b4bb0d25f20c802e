//! Names of files that are only known when they are written (`--on-death`): `%p`, `%t` and `%e` stand for
//! facts of the process that has ended. They belong in the name alone, so that the folder can be checked
//! before anybody waits for a death.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Output, UsageError};
use crate::report::Format;

/// Characters of a time: `20261121T150830Z`.
const STAMP: usize = 16;

/// The last second of the year 9999; later ones have no such form.
const LAST_SECOND: Duration = Duration::from_secs(253_402_300_799);

/// A file name with placeholders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    path: PathBuf,
    format: Format,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Vec<u8>),
    Pid,
    Time,
    Comm,
}

/// What the placeholders stand for.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// As leakprobe's user sees it.
    pub pid: u32,
    /// When it ended.
    pub time: SystemTime,
    /// Its name. May hold anything.
    pub comm: &'a str,
}

impl Pattern {
    /// Reads a pattern, whose extension chooses the format.
    ///
    /// Errors: the extension names no format, a placeholder is not known or is in the folder's name.
    pub fn new(path: PathBuf) -> Result<Self, UsageError> {
        let Output { path, format } = Output::new(path)?;
        let folder = path
            .parent()
            .map_or(&b""[..], |it| it.as_os_str().as_bytes());
        if folder.contains(&b'%') {
            return Err(UsageError::PlaceholderInFolder(path));
        }
        let mut parts = Vec::new();
        let mut text = Vec::new();
        let mut bytes = path.file_name().map_or(&b""[..], OsStr::as_bytes).iter();
        while let Some(&byte) = bytes.next() {
            if byte != b'%' {
                text.push(byte);
                continue;
            }
            let part = match bytes.next() {
                Some(b'%') => {
                    text.push(b'%');
                    continue;
                }
                Some(b'p') => Part::Pid,
                Some(b't') => Part::Time,
                Some(b'e') => Part::Comm,
                _ => return Err(UsageError::UnknownPlaceholder(path)),
            };
            parts.extend([Part::Text(std::mem::take(&mut text)), part]);
        }
        parts.push(Part::Text(text));
        Ok(Self {
            path,
            format,
            parts,
        })
    }

    /// As it was written.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file for a process.
    pub fn output(&self, facts: Facts<'_>) -> Output {
        let mut name = Vec::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => name.extend_from_slice(text),
                Part::Pid => name.extend_from_slice(facts.pid.to_string().as_bytes()),
                Part::Time => name.extend_from_slice(stamp(facts.time).as_bytes()),
                Part::Comm => name.extend_from_slice(safe(facts.comm).as_bytes()),
            }
        }
        Output {
            path: self.path.with_file_name(OsString::from_vec(name)),
            format: self.format,
        }
    }

    /// The time in a file name that this pattern has given to a process of that name, whatever its PID.
    /// `None` for any other name, and where the pattern has no time.
    pub fn time_in(&self, name: &OsStr, comm: &str) -> Option<String> {
        let mut rest = name.as_bytes();
        let mut time = None;
        for part in &self.parts {
            match part {
                Part::Text(text) => rest = rest.strip_prefix(text.as_slice())?,
                Part::Comm => rest = rest.strip_prefix(safe(comm).as_bytes())?,
                Part::Pid => {
                    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
                    if !(1..=10).contains(&digits) {
                        return None;
                    }
                    rest = &rest[digits..];
                }
                Part::Time => {
                    let (found, after) = rest.split_at_checked(STAMP)?;
                    let is_stamp = found.iter().enumerate().all(|(at, byte)| match at {
                        8 => *byte == b'T',
                        15 => *byte == b'Z',
                        _ => byte.is_ascii_digit(),
                    });
                    let found = std::str::from_utf8(found).ok().filter(|_| is_stamp)?;
                    if time.replace(found).is_some_and(|other| other != found) {
                        return None;
                    }
                    rest = after;
                }
            }
        }
        time.filter(|_| rest.is_empty()).map(str::to_owned)
    }
}

/// A time in a name: `20261121T150830Z`. Sorted as text, times are in order.
fn stamp(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let time = UNIX_EPOCH + since.min(LAST_SECOND);
    humantime::format_rfc3339_seconds(time)
        .to_string()
        .replace(['-', ':'], "")
}

/// A process's name as a part of a file name. It may hold anything; what could lead elsewhere, be taken for
/// an option or confuse a terminal becomes `_`.
fn safe(comm: &str) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || "-_.+@=:".contains(c);
    let mut name: String = comm
        .chars()
        .take(64)
        .map(|c| if safe(c) { c } else { '_' })
        .collect();
    if name.is_empty() || name.starts_with(['.', '-']) {
        name.insert(0, '_');
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(path: &str) -> Pattern {
        Pattern::new(path.into()).unwrap()
    }

    /// 2026-11-21, 15:08:30 UTC.
    fn facts(comm: &str) -> Facts<'_> {
        Facts {
            pid: 123,
            time: UNIX_EPOCH + Duration::from_millis(1_795_273_710_999),
            comm,
        }
    }

    #[test]
    fn placeholders_are_filled_in() {
        for (path, expected) in [
            ("%p.svg", "123.svg"),
            ("/x/y/%e-%p-%t.json", "/x/y/node-123-20261121T150830Z.json"),
            ("100%%-%p%p.txt", "100%-123123.txt"),
            ("plain.folded", "plain.folded"),
        ] {
            let output = pattern(path).output(facts("node"));
            assert_eq!(output.path, Path::new(expected), "{path}");
        }
        assert_eq!(pattern("%t.JSON").output(facts("x")).format, Format::Json);
    }

    #[test]
    fn names_of_processes_lead_nowhere_else() {
        for (comm, expected) in [
            ("node", "node"),
            ("../../etc/pw", "_.._.._etc_pw"),
            ("..", "_.."),
            ("-rf", "_-rf"),
            ("", "_"),
            ("a b\n\x1b[31m\u{202e}é", "a_b___31m__"),
            ("%p", "_p"),
        ] {
            let output = pattern("/f/%e.svg").output(facts(comm));
            assert_eq!(output.path, PathBuf::from(format!("/f/{expected}.svg")));
        }
    }

    #[test]
    fn times_that_have_no_form_are_cut() {
        assert_eq!(stamp(UNIX_EPOCH), "19700101T000000Z");
        assert_eq!(
            stamp(UNIX_EPOCH - Duration::from_secs(5)),
            "19700101T000000Z"
        );
        let late = UNIX_EPOCH + Duration::from_secs(1 << 40);
        assert_eq!(stamp(late), "99991231T235959Z");
    }

    #[test]
    fn mistakes() {
        for (path, part) in [
            ("a-%x.svg", "%p"),
            ("a-%.svg", "%p"),
            ("%p/a.svg", "folder"),
            ("50%%/a.svg", "folder"),
            ("%p", ".svg"),
            ("%p.%e", ".svg"),
            ("-", "stdout"),
        ] {
            let error = Pattern::new(path.into()).unwrap_err().to_string();
            assert!(error.contains(part), "{path}: {error}");
        }
    }

    #[test]
    fn its_own_files_are_known_again() {
        let known = pattern("/x/%e-%p-%t.svg");
        let time = |name: &str| known.time_in(OsStr::new(name), "no de");
        let own = "no_de-77-20261121T150830Z.svg";
        assert_eq!(time(own).as_deref(), Some("20261121T150830Z"));
        for other in [
            "no_de-77-20261121T150830Z.svg.old",
            "no_de-77-20261121T150830Z.json",
            "no_de-77-20261121X150830Z.svg",
            "no_de-77-2026.svg",
            "no_de--20261121T150830Z.svg",
            "no_de-77a-20261121T150830Z.svg",
            "node-77-20261121T150830Z.svg",
            "no_de-77-20261121T15083é.svg",
            "",
        ] {
            assert_eq!(time(other), None, "{other}");
        }
        let twice = pattern("%t-%t.svg");
        let name = "20261121T150830Z-20261121T150831Z.svg";
        assert_eq!(twice.time_in(OsStr::new(name), ""), None);
        let timeless = pattern("%p.svg");
        assert_eq!(timeless.time_in(OsStr::new("77.svg"), ""), None);
    }
}
