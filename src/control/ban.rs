//! Bans, as nodes and Redis tell them to each other (pure).
//!
//! A node knows a [`Change`] for each [`Subject`]: the newest that it has heard of. So nodes that
//! heard of the same changes, in whatever order and however often, agree on who is banned.

use std::{
    fmt,
    net::IpAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{address::canonical, presence::Device, units::moment};

/// A user's name has no more, in bytes.
const MAX_USER: usize = 255;

/// The last day of stamps, in milliseconds, is for nodes.
const LAST_DAY: u64 = 24 * 60 * 60 * 1_000;

/// Networks that hold more addresses than those of these lengths are not banned: of IPv4, of IPv6.
const SHORTEST: (u8, u8) = (8, 16);

/// The clients that a ban is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// A user, by name.
    User(Box<str>),
    /// All who come from an address, or from a network.
    Address(IpNet),
    /// A device, by the header `device-id` of its CONNECT, whoever uses it.
    Device(Box<str>),
}

/// How long clients are kept out, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ban {
    /// When it ends; `None`: when it is lifted.
    pub until: Option<SystemTime>,
    /// The reason, which clients may be told; empty: none was given.
    pub reason: Box<str>,
}

/// A ban that was set, or lifted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The clients that are meant.
    pub subject: Subject,
    /// When, in milliseconds since 1970: of two changes of a subject the later one counts. `None`:
    /// whoever made it has no such clock, and the node that hears of it puts its own time here.
    pub stamp: Option<u64>,
    /// The ban; `None`: it is lifted.
    pub ban: Option<Ban>,
}

/// The outcome of a change on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It counts from now on; as others are to be told of it, with its stamp.
    Done(Change),
    /// The node knows it already, or a newer one.
    Known,
    /// The node holds as many bans as it takes.
    Full,
}

impl Ban {
    /// Longer reasons are cut where they are told; nobody may give one. In characters.
    pub const MAX_REASON: usize = 256;

    /// Whether it is over.
    #[must_use]
    pub fn is_over(&self, now: SystemTime) -> bool {
        self.until.is_some_and(|until| until <= now)
    }
}

impl Subject {
    /// A user.
    ///
    /// # Errors
    /// The problem with the name.
    pub fn user(name: &str) -> Result<Self, String> {
        text(name, MAX_USER).map(Self::User)
    }

    /// A device.
    ///
    /// # Errors
    /// The problem with the id.
    pub fn device(id: &str) -> Result<Self, String> {
        text(id, Device::MAX_ID).map(Self::Device)
    }

    /// An address, or a network such as `192.0.2.0/24`.
    ///
    /// # Errors
    /// The problem with it, and the form that is expected.
    pub fn address(text: &str) -> Result<Self, String> {
        let address = text.parse::<IpAddr>().map(IpNet::from);
        let Ok(network) = address.or_else(|_| text.parse::<IpNet>()) else {
            let start: String = text.chars().take(60).collect();
            return Err(format!(
                "{start:?} is neither an address nor a network; write e.g. \"192.0.2.7\" or \
                 \"192.0.2.0/24\""
            ));
        };
        let network = canonical(network);
        if network.trunc() != network {
            return Err(format!(
                "{text:?} has more bits than its length says; write \"{}\"",
                network.trunc()
            ));
        }
        let shortest = match network {
            IpNet::V4(_) => SHORTEST.0,
            IpNet::V6(_) => SHORTEST.1,
        };
        if network.prefix_len() < shortest {
            return Err(format!(
                "{text:?} is too large a part of the world; ban networks of /{shortest} or smaller"
            ));
        }
        Ok(Self::Address(network))
    }

    /// The kind, in a word: `user`, `address` or `device`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::User(_) => "user",
            Self::Address(_) => "address",
            Self::Device(_) => "device",
        }
    }

    /// The user's name, the network, or the device's id. A network of one address is shown as the
    /// address.
    #[must_use]
    pub fn value(&self) -> String {
        match self {
            Self::User(text) | Self::Device(text) => text.to_string(),
            Self::Address(network) if network.prefix_len() == network.max_prefix_len() => {
                network.addr().to_string()
            }
            Self::Address(network) => network.to_string(),
        }
    }

    /// As a key: `user:alice`, `address:192.0.2.0/24`, `device:x`.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}:{}", self.kind(), self.value())
    }

    /// Reads what [`Subject::key`] wrote.
    #[must_use]
    pub fn from_key(key: &str) -> Option<Self> {
        let (kind, value) = key.split_once(':')?;
        let subject = match kind {
            "user" => Self::user(value),
            "address" => Self::address(value),
            "device" => Self::device(value),
            _ => return None,
        };
        subject.ok()
    }
}

fn text(text: &str, most: usize) -> Result<Box<str>, String> {
    match text.len() {
        0 => Err("is empty".to_owned()),
        length if length > most => Err(format!("has {length} bytes, more than {most}")),
        _ => Ok(text.into()),
    }
}

/// A ban as it stands in JSON.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Written {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) user: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) address: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) device_id: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) stamp: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) until: Option<u64>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(super) reason: Box<str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) lifted: bool,
}

impl Written {
    pub(super) fn of(change: &Change) -> Self {
        let mut written = Self {
            stamp: change.stamp,
            lifted: change.ban.is_none(),
            ..Self::default()
        };
        let value = Some(change.subject.value().into());
        match change.subject {
            Subject::User(_) => written.user = value,
            Subject::Address(_) => written.address = value,
            Subject::Device(_) => written.device_id = value,
        }
        if let Some(ban) = &change.ban {
            written.until = ban.until.map(seconds);
            written.reason = ban.reason.clone();
        }
        written
    }

    pub(super) fn read(self) -> Result<Change, String> {
        let about = |name: &str| {
            let name = name.to_owned();
            move |problem: String| format!("{name} {problem}")
        };
        let subject = match (self.user, self.address, self.device_id) {
            (Some(name), None, None) => Subject::user(&name).map_err(about("user"))?,
            (None, Some(text), None) => Subject::address(&text).map_err(about("address"))?,
            (None, None, Some(id)) => Subject::device(&id).map_err(about("device_id"))?,
            _ => {
                return Err("it says not who: give one of user, address and device_id".to_owned());
            }
        };
        if self.reason.chars().count() > Ban::MAX_REASON {
            return Err(format!(
                "reason has more than {} characters",
                Ban::MAX_REASON
            ));
        }
        if let Some(stamp) = self.stamp
            && !Change::is_stamp(stamp)
        {
            return Err(format!(
                "stamp {stamp} is no moment; write milliseconds since 1970"
            ));
        }
        // A moment that is too far away to be written does not come.
        let until = self.until.map(Duration::from_secs).and_then(moment);
        let ban = Ban {
            until,
            reason: self.reason,
        };
        Ok(Change {
            subject,
            stamp: self.stamp,
            ban: (!self.lifted).then_some(ban),
        })
    }
}

impl Change {
    /// Whether it can be a stamp: nanoseconds are none. No change could come after the greatest
    /// number there is, and so none could lift its ban.
    #[must_use]
    pub fn is_stamp(millis: u64) -> bool {
        moment(Duration::from_millis(millis)).is_some()
    }

    /// Whether it can be the stamp of a backend. A later one leaves nodes no stamps for the changes
    /// that come after it, and so nobody could lift its ban on all nodes.
    #[must_use]
    pub fn is_backend_s_stamp(millis: u64) -> bool {
        Self::is_stamp(millis.saturating_add(LAST_DAY))
    }

    /// As JSON, for a store.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Texts, numbers and switches: there is nothing that JSON could not hold.
        serde_json::to_string(&Written::of(self)).unwrap_or_default()
    }

    /// Reads what [`Change::to_json`] wrote.
    ///
    /// # Errors
    /// The problem with it.
    pub fn from_json(text: &[u8]) -> Result<Self, String> {
        let written: Written = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        written.read()
    }
}

/// Rounded up: a ban ends no earlier than it was said to.
fn seconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let more = u64::from(since.subsec_nanos() > 0);
    since.as_secs().saturating_add(more)
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(name) => write!(f, "user {name:?}"),
            Self::Address(_) => write!(f, "address {}", self.value()),
            Self::Device(id) => write!(f, "device id {id:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_are_read_from_their_keys() {
        for (subject, key) in [
            (Subject::user("a:b c"), "user:a:b c"),
            (Subject::address("192.0.2.7"), "address:192.0.2.7"),
            (Subject::address("192.0.2.0/24"), "address:192.0.2.0/24"),
            (Subject::address("::ffff:192.0.2.7"), "address:192.0.2.7"),
            (
                Subject::address("::ffff:192.0.2.0/120"),
                "address:192.0.2.0/24",
            ),
            (Subject::address("2001:db8::/32"), "address:2001:db8::/32"),
            (Subject::device("{7}"), "device:{7}"),
        ] {
            let subject = subject.unwrap();
            assert_eq!(subject.key(), key);
            assert_eq!(Subject::from_key(key), Some(subject));
        }
        for key in ["", "user", "user:", "group:a", "address:x"] {
            assert_eq!(Subject::from_key(key), None, "{key}");
        }
    }

    #[test]
    fn an_address_that_cannot_be_banned_says_why() {
        for (text, why) in [
            ("alice", "neither an address nor a network"),
            ("192.0.2.0/33", "neither an address nor a network"),
            ("192.0.2.7/24", "write \"192.0.2.0/24\""),
            ("0.0.0.0/0", "too large"),
            ("11.0.0.0/7", "more bits"),
            ("10.0.0.0/7", "too large"),
            ("::/0", "too large"),
        ] {
            let error = Subject::address(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
        assert!(Subject::user("").is_err());
        assert!(Subject::device(&"x".repeat(129)).is_err());
    }

    #[test]
    fn json_is_read_back() {
        let until = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        for ban in [
            None,
            Some(Ban {
                until: None,
                reason: "".into(),
            }),
            Some(Ban {
                until: Some(until),
                reason: "\"no\"\nöß\0".into(),
            }),
        ] {
            let change = Change {
                subject: Subject::user("alice").unwrap(),
                stamp: Some(7),
                ban,
            };
            assert_eq!(Change::from_json(change.to_json().as_bytes()), Ok(change));
        }
        for text in [
            "",
            "[]",
            "{}",
            r#"{"user":"a","device_id":"b"}"#,
            // Nanoseconds, and the greatest number.
            r#"{"user":"a","stamp":1900000000000000000}"#,
            r#"{"user":"a","stamp":18446744073709551615}"#,
        ] {
            assert!(Change::from_json(text.as_bytes()).is_err(), "{text}");
        }
        // The second is in milliseconds: no list of bans could show its date.
        for until in ["18446744073709551615", "1900000000000"] {
            let text = format!(r#"{{"user":"a","until":{until}}}"#);
            let never = Change::from_json(text.as_bytes()).unwrap();
            assert_eq!(never.ban.unwrap().until, None);
        }
    }
}
