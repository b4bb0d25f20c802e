//! One boot of an emulated machine, watched through its serial console.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::cmd;
use crate::initramfs::{EXIT, RELEASE};
use crate::sum::Sum;

/// What was seen on the console; nothing of it is there if the machine did not get so far.
#[derive(Default)]
pub struct Outcome {
    /// `uname -r`.
    pub release: Option<String>,
    /// The tests' own count, of all their programs.
    pub sum: Option<Sum>,
    /// The tests' exit status.
    pub exit: Option<String>,
}

/// Boots a kernel with an initramfs and repeats its console on stderr, with a name before each line, until
/// the machine turns itself off, or for `limit` at the most.
pub fn boot(name: &str, kernel: &Path, initrd: &Path, limit: Duration) -> Result<Outcome> {
    let mut command = Command::new("qemu-system-x86_64");
    command
        // One thread for both CPUs: with two, QEMU now and then still executes the breakpoint by which
        // a kernel patches its own code after it was taken back, and that kernel panics.
        .args(["-accel", "tcg,thread=single", "-smp", "2", "-m", "1024"])
        .args(["-nographic", "-no-reboot", "-nic", "none"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initrd)
        .args(["-append", "console=ttyS0 panic=-1 quiet"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    eprintln!("+ {}", cmd::show(&command));
    let mut machine = command.spawn().context("failed to start QEMU")?;
    let console = machine.stdout.take().context("QEMU has no console")?;

    let (sender, lines) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut console = BufReader::new(console);
        let mut bytes = Vec::new();
        while console.read_until(b'\n', &mut bytes).is_ok_and(|n| n > 0) {
            let line = String::from_utf8_lossy(&bytes).trim_end().to_string();
            if sender.send(line).is_err() {
                break;
            }
            bytes.clear();
        }
    });

    let mut outcome = Outcome::default();
    let until = Instant::now() + limit;
    // The console's end is the machine's end.
    while let Ok(line) = lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
        eprintln!("  {name}: {line}");
        if let Some(release) = line.strip_prefix(RELEASE) {
            outcome.release = Some(release.to_string());
        } else if let Some(exit) = line.strip_prefix(EXIT) {
            outcome.exit = Some(exit.to_string());
        } else if let Some(sum) = Sum::parse(&line) {
            outcome.sum.get_or_insert_default().add(sum);
        }
    }
    drop(lines);
    let _ = machine.kill();
    machine.wait().context("failed to wait for QEMU")?;
    let _ = reader.join();
    Ok(outcome)
}
