//! Names of JIT code, from the file that its compiler writes for perf: `/tmp/perf-PID.map`.
//!
//! V8 writes it under `--perf-basic-prof`, the JVM on `jcmd PID Compiler.perfmap`; others do too.
//! It lies in the target's own `/tmp` under the PID that the target sees, grows while it is read,
//! and is in the hands of the target: only a regular file of root or of the target's user is taken,
//! and only so much of it.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::proc_fs;
use super::process::status_field;
use super::ranges::Ranges;
use super::root::Root;

/// Most bytes that are ever read of it, also if it starts anew.
const MAX_BYTES: u64 = 256 << 20;

/// Longer lines lose their end, which is a part of the name.
const MAX_LINE: usize = 4096;

/// A file's times may be this much behind the clock.
const SLACK: Duration = Duration::from_secs(1);

/// The perf map of a process, as far as it has been read.
#[derive(Debug, Default)]
pub struct PerfMap {
    path: PathBuf,
    /// Users whose file it may be.
    owners: Vec<u32>,
    /// When the process started: what was last written before is of another one with this PID.
    started: Option<SystemTime>,
    open: Option<Open>,
    names: Ranges,
    /// Bytes that may still be read.
    budget: u64,
    problem: Option<String>,
}

/// The file, and how far it has been read.
#[derive(Debug)]
struct Open {
    file: File,
    identity: (u64, u64),
    state: (u64, i64, i64),
    offset: u64,
    /// The last bytes before `offset`: others there show that it was written anew.
    tail: Vec<u8>,
    /// The beginning of a line whose end is not written yet.
    line: Vec<u8>,
}

impl PerfMap {
    /// That of a process; nothing is read yet.
    pub fn of(pid: u32) -> Self {
        let last = |fields: String| fields.split_whitespace().last()?.parse().ok();
        let own_pid: u32 = status_field(pid, "NSpid:").and_then(last).unwrap_or(pid);
        let uids = status_field(pid, "Uid:").unwrap_or_default();
        let uids = uids.split_whitespace().filter_map(|uid| uid.parse().ok());
        Self {
            path: format!("/tmp/perf-{own_pid}.map").into(),
            owners: uids.chain([0]).collect(),
            started: start_time(pid),
            budget: MAX_BYTES,
            ..Self::default()
        }
    }

    /// Reads what was written since. A file of the same name that came later takes the place of
    /// the one before; one that was removed keeps serving.
    pub fn refresh(&mut self, root: &Root) {
        match root.open_no_link(&self.path) {
            Ok(file) => self.take(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => self.refuse(&error.to_string()),
        }
        if let Err(error) = self.read() {
            self.refuse(&format!("failed to read it: {error}"));
        }
    }

    /// What code at an address is called, in the words of its compiler.
    pub fn find(&self, address: u64) -> Option<&Arc<str>> {
        self.names.find(address)
    }

    /// Whether there is one.
    pub fn exists(&self) -> bool {
        self.open.is_some()
    }

    /// Why it, or a part of it, was not taken.
    pub fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    fn refuse(&mut self, why: &str) {
        let path = self.path.display();
        self.problem = Some(format!("names of JIT code in `{path}` are not used: {why}"));
    }

    /// Follows a file if it is another one than before, and may be the target's.
    fn take(&mut self, file: File) {
        let metadata = match file.metadata() {
            Ok(metadata) => metadata,
            Err(error) => return self.refuse(&error.to_string()),
        };
        let identity = (metadata.dev(), metadata.ino());
        if self
            .open
            .as_ref()
            .is_some_and(|open| open.identity == identity)
        {
            return;
        }
        if !self.owners.contains(&metadata.uid()) {
            let uid = metadata.uid();
            return self.refuse(&format!(
                "it belongs to user {uid}, not to the process's user"
            ));
        }
        if let (Some(started), Ok(written)) = (self.started, metadata.modified())
            && written + SLACK < started
        {
            return self.refuse("it was written before the process started");
        }
        self.problem = None;
        self.names = Ranges::default();
        self.open = Some(Open::new(file, identity));
    }

    fn read(&mut self) -> io::Result<()> {
        let Some(open) = &mut self.open else {
            return Ok(());
        };
        let metadata = open.file.metadata()?;
        let state = state(&metadata);
        if state == open.state {
            return Ok(());
        }
        if metadata.len() < open.offset || !open.tail_is_there()? {
            open.start_over();
            self.names = Ranges::default();
        }
        open.state = state;
        let mut buffer = vec![0; 64 << 10];
        // What is written while this reads is for the next time.
        while open.offset < metadata.len() && self.budget > 0 {
            let wanted = (metadata.len() - open.offset)
                .min(self.budget)
                .min(buffer.len() as u64) as usize;
            let read = open.file.read_at(&mut buffer[..wanted], open.offset)?;
            if read == 0 {
                break;
            }
            self.budget -= read as u64;
            if !open.parse(&buffer[..read], &mut self.names) {
                self.problem = Some(format!(
                    "`{}` names more code than can be kept: some names of JIT code are missing",
                    self.path.display()
                ));
            }
        }
        if self.budget == 0 {
            self.problem = Some(format!(
                "only the first {} MiB of `{}` were read: some names of JIT code are missing",
                MAX_BYTES >> 20,
                self.path.display()
            ));
        }
        Ok(())
    }
}

impl Open {
    fn new(file: File, identity: (u64, u64)) -> Self {
        Self {
            file,
            identity,
            state: (0, 0, 0),
            offset: 0,
            tail: Vec::new(),
            line: Vec::new(),
        }
    }

    fn start_over(&mut self) {
        self.offset = 0;
        self.tail.clear();
        self.line.clear();
    }

    fn tail_is_there(&self) -> io::Result<bool> {
        let mut now = vec![0; self.tail.len()];
        let read = self
            .file
            .read_at(&mut now, self.offset - self.tail.len() as u64)?;
        Ok(now[..read] == self.tail)
    }

    /// Takes in the bytes at `offset`. False if a name did not fit.
    fn parse(&mut self, bytes: &[u8], names: &mut Ranges) -> bool {
        let mut all = true;
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            let (piece, ends) = match piece.strip_suffix(b"\n") {
                Some(piece) => (piece, true),
                None => (piece, false),
            };
            let room = MAX_LINE.saturating_sub(self.line.len()).min(piece.len());
            self.line.extend_from_slice(&piece[..room]);
            if ends {
                if let Some((start, size, name)) = entry(&self.line) {
                    all &= names.insert(start, size, &String::from_utf8_lossy(name));
                }
                self.line.clear();
            }
        }
        self.offset += bytes.len() as u64;
        self.tail = bytes[bytes.len().saturating_sub(64)..].to_vec();
        all
    }
}

/// `START SIZE NAME`, the numbers in hexadecimal.
fn entry(line: &[u8]) -> Option<(u64, u64, &[u8])> {
    let mut fields = line.splitn(3, |&byte| byte == b' ');
    let mut number = || {
        let digits = std::str::from_utf8(fields.next()?).ok()?;
        let digits = digits.strip_prefix("0x").unwrap_or(digits);
        if digits.starts_with('+') {
            return None; // which the standard library takes for a part of a number
        }
        u64::from_str_radix(digits, 16).ok()
    };
    let (start, size) = (number()?, number()?);
    let name = fields.next()?.trim_ascii();
    (!name.is_empty()).then_some((start, size, name))
}

/// Other values of these tell that a file was written to.
fn state(metadata: &Metadata) -> (u64, i64, i64) {
    (metadata.len(), metadata.mtime(), metadata.mtime_nsec())
}

fn start_time(pid: u32) -> Option<SystemTime> {
    let ticks = proc_fs::process(pid)
        .and_then(|process| process.stat())
        .ok()?
        .starttime;
    let clock = nix::time::ClockId::CLOCK_BOOTTIME;
    let up = Duration::from(nix::time::clock_gettime(clock).ok()?);
    let started = Duration::from_millis(ticks.saturating_mul(1000) / procfs::ticks_per_second());
    SystemTime::now().checked_sub(up.checked_sub(started)?)
}

/// For the fuzzer: reads a map that is written in two pieces, and then anew. Tells whether an
/// address has a name in the end.
#[doc(hidden)]
pub fn read_in_pieces(pieces: [&[u8]; 3], address: u64) -> io::Result<bool> {
    use std::io::{Seek, Write};
    let mut file = tempfile::tempfile()?;
    let mut map = PerfMap {
        owners: vec![file.metadata()?.uid()],
        budget: MAX_BYTES,
        ..PerfMap::default()
    };
    for (number, piece) in pieces.into_iter().enumerate() {
        if number == 2 {
            file.set_len(0)?;
            file.rewind()?;
        }
        file.write_all(piece)?;
        map.take(file.try_clone()?);
        map.read()?;
    }
    Ok(map.find(address).is_some())
}

#[cfg(test)]
#[path = "perf_map_tests.rs"]
mod tests;
