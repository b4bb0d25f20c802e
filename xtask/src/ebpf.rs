//! The compiled BPF object that is committed inside the `leakprobe` crate, so that a plain stable
//! `cargo build` gives the whole tool. This rebuilds it, records what it was built from, and checks
//! that the record is still true. It does not load the object; the tests do.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use object::build::elf::{Builder, SectionData};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::cmd;
use crate::toolchain::Toolchain;

/// The committed object, and beside it what it was built from.
const OBJECT: &str = "leakprobe/bpf/leakprobe.bpf.o";
const RECORD: &str = "leakprobe/bpf/leakprobe.bpf.json";
/// Everything the object is built from; flags are in the crate's .cargo/config.toml.
const INPUTS: &[&str] = &["leakprobe-ebpf", "leakprobe-common"];

/// What the committed object was built from, and what came out.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// Over the names and contents of all [`INPUTS`].
    inputs_sha256: String,
    compiler: String,
    linker: String,
    object_sha256: String,
}

/// What a rebuild has shown.
pub enum Rebuilt {
    /// The committed object, byte for byte.
    Identical,
    /// Another compiler, so other bytes; the new object is here.
    OtherCompiler(PathBuf),
}

/// Rebuilds the object and its record.
pub fn update() -> Result<()> {
    let toolchain = Toolchain::find(&tools())?;
    let object = build(&toolchain)?;
    let bytes = read(&object)?;
    let record = Record {
        inputs_sha256: hash_inputs(&cmd::root())?,
        compiler: toolchain.compiler.clone(),
        linker: toolchain.linker.clone(),
        object_sha256: hash(&bytes),
    };
    write(&cmd::root().join(OBJECT), &bytes)?;
    let json = serde_json::to_string_pretty(&record)? + "\n";
    write(&cmd::root().join(RECORD), json.as_bytes())?;
    eprintln!("{OBJECT}: {} bytes, {}", bytes.len(), record.compiler);
    Ok(())
}

/// Fails if the committed object is not what its sources of today give.
pub fn check() -> Result<Rebuilt> {
    let root = cmd::root();
    let record: Record = serde_json::from_slice(&read(&root.join(RECORD))?)
        .with_context(|| format!("`{RECORD}` is not a record; run `cargo xtask ebpf`"))?;
    if record.inputs_sha256 != hash_inputs(&root)? {
        bail!(
            "`{OBJECT}` is stale: its sources have changed; run `cargo xtask ebpf` and commit it"
        );
    }
    let committed = read(&root.join(OBJECT))?;
    if record.object_sha256 != hash(&committed) {
        bail!("`{OBJECT}` is not the one recorded in `{RECORD}`; run `cargo xtask ebpf`");
    }

    let toolchain = match Toolchain::find(&tools()) {
        Ok(toolchain) => toolchain,
        Err(error) if std::env::var_os("CI").is_some() => return Err(error),
        Err(error) => bail!("the record is right, but the object cannot be rebuilt: {error:#}"),
    };
    let object = build(&toolchain)?;
    let rebuilt = read(&object)?;
    if rebuilt == committed {
        eprintln!("{OBJECT}: rebuilt, and the same byte for byte");
        return Ok(Rebuilt::Identical);
    }
    if (&toolchain.compiler, &toolchain.linker) == (&record.compiler, &record.linker) {
        bail!(
            "`{OBJECT}` differs from `{}`, built from the same sources by the same compiler",
            object.display()
        );
    }
    eprintln!(
        "{OBJECT} was built by {}; with {} the bytes differ, as they may",
        record.compiler, toolchain.compiler
    );
    Ok(Rebuilt::OtherCompiler(object))
}

/// Builds the object below `target`, where a check finds what an update has built, and cargo what
/// has changed since. Returns its path.
fn build(toolchain: &Toolchain) -> Result<PathBuf> {
    let root = cmd::root();
    let target = root.join("target/ebpf");
    let source = root.join("leakprobe-ebpf");
    cmd::run(
        toolchain
            .cargo()
            .current_dir(&source)
            .args(["fetch", "--locked"]),
    )?;

    // File names get into the object's line information; they must not depend on the machine.
    let mut remap = vec![(root.clone(), "/leakprobe")];
    for dir in registries() {
        remap.push((dir, "/registry"));
    }
    let library = toolchain.sysroot.join("lib/rustlib/src/rust");
    if let Ok(real) = library.canonicalize() {
        remap.push((real, "/rust"));
    }
    remap.push((library, "/rust"));
    let flags: Vec<String> = remap
        .iter()
        .map(|(from, to)| format!("\"--remap-path-prefix={}={to}\"", from.display()))
        .collect();
    let flags = format!("target.bpfel-unknown-none.rustflags=[{}]", flags.join(","));
    cmd::run(
        toolchain
            .cargo()
            .current_dir(&source)
            .args(["build", "--release", "--locked", "--config", &flags])
            .arg("--target-dir")
            .arg(&target),
    )?;
    let object = target.join("bpfel-unknown-none/release/leakprobe");
    let stripped = target.join("leakprobe.bpf.o");
    write(&stripped, &strip(&read(&object)?)?)?;
    Ok(stripped)
}

/// Directories in which cargo has unpacked packages.
fn registries() -> Vec<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(std::env::home_dir()?.join(".cargo")));
    let dirs = home.and_then(|home| home.join("registry/src").read_dir().ok());
    dirs.into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect()
}

/// Takes DWARF out: it is most of the object, and the kernel and the loader read only BTF.
fn strip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut builder = Builder::read(bytes).context("failed to parse the BPF object")?;
    for section in &mut builder.sections {
        let name = section.name.as_slice();
        section.delete = name.starts_with(b".debug_") || name.starts_with(b".rel.debug_");
        if name == b".BTF"
            && let SectionData::Data(data) = &mut section.data
        {
            *data = mend_union_names(data).into();
        }
    }
    // LLVM keeps the names of sections and of symbols in one table; the writer wants two.
    let names = builder.sections.add();
    names.name = ".shstrtab".into();
    names.sh_type = object::elf::SHT_STRTAB;
    names.sh_addralign = 1;
    names.data = SectionData::SectionString;
    let mut out = Vec::new();
    builder
        .write(&mut out)
        .context("failed to write the stripped BPF object")?;
    Ok(out)
}

/// Makes identifiers of the names of generic unions. bpf-linker does that for structures only, and
/// the kernel refuses type information with a `<` in a name. (`aya_ebpf::Global` holds such a
/// union.)
fn mend_union_names(btf: &[u8]) -> Vec<u8> {
    const PREFIX: &[u8] = b"MaybeUninit<";
    let mut mended = btf.to_vec();
    let places = btf.windows(PREFIX.len()).enumerate();
    for (start, _) in places.filter(|(_, bytes)| *bytes == PREFIX) {
        for byte in mended[start..].iter_mut().take_while(|byte| **byte != 0) {
            if !byte.is_ascii_alphanumeric() {
                *byte = b'_';
            }
        }
    }
    mended
}

fn tools() -> PathBuf {
    cmd::root().join("target/tools")
}

fn hash_inputs(root: &Path) -> Result<String> {
    let mut files = Vec::new();
    for input in INPUTS {
        list(&root.join(input), &mut files)?;
    }
    files.sort();
    let mut hasher = Sha256::new();
    for file in files {
        let name = file.strip_prefix(root).unwrap_or(&file);
        let bytes = read(&file)?;
        hasher.update(name.to_string_lossy().as_bytes());
        hasher.update([0]);
        hasher.update((bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    }
    Ok(hex(&hasher.finalize()))
}

/// All files below a directory, but no links and not what a build by hand leaves there.
fn list(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = dir
        .read_dir()
        .with_context(|| format!("failed to list `{}`", dir.display()))?;
    for entry in entries {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_file() {
            files.push(entry.path());
        } else if kind.is_dir() && entry.file_name() != "target" {
            list(&entry.path(), files)?;
        }
    }
    Ok(())
}

fn hash(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn read(file: &Path) -> Result<Vec<u8>> {
    std::fs::read(file).with_context(|| format!("failed to read `{}`", file.display()))
}

fn write(file: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(file, bytes).with_context(|| format!("failed to write `{}`", file.display()))
}
