//! What stands in Redis.
//!
//! | Key                    | Kind   | What                                                       |
//! |------------------------|--------|------------------------------------------------------------|
//! | `stentor:node:<lease>` | string | the node's name; lives for a lease, renewed at a third     |
//! | `stentor:user:<user>`  | hash   | a field for each session: lease and session; how it is     |
//! | `stentor:group:<name>` | hash   | a field for each user and node: lease and user; empty      |
//!
//! A lease's id has six random bytes. They come first in every field, in one piece; in the name
//! of the key they are written in base64. Fields of one user or group are few, so that Redis
//! keeps them in one block without pointers.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::presence::{Session, SessionInfo};

const LEN: usize = 6;

/// A lease, by which a node lives. One that ran out never lives again: the node takes another.
/// So whoever sees a dead lease may remove all that names it, and cannot be too late.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct LeaseId([u8; LEN]);

impl LeaseId {
    pub(super) fn random() -> Self {
        Self(rand::random())
    }

    pub(super) fn key(self) -> String {
        format!("stentor:node:{self}")
    }

    /// The field of a session, or of a user of a group.
    pub(super) fn field(self, name: &str) -> Vec<u8> {
        let mut field = Vec::with_capacity(LEN + name.len());
        field.extend_from_slice(&self.0);
        field.extend_from_slice(name.as_bytes());
        field
    }

    /// What [`LeaseId::field`] put together.
    pub(super) fn split(field: &[u8]) -> Option<(Self, &str)> {
        let (lease, name) = field.split_first_chunk()?;
        Some((Self(*lease), std::str::from_utf8(name).ok()?))
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LeaseId({self})")
    }
}

pub(super) fn user_key(user: &str) -> String {
    format!("stentor:user:{user}")
}

pub(super) fn group_key(group: &str) -> String {
    format!("stentor:group:{group}")
}

/// Transports that take one byte.
const TRANSPORTS: [(u8, &str); 2] = [(1, "websocket"), (2, "tcp")];

/// In milliseconds; such years cannot be written as dates.
const YEAR_10_000: u64 = 253_402_300_800_000;

/// The value of a session's field: since when in milliseconds (six bytes), the transport (its
/// number, or zero, length and name), the client's address (4 or 6, address and port; or zero).
/// Numbers are big-endian. Later versions add to the end.
pub(super) fn encode(session: &Session) -> Vec<u8> {
    let mut value = Vec::with_capacity(32);
    let since = session.since.duration_since(UNIX_EPOCH).unwrap_or_default();
    let [_, _, since @ ..] = u64::try_from(since.as_millis())
        .unwrap_or(u64::MAX)
        .to_be_bytes();
    value.extend_from_slice(&since);
    let known = TRANSPORTS
        .iter()
        .find(|(_, name)| *name == session.transport);
    if let Some((number, _)) = known {
        value.push(*number);
    } else {
        let name = session.transport.as_bytes();
        let name = name.get(..255).unwrap_or(name);
        value.push(0);
        value.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
        value.extend_from_slice(name);
    }
    if let Some(remote) = session.remote {
        match remote.ip().to_canonical() {
            IpAddr::V4(ip) => {
                value.push(4);
                value.extend_from_slice(&ip.octets());
            }
            IpAddr::V6(ip) => {
                value.push(6);
                value.extend_from_slice(&ip.octets());
            }
        }
        value.extend_from_slice(&remote.port().to_be_bytes());
    } else {
        value.push(0);
    }
    value
}

/// Reads a session; `None`: these are no bytes of [`encode`].
pub(super) fn decode(id: &str, node: &str, value: &[u8]) -> Option<SessionInfo> {
    let mut rest = Rest(value);
    let [a, b, c, d, e, f] = rest.take()?;
    let since = u64::from_be_bytes([0, 0, a, b, c, d, e, f]);
    if since >= YEAR_10_000 {
        return None;
    }
    let transport = match rest.take()? {
        [0] => {
            let [length] = rest.take()?;
            std::str::from_utf8(rest.slice(length.into())?).ok()?
        }
        [number] => TRANSPORTS
            .iter()
            .find(|(known, _)| *known == number)
            .map_or("unknown", |(_, name)| name),
    };
    let ip = match rest.take()? {
        [4] => Some(IpAddr::V4(Ipv4Addr::from(rest.take::<4>()?))),
        [6] => Some(IpAddr::V6(Ipv6Addr::from(rest.take::<16>()?))),
        _ => None,
    };
    let remote = match ip {
        Some(ip) => Some(SocketAddr::new(ip, u16::from_be_bytes(rest.take()?))),
        None => None,
    };
    Some(SessionInfo {
        id: id.into(),
        node: node.into(),
        transport: transport.into(),
        remote,
        since: SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(since))?,
    })
}

struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn slice(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn session(transport: &'static str, millis: u64, remote: Option<SocketAddr>) -> Session {
        Session {
            remote,
            since: UNIX_EPOCH + Duration::from_millis(millis),
            ..Session::new("alice".into(), "id", transport, Vec::new())
        }
    }

    #[test]
    fn a_usual_session_takes_fourteen_bytes() {
        let remote = "192.0.2.1:4711".parse().unwrap();
        let session = session("websocket", 1_795_000_000_123, Some(remote));
        let value = encode(&session);
        assert_eq!(value.len(), 14);
        let info = decode("id", "node", &value).unwrap();
        assert_eq!((&*info.transport, info.remote), ("websocket", Some(remote)));
        assert_eq!((&*info.id, &*info.node), ("id", "node"));
        assert_eq!(info.since, session.since);
    }

    #[test]
    fn a_lease_is_readable_in_its_key_alone() {
        let lease = LeaseId([0xff; LEN]);
        assert_eq!(lease.key(), "stentor:node:________");
        assert_eq!(LeaseId::split(&lease.field("é")), Some((lease, "é")));
        assert_eq!(LeaseId::split(&[0; LEN - 1]), None);
        assert_eq!(LeaseId::split(&[0xff; LEN + 1]), None, "no text");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_and_what_is_added_is_skipped(
            transport in prop::sample::select(vec!["websocket", "tcp", "", "xhr-streaming", "é"]),
            millis in 0..YEAR_10_000,
            remote: Option<(IpAddr, u16)>,
            added: Vec<u8>,
        ) {
            let remote = remote.map(|(ip, port)| SocketAddr::new(ip.to_canonical(), port));
            let session = session(transport, millis, remote);
            let mut value = encode(&session);
            value.extend(added);
            let info = decode("id", "node", &value).unwrap();
            prop_assert_eq!(&*info.transport, session.transport);
            prop_assert_eq!(info.remote, session.remote);
            prop_assert_eq!(info.since, session.since);
        }

        #[test]
        fn arbitrary_bytes_do_not_panic(value: Vec<u8>) {
            let _ = decode("id", "node", &value);
            let _ = LeaseId::split(&value);
        }

        #[test]
        fn a_part_of_a_value_is_none(cut in 0_usize..14) {
            let value = encode(&session("tcp", 1, Some("192.0.2.1:1".parse().unwrap())));
            prop_assert_eq!(decode("id", "node", &value[..cut]), None);
        }
    }
}
