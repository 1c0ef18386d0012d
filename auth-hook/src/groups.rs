//! Which groups a user is in: the answer to the one call that is not answered by a word.

use std::{collections::HashSet, sync::Arc};

use thiserror::Error;

/// A user is in so many groups at most: presence keeps an entry for each.
pub const MAX_GROUPS: usize = 1_000;

/// A group's name has so many bytes at most: with a word before it, it has to fit into a routing
/// key, which has 255.
pub const MAX_GROUP_NAME: usize = 200;

/// Reads the answer to a groups call: the HTTP status, and the body, which is a JSON array of
/// texts, or has one name in each line. Names are trimmed; empty ones and repetitions fall away.
///
/// Nothing is cut short: too many groups are an error, as is any text that is surely no list of
/// groups, above all the words `allow` and `deny` alone, the answer of a hook that does not know
/// this call.
///
/// # Errors
/// [`GroupsError`]: the fault. It shows nothing of the body.
pub fn parse_groups(status: u16, body: &[u8]) -> Result<Vec<Arc<str>>, GroupsError> {
    if !matches!(status, 200 | 201) {
        return Err(GroupsError::Status(status));
    }
    let text = std::str::from_utf8(body)
        .map_err(|_| GroupsError::NotText)?
        .trim();
    match text.chars().next() {
        Some('[') => {
            let names: Vec<String> = serde_json::from_str(text).map_err(|_| GroupsError::Json)?;
            gather(names.iter().map(String::as_str))
        }
        Some('{' | '"') => Err(GroupsError::Json),
        Some('<') => Err(GroupsError::Page),
        _ => {
            if ["allow", "deny"]
                .iter()
                .any(|word| text.eq_ignore_ascii_case(word))
            {
                return Err(GroupsError::Word);
            }
            gather(text.lines())
        }
    }
}

fn gather<'a>(names: impl Iterator<Item = &'a str>) -> Result<Vec<Arc<str>>, GroupsError> {
    let mut seen = HashSet::new();
    let mut groups = Vec::new();
    for name in names.map(str::trim) {
        if name.is_empty() || !seen.insert(name) {
            continue;
        }
        if name.len() > MAX_GROUP_NAME {
            return Err(GroupsError::LongName);
        }
        if name.contains(char::is_control) {
            return Err(GroupsError::Control);
        }
        if groups.len() >= MAX_GROUPS {
            return Err(GroupsError::TooMany);
        }
        groups.push(name.into());
    }
    Ok(groups)
}

/// Why an answer is no list of groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum GroupsError {
    /// The status is neither 200 nor 201.
    #[error("it answered with status {0}; the contract knows 200 and 201 only")]
    Status(u16),
    /// The body is not UTF-8.
    #[error("it answered with bytes that are no UTF-8 text")]
    NotText,
    /// The body looks like JSON, and is no array of texts.
    #[error("it answered with JSON that is no array of texts")]
    Json,
    /// The body looks like HTML or XML.
    #[error("it answered with what looks like a page of HTML or XML")]
    Page,
    /// The body is the answer to another call.
    #[error("it answered `allow` or `deny`, and not with a list of groups")]
    Word,
    /// A name is too long.
    #[error("it answered with a group whose name is longer than {MAX_GROUP_NAME} bytes")]
    LongName,
    /// A name has control characters.
    #[error("it answered with a group whose name has control characters")]
    Control,
    /// There are too many.
    #[error("it answered with more than {MAX_GROUPS} groups")]
    TooMany,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(body: &str) -> Result<Vec<String>, GroupsError> {
        parse_groups(200, body.as_bytes())
            .map(|groups| groups.iter().map(|g| g.to_string()).collect())
    }

    fn groups(names: &[&str]) -> Result<Vec<String>, GroupsError> {
        Ok(names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn lines_and_arrays_are_lists() {
        for body in [
            "project 1\nproject/é\n",
            " project 1 \r\n\r\nproject/é\r\nproject 1",
            "[\"project 1\", \"project/é\"]",
            "\n[ \"project 1\",\"\",\"project 1\",\"\\tproject/é\" ]\n",
        ] {
            assert_eq!(parse(body), groups(&["project 1", "project/é"]), "{body:?}");
        }
        for body in ["", " \r\n\n", "[]", "[\" \"]"] {
            assert_eq!(parse(body), groups(&[]), "{body:?}");
        }
        assert_eq!(parse("deny\nallow"), groups(&["deny", "allow"]));
        assert_eq!(parse("[\"deny\"]"), groups(&["deny"]));
        assert_eq!(parse_groups(201, b"a").map(|groups| groups.len()), Ok(1));
    }

    #[test]
    fn what_is_no_list_is_the_hooks_fault() {
        for (body, error) in [
            ("allow", GroupsError::Word),
            (" DENY\n", GroupsError::Word),
            ("<html>", GroupsError::Page),
            ("{\"groups\":[]}", GroupsError::Json),
            ("\"a\"", GroupsError::Json),
            ("[\"a\", 1]", GroupsError::Json),
            ("[\"a\"", GroupsError::Json),
            ("a\u{1b}[2J", GroupsError::Control),
            ("[\"a\\nb\"]", GroupsError::Control),
        ] {
            assert_eq!(parse(body), Err(error), "{body:?}");
        }
        assert_eq!(parse_groups(404, b"a"), Err(GroupsError::Status(404)));
        assert_eq!(parse_groups(200, b"a\xff"), Err(GroupsError::NotText));
    }

    #[test]
    fn lists_are_bounded() {
        let many = |count: usize| (0..count).map(|n| format!("{n}\n")).collect::<String>();
        assert_eq!(parse(&many(MAX_GROUPS)).map(|g| g.len()), Ok(MAX_GROUPS));
        assert_eq!(parse(&many(MAX_GROUPS + 1)), Err(GroupsError::TooMany));
        assert!(parse(&"g".repeat(MAX_GROUP_NAME)).is_ok());
        assert_eq!(
            parse(&"g".repeat(MAX_GROUP_NAME + 1)),
            Err(GroupsError::LongName)
        );
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_a_bounded_list_or_an_error(status: u16, body: Vec<u8>) {
            for status in [status, 200] {
                if let Ok(groups) = parse_groups(status, &body) {
                    prop_assert!(groups.len() <= MAX_GROUPS);
                    prop_assert!(groups.iter().all(|g| !g.is_empty() && g.len() <= MAX_GROUP_NAME));
                }
            }
        }

        #[test]
        fn both_forms_say_the_same(names in prop::collection::vec("[a-z0-9 ./_-]{1,12}", 0..8)) {
            prop_assume!(!matches!(names.join("\n").trim(), "allow" | "deny"));
            let array = serde_json::to_string(&names).unwrap();
            prop_assert_eq!(parse(&names.join("\n")), parse(&array));
        }
    }
}
