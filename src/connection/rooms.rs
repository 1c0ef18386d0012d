//! Rooms, as a connection has to do with them: its subscriptions enter them, and its client may ask
//! who is in one.

use std::{fmt, future::poll_fn, sync::Arc};

use bytes::Bytes;
use serde::Serialize;
use stomp_grammar::Command;
use stomp_session::Problem;

use super::{
    context::{Context, Identity},
    mapping::Asking,
};
use crate::{
    broker::{Properties, Publish},
    node::Ticket,
    presence::{
        PresenceError,
        rooms::{MemberListing, MemberPage, Occupancy, Occupant, Room, RoomRefusal, Rooms},
    },
};

/// A subscription's stay in its room; it leaves when this is dropped.
pub(super) struct Stay {
    rooms: Arc<dyn Rooms>,
    occupant: Occupant,
    /// It has entered, and the room did not refuse it.
    is_in: bool,
}

impl Stay {
    /// The stay of a subscription that is to be opened; `None`: it is to no room. It begins now if
    /// the room may be full, for then the client gets nothing of it.
    ///
    /// # Errors
    /// [`Problem::RoomFull`], [`Problem::TooManyRooms`].
    pub(super) async fn prepare(
        context: &Context,
        identity: &Identity,
        (exchange, key): (&str, &str),
    ) -> Result<Option<Box<Self>>, Problem> {
        let rooms = context.services.rooms.as_ref();
        let is_room = |rooms: &&Arc<dyn Rooms>| rooms.counts(exchange) && Room::is_key(key);
        let Some(rooms) = rooms.filter(is_room) else {
            return Ok(None);
        };
        let occupant = Occupant {
            room: Arc::new(room(identity, exchange, key)),
            user: Arc::clone(&identity.user.name),
            session: context.guard.number(),
        };
        let is_bounded = rooms.is_bounded(&occupant.room);
        let stay = Some(Box::new(Self {
            rooms: Arc::clone(rooms),
            occupant,
            is_in: false,
        }));
        if is_bounded {
            Self::begin(stay).await
        } else {
            Ok(stay)
        }
    }

    /// The subscription gets its messages from now on: it enters, if it has not.
    ///
    /// # Errors
    /// As [`Stay::prepare`]; seldom, for that has looked whether there is room.
    pub(super) async fn begin(mut stay: Option<Box<Self>>) -> Result<Option<Box<Self>>, Problem> {
        if let Some(stay) = &mut stay
            && !stay.is_in
        {
            let entering = stay.rooms.enter(&stay.occupant);
            // From here on it leaves, if this future is dropped too.
            stay.is_in = true;
            if let Err(refusal) = entering.await {
                stay.is_in = false;
                return Err(refusal.into());
            }
        }
        Ok(stay)
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        if self.is_in {
            self.rooms.leave(&self.occupant);
        }
    }
}

impl fmt::Debug for Stay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stay({})", self.occupant.room)
    }
}

impl From<RoomRefusal> for Problem {
    fn from(refusal: RoomRefusal) -> Self {
        match refusal {
            RoomRefusal::Full(limit) => Self::RoomFull { limit },
            RoomRefusal::TooManyRooms(limit) => Self::TooManyRooms { limit },
        }
    }
}

/// The answer to a client that asks who is in a room.
#[derive(Serialize)]
struct RoomAnswer<'a> {
    exchange: &'a str,
    key: &'a str,
    members: u64,
    sessions: u64,
    list: Vec<MemberAnswer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<Box<str>>,
}

#[derive(Serialize)]
struct MemberAnswer {
    user: Box<str>,
    sessions: u64,
}

/// The answer to a question, as a message to the queue for replies of that name. The client's right
/// to read the room was asked for. `is_first`: its operation has published nothing before.
///
/// # Errors
/// [`Problem::RoomsUnavailable`], [`Problem::InvalidHeader`]: no such cursor;
/// [`Problem::InvalidDestination`]: it is no room; [`Problem::Overloaded`]: it finds no room in memory.
pub(super) async fn answer(
    context: &Context,
    identity: &Identity,
    asking: Asking,
    queue: Box<str>,
    is_first: bool,
) -> Result<Publish, Problem> {
    let Asking {
        exchange,
        key,
        limit,
        cursor,
        correlation_id,
        ..
    } = asking;
    let is_room = |rooms: &&Arc<dyn Rooms>| rooms.counts(&exchange) && Room::is_key(&key);
    let Some(rooms) = context.services.rooms.as_ref().filter(is_room) else {
        let text = format!(
            "'/exchange/{exchange}/{key}' is no room here: [presence] destinations does not name the \
             exchange, or the key is a pattern\n"
        );
        return Err(Problem::InvalidDestination(text.into()));
    };
    let room = [room(identity, &exchange, &key)];
    let count = rooms.occupancy(&room).await.map_err(unavailable)?;
    let [Occupancy { members, sessions }] = *count else {
        return Err(Problem::RoomsUnavailable("the store gave no answer".into()));
    };
    let page = if limit == 0 {
        MemberPage::default()
    } else {
        let listing = MemberListing {
            after: cursor,
            limit,
        };
        let [room] = &room;
        rooms.members(room, &listing).await.map_err(unavailable)?
    };
    let list = page.members.into_iter().map(|member| MemberAnswer {
        user: member.user,
        sessions: member.sessions,
    });
    let answer = RoomAnswer {
        exchange: &exchange,
        key: &key,
        members,
        sessions,
        list: list.collect(),
        next: page.next,
    };
    // Texts and numbers always become JSON.
    let body = serde_json::to_vec(&answer).unwrap_or_default();
    let body = charged(context, body.into(), is_first).await?;
    Ok(Publish {
        exchange: Box::default(),
        routing_key: queue,
        properties: Properties {
            content_type: Some("application/json".into()),
            correlation_id,
            ..Properties::default()
        },
        body,
        mandatory: false,
        lane: context.guard.number(),
        slow: None,
    })
}

/// The answer, as one of the bodies that its client has under way: a question is small, and so does
/// not pay for what it brings about.
///
/// # Errors
/// [`Problem::Overloaded`].
async fn charged(context: &Context, answer: Bytes, is_first: bool) -> Result<Bytes, Problem> {
    let Some(account) = context.account() else {
        return Ok(answer);
    };
    let size = answer.len();
    let mut ticket = Ticket::default();
    let mut own = 0_usize;
    let claiming = poll_fn(|task| {
        // When nothing is left before it, its client has only what waits behind it, or is in open
        // transactions: that is given back by nobody before it has its room. More may have come since.
        if is_first && !context.is_confirming() && account.used() > own {
            ticket = Ticket::default();
            own = account.used().saturating_add(size);
        }
        account.poll_more(own, size, &mut ticket, task)
    });
    let patience = context.settings().operation_timeout;
    let claimed = tokio::time::timeout(patience, claiming).await;
    let claim = claimed.map_err(|_| Problem::Overloaded)?;
    Ok(claim.around(answer))
}

fn room(identity: &Identity, exchange: &str, key: &str) -> Room {
    Room {
        vhost: Arc::clone(identity.vhost.name()),
        exchange: exchange.into(),
        key: key.into(),
    }
}

fn unavailable(error: PresenceError) -> Problem {
    match error {
        PresenceError::Cursor => Problem::InvalidHeader {
            command: Command::Send,
            header: "cursor",
            expected: "`next` of the answer before, as it is",
        },
        error => Problem::RoomsUnavailable(error.to_string().into()),
    }
}
