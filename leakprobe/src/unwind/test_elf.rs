//! Small ELF files for tests: some code, and sections by name.

use object::LittleEndian as LE;
use object::elf::{self, FileHeader64, Ident, ProgramHeader64, SectionHeader64};
use object::pod::bytes_of;
use object::{U16, U32, U64};

/// A section: its name, its address (0 if it is not to be loaded) and its contents.
pub type Section<'a> = (&'a str, u64, &'a [u8]);

/// A shared library for x86-64 with code at an address, and sections which no segment holds.
pub fn elf(address: u64, code: &[u8], sections: &[Section<'_>]) -> Vec<u8> {
    let headers = size_of::<FileHeader64<LE>>() + size_of::<ProgramHeader64<LE>>();
    let mut body = code.to_vec();
    let mut names = vec![0];
    let mut table = vec![section(elf::SHT_NULL, 0, 0, 0, 0)];
    for (name, address, contents) in sections {
        let offset = headers + body.len();
        body.extend_from_slice(contents);
        let size = contents.len();
        table.push(section(
            elf::SHT_PROGBITS,
            names.len(),
            *address,
            offset,
            size,
        ));
        names.extend_from_slice(name.as_bytes());
        names.push(0);
    }
    let offset = headers + body.len();
    table.push(section(elf::SHT_STRTAB, 0, 0, offset, names.len()));
    body.extend_from_slice(&names);

    let program = ProgramHeader64::<LE> {
        p_type: U32::new(LE, elf::PT_LOAD),
        p_flags: U32::new(LE, elf::PF_R | elf::PF_X),
        p_offset: U64::new(LE, headers as u64),
        p_vaddr: U64::new(LE, address),
        p_paddr: U64::new(LE, address),
        p_filesz: U64::new(LE, code.len() as u64),
        p_memsz: U64::new(LE, code.len() as u64),
        p_align: U64::new(LE, 1),
    };
    let header = FileHeader64::<LE> {
        e_ident: Ident {
            magic: elf::ELFMAG,
            class: elf::ELFCLASS64,
            data: elf::ELFDATA2LSB,
            version: elf::EV_CURRENT,
            os_abi: elf::ELFOSABI_NONE,
            abi_version: 0,
            padding: [0; 7],
        },
        e_type: U16::new(LE, elf::ET_DYN),
        e_machine: U16::new(LE, elf::EM_X86_64),
        e_version: U32::new(LE, 1),
        e_entry: U64::new(LE, address),
        e_phoff: U64::new(LE, size_of::<FileHeader64<LE>>() as u64),
        e_shoff: U64::new(LE, (headers + body.len()) as u64),
        e_flags: U32::new(LE, elf::FileFlags(0)),
        e_ehsize: U16::new(LE, size_of::<FileHeader64<LE>>() as u16),
        e_phentsize: U16::new(LE, size_of::<ProgramHeader64<LE>>() as u16),
        e_phnum: U16::new(LE, 1),
        e_shentsize: U16::new(LE, size_of::<SectionHeader64<LE>>() as u16),
        e_shnum: U16::new(LE, table.len() as u16),
        e_shstrndx: U16::new(LE, elf::SymbolSection(table.len() as u16 - 1)),
    };
    let mut file = bytes_of(&header).to_vec();
    file.extend_from_slice(bytes_of(&program));
    file.append(&mut body);
    file.extend(table.iter().flat_map(|section| bytes_of(section).to_vec()));
    file
}

fn section(
    kind: elf::SectionType,
    name: usize,
    address: u64,
    offset: usize,
    size: usize,
) -> SectionHeader64<LE> {
    SectionHeader64 {
        sh_name: U32::new(LE, name as u32),
        sh_type: U32::new(LE, kind),
        sh_flags: U64::new(LE, elf::SectionFlags(0)),
        sh_addr: U64::new(LE, address),
        sh_offset: U64::new(LE, offset as u64),
        sh_size: U64::new(LE, size as u64),
        sh_link: U32::new(LE, 0),
        sh_info: U32::new(LE, 0),
        sh_addralign: U64::new(LE, 1),
        sh_entsize: U64::new(LE, 0),
    }
}
