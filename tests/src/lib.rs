//! What the end-to-end tests share: starting victims, running leakprobe, reading its reports and
//! comparing them with what the victims say they did.
//!
//! It knows the report only as JSON and the tool only as a command, as any user does, so that a
//! change of either shows here. It builds nothing: `cargo xtask victims` compiles the victims. What
//! cannot run (no root, no victims, no leakprobe) fails, it never passes. Nothing sleeps; every
//! wait is for an event and bounded by [`LIMIT`].

pub mod cgroup;
pub mod code;
pub mod contained;
pub mod container;
pub mod containerd;
pub mod exact;
pub mod leakprobe;
pub mod node;
pub mod oracle;
pub mod postgres;
pub mod process;
pub mod report;
pub mod victim;

use std::path::{Path, PathBuf};
use std::time::Duration;

pub use exact::assert_exact;
pub use leakprobe::{Leakprobe, Outcome};
pub use report::Report;
pub use victim::{Summary, Victim};

/// The longest any single wait may take; far more than anything needs on a slow machine.
pub const LIMIT: Duration = Duration::from_secs(180);

/// The folder cargo and xtask build into.
pub fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => folder.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"),
    }
}

/// The path of a built victim, such as `glibc`, `malloc`. `LEAKPROBE_VICTIMS` names another folder
/// than xtask's.
pub fn victim_path(flavor: &str, name: &str) -> PathBuf {
    let folder = match std::env::var_os("LEAKPROBE_VICTIMS") {
        Some(folder) => folder.into(),
        None => target_dir().join("fixtures/victims"),
    };
    let path = folder.join(flavor).join(name);
    assert!(
        path.exists(),
        "there is no victim {}: run `cargo xtask victims`",
        path.display()
    );
    path.canonicalize()
        .expect("a path that exists has a real path")
}

/// The path of the leakprobe under test: `LEAKPROBE_BIN`, or the one cargo built, release first.
pub fn leakprobe_path() -> PathBuf {
    if let Some(path) = std::env::var_os("LEAKPROBE_BIN") {
        return path.into();
    }
    ["release", "debug"]
        .iter()
        .map(|profile| target_dir().join(profile).join("leakprobe"))
        .find(|path| path.exists())
        .expect("there is no leakprobe to test: run `cargo build --release`, or set LEAKPROBE_BIN")
}
