//! Characters that a client has cut in two.

use bytes::Bytes;

use super::frame::{Undecodable, decode};

/// Joins messages where a client has cut through a character.
///
/// To JavaScript, a character beyond U+FFFF is two: a surrogate pair. A library that cuts a long
/// text into messages by its length may send one half in each. sockjs-client writes them as escapes,
/// and [`decode`] keeps them, as three bytes that are not UTF-8 (WTF-8).
#[derive(Debug, Default)]
pub(crate) struct Seam {
    /// The first half of a pair, at which the last message ended.
    half: Option<u16>,
}

/// How many times longer JSON can be than its message: a control character is `\u0001`, and
/// sockjs-client writes each half of a character beyond U+FFFF in the same way.
pub(crate) const ESCAPED: usize = 6;

/// How much longer than the application's limit a message may be, in bytes. An application that
/// finds frames of its own in messages then sees one that is too long, and can say so in its words.
pub(crate) const MESSAGE_SLACK: usize = 16 * 1024;

/// The longest payload that a message of this size can need.
pub(crate) fn payload_size(max_message_size: usize) -> usize {
    max_message_size.saturating_mul(ESCAPED)
}

/// What a client may send, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// The longest message.
    pub(crate) message: usize,
    /// The longest payload: one message or more in JSON, with [`MESSAGE_SLACK`] beyond.
    pub(crate) payload: usize,
}

impl Sizes {
    /// For messages of this size, whatever their characters.
    pub(crate) fn for_messages(size: usize) -> Self {
        Self {
            message: size,
            payload: payload_size(size),
        }
    }
}

/// The bytes that room is asked for, once so many of a payload came. Few payloads are much longer
/// than their messages: so it is as much as a message may have, and twice as much each time that
/// the payload is longer.
pub(crate) fn room(received: usize, max_message_size: usize) -> usize {
    let step = max_message_size.saturating_add(MESSAGE_SLACK);
    let steps = received.checked_div(step).unwrap_or_default();
    let steps = steps.saturating_add(1).checked_next_power_of_two();
    step.saturating_mul(steps.unwrap_or(usize::MAX))
}

/// The bytes of half a pair.
const HALF: usize = 3;

impl Seam {
    /// The messages in a client's payload: each is UTF-8, and of about `limit` bytes at most.
    ///
    /// # Errors
    /// [`Undecodable`]; [`Undecodable::BrokenJson`] if half of a pair stands alone.
    pub(crate) fn read(&mut self, payload: &[u8], limit: usize) -> Result<Vec<Bytes>, Undecodable> {
        let messages = decode(payload)?;
        let most = limit.saturating_add(MESSAGE_SLACK);
        if messages.iter().any(|message| message.len() > most) {
            return Err(Undecodable::TooLong { limit });
        }
        let messages = messages.into_iter();
        messages.map(|message| self.join(message)).collect()
    }

    fn join(&mut self, mut message: Bytes) -> Result<Bytes, Undecodable> {
        if message.is_empty() {
            return Ok(message);
        }
        if let Some(first) = self.half.take() {
            let rest = message.split_off(message.len().min(HALF));
            let second = half(&message).ok_or(Undecodable::BrokenJson)?;
            let pair = char::decode_utf16([first, second]).collect::<Result<String, _>>();
            let mut whole = pair.map_err(|_| Undecodable::BrokenJson)?.into_bytes();
            whole.extend_from_slice(&rest);
            message = whole.into();
        }
        let end = message.len().saturating_sub(HALF);
        let first = message.get(end..).and_then(half);
        if let Some(first) = first.filter(|unit| (0xd800..0xdc00).contains(unit)) {
            self.half = Some(first);
            message.truncate(end);
        }
        match str::from_utf8(&message) {
            Ok(_) => Ok(message),
            Err(_) => Err(Undecodable::BrokenJson),
        }
    }
}

/// Half of a pair, from its three bytes.
fn half(bytes: &[u8]) -> Option<u16> {
    match *bytes {
        [0xed, second @ 0xa0..=0xbf, third @ 0x80..=0xbf] => {
            Some(0xd000 | u16::from(second & 0x3f) << 6 | u16::from(third & 0x3f))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn joined(payloads: &[&str]) -> Result<String, Undecodable> {
        let mut seam = Seam::default();
        let mut text = String::new();
        for payload in payloads {
            for message in seam.read(payload.as_bytes(), 1024)? {
                text.push_str(str::from_utf8(&message).unwrap());
            }
        }
        Ok(text)
    }

    #[test]
    fn halves_meet_in_the_next_message() {
        for payloads in [
            &[r#"["a\ud83d\ude00b"]"#][..],
            &[r#"["a\ud83d","\ude00b"]"#],
            &[r#"["a\ud83d"]"#, r#"["\ude00b"]"#],
            &[r#"["a","\ud83d"]"#, "[]", r#"["","\ude00","b"]"#],
        ] {
            assert_eq!(joined(payloads).unwrap(), "a\u{1F600}b", "{payloads:?}");
        }
        // One meets its other half, and the next waits for its own.
        let twice = [r#"["\ud83d"]"#, r#"["\ude00\ud83d"]"#, r#"["\ude01"]"#];
        assert_eq!(joined(&twice).unwrap(), "\u{1F600}\u{1F601}");
    }

    #[test]
    fn a_half_alone_is_broken() {
        for payloads in [
            &[r#"["\ud83dx"]"#][..],
            &[r#"["\ude00"]"#],
            &[r#"["\ud83d"]"#, r#"["x"]"#],
            &[r#"["\ud83d"]"#, r#"["\ud83d"]"#],
            &[r#"["\ud83d"]"#, r#"["xyz\ude00"]"#],
            &[r#"["\ude00\ud83d"]"#],
        ] {
            assert_eq!(
                joined(payloads),
                Err(Undecodable::BrokenJson),
                "{payloads:?}"
            );
        }
        let raw = Seam::default().read(b"[\"\xff\"]", 1024);
        assert_eq!(raw, Err(Undecodable::BrokenJson));
    }

    #[test]
    fn only_so_much_is_one_message() {
        let read = |payload: &str| Seam::default().read(payload.as_bytes(), 1024);
        let most = 1024 + MESSAGE_SLACK;
        // As many bytes as may be, in as many bytes of JSON as they can take.
        let escaped = "\\u0001".repeat(most);
        assert_eq!(read(&format!("[\"{escaped}\"]")).unwrap()[0].len(), most);
        let long = "x".repeat(most + 1);
        let refused = read(&format!("[\"\",\"{long}\"]"));
        assert_eq!(refused, Err(Undecodable::TooLong { limit: 1024 }));
    }

    proptest! {
        /// A text that is cut anywhere, as JavaScript cuts it.
        #[test]
        fn any_cut_is_mended(text: String, size in 1_usize..10) {
            let units: Vec<u16> = text.encode_utf16().collect();
            let payloads: Vec<String> = units
                .chunks(size)
                .map(|piece| {
                    let escaped: String = piece.iter().map(|unit| format!("\\u{unit:04x}")).collect();
                    format!("[\"{escaped}\"]")
                })
                .collect();
            let payloads: Vec<&str> = payloads.iter().map(String::as_str).collect();
            prop_assert_eq!(joined(&payloads).unwrap(), text);
        }
    }
}
