//! What follows from what a kernel does and what a process has; and that the process is asked.

use super::*;

#[test]
fn protections_are_read_from_status() {
    let status = |seccomp, features| {
        format!("Name:\tx\nUmask:\t0022\nSeccomp:\t{seccomp}\nx86_Thread_features:\t{features}\n")
    };
    assert_eq!(parse_status(&status("0", "")), (false, false));
    assert_eq!(parse_status(&status("2", "shstk wrss ")), (true, true));
    assert_eq!(parse_status(&status("1", "")), (true, false));
    assert_eq!(
        parse_status("Name:\tSeccomp:\nSeccomp_filters:\t3\n"),
        (false, false)
    );
    assert_eq!(parse_status(""), (false, false));
}

#[test]
fn who_is_in_danger() {
    use ReturnProbes::{Filtered, NoSystemCall, Unfiltered, Unknown};
    const NONE: (bool, bool) = (false, false);
    const FILTER: (bool, bool) = (true, false);
    const SHADOW_STACK: (bool, bool) = (false, true);
    const BOTH: (bool, bool) = (true, true);
    for (tried, release, process, expected) in [
        // Trying goes before the version: distributions have the remedy under older numbers.
        (Filtered, "6.12.9", FILTER, Some(Danger::Seccomp)),
        (Filtered, "6.18.0", FILTER, Some(Danger::Seccomp)),
        (Filtered, "custom", BOTH, Some(Danger::Seccomp)),
        (Filtered, "6.12.9", NONE, None),
        (Unfiltered, "6.12.9", FILTER, None),
        (NoSystemCall, "6.12.9", FILTER, None),
        // As leakprobe itself is under a filter.
        (Unknown, "6.10.14", FILTER, None),
        (Unknown, "6.11.0", FILTER, Some(Danger::SeccompByVersion)),
        (Unknown, "6.12.13", FILTER, Some(Danger::SeccompByVersion)),
        (Unknown, "6.12.14", FILTER, None),
        (Unknown, "6.13.2", FILTER, Some(Danger::SeccompByVersion)),
        (Unknown, "6.13.3", FILTER, None),
        (Unknown, "6.18.44", FILTER, None),
        (Unknown, "6.13.2", NONE, None),
        (Unknown, "custom", FILTER, None),
        (
            NoSystemCall,
            "6.8.0",
            SHADOW_STACK,
            Some(Danger::ShadowStack),
        ),
        (NoSystemCall, "6.8.0", BOTH, Some(Danger::ShadowStack)),
        (Unfiltered, "6.11.0", SHADOW_STACK, None),
        (Unfiltered, "custom", SHADOW_STACK, None),
    ] {
        let found = decide(tried, Version::parse(release), process);
        assert_eq!(found, expected, "{tried:?} {release} {process:?}");
    }
}

#[test]
fn a_refusal_offers_a_way_without_probes() {
    for danger in [
        Danger::Seccomp,
        Danger::SeccompByVersion,
        Danger::ShadowStack,
    ] {
        assert!(danger.to_string().contains("--mode growth"), "{danger}");
    }
}

/// Whichever container a process is in, its own status tells.
#[test]
fn a_filter_is_seen_on_the_process_that_has_it() {
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};
    let mut command = Command::new("cat");
    command.stdin(Stdio::piped()).stdout(Stdio::null());
    // SAFETY: only system calls between fork and exec.
    unsafe {
        command.pre_exec(|| {
            let mut filter = [instruction(libc::BPF_RET, 0, libc::SECCOMP_RET_ALLOW)];
            install(&mut filter)
        });
    }
    let mut child = command.spawn().expect("cat");
    assert!(protection(child.id()).0);
    drop(child.stdin.take());
    child.wait().expect("its end");
    assert!(!protection(child.id()).0, "it is gone");
}

#[test]
fn this_kernel_gives_an_answer() {
    let answer = return_probes().expect("child processes");
    assert!(is_filtered() || answer != ReturnProbes::Unknown);
}
