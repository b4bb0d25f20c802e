//! One look at the memory of many processes, and the names of their users.

use std::collections::HashMap;
use std::fs;
use std::time::Instant;

use nix::unistd::{Uid, User};

use crate::target::{Entry, proc_fs};

/// What was resident when.
#[derive(Debug)]
pub struct Look {
    /// When it began.
    pub taken: Instant,
    rss: HashMap<u32, u64>,
}

impl Look {
    /// Looks at some processes. One that has ended is left out, also if its PID is another's now.
    pub fn at(entries: &[Entry]) -> Self {
        let taken = Instant::now();
        let rss = entries
            .iter()
            .filter_map(|entry| {
                let rss = kibibytes(&status(entry.pid)?)?.checked_mul(1024)?;
                entry.is_there().then_some((entry.pid, rss))
            })
            .collect();
        Self { taken, rss }
    }

    /// Resident memory of a process, bytes.
    pub fn rss(&self, pid: u32) -> Option<u64> {
        self.rss.get(&pid).copied()
    }
}

/// Names of users, each looked up once.
#[derive(Debug, Default)]
pub struct Users(HashMap<u32, Option<String>>);

impl Users {
    /// What this machine calls a user.
    pub fn name(&mut self, uid: u32) -> Option<String> {
        let look_up = || {
            User::from_uid(Uid::from_raw(uid))
                .ok()
                .flatten()
                .map(|it| it.name)
        };
        self.0.entry(uid).or_insert_with(look_up).clone()
    }
}

/// The effective user of a process.
pub fn uid(pid: u32) -> Option<u32> {
    let status = status(pid)?;
    field(&status, "Uid:")?
        .split_whitespace()
        .nth(1)?
        .parse()
        .ok()
}

fn kibibytes(status: &str) -> Option<u64> {
    field(status, "VmRSS:")?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

fn status(pid: u32) -> Option<String> {
    let status = fs::read(proc_fs::pid(pid, "status")).ok()?;
    Some(String::from_utf8_lossy(&status).into_owned())
}

/// The first line is the name, which may hold anything but a newline.
fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status
        .lines()
        .skip(1)
        .find_map(|line| line.strip_prefix(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_status() {
        let status = "Name:\tVmRSS:\t1 kB\nUid:\t1000\t0\t1000\t0\nVmRSS:\t    4096 kB\n";
        assert_eq!(kibibytes(status), Some(4096));
        assert_eq!(field(status, "Uid:"), Some("\t1000\t0\t1000\t0"));
        // A kernel thread has none.
        assert_eq!(kibibytes("Name:\tkthreadd\nState:\tS\n"), None);
    }

    #[test]
    fn users_of_this_machine() {
        let mut users = Users::default();
        assert_eq!(users.name(0).as_deref(), Some("root"));
        assert_eq!(users.name(0).as_deref(), Some("root"));
        assert_eq!(users.name(4_294_967_294), None);
        assert_eq!(
            uid(std::process::id()),
            Some(nix::unistd::geteuid().as_raw())
        );
    }
}
