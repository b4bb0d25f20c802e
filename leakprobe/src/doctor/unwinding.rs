//! How the stacks of one process would be followed, module by module: by unwind information, by
//! rules made from instructions, by frame pointers, or not at all.

use super::{Check, target::failed};
use crate::target::Mappings;
use crate::unwind::survey::{Coverage, How, Survey, survey};

/// Name of all its checks.
const NAME: &str = "unwinding";

/// Of a module's code, in percent: with less unwind information than this it is not as usual. The
/// vDSO has some code that the kernel puts into other places, and nothing is known of that.
const USUAL: u64 = 80;

/// Bytes without unwind information that are not worth a word: every program has some from the C
/// library's start-up files.
const LITTLE: u64 = 1024;

/// Of a module's code, in percent: with less rules of all kinds than this it is worth a word of warning.
const ENOUGH: u64 = 90;

/// All modules in which a frame of the process can be.
pub fn checks(pid: u32) -> Vec<Check> {
    let mut mappings = Mappings::default();
    match mappings.refresh(pid) {
        Ok(()) => describe(
            &survey(pid, &mappings),
            !mappings.reserved_for_code().is_empty(),
        ),
        Err(error) => vec![failed(NAME, &error)],
    }
}

/// One line for all that is as usual, and one for each module that is not.
fn describe(modules: &[Survey], generates: bool) -> Vec<Check> {
    let (mut usual, mut rows) = (0, 0);
    let mut generated = generates;
    let mut others = Vec::new();
    for module in modules {
        let path = module.path.display();
        match &module.how {
            How::FramePointers => generated = true,
            How::Not(error) => others.push(Check::degraded(
                NAME,
                format!("{path}: {error:#}"),
                "stacks end where they come to its code",
            )),
            How::Rules(found) => {
                rows += found.rows;
                match unusual(found) {
                    None => usual += 1,
                    Some(how) => others.push(line(format!("{path}: {how}"), found)),
                }
            }
        }
    }
    let plural = if usual == 1 { "" } else { "s" };
    let rows = thousands(rows);
    let mut checks = vec![Check::ok(
        NAME,
        format!("{usual} module{plural} with unwind information ({rows} rows in all tables)"),
    )];
    checks.append(&mut others);
    if generated {
        checks.push(Check::ok(NAME, "generated code by frame pointers"));
    }
    checks
}

/// What is to be said of a module, unless unwind information covers most of it.
fn unusual(found: &Coverage) -> Option<String> {
    let (informed, made) = (percent(found.informed, found), percent(found.made, found));
    if informed >= USUAL || found.code - found.informed < LITTLE {
        return None;
    }
    let informed = match informed {
        0 if found.informed == 0 => "no unwind information".to_owned(),
        0 => "hardly any unwind information".to_owned(),
        _ => format!("unwind information for {informed} % of its code"),
    };
    let made = format!("rules made from its instructions for {made} %");
    Some(format!("{informed}, {made}"))
}

fn line(text: String, found: &Coverage) -> Check {
    if percent(found.informed + found.made, found) >= ENOUGH {
        return Check::ok(NAME, text);
    }
    Check::degraded(
        NAME,
        text,
        "stacks end where they come to the rest of its code; its debug information, if it is \
         installed, may know more",
    )
}

/// How much of a module's code that is. Rounded down: 100 is all.
fn percent(bytes: u64, of: &Coverage) -> u64 {
    (bytes * 100).checked_div(of.code).unwrap_or(100)
}

/// A number with a space after each three digits.
fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;

    fn module(path: &str, informed: u64, made: u64, unknown: u64) -> Survey {
        let code = informed + made + unknown;
        let rows = 15_500;
        let how = How::Rules(Coverage {
            rows,
            code,
            informed,
            made,
            unknown,
        });
        let path = path.into();
        Survey { path, how }
    }

    #[test]
    fn what_is_usual_takes_one_line() {
        let modules = [module("/bin/a", 990, 5, 5), module("/lib/b.so", 100, 0, 0)];
        let text = "2 modules with unwind information (31 000 rows in all tables)";
        assert_eq!(describe(&modules, false), [Check::ok(NAME, text)]);
    }

    #[test]
    fn what_is_not_is_named() {
        let modules = [
            module("/bin/a", 990, 5, 5),
            module("/lib/libc.so", 0, 9_850, 150),
            module("/lib/musl.so", 1, 9_850, 149),
            module("/lib/small.so", 25, 70, 5),
            module("/lib/odd.so", 5_000, 3_000, 2_000),
            Survey {
                path: "/lib/gone.so".into(),
                how: How::Not(anyhow::anyhow!("its file could not be opened")),
            },
            Survey {
                path: "".into(),
                how: How::FramePointers,
            },
        ];
        let checks = describe(&modules, false);
        let lines: Vec<_> = checks
            .iter()
            .map(|check| (check.status, check.found.as_str()))
            .collect();
        let (ok, degraded) = (Status::Ok, Status::Degraded);
        assert_eq!(
            lines,
            [
                (
                    ok,
                    "2 modules with unwind information (77 500 rows in all tables)"
                ),
                (
                    ok,
                    "/lib/libc.so: no unwind information, rules made from its instructions for 98 %"
                ),
                (
                    ok,
                    "/lib/musl.so: hardly any unwind information, rules made from its \
                     instructions for 98 %"
                ),
                (
                    degraded,
                    "/lib/odd.so: unwind information for 50 % of its code, rules made from its \
                     instructions for 30 %"
                ),
                (degraded, "/lib/gone.so: its file could not be opened"),
                (ok, "generated code by frame pointers"),
            ]
        );
        assert!(
            checks
                .iter()
                .all(|check| (check.status == ok) == check.advice.is_none())
        );
    }

    #[test]
    fn digits_stand_in_threes() {
        let texts = [0, 999, 1000, 1_234_567].map(thousands);
        assert_eq!(texts, ["0", "999", "1 000", "1 234 567"]);
    }
}
