//! The keys and values in Redis.
//!
//! | Key                    | Kind   | Content                                         |
//! |------------------------|--------|-------------------------------------------------|
//! | `node:<lease>`         | string | a node: since when, sessions, name; lives for a lease, renewed at a third |
//! | `nodes`                | hash   | a field for each lease that was not cleared up: empty, `closed`, or once somebody began to `clearing`, and of how many lists of sessions the users are settled; the field `epoch` is random, and new if Redis lost all |
//! | `user:<user>`          | hash   | a field for each session: lease and session; its status and more. A field for each node, its lease: the user's status there, and how many sessions it has there. The field without a name: the status that others were told, and the one before it; `left`: the departure that waits to be settled, as lease and stamp |
//! | `group:<name>`         | hash   | a field for each user and node: lease and user; the user's status there |
//! | `sessions:<lease>:<n>` | hash   | a field for each session of the node: session; its user and groups |
//! | `users`                | string | the number of users that others were told of    |
//! | `rooms`                | hash   | a field for each room that has somebody: the number of its sessions |
//! | `room:<room>`          | hash   | a field for each member of the room: the number of its sessions |
//! | `leaving:<room>`       | hash   | a field for each user who has left the room, of which others were not told yet: the departure that waits to be settled |
//! | `members:<lease>:<n>`  | hash   | a field for each member that the node has: room and user; the number of its sessions there, 0 while its departure waits to be settled |
//! | `clearing:<lease>`     | string | the node that clears up after this dead one      |
//! | `bans`                 | hash   | a field for each ban, and for each that is no more: stamp and JSON; the field without a name is random, and new after each change |
//!
//! Every key begins with `stentor:`. In a cluster all of this, but for the bans, is there
//! [`PARTITIONS`] times, for a part of the users each, behind `stentor:{<partition>}:`. So all that
//! a script touches is in one slot; a partition knows nothing of the others, and can lose its
//! server alone.
//!
//! A lease's id is eight letters, which come first in every field. Fields of one user are few, and
//! a node's sessions are spread over many hashes, so that Redis keeps each in one block without
//! pointers (`hash-max-listpack-entries`, 128 unless configured).
//!
//! A room's name in keys and fields is [`Room::name`](crate::presence::rooms::Room).

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::{
    presence::{Device, NodeInfo, PresenceEntry, SessionInfo, Status},
    units::moment,
};

/// The length of a [`LeaseId`], in letters.
pub(super) const LEASE: usize = 8;

/// The field of the hash of leases that is not one.
pub(super) const EPOCH: &str = "epoch";
/// The value of a lease in the hash of leases that its node has ended itself.
pub(super) const CLOSED: &str = "closed";
/// The beginning of the same, of one that is dead, and after which somebody has begun to clear up.
pub(super) const CLEARING: &str = "clearing";
/// The field of a user that is no session's: its newest departure, while that is not settled.
pub(super) const LEFT: &str = "left";
/// The parts of a cluster's keys. Each is in one slot, so they are enough for a cluster's servers to
/// have about as many each, and few enough to ask all of them.
pub(super) const PARTITIONS: u16 = 64;
/// Hashes over which a node's sessions are spread, in all partitions together.
const LISTS: u16 = 1024;

/// The names of keys: of a server's, or of one partition of a cluster's.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    prefix: Box<str>,
    lists: u16,
}

impl Keys {
    /// All on one server.
    pub(super) fn whole() -> Self {
        Self {
            prefix: "stentor:".into(),
            lists: LISTS,
        }
    }

    /// A partition of a cluster.
    pub(super) fn partition(number: u16) -> Self {
        Self {
            // What is in braces decides about the slot.
            prefix: format!("stentor:{{{number}}}:").into(),
            lists: LISTS / PARTITIONS,
        }
    }

    /// The hash of bans, which are no partition's.
    pub(super) fn bans() -> &'static str {
        "stentor:bans"
    }

    /// The hash of all leases.
    pub(super) fn nodes(&self) -> String {
        self.named("nodes")
    }

    /// The number of users.
    pub(super) fn users(&self) -> String {
        self.named("users")
    }

    pub(super) fn node(&self, lease: LeaseId) -> String {
        format!("{}node:{lease}", self.prefix)
    }

    pub(super) fn clearing(&self, lease: LeaseId) -> String {
        format!("{}clearing:{lease}", self.prefix)
    }

    pub(super) fn user(&self, name: &str) -> String {
        format!("{}user:{name}", self.prefix)
    }

    pub(super) fn group(&self, name: &str) -> String {
        format!("{}group:{name}", self.prefix)
    }

    /// How many lists of sessions a node has.
    pub(super) fn lists(&self) -> u16 {
        self.lists
    }

    pub(super) fn list(&self, lease: LeaseId, number: u16) -> String {
        format!("{}sessions:{lease}:{number}", self.prefix)
    }

    /// The list of the node that has the session of that id.
    pub(super) fn list_of(&self, lease: LeaseId, session: &str) -> String {
        self.list(lease, spread(session, self.lists))
    }

    /// The number of sessions of each room.
    pub(super) fn rooms(&self) -> String {
        self.named("rooms")
    }

    /// The members of a room, by its name.
    pub(super) fn room(&self, name: &str) -> String {
        format!("{}room:{name}", self.prefix)
    }

    /// Those that have left it.
    pub(super) fn leaving(&self, name: &str) -> String {
        format!("{}leaving:{name}", self.prefix)
    }

    pub(super) fn member_list(&self, lease: LeaseId, number: u16) -> String {
        format!("{}members:{lease}:{number}", self.prefix)
    }

    /// The list of the node that has the member of that field.
    pub(super) fn member_list_of(&self, lease: LeaseId, field: &str) -> String {
        self.member_list(lease, spread(field, self.lists))
    }

    fn named(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}

/// The partition, of so many, that has the user.
pub(super) fn partition_of(user: &str, partitions: usize) -> usize {
    match u16::try_from(partitions) {
        Ok(partitions) if partitions > 1 => spread(user, partitions).into(),
        _ => 0,
    }
}

/// A lease, by which a node lives. One that ran out never lives again: the node takes another.
/// So whoever sees a dead lease may remove all that names it, and cannot be too late.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct LeaseId([u8; LEASE]);

impl LeaseId {
    pub(super) fn random() -> Self {
        let mut lease = [0; LEASE];
        // Six bytes are eight letters.
        let _ = URL_SAFE_NO_PAD.encode_slice(rand::random::<[u8; 6]>(), &mut lease);
        Self(lease)
    }

    /// Reads the name of one.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let is_letter = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_".contains(byte);
        let lease: [u8; LEASE] = text.try_into().ok()?;
        lease.iter().all(is_letter).then_some(Self(lease))
    }

    pub(super) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The field of a session, or of a user of a group; without a name, of the node itself.
    pub(super) fn field(self, name: &str) -> Vec<u8> {
        [&self.0, name.as_bytes()].concat()
    }

    /// The inverse of [`LeaseId::field`].
    pub(super) fn split(field: &[u8]) -> Option<(Self, &str)> {
        let (lease, name) = field.split_first_chunk::<LEASE>()?;
        Some((Self::parse(lease)?, std::str::from_utf8(name).ok()?))
    }
}

/// One of so many places for a name: the same for all nodes and versions (FNV-1a).
fn spread(name: &str, places: u16) -> u16 {
    let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    let place = hash.checked_rem(places.into());
    u16::try_from(place.unwrap_or_default()).unwrap_or(0)
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LeaseId({self})")
    }
}

/// A user's status at a node, and its sessions there: the value of the node's field of the user.
pub(super) fn encode_here(status: Status, sessions: usize) -> [u8; 5] {
    let sessions = u32::try_from(sessions).unwrap_or(u32::MAX);
    let [a, b, c, d] = sessions.to_be_bytes();
    [status.byte(), a, b, c, d]
}

/// The inverse of [`encode_here`].
pub(super) fn decode_here(value: &[u8]) -> Option<(Status, u32)> {
    let [status, sessions @ ..] = *value.first_chunk::<5>()?;
    Some((Status::from_byte(status), u32::from_be_bytes(sessions)))
}

/// The value of a lease after which somebody clears up, who has settled the users of the first so many
/// lists of its sessions.
pub(super) fn encode_clearing(lists: u16) -> String {
    format!("{CLEARING} {lists}")
}

/// The inverse of [`encode_clearing`]; `None`: nobody has begun. A node of another version notes no
/// number.
pub(super) fn decode_clearing(value: &[u8]) -> Option<u16> {
    let lists = std::str::from_utf8(value).ok()?.strip_prefix(CLEARING)?;
    Some(lists.trim_start().parse().unwrap_or(0))
}

/// The value of a node's key.
pub(super) fn encode_node(since: SystemTime, sessions: usize, name: &str) -> String {
    let since = since.duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{} {sessions} {name}", since.as_millis())
}

/// The inverse of [`encode_node`].
pub(super) fn decode_node(value: &str) -> Option<NodeInfo> {
    let mut words = value.splitn(3, ' ');
    let since: u64 = words.next()?.parse().ok()?;
    let sessions = words.next()?.parse().ok()?;
    Some(NodeInfo {
        name: words.next()?.into(),
        since: time(since)?,
        sessions,
    })
}

fn time(millis: u64) -> Option<SystemTime> {
    moment(Duration::from_millis(millis))
}

/// A session's entry in its node's list: the user and its groups, each with its length.
pub(super) fn encode_listed(session: &PresenceEntry) -> Vec<u8> {
    let mut value = Vec::with_capacity(32);
    put_text(&mut value, &session.user);
    for group in session.groups().iter() {
        put_text(&mut value, group);
    }
    value
}

/// A user and its groups.
pub(super) type Grouped = (Arc<str>, Arc<[Arc<str>]>);

/// The inverse of [`encode_listed`].
pub(super) fn decode_listed(value: &[u8]) -> Option<Grouped> {
    let mut rest = Rest(value);
    let user = rest.text()?.into();
    let mut groups = Vec::new();
    while !rest.0.is_empty() {
        groups.push(rest.text()?.into());
    }
    Some((user, groups.into()))
}

/// Transports that take one byte.
const TRANSPORTS: [(u8, &str); 2] = [(1, "websocket"), (2, "tcp")];

/// The value of a session's field: the status (one byte; offline where it has only claimed), since when in milliseconds (six), the transport (its number, or zero and the name), the
/// client's address (4 or 6, address and port; or zero); then, if one is there, the kind and the
/// id of the device, and the seconds until it was last seen (four). Numbers are big-endian, texts
/// have their length. Later versions add to the end.
pub(super) fn encode(session: &PresenceEntry) -> Vec<u8> {
    encode_with(session.status(), session)
}

/// The same of a session that is about to join: those that claim find it, and nobody else.
pub(super) fn encode_claimed(session: &PresenceEntry) -> Vec<u8> {
    encode_with(Status::Offline, session)
}

/// Whether a session has joined.
pub(super) fn is_here(session: &SessionInfo) -> bool {
    session.status != Status::Offline
}

fn encode_with(status: Status, session: &PresenceEntry) -> Vec<u8> {
    let mut value = Vec::with_capacity(32);
    value.push(status.byte());
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
        value.push(0);
        put_text(&mut value, session.transport);
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
    let seen = session.seen();
    if session.device.is_some() || seen > 0 {
        let device = session.device.as_deref();
        let part = |part: fn(&Device) -> &Option<Box<str>>| {
            device
                .and_then(|device| part(device).as_deref())
                .unwrap_or_default()
        };
        put_text(&mut value, part(|device| &device.kind));
        put_text(&mut value, part(|device| &device.id));
    }
    if seen > 0 {
        value.extend_from_slice(&seen.to_be_bytes());
    }
    value
}

/// Reads a session; `None` if [`encode`] did not make these bytes.
pub(super) fn decode(user: &Arc<str>, id: &str, node: &str, value: &[u8]) -> Option<SessionInfo> {
    let mut rest = Rest(value);
    let [status, a, b, c, d, e, f] = rest.take()?;
    let since = time(u64::from_be_bytes([0, 0, a, b, c, d, e, f]))?;
    let transport = match rest.take()? {
        [0] => rest.text()?,
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
    let (mut device, mut seen) = (Device::default(), 0);
    if !rest.0.is_empty() {
        let some = |text: &str| (!text.is_empty()).then(|| text.into());
        device.kind = some(rest.text()?);
        device.id = some(rest.text()?);
        seen = rest.take().map_or(0, u32::from_be_bytes);
    }
    Some(SessionInfo {
        user: Arc::clone(user),
        id: id.into(),
        node: node.into(),
        transport: transport.into(),
        remote,
        since,
        device: (device != Device::default()).then(|| Box::new(device)),
        status: Status::from_byte(status),
        last_seen: since.checked_add(Duration::from_secs(seen.into()))?,
    })
}

/// The field of a member in its node's list: room and user.
pub(super) fn encode_member(room: &str, user: &str) -> String {
    format!("{}:{room}{user}", room.len())
}

/// The inverse of [`encode_member`].
pub(super) fn decode_member(field: &str) -> Option<(&str, &str)> {
    let (length, rest) = field.split_once(':')?;
    rest.split_at_checked(length.parse().ok()?)
}

/// Its length (one byte; or 255 and four), and the text.
fn put_text(value: &mut Vec<u8>, text: &str) {
    match u8::try_from(text.len()) {
        Ok(length) if length < u8::MAX => value.push(length),
        _ => {
            let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
            value.push(u8::MAX);
            value.extend_from_slice(&length.to_be_bytes());
        }
    }
    value.extend_from_slice(text.as_bytes());
}

struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn text(&mut self) -> Option<&'a str> {
        let length = match self.take()? {
            [u8::MAX] => usize::try_from(u32::from_be_bytes(self.take()?)).ok()?,
            [length] => length.into(),
        };
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        std::str::from_utf8(taken).ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn session(transport: &'static str, millis: u64, remote: Option<SocketAddr>) -> PresenceEntry {
        let mut session = PresenceEntry::new("alice".into(), "id", transport, Vec::new());
        session.remote = remote;
        session.since = UNIX_EPOCH + Duration::from_millis(millis);
        session
    }

    fn read(value: &[u8]) -> Option<SessionInfo> {
        decode(&"alice".into(), "id", "node", value)
    }

    #[test]
    fn a_usual_session_takes_fifteen_bytes() {
        let remote = "192.0.2.1:4711".parse().unwrap();
        let session = session("websocket", 1_795_000_000_123, Some(remote));
        let value = encode(&session);
        assert_eq!(value.len(), 15);
        assert_eq!(read(&value), Some(session.info("node")));
    }

    #[test]
    fn a_lease_says_how_far_it_is_settled() {
        let read = |value: &str| decode_clearing(value.as_bytes());
        assert_eq!(read(&encode_clearing(64)), Some(64));
        assert_eq!(read(CLEARING), Some(0), "by another version");
        assert_eq!([read(""), read(CLOSED)], [None, None]);
    }

    #[test]
    fn a_lease_is_eight_letters() {
        let lease = LeaseId::random();
        assert_eq!(Keys::whole().node(lease), format!("stentor:node:{lease}"));
        assert_eq!(LeaseId::parse(lease.as_str().as_bytes()), Some(lease));
        assert_eq!(LeaseId::split(&lease.field("é")), Some((lease, "é")));
        assert_eq!(LeaseId::split(b"short"), None);
        assert_eq!(LeaseId::split(b"12345678\xff"), None, "no text");
        assert_eq!(LeaseId::split(b"1234 678x"), None, "no lease");
    }

    #[test]
    fn a_node_says_who_it_is() {
        let since = UNIX_EPOCH + Duration::from_millis(1_795_000_000_123);
        let node = decode_node(&encode_node(since, 7, "host.1 2")).unwrap();
        assert_eq!(
            (&*node.name, node.since, node.sessions),
            ("host.1 2", since, 7)
        );
        assert_eq!(decode_node("host.1"), None);
    }

    #[test]
    fn sessions_and_users_are_spread_and_found_again() {
        for places in [LISTS, PARTITIONS] {
            let mut seen = vec![0; places.into()];
            for number in 0..100_000 {
                seen[usize::from(spread(&format!("session-{number}"), places))] += 1;
            }
            let most = *seen.iter().max().unwrap();
            assert!(most <= 2 * 100_000 / usize::from(places), "{most}");
        }
        // Values that other versions have to find, too.
        let keys = Keys::whole();
        let list = keys.list_of(LeaseId(*b"12345678"), "session");
        assert_eq!(list, "stentor:sessions:12345678:247");
        assert_eq!(partition_of("alice", 1), 0);
        assert_eq!(partition_of("session", PARTITIONS.into()), 247 % 64);
    }

    #[test]
    fn all_keys_of_a_partition_are_in_one_slot() {
        let keys = Keys::partition(7);
        let lease = LeaseId::random();
        let all = [
            keys.nodes(),
            keys.users(),
            keys.node(lease),
            keys.clearing(lease),
            keys.user("{other}"),
            keys.group("}{"),
            keys.list_of(lease, "{x}"),
        ];
        for key in all {
            assert!(key.starts_with("stentor:{7}:"), "{key}");
        }
        assert!(keys.lists() > 0);
    }

    #[test]
    fn a_node_says_how_a_user_is_there() {
        let value = encode_here(Status::Busy, 100_000);
        assert_eq!(decode_here(&value), Some((Status::Busy, 100_000)));
        assert_eq!(decode_here(&value[..4]), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_and_what_is_added_is_skipped(
            transport in prop::sample::select(vec!["websocket", "tcp", "", "xhr-streaming", "é"]),
            millis in 0..253_402_300_800_000_u64,
            remote: Option<(IpAddr, u16)>,
            device in prop::option::of((".{1,32}", prop::option::of(".{1,128}"))),
            status in 1_u8..=4,
            added: Vec<u8>,
        ) {
            let remote = remote.map(|(ip, port)| SocketAddr::new(ip.to_canonical(), port));
            let mut session = session(transport, millis, remote);
            session.device = device.map(|(kind, id)| Box::new(Device {
                kind: Some(kind.into()),
                id: id.map(Into::into),
            }));
            // This also says that it was seen just now, which is what may be added to.
            let _ = session.say(Status::from_byte(status), std::time::Instant::now());
            let mut value = encode(&session);
            if session.seen() > 0 {
                value.extend(added);
            }
            prop_assert_eq!(read(&value), Some(session.info("node")));
        }

        #[test]
        fn what_is_listed_is_read(
            user in ".{0,300}", groups in prop::collection::vec(".{0,300}", 0..4),
        ) {
            let groups = groups.iter().map(|group| group.as_str().into()).collect();
            let session = PresenceEntry::new(user.as_str().into(), "id", "tcp", groups);
            let (read, groups) = decode_listed(&encode_listed(&session)).unwrap();
            prop_assert_eq!(&*read, user);
            prop_assert_eq!(groups, session.groups());
        }

        #[test]
        fn arbitrary_bytes_do_not_panic(value: Vec<u8>) {
            let _ = read(&value);
            let _ = decode_listed(&value);
            let _ = LeaseId::split(&value);
        }

        #[test]
        fn a_part_of_a_value_is_none(cut in 0_usize..15) {
            let value = encode(&session("tcp", 1, Some("192.0.2.1:1".parse().unwrap())));
            prop_assert_eq!(read(&value[..cut]), None);
        }
    }
}
