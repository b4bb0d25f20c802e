//! Where the files of other processes are: `/proc`, or the procfs that `--proc` names. Every path to
//! them is made here. `/proc/self` and `/proc/sys` are not: those are leakprobe's own and the
//! machine's, wherever the processes are looked at.
//!
//! A procfs has the PIDs of one PID namespace, and the kernel takes a PID as that of the caller's.
//! So both have to be the same; [`choose`] tells what they are to each other.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use procfs::ProcResult;
use procfs::process::Process;

use crate::capability::advice_to_look;

/// Set once, before anything is read. Held open: a container may put something else at the path that
/// was looked at, with links to wherever it likes.
static CHOSEN: OnceLock<Chosen> = OnceLock::new();

#[derive(Debug)]
struct Chosen {
    _folder: File,
    /// A path to it.
    root: PathBuf,
    /// The path that the user gave.
    named: PathBuf,
}

/// `PROC_ROOT_INO` of the kernel's include/linux/proc_ns.h.
const ROOT_INODE: u64 = 1;

/// Where the procfs is mounted.
pub fn root() -> &'static Path {
    CHOSEN
        .get()
        .map_or(Path::new("/proc"), |chosen| chosen.root.as_path())
}

/// The same as the user knows it.
pub fn named() -> &'static Path {
    CHOSEN
        .get()
        .map_or(Path::new("/proc"), |chosen| chosen.named.as_path())
}

/// A file of a process.
pub fn pid(pid: u32, name: &str) -> PathBuf {
    root().join(pid.to_string()).join(name)
}

/// Reads a file about the memory of a process, such as `maps`. The kernel gives it out in pieces, and nothing
/// more once that memory is gone. Then a part would look like the whole: it is empty.
///
/// # Errors
///
/// If it cannot be read.
pub fn read_whole(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    let is_there = file.read_at(&mut [0], 0)? > 0;
    Ok(if is_there { text } else { Vec::new() })
}

/// A process, as the crate `procfs` reads it.
///
/// # Errors
///
/// If there is none.
pub fn process(pid: u32) -> ProcResult<Process> {
    Process::new_with_root(root().join(pid.to_string()))
}

/// What a procfs shows.
#[derive(Debug)]
pub enum Shows {
    /// The processes of leakprobe's own PID namespace. It is in use from now on.
    Ours,
    /// Those of another one, which this file stands for; if it is below ours, it can be entered.
    Other(File),
}

/// Looks what the procfs at `path` shows, and uses it if that is right.
///
/// # Errors
///
/// One sentence each for: no procfs, a procfs above leakprobe's own PID namespace.
pub fn choose(path: &Path) -> Result<Shows> {
    let shown = path.display();
    let folder = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(path)
        .with_context(|| format!("failed to open the folder `{shown}` for --proc"))?;
    let is_procfs = fstatfs(&folder).is_ok_and(|it| it.filesystem_type() == PROC_SUPER_MAGIC)
        && folder.metadata().is_ok_and(|it| it.ino() == ROOT_INODE);
    if !is_procfs {
        bail!("`--proc {shown}` cannot be used: no procfs is mounted there");
    }
    let root = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()));
    match fs::read_to_string(root.join("self/status")) {
        Ok(status) => match levels(&status) {
            1 => {
                // Already set in tests alone.
                let _ = CHOSEN.set(Chosen {
                    _folder: folder,
                    root,
                    named: path.to_owned(),
                });
                Ok(Shows::Ours)
            }
            _ => bail!(
                "`{shown}` shows a PID namespace above leakprobe's own, and Linux lets nobody \
                 attach there from below: start leakprobe in that namespace (docker run \
                 --pid=host, or hostPID: true in a pod); for a process that shares leakprobe's \
                 namespace leave --proc out, and give its PID as it is in here"
            ),
        },
        // It has no number for us.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let init = File::open(root.join("1/ns/pid")).with_context(|| {
                format!("failed to open `{shown}/1/ns/pid`: {}", advice_to_look())
            });
            Ok(Shows::Other(init?))
        }
        Err(error) => Err(error).with_context(|| format!("failed to read `{shown}/self/status`")),
    }
}

/// In how many PID namespaces from the procfs's on a process is: numbers in `NSpid` of its status.
fn levels(status: &str) -> usize {
    // The first line is the name, which may hold anything but a newline.
    let mut lines = status.lines().skip(1);
    let field = lines.find_map(|line| line.strip_prefix("NSpid:"));
    field.map_or(0, |numbers| numbers.split_whitespace().count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_below_the_procfs() {
        assert!(pid(7, "maps").ends_with("7/maps"));
        let me = std::process::id();
        assert_eq!(process(me).unwrap().pid() as u32, me);
    }

    #[test]
    fn only_a_whole_procfs_will_do() {
        let error = |path| format!("{:#}", choose(Path::new(path)).unwrap_err());
        assert!(error("/nowhere").starts_with("failed to open the folder `/nowhere`"));
        assert!(error("/proc/version").contains("Not a directory"));
        assert!(error("/").contains("no procfs is mounted there"));
        assert!(error("/proc/self").contains("no procfs is mounted there"));
    }

    #[test]
    fn levels_are_counted_where_they_stand() {
        assert_eq!(levels("Name:\tx\nNSpid:\t11\n"), 1);
        assert_eq!(levels("Name:\tx\nNSpid:\t11\t5\t1\nNSpgid:\t1\n"), 3);
        assert_eq!(levels("Name:\tNSpid: 1\n"), 0);
    }
}
