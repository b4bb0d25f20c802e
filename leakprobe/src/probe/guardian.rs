//! A process that is killed while the kernel takes its probes out, or puts them in, leaves breakpoints
//! behind: the kernel gives up what it is doing, and keeps the breakpoint. It takes it out when somebody
//! else has had a probe in the same place. So a process of our own, the guardian, is told of each place
//! before it gets probes; and if leakprobe ends without a word, it has empty ones there for a moment.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
    sendmsg, socketpair,
};

use super::multi::{self, Code, LinkKind, Places};
use super::perf;
use super::way::Way;
use crate::target::Process;

/// The word on the command line that makes leakprobe the guardian of another one.
pub const GUARDIAN: &str = "probe-guardian";

/// Offsets that one message tells of; more of a file are more messages.
const OFFSETS: usize = 64;

/// How long the kernel may take to end a process.
const LIMIT: Duration = Duration::from_secs(60);

/// Between two looks at it.
const PAUSE: Duration = Duration::from_millis(5);

/// What says that no probe is left: a message without a file.
const NOTHING_LEFT: &[u8] = b".";

/// Sees to it that no breakpoint stays behind. Drop it when all probes are gone.
pub struct Guardian {
    process: Child,
    socket: OwnedFd,
}

impl Guardian {
    /// Starts it, for probes that are attached in this way.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn start(way: Way) -> Result<Self> {
        let (socket, its) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .context("failed to make a pair of sockets")?;
        let process = Command::new("/proc/self/exe")
            .args([GUARDIAN, way.name()])
            .stdin(its)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/")
            .process_group(0) // or Ctrl-C would end it
            .spawn()
            .context("failed to start the guardian of probes")?;
        Ok(Self { process, socket })
    }

    /// To be told before probes are placed at these offsets of a file.
    ///
    /// # Errors
    ///
    /// If it has ended.
    pub fn expect(&self, file: &File, offsets: &[u64]) -> Result<()> {
        let fds = [file.as_raw_fd()];
        for offsets in offsets.chunks(OFFSETS) {
            let bytes: Vec<u8> = offsets.iter().flat_map(|it| it.to_le_bytes()).collect();
            self.tell(&bytes, &[ControlMessage::ScmRights(&fds)])
                .context("the guardian of probes has ended")?;
        }
        Ok(())
    }

    fn tell(&self, bytes: &[u8], files: &[ControlMessage<'_>]) -> nix::Result<usize> {
        let socket = self.socket.as_raw_fd();
        let bytes = [IoSlice::new(bytes)];
        sendmsg::<()>(socket, &bytes, files, MsgFlags::MSG_NOSIGNAL, None)
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        // If it has ended nobody needs to know.
        let _ = self.tell(NOTHING_LEFT, &[]);
        let _ = self.process.wait();
    }
}

/// Where there were probes.
struct Expected {
    file: File,
    offsets: Vec<u64>,
}

/// What the guardian does, with a socket as stdin: notes what it is told; and if the other end is closed
/// without the word that nothing is left, waits for the end of that process, and takes out what it left.
/// `way` is the name of how probes are attached.
///
/// # Errors
///
/// If it is not the child of a leakprobe, or the kernel refuses.
pub fn run_guardian(way: &str) -> io::Result<()> {
    let way = Way::ALL.into_iter().find(|it| it.name() == way);
    let way = way.ok_or(io::ErrorKind::InvalidInput)?;
    let leakprobe = Process::open_child(std::os::unix::process::parent_id());
    let mut expected = Vec::new();
    loop {
        match receive()? {
            Message::Expect(it) => expected.push(it),
            Message::NothingLeft => return Ok(()),
            Message::End => break,
        }
    }
    let until = Instant::now() + LIMIT;
    while leakprobe.as_ref().is_some_and(|it| !it.has_ended()) && Instant::now() < until {
        sleep(PAUSE);
    }
    // One that fails does not keep the others from being tried.
    let swept: Vec<_> = expected.iter().map(|it| it.sweep(way)).collect();
    swept.into_iter().collect()
}

enum Message {
    Expect(Expected),
    NothingLeft,
    End,
}

fn receive() -> io::Result<Message> {
    let mut bytes = [0; OFFSETS * size_of::<u64>()];
    let mut space = nix::cmsg_space!([libc::c_int; 1]);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let stdin = io::stdin().as_raw_fd();
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let (length, file) = loop {
        match recvmsg::<()>(stdin, &mut parts, Some(&mut space), flags) {
            Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
            Ok(message) => {
                let file = message.cmsgs()?.find_map(|it| match it {
                    ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
                    _ => None,
                });
                break (message.bytes, file);
            }
        }
    };
    Ok(match file {
        None if length == 0 => Message::End,
        None => Message::NothingLeft,
        Some(fd) => {
            let (offsets, _) = bytes[..length].as_chunks();
            Message::Expect(Expected {
                // SAFETY: the kernel has just made it for us, and nobody else has it.
                file: unsafe { OwnedFd::from_raw_fd(fd) }.into(),
                offsets: offsets.iter().map(|it| u64::from_le_bytes(*it)).collect(),
            })
        }
    })
}

impl Expected {
    /// Has probes for this process in all places, which do nothing, for a moment. When they go the kernel
    /// looks at all processes that have the code.
    fn sweep(&self, way: Way) -> io::Result<()> {
        let path = CString::new(format!("/proc/self/fd/{}", self.file.as_raw_fd()))?;
        if matches!(way, Way::Session | Way::Multi) {
            let program = multi::load(&Code::nothing(), LinkKind::Multi)?;
            let places = Places {
                file: &path,
                pid: std::process::id(),
                offsets: &self.offsets,
                cookies: None,
                at_return: false,
            };
            return multi::link(program.as_fd(), LinkKind::Multi, &places).map(drop);
        }
        let open = |&offset| perf::open_uprobe(&path, offset);
        let events: Vec<_> = self.offsets.iter().map(open).collect();
        events.into_iter().try_for_each(|event| event.map(drop))
    }
}
