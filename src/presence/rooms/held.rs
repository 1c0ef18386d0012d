//! The rooms of this node: who is in them by its own sessions.

use std::{
    collections::{BTreeMap, HashMap, hash_map},
    ops::Bound,
    sync::Arc,
};

use super::{MemberListing, MemberPage, Occupancy, Occupant, Room, RoomMember};

/// A user in a room.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::presence) struct MemberKey {
    pub(in crate::presence) room: Arc<Room>,
    pub(in crate::presence) user: Arc<str>,
}

impl From<&Occupant> for MemberKey {
    fn from(occupant: &Occupant) -> Self {
        Self {
            room: Arc::clone(&occupant.room),
            user: Arc::clone(&occupant.user),
        }
    }
}

/// All rooms that have somebody. No room is empty.
#[derive(Debug, Default)]
pub(in crate::presence) struct HeldRooms(HashMap<Arc<Room>, HeldRoom>);

#[derive(Debug, Default)]
struct HeldRoom {
    /// In order, to be listed.
    members: BTreeMap<Arc<str>, HeldMember>,
    sessions: u64,
}

/// A user's sessions in a room.
#[derive(Debug)]
struct HeldMember {
    sessions: OfMember,
    told: Told,
}

/// How much others know of a member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::presence) struct Told {
    /// The shared store has it, or had it before it lost all.
    pub(in crate::presence) is_registered: bool,
    /// There was a place for it.
    pub(in crate::presence) is_admitted: bool,
}

/// Sessions, and how many subscriptions each has. Nearly every member has one; but an account that
/// visitors share may have a hundred thousand.
#[derive(Debug)]
enum OfMember {
    One(u64, u32),
    Many(HashMap<u64, u32>),
}

impl HeldRooms {
    /// A subscription more. `true`: its user was not in the room; `false`: it was.
    pub(in crate::presence) fn enter(&mut self, occupant: &Occupant) -> bool {
        let room = self.0.entry(Arc::clone(&occupant.room)).or_default();
        let session = occupant.session;
        if let Some(member) = room.members.get_mut(&occupant.user) {
            if member.sessions.insert(session) {
                room.sessions = room.sessions.saturating_add(1);
            }
            return false;
        }
        let member = HeldMember {
            sessions: OfMember::One(session, 1),
            told: Told::default(),
        };
        room.members.insert(Arc::clone(&occupant.user), member);
        room.sessions = room.sessions.saturating_add(1);
        true
    }

    /// A subscription less. `None`: nothing of that was known; `Some(true)`: its user has left.
    pub(in crate::presence) fn leave(&mut self, occupant: &Occupant) -> Option<bool> {
        let hash_map::Entry::Occupied(mut entry) = self.0.entry(Arc::clone(&occupant.room)) else {
            return None;
        };
        let room = entry.get_mut();
        let member = room.members.get_mut(&occupant.user)?;
        if member.sessions.remove(occupant.session)? {
            room.sessions = room.sessions.saturating_sub(1);
        }
        let is_last = member.sessions.len() == 0;
        if is_last {
            room.members.remove(&occupant.user);
            if room.members.is_empty() {
                entry.remove();
            }
        }
        Some(is_last)
    }

    /// How many rooms there are.
    pub(in crate::presence) fn len(&self) -> usize {
        self.0.len()
    }

    pub(in crate::presence) fn has(&self, room: &Room) -> bool {
        self.0.contains_key(room)
    }

    pub(in crate::presence) fn occupancy(&self, room: &Room) -> Occupancy {
        let room = self.0.get(room);
        room.map_or_else(Occupancy::default, |room| Occupancy {
            members: room.members.len() as u64,
            sessions: room.sessions,
        })
    }

    /// A member's sessions here; 0: it is none.
    pub(in crate::presence) fn sessions(&self, key: &MemberKey) -> u64 {
        let member = self
            .0
            .get(&key.room)
            .and_then(|room| room.members.get(&key.user));
        member.map_or(0, |member| member.sessions.len())
    }

    /// How much others know of a member; `None`: it is none.
    pub(in crate::presence) fn told(&mut self, key: &MemberKey) -> Option<&mut Told> {
        let room = self.0.get_mut(&key.room)?;
        Some(&mut room.members.get_mut(&key.user)?.told)
    }

    pub(in crate::presence) fn all(&self) -> Vec<MemberKey> {
        let members = self.0.iter().flat_map(|(room, held)| {
            held.members.keys().map(|user| MemberKey {
                room: Arc::clone(room),
                user: Arc::clone(user),
            })
        });
        members.collect()
    }

    /// The members behind the one of that name.
    pub(in crate::presence) fn page(
        &self,
        room: &Room,
        after: Option<&str>,
        listing: &MemberListing,
    ) -> (Vec<RoomMember>, bool) {
        let Some(room) = self.0.get(room) else {
            return (Vec::new(), false);
        };
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut behind = room.members.range::<str, _>((from, Bound::Unbounded));
        let members = behind.by_ref().take(listing.limit);
        let members = members.map(|(user, member)| RoomMember {
            user: (**user).into(),
            sessions: member.sessions.len(),
        });
        let members = members.collect();
        (members, behind.next().is_some())
    }
}

impl OfMember {
    fn len(&self) -> u64 {
        match self {
            Self::One(_, 0) => 0,
            Self::One(..) => 1,
            Self::Many(sessions) => sessions.len() as u64,
        }
    }

    /// `true`: the session is new.
    fn insert(&mut self, session: u64) -> bool {
        match self {
            Self::One(known, subscriptions) if *known == session => {
                *subscriptions = subscriptions.saturating_add(1);
                false
            }
            Self::One(known, subscriptions) => {
                *self = Self::Many([(*known, *subscriptions), (session, 1)].into());
                true
            }
            Self::Many(sessions) => {
                let subscriptions = sessions.entry(session).or_insert(0);
                *subscriptions = subscriptions.saturating_add(1);
                *subscriptions == 1
            }
        }
    }

    /// `None`: it was not there; `true`: it is not any more.
    fn remove(&mut self, session: u64) -> Option<bool> {
        match self {
            Self::One(known, subscriptions) => (*known == session).then(|| {
                *subscriptions = subscriptions.saturating_sub(1);
                *subscriptions == 0
            }),
            Self::Many(sessions) => {
                let subscriptions = sessions.get_mut(&session)?;
                *subscriptions = subscriptions.saturating_sub(1);
                let is_last = *subscriptions == 0;
                if is_last {
                    sessions.remove(&session);
                }
                Some(is_last)
            }
        }
    }
}

/// The place where a page of names goes on: behind this one. Text of letters, digits, `-`, `_`.
pub(in crate::presence) mod place {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

    pub(in crate::presence) fn write(name: &str) -> String {
        URL_SAFE_NO_PAD.encode(name)
    }

    pub(in crate::presence) fn read(text: &str) -> Option<String> {
        String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()
    }
}

impl MemberPage {
    /// A page of members in the order of their names.
    pub(super) fn in_order(members: Vec<RoomMember>, has_more: bool) -> Self {
        let last = members.last().filter(|_| has_more);
        let next = last.map(|member| place::write(&member.user).into());
        Self { members, next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn occupant(user: &str, session: u64) -> Occupant {
        let room = Room {
            vhost: "/".into(),
            exchange: "room".into(),
            key: "lobby".into(),
        };
        Occupant {
            room: Arc::new(room),
            user: user.into(),
            session,
        }
    }

    #[test]
    fn users_sessions_and_subscriptions_are_told_apart() {
        let mut held = HeldRooms::default();
        let [one, two, bob] = [occupant("a", 1), occupant("a", 2), occupant("b", 3)];
        assert!(held.enter(&one) && !held.enter(&one) && !held.enter(&two) && held.enter(&bob));
        let count = |members, sessions| Occupancy { members, sessions };
        assert_eq!(held.occupancy(&one.room), count(2, 3));
        assert_eq!(held.sessions(&MemberKey::from(&one)), 2);
        assert_eq!(held.leave(&occupant("a", 9)), None);
        assert_eq!(held.leave(&one), Some(false));
        assert_eq!(
            held.occupancy(&one.room),
            count(2, 3),
            "one subscription is left"
        );
        assert_eq!(held.leave(&one), Some(false));
        assert_eq!((held.leave(&one), held.leave(&two)), (None, Some(true)));
        assert_eq!(held.occupancy(&one.room), count(1, 1));
        assert_eq!((held.leave(&bob), held.len()), (Some(true), 0));
        assert!(!held.has(&bob.room) && held.all().is_empty());
    }
}
