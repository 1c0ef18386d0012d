//! The table as clients see it: every ERROR frame to the byte, and the page that explains them.

use std::{collections::BTreeMap, fs, path::PathBuf};

use super::*;

use Problem::{AccessRefused, NoSubscription, UnknownSubscription, UnknownTransaction};

fn house(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The text of a file as it must be. `BLESS=1 cargo test -p stomp-session problem` writes it down
/// as it is now; read the diff: clients match on these words.
fn assert_written(path: &str, text: &str, between: &str) {
    let file = house(path);
    if std::env::var_os("BLESS").is_some() {
        fs::write(&file, text).unwrap();
    }
    let known = fs::read_to_string(&file).unwrap_or_default();
    for (is, was) in text.split(between).zip(known.split(between)) {
        assert_eq!(is, was, "not as in {path}");
    }
    assert_eq!(text.len(), known.len(), "{path}");
}

#[test]
fn problems_are_told_as_they_are_written_down() {
    let mut frames = String::new();
    for problem in Problem::samples() {
        let bytes = problem.frame();
        let text = std::str::from_utf8(&bytes)
            .unwrap()
            .strip_suffix('\0')
            .unwrap()
            .trim_end();
        let code = problem.close_code().code();
        frames.push_str(&format!("== close {code}\n{text}\n\n"));
    }
    assert_written("src/problem/problems.txt", &frames, "== ");
}

/// The headers need no escapes in any version, and say the same as the close code.
#[test]
fn what_to_do_next_is_consistent_and_short() {
    for problem in Problem::samples() {
        let is = |text: &str, more: &[u8]| {
            let known = |b: u8| b.is_ascii_alphabetic() || more.contains(&b);
            !text.is_empty() && text.len() <= 34 && text.bytes().all(known)
        };
        assert!(is(problem.message(), b" _-"), "{problem:?}");
        assert!(is(problem.error_code(), b"-"), "{problem:?}");
        assert_eq!(problem.error_code(), problem.error_code().to_lowercase());
        let comes_back = matches!(problem.reconnect(), Reconnect::After(1..));
        assert_eq!(
            problem.close_code().should_reconnect(),
            comes_back,
            "{problem:?}"
        );
        let header = problem.reconnect().to_string();
        let seconds = header.strip_suffix('s').map(str::parse::<u16>);
        assert!(
            matches!(header.as_str(), "no" | "renew") || matches!(seconds, Some(Ok(_))),
            "{header}"
        );
    }
}

/// `docs/errors.md` has a row for each, by sections, and none besides. What follows them is of the
/// program's start, and another test's.
#[test]
fn the_page_of_errors_is_current() {
    const PAGE: &str = "../docs/errors.md";
    const REST: &str = "\n## When Stentor starts\n";
    const HEAD: &str = "| `error-code` | `message` | Close code | `reconnect` | What happened, and \
                        what to do |\n|---|---|---|---|---|\n";
    let mut seen = BTreeMap::new();
    let mut sections: Vec<(&str, String)> = Vec::new();
    for problem in Problem::samples() {
        let row = problem.row();
        assert!(row.page.len() > 17, "no advice: {problem:?}");
        let line = format!(
            "| `{}` | `{}` | {} | `{}` | {} |\n",
            row.error_code,
            row.message,
            row.close_code.code(),
            row.reconnect,
            row.page
        );
        // Two conditions may have one code, but not two meanings.
        if let Some(other) = seen.insert(row.error_code, line.clone()) {
            assert_eq!(other, line, "one code, two rows");
            continue;
        }
        match sections.last_mut() {
            Some((section, lines)) if *section == row.section => lines.push_str(&line),
            _ => sections.push((row.section, line)),
        }
    }
    let sections = sections
        .iter()
        .map(|(section, lines)| format!("## {section}\n\n{HEAD}{lines}"))
        .collect::<Vec<_>>()
        .join("\n");
    let page = fs::read_to_string(house(PAGE)).unwrap();
    let (_, rest) = page.split_once(REST).unwrap();
    let (prose, _) = page.split_once("\n## ").unwrap();
    assert_written(PAGE, &format!("{prose}\n{sections}{REST}{rest}"), "\n");
}

#[test]
fn for_logs_a_problem_is_one_line() {
    let problem = UnknownSubscription("id='9'".into());
    let line = "No subscription found: UNSUBSCRIBE must refer to an existing subscription. \
                Subscription to \"id='9'\" not found.";
    assert_eq!(problem.to_string(), line);
}

#[test]
fn close_codes_have_reasons_that_fit() {
    use CloseCode::*;
    let codes = [
        Normal,
        Protocol,
        NotUtf8,
        Policy,
        TooBig,
        Internal,
        Restart,
        TryAgainLater,
    ];
    let mut numbers: Vec<_> = codes.iter().map(|code| code.code()).collect();
    for code in codes {
        let reason = code.reason();
        assert!(!reason.is_empty() && reason.len() <= 123 && reason.is_ascii());
        assert_eq!(code.should_reconnect(), matches!(code.code(), 1011..=1013));
    }
    numbers.dedup();
    assert_eq!(numbers.len(), codes.len());
}

#[test]
fn quotes_are_bounded_and_printable() {
    let long = "é".repeat(10_000);
    let clipped = format!("{}…", "é".repeat(Problem::QUOTED));
    let problem = NoSubscription(long.as_str().into());
    assert_eq!(
        problem.detail(),
        format!("Message with id \"{clipped}\" has no subscription")
    );
    let problem = AccessRefused { user: long.into() };
    assert_eq!(
        problem.detail(),
        format!("Access refused for user '{clipped}'\n")
    );
    let problem = UnknownTransaction("a\n\r\t\"\\\u{1}é".into());
    let expected = "Invalid transaction identifier: \"a\\n\\r\\t\\\"\\\\\\x{1}é\"\n";
    assert_eq!(problem.detail(), expected);
}
