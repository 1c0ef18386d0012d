//! Presence: users, groups, sessions and nodes.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use warp::http::StatusCode;

use super::{
    Api,
    answer::{Answer, Refusal, Reply, Request},
    node::time,
};
use crate::presence::{self, Listing, Presence, PresenceError};

/// Users in one call.
pub const MAX_USERS: usize = 1_000;

/// Sessions on one page.
const MAX_PAGE: usize = 1_000;

/// Pages of the store that one search looks at.
const MAX_PAGES: usize = 50;

/// The longest name, in bytes.
pub(super) const MAX_NAME: usize = 255;

/// How available a user, or a session, is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Not here.
    Offline,
    /// Here, but not looking.
    Away,
    /// Here.
    Online,
    /// Here, and not to be disturbed.
    Busy,
    /// Here, and others see offline.
    Invisible,
}

/// A user.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct User {
    /// The name.
    pub user: String,
    /// The status of all sessions together; also `invisible`, which others see as offline.
    pub status: Status,
    /// The sessions on all nodes, the oldest first: 1,000 at most. `/api/v1/sessions?user=NAME` pages
    /// through more.
    pub sessions: Vec<Session>,
    /// How many sessions there are.
    #[serde(default)]
    pub count: u64,
}

/// A session: a client that has logged in.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Session {
    /// Its id: the header `session` of its CONNECTED.
    pub session: String,
    /// Its user.
    pub user: String,
    /// The status that it set.
    pub status: Status,
    /// The node that holds it.
    pub node: String,
    /// `websocket`, `tcp` or a SockJS transport.
    pub transport: String,
    /// The client's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote: Option<String>,
    /// The kind of device that the client named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_type: Option<String>,
    /// Which device it names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_id: Option<String>,
    /// When it logged in.
    #[schema(format = DateTime)]
    pub since: String,
    /// When it last said something about its status; the login counts.
    #[schema(format = DateTime)]
    pub last_seen: String,
}

/// The users to look up.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "users": ["alice", "bob"] }))]
pub struct UsersRequest {
    /// Their names, 1,000 at most, of 1 to 255 bytes each.
    #[schema(max_items = 1000)]
    pub users: Vec<String>,
}

/// Several users.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Users {
    /// In the order in which they were asked for.
    pub users: Vec<UserStatus>,
}

/// A user, in short.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct UserStatus {
    /// The name.
    pub user: String,
    /// The status of all sessions together.
    pub status: Status,
    /// How many sessions there are, on all nodes.
    pub sessions: u64,
}

/// A group.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Group {
    /// Its name.
    pub group: String,
    /// The members that others may see as online, by name.
    pub online: Vec<Member>,
}

/// A member of a group who is online.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Member {
    /// The name.
    pub user: String,
    /// Neither offline nor invisible.
    pub status: Status,
}

/// Which sessions to list.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct SessionsQuery {
    /// Those of this user: all of them, on one page. A user with more than 1,000 has several pages.
    #[param(max_length = 255)]
    user: Option<String>,
    /// Those of the node of this name.
    #[param(max_length = 255)]
    node: Option<String>,
    /// Those with this text in their user, address, device or id; capitals and small letters are
    /// one. A page may be empty although more follow: a call looks at 50,000 sessions or so.
    #[param(min_length = 1, max_length = 255)]
    search: Option<String>,
    /// So many at most; there may be fewer although more follow. 100 if it is not given.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// A page of sessions.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Sessions {
    /// The sessions.
    pub sessions: Vec<Session>,
    /// `cursor` of the next page; without it, this is the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// How many are here, on all nodes.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Counts {
    /// Sessions.
    pub sessions: u64,
    /// Users; a user who left counts for `presence.debounce` longer.
    pub users: u64,
}

/// The nodes that live.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Nodes {
    /// The nodes, sorted by name.
    pub nodes: Vec<NodeInfo>,
}

/// A node that lives.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct NodeInfo {
    /// Its name.
    pub node: String,
    /// When it started.
    #[schema(format = DateTime)]
    pub started: String,
    /// Sessions that it holds.
    pub sessions: u64,
}

/// A user, with all sessions. An unknown user is offline.
#[utoipa::path(
    get, path = "/api/v1/users/{name}", tag = "presence",
    params(("name" = String, Path, description = "The user's name, percent-encoded", min_length = 1, max_length = 255)),
    responses((status = 200, description = "The user", body = User)),
    security(("token" = ["read"])),
)]
pub(super) async fn user(api: &Api, request: Request) -> Answer {
    request.no_query()?;
    let name = request.name();
    let found = presence(api)?.user(name).await?;
    Reply::ok(&User {
        user: name.to_owned(),
        status: found.status.into(),
        sessions: found.sessions.into_iter().map(Session::from).collect(),
        count: found.count,
    })
}

/// Many users in one call.
#[utoipa::path(
    post, path = "/api/v1/presence", tag = "presence", request_body = UsersRequest,
    responses((status = 200, description = "The users", body = Users)),
    security(("token" = ["read"])),
)]
pub(super) async fn users(api: &Api, request: Request) -> Answer {
    request.no_query()?;
    let UsersRequest { users } = request.json()?;
    if users.len() > MAX_USERS {
        let error = format!(
            "has {} names; at most {MAX_USERS} go into one call",
            users.len()
        );
        return Err(Refusal::field("users", error));
    }
    for (index, name) in users.iter().enumerate() {
        check_name(&format!("users[{index}]"), name)?;
    }
    let names: Vec<&str> = users.iter().map(String::as_str).collect();
    let found = presence(api)?.count_users(&names).await?;
    let users = users.into_iter().zip(found);
    Reply::ok(&Users {
        users: users
            .map(|(user, found)| UserStatus {
                user,
                status: found.status.into(),
                sessions: found.sessions,
            })
            .collect(),
    })
}

/// The members of a group who are online. A group without an online member is unknown, and empty.
#[utoipa::path(
    get, path = "/api/v1/groups/{name}", tag = "presence",
    params(("name" = String, Path, description = "The group's name, percent-encoded", min_length = 1, max_length = 255)),
    responses((status = 200, description = "The group", body = Group)),
    security(("token" = ["read"])),
)]
pub(super) async fn group(api: &Api, request: Request) -> Answer {
    request.no_query()?;
    let members = presence(api)?.group(request.name()).await?.into_iter();
    let online = members.map(|member| Member {
        user: member.user.to_string(),
        status: member.status.into(),
    });
    Reply::ok(&Group {
        group: request.name().to_owned(),
        online: online.collect(),
    })
}

/// Sessions of all nodes, page by page. A session that is here from the first page to the last is
/// on exactly one page.
#[utoipa::path(
    get, path = "/api/v1/sessions", tag = "sessions", params(SessionsQuery),
    responses((status = 200, description = "A page", body = Sessions)),
    security(("token" = ["read"])),
)]
pub(super) async fn sessions(api: &Api, request: Request) -> Answer {
    let query: SessionsQuery = request.query()?;
    let limit = query.limit.unwrap_or(100);
    if !(1..=MAX_PAGE).contains(&limit) {
        return Err(Refusal::field(
            "limit",
            format!("is a number from 1 to {MAX_PAGE}"),
        ));
    }
    for (field, name) in [
        ("user", &query.user),
        ("node", &query.node),
        ("search", &query.search),
    ] {
        if let Some(name) = name {
            check_name(field, name)?;
        }
    }
    let listing = Listing {
        user: query.user.map(Into::into),
        node: query.node.map(Into::into),
        after: query.cursor.map(Into::into),
        limit,
    };
    let text = query.search.map(|text| text.to_lowercase());
    let page = find(presence(api)?, listing, text.as_deref()).await?;
    Reply::ok(&Sessions {
        sessions: page.sessions.into_iter().map(Session::from).collect(),
        next: page.next.map(Into::into),
    })
}

/// A page of sessions; with a text, of those that have it in them, in small letters. A user's
/// sessions are in one place, unless they are very many: so no others are looked at for them.
async fn find(
    presence: &dyn Presence,
    listing: Listing,
    text: Option<&str>,
) -> Result<presence::Page, PresenceError> {
    if let (Some(user), None) = (&listing.user, &listing.after) {
        let found = presence.user(user).await?;
        if found.count <= found.sessions.len() as u64 {
            let mut sessions = found.sessions;
            sessions.retain(|session| {
                let node = listing.node.as_ref();
                node.is_none_or(|node| session.node == *node)
                    && text.is_none_or(|text| has_text(session, text))
            });
            return Ok(presence::Page {
                sessions,
                next: None,
            });
        }
    }
    match text {
        Some(text) => search(presence, listing, text).await,
        None => presence.sessions(&listing).await,
    }
}

/// A page of the sessions that have a text in them, in small letters. The store cannot look for it,
/// so this looks at one page of it after the other, until it has enough, or looked at enough.
async fn search(
    presence: &dyn Presence,
    mut listing: Listing,
    text: &str,
) -> Result<presence::Page, PresenceError> {
    let limit = std::mem::replace(&mut listing.limit, MAX_PAGE);
    let mut found = Vec::new();
    for _ in 0..MAX_PAGES {
        let mut page = presence.sessions(&listing).await?;
        page.sessions.retain(|session| has_text(session, text));
        if found.len().saturating_add(page.sessions.len()) > limit {
            if !found.is_empty() {
                // The next call begins with this page.
                break;
            }
            // No more are found than are looked at.
            listing.limit = limit;
            page = presence.sessions(&listing).await?;
            page.sessions.retain(|session| has_text(session, text));
        }
        found.append(&mut page.sessions);
        listing.after = page.next;
        if listing.after.is_none() || found.len() >= limit || listing.limit < MAX_PAGE {
            break;
        }
    }
    Ok(presence::Page {
        sessions: found,
        next: listing.after,
    })
}

fn has_text(session: &presence::SessionInfo, text: &str) -> bool {
    let has = |field: &str| field.to_lowercase().contains(text);
    let device = session.device.as_ref();
    let device = device.map(|device| [&device.kind, &device.id]);
    let mut devices = device.into_iter().flatten().flatten();
    has(&session.user)
        || has(&session.id)
        || session
            .remote
            .is_some_and(|remote| has(&remote.to_string()))
        || devices.any(|named| has(named))
}

/// One session, on whichever node.
#[utoipa::path(
    get, path = "/api/v1/sessions/{id}", tag = "sessions",
    params(("id" = String, Path, description = "The session's id", min_length = 1, max_length = 255)),
    responses(
        (status = 200, description = "The session", body = Session),
        (status = 404, description = "No session has that id", body = super::ErrorBody),
    ),
    security(("token" = ["read"])),
)]
pub(super) async fn session(api: &Api, request: Request) -> Answer {
    request.no_query()?;
    match presence(api)?.session(request.name()).await? {
        Some(session) => Reply::ok(&Session::from(session)),
        None => Err(no_session()),
    }
}

/// How many sessions and users there are, on all nodes.
#[utoipa::path(
    get, path = "/api/v1/counts", tag = "sessions",
    responses((status = 200, description = "How many", body = Counts)),
    security(("token" = ["read"])),
)]
pub(super) async fn counts(api: &Api, request: Request) -> Answer {
    request.no_query()?;
    let presence::Counts { sessions, users } = presence(api)?.counts().await?;
    Reply::ok(&Counts { sessions, users })
}

/// The nodes that live.
#[utoipa::path(
    get, path = "/api/v1/nodes", tag = "nodes",
    responses((status = 200, description = "The nodes", body = Nodes)),
    security(("token" = ["read"])),
)]
pub(super) async fn nodes(api: &Api, request: Request) -> Answer {
    request.no_query()?;
    let nodes = presence(api)?
        .nodes()
        .await?
        .into_iter()
        .map(|node| NodeInfo {
            node: node.name.into(),
            started: time(node.since),
            sessions: node.sessions,
        });
    Reply::ok(&Nodes {
        nodes: nodes.collect(),
    })
}

pub(super) fn no_session() -> Refusal {
    Refusal::new(
        StatusCode::NOT_FOUND,
        "no node that was heard has a session of that id",
    )
}

/// The same, after all nodes were asked. It is no fact while one of them has not answered.
pub(super) fn no_session_heard(unreached: Option<&str>, silent: &[impl AsRef<str>]) -> Refusal {
    if let Some(why) = unreached {
        return Refusal::unavailable(format!(
            "this node has no such session, and others could not be asked: {why}"
        ));
    }
    if silent.is_empty() {
        return no_session();
    }
    let silent: Vec<&str> = silent.iter().map(AsRef::as_ref).collect();
    let silent = silent.join(", ");
    Refusal::unavailable(format!(
        "no node that was heard has a session of that id, and these did not answer: {silent}"
    ))
}

/// Longer names are nobody's.
pub(super) fn check_name(field: &str, name: &str) -> Result<(), Refusal> {
    if name.is_empty() || name.len() > MAX_NAME {
        return Err(Refusal::field(
            field,
            format!("is a name of 1 to {MAX_NAME} bytes"),
        ));
    }
    Ok(())
}

fn presence(api: &Api) -> Result<&dyn Presence, Refusal> {
    let presence = api.services.presence.as_deref();
    presence.ok_or_else(|| {
        let error = "presence is off, so this node does not know other nodes; set [presence] url";
        Refusal::new(StatusCode::CONFLICT, error)
    })
}

impl From<presence::SessionInfo> for Session {
    fn from(session: presence::SessionInfo) -> Self {
        let (kind, id) = match session.device {
            Some(device) => (device.kind, device.id),
            None => (None, None),
        };
        Self {
            session: session.id.into(),
            user: session.user.to_string(),
            status: session.status.into(),
            node: session.node.into(),
            transport: session.transport.into(),
            remote: session.remote.map(|remote| remote.to_string()),
            device_type: kind.map(Into::into),
            device_id: id.map(Into::into),
            since: time(session.since),
            last_seen: time(session.last_seen),
        }
    }
}

impl From<presence::Status> for Status {
    fn from(status: presence::Status) -> Self {
        match status {
            presence::Status::Offline => Self::Offline,
            presence::Status::Away => Self::Away,
            presence::Status::Online => Self::Online,
            presence::Status::Busy => Self::Busy,
            presence::Status::Invisible => Self::Invisible,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        sync::Arc,
        time::{Duration, SystemTime},
    };

    use super::*;
    use crate::presence::{Node, PresenceEntry, memory::MemoryPresence};

    fn store() -> MemoryPresence {
        MemoryPresence::new(Node {
            name: "n".into(),
            since: SystemTime::now(),
            debounce: Duration::ZERO,
            events: None,
            rooms: None,
        })
    }

    /// They are on one page: the store's pages, which have everybody's, are not looked through.
    #[tokio::test]
    async fn of_one_user_no_other_s_sessions_are_searched() {
        let store = store();
        for id in ["a-1", "a-2", "a-3", "b-1"] {
            let session = PresenceEntry::new("bob".into(), id, "tcp", Vec::new());
            store.join(Arc::new(session));
        }
        for (node, text, expected) in [
            (None, None, 4),
            (None, Some("a-"), 3),
            (Some("n"), Some("a-"), 3),
            (Some("other"), Some("a-"), 0),
        ] {
            let listing = Listing {
                user: Some("bob".into()),
                node: node.map(Into::into),
                after: None,
                limit: 1,
            };
            let page = find(&store, listing, text).await.unwrap();
            assert_eq!(
                (page.sessions.len(), page.next),
                (expected, None),
                "{text:?}"
            );
        }
    }

    #[tokio::test]
    async fn a_search_finds_each_session_once_however_many_there_are() {
        let store = store();
        for number in 0..20_000 {
            let user = format!("User_{number}").into();
            let id = format!("{number:05}");
            store.join(Arc::new(PresenceEntry::new(user, &id, "tcp", Vec::new())));
        }
        for (text, limit, expected) in [
            ("user_", 1_000, 20_000),
            ("user_1999", 3, 11),
            ("ser_7", 100, 1_111),
            ("nobody", 10, 0),
        ] {
            let mut found = BTreeSet::new();
            let mut after = None;
            loop {
                let listing = Listing {
                    user: None,
                    node: None,
                    after,
                    limit,
                };
                let page = search(&store, listing, text).await.unwrap();
                assert!(page.sessions.len() <= limit, "{text}");
                for session in page.sessions {
                    assert!(found.insert(session.id), "{text}");
                }
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            assert_eq!(found.len(), expected, "{text}");
        }
    }
}
