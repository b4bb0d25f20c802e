//! One pure function per format, from a [`crate::symbolize::Profile`] to bytes. They decide nothing:
//! no figure is computed here that is not in the profile, except shares and sums of equal stacks.

pub mod death;
pub mod escape;
pub mod folded;
pub mod human;
pub mod json;
pub(crate) mod ranking;
pub mod svg;
pub mod text;
pub mod verdict;
pub(crate) mod words;

#[cfg(test)]
mod hostile;
#[cfg(test)]
pub(crate) mod sample;

use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::Path;

use crate::symbolize::Profile;

/// What a report file can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Flamegraph.
    Svg,
    /// Collapsed stacks, one per line.
    Folded,
    /// Everything, for programs.
    Json,
    /// For people, as on stdout.
    Text,
}

impl Format {
    /// All formats with the extension that names them.
    pub const EXTENSIONS: &[(&str, Format)] = &[
        ("svg", Format::Svg),
        ("folded", Format::Folded),
        ("json", Format::Json),
        ("txt", Format::Text),
    ];

    /// The format an extension (without its dot, in any case) names.
    pub fn from_extension(extension: &OsStr) -> Option<Format> {
        Self::EXTENSIONS
            .iter()
            .find(|(known, _)| extension.eq_ignore_ascii_case(known))
            .map(|&(_, format)| format)
    }

    /// The format the extension of `path` names.
    pub fn from_path(path: &Path) -> Option<Format> {
        Self::from_extension(path.extension()?)
    }
}

/// What may differ between two reports of one profile; only the text has choices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Stacks in the text, those with the most live bytes.
    pub top: usize,
    /// Whether the text has colours.
    pub color: bool,
    /// Columns the text may take. Less than 80 is taken as 80; [`Options::WIDTH`] where there is no
    /// terminal.
    pub width: usize,
}

impl Options {
    /// Columns for text that is not for a terminal.
    pub const WIDTH: usize = 120;
}

/// Writes a profile in a format.
///
/// Errors: only those of `out`.
pub fn write(
    format: Format,
    profile: &Profile,
    options: Options,
    out: &mut dyn Write,
) -> io::Result<()> {
    match format {
        Format::Svg => svg::write(profile, out),
        Format::Folded => folded::write(profile, out),
        Format::Json => json::write(profile, out),
        Format::Text => text::write(profile, options, out),
    }
}
