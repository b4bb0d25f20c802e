//! A Docker daemon and the images the tests run in it. No image comes from a registry: they are
//! imported from directories that other tasks build. A daemon that runs already is used as it is;
//! one that had to be started stays, because the tests run after this program has ended.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::{cmd, packages};

/// How long a new daemon may take until it answers.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Makes sure that a daemon answers; `log` gets the output of one that had to be started.
///
/// It is started with what works inside of virtual machines and containers, too: no firewall rules,
/// no bridge (the tests' containers have no network), no overlay file system.
pub fn ensure_daemon(log: &Path) -> Result<()> {
    packages::ensure(&["docker.io"])?;
    if answers() {
        return Ok(());
    }
    let output = File::create(log).with_context(|| format!("failed to create {log:?}"))?;
    // A session of its own: neither this program's end nor its terminal's takes the daemon along.
    let mut command = Command::new("setsid");
    command
        .args(["dockerd", "--iptables=false", "--bridge=none"])
        .arg("--storage-driver=vfs")
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output);
    eprintln!("+ {} (log: {})", cmd::show(&command), log.display());
    let mut daemon = command.spawn().context("failed to start dockerd")?;
    let started = Instant::now();
    loop {
        if answers() {
            return Ok(());
        }
        if let Some(status) = daemon.try_wait()?
            && !answers()
        {
            bail!(
                "dockerd ended ({status}); it needs root, and its log is {}",
                log.display()
            );
        }
        if started.elapsed() > START_TIMEOUT {
            bail!(
                "dockerd runs, but did not answer within {} s; its log is {}",
                START_TIMEOUT.as_secs(),
                log.display()
            );
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Imports a root file system as an image, unless the image of this name was made from the same
/// `version` of it.
pub fn import(rootfs: &Path, image: &str, version: &str) -> Result<()> {
    const LABEL: &str = "leakprobe.version";
    let mut inspect = Command::new("docker");
    inspect.args(["image", "inspect", "--format"]);
    inspect.arg(format!("{{{{index .Config.Labels \"{LABEL}\"}}}}"));
    match cmd::output(inspect.arg(image)) {
        Ok(found) if found == version => return Ok(()),
        Ok(_) => cmd::run(Command::new("docker").args(["image", "rm", "--force", image]))?,
        Err(_) => {} // no such image
    }
    let mut pack = Command::new("tar")
        .args(["--one-file-system", "-C"])
        .arg(rootfs)
        .args(["-c", "."])
        .stdout(Stdio::piped())
        .spawn()
        .context("failed to start tar")?;
    let archive = pack.stdout.take().context("tar has no output")?;
    let imported = cmd::run(
        Command::new("docker")
            .args(["import", "--change"])
            .arg(format!("LABEL {LABEL}=\"{version}\""))
            .args(["-", image])
            .stdin(archive),
    );
    let packed = pack.wait().context("failed to wait for tar")?;
    imported?;
    if !packed.success() {
        bail!("failed to pack {} for Docker ({packed})", rootfs.display());
    }
    Ok(())
}

fn answers() -> bool {
    cmd::output(Command::new("docker").args(["info", "--format", "{{.ServerVersion}}"])).is_ok()
}
