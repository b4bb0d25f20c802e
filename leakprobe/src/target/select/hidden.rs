//! Whether `/proc` hides the processes of others: mounted with hidepid, it does so from whoever may
//! not trace them. What is not seen cannot be told from what is not there.

use std::fs;
use std::path::Path;

use crate::target::proc_fs;
use crate::target::process::status_field;

/// `CAP_SYS_PTRACE` of the kernel's `include/uapi/linux/capability.h`, in `CapEff`.
const CAP_SYS_PTRACE: u64 = 1 << 19;

/// What `/proc` is mounted with, such as `hidepid=invisible`, if that hides anything from us.
pub fn hidden_by() -> Option<String> {
    let mounts = fs::read("/proc/self/mountinfo").ok()?;
    let (option, group) = hidepid(&String::from_utf8_lossy(&mounts), proc_fs::named())?;
    let capabilities = status_field(std::process::id(), "CapEff:")?;
    let capabilities = u64::from_str_radix(capabilities.trim(), 16).ok()?;
    let groups = nix::unistd::getgroups().unwrap_or_default();
    let in_group = group.is_some_and(|group| {
        nix::unistd::getegid().as_raw() == group || groups.iter().any(|it| it.as_raw() == group)
    });
    (capabilities & CAP_SYS_PTRACE == 0 && !in_group).then_some(option)
}

/// The sentence to say then.
pub fn advice(option: &str) -> String {
    format!(
        "{} is mounted with {option}, which hides the processes of others: run leakprobe as root \
         (it needs CAP_SYS_PTRACE)",
        proc_fs::named().display()
    )
}

/// The option with which `/proc` hides, and the group that sees all the same.
fn hidepid(mounts: &str, place: &Path) -> Option<(String, Option<u32>)> {
    // The last mount on a place is the one that is seen.
    let options = mounts
        .lines()
        .filter_map(|line| {
            let (before, after) = line.split_once(" - ")?;
            let mut after = after.split(' ');
            let is_here = before.split(' ').nth(4).map(Path::new) == Some(place);
            let is_proc = is_here && after.next() == Some("proc");
            is_proc.then(|| after.nth(1).unwrap_or_default())
        })
        .next_back()?;
    let value = |key: &str| options.split(',').find_map(|it| it.strip_prefix(key));
    let hidepid = value("hidepid=")?;
    if matches!(hidepid, "0" | "off") {
        return None;
    }
    // Of processes that may not be traced not even the group sees anything.
    let all = matches!(hidepid, "4" | "ptraceable");
    let group = value("gid=")
        .filter(|_| !all)
        .and_then(|gid| gid.parse().ok());
    Some((format!("hidepid={hidepid}"), group))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_proc() {
        let mount = |options: &str| {
            let mounts = format!(
                "25 1 0:23 / / rw - ext4 /dev/vda rw\n\
                 24 25 0:22 / /proc rw,nosuid shared:5 - proc proc {options}\n\
                 26 25 0:22 / /mnt/proc rw - proc proc rw,hidepid=2\n"
            );
            hidepid(&mounts, Path::new("/proc"))
        };
        let hides = |option: &str, group| Some((option.to_owned(), group));
        assert_eq!(mount("rw"), None);
        assert_eq!(mount("rw,hidepid=off"), None);
        assert_eq!(mount("rw,gid=5,hidepid=0"), None);
        assert_eq!(
            mount("rw,hidepid=invisible"),
            hides("hidepid=invisible", None)
        );
        assert_eq!(mount("rw,gid=5,hidepid=2"), hides("hidepid=2", Some(5)));
        assert_eq!(
            mount("rw,gid=5,hidepid=ptraceable"),
            hides("hidepid=ptraceable", None)
        );
        assert_eq!(hidepid("", Path::new("/proc")), None);
    }
}
