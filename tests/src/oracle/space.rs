//! The address space of a sampled process: its code mappings, the images behind them, and framehop
//! filled with them. Read once, while the process lives.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use framehop::x86_64::UnwinderX86_64;
use framehop::{ExplicitModuleSectionInfo, Module, Unwinder};

use super::image::{self, Image};
use super::unwind::Frame;

/// One executable mapping.
pub struct Mapping {
    start: u64,
    end: u64,
    /// File name without folders, what the kernel calls it, or `[anonymous]`.
    pub name: String,
    /// `None` for code without an ELF file.
    pub image: Option<Arc<Image>>,
    /// Address in memory less address in the file; for code without a file, where it starts.
    pub bias: u64,
    /// The path by which it can be opened, whatever root the process has.
    pub path: String,
}

/// All code of a process.
pub struct Space {
    mappings: Vec<Mapping>,
    /// Where there was code without a file, and perhaps is no more.
    past: Vec<Mapping>,
    /// With `.eh_frame`, and with `.debug_frame`: framehop takes one of them for each module.
    pub unwinders: [UnwinderX86_64<Arc<[u8]>>; 2],
}

impl Space {
    /// Reads the mappings of a process and their files. `debug` are files that hold what was
    /// stripped from them, `past` where there was code without a file before. Panics when the process
    /// is gone.
    pub fn read(pid: u32, debug: &[PathBuf], past: &BTreeSet<(u64, u64)>) -> Space {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps"))
            .unwrap_or_else(|error| panic!("failed to read the mappings of {pid}: {error}"));
        let mut images = HashMap::new();
        let mut space = Space {
            mappings: Vec::new(),
            past: past
                .iter()
                .map(|&(start, end)| Mapping::without_file(start, end))
                .collect(),
            unwinders: [UnwinderX86_64::new(), UnwinderX86_64::new()],
        };
        for line in maps.lines() {
            if let Some(mapping) = parse(pid, line, &mut images, debug) {
                space.add_modules(&mapping);
                space.mappings.push(mapping);
            }
        }
        space
    }

    /// The mapping that holds an address.
    pub fn find(&self, address: u64) -> Option<&Mapping> {
        let holds = |mapping: &&Mapping| (mapping.start..mapping.end).contains(&address);
        let after = self.mappings.partition_point(|m| m.start <= address);
        self.mappings[..after]
            .last()
            .filter(holds)
            .or_else(|| self.past.iter().find(holds))
    }

    /// The mappings whose image has this function, such as `malloc`.
    pub fn with_function(&self, name: &str) -> impl Iterator<Item = (&Mapping, u64)> {
        self.mappings.iter().filter_map(move |mapping| {
            let offset = mapping.image.as_ref()?.function_offset(name)?;
            Some((mapping, offset))
        })
    }

    /// Module and function of a frame, for a person.
    pub fn describe(&self, frame: &Frame) -> String {
        let mut images = self.mappings.iter().filter(|m| m.name == frame.module);
        let function = images
            .find_map(|mapping| mapping.image.as_ref())
            .map_or("?", |image| image.function(frame.offset));
        format!("{} {function}", frame.module)
    }

    fn add_modules(&mut self, mapping: &Mapping) {
        let Some(image) = &mapping.image else {
            return;
        };
        for cfi in &image.cfi {
            let mut sections = ExplicitModuleSectionInfo::default();
            if cfi.is_debug {
                sections.debug_frame = Some(cfi.data.clone());
            } else {
                sections.eh_frame = Some(cfi.data.clone());
                sections.eh_frame_svma = Some(cfi.address..cfi.address + cfi.data.len() as u64);
                sections.text_svma = Some(cfi.text..cfi.text + 1);
            }
            let range = mapping.start..mapping.end;
            let name = mapping.name.clone();
            let module = Module::new(name, range, mapping.bias, sections);
            self.unwinders[usize::from(cfi.is_debug)].add_module(module);
        }
    }
}

impl Mapping {
    fn without_file(start: u64, end: u64) -> Mapping {
        Mapping {
            start,
            end,
            name: "[anonymous]".to_string(),
            image: None,
            bias: start,
            path: String::new(),
        }
    }
}

/// Where a process has code without a file: first address and end. Nothing if it is gone.
pub fn generated(pid: u32) -> Vec<(u64, u64)> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    let number = |text| u64::from_str_radix(text, 16).ok();
    maps.lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            let (start, end) = words.next()?.split_once('-')?;
            let is_code = words.next()?.contains('x');
            (is_code && words.count() == 3).then_some((number(start)?, number(end)?))
        })
        .collect()
}

/// Images by device and inode, so that each file is read once.
type Images = HashMap<(String, String), Option<Arc<Image>>>;

fn parse(pid: u32, line: &str, images: &mut Images, debug: &[PathBuf]) -> Option<Mapping> {
    let mut words = line.splitn(6, ' ');
    let addresses = words.next()?;
    let (start, end) = addresses.split_once('-')?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    let (start, end) = (number(start)?, number(end)?);
    if !words.next()?.contains('x') {
        return None;
    }
    let offset = number(words.next()?)?;
    let (device, inode) = (words.next()?.to_string(), words.next()?.to_string());
    let shown = words.next().unwrap_or("").trim();
    let path = format!("/proc/{pid}/map_files/{start:x}-{end:x}");
    let image = match shown {
        "[vdso]" => Image::parse(&memory(pid, start, end)?, &[]).map(Arc::new),
        name if name.starts_with('/') => images
            .entry((device, inode))
            .or_insert_with(|| image::read(Path::new(&path), debug).map(Arc::new))
            .clone(),
        _ => None,
    };
    Some(Mapping {
        start,
        end,
        bias: image
            .as_ref()
            .and_then(|image| image.bias(start, offset))
            .unwrap_or(start),
        name: match shown.rsplit('/').next() {
            None | Some("") => "[anonymous]".to_string(),
            Some(name) => name.to_string(),
        },
        image,
        path,
    })
}

fn memory(pid: u32, start: u64, end: u64) -> Option<Vec<u8>> {
    let mut bytes = vec![0; (end - start) as usize];
    let file = File::open(format!("/proc/{pid}/mem")).ok()?;
    file.read_exact_at(&mut bytes, start).ok()?;
    Some(bytes)
}
