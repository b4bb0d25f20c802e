//! Names of containers by the command line of their monitor: podman and CRI-O start a `conmon` for each,
//! and it is the parent of the first process. That tells the name where nobody knows the files, as of
//! a podman without root or with another `--root`.
//!
//! Whoever runs the monitor wrote its command line; it is a name to show and to choose by.

use super::state::read_bounded;
use crate::target::proc_fs;
use crate::target::process::stat;

/// Name of the monitor's process.
const CONMON: &str = "conmon";

/// Parents that are looked at; a container's first process has the monitor for its own.
const MAX_PARENTS: usize = 64;

/// Bytes of a command line. podman's has some two thousand.
const MAX_CMDLINE: u64 = 1 << 16;

/// The name of a container, by one of its processes.
pub fn name(id: &str, pid: u32) -> Option<String> {
    let parent = |pid: &u32| u32::try_from(stat(*pid).ok()?.ppid).ok();
    let above = std::iter::successors(Some(pid), parent).skip(1);
    let monitors = above.take(MAX_PARENTS).take_while(|&pid| pid > 1);
    let mut monitors = monitors.filter(|&pid| stat(pid).is_ok_and(|it| it.comm == CONMON));
    monitors.find_map(|pid| {
        let cmdline = read_bounded(&proc_fs::pid(pid, "cmdline"), MAX_CMDLINE)?;
        name_in(&String::from_utf8_lossy(&cmdline), id)
    })
}

/// The name in the monitor's command line, if it is that container's.
fn name_in(cmdline: &str, id: &str) -> Option<String> {
    let words: Vec<&str> = cmdline.split('\0').collect();
    let value = |short: &str, long: &str| {
        let mut pairs = words
            .windows(2)
            .filter(|pair| pair[0] == short || pair[0] == long);
        pairs.next().map(|pair| pair[1])
    };
    let name = value("-n", "--name").filter(|name| !name.is_empty())?;
    (value("-c", "--cid")? == id).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_its_own_container() {
        let podman =
            "/usr/bin/conmon\0--api-version\x001\0-c\0abc\0-u\0abc\0-n\0web\0--exit-dir\0/run\0";
        assert_eq!(name_in(podman, "abc").as_deref(), Some("web"));
        assert_eq!(name_in(podman, "abcd"), None);
        let long = "conmon\0--cid\0abc\0--name\0k8s_web\0";
        assert_eq!(name_in(long, "abc").as_deref(), Some("k8s_web"));
        for cmdline in [
            "",
            "\0",
            "conmon\0-c\0abc",
            "conmon\0-c\0abc\0-n",
            "conmon\0-n\0x",
            "conmon\0-c\0abc\0-n\0\0",
        ] {
            assert_eq!(name_in(cmdline, "abc"), None, "{cmdline:?}");
        }
    }

    #[test]
    fn nobody_monitors_this_process() {
        assert_eq!(name("abc", std::process::id()), None);
    }
}
