//! Texts of clients, so that a terminal shows them and obeys none of them (pure).

use std::fmt::Write as _;

use super::frame::TailLine;

/// Whether a terminal, or the eye, could be deceived by the character: control characters (the
/// escapes of terminals begin with one), marks that turn the direction of writing, and such that
/// nobody sees.
#[must_use]
pub fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'
                | '\u{200e}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// The text with its unsafe characters written out: `\u{1b}`.
#[must_use]
pub fn printable(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match is_unsafe(character) {
            true => safe.extend(character.escape_default()),
            false => safe.push(character),
        }
    }
    safe
}

/// A line of a tail, as JSON, without line breaks, and fit for a terminal.
#[must_use]
pub fn to_line(line: &TailLine) -> String {
    // Texts, numbers and lists: there is nothing that JSON could not hold.
    printable_json(serde_json::to_string(line).unwrap_or_default())
}

/// JSON that may be shown on a terminal, and reads as it did: unsafe characters are escaped, also
/// those that JSON would let pass. Its line breaks stay.
#[must_use]
pub fn printable_json(json: String) -> String {
    // A line feed of a text is escaped already.
    let is_bad = |character: char| character != '\n' && is_unsafe(character);
    if !json.contains(is_bad) {
        return json;
    }
    let mut safe = String::with_capacity(json.len());
    for character in json.chars() {
        if is_bad(character) {
            // They stand in texts only: elsewhere JSON has none.
            for unit in character.encode_utf16(&mut [0; 2]) {
                // A text takes everything.
                let _ = write!(safe, "\\u{unit:04x}");
            }
        } else {
            safe.push(character);
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(text: &str) -> TailLine {
        TailLine::Node {
            node: text.to_owned(),
            state: super::super::NodeState::Refuses,
            cause: None,
        }
    }

    #[test]
    fn no_escape_of_a_terminal_comes_through() {
        for (text, expected) in [
            ("\u{1b}[2J\u{7}", "\\u{1b}[2J\\u{7}"),
            ("a\nb\r\tc\0", "a\\nb\\r\\tc\\u{0}"),
            // CSI in one character; right-to-left override; a mark that nobody sees; a tag.
            (
                "\u{9b}2J \u{202e}x \u{200b} \u{e0041}",
                "\\u{9b}2J \\u{202e}x \\u{200b} \\u{e0041}",
            ),
            ("plain, é, 😀, \"quoted\" \\", "plain, é, 😀, \"quoted\" \\"),
        ] {
            assert_eq!(printable(text), expected);
        }
        let json = to_line(&line("\u{9b}\u{202e}\u{e0041}\u{7f}\n"));
        assert!(json.contains(r"\u009b\u202e\udb40\udc41\u007f\n"), "{json}");
    }

    proptest! {
        #[test]
        fn a_line_is_safe_and_reads_as_it_was(text: String) {
            let json = to_line(&line(&text));
            prop_assert!(!json.contains(is_unsafe));
            let read: TailLine = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(read, line(&text));
            prop_assert!(!printable(&text).contains(is_unsafe));
        }
    }
}
