//! Probe sites in the real allocators of this machine, against an independent disassembler.
//!
//! The module under test decodes with iced-x86; here the same rule is applied to the text that
//! `objdump` prints. Every function the libraries export is compared, not only the allocators': a
//! site in the middle of an instruction, or behind a change of the stack, corrupts the target.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use leakprobe::probe::site::{Arguments, Site, SiteCost, SiteError, choose};
use object::{Object, ObjectSection, ObjectSymbol, SymbolKind};

/// The function names of all allocators.
const FUNCTIONS: [&str; 13] = [
    "malloc",
    "calloc",
    "realloc",
    "reallocarray",
    "free",
    "cfree",
    "posix_memalign",
    "aligned_alloc",
    "memalign",
    "valloc",
    "pvalloc",
    "free_sized",
    "free_aligned_sized",
];

/// One line of a disassembly: offset from the function's start, mnemonic, operands.
struct Line {
    offset: u64,
    mnemonic: String,
    operands: String,
}

impl Line {
    /// Prefixes that objdump prints in front of the mnemonic are part of it here.
    fn parse(line: &str, address: u64) -> Option<Line> {
        let (at, text) = line.trim_start().split_once(":\t")?;
        let at = u64::from_str_radix(at, 16).ok()?;
        let text = text.split(" #").next().unwrap_or(text);
        let text = text.split(" <").next().unwrap_or(text).trim();
        let (mnemonic, operands) = text.rsplit_once(' ').unwrap_or((text, ""));
        Some(Line {
            offset: at - address,
            mnemonic: mnemonic.trim().to_string(),
            operands: operands.to_string(),
        })
    }

    fn is_jump(&self) -> bool {
        self.mnemonic.starts_with('j')
    }

    /// Address a jump or call goes to, if the instruction itself tells.
    fn target(&self) -> Option<u64> {
        let jumps = self.is_jump() || self.mnemonic == "call" || self.mnemonic.starts_with("loop");
        u64::from_str_radix(&self.operands, 16)
            .ok()
            .filter(|_| jumps)
    }

    fn is_emulated(&self) -> bool {
        let direct = self.target().is_some();
        match self.mnemonic.as_str() {
            "push" => self.operands.starts_with("%r"),
            "nop" => self.operands.is_empty(),
            "call" | "jmp" => direct,
            "jrcxz" | "jecxz" => false,
            _ => self.is_jump() && direct,
        }
    }

    /// The mnemonic without its prefixes.
    fn name(&self) -> &str {
        self.mnemonic.split(' ').next_back().unwrap_or_default()
    }

    fn starts_with(&self, list: &[&str]) -> bool {
        list.iter().any(|start| self.name().starts_with(start))
    }

    /// Whether what follows is not reached by every call, or reached with another stack.
    fn ends_prologue(&self) -> bool {
        self.is_jump()
            || self.mnemonic.contains(" jmp")
            || self.starts_with(&["ret", "call", "loop", "ud2", "sys", "hlt", "int", "xbegin"])
            || self.starts_with(&[
                "push", "leave", "enter", "xrstor", "fxrstor", "xsave", "fxsave",
            ])
            || self.starts_with(&["pop"]) && !self.starts_with(&["popcnt"])
            || self.operands.contains("%rsp")
            || self.operands.contains("%esp")
    }

    /// Whether it changes one of the first `count` argument registers.
    fn changes_argument(&self, count: usize) -> bool {
        const NAMES: [&[&str]; 3] = [
            &["%rdi", "%edi", "%di", "%dil"],
            &["%rsi", "%esi", "%si", "%sil"],
            &["%rdx", "%edx", "%dx", "%dl", "%dh"],
        ];
        /// They write rdx without naming it.
        const WIDE: [&str; 25] = [
            "mul",
            "mulb",
            "mulw",
            "mull",
            "mulq",
            "div",
            "divb",
            "divw",
            "divl",
            "divq",
            "idiv",
            "idivb",
            "idivw",
            "idivl",
            "idivq",
            "cqto",
            "cltd",
            "cwtd",
            "rdtsc",
            "rdtscp",
            "cpuid",
            "xgetbv",
            "rdpmc",
            "cmpxchg8b",
            "cmpxchg16b",
        ];
        let operands: Vec<&str> = self.operands.split(',').collect();
        let string = self.mnemonic.starts_with("rep")
            || self.operands.contains("%es:(%rdi)")
            || self.starts_with(&["lods"]);
        let reads_only = self.starts_with(&["cmp", "test", "bt", "ucomis", "comis", "nop"])
            && !self.starts_with(&["btc", "btr", "bts", "cmpxchg"]);
        let wide =
            WIDE.contains(&self.name()) || self.starts_with(&["imul"]) && operands.len() == 1;
        // The destination comes last; xchg and xadd have two.
        let two = self.starts_with(&["xchg", "xadd"]);
        let destinations = if two {
            &operands[..]
        } else {
            &operands[operands.len() - 1..]
        };
        (0..count).any(|argument| {
            let named = destinations
                .iter()
                .any(|operand| NAMES[argument].contains(operand));
            named && !reads_only || argument < 2 && string || argument == 2 && wide
        })
    }
}

/// The rule, applied to a disassembly.
fn expected(lines: &[Line], address: u64, count: usize) -> (u64, SiteCost) {
    let targets: Vec<u64> = lines
        .iter()
        .filter_map(Line::target)
        .map(|target| target.wrapping_sub(address))
        .collect();
    let reached_once = |site: u64| !targets.iter().any(|&target| target > 0 && target <= site);
    for line in lines {
        if line.is_emulated() {
            if reached_once(line.offset) {
                return (line.offset, SiteCost::Emulated);
            }
            break;
        }
        if line.ends_prologue() || line.changes_argument(count) {
            break;
        }
    }
    let endbr64 = lines.len() > 1 && lines[0].mnemonic == "endbr64" && reached_once(4);
    let entry = &lines[usize::from(endbr64)];
    let cost = if entry.is_emulated() {
        SiteCost::Emulated
    } else {
        SiteCost::SingleStepped
    };
    (entry.offset, cost)
}

/// A function of a library: address in the file's own count, and code.
struct Function {
    name: String,
    address: u64,
    code: Vec<u8>,
}

fn functions(file: &object::File<'_>) -> Vec<Function> {
    let mut found = BTreeMap::new();
    for symbol in file.dynamic_symbols() {
        let (Ok(name), Some(index)) = (symbol.name(), symbol.section_index()) else {
            continue;
        };
        if symbol.kind() != SymbolKind::Text || symbol.size() == 0 {
            continue;
        }
        let section = file
            .section_by_index(index)
            .expect("the section of a symbol");
        let code = section
            .data_range(symbol.address(), symbol.size())
            .expect("section data");
        let code = code.expect("a function within its section").to_vec();
        found.insert(
            name.to_string(),
            Function {
                name: name.to_string(),
                address: symbol.address(),
                code,
            },
        );
    }
    found.into_values().collect()
}

/// All instructions objdump prints, by address. It starts afresh at every symbol.
fn disassemble(path: &Path) -> BTreeMap<u64, String> {
    let output = Command::new("objdump")
        .args(["-d", "--no-show-raw-insn", "-w"])
        .arg(path)
        .output()
        .expect("objdump (Debian package binutils) must be installed");
    assert!(
        output.status.success(),
        "objdump failed on {}",
        path.display()
    );
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| {
            let (at, _) = line.trim_start().split_once(":\t")?;
            Some((u64::from_str_radix(at, 16).ok()?, line.to_string()))
        })
        .collect()
}

/// Compares all functions of the first of `paths` that is there; returns the sites of the allocator
/// functions with the argument counts leakprobe needs.
fn compare(package: &str, paths: &[&str]) -> BTreeMap<String, Site> {
    let path = paths.iter().map(Path::new).find(|path| path.exists());
    let path =
        path.unwrap_or_else(|| panic!("none of {paths:?}: install Debian package {package}"));
    let data = std::fs::read(path).expect("a readable library");
    let file = object::File::parse(data.as_slice()).expect("an ELF file");
    let listing = disassemble(path);

    let mut sites = BTreeMap::new();
    let (mut compared, mut refused) = (0, 0);
    for function in functions(&file) {
        let end = function.address + function.code.len() as u64;
        let lines: Vec<Line> = listing
            .range(function.address..end)
            .filter_map(|(_, line)| Line::parse(line, function.address))
            .collect();
        if lines
            .first()
            .is_none_or(|line| line.offset != 0 || line.mnemonic == "(bad)")
        {
            continue; // not in a section of code
        }
        for arguments in [Arguments::One, Arguments::Two, Arguments::Three] {
            let what = || format!("{} in {}, {arguments:?}", function.name, path.display());
            let site = match choose(&function.code, function.address, arguments) {
                Ok(site) => site,
                Err(SiteError::Refused { .. }) if !FUNCTIONS.contains(&function.name.as_str()) => {
                    refused += 1;
                    continue;
                }
                Err(error) => panic!("{}: {error}", what()),
            };
            let wanted = expected(&lines, function.address, arguments.count());
            assert_eq!(
                (site.offset, site.cost),
                wanted,
                "{}: {}",
                what(),
                site.instruction
            );
            compared += 1;
            if arguments == needed(&function.name) && FUNCTIONS.contains(&function.name.as_str()) {
                sites.insert(function.name.clone(), site);
            }
        }
    }
    println!(
        "{}: {compared} sites compared, {refused} refused",
        path.display()
    );
    for (name, site) in &sites {
        println!(
            "  {name:15} +{:<3} {:14} {}",
            site.offset,
            site.cost.to_string(),
            site.instruction
        );
    }
    assert!(compared > 30, "too few functions in {}", path.display());
    sites
}

fn needed(function: &str) -> Arguments {
    match function {
        "reallocarray" | "posix_memalign" => Arguments::Three,
        "calloc" | "realloc" | "aligned_alloc" | "memalign" => Arguments::Two,
        _ => Arguments::One,
    }
}

#[track_caller]
fn assert_cheap(sites: &BTreeMap<String, Site>, functions: &[&str]) {
    for function in functions {
        let site = &sites[*function];
        assert_eq!(site.cost, SiteCost::Emulated, "{function}: {site:?}");
    }
}

#[test]
fn glibc() {
    let paths = [
        "/lib/x86_64-linux-gnu/libc.so.6",
        "/lib64/libc.so.6",
        "/usr/lib/libc.so.6",
    ];
    let sites = compare("libc6", &paths);
    assert_cheap(
        &sites,
        &["malloc", "calloc", "realloc", "free", "posix_memalign"],
    );
}

#[test]
fn musl() {
    let paths = [
        "/lib/ld-musl-x86_64.so.1",
        "/usr/lib/x86_64-linux-musl/libc.so",
    ];
    let sites = compare("musl", &paths);
    assert_cheap(
        &sites,
        &["malloc", "calloc", "realloc", "free", "posix_memalign"],
    );
}

#[test]
fn jemalloc() {
    let sites = compare(
        "libjemalloc2",
        &["/usr/lib/x86_64-linux-gnu/libjemalloc.so.2"],
    );
    assert_cheap(&sites, &["malloc", "free"]);
}

#[test]
fn tcmalloc() {
    let paths = ["/usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4"];
    let sites = compare("libtcmalloc-minimal4", &paths);
    assert_cheap(&sites, &["malloc", "free"]);
}

#[test]
fn mimalloc() {
    let paths = ["/usr/lib/x86_64-linux-gnu/libmimalloc.so.2.0"];
    let sites = compare("libmimalloc2.0", &paths);
    assert_cheap(&sites, &["free"]);
}
