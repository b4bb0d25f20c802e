//! The file system of the emulated machine: busybox, leakprobe, the tests, the victims with the
//! loaders and libraries they need, and an `/init` that runs the tests and turns the machine off.

use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::cmd;

/// Lines of `/init` that say how far it got.
pub const RELEASE: &str = "KERNEL-RELEASE ";
/// Followed by the exit status of the tests.
pub const EXIT: &str = "KERNEL-EXIT ";

/// Python is not in there. The others run one by one: an emulated CPU is slow enough.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t cgroup2 cgroup /sys/fs/cgroup
echo +memory > /sys/fs/cgroup/cgroup.subtree_control
export PATH=/bin HOME=/ TMPDIR=/tmp RUST_BACKTRACE=0
export LEAKPROBE_BIN=/bin/leakprobe LEAKPROBE_VICTIMS=/victims
echo; echo "KERNEL-RELEASE $(uname -r)"
cd /tmp
exit=0
for tests in /tests/*; do
    $tests --skip python --test-threads 2 2>&1 || exit=$?
done
echo "KERNEL-EXIT $exit"
poweroff -f
"#;

/// Writes the initramfs to the file `out`.
pub fn build(out: &Path, leakprobe: &Path, tests: &[(&str, PathBuf)]) -> Result<()> {
    let tree = out.with_extension("tree");
    let _ = fs::remove_dir_all(&tree);
    for dir in ["bin", "dev", "proc", "sys", "tmp"] {
        create(&tree.join(dir))?;
    }
    let busybox = cmd::which("busybox").context("there is no busybox")?;
    copy(&busybox, &tree.join("bin/busybox"))?;
    copy(leakprobe, &tree.join("bin/leakprobe"))?;
    for (name, path) in tests {
        copy(path, &tree.join("tests").join(name))?;
    }

    let mut libraries = BTreeSet::new();
    let victims = cmd::fixtures().join("victims");
    for flavor in list(&victims)?.iter().filter(|path| path.is_dir()) {
        // Folders hold debug files, which the tests of the victims do without.
        for victim in list(flavor)?.iter().filter(|path| path.is_file()) {
            let relative = victim.strip_prefix(&victims)?;
            copy(victim, &tree.join("victims").join(relative))?;
            libraries.extend(needed(victim)?);
        }
    }
    for library in libraries {
        let relative = library.strip_prefix("/")?;
        copy(&library, &tree.join(relative))?;
    }

    let init = tree.join("init");
    fs::write(&init, INIT).context("failed to write /init")?;
    fs::set_permissions(&init, Permissions::from_mode(0o755))?;
    pack(&tree, out)
}

/// Packs a directory the way the kernel unpacks it.
fn pack(tree: &Path, out: &Path) -> Result<()> {
    let file =
        File::create(out).with_context(|| format!("failed to create `{}`", out.display()))?;
    let mut find = Command::new("find")
        .arg(".")
        .current_dir(tree)
        .stdout(Stdio::piped())
        .spawn()
        .context("failed to start `find`")?;
    let names = find.stdout.take().context("`find` has no output")?;
    let packed = cmd::run(
        Command::new("cpio")
            .args(["--create", "--format=newc", "--quiet"])
            .current_dir(tree)
            .stdin(names)
            .stdout(file),
    );
    let listed = find.wait().context("failed to wait for `find`")?;
    packed?;
    if !listed.success() {
        bail!("failed to list `{}` ({listed})", tree.display());
    }
    Ok(())
}

/// The loader and the libraries of a program, by their absolute paths; none for a static one.
fn needed(program: &Path) -> Result<Vec<PathBuf>> {
    let bytes =
        fs::read(program).with_context(|| format!("failed to read `{}`", program.display()))?;
    let Ok(elf) = object::read::elf::ElfFile64::<object::Endianness>::parse(&*bytes) else {
        return Ok(Vec::new());
    };
    let Some(loader) = interpreter(&elf) else {
        return Ok(Vec::new());
    };
    // Every loader lists what it would load; musl's is its libc too, and says nothing else of use.
    let list = cmd::output(Command::new(&loader).arg("--list").arg(program))?;
    let mut files = vec![loader];
    for line in list.lines() {
        if let Some((_, found)) = line.split_once(" => ") {
            let path = found.split(" (").next().unwrap_or(found);
            files.push(PathBuf::from(path));
        }
    }
    Ok(files)
}

fn interpreter(elf: &object::read::elf::ElfFile64<'_, object::Endianness>) -> Option<PathBuf> {
    use object::read::elf::ProgramHeader as _;
    let endian = elf.endian();
    elf.elf_program_headers().iter().find_map(|header| {
        let path = header.interpreter(endian, elf.data()).ok()??;
        Some(PathBuf::from(String::from_utf8_lossy(path).into_owned()))
    })
}

fn list(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = dir
        .read_dir()
        .with_context(|| format!("failed to list `{}`", dir.display()))?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

fn create(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("failed to create `{}`", dir.display()))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    create(to.parent().unwrap_or(to))?;
    fs::copy(from, to)
        .map(drop)
        .with_context(|| format!("failed to copy `{}` to `{}`", from.display(), to.display()))
}
