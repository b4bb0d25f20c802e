//! Packages of any Debian release, unpacked into a directory and never installed. The apt used for
//! it has its own sources and state and does not know what is installed, so the machine may be of
//! another release, or no Debian at all as long as it has apt and Debian's keys.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::{cmd, packages};

const MIRROR: &str = "http://deb.debian.org/debian";
const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The packages of one release.
pub struct Release {
    dir: PathBuf,
    config: PathBuf,
}

impl Release {
    /// Fetches the list of packages of a suite, such as `bookworm`; `dir` is for its state.
    pub fn open(suite: &str, dir: &Path) -> Result<Release> {
        packages::ensure(&["debian-archive-keyring"])?;
        for part in [
            "etc/apt.conf.d",
            "etc/preferences.d",
            "etc/sources.list.d",
            "state/lists/partial",
            "cache/archives/partial",
        ] {
            create(&dir.join(part))?;
        }
        let source = format!("deb [arch=amd64 signed-by={KEYS}] {MIRROR} {suite} main\n");
        write(&dir.join("etc/sources.list"), &source)?;
        let path = dir.display();
        let text = format!(
            "Dir::Etc \"{path}/etc\";\nDir::State \"{path}/state\";\n\
             Dir::State::status \"/dev/null\";\nDir::Cache \"{path}/cache\";\n\
             APT::Architecture \"amd64\";\nAPT::Sandbox::User \"root\";\n\
             Acquire::Languages \"none\";\n"
        );
        let config = dir.join("apt.conf");
        write(&config, &text)?;
        let release = Release {
            dir: dir.to_path_buf(),
            config,
        };
        cmd::run(
            release
                .apt("apt-get")
                .args(["-q", "--error-on=any", "update"]),
        )?;
        Ok(release)
    }

    /// The first package that a package depends on: what a metapackage stands for today.
    pub fn dependency(&self, package: &str) -> Result<String> {
        let text = cmd::output(self.apt("apt-cache").args(["depends", package]))?;
        text.lines()
            .find_map(|line| line.trim().strip_prefix("Depends: "))
            .map(str::to_string)
            .with_context(|| format!("the package `{package}` depends on nothing"))
    }

    /// Downloads a package's source as its authors published it, and returns the archive.
    pub fn source(&self, package: &str, into: &Path) -> Result<PathBuf> {
        let list = self.dir.join("etc/sources.list");
        let text = fs::read_to_string(&list)
            .with_context(|| format!("failed to read `{}`", list.display()))?;
        let sources = text.replace("deb [arch=amd64 ", "deb-src [");
        write(&self.dir.join("etc/sources.list.d/source.list"), &sources)?;
        cmd::run(self.apt("apt-get").args(["-q", "--error-on=any", "update"]))?;
        cmd::run(
            self.apt("apt-get")
                .args(["-q", "source", "--download-only", "--tar-only", package])
                .current_dir(into),
        )?;
        into.read_dir()
            .with_context(|| format!("failed to list `{}`", into.display()))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.to_string_lossy().contains(".orig.tar."))
            .with_context(|| format!("`apt-get source {package}` left no archive"))
    }

    /// Downloads a package and unpacks it into the directory `into`.
    pub fn unpack(&self, package: &str, into: &Path) -> Result<()> {
        let downloads = self.dir.join("download");
        let _ = std::fs::remove_dir_all(&downloads);
        create(&downloads)?;
        cmd::run(
            self.apt("apt-get")
                .args(["-q", "download", package])
                .current_dir(&downloads),
        )?;
        let file = downloads
            .read_dir()
            .with_context(|| format!("failed to list `{}`", downloads.display()))?
            .next()
            .with_context(|| format!("`apt-get download {package}` left no file"))??
            .path();
        cmd::run(
            Command::new("dpkg-deb")
                .arg("--extract")
                .arg(&file)
                .arg(into),
        )?;
        std::fs::remove_dir_all(&downloads)
            .with_context(|| format!("failed to remove `{}`", downloads.display()))
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", &self.config);
        command
    }
}

fn create(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("failed to create `{}`", dir.display()))
}

fn write(file: &Path, text: &str) -> Result<()> {
    std::fs::write(file, text).with_context(|| format!("failed to write `{}`", file.display()))
}
