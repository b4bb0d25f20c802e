//! The target's root directory, held open, and the only way to files by a path that the target or
//! its container chose.
//!
//! No link leads out of that root, and nothing but a regular file is opened: a FIFO would block, a
//! device would do worse. What is in such a file nobody vouches for.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use super::proc_fs;

/// The root directory of a process. It stays reachable when the process is gone.
#[derive(Debug)]
pub struct Root {
    dir: File,
}

impl Root {
    /// Opens the root directory of a process.
    ///
    /// # Errors
    ///
    /// If there is no such process, or it may not be looked at.
    pub fn of(pid: u32) -> io::Result<Self> {
        Self::at(&proc_fs::pid(pid, "root"))
    }

    /// Takes any directory for a root.
    ///
    /// # Errors
    ///
    /// If it is no directory that can be reached.
    pub fn at(dir: &Path) -> io::Result<Self> {
        let dir = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
            .open(dir)?;
        Ok(Self { dir })
    }

    /// Opens a regular file as this root has it.
    ///
    /// # Errors
    ///
    /// If there is none at the path, or it cannot be read.
    pub fn open(&self, path: &Path) -> io::Result<File> {
        self.open_with(path, OFlag::empty())
    }

    /// The same, but not if the path itself is a symbolic link.
    ///
    /// # Errors
    ///
    /// As [`Self::open`].
    pub fn open_no_link(&self, path: &Path) -> io::Result<File> {
        self.open_with(path, OFlag::O_NOFOLLOW)
    }

    fn open_with(&self, path: &Path, flags: OFlag) -> io::Result<File> {
        let how = OpenHow::new()
            .flags(flags | OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        only_regular(File::from(openat2(self.dir.as_fd(), path, how)?))
    }
}

/// Opens a regular file of the host, by a path that the user gave or that is ours.
///
/// # Errors
///
/// If there is none at the path, or it cannot be read.
pub fn open_regular(path: &Path) -> io::Result<File> {
    only_regular(
        OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path)?,
    )
}

fn only_regular(file: File) -> io::Result<File> {
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is not a regular file",
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_stay_inside_and_only_regular_files_open() {
        let outside = tempfile::tempdir().unwrap();
        let inside = outside.path().join("root");
        std::fs::create_dir(&inside).unwrap();
        std::fs::write(outside.path().join("secret"), "outside").unwrap();
        std::fs::write(inside.join("plain"), "inside").unwrap();
        symlink(outside.path().join("secret"), inside.join("absolute")).unwrap();
        symlink("../secret", inside.join("relative")).unwrap();
        symlink("/plain", inside.join("fine")).unwrap();
        symlink("/proc/self/exe", inside.join("magic")).unwrap();
        nix::unistd::mkfifo(&inside.join("fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        let root = Root::at(&inside).unwrap();
        for name in ["/plain", "/fine", "../../plain"] {
            let mut file = root.open(Path::new(name)).unwrap();
            assert_eq!(std::io::read_to_string(&mut file).unwrap(), "inside");
        }
        for name in ["/absolute", "/relative", "/magic", "/fifo", "/", "/none"] {
            assert!(root.open(Path::new(name)).is_err(), "{name}");
        }
        assert!(root.open_no_link(Path::new("/fine")).is_err());
        assert!(open_regular(&inside.join("fifo")).is_err());
        assert!(open_regular(Path::new("/dev/zero")).is_err());
    }
}
