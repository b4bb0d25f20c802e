//! In which of four ways probes are attached on this kernel: the cheapest for the target that there
//! is, found out by trying; or, if what it forks is to be followed, the one by which that can be done.
//! Nothing is attached here.

use std::env;
use std::fmt;

use anyhow::{Context, Result, bail};

use super::feature::{Feature, is_supported};
use super::{children, danger, tree};

/// Environment variable that asks for a way by its name, for tests and measurements.
pub const VARIABLE: &str = "LEAKPROBE_ATTACH";

/// How probes are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// One link for entries and returns together, with a program that spares the returns which
    /// tell nothing; and one for the functions that only take blocks back.
    Session,
    /// One link for all entries, one for all returns, one for the functions that take blocks back.
    Multi,
    /// One link for each probe, by perf events.
    Single,
    /// Perf events of trace events, which all that the process forks inherits.
    Tree,
}

/// A way, and why it is not a better one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The way.
    pub way: Way,
    /// What speaks against the better ones.
    pub why: Option<String>,
}

impl Way {
    /// All of them.
    pub const ALL: [Way; 4] = [Way::Session, Way::Multi, Way::Single, Way::Tree];

    /// Those for one process, the best first.
    const ALONE: [Way; 3] = [Way::Session, Way::Multi, Way::Single];

    /// Its name in [`VARIABLE`].
    pub const fn name(self) -> &'static str {
        match self {
            Way::Session => "session",
            Way::Multi => "multi",
            Way::Single => "single",
            Way::Tree => "tree",
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Way::Session => "entries and returns by one uprobe session",
            Way::Multi => "entries and returns by one uprobe_multi link each",
            Way::Single => "each probe by a perf event of its own",
            Way::Tree => "each probe by a trace event, which forked children inherit",
        })
    }
}

/// The best way that this kernel has, or the one that the environment asks for; `follow` if all that the
/// process will ever fork or execute is to be attached to.
///
/// # Errors
///
/// If the environment asks for one that does not exist, or not on this kernel; or if processes cannot be
/// followed on it.
pub fn choose(follow: bool) -> Result<Choice> {
    let choice = decide(asked().as_deref(), follow, lack)?;
    log::debug!("probes are attached: {}", choice.way);
    Ok(choice)
}

/// What the environment asks for.
fn asked() -> Option<String> {
    let asked = env::var_os(VARIABLE).filter(|value| !value.is_empty());
    asked.map(|value| value.to_string_lossy().into_owned())
}

/// Why what processes fork cannot be followed; `None` if it can.
pub fn cannot_follow() -> Option<String> {
    match asked() {
        Some(name) if name != Way::Tree.name() => Some(format!("{VARIABLE} asks for `{name}`")),
        _ => lack(Way::Tree),
    }
}

/// `lack` tells what a kernel has not that a way needs.
fn decide(
    asked: Option<&str>,
    follow: bool,
    lack: impl Fn(Way) -> Option<String>,
) -> Result<Choice> {
    if let Some(name) = asked {
        let way = Way::ALL.into_iter().find(|way| way.name() == name);
        let way = way.with_context(|| {
            let names = Way::ALL.map(Way::name).join(", ");
            format!("{VARIABLE} is `{name}`, which is none of {names}")
        })?;
        if let Some(why) = lack(way) {
            bail!("{VARIABLE} asks for `{name}`, but {why}");
        }
        match (follow, way == Way::Tree) {
            (true, false) => {
                bail!("{VARIABLE} asks for `{name}`, which follows no forked children")
            }
            // Their calls would be taken for those of the process.
            (false, true) => bail!("{VARIABLE} asks for `{name}`, which only following needs"),
            _ => {}
        }
        return Ok(Choice {
            way,
            why: Some(format!("{VARIABLE} asks for it")),
        });
    }
    if follow {
        if let Some(why) = lack(Way::Tree) {
            bail!("forked children cannot be followed: {why}");
        }
        return Ok(Choice {
            way: Way::Tree,
            why: Some("forked children are followed".to_owned()),
        });
    }
    let mut why = None;
    for way in Way::ALONE {
        match lack(way) {
            None => return Ok(Choice { way, why }),
            lack => why = lack,
        }
    }
    bail!("no way to attach probes") // the last one lacks nothing
}

/// What this kernel lacks for a way.
fn lack(way: Way) -> Option<String> {
    let missing = |feature, what: &str| match is_supported(feature) {
        Ok(true) => None,
        Ok(false) => Some(format!("this kernel has no {what}")),
        Err(error) => Some(format!(
            "the kernel does not tell whether it has {what}: {}",
            error.root_cause()
        )),
    };
    let kills_children = || {
        // Of no danger to the target, which was looked at, but to a child of it.
        danger::filters_return_probes().then(|| {
            "on this kernel return probes that a forked child inherits would kill it under a \
             seccomp filter"
                .to_owned()
        })
    };
    let multi = || {
        if let Some(why) = kills_children() {
            return Some(why);
        }
        if !children::can_be_told() {
            return Some(
                "this kernel does not tell the children of a process, from which probes would \
                 have to be removed"
                    .to_owned(),
            );
        }
        missing(Feature::UprobeMulti, "uprobe_multi links").or_else(|| {
            missing(
                Feature::UprobeMultiOfProcess,
                "uprobe_multi links for all threads of one process",
            )
        })
    };
    match way {
        Way::Single => None,
        Way::Multi => multi(),
        Way::Session => multi().or_else(|| missing(Feature::UprobeSession, "uprobe sessions")),
        Way::Tree => kills_children().or_else(tree::lack),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn without(lacking: &[Way]) -> impl Fn(Way) -> Option<String> {
        move |way| lacking.contains(&way).then(|| format!("no {}", way.name()))
    }

    #[test]
    fn the_best_there_is() {
        let best = |lacking: &[Way]| decide(None, false, without(lacking)).unwrap();
        let choice = best(&[]);
        assert_eq!((choice.way, choice.why), (Way::Session, None));
        let choice = best(&[Way::Session]);
        assert_eq!(
            (choice.way, choice.why),
            (Way::Multi, Some("no session".into()))
        );
        let choice = best(&[Way::Session, Way::Multi]);
        assert_eq!(
            (choice.way, choice.why),
            (Way::Single, Some("no multi".into()))
        );
    }

    #[test]
    fn the_one_asked_for_or_an_error() {
        let asked = |name| decide(Some(name), false, without(&[Way::Session]));
        assert_eq!(asked("single").unwrap().way, Way::Single);
        assert_eq!(asked("multi").unwrap().way, Way::Multi);
        assert_eq!(
            asked("session").unwrap_err().to_string(),
            "LEAKPROBE_ATTACH asks for `session`, but no session"
        );
        assert_eq!(
            asked("Multi").unwrap_err().to_string(),
            "LEAKPROBE_ATTACH is `Multi`, which is none of session, multi, single, tree"
        );
    }

    #[test]
    fn following_has_one_way() {
        let choice = decide(None, true, without(&[])).unwrap();
        assert_eq!(choice.way, Way::Tree);
        let error = decide(None, true, without(&[Way::Tree])).unwrap_err();
        assert_eq!(
            error.to_string(),
            "forked children cannot be followed: no tree"
        );
        let asked = |name, follow| decide(Some(name), follow, without(&[]));
        assert_eq!(asked("tree", true).unwrap().way, Way::Tree);
        assert!(asked("tree", false).is_err());
        assert!(asked("single", true).is_err());
    }
}
