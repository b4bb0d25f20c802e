//! The programs of the BPF object once more, for links of which aya knows nothing: with the maps that
//! aya has made, so that all programs share them.
//!
//! aya keeps the instructions it has made ready to itself. The crate that it reads objects with does
//! not, so the steps of aya's loader that concern code are gone through again, in the same order.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};
use aya::maps::Map;
use aya::{Ebpf, features};
use aya_obj::generated::bpf_insn;

use super::multi::{self, Code, LinkKind, Records, Types};
use super::refusal::explain_refusal;

/// An object whose code is ready to be loaded.
pub struct Programs {
    object: aya_obj::Object,
    btf: Option<OwnedFd>,
    /// The code names them by number.
    _maps: Vec<OwnedFd>,
}

impl Programs {
    /// Reads the same object that aya has loaded.
    ///
    /// # Errors
    ///
    /// If aya lacks a map of it, which it does once one is taken, or the kernel refuses its types.
    pub fn ready(bytes: &[u8], loaded: &Ebpf) -> Result<Self> {
        let mut object = aya_obj::Object::parse(bytes).context("failed to read the BPF object")?;
        let btf = match features().btf() {
            None => None,
            Some(features) => object
                .fixup_and_sanitize_btf(features)
                .context("failed to adapt the BPF object's types to this kernel")?
                .map(|btf| multi::load_btf(&btf.to_bytes()))
                .transpose()
                .context("failed to load the BPF object's types")?,
        };
        let sections: HashSet<usize> = object
            .functions
            .keys()
            .map(|&(section, _)| section)
            .collect();
        // Of our own, so that the numbers in the code stay what they are.
        let mut fds = HashMap::new();
        for (name, map) in loaded.maps() {
            let fd = descriptor(map).map(|fd| fd.try_clone_to_owned());
            let fd = fd.with_context(|| format!("the map `{name}` is of an unknown kind"))?;
            fds.insert(name, fd.context("failed to duplicate a descriptor")?);
        }
        let maps = std::mem::take(&mut object.maps);
        let maps = maps
            .iter()
            .map(|(name, map)| {
                let fd = fds.get(name.as_str());
                let fd = fd.with_context(|| format!("the map `{name}` is not there"))?;
                Ok((name.as_str(), fd.as_raw_fd(), map))
            })
            .collect::<Result<Vec<_>>>()?;
        object
            .relocate_maps(maps.into_iter(), &sections)
            .context("failed to put the maps into the BPF object's code")?;
        object
            .relocate_calls(&sections)
            .context("failed to join the functions of the BPF object")?;
        object.sanitize_functions(features());
        let maps = fds.into_values().collect();
        Ok(Self {
            object,
            btf,
            _maps: maps,
        })
    }

    /// Loads the program `name`.
    ///
    /// # Errors
    ///
    /// If there is none, or the kernel refuses it.
    pub fn load(&self, name: &str, kind: LinkKind) -> Result<OwnedFd> {
        let program = self.object.programs.get(name);
        let program = program.with_context(|| format!("the BPF object has no program `{name}`"))?;
        let function = self.object.functions.get(&program.function_key());
        let function = function.with_context(|| format!("the program `{name}` has no code"))?;
        let functions = function.func_info.func_info_bytes();
        let lines = function.line_info.line_info_bytes();
        let code = Code {
            name,
            license: &program.license,
            instructions: bytes(&function.instructions),
            types: self.btf.as_ref().map(|btf| Types {
                btf: btf.as_fd(),
                functions: Records {
                    bytes: &functions,
                    size: function.func_info_rec_size,
                },
                lines: Records {
                    bytes: &lines,
                    size: function.line_info_rec_size,
                },
            }),
        };
        multi::load(&code, kind)
            .map_err(|error| {
                let log = match error.kind() {
                    io::ErrorKind::PermissionDenied => String::new(),
                    _ => multi::refusal(&code, kind),
                };
                explain_refusal(error, &log)
            })
            .with_context(|| format!("failed to load the program `{name}`"))
    }
}

/// Instructions as the kernel reads them.
fn bytes(instructions: &[bpf_insn]) -> &[u8] {
    // SAFETY: eight bytes of numbers each, without padding.
    unsafe { std::slice::from_raw_parts(instructions.as_ptr().cast(), size_of_val(instructions)) }
}

/// The descriptor of a map of one of the kinds that the kernel side has.
fn descriptor(map: &Map) -> Option<BorrowedFd<'_>> {
    match map {
        Map::Array(data)
        | Map::ArrayOfMaps(data)
        | Map::HashMap(data)
        | Map::PerCpuArray(data)
        | Map::RingBuf(data) => Some(data.fd().as_fd()),
        _ => None,
    }
}
