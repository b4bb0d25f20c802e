//! Compiles the victims of the end-to-end tests (tests/victims) for every libc they have to be
//! right on. It does not run them, and it installs nothing: what is missing it names.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, Result, bail};

/// No frame pointers, as nothing that people run keeps them; own frames for every function; no
/// builtins, so that the compiler does not elide the allocations it sees through.
const C_FLAGS: &[&str] = &[
    "-std=gnu11",
    "-O1",
    "-g",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-fomit-frame-pointer",
    "-fno-optimize-sibling-calls",
    "-fno-builtin",
    "-pthread",
];

/// Folder below the output directory, compiler, and what it links with.
const FLAVORS: &[(&str, &str, &[&str])] = &[
    ("glibc", "gcc", &[]),
    ("glibc-static", "gcc", &["-static"]),
    ("musl", "musl-gcc", &[]),
    ("musl-static", "musl-gcc", &["-static"]),
];

/// Victims that do not make sense in every flavor; their sources say why.
const ONLY: &[(&str, &[&str])] = &[
    ("cfree", &["glibc"]),
    ("pvalloc", &["glibc", "glibc-static"]),
    ("stripped", &["glibc-static", "musl-static"]),
    ("jit", &["glibc", "musl"]),
    ("late", &["glibc", "musl"]),
    ("dlopened", &["glibc", "musl"]),
];

/// Libraries alone, which are preloaded or loaded: `NAME.so`, for programs that are linked with one.
const LIBRARIES: &[&str] = &["passing", "pooling", "watching"];

/// Victims that load a library, made of the same source: `NAME.so` beside them.
const WITH_LIBRARY: &[&str] = &["late"];

/// The victim `names`, without its symbols: they are somewhere else.
struct Variant {
    /// Below `other`.
    path: &'static str,
    /// For the compiler.
    flags: &'static [&'static str],
    /// A shell script. `$1` is the program with all it has, `$2` where the variant goes, `$3` the
    /// folder `other`.
    strip: &'static str,
}

const VARIANTS: &[Variant] = &[
    Variant {
        path: "names-nothing",
        flags: &["-Wl,--build-id=sha1"],
        strip: r#"objcopy --strip-all "$1" "$2""#,
    },
    // Debug information by build id, in a folder of its own.
    Variant {
        path: "names-build-id",
        flags: &["-Wl,--build-id=sha1", "-gz=zlib"],
        strip: r#"id=$(readelf --notes "$1" | sed -n 's/.*Build ID: //p')
            folder="$3/debug/.build-id/$(printf %s "$id" | cut -c1-2)"
            rm -rf "$3/debug"
            mkdir -p "$folder"
            objcopy --only-keep-debug "$1" "$folder/$(printf %s "$id" | cut -c3-).debug"
            objcopy --strip-all "$1" "$2""#,
    },
    // Debug information by a link with a CRC, beside the program.
    Variant {
        path: "names-link",
        flags: &["-Wl,--build-id=none"],
        strip: r#"mkdir -p "$3/.debug"
            objcopy --only-keep-debug "$1" "$3/.debug/names-link.dbg"
            objcopy --strip-all --add-gnu-debuglink="$3/.debug/names-link.dbg" "$1" "$2""#,
    },
    // MiniDebugInfo: packed symbols in the program itself.
    Variant {
        path: "names-mini",
        flags: &["-Wl,--build-id=sha1"],
        strip: r#"objcopy --only-keep-debug --strip-debug "$1" "$1.mini"
            xz --force "$1.mini"
            objcopy --strip-all --add-section .gnu_debugdata="$1.mini.xz" "$1" "$2"
            rm "$1.mini.xz""#,
    },
];

impl Variant {
    fn make(&self, source: &Path, other: &Path, path: &Path) -> Result<()> {
        let whole = path.with_extension("whole");
        let mut compile = Command::new("gcc");
        compile.args(C_FLAGS).args(self.flags).arg("-o");
        run(compile.arg(&whole).arg(source))?;
        let mut strip = Command::new("sh");
        strip.args(["-euc", self.strip, "sh"]);
        run(strip.arg(&whole).arg(path).arg(other))?;
        fs::remove_file(&whole).context("failed to remove what a victim was made of")
    }
}

/// Compiles every victim to `out/FLAVOR/NAME` (its library, if it loads one, to `NAME.so`), the 32-bit program to `out/other/loop32`, the
/// victim `names` stripped in several ways to `out/other/names-HOW`, and copies the Python script to `out/other/leak.py`. What is newer than its sources is left alone.
///
/// Errors: a compiler is missing, or a victim does not compile.
pub fn build(out: &Path) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folder = root.join("tests/victims");
    let sources = list(&folder)?;
    // Victims include each other and headers; the flags stand in this file.
    let mut newest = modified(&root.join("xtask/src/victims.rs"))?;
    for source in &sources {
        newest = newest.max(modified(source)?);
    }

    let made = |path: &Path| modified(path).is_ok_and(|time| time >= newest);
    for (flavor, compiler, link) in FLAVORS {
        fs::create_dir_all(out.join(flavor)).context("failed to create the victims' folder")?;
        for source in sources.iter().filter(|path| has_extension(path, "c")) {
            let name = stem(source)?;
            let mut binary = out.join(flavor).join(name);
            let is_library = LIBRARIES.contains(&name);
            if is_library {
                binary.set_extension("so");
            }
            let excluded = ONLY
                .iter()
                .any(|(victim, flavors)| *victim == name && !flavors.contains(flavor));
            if excluded || made(&binary) || (is_library && link.contains(&"-static")) {
                continue;
            }
            let library = || {
                let mut command = Command::new(compiler);
                command
                    .args(C_FLAGS)
                    .args(["-fPIC", "-shared", "-Wl,-Bsymbolic", "-DLIBRARY"]);
                command
            };
            if is_library {
                run(library().arg("-o").arg(&binary).arg(source))?;
                continue;
            }
            let mut command = Command::new(compiler);
            command.args(C_FLAGS).args(*link);
            if name == "stripped" {
                command.arg("-s");
            }
            run(command.arg("-o").arg(&binary).arg(source))?;
            if WITH_LIBRARY.contains(&name) {
                let path = binary.with_extension("so");
                run(library().arg("-o").arg(path).arg(source))?;
            }
        }
    }

    let other = out.join("other");
    fs::create_dir_all(&other).context("failed to create the victims' folder")?;
    let rust = out.join("glibc/rust");
    if !made(&rust) {
        // Without cargo, whose flags for one binary alone would be hard to set.
        let mut command = Command::new(std::env::var_os("RUSTC").unwrap_or("rustc".into()));
        command.args(["--edition", "2024", "-C", "opt-level=2", "-C"]);
        command.args(["debuginfo=2", "-C", "force-frame-pointers=yes", "-o"]);
        run(command.arg(&rust).arg(folder.join("rust.rs")))?;
    }
    let loop32 = other.join("loop32");
    if !made(&loop32) {
        let mut command = Command::new("gcc");
        command.args(["-m32", "-nostdlib", "-static", "-o"]);
        run(command.arg(&loop32).arg(folder.join("loop32.s")))?;
    }
    for variant in VARIANTS {
        let path = other.join(variant.path);
        if !made(&path) {
            variant.make(&folder.join("names.c"), &other, &path)?;
        }
    }
    fs::copy(folder.join("leak.py"), other.join("leak.py")).context("failed to copy leak.py")?;
    Ok(())
}

fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
        .with_context(|| format!("failed to list `{}`", folder.display()))
}

fn modified(path: &Path) -> Result<SystemTime> {
    fs::metadata(path)
        .and_then(|metadata| metadata.modified())
        .with_context(|| format!("failed to read the time of `{}`", path.display()))
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found == extension)
}

fn stem(path: &Path) -> Result<&str> {
    path.file_stem()
        .and_then(|stem| stem.to_str())
        .with_context(|| format!("`{}` has no name to call its victim by", path.display()))
}

fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => bail!("failed to compile a victim: {command:?} ended with {status}"),
        Err(error) => Err(error).with_context(|| {
            format!(
                "failed to run `{program}`, which compiles the victims; \
                 on Debian: apt-get install gcc musl-tools binutils xz-utils"
            )
        }),
    }
}
