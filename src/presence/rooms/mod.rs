//! Rooms: who is subscribed to a key, on all nodes.
//!
//! [`Rooms`] keeps it, for the exchanges that ask for it (`[presence] destinations`). As presence it
//! has two implementations that hold the same contract tests: in memory, for a single node, and in
//! Redis, on the leases and connections that presence has there.

mod event;
mod held;
mod memory;

use std::{collections::BTreeSet, fmt, sync::Arc};

use futures_util::future::BoxFuture;
use thiserror::Error;

pub use event::{RoomChange, RoomEvent};
pub use memory::MemoryRooms;

use super::{Outbox, PresenceError};
pub(super) use held::{HeldRooms, MemberKey, place};

/// The rooms of all nodes: who is subscribed to which key.
///
/// A room is a key of an exchange ([`Room`]); it is there for as long as somebody is in it. Its
/// *sessions* are the sessions that are subscribed to it, each once, however many of its
/// subscriptions are; its *members* are their users, each once.
///
/// [`Rooms::enter`] and [`Rooms::leave`] never wait and never fail: they take effect in the
/// background, in the order of the calls, and soon. While the shared store is away they are kept,
/// and the node registers all it holds when the store is back. The sessions of a node that was
/// killed are gone once its lease is over and another node has cleared up: within a lease and a
/// half.
///
/// What is counted and listed is of this moment. What others are told is debounced: an event
/// ([`RoomEvent`]) says at once that a user joined, and `presence.debounce` after its last session
/// left that it left, if it did not come back meanwhile. A room is told to be vacated together with
/// the last of its members.
pub trait Rooms: Send + Sync + 'static {
    /// Whether subscriptions to this exchange are counted; answers at once. In any virtual host.
    fn counts(&self, exchange: &str) -> bool;

    /// Whether there is a bound now that may keep a user out of the room, so that it has to enter
    /// before it is served; answers at once.
    fn is_bounded(&self, room: &Room) -> bool;

    /// A session has subscribed to a room: it is in it until [`Rooms::leave`], whether or not the
    /// answer is awaited. A session that has several subscriptions to a room enters once for each,
    /// and leaves once for each.
    ///
    /// The answer waits for the store only if `presence.max_members` is set and the user is new
    /// here; otherwise it is there at once. Where the store does not answer in time, this node's own
    /// members are what is counted.
    ///
    /// # Errors
    /// Of the answer: [`RoomRefusal`]. The session is not in the room then, and need not leave.
    fn enter(&self, occupant: &Occupant) -> Entering;

    /// A subscription that entered has ended. Without having entered, does nothing.
    fn leave(&self, occupant: &Occupant);

    /// How many of this node are in the room; answers at once.
    fn here(&self, room: &Room) -> Occupancy;

    /// How many are in each of these rooms, on all nodes, in the order asked: in one round trip, and
    /// in a time that does not depend on how many there are. An unknown room is empty.
    ///
    /// # Errors
    /// [`PresenceError::Unavailable`]: the store did not answer within a second or so.
    fn occupancy<'a>(
        &'a self,
        rooms: &'a [Room],
    ) -> BoxFuture<'a, Result<Vec<Occupancy>, PresenceError>>;

    /// A page of a room's members, in an order of the store's own. A member who is there from the
    /// first page to the last is on at least one page, unless nine tenths of the others leave
    /// meanwhile.
    ///
    /// # Errors
    /// As [`Rooms::occupancy`]; [`PresenceError::Cursor`].
    fn members<'a>(
        &'a self,
        room: &'a Room,
        page: &'a MemberListing,
    ) -> BoxFuture<'a, Result<MemberPage, PresenceError>>;
}

/// The answer to [`Rooms::enter`].
pub type Entering = BoxFuture<'static, Result<(), RoomRefusal>>;

/// A room: a key of an exchange.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Room {
    /// The virtual host.
    pub vhost: Arc<str>,
    /// The exchange.
    pub exchange: Box<str>,
    /// The routing key, as subscribers write it: a pattern with `*` or `#` is no room.
    pub key: Box<str>,
}

impl Room {
    /// Whether the key can be a room's: a subscription to a pattern is in no room.
    #[must_use]
    pub fn is_key(pattern: &str) -> bool {
        !pattern.split('.').any(|word| matches!(word, "*" | "#"))
    }

    /// One text for all three names: no other room has the same.
    pub(super) fn name(&self) -> String {
        let Self {
            vhost,
            exchange,
            key,
        } = self;
        format!("{}:{}:{vhost}{exchange}{key}", vhost.len(), exchange.len())
    }

    /// The inverse of [`Room::name`].
    pub(super) fn parse(name: &str) -> Option<Self> {
        let (vhost, rest) = name.split_once(':')?;
        let (exchange, rest) = rest.split_once(':')?;
        let (vhost, rest) = rest.split_at_checked(vhost.parse().ok()?)?;
        let (exchange, key) = rest.split_at_checked(exchange.parse().ok()?)?;
        Some(Self {
            vhost: vhost.into(),
            exchange: exchange.into(),
            key: key.into(),
        })
    }
}

impl fmt::Display for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/exchange/{}/{}", self.exchange, self.key)
    }
}

/// A session in a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occupant {
    /// The room.
    pub room: Arc<Room>,
    /// The session's user.
    pub user: Arc<str>,
    /// The session: a number that no other of this node has.
    pub session: u64,
}

/// How many are in a room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Occupancy {
    /// Users, each once.
    pub members: u64,
    /// Sessions.
    pub sessions: u64,
}

/// A user who is in a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomMember {
    /// The user's name.
    pub user: Box<str>,
    /// Its sessions in the room, on all nodes.
    pub sessions: u64,
}

/// Which members to list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberListing {
    /// The [`MemberPage::next`] of the page before; `None`: begins at the first.
    pub after: Option<Box<str>>,
    /// So many at most; there may be fewer although more follow.
    pub limit: usize,
}

/// A page of members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberPage {
    /// The members.
    pub members: Vec<RoomMember>,
    /// The place where the next page begins; `None` on the last page.
    pub next: Option<Box<str>>,
}

/// A session may not be in a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RoomRefusal {
    /// The room has as many members as it may.
    #[error("the room has {0} members, as many as it may")]
    Full(u64),
    /// This node has as many rooms as it may.
    #[error("this node has {0} rooms, as many as it may")]
    TooManyRooms(usize),
}

/// The rules of a node's rooms.
#[derive(Clone, Debug)]
pub struct RoomRules {
    /// The exchanges whose keys are rooms.
    pub exchanges: BTreeSet<Box<str>>,
    /// The members of a room at most; 0: any number.
    pub max_members: u64,
    /// The rooms that this node holds at most.
    pub max_rooms: usize,
    /// The outbox of events; `None`: they are off.
    pub events: Option<Arc<Outbox<RoomEvent>>>,
}

impl RoomRules {
    /// [`Rooms::is_bounded`], on a node with these rooms.
    pub(super) fn is_bounded(&self, room: &Room, held: &HeldRooms) -> bool {
        self.max_members > 0 || (!held.has(room) && held.len() >= self.max_rooms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_room_s() {
        let room = |vhost: &str, exchange: &str, key: &str| Room {
            vhost: vhost.into(),
            exchange: exchange.into(),
            key: key.into(),
        };
        for room in [
            room("/", "room", "lobby"),
            room("", "", ""),
            room("é:1", "a\u{0}b", "1:2:3"),
        ] {
            assert_eq!(Room::parse(&room.name()), Some(room));
        }
        assert_ne!(room("a", "bc", "d").name(), room("ab", "c", "d").name());
        for text in ["", "1", "1:2", "x:1:ab", "9:1:ab", "1:9:ab", "1:1:éa"] {
            assert_eq!(Room::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_pattern_is_no_room() {
        for (key, is_key) in [
            ("lobby", true),
            ("a.b#", true),
            ("", true),
            ("*", false),
            ("a.#", false),
            ("a.*.b", false),
        ] {
            assert_eq!(Room::is_key(key), is_key, "{key}");
        }
    }
}
