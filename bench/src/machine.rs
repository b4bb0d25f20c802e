//! Where figures were measured, in one line: without it they mean nothing.

use std::fs;

use anyhow::{Context, Result};

/// Kernel, processor, whether it is a virtual one, and how busy it is with other things.
///
/// # Errors
///
/// If `/proc` cannot be read.
pub fn describe() -> Result<String> {
    let read = |path: &str| {
        fs::read_to_string(path)
            .map(|text| text.trim().to_owned())
            .with_context(|| format!("failed to read `{path}`"))
    };
    let processors = read("/proc/cpuinfo")?;
    let field = |name: &str| {
        let line = processors.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(": "))
            .map_or("", |(_, value)| value)
    };
    let virtual_machine = field("flags").split(' ').any(|flag| flag == "hypervisor");
    Ok(format!(
        "Linux {}, {} x {}{}, load average {}",
        read("/proc/sys/kernel/osrelease")?,
        processors.matches("processor\t").count(),
        field("model name"),
        if virtual_machine {
            " (virtual machine)"
        } else {
            ""
        },
        read("/proc/loadavg")?.split(' ').next().unwrap_or_default(),
    ))
}
