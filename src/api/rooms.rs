//! Rooms: who is subscribed to a key, on all nodes.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use warp::http::StatusCode;

use super::{
    Api,
    answer::{Answer, Refusal, Reply, Request},
    presence::check_name,
};
use crate::presence::{
    PresenceError,
    rooms::{self, MemberListing, MemberPage, Occupancy},
};

/// Members on one page.
const MAX_PAGE: usize = 1_000;

/// Rooms in one call.
const MAX_ROOMS: usize = 1_000;

/// A room: a key of an exchange that `presence.destinations` names.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Room {
    /// The virtual host.
    pub vhost: String,
    /// The exchange.
    pub exchange: String,
    /// The routing key.
    pub key: String,
    /// The users who are subscribed, on all nodes, each once.
    pub members: u64,
    /// Their sessions that are subscribed, each once.
    pub sessions: u64,
    /// A page of the members, in an order of the store's own.
    pub list: Vec<RoomMember>,
    /// `cursor` of the next page; without it, this is the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A user who is in a room.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RoomMember {
    /// The name.
    pub user: String,
    /// The user's sessions that are subscribed to the room's key.
    pub sessions: u64,
}

/// Which members to list.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RoomQuery {
    /// The virtual host; without it, `broker.default_vhost`.
    #[param(min_length = 1, max_length = 255)]
    vhost: Option<String>,
    /// So many members at most; there may be fewer although more follow. 0: only how many there are.
    /// 100 if it is not given.
    #[param(maximum = 1000)]
    limit: Option<usize>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// The rooms to count.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "exchange": "room", "keys": ["lobby", "kitchen"] }))]
pub struct RoomsRequest {
    /// The virtual host; without it, `broker.default_vhost`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 255)]
    pub vhost: Option<String>,
    /// The exchange.
    #[schema(min_length = 1, max_length = 255)]
    pub exchange: String,
    /// The keys, 1,000 at most, of 255 bytes at most.
    #[schema(max_items = 1000)]
    pub keys: Vec<String>,
}

/// Several rooms.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Rooms {
    /// In the order in which they were asked for.
    pub rooms: Vec<RoomCount>,
}

/// A room, in short.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RoomCount {
    /// The routing key.
    pub key: String,
    /// The users who are subscribed, on all nodes, each once.
    pub members: u64,
    /// Their sessions that are subscribed, each once.
    pub sessions: u64,
}

/// A room: how many are in it, and a page of its members. An unknown room is empty.
#[utoipa::path(
    get, path = "/api/v1/rooms/{exchange}/{key}", tag = "rooms",
    params(
        ("exchange" = String, Path, description = "The exchange, percent-encoded", min_length = 1, max_length = 255),
        ("key" = String, Path, description = "The routing key, percent-encoded", min_length = 1, max_length = 255),
        RoomQuery,
    ),
    responses(
        (status = 200, description = "The room", body = Room),
        (status = 404, description = "`presence.destinations` does not name the exchange", body = super::ErrorBody),
        (status = 409, description = "`presence.destinations` is empty", body = super::ErrorBody),
    ),
    security(("token" = ["read"])),
)]
pub(super) async fn room(api: &Api, request: Request) -> Answer {
    let RoomQuery {
        vhost,
        limit,
        cursor,
    } = request.query()?;
    let limit = limit.unwrap_or(100);
    if limit > MAX_PAGE {
        let error = format!("is a number from 0 to {MAX_PAGE}");
        return Err(Refusal::field("limit", error));
    }
    let [exchange, key] = &*request.names else {
        return Err(Refusal::new(StatusCode::NOT_FOUND, "there is no such path"));
    };
    let store = store(api, exchange)?;
    let room = [named(api, vhost, exchange, key)?];
    let count = store.occupancy(&room).await?;
    let [Occupancy { members, sessions }] = *count else {
        return Err(PresenceError::Unavailable("no answer".into()).into());
    };
    let page = if limit == 0 {
        MemberPage::default()
    } else {
        let after = cursor.map(Into::into);
        let [room] = &room;
        store.members(room, &MemberListing { after, limit }).await?
    };
    let [
        rooms::Room {
            vhost,
            exchange,
            key,
        },
    ] = room;
    let list = page.members.into_iter().map(|member| RoomMember {
        user: member.user.into(),
        sessions: member.sessions,
    });
    Reply::ok(&Room {
        vhost: (*vhost).to_owned(),
        exchange: exchange.into(),
        key: key.into(),
        members,
        sessions,
        list: list.collect(),
        next: page.next.map(Into::into),
    })
}

/// How many are in each of many rooms, in one call.
#[utoipa::path(
    post, path = "/api/v1/rooms", tag = "rooms", request_body = RoomsRequest,
    responses(
        (status = 200, description = "The rooms", body = Rooms),
        (status = 404, description = "`presence.destinations` does not name the exchange", body = super::ErrorBody),
        (status = 409, description = "`presence.destinations` is empty", body = super::ErrorBody),
    ),
    security(("token" = ["read"])),
)]
pub(super) async fn rooms(api: &Api, request: Request) -> Answer {
    request.no_query()?;
    let RoomsRequest {
        vhost,
        exchange,
        keys,
    } = request.json()?;
    if keys.len() > MAX_ROOMS {
        let error = format!(
            "has {} keys; at most {MAX_ROOMS} go into one call",
            keys.len()
        );
        return Err(Refusal::field("keys", error));
    }
    check_name("exchange", &exchange)?;
    let store = store(api, &exchange)?;
    let rooms = keys.iter().map(|key| {
        let vhost = vhost.clone();
        named(api, vhost, &exchange, key)
    });
    let rooms: Vec<_> = rooms.collect::<Result<_, _>>()?;
    let counts = store.occupancy(&rooms).await?;
    let rooms = keys.into_iter().zip(counts).map(|(key, count)| RoomCount {
        key,
        members: count.members,
        sessions: count.sessions,
    });
    Reply::ok(&Rooms {
        rooms: rooms.collect(),
    })
}

/// The store that knows the rooms of this exchange.
fn store<'a>(api: &'a Api, exchange: &str) -> Result<&'a dyn rooms::Rooms, Refusal> {
    let Some(store) = api.services.rooms.as_deref() else {
        let error = "no exchange has rooms; name it in [presence] destinations";
        return Err(Refusal::new(StatusCode::CONFLICT, error));
    };
    if !store.counts(exchange) {
        let error = format!("{exchange:?} has no rooms: [presence] destinations does not name it");
        return Err(Refusal::new(StatusCode::NOT_FOUND, error).about("exchange"));
    }
    Ok(store)
}

fn named(
    api: &Api,
    vhost: Option<String>,
    exchange: &str,
    key: &str,
) -> Result<rooms::Room, Refusal> {
    let vhost: Arc<str> = match vhost {
        Some(name) => {
            check_name("vhost", &name)?;
            name.into()
        }
        None => Arc::clone(&api.default_vhost),
    };
    if key.len() > super::presence::MAX_NAME {
        return Err(Refusal::field("key", "has more than 255 bytes"));
    }
    if !rooms::Room::is_key(key) {
        let error = format!("{key:?} is a pattern, and no room");
        return Err(Refusal::field("key", error));
    }
    Ok(rooms::Room {
        vhost,
        exchange: exchange.into(),
        key: key.into(),
    })
}
