//! The programs that take more to start than a command.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::program::{Program, built, source};
use crate::node::{output, rootfs};
use crate::postgres::Server;
use crate::process::Process;

/// The musl Node on the oracle's musl, in namespaces of its own, its root file system a plain directory.
pub fn musl_node() -> Program {
    let inside = r#"mount --bind "$2" "$1/leak.js" && mount -t proc proc "$1/proc" &&
        mount --bind "$3" "$1/lib/ld-musl-x86_64.so.1" && exec chroot "$1" /usr/bin/node /leak.js"#;
    let mut command = Command::new("unshare");
    command
        .args(["--pid", "--mount", "--fork", "--kill-child"])
        .args(["sh", "-c", inside, "sh"])
        .arg(rootfs())
        .arg(source("script.js"))
        .arg(built("musl/O2/libc.so"));
    let program = Program::scripted(&mut command);
    let unshare = program.pid;
    let children = format!("/proc/{unshare}/task/{unshare}/children");
    let children = fs::read_to_string(children).expect("failed to read the children of unshare");
    program.with_pid(number(&children))
}

/// sqlite3 on a database in memory.
pub fn sqlite() -> Program {
    let mut go = fs::read(source("work.sql")).expect("failed to read work.sql");
    go.extend_from_slice(b"\nSELECT 'done';\n");
    let mut process = Process::spawn(&mut Command::new("sqlite3"));
    process.send(b"SELECT 'ready';\n");
    process.stdout_line("ready");
    Program::talking(process, go, "done")
}

/// git comparing the commits of a repository as it is told on stdin.
pub fn git() -> Program {
    let folder = TempDir::new().expect("failed to make a temporary folder");
    let git = |words: &[&str]| {
        let mut command = Command::new("git");
        command.arg("-C").arg(folder.path()).args(words);
        command
    };
    output(&mut git(&["init", "--quiet", "--bare", "."])).expect("git makes a repository");
    let mut import = git(&["fast-import", "--quiet"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("failed to start git");
    let mut stdin = import.stdin.take().expect("stdin is a pipe");
    stdin
        .write_all(history().as_bytes())
        .expect("git reads the history");
    drop(stdin);
    let status = import.wait().expect("failed to wait for git");
    assert!(status.success(), "git fast-import ended with {status}");

    let mut go = output(&mut git(&["rev-list", "--all"])).expect("git lists its commits");
    // What is no commit it repeats.
    go.push_str("\ndone\n");
    let mut process = Process::spawn(&mut git(&[
        "diff-tree",
        "--stdin",
        "-r",
        "-p",
        "--stat",
        "--summary",
        "--find-renames",
        "--find-copies-harder",
        "--break-rewrites",
        "--word-diff",
        "--function-context",
        "--cc",
        "--root",
        "--pretty=fuller",
        "-GText",
    ]));
    process.send(b"ready\n");
    process.stdout_line("ready");
    Program::talking(process, go.into_bytes(), "done").with(folder)
}

/// Commits that add, change, rename, copy and delete files, and merge, as git's fast-import reads them.
fn history() -> String {
    let mut text = String::new();
    for commit in 1..=120_u32 {
        let branch = if commit % 10 < 3 { "side" } else { "main" };
        text += &format!("commit refs/heads/{branch}\nmark :{commit}\n");
        text += &format!("committer A <a@example.org> {} +0000\n", 1_000_000 + commit);
        text += &format!("data <<E\nText {commit}\nE\n");
        if commit % 10 == 9 && commit > 10 {
            text += &format!("merge :{}\n", commit - 7);
        }
        for file in 0..5 {
            let name = (commit * 7 + file * 3) % 30;
            let lines: String = (0..60)
                .map(|line| match (line * commit + file) % 7 {
                    0 => format!("Text {line} of commit {commit}\n"),
                    _ => format!("  line {line} of file {name} {}\n", line / 9),
                })
                .collect();
            text += &format!("M 644 inline d{}/f{name}\ndata <<E\n{lines}E\n", name % 4);
        }
        let name = (commit * 7) % 30;
        match commit % 6 {
            1 => text += &format!("R d{}/f{name} moved/f{name}\n", name % 4),
            2 => text += &format!("C d{}/f{name} copied/f{name}\n", name % 4),
            3 => text += &format!("M 755 inline run{name}\ndata <<E\n#!/bin/sh\nE\n"),
            4 => text += &format!("M 120000 inline link{name}\ndata <<E\ntarget{commit}\nE\n"),
            _ => text += &format!("D d{}/f{name}\n", name % 4),
        }
    }
    text
}

/// A backend of a PostgreSQL server of its own.
pub fn postgres() -> Program {
    let server = Server::start();
    let mut psql = Process::spawn(server.client("psql").args(["-X", "-q", "-A", "-t"]));
    // What is loaded later is not known to leakprobe at once; that is not what is compared here.
    psql.send(b"LOAD 'plpgsql'; SELECT to_tsvector('english', 'words');\n");
    psql.send(b"SELECT 'pid ' || pg_backend_pid();\n");
    let line = psql.stdout_line("pid ");
    let pid = number(&line[4..]);
    let mut go = fs::read(source("work.pg.sql")).expect("failed to read work.pg.sql");
    go.extend_from_slice(b"\nSELECT 'done';\n");
    Program::talking(psql, go, "done")
        .with_pid(pid)
        .with(server)
}

fn number(text: &str) -> u32 {
    text.trim()
        .parse()
        .unwrap_or_else(|error| panic!("`{text}` is not one number: {error}"))
}
