//! Presence: the users who are online, on all nodes.
//!
//! [`Presence`] keeps it; two implementations hold the same contract tests: [`memory`], for a
//! single node, and [`redis`], which all nodes share. An [`Event`] tells others of a change; a
//! [`publisher`] takes it to the broker. [`rooms`] are who is subscribed to which key.
//!
//! Truth is leases, not events: a session counts as online for as long as the node that holds it
//! is known to live. So a node that is killed takes its users offline within one lease.

mod config;
mod departures;
mod entry;
mod event;
mod held;
pub mod memory;
pub mod publisher;
mod records;
pub mod redis;
pub mod rooms;
mod servers;
mod status;

use std::{sync::Arc, time::SystemTime};

use futures_util::future::{BoxFuture, FutureExt};
use thiserror::Error;

pub use config::{Config, Url, UrlError};
pub use entry::{Device, PresenceEntry, STATUS_INTERVAL, SessionInfo};
pub use event::{Announcement, Event, EventKind, Outbox};
pub use records::{MemoryRecords, Record, Records, RecordsRead};
use rooms::{RoomRules, Rooms};
pub use servers::{RedisConfig, Secret};
pub use status::{Status, StatusError};

/// The store of online users, of all nodes.
///
/// A node's own changes (join, leave, status, groups) never wait and never fail: they take effect
/// in the background, in the order of the calls, and soon. While the shared store is away they
/// are kept, and the node registers all it holds when the store is back; meanwhile the gateway
/// serves on.
///
/// Others see a user's [`Status::to_others`]. When that changes there is one event,
/// on one node, whichever nodes the user's sessions are on: at once where a session joins or says
/// its status, and `presence.debounce` after a session left, if nothing made up for it meanwhile.
/// If several left one after the other, the last one's debounce counts; until it is over, no
/// session of the user can lower the status that others see.
pub trait Presence: Send + Sync + 'static {
    /// A session has logged in: it, its user, and its user in its groups are online until
    /// [`Presence::leave`], for as long as this node lives. To join twice is to join once.
    fn join(&self, session: Arc<PresenceEntry>);

    /// A session is about to join: answers the sessions of its user that joined or claimed before
    /// it, on all nodes, the oldest first. Of two that claim at the same time, one finds the other,
    /// and those that have only claimed are offline. Others see nothing of it until it joins,
    /// whatever the answer is; a caller that does not like it lets the session leave, which is no
    /// event then.
    ///
    /// # Errors
    /// As [`Presence::users`]; also if the user has so many sessions ([`MOST_CLAIMED`]) that to look
    /// at all of them would keep others waiting.
    fn claim(
        &self,
        session: Arc<PresenceEntry>,
    ) -> BoxFuture<'_, Result<Vec<SessionInfo>, PresenceError>>;

    /// A session that joined or claimed has ended. To leave twice, or without either, does nothing.
    /// A user is online, and in a group, for as long as one of its sessions says so.
    fn leave(&self, session: &Arc<PresenceEntry>);

    /// A session that joined says how available it is. Passed on once in [`STATUS_INTERVAL`] at
    /// most; of more the newest counts. Of a session that is not here, does nothing.
    fn set_status(&self, session: &Arc<PresenceEntry>, status: Status);

    /// A session's user is in these groups from now on. It makes no events: the application knows
    /// its own groups. Does nothing if the session is not here.
    fn regroup(&self, session: &Arc<PresenceEntry>, groups: Vec<Arc<str>>);

    /// The sessions of a user that this node itself holds; answers at once.
    fn held(&self, user: &str) -> Vec<Arc<PresenceEntry>>;

    /// Users, by name, in the order asked: in two round trips, however many. Of a user with more
    /// sessions than [`MOST_SESSIONS`], only about so many are there.
    ///
    /// # Errors
    /// [`PresenceError::Unavailable`]: the store did not answer within a second or so.
    fn users<'a>(
        &'a self,
        names: &'a [&'a str],
    ) -> BoxFuture<'a, Result<Vec<UserPresence>, PresenceError>>;

    /// One user, by name.
    ///
    /// # Errors
    /// As [`Presence::users`].
    fn user<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<UserPresence, PresenceError>> {
        async move {
            let users = self.users(&[name]).await?;
            Ok(users.into_iter().next().unwrap_or_default())
        }
        .boxed()
    }

    /// The status of users, and how many sessions each has on all nodes, in the order asked. Does
    /// not take longer the more sessions there are.
    ///
    /// # Errors
    /// As [`Presence::users`].
    fn count_users<'a>(
        &'a self,
        names: &'a [&'a str],
    ) -> BoxFuture<'a, Result<Vec<UserCount>, PresenceError>>;

    /// How many sessions one user has.
    ///
    /// # Errors
    /// As [`Presence::users`].
    fn count_sessions<'a>(&'a self, user: &'a str) -> BoxFuture<'a, Result<u64, PresenceError>> {
        async move {
            let counts = self.count_users(&[user]).await?;
            Ok(counts.first().map_or(0, |count| count.sessions))
        }
        .boxed()
    }

    /// The users of a group that others may see as online, on all nodes: each once, in the order
    /// of their names. Takes time proportional to those who are online.
    ///
    /// # Errors
    /// As [`Presence::users`].
    fn group<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<Member>, PresenceError>>;

    /// The session of that id, on whichever node.
    ///
    /// # Errors
    /// As [`Presence::users`].
    fn session<'a>(
        &'a self,
        id: &'a str,
    ) -> BoxFuture<'a, Result<Option<SessionInfo>, PresenceError>>;

    /// A page of the sessions of all nodes, in an order of the store's own. A session that is here
    /// from the first page to the last is on exactly one page.
    ///
    /// # Errors
    /// As [`Presence::users`]; [`PresenceError::Cursor`].
    fn sessions<'a>(&'a self, listing: &'a Listing) -> BoxFuture<'a, Result<Page, PresenceError>>;

    /// How many are here. Does not take longer the more there are.
    ///
    /// # Errors
    /// As [`Presence::users`].
    fn counts(&self) -> BoxFuture<'_, Result<Counts, PresenceError>>;

    /// The nodes that live, in the order of their names.
    ///
    /// # Errors
    /// As [`Presence::users`].
    fn nodes(&self) -> BoxFuture<'_, Result<Vec<NodeInfo>, PresenceError>>;

    /// `Ok` if the store has all changes of this node, as far as is known; answers at once.
    ///
    /// # Errors
    /// [`PresenceError::Unavailable`]: why not.
    fn health(&self) -> Result<(), PresenceError>;

    /// Who is subscribed to which key; `None`: no exchange asks for it.
    fn rooms(&self) -> Option<Arc<dyn Rooms>> {
        None
    }

    /// The records that all nodes share; `None`: the store is this node's alone.
    fn records(&self) -> Option<Arc<dyn Records>> {
        None
    }

    /// Takes all sessions of this node offline, and ends; within seconds, even if the store does
    /// not answer. Sessions that join afterwards are not seen. Presence that is dropped without
    /// this looks killed: its lease has to run out. Another node publishes that the users left,
    /// unless they come back within `presence.debounce`.
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// A user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserPresence {
    /// The greatest status of its sessions ([`Status`]); offline without a session. Others see
    /// [`Status::to_others`] of it.
    pub status: Status,
    /// Its sessions on all nodes: each once, the oldest first. Of more than [`MOST_SESSIONS`], some.
    pub sessions: Vec<SessionInfo>,
    /// How many there are.
    pub count: u64,
}

/// The sessions of a user that are listed with it; more are listed page by page.
pub const MOST_SESSIONS: usize = 1_000;

/// The sessions of a user among which one can be claimed.
pub const MOST_CLAIMED: usize = 5_000;

fn too_many(sessions: usize) -> PresenceError {
    let text = format!(
        "the user has {sessions} sessions, and [sessions] looks at {MOST_CLAIMED} at most; give \
         this user's clients names of their own, or set [limits] max_user_connections"
    );
    PresenceError::Unavailable(text.into())
}

impl Default for UserPresence {
    /// Nobody.
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

/// How available a user is, and from how many sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserCount {
    /// As [`UserPresence::status`].
    pub status: Status,
    /// Its sessions on all nodes.
    pub sessions: u64,
}

impl Default for UserCount {
    /// Nobody.
    fn default() -> Self {
        Self {
            status: Status::Offline,
            sessions: 0,
        }
    }
}

impl UserPresence {
    /// From sessions in any order.
    fn new(mut sessions: Vec<SessionInfo>) -> Self {
        sessions.sort_by(|a, b| (a.since, &a.id).cmp(&(b.since, &b.id)));
        // A node that changes its lease has a session under both, for a moment.
        sessions.dedup_by(|a, b| a.id == b.id);
        let statuses = sessions.iter().map(|session| session.status);
        Self {
            status: statuses.max().unwrap_or(Status::Offline),
            count: sessions.len() as u64,
            sessions,
        }
    }
}

/// A user of a group who is online.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The user's name.
    pub user: Arc<str>,
    /// Neither offline nor invisible.
    pub status: Status,
}

/// Which sessions to list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// Only sessions of this user; `None`: of all users.
    pub user: Option<Box<str>>,
    /// Only sessions of this node; `None`: of all nodes.
    pub node: Option<Box<str>>,
    /// The [`Page::next`] of the page before; `None`: begins at the first.
    pub after: Option<Box<str>>,
    /// So many at most; there may be fewer although more follow.
    pub limit: usize,
}

/// A page of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The sessions.
    pub sessions: Vec<SessionInfo>,
    /// The place where the next page begins: letters, digits, `-`, `_` and `.`. `None` on the last
    /// page.
    pub next: Option<Box<str>>,
}

/// How many are here, on all nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Sessions; of other nodes, as of a third of a lease ago at most.
    pub sessions: u64,
    /// Users, invisible ones included. A user who left counts for `presence.debounce` longer; the
    /// users of a killed node count until another node has cleared up.
    pub users: u64,
}

/// A node that lives.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeInfo {
    /// Its name.
    pub name: Box<str>,
    /// When it started.
    pub since: SystemTime,
    /// Sessions that it holds, as of a third of a lease ago at most.
    pub sessions: u64,
}

/// Why presence has no answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PresenceError {
    /// The store cannot be reached, is slow, or refuses; why. Holds no secret.
    #[error("unreachable: {0}")]
    Unavailable(Box<str>),
    /// The configuration cannot be used; why. Holds no secret.
    #[error("{0}")]
    Configuration(Box<str>),
    /// [`Listing::after`] is no page's [`Page::next`].
    #[error("the cursor is not one of a page's: take `next` of the page before, as it is")]
    Cursor,
}

/// The facts about its node that an implementation needs.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its name, as others see it.
    pub name: Box<str>,
    /// When it started.
    pub since: SystemTime,
    /// The time from a session's departure until its user may count as gone.
    pub debounce: std::time::Duration,
    /// The outbox of events; `None`: they are off.
    pub events: Option<Arc<Outbox>>,
    /// The rules of its rooms; `None`: no exchange asks for them.
    pub rooms: Option<RoomRules>,
}
