use super::*;
use crate::doctor::Status::{Degraded, Missing, Ok};

#[test]
fn kernels() {
    assert_eq!(kernel("6.1.0-18-amd64").status, Ok);
    assert_eq!(kernel("6.18.44").status, Ok);
    let old = kernel("5.15.0-91-generic");
    assert_eq!(
        (old.status, old.found.as_str()),
        (Missing, "Linux 5.15.0-91-generic is too old")
    );
    assert_eq!(kernel("custom").status, Degraded);
}

#[test]
fn lockdown_modes() {
    assert_eq!(
        lockdown(Some("[none] integrity confidentiality")).status,
        Ok
    );
    assert_eq!(
        lockdown(Some("none [integrity] confidentiality")).status,
        Ok
    );
    assert_eq!(
        lockdown(Some("none integrity [confidentiality]")).status,
        Missing
    );
    assert_eq!(lockdown(Some("")).status, Ok);
    assert_eq!(lockdown(None).status, Ok);
}

#[test]
fn return_probes_are_judged_by_trial_before_version() {
    let status = |tried, release| return_probes_check(tried, release).status;
    assert_eq!(status(ReturnProbes::Unfiltered, "6.11.0-19-generic"), Ok);
    assert_eq!(status(ReturnProbes::NoSystemCall, "6.11.0"), Ok);
    assert_eq!(status(ReturnProbes::Filtered, "6.18.0"), Degraded);
    assert_eq!(status(ReturnProbes::Unknown, "6.12.9"), Degraded);
    assert_eq!(status(ReturnProbes::Unknown, "6.1.0"), Ok);
    assert_eq!(status(ReturnProbes::Unknown, "custom"), Ok);
}

#[test]
fn a_refused_probe_points_to_capabilities() {
    let error = anyhow::Error::new(io::Error::from_raw_os_error(libc::EACCES));
    let check = uprobes(Err(error.context("failed to try")), true);
    assert_eq!(check.status, Missing);
    assert!(
        check.found.starts_with("failed to try: Permission denied"),
        "{}",
        check.found
    );
    assert!(check.advice.unwrap().contains("CAP_SYS_ADMIN"));
    let error = anyhow::anyhow!("no");
    assert_eq!(uprobes(Err(error), false).status, Ok);
}

#[test]
fn settings() {
    assert_eq!(jit(None), None);
    assert_eq!(jit(Some("0")).unwrap().status, Degraded);
    assert_eq!(jit(Some("1")).unwrap().status, Ok);
    assert_eq!(perf_event_paranoid(Some("4")).status, Ok);
    assert_eq!(perf_event_paranoid(None).status, Missing);
    assert_eq!(unprivileged_bpf(Some("2")).status, Ok);
    assert_eq!(unprivileged_bpf(None).status, Missing);
    assert_eq!(processor("aarch64").status, Missing);
}
