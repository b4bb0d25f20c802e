//! The colours of the text.

use anstyle::{AnsiColor, Style};

/// A style per meaning; all plain without colours.
#[derive(Clone, Copy, Default)]
pub struct Styles {
    /// Headings and names.
    pub bold: Style,
    /// Details.
    pub dim: Style,
    /// Amounts of memory.
    pub bytes: Style,
    /// Nothing was lost.
    pub good: Style,
    /// Something was lost.
    pub bad: Style,
}

impl Styles {
    /// Colours, or none.
    pub fn new(color: bool) -> Styles {
        if !color {
            return Styles::default();
        }
        let bold = Style::new().bold();
        Styles {
            bold,
            dim: Style::new().dimmed(),
            bytes: bold.fg_color(Some(AnsiColor::Cyan.into())),
            good: bold.fg_color(Some(AnsiColor::Green.into())),
            bad: bold.fg_color(Some(AnsiColor::Red.into())),
        }
    }
}
