//! `leakprobe ps`: which processes there are, whose memory grows, and which of them could be probed.
//!
//! It looks twice at what the kernel keeps anyway, and touches no process. What it shows is
//! [`List`]; the module `table` makes text of it.

mod look;
mod table;

use std::io::{self, Write};
use std::thread;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::cli::{PsConfig, Sort, StdoutFormat, stdout_width};
use crate::probe::functions;
use crate::report::json;
use crate::target::{AllocatorNames, ContainerInfo, Entry, World};
use look::{Look, Users};

/// What `leakprobe ps` shows.
#[derive(Clone, Debug, Serialize)]
pub struct List {
    /// Version of this form, as docs/json.md describes it.
    pub schema: u32,
    /// Between the two looks, nanoseconds.
    pub interval_ns: u64,
    /// Those that were there at both.
    pub processes: Vec<Row>,
}

/// A process.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// PID as the user sees it.
    pub pid: u32,
    /// Effective user.
    pub uid: u32,
    /// What this machine calls that user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The innermost container it is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<ContainerInfo>,
    /// What serves its allocator calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allocator: Option<String>,
    /// Resident memory at the second look, shared pages included, bytes.
    pub rss_bytes: u64,
    /// By how much that was more than at the first, bytes.
    pub growth_bytes: i64,
    /// Name of the main thread. May hold any characters.
    pub comm: String,
    /// Path of the executable, as in its own mount namespace. May hold any characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exe: Option<String>,
}

/// Looks, waits, looks again and writes the list.
///
/// # Errors
///
/// If a selector means no process, the processes cannot be listed, or `out` cannot be written to.
pub fn run(config: &PsConfig, out: &mut dyn Write) -> Result<()> {
    let mut world = World::default();
    let entries = entries(&mut world, config)?;
    let first = Look::at(&entries);
    let mut rows = rows(&mut world, &entries)?;
    thread::sleep(config.interval.saturating_sub(first.taken.elapsed()));
    let second = Look::at(&entries);

    rows.retain_mut(|row| {
        let rss = (first.rss(row.pid), second.rss(row.pid));
        let (Some(before), Some(now)) = rss else {
            return false;
        };
        row.rss_bytes = now;
        row.growth_bytes = now.cast_signed().saturating_sub(before.cast_signed());
        true
    });
    rows.sort_by_key(|row| {
        let by = match config.sort {
            Sort::Rss => row.rss_bytes.cast_signed(),
            Sort::Growth => row.growth_bytes,
        };
        (std::cmp::Reverse((by, row.rss_bytes)), row.pid)
    });
    let list = List {
        schema: 1,
        interval_ns: second.taken.duration_since(first.taken).as_nanos() as u64,
        processes: rows,
    };
    let written = match config.format {
        StdoutFormat::Json => json::write_value(&list, out),
        StdoutFormat::Text => table::write(&list, stdout_width(), out),
    };
    match written.and_then(|()| out.flush()) {
        // A reader that went away (`| head`) is no failure.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("failed to write to stdout"),
    }
}

/// The processes that are meant, each once.
fn entries(world: &mut World, config: &PsConfig) -> Result<Vec<Entry>> {
    if config.selectors.is_empty() {
        return Ok(world.entries()?.to_vec());
    }
    let mut entries = Vec::new();
    for selector in &config.selectors {
        entries.extend(world.find(selector)?);
    }
    entries.sort_by_key(|entry| entry.pid);
    entries.dedup_by_key(|entry| entry.pid);
    Ok(entries)
}

/// All that does not change from one look to the next.
fn rows(world: &mut World, entries: &[Entry]) -> Result<Vec<Row>> {
    let containers = world.containers()?;
    let functions = functions::names();
    let (mut allocators, mut users) = (AllocatorNames::default(), Users::default());
    let mut not_read = 0;
    let rows = entries
        .iter()
        .filter_map(|entry| {
            let uid = look::uid(entry.pid)?;
            let allocator = allocators.of(entry.pid, &functions).unwrap_or_else(|_| {
                not_read += 1;
                None
            });
            Some(Row {
                pid: entry.pid,
                uid,
                user: users.name(uid),
                container: containers.of_process(entry.pid).cloned(),
                allocator,
                rss_bytes: 0,
                growth_bytes: 0,
                comm: entry.comm.clone(),
                exe: entry.exe().map(|exe| exe.to_string_lossy().into_owned()),
            })
        })
        .collect();
    if not_read > 0 && !nix::unistd::geteuid().is_root() {
        eprintln!(
            "{not_read} processes may not be looked at, so that their allocators are not known: run \
             leakprobe as root"
        );
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// A list with everything in it, names of the worst kind included.
    pub fn sample() -> List {
        let row = |pid, comm: &str, rss_bytes, growth_bytes| Row {
            pid,
            uid: 0,
            user: Some("root".to_owned()),
            container: None,
            allocator: Some("glibc".to_owned()),
            rss_bytes,
            growth_bytes,
            comm: comm.to_owned(),
            exe: Some("/usr/bin/x".to_owned()),
        };
        let id = "60fac30309e92d9b647b026a82dd3024b7711796ba34bbb164b2a9d89237b521";
        let container = |name: Option<&str>, pod: Option<&str>| {
            let text = |it: &str| it.to_owned();
            Some(ContainerInfo {
                id: id.to_owned(),
                runtime: Some("containerd".to_owned()),
                name: name.map(text),
                pod_uid: pod.map(|_| "8c1a7ec6-3f0d-4e62-9c3a-5a0a6a3f2b11".to_owned()),
                pod_name: pod.map(text),
                namespace: pod.map(|_| "prod".to_owned()),
            })
        };
        List {
            schema: 1,
            interval_ns: 2_000_000_000,
            processes: vec![
                Row {
                    container: container(Some("web"), Some("shop-5d9f8b7c6d-x2x4z")),
                    allocator: Some("musl".to_owned()),
                    ..row(1_234_567, "node", 1_288_490_188, 1_572_864)
                },
                row(7, "\x1b[2Jnot me\n", 4096, -4096),
                Row {
                    container: container(None, None),
                    allocator: None,
                    user: None,
                    uid: 100_999,
                    ..row(42, "go-thing", 52_428_800, 0)
                },
            ],
        }
    }

    #[test]
    fn every_field_is_documented() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/json.md");
        let text = std::fs::read_to_string(path).unwrap();
        let list = serde_json::to_value(sample()).unwrap();
        let first = &list["processes"][0];
        let keys = [&list, first, &first["container"]]
            .into_iter()
            .flat_map(|it| it.as_object().unwrap().keys());
        for key in keys.collect::<BTreeSet<_>>() {
            assert!(
                text.contains(&format!("`{key}`")),
                "{key} is not in docs/json.md"
            );
        }
    }

    #[test]
    fn this_machine() {
        let config = PsConfig {
            selectors: Vec::new(),
            interval: std::time::Duration::from_millis(1),
            sort: Sort::Growth,
            format: StdoutFormat::Json,
        };
        let mut out = Vec::new();
        run(&config, &mut out).unwrap();
        let list: serde_json::Value = serde_json::from_slice(&out).unwrap();
        let processes = list["processes"].as_array().unwrap();
        let own = u64::from(std::process::id());
        assert!(processes.iter().all(|it| it["pid"] != own));
        let growth: Vec<_> = processes
            .iter()
            .map(|it| it["growth_bytes"].as_i64().unwrap())
            .collect();
        assert!(growth.is_sorted_by(|a, b| a >= b), "{growth:?}");
    }
}
