//! Rooms in Redis: on the leases, the connections and the keepers of presence.

use std::{fmt, sync::Arc, time::Duration};

use deadpool_redis::redis::{Pipeline, Value};
use futures_util::future::{self, BoxFuture, FutureExt};

use super::{Partition, Partitions, Store, entry::partition_of, reader::Spread};
use crate::presence::{
    PresenceError,
    rooms::{
        Entering, MemberListing, MemberPage, Occupancy, Occupant, Room, RoomMember, RoomRules,
        Rooms, place,
    },
};

/// Calls of Redis for one page, whose answers may be empty.
const LOOKS: usize = 16;
/// About so many members are one step of a scan. Always the same, so that a step that is asked for
/// again brings the same.
const STEP: usize = 250;

/// The rooms of all nodes that share a Redis.
pub(super) struct RedisRooms {
    partitions: Partitions,
    rules: RoomRules,
    timeout: Duration,
}

impl RedisRooms {
    pub(super) fn new(partitions: &Partitions, rules: &RoomRules, timeout: Duration) -> Self {
        Self {
            partitions: Arc::clone(partitions),
            rules: rules.clone(),
            timeout,
        }
    }

    /// The partition of a room. There is one.
    fn of(&self, room: &Room) -> Option<&Partition> {
        let number = partition_of(&room.name(), self.partitions.len());
        self.partitions.get(number)
    }
}

impl Rooms for RedisRooms {
    fn counts(&self, exchange: &str) -> bool {
        self.rules.exchanges.contains(exchange)
    }

    fn is_bounded(&self, room: &Room) -> bool {
        let partition = self.of(room);
        partition.is_some_and(|partition| partition.shared.rooms.is_bounded(room))
    }

    fn enter(&self, occupant: &Occupant) -> Entering {
        let Some(partition) = self.of(&occupant.room) else {
            return future::ready(Ok(())).boxed();
        };
        let shared = Arc::clone(&partition.shared);
        let entered = shared.rooms.enter(occupant);
        shared.wake.notify_one();
        let place = match entered {
            Ok(Some(place)) => place,
            Ok(None) => return future::ready(Ok(())).boxed(),
            Err(refusal) => return future::ready(Err(refusal)).boxed(),
        };
        if shared.lease().is_none() {
            return future::ready(shared.rooms.admit_alone(occupant)).boxed();
        }
        let (occupant, timeout) = (occupant.clone(), self.timeout);
        async move {
            match tokio::time::timeout(timeout, place).await {
                Ok(Ok(Ok(()))) => Ok(()),
                Ok(Ok(Err(refusal))) => {
                    shared.rooms.leave(&occupant);
                    Err(refusal)
                }
                Ok(Err(_)) | Err(_) => shared.rooms.admit_alone(&occupant),
            }
        }
        .boxed()
    }

    fn leave(&self, occupant: &Occupant) {
        if let Some(partition) = self.of(&occupant.room)
            && partition.shared.rooms.leave(occupant)
        {
            partition.shared.wake.notify_one();
        }
    }

    fn here(&self, room: &Room) -> Occupancy {
        let partition = self.of(room);
        partition.map_or_else(Occupancy::default, |partition| {
            partition.shared.rooms.here(room)
        })
    }

    fn occupancy<'a>(
        &'a self,
        rooms: &'a [Room],
    ) -> BoxFuture<'a, Result<Vec<Occupancy>, PresenceError>> {
        async move {
            let names: Vec<String> = rooms.iter().map(Room::name).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let spread = Spread::new(&names, self.partitions.len());
            let asked = spread.parts().filter_map(|(number, names)| {
                let partition = self.partitions.get(number)?;
                Some(occupancy(&partition.store, names))
            });
            let answers = future::try_join_all(asked).await?;
            Ok(spread.gather(answers))
        }
        .boxed()
    }

    fn members<'a>(
        &'a self,
        room: &'a Room,
        listing: &'a MemberListing,
    ) -> BoxFuture<'a, Result<MemberPage, PresenceError>> {
        async move {
            match self.of(room) {
                Some(partition) => members(&partition.store, &room.name(), listing).await,
                None => Ok(MemberPage::default()),
            }
        }
        .boxed()
    }
}

async fn occupancy(store: &Store, rooms: &[&str]) -> Result<Vec<Occupancy>, PresenceError> {
    let keys = &store.keys;
    let mut pipe = Pipeline::new();
    for room in rooms {
        pipe.hlen(keys.room(room));
    }
    pipe.cmd("HMGET").arg(keys.rooms()).arg(rooms);
    let mut replies: Vec<Value> = store.ask(&pipe).await?;
    let sessions: Vec<Option<u64>> = read(replies.pop())?;
    let members = replies.into_iter().map(|reply| read::<u64>(Some(reply)));
    let found = members.zip(sessions).map(|(members, sessions)| {
        Ok(Occupancy {
            members: members?,
            sessions: sessions.unwrap_or(0),
        })
    });
    found.collect()
}

/// The place of a page in a scan of Redis: a step of the scan, and the last name of it that was
/// shown, for a step may bring more than fits on a page.
#[derive(Debug, Default, PartialEq, Eq)]
struct Cursor {
    scan: u64,
    after: Option<String>,
}

impl Cursor {
    fn write(&self) -> Box<str> {
        match &self.after {
            Some(after) => format!("{}.{}", self.scan, place::write(after)).into(),
            None => self.scan.to_string().into(),
        }
    }

    fn read(text: &str) -> Option<Self> {
        let (scan, after) = match text.split_once('.') {
            Some((scan, after)) => (scan, Some(place::read(after)?)),
            None => (text, None),
        };
        let scan = scan.parse().ok()?;
        Some(Self { scan, after })
    }
}

async fn members(
    store: &Store,
    room: &str,
    listing: &MemberListing,
) -> Result<MemberPage, PresenceError> {
    let mut cursor = match &listing.after {
        Some(after) => Cursor::read(after).ok_or(PresenceError::Cursor)?,
        None => Cursor::default(),
    };
    let mut found = Vec::new();
    for _ in 0..LOOKS {
        let mut pipe = Pipeline::new();
        let wanted = listing.limit.saturating_sub(found.len()).max(1);
        let scan = pipe.cmd("HSCAN").arg(store.keys.room(room));
        scan.arg(cursor.scan).arg("COUNT").arg(STEP);
        let ((next, fields),): ((u64, Vec<(String, u64)>),) = store.ask(&pipe).await?;
        let mut step: Vec<RoomMember> = fields
            .into_iter()
            .filter(|(user, _)| cursor.after.as_ref().is_none_or(|after| user > after))
            .map(|(user, sessions)| RoomMember {
                user: user.into(),
                sessions,
            })
            .collect();
        step.sort_unstable_by(|a, b| a.user.cmp(&b.user));
        let has_more = step.len() > wanted;
        step.truncate(wanted);
        if has_more {
            cursor.after = step.last().map(|member| member.user.to_string());
            found.extend(step);
            let next = Some(cursor.write());
            return Ok(MemberPage {
                members: found,
                next,
            });
        }
        found.extend(step);
        if next == 0 {
            return Ok(MemberPage {
                members: found,
                next: None,
            });
        }
        cursor = Cursor {
            scan: next,
            after: None,
        };
        if found.len() >= listing.limit {
            break;
        }
    }
    let next = Some(cursor.write());
    Ok(MemberPage {
        members: found,
        next,
    })
}

fn read<T: deadpool_redis::redis::FromRedisValue>(
    reply: Option<Value>,
) -> Result<T, PresenceError> {
    T::from_redis_value(reply.unwrap_or(Value::Nil)).map_err(super::connect::unavailable)
}

impl fmt::Debug for RedisRooms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the connections: they know the password.
        f.debug_struct("RedisRooms")
            .field("rules", &self.rules)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_and_others_are_none() {
        for after in [None, Some(String::new()), Some("é.1".to_owned())] {
            let cursor = Cursor { scan: 7, after };
            assert_eq!(Cursor::read(&cursor.write()), Some(cursor));
        }
        for text in ["", "x", "1.é", "-1", "1.a.b"] {
            assert_eq!(Cursor::read(text), None, "{text}");
        }
    }
}
