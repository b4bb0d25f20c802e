//! Load for an HTTP server in a container: wrk asks from inside its network namespace, which may have
//! no way out. Knows nothing of leakprobe.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use leakprobe_tests::node::output;
use nix::time::ClockId;
use nix::unistd::Pid;

/// Who asks, and for what.
pub struct Client<'a> {
    /// PID of the server.
    pub server: u32,
    /// The path without its slash.
    pub request: &'a str,
    /// How many ask at the same time.
    pub connections: u32,
}

/// What was counted while wrk asked.
pub struct Load {
    /// All requests.
    pub requests: f64,
    /// Requests per second.
    pub per_second: f64,
    /// CPU time of all threads of the server per request, microseconds.
    pub cpu_us: f64,
}

impl Client<'_> {
    /// Lets wrk ask for some seconds, on the loopback of the server's own network namespace.
    ///
    /// # Errors
    ///
    /// If wrk cannot be run, or any answer was not the one wanted.
    pub fn load(&self, seconds: u32) -> Result<Load> {
        let pid = Pid::from_raw(self.server.try_into()?);
        let clock = ClockId::pid_cpu_clock_id(pid).context("the server has no CPU clock")?;
        let cpu = || clock.now().context("failed to read the server's CPU clock");
        let before = cpu()?;
        let said = output(
            Command::new("nsenter")
                .arg(format!("--net=/proc/{}/ns/net", self.server))
                .args(["wrk", "--threads", "1"])
                .arg(format!("--connections={}", self.connections))
                .arg(format!("--duration={seconds}s"))
                .arg(format!("http://127.0.0.1:8080/{}", self.request)),
        )
        .map_err(|error| anyhow::anyhow!("failed to load the server: {error}"))?;
        let used = Duration::from(cpu()? - before);
        let (requests, per_second) =
            parse(&said).with_context(|| format!("wrk was not content with the server: {said}"))?;
        Ok(Load {
            requests,
            per_second,
            cpu_us: used.as_secs_f64() * 1e6 / requests,
        })
    }
}

/// Requests, and requests per second, unless wrk complains of errors.
fn parse(said: &str) -> Option<(f64, f64)> {
    if said.contains("Socket errors") || said.contains("Non-2xx") {
        return None;
    }
    let mut words = said.lines().map(str::split_whitespace);
    let requests = words.clone().find_map(|mut line| {
        let number = line.next()?;
        (line.next()? == "requests").then_some(number)
    });
    let per_second = words.find_map(|mut line| {
        let is_it = line.next()? == "Requests/sec:";
        is_it.then(|| line.next())?
    });
    Some((requests?.parse().ok()?, per_second?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "Running 4s test @ http://127.0.0.1:8080/small
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     3.08ms    8.78ms 172.79ms   97.51%
    Req/Sec    16.46k     7.85k   37.40k    65.00%
  65468 requests in 4.00s, 11.54MB read
Requests/sec:  16349.89
Transfer/sec:      2.88MB";

    #[test]
    fn the_count_of_wrk_is_read() {
        assert_eq!(parse(SAID), Some((65468.0, 16349.89)));
        assert!(parse("Requests/sec:  16349.89").is_none());
    }

    #[test]
    fn failed_requests_are_no_figure() {
        let errors = "  Socket errors: connect 0, read 1, write 0, timeout 0\n";
        assert!(parse(&format!("{errors}{SAID}")).is_none());
        assert!(parse(&format!("{SAID}\n  Non-2xx or 3xx responses: 7\n")).is_none());
    }
}
