//! What an object's own unwind information says, instruction by instruction, read by gimli alone.
//! Nothing in here comes from the module under test but the form of a rule.

use std::collections::BTreeMap;
use std::ops::Range;

use gimli::{
    BaseAddresses, CfaRule, CieOrFde, EndianSlice, LittleEndian, Operation, RegisterRule,
    UnwindContext, UnwindSection, X86_64,
};
use iced_x86::{Decoder, DecoderOptions, FlowControl};
use leakprobe::unwind::{END, FpRule, Rule, RuleKind, UNSUPPORTED};
use object::{Object, ObjectSection, ObjectSegment, ObjectSymbol, SectionFlags, SymbolKind};

type Slice<'a> = EndianSlice<'a, LittleEndian>;

/// An instruction of which the unwind information tells something.
pub struct Place {
    pub rule: Rule,
    pub is_call: bool,
}

/// An object file.
pub struct Subject<'a> {
    pub file: object::File<'a>,
}

impl<'a> Subject<'a> {
    pub fn new(data: &'a [u8]) -> Self {
        let file = object::File::parse(data).expect("an ELF file");
        Self { file }
    }

    /// What is at some addresses.
    pub fn read(&self, range: Range<u64>) -> Option<Vec<u8>> {
        self.file.segments().find_map(|segment| {
            let size = range.end.checked_sub(range.start)?;
            let data = segment.data_range(range.start, size).ok().flatten()?;
            Some(data.to_vec())
        })
    }

    /// The sections with code.
    pub fn code(&self) -> Vec<Range<u64>> {
        let mut code: Vec<_> = self
            .file
            .sections()
            .filter(|section| {
                let SectionFlags::Elf { sh_flags, .. } = section.flags() else {
                    return false;
                };
                sh_flags.contains(object::elf::SHF_EXECINSTR) && section.size() > 0
            })
            .map(|section| section.address()..section.address() + section.size())
            .collect();
        code.sort_by_key(|range| range.start);
        code
    }

    /// The functions of .dynsym, which is what stripping leaves.
    pub fn functions(&self) -> Vec<Range<u64>> {
        let mut functions: Vec<_> = self
            .file
            .dynamic_symbols()
            .filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.is_definition())
            .map(|symbol| symbol.address()..symbol.address() + symbol.size())
            .collect();
        functions.sort_by_key(|range| (range.start, range.end));
        functions.dedup();
        functions
    }

    /// The name of the last symbol up to an address.
    pub fn function_at(&self, address: u64) -> String {
        let before = self
            .file
            .symbols()
            .filter(|symbol| symbol.is_definition() && symbol.address() <= address);
        let last = before.max_by_key(|symbol| symbol.address());
        let name = last.and_then(|symbol| Some(symbol.name().ok()?.to_string()));
        name.unwrap_or_default()
    }

    /// Where relative relocations point to.
    pub fn pointers(&self) -> Vec<u64> {
        let relocations = self.file.dynamic_relocations().into_iter().flatten();
        let targets = relocations.map(|(_, relocation)| relocation.addend() as u64);
        let mut targets: Vec<_> = targets.collect();
        if self.file.kind() == object::ObjectKind::Executable {
            targets.extend(self.words());
        }
        targets.sort_unstable();
        targets.dedup();
        targets
    }

    /// The words of data.
    fn words(&self) -> Vec<u64> {
        let data = self.file.sections().filter(|section| {
            section.kind() == object::SectionKind::Data && section.address() % 8 == 0
        });
        data.flat_map(|section| section.data().unwrap_or_default().to_vec())
            .collect::<Vec<u8>>()
            .chunks_exact(8)
            .filter_map(|word| Some(u64::from_le_bytes(word.try_into().ok()?)))
            .collect()
    }

    /// All instructions that the section `.debug_frame` or else `.eh_frame` tells of.
    pub fn places(&self) -> BTreeMap<u64, Place> {
        let section = |name| {
            let section = self.file.section_by_name(name)?;
            Some((
                section.address(),
                section.uncompressed_data().ok()?.into_owned(),
            ))
        };
        let text = self
            .file
            .section_by_name(".text")
            .map_or(0, |text| text.address());
        let bases = BaseAddresses::default().set_text(text);
        let mut places = BTreeMap::new();
        if let Some((_, data)) = section(".debug_frame") {
            let mut frames = gimli::DebugFrame::new(&data, LittleEndian);
            frames.set_address_size(8);
            self.add(&frames, &bases, &mut places);
        } else if let Some((address, data)) = section(".eh_frame") {
            let frames = gimli::EhFrame::new(&data, LittleEndian);
            self.add(&frames, &bases.set_eh_frame(address), &mut places);
        }
        places
    }

    fn add<'d, S>(&self, frames: &S, bases: &BaseAddresses, places: &mut BTreeMap<u64, Place>)
    where
        S: UnwindSection<Slice<'d>>,
        S::Offset: gimli::UnwindOffset<usize>,
    {
        let mut context = UnwindContext::new();
        let mut entries = frames.entries(bases);
        while let Some(entry) = entries.next().expect("well-formed unwind information") {
            let CieOrFde::Fde(partial) = entry else {
                continue;
            };
            let fde = partial.parse(S::cie_from_offset).expect("an FDE");
            // Exception handlers are reached from nowhere, and there are none without CFI.
            if fde.lsda().is_some() {
                continue;
            }
            let mut table = fde.rows(frames, bases, &mut context).expect("rows");
            while let Some(row) = table.next_row().expect("a row") {
                let start = row.start_address().max(fde.initial_address());
                let end = row.end_address().min(fde.end_address());
                let rule = rule(row, fde.cie().encoding(), frames);
                let Some(bytes) = self.read(start..end) else {
                    continue;
                };
                for i in Decoder::with_ip(64, &bytes, start, DecoderOptions::NONE).iter() {
                    if i.is_invalid() {
                        break;
                    }
                    let is_call = matches!(
                        i.flow_control(),
                        FlowControl::Call | FlowControl::IndirectCall
                    ) && i.mnemonic() != iced_x86::Mnemonic::Syscall;
                    places.insert(i.ip(), Place { rule, is_call });
                }
            }
        }
    }
}

fn rule<'d, S: UnwindSection<Slice<'d>>>(
    row: &gimli::UnwindTableRow<usize>,
    encoding: gimli::Encoding,
    frames: &S,
) -> Rule
where
    S::Offset: gimli::UnwindOffset<usize>,
{
    if row.register(X86_64::RA) == Some(RegisterRule::Undefined) {
        return END;
    }
    let ops = |expression: &gimli::UnwindExpression<usize>| {
        let expression = expression.get(frames).expect("an expression");
        let mut operations = expression.operations(encoding);
        let mut list = Vec::new();
        while let Some(operation) = operations.next().expect("an operation") {
            list.push(operation);
        }
        list
    };
    let (kind, cfa_offset, words) = match row.cfa() {
        CfaRule::RegisterAndOffset { register, offset } if *register == X86_64::RSP => {
            (RuleKind::Sp, *offset, 0)
        }
        CfaRule::RegisterAndOffset { register, offset } if *register == X86_64::RBP => {
            (RuleKind::Fp, *offset, 0)
        }
        CfaRule::RegisterAndOffset { .. } => return UNSUPPORTED,
        CfaRule::Expression(expression) => match ops(expression)[..] {
            [
                Operation::RegisterOffset {
                    register, offset, ..
                },
                Operation::Deref { .. },
            ] => (deref(register), offset, 0),
            [
                Operation::RegisterOffset {
                    register, offset, ..
                },
                Operation::Deref { .. },
                Operation::PlusConstant { value },
            ] => (deref(register), offset, value as u8 / 8),
            _ => return UNSUPPORTED,
        },
    };
    let (fp, fp_offset) = match row.register(X86_64::RBP) {
        Some(RegisterRule::Offset(offset)) => (FpRule::Cfa, offset / 8),
        Some(RegisterRule::Expression(expression)) => match ops(&expression)[..] {
            [
                Operation::RegisterOffset {
                    register, offset, ..
                },
            ] if register == X86_64::RBP => (FpRule::Fp, offset / 8),
            [
                Operation::RegisterOffset {
                    register, offset, ..
                },
            ] if register == X86_64::RSP => (FpRule::Sp, offset / 8),
            _ => (FpRule::Lost, 0),
        },
        None | Some(RegisterRule::SameValue) => (FpRule::Same, 0),
        _ => (FpRule::Lost, 0),
    };
    Rule {
        cfa_offset: cfa_offset as i32,
        fp_offset: fp_offset as i16,
        kind: kind as u8,
        fp: fp as u8 | words << 4,
    }
}

fn deref(register: gimli::Register) -> RuleKind {
    if register == X86_64::RBP {
        RuleKind::FpDeref
    } else {
        RuleKind::SpDeref
    }
}
