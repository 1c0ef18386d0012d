//! Frames: a letter, and JSON. `o` opens, `h` is a heart-beat, `a[…]` carries messages, `c[…]`
//! closes. What a client sends is JSON alone: an array of texts, or one text.

use std::fmt::{self, Write as _};

use bytes::Bytes;
use serde::{
    Deserialize, Deserializer,
    de::{self, IgnoredAny, SeqAccess, Visitor},
};
use thiserror::Error;

/// A session begins.
pub const OPEN: &str = "o";
/// Nothing is new.
pub const HEARTBEAT: &str = "h";

/// Messages in one array, at most: each costs more than its bytes.
const MAX_MESSAGES: usize = 16 * 1024;

/// Why a client's payload is refused. The texts are the protocol's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Undecodable {
    /// It is empty, or JSON of another kind than texts.
    #[error("Payload expected.")]
    NoMessages,
    /// It is not JSON: cut short, not UTF-8, or with half of a surrogate pair alone.
    #[error("Broken JSON encoding.")]
    BrokenJson,
    /// It carries more messages than one payload may.
    #[error("More than {MAX_MESSAGES} messages at a time.")]
    TooMany,
    /// One of its messages is too long.
    #[error("More than {limit} bytes in a message.")]
    TooLong {
        /// The longest that is allowed, in bytes.
        limit: usize,
    },
}

/// The messages in a client's payload. They are UTF-8, save halves of surrogate pairs, and bytes
/// that were not UTF-8 in the payload either; whoever takes them has to look for both.
///
/// # Errors
/// [`Undecodable`].
pub fn decode(payload: &[u8]) -> Result<Vec<Bytes>, Undecodable> {
    if payload.is_empty() {
        return Err(Undecodable::NoMessages);
    }
    match serde_json::from_slice(payload) {
        Ok(Messages { is_over: true, .. }) => Err(Undecodable::TooMany),
        Ok(Messages { messages, .. }) => Ok(messages),
        Err(error) if error.is_data() => Err(Undecodable::NoMessages),
        Err(_) => Err(Undecodable::BrokenJson),
    }
}

/// `c[3000,"Go away!"]`
#[must_use]
pub fn close(code: u16, reason: &str) -> String {
    let mut frame = format!("c[{code},");
    quote(&mut frame, reason);
    frame.push(']');
    frame
}

/// A frame of messages that [`quote`] has written, with commas between them.
#[must_use]
pub fn messages(quoted: &str) -> String {
    let mut frame = String::with_capacity(quoted.len().saturating_add(3));
    frame.push_str("a[");
    frame.push_str(quoted);
    frame.push(']');
    frame
}

/// Appends a JSON text. Characters that some browser loses or changes on the way are escaped.
pub fn quote(out: &mut String, text: &str) {
    // Two quotes, and some escapes.
    out.reserve(text.len().saturating_add(text.len() / 16).saturating_add(2));
    out.push('"');
    let mut rest = text;
    while let Some((plain, special)) = split_at_special(rest) {
        out.push_str(plain);
        let mut characters = special.chars();
        if let Some(character) = characters.next() {
            escape(out, character);
        }
        rest = characters.as_str();
    }
    out.push_str(rest);
    out.push('"');
}

/// Splits before the first character that [`escape`] has to look at.
fn split_at_special(text: &str) -> Option<(&str, &str)> {
    // 0xe2 and 0xef are the first bytes of all that is escaped beyond ASCII.
    let is_special = |byte: u8| matches!(byte, ..0x20 | b'"' | b'\\' | 0xe2 | 0xef);
    let at = text.bytes().position(is_special)?;
    text.split_at_checked(at)
}

fn escape(out: &mut String, character: char) {
    match character {
        '"' => out.push_str("\\\""),
        '\\' => out.push_str("\\\\"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\x00'..='\x1f'
        | '\u{200c}'..='\u{200f}'
        | '\u{2028}'..='\u{202f}'
        | '\u{2060}'..='\u{206f}'
        | '\u{fff0}'..='\u{ffff}' => {
            // Writing into a text does not fail.
            let _ = write!(out, "\\u{:04x}", u32::from(character));
        }
        other => out.push(other),
    }
}

struct Messages {
    messages: Vec<Bytes>,
    is_over: bool,
}

impl<'de> Deserialize<'de> for Messages {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Texts;

        impl<'de> Visitor<'de> for Texts {
            type Value = Messages;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, or an array of texts")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Messages, E> {
                Ok(Messages {
                    messages: vec![Bytes::copy_from_slice(text.as_bytes())],
                    is_over: false,
                })
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut texts: A) -> Result<Messages, A::Error> {
                let mut messages = Vec::new();
                while messages.len() < MAX_MESSAGES {
                    match texts.next_element::<Text>()? {
                        Some(Text(text)) => messages.push(text),
                        None => {
                            return Ok(Messages {
                                messages,
                                is_over: false,
                            });
                        }
                    }
                }
                let mut is_over = false;
                while texts.next_element::<IgnoredAny>()?.is_some() {
                    is_over = true;
                }
                Ok(Messages { messages, is_over })
            }
        }

        deserializer.deserialize_any(Texts)
    }
}

/// A text whose escapes may be halves of surrogate pairs, which serde_json allows in bytes only.
struct Text(Bytes);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Quoted;

        impl Visitor<'_> for Quoted {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_bytes<E: de::Error>(self, text: &[u8]) -> Result<Text, E> {
                Ok(Text(Bytes::copy_from_slice(text)))
            }
        }

        deserializer.deserialize_bytes(Quoted)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn quoted(text: &str) -> String {
        let mut out = String::new();
        quote(&mut out, text);
        out
    }

    fn decoded(payload: &str) -> Vec<String> {
        let messages = decode(payload.as_bytes()).unwrap();
        let texts = messages.into_iter();
        texts
            .map(|text| String::from_utf8(text.to_vec()).unwrap())
            .collect()
    }

    #[test]
    fn frames_are_as_the_protocol_says() {
        assert_eq!(close(3000, "Go away!"), r#"c[3000,"Go away!"]"#);
        assert_eq!(messages(r#""a","b""#), r#"a["a","b"]"#);
    }

    /// The protocol's own list, each character of it and its neighbours.
    #[test]
    fn what_browsers_lose_is_escaped() {
        let listed = |code: u32| {
            [
                (0x00, 0x1f),
                (0x200c, 0x200f),
                (0x2028, 0x202f),
                (0x2060, 0x206f),
                (0xfff0, 0xffff),
            ]
            .iter()
            .any(|(first, last)| (*first..=*last).contains(&code))
        };
        for character in '\0'..='\u{1ffff}' {
            let code = u32::from(character);
            let text = quoted(&character.to_string());
            let expected = match character {
                '\n' => "\"\\n\"".to_owned(),
                '\r' => "\"\\r\"".to_owned(),
                '\t' => "\"\\t\"".to_owned(),
                '"' => "\"\\\"\"".to_owned(),
                '\\' => "\"\\\\\"".to_owned(),
                _ if listed(code) => format!("\"\\u{code:04x}\""),
                other => format!("\"{other}\""),
            };
            assert_eq!(text, expected, "{code:x}");
        }
        assert_eq!(quoted("  \0\n\r "), r#""  \u0000\n\r ""#);
    }

    #[test]
    fn texts_are_taken_in_any_number() {
        assert_eq!(decoded(r#"["a"]"#), ["a"]);
        assert_eq!(decoded(r#""a""#), ["a"]);
        assert_eq!(decoded("[]"), [""; 0]);
        assert_eq!(
            decoded(r#" [ "" , "\u00e4\n", "\ud83d\ude00" ] "#),
            ["", "ä\n", "😀"]
        );
    }

    #[test]
    fn what_is_no_text_is_refused() {
        for (payload, expected) in [
            (&b""[..], Undecodable::NoMessages),
            (b"null", Undecodable::NoMessages),
            (b"{}", Undecodable::NoMessages),
            (b"1", Undecodable::NoMessages),
            (b"[1]", Undecodable::NoMessages),
            (b"[[]]", Undecodable::NoMessages),
            (b"[\"a", Undecodable::BrokenJson),
            (b"[\"a\"", Undecodable::BrokenJson),
            (b"[\"a\"]]", Undecodable::BrokenJson),
            (b"a", Undecodable::BrokenJson),
        ] {
            assert_eq!(decode(payload), Err(expected), "{payload:?}");
        }
    }

    #[test]
    fn there_are_only_so_many_at_a_time() {
        let many = |count: usize| format!("[{}]", vec!["\"\""; count].join(","));
        assert_eq!(decoded(&many(MAX_MESSAGES)).len(), MAX_MESSAGES);
        let refused = decode(many(MAX_MESSAGES + 1).as_bytes());
        assert_eq!(refused, Err(Undecodable::TooMany));
    }

    proptest! {
        #[test]
        fn what_is_quoted_can_be_read(texts in proptest::collection::vec(".*", 0..5)) {
            let quoted: Vec<_> = texts.iter().map(|text| quoted(text)).collect();
            let frame = messages(&quoted.join(","));
            prop_assert_eq!(decoded(frame.strip_prefix('a').unwrap()), texts);
        }

        #[test]
        fn any_bytes_are_answered(payload: Vec<u8>) {
            let _ = decode(&payload);
        }
    }
}
