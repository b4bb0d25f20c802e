//! Chooses the BPF object that the tool embeds: the committed one, or the one that the environment
//! variable `LEAKPROBE_BPF_OBJECT` names. Nothing falls back from one to the other.

use std::env::var;

fn main() {
    println!("cargo::rerun-if-env-changed=LEAKPROBE_BPF_OBJECT");
    // The folder as of now: this program may have been compiled when the project was elsewhere.
    let folder = var("CARGO_MANIFEST_DIR").unwrap_or_default();
    let object =
        var("LEAKPROBE_BPF_OBJECT").unwrap_or_else(|_| format!("{folder}/bpf/leakprobe.bpf.o"));
    println!("cargo::rerun-if-changed={object}");
    println!("cargo::rustc-env=LEAKPROBE_BPF_OBJECT={object}");
}
