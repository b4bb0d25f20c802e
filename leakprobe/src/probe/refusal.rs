//! What to tell whoever runs leakprobe when the kernel says no: the reason, and what to do about it.
//! The kernel's own words are an error number, or thousands of lines of the verifier's log.

use std::io;

use anyhow::anyhow;
use aya::programs::ProgramError;

use crate::capability::{Capability, advice};

/// Why the kernel would not load a program, in one sentence: the verifier's log has thousands of
/// lines, of which the last but the statistics says what was wrong.
pub fn explain_refusal(error: io::Error, log: &str) -> anyhow::Error {
    let statistics = [
        "processed ",
        "verification time",
        "stack depth",
        "peak_states",
    ];
    let reason = log
        .lines()
        .map(str::trim)
        .rfind(|line| !line.is_empty() && !statistics.iter().any(|start| line.starts_with(start)));
    match reason {
        None => explain_permission(error),
        Some(reason) => {
            log::debug!("{log}");
            anyhow!(
                "this kernel's verifier refused it: {reason}. Please report this with the version \
                 of the kernel; -v shows the whole log"
            )
        }
    }
}

/// The same of a program that aya loads.
pub fn explain_program(error: ProgramError) -> anyhow::Error {
    match error {
        ProgramError::LoadError {
            io_error,
            verifier_log,
        } => explain_refusal(io_error, &verifier_log.to_string()),
        error => explain_permission(error),
    }
}

/// Adds to a refusal what would lift it: of a program, a map or a link.
pub fn explain_permission<E>(error: E) -> anyhow::Error
where
    E: std::error::Error + Send + Sync + 'static,
{
    explain(error, &[Capability::Bpf, Capability::Perfmon])
}

/// The same of a probe that is a perf event: CAP_PERFMON is not enough for that.
pub fn explain_event<E>(error: E) -> anyhow::Error
where
    E: std::error::Error + Send + Sync + 'static,
{
    explain(error, &[Capability::SysAdmin])
}

/// The same of whatever one of these capabilities would allow.
pub fn explain<E>(error: E, wanted: &[Capability]) -> anyhow::Error
where
    E: std::error::Error + Send + Sync + 'static,
{
    let mut source: Option<&dyn std::error::Error> = Some(&error);
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<io::Error>()
            && io.kind() == io::ErrorKind::PermissionDenied
        {
            let advice = advice(wanted);
            return anyhow::Error::new(error)
                .context(format!("the kernel denied permission: {advice}"));
        }
        source = cause.source();
    }
    anyhow::Error::new(error)
}
