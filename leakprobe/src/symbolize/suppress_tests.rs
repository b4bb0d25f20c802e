use proptest::prelude::*;

use super::*;

fn frame(function: &str, module: &str, file: &str) -> Arc<[Frame]> {
    let some = |text: &str| (!text.is_empty()).then(|| text.into());
    Arc::new([Frame {
        function: some(function),
        module: some(module),
        file: some(file),
        ..Frame::default()
    }])
}

const LIVE: Totals = Totals {
    live_bytes: 100,
    live_count: 2,
    allocated_bytes: 300,
    allocated_count: 6,
    freed_bytes: 200,
    freed_count: 4,
};

/// Whether a rule matches a frame.
fn matches(rule: &str, function: &str, path: &str, file: &str) -> bool {
    let rules = Suppressions::parse(rule).unwrap();
    let module = path.rsplit('/').next().unwrap_or_default();
    let frames = frame(function, module, file);
    let mut matches = rules.begin();
    matches.take([(frames, Some(Path::new(path)))].into_iter(), &LIVE)
}

#[test]
fn each_kind_of_rule() {
    let path = "/usr/lib/libpq.so.5";
    for (rule, function, is_match) in [
        ("function:f", "f", true),
        ("function:f", "f(int)", true),
        ("function:f(int)", "f(int)", true),
        ("function:f", "ff", false),
        ("function:f", "g::f", false),
        ("function: a::f ", "a::f(x)", true),
        ("module:libpq.so.5", "f", true),
        ("module:/usr/lib/libpq.so.5", "f", true),
        ("module:libpq", "f", false),
        ("module:libpq.so.5", "", true),
        ("re:^PQ.*Exec$", "PQsomeExec", true),
        ("re:^PQ.*Exec$", "xPQsomeExec", false),
        ("re:a:b", "xa:bx", true),
        ("re:libpq", "", false),
        ("leak:Exec", "PQsomeExec", true),
        ("leak:libpq.so", "f", true),
        ("leak:^PQ*Exec$", "PQsomeExec", true),
        ("leak:^Exec", "PQExec", false),
        ("leak:PQ$", "PQExec", false),
        ("leak:query.c", "f", true),
        ("leak:P.E", "PQE", false),
    ] {
        assert_eq!(
            matches(rule, function, path, "src/query.c"),
            is_match,
            "{rule} on {function}"
        );
    }
}

#[test]
fn mistakes_are_told_with_their_line() {
    for (text, parts) in [
        (
            "# all right\n\nfunction f",
            &["line 3", "`function f`", "function:NAME"][..],
        ),
        ("function:f\n  glob:*", &["line 2", "`glob:*`"]),
        (
            "re:(",
            &["line 1", "`(`", "no regular expression", "unclosed group"],
        ),
        ("re:a{999999999}", &["line 1", "no regular expression"]),
        ("module:", &["line 1", "names nothing"]),
        ("leak: ", &["line 1", "names nothing"]),
    ] {
        let error = Suppressions::parse(text).unwrap_err();
        for part in parts {
            assert!(error.contains(part), "{text}: {error}");
        }
        assert!(!error.contains('\n'), "{text}: {error}");
    }
}

#[test]
fn stacks_are_counted_once_and_unused_rules_told() {
    let rules = "function:b # not a comment\nfunction:b\nfunction:a\nmodule:libnone.so";
    let rules = Suppressions::parse(rules).unwrap();
    let (a, b, c) = (
        frame("a", "m", ""),
        frame("b", "m", ""),
        frame("c", "m", ""),
    );
    let mut matches = rules.begin();
    for (stack, is_suppressed) in [
        (vec![&a, &b], true),
        (vec![&a, &c], true),
        (vec![&c], false),
        (vec![], false),
        (vec![&b], true),
    ] {
        let places = stack.into_iter().map(|it| (Arc::clone(it), None));
        assert_eq!(matches.take(places, &LIVE), is_suppressed);
    }
    let found = matches.end();
    assert_eq!(
        (found.stacks, found.live_bytes, found.live_count),
        (3, 300, 6)
    );
    let stacks: Vec<u64> = found.rules.iter().map(|rule| rule.stacks).collect();
    assert_eq!(stacks, [0, 2, 1, 0]);
    assert_eq!(found.rules[1].live_bytes, 200);
    assert!(Suppressions::parse("\n# only words\n").unwrap().is_empty());
}

proptest! {
    /// A file may hold anything.
    #[test]
    fn any_file_is_read(text in "[ -~\n]{0,200}|(re|leak|function|module):.{0,40}") {
        let _ = Suppressions::parse(&text);
    }

    /// Without its signs a pattern of LeakSanitizer is found where it is part of a name.
    #[test]
    fn plain_patterns_are_parts(before in "[^*^$]{0,8}", name in "[^*^$\\s#][^*^$]{0,8}[^*^$\\s]", after in ".{0,8}") {
        let rule = format!("leak:{name}");
        prop_assume!(!name.contains(['\n', '\r']));
        let function = format!("{before}{name}{after}");
        prop_assert!(matches(&rule, &function, "", ""));
    }
}
