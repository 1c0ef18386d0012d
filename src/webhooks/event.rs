//! What there is to tell, and its words.

use std::{net::SocketAddr, sync::Arc, time::SystemTime};

use serde::Serialize;

use super::Kind;

/// Something that happened. A part that knows of it hands it to [`super::Webhooks::tell`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A session has logged in.
    Connect(SessionFacts),
    /// A session that was logged in has ended.
    Disconnect {
        /// The session.
        session: SessionFacts,
        /// Why, in words.
        reason: Box<str>,
    },
    /// The status that others see of a user has changed.
    Presence {
        /// `join`, `leave` or `status`.
        change: &'static str,
        /// The user.
        user: Arc<str>,
        /// The status that others see now.
        status: &'static str,
        /// The status that they saw before.
        previous: &'static str,
        /// When it was found out, by the store's clock.
        at: SystemTime,
    },
    /// The first member is in a room, or the last one has left.
    Room {
        /// The first is there.
        is_occupied: bool,
        /// The virtual host.
        vhost: Arc<str>,
        /// The exchange.
        exchange: Box<str>,
        /// The room's key.
        key: Box<str>,
        /// The user who was the first, or the last. Receivers are not told: others may be in the
        /// room by then, or nobody.
        by: Arc<str>,
        /// When it was found out, by the store's clock.
        at: SystemTime,
    },
    /// A message for a user to whose key nobody is subscribed was handed on.
    Offline {
        /// The user.
        user: Arc<str>,
        /// The exchange that it was published to.
        exchange: Box<str>,
        /// Its routing key.
        key: Box<str>,
        /// Why nobody has it: `nobody`, `left` or `node`.
        reason: &'static str,
        /// The property `message-id`.
        message_id: Option<Box<str>>,
    },
}

/// Whose part of a queue an event takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Of users that are here.
    Users,
    /// Of rooms that this user enters and leaves. Clients make up as many as they like, each a subject.
    Rooms(Arc<str>),
    /// Of users that are offline. Clients that may send to them make up names, each a subject.
    Offline,
}

/// A session, for the application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionFacts {
    /// The user.
    pub user: Arc<str>,
    /// The session's id, by which the HTTP API knows it.
    pub session: Box<str>,
    /// The virtual host.
    pub vhost: Arc<str>,
    /// The transport.
    pub transport: &'static str,
    /// The client's address.
    pub address: SocketAddr,
    /// The id of its device, if it named one.
    pub device_id: Option<Box<str>>,
}

/// A body; `type` says what the rest is about.
#[derive(Serialize)]
struct Body<'a> {
    id: &'a str,
    #[serde(rename = "type")]
    name: &'static str,
    at: String,
    node: &'a str,
    #[serde(flatten)]
    details: Details<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Details<'a> {
    Session {
        user: &'a str,
        session: &'a str,
        vhost: &'a str,
        transport: &'static str,
        address: SocketAddr,
        #[serde(skip_serializing_if = "Option::is_none")]
        device_id: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<&'a str>,
    },
    Presence {
        user: &'a str,
        status: &'static str,
        previous: &'static str,
    },
    Room {
        vhost: &'a str,
        exchange: &'a str,
        key: &'a str,
    },
    Offline {
        user: &'a str,
        exchange: &'a str,
        key: &'a str,
        reason: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        message_id: Option<&'a str>,
    },
}

impl Event {
    /// The word by which `[webhooks] events` chooses it.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Connect(_) => Kind::Connect,
            Self::Disconnect { .. } => Kind::Disconnect,
            Self::Presence { .. } => Kind::Presence,
            Self::Room {
                is_occupied: true, ..
            } => Kind::Occupied,
            Self::Room { .. } => Kind::Vacated,
            Self::Offline { .. } => Kind::Offline,
        }
    }

    /// `type` of its body.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Connect(_) => "connect",
            Self::Disconnect { .. } => "disconnect",
            Self::Presence { change, .. } => change,
            Self::Room {
                is_occupied: true, ..
            } => "occupied",
            Self::Room { .. } => "vacated",
            Self::Offline { .. } => "offline",
        }
    }

    /// Whose part of a queue it takes.
    pub(super) fn part(&self) -> Part {
        match self {
            Self::Connect(_) | Self::Disconnect { .. } | Self::Presence { .. } => Part::Users,
            Self::Room { by, .. } => Part::Rooms(Arc::clone(by)),
            Self::Offline { .. } => Part::Offline,
        }
    }

    /// Events of one subject are told in order: the user, or the room of its virtual host.
    #[must_use]
    pub fn subject(&self) -> Arc<str> {
        match self {
            Self::Connect(session) | Self::Disconnect { session, .. } => Arc::clone(&session.user),
            Self::Presence { user, .. } | Self::Offline { user, .. } => Arc::clone(user),
            // NUL is in no name, so that none of them reads like another one, or like a user.
            Self::Room {
                vhost,
                exchange,
                key,
                ..
            } => format!("\0{vhost}\0{exchange}\0{key}").into(),
        }
    }

    /// The body, in JSON.
    pub(super) fn body(&self, id: &str, node: &str, now: SystemTime) -> Vec<u8> {
        let (details, at) = match self {
            Self::Connect(session) => (session.details(None), now),
            Self::Disconnect { session, reason } => (session.details(Some(reason)), now),
            Self::Presence {
                user,
                status,
                previous,
                at,
                ..
            } => (
                Details::Presence {
                    user,
                    status,
                    previous,
                },
                *at,
            ),
            Self::Room {
                vhost,
                exchange,
                key,
                at,
                ..
            } => (
                Details::Room {
                    vhost,
                    exchange,
                    key,
                },
                *at,
            ),
            Self::Offline {
                user,
                exchange,
                key,
                reason,
                message_id,
            } => (
                Details::Offline {
                    user,
                    exchange,
                    key,
                    reason,
                    message_id: message_id.as_deref(),
                },
                now,
            ),
        };
        let body = Body {
            id,
            name: self.name(),
            at: humantime::format_rfc3339_micros(at).to_string(),
            node,
            details,
        };
        // Texts always become JSON.
        serde_json::to_vec(&body).unwrap_or_default()
    }
}

impl SessionFacts {
    fn details<'a>(&'a self, reason: Option<&'a str>) -> Details<'a> {
        Details::Session {
            user: &self.user,
            session: &self.session,
            vhost: &self.vhost,
            transport: self.transport,
            address: self.address,
            device_id: self.device_id.as_deref(),
            reason,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;

    fn body(event: &Event) -> Value {
        let at = SystemTime::UNIX_EPOCH + Duration::from_micros(1_795_000_000_123_456);
        serde_json::from_slice(&event.body("node.7", "node", at)).unwrap()
    }

    #[test]
    fn bodies_say_what_happened() {
        let session = SessionFacts {
            user: "bob \"x\"".into(),
            session: "s1".into(),
            vhost: "/".into(),
            transport: "tcp",
            address: "192.0.2.7:4711".parse().unwrap(),
            device_id: None,
        };
        let connected = json!({
            "id": "node.7",
            "type": "connect",
            "at": "2026-11-18T11:06:40.123456Z",
            "node": "node",
            "user": "bob \"x\"",
            "session": "s1",
            "vhost": "/",
            "transport": "tcp",
            "address": "192.0.2.7:4711",
        });
        assert_eq!(body(&Event::Connect(session.clone())), connected);
        let gone = Event::Disconnect {
            session: SessionFacts {
                device_id: Some("phone".into()),
                ..session
            },
            reason: "client disconnected".into(),
        };
        let gone = body(&gone);
        assert_eq!(gone["type"], "disconnect");
        assert_eq!(gone["reason"], "client disconnected");
        assert_eq!(gone["device_id"], "phone");
        let joined = Event::Presence {
            change: "join",
            user: "bob".into(),
            status: "away",
            previous: "offline",
            at: SystemTime::UNIX_EPOCH,
        };
        assert_eq!(
            body(&joined),
            json!({
                "id": "node.7",
                "type": "join",
                "at": "1970-01-01T00:00:00.000000Z",
                "node": "node",
                "user": "bob",
                "status": "away",
                "previous": "offline",
            })
        );
    }

    #[test]
    fn rooms_of_one_name_are_subjects_of_their_own() {
        let room = |vhost: &str, exchange: &str, key: &str| Event::Room {
            is_occupied: true,
            vhost: vhost.into(),
            exchange: exchange.into(),
            key: key.into(),
            by: "bob".into(),
            at: SystemTime::UNIX_EPOCH,
        };
        let rooms = [
            room("/", "chat", "a/b"),
            room("other", "chat", "a/b"),
            room("/", "chat/a", "b"),
        ];
        let subjects = rooms.iter().map(Event::subject);
        let different: std::collections::HashSet<_> = subjects.collect();
        assert_eq!(different.len(), rooms.len());
        let user = Event::Presence {
            change: "join",
            user: "chat/a/b".into(),
            status: "online",
            previous: "offline",
            at: SystemTime::UNIX_EPOCH,
        };
        assert!(!different.contains(&user.subject()));
        assert_eq!(rooms[0].part(), Part::Rooms("bob".into()));
        assert_eq!(user.part(), Part::Users);
        let offline = Event::Offline {
            user: "bob".into(),
            exchange: "feed".into(),
            key: "user_bob".into(),
            reason: "nobody",
            message_id: None,
        };
        assert_eq!(offline.part(), Part::Offline);
    }
}
