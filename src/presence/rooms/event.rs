//! Events for others: a room is occupied or vacated, and users join and leave it.

use std::{sync::Arc, time::SystemTime};

use serde::Serialize;

use super::Room;
use crate::{
    presence::{Announcement, event::key},
    webhooks,
};

/// Something about a room has changed, on all nodes together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomEvent {
    /// The room.
    pub room: Arc<Room>,
    /// The change.
    pub change: RoomChange,
    /// The user who has come, or left.
    pub by: Arc<str>,
    /// Its members afterwards.
    pub members: u64,
    /// When it was found out, by the store's clock: of two events about the same the later one
    /// holds, in whichever order they arrive.
    pub at: SystemTime,
}

/// A change of a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoomChange {
    /// The room was empty, and is not.
    Occupied,
    /// It is empty now.
    Vacated,
    /// This user was not in the room, and is.
    Join(Arc<str>),
    /// This user has left.
    Leave(Arc<str>),
}

impl RoomChange {
    fn kind(&self) -> &'static str {
        match self {
            Self::Occupied => "occupied",
            Self::Vacated => "vacated",
            Self::Join(_) => "join",
            Self::Leave(_) => "leave",
        }
    }

    fn user(&self) -> Option<&Arc<str>> {
        match self {
            Self::Join(user) | Self::Leave(user) => Some(user),
            Self::Occupied | Self::Vacated => None,
        }
    }

    /// Whether the room, or the user, is there afterwards.
    fn comes(&self) -> bool {
        matches!(self, Self::Occupied | Self::Join(_))
    }
}

#[derive(Serialize)]
struct Body<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    vhost: &'a str,
    exchange: &'a str,
    key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    members: u64,
    at: String,
}

impl Announcement for RoomEvent {
    /// A room, and one of its users or none.
    type Subject = (Arc<Room>, Option<Arc<str>>);

    fn subject(&self) -> Self::Subject {
        (Arc::clone(&self.room), self.change.user().map(Arc::clone))
    }

    fn followed_by(self, next: Self, may_know: bool) -> Option<Self> {
        (may_know || self.change.comes() == next.change.comes()).then_some(next)
    }

    /// `room.<exchange>.<key>`.
    fn routing_keys(&self) -> Vec<Box<str>> {
        let name = format!("{}.{}", self.room.exchange, self.room.key);
        vec![key("room.", &name)]
    }

    /// `type` (occupied, vacated, join, leave), `vhost`, `exchange`, `key`, `user` of the last two,
    /// `members`, `at`.
    fn json(&self) -> Vec<u8> {
        let Room {
            vhost,
            exchange,
            key,
        } = &*self.room;
        let body = Body {
            kind: self.change.kind(),
            vhost,
            exchange,
            key,
            user: self.change.user().map(|user| &**user),
            members: self.members,
            at: humantime::format_rfc3339_micros(self.at).to_string(),
        };
        // Texts always become JSON.
        serde_json::to_vec(&body).unwrap_or_default()
    }

    /// Of rooms, not of their members: those may be very many.
    fn for_webhooks(&self) -> Option<webhooks::Event> {
        let is_occupied = match self.change {
            RoomChange::Occupied => true,
            RoomChange::Vacated => false,
            RoomChange::Join(_) | RoomChange::Leave(_) => return None,
        };
        Some(webhooks::Event::Room {
            is_occupied,
            vhost: Arc::clone(&self.room.vhost),
            exchange: self.room.exchange.clone(),
            key: self.room.key.clone(),
            by: Arc::clone(&self.by),
            at: self.at,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::presence::Outbox;

    fn event(change: RoomChange, members: u64) -> RoomEvent {
        let room = Room {
            vhost: "/".into(),
            exchange: "room".into(),
            key: "lobby".into(),
        };
        RoomEvent {
            room: Arc::new(room),
            change,
            by: "a".into(),
            members,
            at: SystemTime::UNIX_EPOCH + Duration::from_micros(1_795_000_000_123_456),
        }
    }

    #[test]
    fn a_body_says_what_happened() {
        let join = event(RoomChange::Join("bob \"x\"".into()), 2);
        let body: serde_json::Value = serde_json::from_slice(&join.json()).unwrap();
        let expected = serde_json::json!({
            "type": "join", "vhost": "/", "exchange": "room", "key": "lobby",
            "user": "bob \"x\"", "members": 2, "at": "2026-11-18T11:06:40.123456Z",
        });
        assert_eq!(body, expected);
        assert_eq!(join.routing_keys(), [Box::<str>::from("room.room.lobby")]);
        let body = event(RoomChange::Vacated, 0).json();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((&body["type"], body.get("user")), (&"vacated".into(), None));
    }

    #[tokio::test]
    async fn what_came_and_went_is_not_told() {
        let outbox = Outbox::new();
        for change in [
            RoomChange::Occupied,
            RoomChange::Join("a".into()),
            RoomChange::Join("b".into()),
            RoomChange::Leave("a".into()),
        ] {
            outbox.push(event(change, 1));
        }
        let told = outbox.next(9).await;
        let changes: Vec<_> = told.into_iter().map(|event| event.change).collect();
        assert_eq!(
            changes,
            [RoomChange::Occupied, RoomChange::Join("b".into())]
        );
    }

    #[tokio::test]
    async fn what_may_be_known_is_told_to_be_over() {
        for (known, next) in [
            (RoomChange::Occupied, RoomChange::Vacated),
            (RoomChange::Vacated, RoomChange::Occupied),
            (RoomChange::Leave("a".into()), RoomChange::Join("a".into())),
            (RoomChange::Join("a".into()), RoomChange::Leave("a".into())),
        ] {
            let outbox = Outbox::new();
            outbox.put_back(vec![event(known, 1)]);
            // Others are told even if the same happens again.
            outbox.push(event(next.clone(), 1));
            let told = outbox.next(9).await;
            assert_eq!(told[0].change, next);
        }
    }
}
