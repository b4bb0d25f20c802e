//! Where figures were measured, and how much of it others had: without that they mean nothing.

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

/// Processor time of a virtual machine, in ticks of `/proc/stat`.
pub struct Processors {
    used: u64,
    stolen: u64,
}

impl Processors {
    /// Up to now.
    ///
    /// # Errors
    ///
    /// If `/proc/stat` cannot be read.
    pub fn read() -> Result<Self> {
        let text = fs::read_to_string("/proc/stat").context("failed to read `/proc/stat`")?;
        let all = text.lines().next().unwrap_or_default();
        let ticks: Vec<u64> = all.split(' ').filter_map(|it| it.parse().ok()).collect();
        // user, nice, system, idle, iowait, irq, softirq, steal: see proc_stat(5).
        let of = |fields: &[usize]| fields.iter().filter_map(|&at| ticks.get(at)).sum();
        Ok(Self {
            used: of(&[0, 1, 2, 5, 6]),
            stolen: of(&[7]),
        })
    }

    /// How much the host has taken since then of what this machine wanted, percent.
    ///
    /// # Errors
    ///
    /// As [`Self::read`].
    pub fn stolen_since(&self) -> Result<f64> {
        let now = Self::read()?;
        let (used, stolen) = (now.used - self.used, now.stolen - self.stolen);
        Ok(stolen as f64 * 100.0 / (used + stolen).max(1) as f64)
    }
}
