//! Report files: checked before anything is attached, so that nobody waits an hour for a report that
//! cannot be written, and written so that a reader never sees half of one.

use std::io::{BufWriter, Write};
use std::os::unix::fs::{PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::{fs, io};

use anyhow::{Context, bail};
use tempfile::NamedTempFile;

use super::UsageError;
use crate::report::Format;

/// A report file to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Where.
    pub path: PathBuf,
    /// As what; chosen by the extension.
    pub format: Format,
}

impl Output {
    /// A report file whose format its extension chooses.
    ///
    /// Errors: the extension names no format.
    pub fn new(path: PathBuf) -> Result<Output, UsageError> {
        match Format::from_path(&path) {
            Some(format) => Ok(Output { path, format }),
            None if path.as_os_str() == "-" => Err(UsageError::OutputIsStdout),
            None => Err(UsageError::UnknownExtension(path)),
        }
    }

    /// The flamegraph that is written when no output was asked for: `leakprobe-PID.svg`.
    pub fn default_for(pid: u32) -> Output {
        Output {
            path: PathBuf::from(format!("leakprobe-{pid}.svg")),
            format: Format::Svg,
        }
    }
}

/// Checks that each output can be written, and that no two are the same file.
///
/// Writability is found out by making (and removing) a temporary file, which is what writing will
/// do later: permission bits say nothing of read-only file systems, quotas or root on NFS.
///
/// Errors: the first output that cannot be written, why, and what to do.
pub fn check_outputs(outputs: &[Output]) -> anyhow::Result<()> {
    check_files(outputs.iter().map(|output| (output.path.as_path(), "-o")))
}

/// The same for files of several options, each with its option.
pub fn check_files<'a>(
    files: impl IntoIterator<Item = (&'a Path, &'static str)>,
) -> anyhow::Result<()> {
    let mut seen: Vec<PathBuf> = Vec::new();
    for (path, option) in files {
        let (directory, name) = split(path, option)?;
        match fs::metadata(directory) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => bail!(
                "cannot write `{}`: `{}` is not a directory; choose another path with {option}",
                path.display(),
                directory.display()
            ),
            Err(error) if error.kind() == io::ErrorKind::NotFound => bail!(
                "cannot write `{}`: the directory `{}` does not exist; create it or choose another path with {option}",
                path.display(),
                directory.display()
            ),
            Err(error) => bail!(
                "cannot write `{}`: the directory `{}` cannot be entered ({error}); choose another path with {option}",
                path.display(),
                directory.display()
            ),
        }
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => bail!(
                "cannot write `{}`: it is a directory; add a file name or choose another path with {option}",
                path.display()
            ),
            Ok(metadata) if !metadata.is_file() => bail!(
                "cannot write `{}`: it exists and is not an ordinary file; choose another path with {option}",
                path.display()
            ),
            // It will be replaced, or does not exist, or is a dangling link that will be replaced.
            _ => {}
        }
        temporary_file(directory).with_context(|| {
            format!(
                "cannot write `{}`: the directory `{}` is not writable; choose another path with {option}",
                path.display(),
                directory.display()
            )
        })?;
        let place = fs::canonicalize(directory)
            .unwrap_or_else(|_| directory.to_path_buf())
            .join(name);
        if seen.contains(&place) {
            bail!(
                "the output `{}` is the same file as another one; give each report its own name",
                path.display()
            );
        }
        seen.push(place);
    }
    Ok(())
}

/// Writes a file so that it appears under its name only when it is whole: into a temporary file
/// beside it, which then takes its name. What was there before is replaced; a link is replaced
/// itself, not what it points to, so that nobody can make root write elsewhere.
///
/// The mode is 0644 less the umask. Under sudo the file is given to the user who ran sudo.
///
/// Gives what the file is.
///
/// Errors: the file could not be made, written or renamed; then the temporary file is removed.
pub fn write_atomically(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> anyhow::Result<fs::Metadata> {
    let (directory, _) = split(path, "-o")?;
    let attempt = || -> io::Result<fs::Metadata> {
        let mut file = BufWriter::new(temporary_file(directory)?);
        write(&mut file)?;
        let file = file.into_inner().map_err(|error| error.into_error())?;
        if let Some((user, group)) = sudo_user() {
            // Where root may not give files away (NFS) the report is still worth having.
            let _ = fchown(file.as_file(), Some(user), Some(group));
        }
        file.persist(path)?.metadata()
    };
    attempt().with_context(|| {
        format!(
            "cannot write `{}`; check that its directory exists and has room",
            path.display()
        )
    })
}

/// A file of a random name in a directory, removed when dropped. It is made with `O_EXCL`, so that a
/// link planted under its name is not followed.
fn temporary_file(directory: &Path) -> io::Result<NamedTempFile> {
    tempfile::Builder::new()
        .prefix(".leakprobe-")
        .permissions(fs::Permissions::from_mode(0o644))
        .tempfile_in(directory)
}

/// The directory of a file (never empty), and its name.
fn split<'a>(path: &'a Path, option: &str) -> anyhow::Result<(&'a Path, &'a std::ffi::OsStr)> {
    let Some(name) = path.file_name() else {
        bail!(
            "cannot write `{}`: it has no file name; choose another path with {option}",
            path.display()
        );
    };
    match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => Ok((directory, name)),
        _ => Ok((Path::new("."), name)),
    }
}

/// User and group of whoever ran sudo, when this is root by sudo.
fn sudo_user() -> Option<(u32, u32)> {
    let number = |name| std::env::var(name).ok()?.parse().ok();
    if !nix::unistd::geteuid().is_root() {
        return None;
    }
    Some((number("SUDO_UID")?, number("SUDO_GID")?))
}
