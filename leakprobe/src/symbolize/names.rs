//! Gives names to locations, from what was held open while the target lived.
//!
//! Every location is looked up once, however many stacks pass through it. A file that cannot be
//! understood costs its names, not the report: its frames stay module and offset.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::Frame;
use super::lookup::Lookup;
use crate::snapshot::Address;
use crate::target::{Location, Module};

/// The module of JIT code that has a name.
const JIT: &str = "[jit]";

/// Names of locations, as far as they are known.
pub struct Names {
    inlines: bool,
    /// By module (its place in memory, which the `Arc` in the value keeps) and file offset.
    frames: HashMap<(*const Module, u64), Arc<[Frame]>>,
    modules: HashMap<*const Module, (Arc<Module>, Lookup)>,
    failures: BTreeMap<String, String>,
}

impl Names {
    /// None yet. Without `inlines` neither inlined functions nor source lines will be looked up.
    pub fn new(inlines: bool) -> Self {
        Self {
            inlines,
            frames: HashMap::new(),
            modules: HashMap::new(),
            failures: BTreeMap::new(),
        }
    }

    /// Looks up what is not known yet, module by module.
    pub fn learn<'a>(&mut self, addresses: impl Iterator<Item = &'a Address>) {
        let mut unknown: HashMap<*const Module, (Arc<Module>, Vec<u64>)> = HashMap::new();
        for Location { module, offset, .. } in addresses.filter_map(|frame| frame.location.as_ref())
        {
            let key = Arc::as_ptr(module);
            if !self.frames.contains_key(&(key, *offset)) {
                unknown
                    .entry(key)
                    .or_insert_with(|| (Arc::clone(module), Vec::new()))
                    .1
                    .push(*offset);
            }
        }
        for (key, (module, mut offsets)) in unknown {
            offsets.sort_unstable();
            offsets.dedup();
            self.learn_module(key, module, &offsets);
        }
    }

    fn learn_module(&mut self, key: *const Module, module: Arc<Module>, offsets: &[u64]) {
        let name: Arc<str> = module_name(&module).into();
        let path = module.path.to_string_lossy().into_owned();
        let has_file = module.file.is_some();
        let (_, lookup) = self.modules.entry(key).or_insert_with(|| {
            let lookup = Lookup::new(&module, self.inlines);
            (module, lookup)
        });
        let places: Vec<Option<u64>> = offsets.iter().map(|at| lookup.address_of(*at)).collect();
        let addresses: Vec<u64> = places.iter().flatten().copied().collect();
        let mut found = lookup.find(&addresses).into_iter();
        for (offset, address) in offsets.iter().zip(places) {
            let names = address.and_then(|_| found.next().flatten());
            let mut frames = names.unwrap_or_else(|| vec![Frame::default()]);
            for frame in &mut frames {
                frame.module = Some(name.clone());
                frame.offset = if has_file { address } else { Some(*offset) };
            }
            self.frames.insert((key, *offset), frames.into());
        }
        for failure in lookup.failures() {
            self.failures.insert(path.clone(), failure);
        }
    }

    /// The frames at an address, innermost first; more than one where functions were inlined.
    /// `late` is the name of JIT code that got it only after its stack was seen.
    pub fn get(&self, address: &Address, late: Option<Arc<str>>) -> Arc<[Frame]> {
        let Some(at) = &address.location else {
            return [Frame::default()].into();
        };
        if let Some(name) = at.name.as_ref().or(late.as_ref()) {
            return [Frame {
                function: Some(Arc::clone(name)),
                module: Some(JIT.into()),
                offset: Some(at.offset),
                ..Frame::default()
            }]
            .into();
        }
        self.frames
            .get(&(Arc::as_ptr(&at.module), at.offset))
            .map_or_else(|| [Frame::default()].into(), Arc::clone)
    }

    /// Modules whose names could not be read, and why.
    pub fn failures(&self) -> impl Iterator<Item = (&str, &str)> {
        self.failures
            .iter()
            .map(|(path, reason)| (path.as_str(), reason.as_str()))
    }
}

fn module_name(module: &Module) -> String {
    if module.path.as_os_str().is_empty() {
        return "[anonymous]".to_owned();
    }
    module
        .path
        .file_name()
        .unwrap_or(module.path.as_os_str())
        .to_string_lossy()
        .into_owned()
}
