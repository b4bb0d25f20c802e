//! The rule for probe sites once more, applied to the text that `objdump` prints. Nothing in here
//! comes from the module under test.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use leakprobe::probe::site::SiteCost;

/// One line of a disassembly: offset from the function's start, mnemonic, operands.
pub struct Line {
    pub offset: u64,
    pub mnemonic: String,
    operands: String,
}

impl Line {
    /// Prefixes that objdump prints in front of the mnemonic are part of it here.
    pub fn parse(line: &str, address: u64) -> Option<Line> {
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
pub fn expected(lines: &[Line], address: u64, count: usize) -> (u64, SiteCost) {
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

/// All instructions objdump prints, by address. It starts afresh at every symbol.
pub fn disassemble(path: &Path) -> BTreeMap<u64, String> {
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
