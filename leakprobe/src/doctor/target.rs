//! Checks of one process: who it is, what allocates for it, and where its probes would go.

use std::fs;

use anyhow::Result;

use super::{Check, Status, unwinding};
use crate::probe::danger::danger;
use crate::probe::functions;
use crate::probe::plan::{self, Point};
use crate::probe::site::SiteCost;
use crate::target::{Allocator, Process, proc_fs};

/// All of them, as far as one is possible without the one before.
pub fn checks(pid: u32) -> Vec<Check> {
    let process = match Process::open(pid) {
        Ok(process) => process,
        Err(error) => return vec![failed("process", &error)],
    };
    let info = process.info();
    let exe = info.exe.unwrap_or_else(|| "an unknown file".into());
    let mut checks = vec![
        Check::ok("process", format!("`{}`, which runs {exe}", info.comm)),
        Check::ok("PID", pids(pid, info.ns_pid)),
        Check::ok("namespaces", namespaces(pid)),
        return_probes(pid),
    ];
    match Allocator::find(&process, &functions::names()) {
        Ok(allocators) => {
            for (number, allocator) in allocators.iter().enumerate() {
                let points = plan::points(allocator);
                if number > 0 {
                    checks.push(other_allocator(allocator, points));
                    continue;
                }
                checks.push(allocator_check(allocator));
                match plan::require_free(allocator).and(points) {
                    Ok(points) => checks.extend(points.iter().map(site)),
                    Err(error) => checks.push(failed("probe sites", &error)),
                }
            }
        }
        Err(error) => checks.push(failed("allocator", &error)),
    }
    checks.extend(unwinding::checks(pid));
    if process.has_ended() {
        checks.push(Check::missing(
            "process",
            "it ended while it was looked at, and all of the above may be of another",
            "look at it again if it is back under another PID",
        ));
    }
    checks
}

/// Errors of the other stages say what to do themselves.
pub(super) fn failed(name: &str, error: &anyhow::Error) -> Check {
    let found = format!("{error:#}");
    Check {
        name: name.into(),
        status: Status::Missing,
        found,
        advice: None,
    }
}

fn pids(here: u32, inside: u32) -> String {
    if here == inside {
        return format!("{here}, here and for itself");
    }
    format!("{here} here; {inside} for itself, in its PID namespace")
}

/// Which namespaces the process does not share with leakprobe, of those that matter.
fn namespaces(pid: u32) -> String {
    let other = |name: &&str| {
        let own = fs::read_link(format!("/proc/self/ns/{name}")).ok();
        own != fs::read_link(proc_fs::pid(pid, &format!("ns/{name}"))).ok()
    };
    let others: Vec<&str> = ["mnt", "pid", "user"].into_iter().filter(other).collect();
    if others.is_empty() {
        return "those of leakprobe".into();
    }
    format!(
        "its own: {}; its files are found through its root",
        others.join(", ")
    )
}

fn return_probes(pid: u32) -> Check {
    match danger(pid) {
        None => Check::ok("return probes", "no harm to it"),
        Some(danger) => Check::missing("return probes", danger.reason(), danger.advice()),
    }
}

fn allocator_check(allocator: &Allocator) -> Check {
    let info = allocator.info();
    Check::ok("allocator", format!("{}, in {}", info.name, info.path))
}

/// One that defines malloc as well, as the C library does behind whatever is preloaded.
fn other_allocator(allocator: &Allocator, points: Result<Vec<Point>>) -> Check {
    let (name, info) = ("another allocator", allocator.info());
    let found = format!("{}, in {}", info.name, info.path);
    match points {
        Ok(_) => Check::ok(name, format!("{found}: is probed, too")),
        Err(error) => Check::degraded(
            name,
            format!("{found}: {error:#}"),
            "if blocks of the process come from it, they will be missing",
        ),
    }
}

fn site(point: &Point) -> Check {
    let (site, name) = (&point.site, point.function.name);
    let found = format!("+{}: {}, {}", site.offset, site.instruction, site.cost);
    // Of the others, few programs make many calls.
    if site.cost == SiteCost::SingleStepped && point.function.required {
        return Check::degraded(
            name,
            found,
            "nothing has to be done, but each call costs two traps instead of one, and the \
             target slows down more than with another allocator",
        );
    }
    Check::ok(name, found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::site::Site;

    fn point(name: &str, cost: SiteCost) -> Point {
        let function = functions::FUNCTIONS
            .iter()
            .find(|function| function.name == name)
            .unwrap();
        Point {
            function,
            offset: 0,
            site: Site {
                offset: 3,
                cost,
                instruction: "je 0x10".into(),
            },
        }
    }

    #[test]
    fn a_slow_site_matters_where_calls_are_many() {
        let check = site(&point("free", SiteCost::Emulated));
        assert_eq!(
            (check.status, check.found.as_str()),
            (Status::Ok, "+3: je 0x10, emulated")
        );
        assert_eq!(
            site(&point("free", SiteCost::SingleStepped)).status,
            Status::Degraded
        );
        assert_eq!(
            site(&point("reallocarray", SiteCost::SingleStepped)).status,
            Status::Ok
        );
    }

    #[test]
    fn both_pids_are_told() {
        assert_eq!(pids(7, 7), "7, here and for itself");
        assert_eq!(
            pids(4711, 1),
            "4711 here; 1 for itself, in its PID namespace"
        );
    }

    #[test]
    fn this_process_shares_our_namespaces() {
        assert_eq!(namespaces(std::process::id()), "those of leakprobe");
    }

    #[test]
    fn a_process_that_is_not_there_is_one_missing() {
        // More than `PID_MAX_LIMIT`.
        let checks = checks(1 << 30);
        assert_eq!(checks.len(), 1);
        assert_eq!(checks[0].status, Status::Missing);
    }

    #[test]
    fn this_process_has_an_allocator_with_sites() {
        let checks = checks(std::process::id());
        let names: Vec<&str> = checks.iter().map(|check| check.name.as_str()).collect();
        for name in ["process", "allocator", "malloc", "free"] {
            assert!(names.contains(&name), "{checks:#?}");
        }
    }
}
