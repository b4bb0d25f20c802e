//! Probe events by the kernel's tracefs. The events of the uprobe PMU would need none, but new
//! threads cannot inherit those: the kernel then looks for the file's path in the memory of the
//! process that makes the thread, and the thread cannot be made.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

use super::sampler::Place;

const USUAL: &str = "/sys/kernel/tracing";
const GROUP: &str = "leakprobe_oracle";

/// Defined probe events; removed when dropped. They cost nothing until they are opened.
pub struct Events {
    folder: PathBuf,
    names: Vec<String>,
    /// The number of each, for `perf_event_open`.
    pub ids: Vec<u64>,
    /// The root of a tracefs that is mounted nowhere any more.
    _root: Option<File>,
}

impl Events {
    /// Defines an event for each place. Panics when the kernel refuses.
    pub fn define(places: &[Place]) -> Events {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let mut events = Events::open();
        for place in places {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let name = format!("{GROUP}/p{}_{number}", std::process::id());
            events.command(&format!("p:{name} {}:{:#x}", place.path, place.offset));
            let id = events.folder.join("events").join(&name).join("id");
            events.names.push(name);
            let text = fs::read_to_string(&id)
                .unwrap_or_else(|error| panic!("failed to read `{}`: {error}", id.display()));
            events
                .ids
                .push(text.trim().parse().expect("an event's id is a number"));
        }
        events
    }

    fn open() -> Events {
        let events = Events::at();
        events.sweep();
        events
    }

    fn at() -> Events {
        let mut events = Events {
            folder: USUAL.into(),
            names: Vec::new(),
            ids: Vec::new(),
            _root: None,
        };
        if !Path::new(USUAL).join("uprobe_events").exists() {
            let root = mount_unseen();
            events.folder = format!("/proc/self/fd/{}", root.as_raw_fd()).into();
            events._root = Some(root);
        }
        events
    }

    /// Removes what a killed test has left.
    fn sweep(&self) {
        let list = fs::read_to_string(self.folder.join("uprobe_events")).unwrap_or_default();
        for name in list
            .lines()
            .filter_map(|line| line.split([':', ' ']).nth(1))
        {
            let pid = name.strip_prefix(GROUP).and_then(|rest| {
                let (pid, _) = rest.strip_prefix("/p")?.split_once('_')?;
                Some(Path::new("/proc").join(pid))
            });
            if pid.is_some_and(|process| !process.exists()) {
                // Another one may have done it by now.
                let _ = self.try_command(&format!("-:{name}"));
            }
        }
    }

    fn command(&self, line: &str) {
        self.try_command(line)
            .unwrap_or_else(|error| panic!("failed to tell tracefs `{line}`: {error}"));
    }

    fn try_command(&self, line: &str) -> io::Result<()> {
        let path = self.folder.join("uprobe_events");
        let mut file = OpenOptions::new().append(true).open(path)?;
        file.write_all(line.as_bytes())
    }
}

/// All uprobe events of the machine, a line each.
pub fn definitions() -> String {
    let events = Events::at();
    let path = events.folder.join("uprobe_events");
    let read = || {
        fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("failed to read `{}`: {error}", path.display()))
    };
    // Some are left out of a list that is made while others are removed.
    let mut last = read();
    loop {
        let list = read();
        if list == last {
            return list;
        }
        last = list;
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        for name in &self.names {
            // After a panic it may still be in use; the next test sweeps it away.
            let _ = self.try_command(&format!("-:{name}"));
        }
    }
}

/// A tracefs for as long as the file is open, mounted where nobody sees it: nothing is left of it, not
/// even after a kill.
fn mount_unseen() -> File {
    let mounted = fsopen("tracefs", FsOpenFlags::FSOPEN_CLOEXEC).and_then(|fs| {
        fsconfig_create(fs.as_fd())?;
        fsmount(
            fs.as_fd(),
            FsMountFlags::FSMOUNT_CLOEXEC,
            MountAttrFlags::empty(),
        )
    });
    let root = mounted.unwrap_or_else(|error| panic!("failed to mount tracefs: {error}"));
    root.into()
}
