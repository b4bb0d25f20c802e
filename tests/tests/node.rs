//! leakprobe on real runtimes: the musl Node in a container and in a bare root file system, and
//! the glibc Node and Python of this machine. A runtime allocates for itself all the time, so the
//! figures are compared with what the script kept within 2 %; exact figures are for the victims.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use leakprobe_tests::node::{Leakprobe, Need, Outcome, Target, output, ready, rootfs, script};
use serde_json::Value;

const XMLLINT: Need = Need::File("/usr/bin/xmllint");
const MUSL: &str = "/lib/ld-musl-x86_64.so.1";

/// The script's paths into C++, and a function that the musl Node's stack of each has.
const NODE_PATHS: &[(&str, &str)] = &[
    (
        "unsafe",
        "node::Buffer::(anonymous namespace)::CreateUnsafeArrayBuffer",
    ),
    ("zeroed", "v8::internal::Builtin_ArrayBufferConstructor"),
    ("secret", "node::crypto::KeyObjectHandle::Init"),
];

#[test]
fn musl_node_in_a_docker_container() -> Result<()> {
    if !ready("musl_node_in_a_docker_container", &[Need::Image, XMLLINT])? {
        return Ok(());
    }
    let run = Run::new("docker", Target::in_docker(&script("leak.js"))?)?;
    ensure!(
        run.pid != run.own_pid,
        "the container shares this PID namespace"
    );
    run.check()?;
    run.check_allocator("musl", |path| path == MUSL)?;
    run.check_musl_node()
}

#[test]
fn musl_node_in_namespaces_without_docker() -> Result<()> {
    if !ready(
        "musl_node_in_namespaces_without_docker",
        &[Need::Rootfs, XMLLINT],
    )? {
        return Ok(());
    }
    let run = Run::new("chroot", Target::in_chroot(&rootfs(), &script("leak.js"))?)?;
    ensure!(
        run.own_pid == 1,
        "the target is PID {} in its namespace",
        run.own_pid
    );
    run.check()?;
    // The kernel shows the path from the root of the mount namespace, not from that of the process.
    run.check_allocator("musl", |path| path.ends_with(MUSL))?;
    run.check_musl_node()
}

#[test]
fn glibc_node() -> Result<()> {
    if !ready("glibc_node", &[Need::File("/usr/bin/node"), XMLLINT])? {
        return Ok(());
    }
    let run = Run::new(
        "glibc-node",
        Target::start(Command::new("/usr/bin/node").arg(script("leak.js")))?,
    )?;
    run.check()?;
    run.check_allocator("glibc", |path| path.ends_with("/libc.so.6"))?;
    run.check_svg("node::")
}

#[test]
fn python() -> Result<()> {
    if !ready("python", &[Need::File("/usr/bin/python3"), XMLLINT])? {
        return Ok(());
    }
    let run = Run::new(
        "python",
        Target::start(Command::new("/usr/bin/python3").arg(script("leak.py")))?,
    )?;
    run.check()?;
    run.check_allocator("glibc", |path| path.ends_with("/libc.so.6"))?;
    run.check_svg("python")
}

/// A target and what leakprobe found in it.
struct Run {
    pid: u32,
    own_pid: u32,
    summary: Value,
    outcome: Outcome,
}

impl Run {
    /// Attaches, lets the target leak, interrupts leakprobe, and lets the target end.
    fn new(name: &str, mut target: Target) -> Result<Self> {
        let files = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let leakprobe = Leakprobe::attach(target.pid, &files)?;
        let summary = target.leak()?;
        let outcome = leakprobe.interrupt()?;
        let (pid, own_pid) = (target.pid, target.own_pid);
        let end = target.finish()?;
        ensure!(end.success(), "the target was harmed: {end}");
        Ok(Self {
            pid,
            own_pid,
            summary,
            outcome,
        })
    }

    /// What holds for every target.
    fn check(&self) -> Result<()> {
        let json = &self.outcome.json;
        ensure!(
            self.outcome.status.success(),
            "leakprobe: {}",
            self.outcome.status
        );
        let verdict = json["evidence"]["verdict"].as_str();
        ensure!(verdict == Some("complete"), "{}", json["evidence"]);
        let pids = (
            number(&json["target"]["pid"])?,
            number(&json["target"]["ns_pid"])?,
        );
        let expected = (u64::from(self.pid), u64::from(self.own_pid));
        ensure!(pids == expected, "PIDs {pids:?} instead of {expected:?}");
        close(
            "all",
            number(&json["totals"]["live_bytes"])?,
            number(&self.summary["kept_bytes"])?,
        )?;
        let stacks = self.live_bytes(|_| true)?;
        let total = number(&json["totals"]["live_bytes"])?;
        ensure!(
            stacks == total,
            "the stacks have {stacks} bytes, the total is {total}"
        );
        Ok(())
    }

    fn check_allocator(&self, name: &str, path: impl Fn(&str) -> bool) -> Result<()> {
        let allocator = &self.outcome.json["allocator"];
        let found = allocator["name"].as_str() == Some(name)
            && allocator["path"].as_str().is_some_and(path);
        ensure!(found, "the allocator is {allocator}");
        Ok(())
    }

    /// The musl Node has its symbols and keeps frame pointers: each of the script's paths has its
    /// function in the stacks, with its bytes, and zlib's blocks come from another thread.
    fn check_musl_node(&self) -> Result<()> {
        for (path, function) in NODE_PATHS {
            let kept = number(&self.summary["paths"][path]["kept_bytes"])?;
            close(path, self.live_bytes(|name| name.contains(function))?, kept)?;
        }
        let zlib = self.live_bytes(|name| name.contains("ZlibContext::DoThreadPoolWork"))?;
        ensure!(zlib > 0, "no live block of zlib");
        // The script's garbage was as large as what it kept, zlib aside.
        let totals = &self.outcome.json["totals"];
        let freed = number(&totals["freed_bytes"])?;
        let kept = number(&self.summary["kept_bytes"])?;
        ensure!(freed >= kept, "{freed} bytes freed, {kept} kept");
        self.check_svg("node::NodeArrayBufferAllocator::Allocate")
    }

    fn check_svg(&self, symbol: &str) -> Result<()> {
        let svg: &PathBuf = &self.outcome.svg;
        output(
            Command::new("/usr/bin/xmllint")
                .args(["--noout", "--nonet", "--huge"])
                .arg(svg),
        )?;
        let text = std::fs::read_to_string(svg)?;
        ensure!(
            text.contains(symbol),
            "`{symbol}` is not in {}",
            svg.display()
        );
        Ok(())
    }

    /// Live bytes of the stacks that have a wanted function in them.
    fn live_bytes(&self, wanted: impl Fn(&str) -> bool) -> Result<u64> {
        let stacks = self.outcome.json["stacks"]
            .as_array()
            .context("no stacks")?;
        let mut bytes = 0;
        for stack in stacks {
            let frames = stack["frames"]
                .as_array()
                .context("a stack without frames")?;
            let mut names = frames
                .iter()
                .map(|frame| frame["function"].as_str().unwrap_or(""));
            if names.any(&wanted) {
                bytes += number(&stack["live_bytes"])?;
            }
        }
        Ok(bytes)
    }
}

fn number(value: &Value) -> Result<u64> {
    value
        .as_u64()
        .with_context(|| format!("a number is expected, not `{value}`"))
}

/// An error unless the bytes found are within 2 % of the bytes kept.
fn close(what: &str, found: u64, kept: u64) -> Result<()> {
    ensure!(
        found.abs_diff(kept) * 50 <= kept,
        "{what}: {found} bytes found, {kept} kept"
    );
    Ok(())
}
