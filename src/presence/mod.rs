//! Who is here.
//!
//! [`Presence`] keeps it; two implementations hold the same contract tests: [`memory`], for a
//! single node, and [`redis`], which all nodes share. What changes for others is told by
//! [`Event`]s, which a [`publisher`] takes to the broker.
//!
//! Truth is leases, not events: a session counts as online for as long as the node that holds it
//! is known to live. So a node that is killed takes its users offline within one lease.

mod config;
mod departures;
mod event;
mod held;
pub mod memory;
pub mod publisher;
pub mod redis;
mod session;
mod status;

use std::{sync::Arc, time::SystemTime};

use futures_util::future::{BoxFuture, FutureExt};
use thiserror::Error;

pub use config::{Config, Url, UrlError};
pub use event::{Event, EventKind, Outbox};
pub use session::{Device, STATUS_INTERVAL, Session, SessionInfo};
pub use status::{Status, StatusError};

/// Keeps who is online, on all nodes.
///
/// What a node says (to join, to leave, a status, groups) never waits and never fails: it takes
/// effect in the background, in the order of the calls, and soon. If the shared store is away it
/// is kept, and the node registers all it holds when the store is back; meanwhile the gateway
/// serves on.
///
/// What others see of a user is its [`Status::to_others`]. When that changes there is one event,
/// on one node, whichever nodes the user's sessions are on: at once where a session joins or says
/// its status, and `presence.debounce` after a session left, if nothing made up for it meanwhile.
/// Where several left one after the other, the last one's debounce counts; until it is over, others
/// are told nothing less of the user than before, by whichever session.
pub trait Presence: Send + Sync + 'static {
    /// A session has logged in: it, its user, and its user in its groups are online until
    /// [`Presence::leave`], for as long as this node lives. To join twice is to join once.
    fn join(&self, session: Arc<Session>);

    /// As [`Presence::join`], and answers which sessions of its user were here before it, on all
    /// nodes, the oldest first: of two that claim at the same time, one finds the other. It has
    /// joined whatever the answer is; whom it does not suit leaves.
    ///
    /// # Errors
    /// As [`Presence::users`].
    fn claim(
        &self,
        session: Arc<Session>,
    ) -> BoxFuture<'_, Result<Vec<SessionInfo>, PresenceError>>;

    /// A session that joined has ended. To leave twice, or without having joined, does nothing.
    /// A user is online, and in a group, for as long as one of its sessions says so.
    fn leave(&self, session: &Arc<Session>);

    /// A session that joined says how available it is. Passed on once in [`STATUS_INTERVAL`] at
    /// most; of more the newest counts. Of a session that is not here, does nothing.
    fn set_status(&self, session: &Arc<Session>, status: Status);

    /// A session's user is in these groups from now on. It makes no events: who is a member of
    /// what is the application's own news. Of a session that is not here, does nothing.
    fn regroup(&self, session: &Arc<Session>, groups: Vec<Arc<str>>);

    /// The sessions of a user that this node itself holds; answers at once.
    fn held(&self, user: &str) -> Vec<Arc<Session>>;

    /// Users, by name, in the order asked: one round trip, however many.
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

    /// Some of the sessions of all nodes, in an order of the store's own. Who is here from the
    /// first page to the last is on one of them, once.
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

    /// Whether this node's part is up to date in the store, as far as is known; answers at once.
    ///
    /// # Errors
    /// [`PresenceError::Unavailable`]: why not.
    fn health(&self) -> Result<(), PresenceError>;

    /// Takes all that this node holds offline, and ends; within seconds, also if the store does
    /// not answer. Who joins afterwards is not seen. To drop presence without this is to be
    /// killed: the lease has to run out. That the node's users left is told by another node, if
    /// they do not come back within `presence.debounce`.
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// A user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserPresence {
    /// The greatest status of its sessions ([`Status`]); offline if there is none. Others may
    /// know [`Status::to_others`] of it.
    pub status: Status,
    /// Its sessions on all nodes: each once, the oldest first.
    pub sessions: Vec<SessionInfo>,
}

impl UserPresence {
    /// Of sessions in any order.
    fn new(mut sessions: Vec<SessionInfo>) -> Self {
        sessions.sort_by(|a, b| (a.since, &a.id).cmp(&(b.since, &b.id)));
        // A node that changes its lease has a session under both, for a moment.
        sessions.dedup_by(|a, b| a.id == b.id);
        let statuses = sessions.iter().map(|session| session.status);
        Self {
            status: statuses.max().unwrap_or(Status::Offline),
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
    /// Those of the node of this name; `None`: of all.
    pub node: Option<Box<str>>,
    /// Those that come after the page whose [`Page::next`] this is; `None`: from the first on.
    pub after: Option<Box<str>>,
    /// So many at most; there may be fewer although more follow.
    pub limit: usize,
}

/// A page of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The sessions.
    pub sessions: Vec<SessionInfo>,
    /// Where the next page begins: letters, digits, `-`, `_` and `.`. `None`: this is the last.
    pub next: Option<Box<str>>,
}

/// How many are here, on all nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Sessions; of other nodes, as of a third of a lease ago at most.
    pub sessions: u64,
    /// Users, invisible ones among them. Who left counts for `presence.debounce` longer, and the
    /// users of a node that was killed until another one has cleared up after it.
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

/// What an implementation needs to know of its node.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its name, as others see it.
    pub name: Box<str>,
    /// When it started.
    pub since: SystemTime,
    /// How long after a session left it is looked whether its user did.
    pub debounce: std::time::Duration,
    /// Where events go; `None`: nobody wants them.
    pub events: Option<Arc<Outbox>>,
}
