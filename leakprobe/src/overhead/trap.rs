//! The price of a trap: what a call of a tiny function takes longer in a child of our own once an
//! empty program is attached to it, in the same way and on an instruction of the same kind as in the
//! target. Neither the target nor leakprobe itself is touched.
//!
//! There are two prices. In a loop that does nothing else, the kernel finds all it needs in the caches.
//! Between the calls of a real program there is other work: the kernel's part of a trap has left the
//! caches meanwhile, and leaves them without that of the program, which makes a trap more expensive by a
//! fifth to as much again. So it is measured with such work as well.

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
use super::{CHILD, Price, Traps};
use crate::probe::multi::{self, Code, LinkKind, Places};
use crate::probe::site::SiteCost;
use crate::probe::trial;
use crate::probe::way::Way;

/// Calls between two looks at the clock.
const BATCH: u64 = 16;
/// The child measures for so long at each go.
const LIMIT: Duration = Duration::from_millis(20);

/// What is to be measured.
#[derive(Clone, Copy, Debug)]
pub struct Calibration {
    /// How the probes of the target are attached.
    pub way: Way,
    /// The kind of instruction that they are on.
    pub cost: SiteCost,
    /// Whether there are some beside system calls, which are on such that the kernel steps over.
    pub system_calls: bool,
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

/// Lines of code that are run between the calls, in no order.
const LINES: usize = 4096;
/// Bytes from one to the next, a cache line.
const LINE: usize = 64;
/// How many of them, which takes some microseconds.
const RUN: usize = 256;

/// All lines, each with some jumps; a line is called by its place.
#[cfg(target_arch = "x86_64")]
#[unsafe(naked)]
extern "C" fn lines() {
    naked_asm!(
        ".rept {lines}",
        ".balign {line}",
        "jmp 2f",
        ".skip 6, 0xcc",
        "2: jmp 3f",
        ".skip 6, 0xcc",
        "3: ret",
        ".balign {line}, 0xcc",
        ".endr",
        lines = const LINES,
        line = const LINE,
    )
}

/// What a program does between two calls: runs and reads here and there.
struct Work {
    data: Vec<u64>,
    state: u64,
}

impl Work {
    fn new() -> Self {
        Self {
            data: vec![1; 1 << 19],
            state: 1,
        }
    }

    fn go(&mut self) {
        // The first line begins at the first boundary.
        let first = (lines as *const () as usize).next_multiple_of(LINE);
        for _ in 0..RUN {
            // Knuth's generator; its upper bits are good enough.
            self.state = self.state.wrapping_mul(6_364_136_223_846_793_005);
            self.state = self.state.wrapping_add(1_442_695_040_888_963_407);
            let random = (self.state >> 33) as usize;
            let line = first + random % (LINES - 1) * LINE;
            // SAFETY: each line is a function without arguments that touches nothing.
            let line: extern "C" fn() = unsafe { std::mem::transmute(line) };
            line();
            let place = random / LINES % self.data.len();
            self.data[place] = self.data[place].wrapping_add(self.state);
        }
    }
}

/// The same as the first; nothing is ever attached to it.
#[cfg(target_arch = "x86_64")]
#[unsafe(naked)]
extern "C" fn untraced() {
    naked_asm!("push rbx", "pop rbx", "nop", "ret") // lest they be made one
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
pub fn price(what: Calibration) -> Result<Price> {
    let (send, prices) = channel();
    thread::spawn(move || calibrate(what, &send));
    let panicked = "the thread that measures traps panicked";
    let first = prices.recv().context(panicked)??;
    match what.has_second_kind() {
        true => prices.recv().unwrap_or(Ok(first)), // it is not there if it cannot be measured
        false => Ok(first),
    }
}

/// Measures, and sends the outcome before the probes are taken away, which takes the kernel 100 ms. That of
/// another kind of instruction follows, in a price that has everything.
pub fn calibrate(what: Calibration, send: &Sender<Result<Price>>) {
    let mut links = Vec::new();
    let price = measure(what, &mut links).context("failed to measure what a trap costs");
    log::debug!("overhead: {price:?} for {what:?}");
    let first = price.as_ref().ok().copied();
    let _ = send.send(price); // nobody waits when the recording has ended
    if let Some(price) = first.filter(|_| what.has_second_kind()) {
        let price = measure_stepped(what, price, &mut links);
        log::debug!("overhead: {price:?} with instructions that are stepped over");
        if price.is_ok() {
            let _ = send.send(price);
        }
    }
}

impl Calibration {
    /// Whether there are two kinds of instructions.
    fn has_second_kind(&self) -> bool {
        self.system_calls && self.cost != SiteCost::SingleStepped
    }
}

/// The same price with what a trap costs at an instruction that is stepped over.
fn measure_stepped(what: Calibration, price: Price, links: &mut Vec<OwnedFd>) -> Result<Price> {
    let kind = SiteCost::SingleStepped;
    let mut child = Traced::start(kind)?;
    let offset = trial::file_offset(function(kind) as usize as u64)?;
    links.extend(attach(what.way, child.child.id(), offset, false)?);
    let times = child.nanoseconds()?;
    let traps = |traps: Traps, stepped_ns| Traps {
        stepped_ns,
        ..traps
    };
    Ok(Price {
        alone: traps(price.alone, times.alone),
        among_work: traps(price.among_work, times.among_work.max(times.alone)),
    })
}

fn measure(what: Calibration, links: &mut Vec<OwnedFd>) -> Result<Price> {
    let mut child = Traced::start(what.cost)?;
    let offset = trial::file_offset(function(what.cost) as usize as u64)?;
    links.extend(attach(what.way, child.child.id(), offset, false)?);
    let entry = child.nanoseconds()?;
    // A session takes the trap at the entry as well; the others share it.
    if what.way == Way::Session {
        links.clear();
    }
    let both = attach(what.way, child.child.id(), offset, true).and_then(|link| {
        links.extend(link);
        child.nanoseconds()
    });
    let both = both.map_err(|error| {
        // Where the kernel kills what is under a seccomp filter, for instance.
        log::debug!("overhead: a return is taken for an entry: {error:#}");
    });
    let traps = |which: fn(&Times) -> u64| {
        let entry_ns = which(&entry);
        let return_ns = match &both {
            Ok(both) => which(both).saturating_sub(which(&entry)),
            Err(()) => entry_ns,
        };
        Traps {
            entry_ns,
            return_ns,
            // Two traps, as long as nothing better is known.
            stepped_ns: match what.cost {
                SiteCost::SingleStepped => entry_ns,
                SiteCost::Emulated => 2 * entry_ns,
            },
        }
    };
    let (alone, among_work) = (traps(|it| it.alone), traps(|it| it.among_work));
    Ok(Price {
        alone,
        // Work makes no trap cheaper; a figure that says so was disturbed.
        among_work: Traps {
            entry_ns: among_work.entry_ns.max(alone.entry_ns),
            return_ns: among_work.return_ns.max(alone.return_ns),
            stepped_ns: among_work.stepped_ns.max(alone.stepped_ns),
        },
    })
}

/// What all traps of a call take, nanoseconds.
struct Times {
    alone: u64,
    among_work: u64,
}

/// Attaches an empty program to our own code in a child.
fn attach(way: Way, pid: u32, offset: u64, at_return: bool) -> Result<Vec<OwnedFd>> {
    const SELF: &CStr = c"/proc/self/exe";
    let (kind, at_return) = match (way, at_return) {
        // The kernel goes the same way with both.
        (Way::Single | Way::Tree, _) => {
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

    /// What the traps of a call take now.
    fn nanoseconds(&mut self) -> Result<Times> {
        let mut line = String::new();
        self.stdin
            .write_all(b"g")
            .and_then(|()| self.stdout.read_line(&mut line))
            .context("failed to talk to the child")?;
        let times = line.trim().split_once(' ').and_then(|(alone, among_work)| {
            Some(Times {
                alone: alone.parse().ok()?,
                among_work: among_work.parse().ok()?,
            })
        });
        times.context("the child was killed")
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it has ended, then
        let _ = self.child.wait();
    }
}

/// What the child does: for each byte on stdin a line on stdout, the nanoseconds that a trap takes alone
/// and among work.
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
    let mut work = Work::new();
    while stdin.read(&mut [0])? > 0 {
        let alone = time_of_trap(cost, || ());
        let among_work = time_of_trap(cost, || work.go());
        writeln!(stdout, "{alone} {among_work}")?;
        stdout.flush()?;
    }
    Ok(())
}

/// How much longer a call takes than one of the same code that is never traced: the median over pairs of
/// batches, one after the other, so that what disturbs the machine disturbs both. In CPU time, in which
/// other processes hardly matter.
fn time_of_trap(cost: SiteCost, mut work: impl FnMut()) -> u64 {
    let mut batch = |function: extern "C" fn()| {
        let clock = || clock_time(libc::CLOCK_THREAD_CPUTIME_ID).unwrap_or(0);
        let start = clock();
        for _ in 0..BATCH {
            work();
            function();
        }
        clock().saturating_sub(start) as i64
    };
    let end = Instant::now() + LIMIT;
    let mut differences = Vec::new();
    while differences.len() < 3 || (Instant::now() < end && differences.len() < 1000) {
        differences.push(batch(function(cost)) - batch(untraced));
    }
    differences.sort_unstable();
    (differences[differences.len() / 2].max(0) as u64) / BATCH
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_trap_it_costs_next_to_nothing() {
        let mut work = Work::new();
        for cost in [SiteCost::Emulated, SiteCost::SingleStepped] {
            // Whatever else runs on the machine makes some of them longer.
            let least = |measure: &mut dyn FnMut() -> u64| (0..5).map(|_| measure()).min();
            let alone = least(&mut || time_of_trap(cost, || ()));
            assert!(alone < Some(100), "{cost}: {alone:?}");
            let among_work = least(&mut || time_of_trap(cost, || work.go()));
            assert!(among_work < Some(1000), "{cost}: {among_work:?}");
        }
    }
}
