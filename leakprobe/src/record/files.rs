//! The report files: the final ones, those with numbers while the recording goes on, and those of a death;
//! and which of them are removed again.
//!
//! Only files that this run has written are ever removed, as long as they still are the same files; and
//! of `--on-death`, which writes one file in a run, those that earlier runs have written under such names.

use std::collections::VecDeque;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::SystemTime;

use anyhow::{Context, Result, anyhow};

use crate::cli::pattern::{Facts, Pattern};
use crate::cli::watching::{Watching, numbered};
use crate::cli::{self, Config, Output};
use crate::report;
use crate::symbolize::Profile;

/// All files of a recording.
pub struct Files {
    outputs: Vec<Output>,
    left_out: Option<String>,
    on_death: Vec<Pattern>,
    keep: Option<usize>,
    keep_size: Option<u64>,
    /// Of the last numbered report.
    number: u32,
    /// Numbered reports that are there, oldest first.
    numbered: VecDeque<Written>,
}

/// A numbered report.
struct Written {
    path: PathBuf,
    /// Which output it is of.
    output: usize,
    number: u32,
    device: u64,
    inode: u64,
    /// Bytes.
    size: u64,
}

impl Files {
    /// The files that were asked for, or a flamegraph named after the PID, if there is a place for it. All
    /// can be written.
    ///
    /// # Errors
    ///
    /// The first that cannot, why, and what to do.
    pub fn new(config: &Config, pid: u32) -> Result<Self> {
        let Watching {
            on_death,
            keep,
            keep_size,
            ..
        } = &config.watching;
        let mut outputs = match config.outputs.as_slice() {
            [] => vec![Output::default_for(pid)],
            outputs => outputs.to_vec(),
        };
        let mut left_out = None;
        if let Err(error) = check(&outputs, on_death) {
            // Nobody has asked for the flamegraph, and a container may have no place for it.
            let is_wanted = !config.outputs.is_empty() || config.watching.leaves_snapshots();
            if is_wanted || check(&[], on_death).is_err() {
                return Err(error);
            }
            outputs.clear();
            left_out = Some(format!("no flamegraph is written: {error:#}"));
        }
        Ok(Self {
            outputs,
            left_out,
            on_death: on_death.clone(),
            keep: keep.map(|keep| keep as usize),
            keep_size: *keep_size,
            number: 0,
            numbered: VecDeque::new(),
        })
    }

    /// What is not written although it would be by itself, and why.
    pub fn left_out(&self) -> Option<&str> {
        self.left_out.as_deref()
    }

    /// Whether there are files for a death.
    pub fn are_for_deaths(&self) -> bool {
        !self.on_death.is_empty()
    }

    /// Writes the final reports, and those of the death if there was one: all that can be. Tells of each.
    ///
    /// # Errors
    ///
    /// The first that could not be written.
    pub fn write_final(
        &self,
        profile: &Profile,
        config: &Config,
        wrote: &mut dyn FnMut(&Path),
    ) -> Result<()> {
        // First: after a death there may be little time.
        let mut result = self.write_of_death(profile, &profile.target.comm, config, wrote);
        let written = write(profile, &self.outputs, config);
        for (output, written) in self.outputs.iter().zip(written) {
            result = result.and(written.map(|_| wrote(&output.path)));
        }
        result
    }

    /// Writes the reports of the death that is in the profile, of a process of that name, and removes what is
    /// too old. Tells of each.
    ///
    /// # Errors
    ///
    /// The first that could not be written or removed; the others are.
    pub fn write_of_death(
        &self,
        profile: &Profile,
        comm: &str,
        config: &Config,
        wrote: &mut dyn FnMut(&Path),
    ) -> Result<()> {
        let Some(death) = &profile.death else {
            return Ok(());
        };
        let facts = Facts {
            pid: death.pid,
            time: SystemTime::now(),
            comm,
        };
        let outputs: Vec<_> = self.on_death.iter().map(|it| it.output(facts)).collect();
        let mut result = Ok(());
        let written = write(profile, &outputs, config);
        for ((pattern, output), written) in self.on_death.iter().zip(&outputs).zip(written) {
            match written {
                Ok(file) => {
                    wrote(&output.path);
                    let place = (output.path.as_path(), &file);
                    let removed = self
                        .keep
                        .map(|keep| remove_earlier(pattern, comm, place, keep));
                    result = result.and(removed.unwrap_or(Ok(())));
                }
                Err(error) => result = result.and(Err(error)),
            }
        }
        result
    }

    /// Writes the next numbered reports, tells of each, and removes what is too old or too much.
    ///
    /// # Errors
    ///
    /// The first that could not be written or removed; the others are.
    pub fn write_numbered(
        &mut self,
        profile: &Profile,
        config: &Config,
        wrote: &mut dyn FnMut(&Path),
    ) -> Result<()> {
        self.number += 1;
        let outputs = self.outputs.iter();
        let outputs: Vec<_> = outputs.map(|it| numbered(it, self.number)).collect();
        let mut result = Ok(());
        let written = write(profile, &outputs, config);
        for ((index, output), written) in outputs.into_iter().enumerate().zip(written) {
            match written {
                Ok(file) => {
                    wrote(&output.path);
                    self.numbered.push_back(Written {
                        path: output.path,
                        output: index,
                        number: self.number,
                        device: file.dev(),
                        inode: file.ino(),
                        size: file.len(),
                    });
                }
                Err(error) => result = result.and(Err(error)),
            }
        }
        let removed = self.rotate();
        result.and(removed)
    }

    /// Removes numbered reports, the oldest first, but none of the newest number.
    fn rotate(&mut self) -> Result<()> {
        let mut result = Ok(());
        let excess = |files: &VecDeque<Written>, output: usize| match self.keep {
            Some(keep) => files.iter().filter(|it| it.output == output).count() > keep,
            None => false,
        };
        for output in 0..self.outputs.len() {
            while excess(&self.numbered, output) {
                let oldest = self.numbered.iter().position(|it| it.output == output);
                let oldest = oldest.and_then(|index| self.numbered.remove(index));
                result = result.and(oldest.map_or(Ok(()), |it| it.remove()));
            }
        }
        let size = |files: &VecDeque<Written>| files.iter().map(|it| it.size).sum::<u64>();
        while let Some(limit) = self.keep_size
            && size(&self.numbered) > limit
            && let Some(oldest) = self
                .numbered
                .pop_front_if(|oldest| oldest.number < self.number)
        {
            result = result.and(oldest.remove());
        }
        result
    }
}

impl Written {
    /// Removes it, unless something else bears its name by now.
    fn remove(&self) -> Result<()> {
        let there = fs::symlink_metadata(&self.path).ok();
        let is_it = there
            .is_some_and(|it| it.is_file() && (it.dev(), it.ino()) == (self.device, self.inode));
        match is_it {
            true => remove(&self.path),
            false => Ok(()),
        }
    }
}

/// Checks that the files can be written, before anybody waits for them.
///
/// # Errors
///
/// The first that cannot, why, and what to do.
pub fn check(outputs: &[Output], on_death: &[Pattern]) -> Result<()> {
    let outputs = outputs.iter().map(|it| (it.path.as_path(), "-o"));
    let on_death = on_death.iter().map(|it| (it.path(), "--on-death"));
    cli::check_files(outputs.chain(on_death))
}

/// Removes the oldest reports of deaths, until there are `keep` with the one just written. A file counts if
/// its name is one that the pattern gives to a process of that name, and it is an ordinary one of the same
/// owner as the one just written. Without a time in the pattern there are none.
fn remove_earlier(
    pattern: &Pattern,
    comm: &str,
    (written, file): (&Path, &Metadata),
    keep: usize,
) -> Result<()> {
    let folder = match written.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let entries = fs::read_dir(folder)
        .with_context(|| format!("failed to look for old reports in `{}`", folder.display()))?;
    let mut earlier: Vec<_> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let time = pattern.time_in(&entry.file_name(), comm)?;
            // Not of what a link points to.
            let there = entry.metadata().ok()?;
            let is_ours = there.is_file()
                && there.uid() == file.uid()
                && (there.dev(), there.ino()) != (file.dev(), file.ino());
            is_ours.then(|| (time, entry.path()))
        })
        .collect();
    earlier.sort_unstable();
    let too_many = (earlier.len() + 1).saturating_sub(keep);
    earlier
        .iter()
        .take(too_many)
        .try_for_each(|(_, path)| remove(path))
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error)
            .with_context(|| format!("failed to remove the old report `{}`", path.display())),
        _ => Ok(()),
    }
}

/// Writes reports, all at the same time, and gives of each what it is.
fn write(profile: &Profile, outputs: &[Output], config: &Config) -> Vec<Result<Metadata>> {
    let write = |output: &Output| {
        cli::write_atomically(&output.path, |out| {
            report::write(output.format, profile, config.file_options(), out)
        })
    };
    thread::scope(|scope| {
        let writers: Vec<_> = outputs
            .iter()
            .map(|output| scope.spawn(move || write(output)))
            .collect();
        writers
            .into_iter()
            .zip(outputs)
            .map(|(writer, output)| {
                let written = writer.join();
                written.unwrap_or_else(|_| {
                    Err(anyhow!(
                        "cannot write `{}`: the thread that does it panicked",
                        output.path.display()
                    ))
                })
            })
            .collect()
    })
}

#[cfg(test)]
#[path = "files_tests.rs"]
mod tests;
