//! Child processes with bounded waits. What stays when a test fails is killed.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use crate::LIMIT;

/// A child process; killed when dropped.
pub struct Process {
    child: Child,
    stdout: Lines,
    stderr: Lines,
}

impl Process {
    /// Starts a command with pipes on all three streams.
    pub fn spawn(command: &mut Command) -> Process {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = loop {
            match command.spawn() {
                // A program that a test has written, until what another test has forked executes another.
                Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => thread::yield_now(),
                spawned => break spawned,
            }
        }
        .unwrap_or_else(|error| panic!("failed to start {command:?}: {error}"));
        let stdout = Lines::new(child.stdout.take().expect("stdout is a pipe"));
        let stderr = Lines::new(child.stderr.take().expect("stderr is a pipe"));
        Process {
            child,
            stdout,
            stderr,
        }
    }

    /// Its PID.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends bytes to its stdin; that it is gone already is no error.
    pub fn send(&mut self, bytes: &[u8]) {
        if let Some(stdin) = self.child.stdin.as_mut() {
            let _: std::io::Result<()> = ChildStdin::write_all(stdin, bytes);
        }
    }

    /// Closes its stdin.
    pub fn close_stdin(&mut self) {
        self.child.stdin = None;
    }

    /// Sends it a signal; panics when it is gone.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.rustix_pid(), signal).expect("failed to send a signal");
    }

    /// The next line of stdout; panics with what is on stderr when none comes.
    pub fn line(&self, what: &str) -> String {
        self.next_line(&self.stdout, what, |_| true)
    }

    /// The next line of stdout that starts with `start`; panics with what came instead.
    pub fn stdout_line(&self, start: &str) -> String {
        self.next_line(&self.stdout, start, |line| line.starts_with(start))
    }

    /// The next line of stdout that has `part` in it; panics with what came instead.
    pub fn stdout_line_with(&self, part: &str) -> String {
        self.next_line(&self.stdout, part, |line| line.contains(part))
    }

    /// The next line of stderr that starts with `start`; panics with what came instead.
    pub fn stderr_line(&self, start: &str) -> String {
        self.next_line(&self.stderr, start, |line| line.starts_with(start))
    }

    /// The next line of stderr that has `part` in it; panics with what came instead.
    pub fn stderr_line_with(&self, part: &str) -> String {
        self.next_line(&self.stderr, part, |line| line.contains(part))
    }

    fn next_line(&self, from: &Lines, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let until = Instant::now() + LIMIT;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match from.next.recv_timeout(left) {
                Ok(line) if wanted(&line) => return line,
                Ok(_) => {}
                Err(error) => panic!(
                    "waited for `{what}` of process {}, in vain ({error}); its stderr:\n{}\nits stdout:\n{}",
                    self.pid(),
                    self.stderr.all(),
                    self.stdout.all()
                ),
            }
        }
    }

    /// Waits for its end without a word to it. Gives the status and all it wrote on stdout and
    /// stderr.
    pub fn end(self) -> (ExitStatus, String, String) {
        self.end_within(LIMIT)
    }

    /// The same for one that takes longer.
    pub fn end_within(mut self, limit: Duration) -> (ExitStatus, String, String) {
        let status = self.wait(limit);
        self.stdout.close();
        self.stderr.close();
        (status, self.stdout.all(), self.stderr.all())
    }

    fn wait(&mut self, limit: Duration) -> ExitStatus {
        let pidfd = pidfd_open(self.rustix_pid(), PidfdFlags::empty())
            .expect("failed to open a file descriptor of a child");
        let limit = Timespec {
            tv_sec: limit.as_secs() as i64,
            tv_nsec: 0,
        };
        let ended = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&limit));
        assert_eq!(
            ended,
            Ok(1),
            "process {} does not end; its stderr:\n{}",
            self.pid(),
            self.stderr.all()
        );
        self.child.wait().expect("failed to wait for a child")
    }

    fn rustix_pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail when it has ended, which is as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The lines of a stream as they come, and all of them so far.
struct Lines {
    next: Receiver<String>,
    all: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Lines {
    fn new(stream: impl Read + Send + 'static) -> Lines {
        let (sender, next) = channel();
        let all = Arc::new(Mutex::new(String::new()));
        let copy = all.clone();
        let reader = thread::spawn(move || {
            let mut stream = BufReader::new(stream);
            let mut bytes = Vec::new();
            // A progress line may end with a carriage return and never with a newline.
            while stream.read_until(b'\n', &mut bytes).is_ok_and(|n| n > 0) {
                let text = String::from_utf8_lossy(&bytes);
                copy.lock()
                    .expect("no reader panics with the lock")
                    .push_str(&text);
                for line in text.trim_end_matches(['\r', '\n']).split('\r') {
                    let _ = sender.send(line.to_string());
                }
                bytes.clear();
            }
        });
        Lines {
            next,
            all,
            reader: Some(reader),
        }
    }

    /// Waits for the end of the stream; the process has ended by now.
    fn close(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("a reader panicked");
        }
    }

    fn all(&self) -> String {
        self.all
            .lock()
            .expect("no reader panics with the lock")
            .clone()
    }
}
