//! Chooses the BPF object that the tool embeds: the committed one, or the one that the environment
//! variable `LEAKPROBE_BPF_OBJECT` names. Nothing falls back from one to the other.

fn main() {
    println!("cargo::rerun-if-env-changed=LEAKPROBE_BPF_OBJECT");
    let object = std::env::var("LEAKPROBE_BPF_OBJECT")
        .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/bpf/leakprobe.bpf.o").to_owned());
    println!("cargo::rerun-if-changed={object}");
    println!("cargo::rustc-env=LEAKPROBE_BPF_OBJECT={object}");
}
