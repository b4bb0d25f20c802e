//! `leakprobe -- COMMAND`: the command is observed from its first allocation, as whom it should
//! run, and its exit status is passed on when asked. The outputs and filters are tried on it too.

use std::process::Command;

use leakprobe_tests::exact::is_at;
use leakprobe_tests::{Leakprobe, Outcome, Summary, assert_exact, leakprobe_path, victim_path};

/// Runs leakprobe with these arguments, on standard input the bytes that a victim waits for.
fn run(args: &[&str]) -> Outcome {
    let outcome = Leakprobe::start_by(
        Command::new("sh")
            .args(["-c", "printf gg | \"$0\" \"$@\""])
            .arg(leakprobe_path())
            .args(args),
    )
    .end();
    assert!(!outcome.stderr.contains("panicked"), "{}", outcome.stderr);
    outcome
}

/// Runs leakprobe on a victim; what the victim said it did.
fn run_victim(flavor: &str, name: &str, options: &[&str]) -> (Outcome, Summary) {
    let path = victim_path(flavor, name);
    let mut args = options.to_vec();
    args.extend(["--", path.to_str().expect("paths of victims are UTF-8")]);
    let outcome = run(&args);
    assert_eq!(outcome.status.code(), Some(0), "{}", outcome.stderr);
    let line = outcome
        .stdout
        .lines()
        .find(|line| line.starts_with("{\"victim\""))
        .unwrap_or_else(|| panic!("no summary in {}", outcome.stdout));
    let summary = serde_json::from_str(line).expect("the summary cannot be read");
    (outcome, summary)
}

fn is_exact(flavor: &str) {
    let (outcome, summary) = run_victim(flavor, "malloc", &["-o", "report.json"]);
    assert_exact(&summary, &outcome.report());
}

#[test]
fn from_the_first_allocation_glibc() {
    is_exact("glibc");
}

/// glibc allocates when a static program starts, before `main`: only the sites are compared.
#[test]
fn from_the_first_allocation_glibc_static() {
    let (outcome, summary) = run_victim("glibc-static", "malloc", &["-o", "report.json"]);
    let report = outcome.report();
    for leak in &summary.leaks {
        let found: u64 = report
            .stacks
            .iter()
            .filter(|stack| is_at(leak, stack))
            .map(|stack| stack.totals.live_bytes)
            .sum();
        assert_eq!(found, leak.bytes, "at {:?}", leak.stack);
    }
    assert!(report.totals.allocated_bytes > summary.allocated_bytes);
    assert_eq!(report.evidence.verdict, "complete");
}

#[test]
fn from_the_first_allocation_musl() {
    is_exact("musl");
}

#[test]
fn from_the_first_allocation_musl_static() {
    is_exact("musl-static");
}

#[test]
fn its_exit_status_is_passed_on_when_asked() {
    let status = |args: &[&str]| run(args).status.code();
    let asked = "--exit-status-of-command";
    assert_eq!(status(&[asked, "--", "sh", "-c", "exit 7"]), Some(7));
    assert_eq!(status(&[asked, "--", "sh", "-c", "kill -9 $$"]), Some(137));
    assert_eq!(status(&["--", "sh", "-c", "exit 7"]), Some(0));
}

#[test]
fn as_another_user() {
    let outcome = run(&["--user", "nobody", "-q", "--", "id", "-u", "-n"]);
    assert_eq!(outcome.status.code(), Some(0), "{}", outcome.stderr);
    assert_eq!(outcome.stdout.lines().next(), Some("nobody"));
    let outcome = run(&["--user", "no-such-user", "--", "id"]);
    assert_eq!(outcome.status.code(), Some(1));
    assert!(
        outcome.stderr.contains("no user `no-such-user`"),
        "{}",
        outcome.stderr
    );
    assert_eq!(outcome.files(), [""; 0]);
}

#[test]
fn all_outputs_tell_the_same() {
    let outputs = [
        "-o",
        "report.json",
        "-o",
        "report.svg",
        "-o",
        "report.folded",
        "-o",
        "report.txt",
    ];
    let (outcome, summary) = run_victim("glibc", "malloc", &outputs);
    let live = outcome.report().totals.live_bytes;
    assert_eq!(live, summary.allocated_bytes - summary.freed_bytes);
    let folded: u64 = outcome
        .file("report.folded")
        .lines()
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum();
    assert_eq!(folded, live);
    assert!(outcome.file("report.svg").contains("leak_malloc"));
    assert!(outcome.file("report.txt").contains("leak_malloc"));
}

#[test]
fn json_on_stdout_is_one_document() {
    let (outcome, _) = run_victim("glibc", "malloc", &["--format", "json", "-o", "x.folded"]);
    let document = outcome
        .stdout
        .lines()
        .find(|line| line.starts_with("{\"schema\""))
        .expect("no report on stdout");
    let report: leakprobe_tests::Report = serde_json::from_str(document).expect("not JSON");
    assert_eq!(report.schema, 1);
}

#[test]
fn without_an_output_a_flamegraph_is_left() {
    let (outcome, _) = run_victim("glibc", "malloc", &[]);
    let files = outcome.files();
    assert_eq!(files.len(), 1, "{files:?}");
    assert!(
        files[0].starts_with("leakprobe-") && files[0].ends_with(".svg"),
        "{files:?}"
    );
}

/// What one filter leaves out is what its opposite leaves in.
#[test]
fn sizes_are_filtered_at_the_source() {
    let live = |option, size| {
        let options = [option, size, "-o", "report.json"];
        let (outcome, summary) = run_victim("glibc", "aligned_alloc", &options);
        (outcome.report().totals, summary)
    };
    let (large, summary) = live("--min-size", "1000");
    let (small, _) = live("--max-size", "999");
    assert!(large.live_bytes >= 1000 * large.live_count && large.live_count > 0);
    assert!(small.live_bytes < 1000 * small.live_count);
    let sum = |leak: fn(&leakprobe_tests::victim::Leak) -> u64| -> u64 {
        summary.leaks.iter().map(leak).sum()
    };
    assert_eq!(large.live_bytes + small.live_bytes, sum(|leak| leak.bytes));
    assert_eq!(large.live_count + small.live_count, sum(|leak| leak.count));
}

#[test]
fn young_blocks_are_left_out_of_the_live_figures() {
    let (outcome, summary) =
        run_victim("glibc", "malloc", &["--min-age", "1h", "-o", "report.json"]);
    let totals = outcome.report().totals;
    assert_eq!((totals.live_bytes, totals.live_count), (0, 0));
    assert_eq!(totals.allocated_bytes, summary.allocated_bytes);
}

#[test]
fn a_full_map_is_said_and_counted() {
    let (outcome, summary) =
        run_victim("glibc", "malloc", &["--max-live", "8", "-o", "report.json"]);
    let report = outcome.report();
    assert_eq!(report.evidence.verdict, "partial");
    let lost = report.evidence.losses["blocks_full"];
    assert_eq!(
        report.totals.allocated_count + lost,
        summary.allocated_count
    );
    assert!(outcome.stdout.contains("PARTIAL"), "{}", outcome.stdout);
}
