//! The price of a trap: what a call of a tiny function takes longer in a child of our own once an
//! empty program is attached to it, in the same way and on an instruction of the same kind as in the
//! target. Neither the target nor leakprobe itself is touched.

use std::arch::naked_asm;
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::statistics::clock_time;
use super::{CHILD, Traps};
use crate::probe::multi::{self, Code, LinkKind, Places};
use crate::probe::site::SiteCost;
use crate::probe::trial;
use crate::probe::way::Way;

/// Calls between two looks at the clock.
const BATCH: u64 = 128;
/// The child measures for so long at each go.
const LIMIT: Duration = Duration::from_millis(10);

/// What is to be measured.
#[derive(Clone, Copy, Debug)]
pub struct Calibration {
    /// How the probes of the target are attached.
    pub way: Way,
    /// The kind of instruction that they are on.
    pub cost: SiteCost,
}

/// A function whose first instruction the kernel emulates.
#[cfg(target_arch = "x86_64")]
#[unsafe(naked)]
extern "C" fn emulated() {
    naked_asm!("push rbx", "pop rbx", "ret")
}

/// A function whose first instruction the kernel steps over.
#[cfg(target_arch = "x86_64")]
#[unsafe(naked)]
extern "C" fn stepped() {
    naked_asm!("mov rax, rdi", "ret")
}

fn function(cost: SiteCost) -> extern "C" fn() {
    match cost {
        SiteCost::Emulated => emulated,
        SiteCost::SingleStepped => stepped,
    }
}

/// Measures in a thread of its own, and waits for the outcome.
///
/// # Errors
///
/// If an empty probe cannot be placed in a child.
pub fn price(what: Calibration) -> Result<Traps> {
    let (send, price) = channel();
    thread::spawn(move || calibrate(what, &send));
    let price = price.recv();
    price.context("the thread that measures traps panicked")?
}

/// Measures, and sends the outcome before the probes are taken away, which takes the kernel 100 ms.
pub fn calibrate(what: Calibration, send: &Sender<Result<Traps>>) {
    let mut links = Vec::new();
    let traps = measure(what, &mut links).context("failed to measure what a trap costs");
    log::debug!("overhead: {traps:?} for {what:?}");
    let _ = send.send(traps); // nobody waits when the recording has ended
}

fn measure(what: Calibration, links: &mut Vec<OwnedFd>) -> Result<Traps> {
    let mut child = Traced::start(what.cost)?;
    let offset = trial::file_offset(function(what.cost) as usize as u64)?;
    let free = child.nanoseconds()?;
    links.extend(attach(what.way, child.child.id(), offset, false)?);
    let entry = child.nanoseconds()?;
    let entry_ns = entry.saturating_sub(free);
    // A session takes the trap at the entry as well; the others share it.
    if what.way == Way::Session {
        links.clear();
    }
    let both = attach(what.way, child.child.id(), offset, true).and_then(|link| {
        links.extend(link);
        child.nanoseconds()
    });
    let return_ns = match both {
        Ok(both) => both.saturating_sub(entry),
        Err(error) => {
            // Where the kernel kills what is under a seccomp filter, for instance.
            log::debug!("overhead: a return is taken for an entry: {error:#}");
            entry_ns
        }
    };
    Ok(Traps {
        entry_ns,
        return_ns,
    })
}

/// Attaches an empty program to our own code in a child.
fn attach(way: Way, pid: u32, offset: u64, at_return: bool) -> Result<Vec<OwnedFd>> {
    const SELF: &CStr = c"/proc/self/exe";
    let (kind, at_return) = match (way, at_return) {
        (Way::Single, _) => {
            let program = multi::load(&Code::nothing(), LinkKind::None)
                .context("failed to load an empty program")?;
            let event = trial::uprobe(SELF, offset, pid, at_return)
                .and_then(|event| trial::run(event.as_fd(), program.as_fd()).map(|()| event))
                .context("failed to place an empty probe")?;
            return Ok(vec![event, program]);
        }
        (Way::Session, true) => (LinkKind::Session, false),
        (_, at_return) => (LinkKind::Multi, at_return),
    };
    let program = multi::load(&Code::nothing(), kind).context("failed to load an empty program")?;
    let places = Places {
        file: SELF,
        pid,
        offsets: &[offset],
        cookies: None,
        at_return,
    };
    let link =
        multi::link(program.as_fd(), kind, &places).context("failed to place an empty probe")?;
    Ok(vec![link])
}

/// The child; killed when dropped.
struct Traced {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Traced {
    fn start(cost: SiteCost) -> Result<Self> {
        let mut child = Command::new("/proc/self/exe")
            .args([CHILD, &cost.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("failed to start a child")?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        Ok(Self {
            child,
            stdin: stdin.context("no stdin")?,
            stdout: BufReader::new(stdout.context("no stdout")?),
        })
    }

    /// What a call takes now.
    fn nanoseconds(&mut self) -> Result<u64> {
        let mut line = String::new();
        self.stdin
            .write_all(b"g")
            .and_then(|()| self.stdout.read_line(&mut line))
            .context("failed to talk to the child")?;
        let nanoseconds = line.trim().parse();
        nanoseconds.context("the child was killed")
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it has ended, then
        let _ = self.child.wait();
    }
}

/// What the child does: for each byte on stdin a line on stdout, the nanoseconds of a call.
///
/// # Errors
///
/// If stdin or stdout cannot be used.
pub fn run_child(cost: &str) -> io::Result<()> {
    let cost = match cost == SiteCost::Emulated.to_string() {
        true => SiteCost::Emulated,
        false => SiteCost::SingleStepped,
    };
    // Not the buffered ones: nothing else runs here.
    let mut stdin = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut stdout = io::stdout().lock();
    while stdin.read(&mut [0])? > 0 {
        writeln!(stdout, "{}", time_of_call(function(cost)))?;
        stdout.flush()?;
    }
    Ok(())
}

/// The median over batches, in CPU time, so that other processes hardly matter.
fn time_of_call(function: extern "C" fn()) -> u64 {
    let clock = || clock_time(libc::CLOCK_THREAD_CPUTIME_ID).unwrap_or(0);
    let end = Instant::now() + LIMIT;
    let mut times = Vec::new();
    while times.len() < 3 || (Instant::now() < end && times.len() < 1000) {
        let start = clock();
        for _ in 0..BATCH {
            function();
        }
        times.push(clock().saturating_sub(start) / BATCH);
    }
    times.sort_unstable();
    times[times.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_takes_less_than_a_trap() {
        for cost in [SiteCost::Emulated, SiteCost::SingleStepped] {
            assert!(time_of_call(function(cost)) < 1000, "{cost}");
        }
    }
}
