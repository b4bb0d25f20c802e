//! Shell completions and the manual page, from the same definitions as the command line itself.

use std::io::{self, Write};

use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use super::args::{Args, EXAMPLES, EXIT_STATUS};

/// Writes the completion script of a shell.
pub fn write_completions(shell: Shell, out: &mut dyn Write) -> io::Result<()> {
    // clap_complete panics when it cannot write; memory always takes it.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "leakprobe", &mut script);
    out.write_all(&script)
}

/// Writes the manual page, in roff.
pub fn write_man(mut out: &mut dyn Write) -> io::Result<()> {
    let command = Args::command();
    // clap_mangen would refer to a manual page of each subcommand; there is only this one.
    let subcommands: Vec<_> = command
        .get_subcommands()
        .map(|subcommand| {
            let about = subcommand.get_long_about().or(subcommand.get_about());
            let name = format!("leakprobe {}", subcommand.get_name());
            (name, about.map(|text| text.to_string()).unwrap_or_default())
        })
        .collect();
    let man = Man::new(command);
    let out = &mut out;
    man.render_title(out)?;
    man.render_name_section(out)?;
    man.render_synopsis_section(out)?;
    man.render_description_section(out)?;
    man.render_options_section(out)?;
    section("SUBCOMMANDS", &subcommands, out)?;
    section("EXIT STATUS", EXIT_STATUS, out)?;
    section("EXAMPLES", EXAMPLES, out)?;
    man.render_version_section(out)
}

/// A section that is a list of terms and their meanings.
fn section<T: AsRef<str>>(title: &str, entries: &[(T, T)], out: &mut dyn Write) -> io::Result<()> {
    let mut roff = Roff::new();
    roff.control("SH", [title]);
    for (term, meaning) in entries {
        roff.control("TP", []);
        roff.text([bold(term.as_ref())]);
        roff.text([roman(meaning.as_ref())]);
    }
    out.write_all(roff.render().as_bytes())
}
