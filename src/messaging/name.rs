//! What a SEND says of itself, and the name that its message bears (pure).

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// What makes a SEND one that is published once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Once {
    /// `client-seq`.
    Number(u64),
    /// `idempotency-key`.
    Key(Box<str>),
}

/// Left as they are in a name.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

const NUMBERED: &str = "seq/";
const KEYED: &str = "key/";

/// The longest that AMQP carries.
const MAX_ID: usize = 255;

/// The name of a message: `seq/<user>/<device>/<n>` or `key/<user>/<key>`, percent-encoded. No two
/// users, devices, numbers and keys have the same. `None`: it would be too long.
#[must_use]
pub fn message_id(user: &str, device: &str, once: &Once) -> Option<Box<str>> {
    let plain = |text| utf8_percent_encode(text, PLAIN);
    let user = plain(user);
    let id = match once {
        Once::Number(number) => format!("{NUMBERED}{user}/{}/{number}", plain(device)),
        Once::Key(key) => format!("{KEYED}{user}/{}", plain(key)),
    };
    (id.len() <= MAX_ID).then(|| id.into())
}

/// Whether only the gateway gives such names.
#[must_use]
pub fn is_reserved(id: &str) -> bool {
    [NUMBERED, KEYED]
        .iter()
        .any(|prefix| id.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_users_devices_and_numbers_apart() {
        let number =
            |user, device, number| message_id(user, device, &Once::Number(number)).unwrap();
        assert_eq!(&*number("alice", "phone-1", 7), "seq/alice/phone-1/7");
        assert_eq!(&*number("a/b", "c d", 7), "seq/a%2Fb/c%20d/7");
        assert_ne!(number("a/b", "c", 7), number("a", "b/c", 7));
        assert_ne!(number("a", "%2F", 7), number("a", "/", 7));
        let key = message_id("alice", "", &Once::Key("ü".into())).unwrap();
        assert_eq!(&*key, "key/alice/%C3%BC");
        assert!(is_reserved(&key) && is_reserved("seq/") && !is_reserved("sequence"));
    }

    #[test]
    fn a_name_is_not_longer_than_amqp_allows() {
        assert_eq!(message_id(&"x".repeat(250), "d", &Once::Number(1)), None);
        let longest = message_id("x", &"d".repeat(128), &Once::Number((1 << 53) - 1));
        assert!(longest.is_some());
    }
}
