//! Names of containers from Docker, over the socket of its API. A question and its answer, with a
//! limit to time and size, and no more of HTTP than that takes.
//!
//! What a container's labels say, whoever started it has chosen.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use serde::Deserialize;

/// Where Docker listens unless `DOCKER_HOST` says otherwise.
const DEFAULT: &str = "/var/run/docker.sock";

/// For all of a question and its answer.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Bytes of an answer; a container takes one or two thousand of them.
const MAX_ANSWER: usize = 64 << 20;

/// A container that Docker knows, running or not.
#[derive(Debug, Deserialize)]
pub struct DockerContainer {
    /// 64 hexadecimal digits.
    #[serde(rename = "Id")]
    pub id: String,
    /// `/web`; also `/other/web` where another container has a link to it.
    #[serde(rename = "Names", default)]
    names: Option<Vec<String>>,
    /// `running`, `paused`, `exited` and so on.
    #[serde(rename = "State", default)]
    pub state: String,
    /// Kubernetes labels among them.
    #[serde(rename = "Labels", default)]
    labels: Option<HashMap<String, String>>,
}

impl DockerContainer {
    /// Its own name.
    pub fn name(&self) -> Option<&str> {
        let names = self.names.iter().flatten();
        names
            .map(|name| name.strip_prefix('/').unwrap_or(name))
            .find(|name| !name.contains('/'))
    }

    /// Its labels.
    pub fn labels(&self) -> HashMap<String, String> {
        self.labels.clone().unwrap_or_default()
    }
}

/// All containers that Docker knows.
///
/// # Errors
///
/// If there is no Docker to ask, with the socket's path, or it gives no answer that makes sense.
pub fn containers() -> Result<Vec<DockerContainer>> {
    let host = std::env::var("DOCKER_HOST").ok();
    list(&socket_path(host.as_deref())?)
}

fn socket_path(host: Option<&str>) -> Result<PathBuf> {
    match host.filter(|host| !host.is_empty()) {
        None => Ok(DEFAULT.into()),
        Some(host) => match host.strip_prefix("unix://") {
            Some(path) => Ok(path.into()),
            None => bail!("DOCKER_HOST is {host:?}, and only `unix://PATH` can be asked"),
        },
    }
}

fn list(socket: &Path) -> Result<Vec<DockerContainer>> {
    let answer = get(socket, "/containers/json?all=1")
        .with_context(|| format!("failed to ask Docker at {socket:?}"))?;
    serde_json::from_slice(&answer)
        .with_context(|| format!("failed to understand Docker's answer at {socket:?}"))
}

/// One GET of HTTP/1.0, after which the server closes the connection: the body is all that follows
/// the head.
fn get(path: &Path, resource: &str) -> Result<Vec<u8>> {
    let until = Instant::now() + TIMEOUT;
    let mut stream = connect_now(path)?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    write!(stream, "GET {resource} HTTP/1.0\r\nHost: docker\r\n\r\n")?;
    let (mut answer, mut piece) = (Vec::new(), vec![0; 1 << 16]);
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            bail!("no answer within {} s", TIMEOUT.as_secs());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => answer.extend_from_slice(&piece[..read]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        if answer.len() > MAX_ANSWER {
            bail!("the answer is longer than {} MiB", MAX_ANSWER >> 20);
        }
    }
    let end = answer
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .context("the answer is not HTTP")?;
    let head = String::from_utf8_lossy(&answer[..end]);
    let status = head.lines().next().unwrap_or_default();
    if status.split_whitespace().nth(1) != Some("200") {
        bail!("it answers {status:?}");
    }
    Ok(answer.split_off(end + 4))
}

/// Connects at once or not at all: a server that does not accept would keep us waiting.
fn connect_now(path: &Path) -> Result<UnixStream> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(std::os::fd::AsRawFd::as_raw_fd(&fd), &UnixAddr::new(path)?)?;
    let stream = UnixStream::from(fd);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// What is understood of an answer; the server says nothing more after it.
    fn answered(answer: &[u8]) -> Result<Vec<DockerContainer>> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("docker.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let answer = answer.to_vec();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut question = Vec::new();
            let mut part = [0; 1024];
            // It may come in several pieces.
            while !question.ends_with(b"\r\n\r\n") {
                let read = stream.read(&mut part).unwrap();
                assert_ne!(read, 0, "the question is not whole");
                question.extend_from_slice(&part[..read]);
            }
            // A client that has had enough goes away.
            let _ = stream.write_all(&answer);
            String::from_utf8_lossy(&question).into_owned()
        });
        let list = list(&path);
        let question = server.join().unwrap();
        assert!(question.starts_with("GET /containers/json?all=1 HTTP/1.0\r\n"));
        list
    }

    fn failure(answer: &[u8]) -> String {
        format!("{:#}", answered(answer).unwrap_err())
    }

    #[test]
    fn a_list() {
        let list = answered(
            b"HTTP/1.0 200 OK\r\nApi-Version: 1.41\r\n\r\n[{\"Id\":\"ab\",\"Names\":[\"/a/alias\",\
            \"/web\"],\"State\":\"exited\",\"Labels\":{\"k\":\"v\"},\"Mounts\":[]},{\"Id\":\"cd\",\
            \"Names\":null,\"State\":\"running\",\"Labels\":null}]\n",
        )
        .unwrap();
        assert_eq!(list[0].name(), Some("web"));
        assert_eq!(
            (list[0].id.as_str(), list[0].state.as_str()),
            ("ab", "exited")
        );
        assert_eq!(list[0].labels()["k"], "v");
        assert_eq!(list[1].name(), None);
    }

    #[test]
    fn answers_that_make_no_sense() {
        for (answer, part) in [
            (&b""[..], "not HTTP"),
            (b"HTTP/1.0 200 OK\r\n", "not HTTP"),
            (b"HTTP/1.0 500 Oh \x1b[2J\r\n\r\n[]", "500 Oh \\u{1b}[2J"),
            (b"HTTP/1.0 200 OK\r\n\r\n[{\"Id\":", "failed to understand"),
            (b"HTTP/1.0 200 OK\r\n\r\n[{}]", "missing field `Id`"),
        ] {
            let error = failure(answer);
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_list_without_end() {
        let mut answer = b"HTTP/1.0 200 OK\r\n\r\n[".to_vec();
        answer.resize(MAX_ANSWER + (1 << 20), b' ');
        assert!(failure(&answer).contains("longer than 64 MiB"));
    }

    #[test]
    fn sockets_that_do_not_answer() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("docker.sock");
        let error = || format!("{:#}", list(&path).unwrap_err());
        assert!(error().contains("docker.sock"), "{}", error());
        // Nobody accepts: the time is over, or the queue is full.
        let _listener = UnixListener::bind(&path).unwrap();
        let started = Instant::now();
        assert!(error().contains("no answer within 3 s"), "{}", error());
        assert!(started.elapsed() < 3 * TIMEOUT);
    }

    #[test]
    fn the_environment_names_the_socket() {
        let path = |host| socket_path(host).map_err(|error| error.to_string());
        assert_eq!(path(None), Ok(DEFAULT.into()));
        assert_eq!(path(Some("")), Ok(DEFAULT.into()));
        assert_eq!(path(Some("unix:///run/x.sock")), Ok("/run/x.sock".into()));
        let error = path(Some("tcp://127.0.0.1:2375")).unwrap_err();
        assert!(error.contains("only `unix://PATH`"), "{error}");
    }
}
