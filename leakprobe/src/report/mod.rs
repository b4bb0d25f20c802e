//! One pure function per format, from a [`crate::symbolize::Profile`] to bytes.

use std::ffi::OsStr;
use std::path::Path;

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
