//! Probe sites in the real allocators of this machine, against an independent disassembler.
//!
//! The module under test decodes with iced-x86; here the same rule is applied to the text that
//! `objdump` prints. Every function the libraries export is compared, not only the allocators': a
//! site in the middle of an instruction, or behind a change of the stack, corrupts the target.

mod objdump;

use std::collections::BTreeMap;
use std::path::Path;

use leakprobe::probe::site::{Arguments, Site, SiteCost, SiteError, choose};
use objdump::{Line, disassemble, expected};
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
