//! Who is here.
//!
//! [`Presence`] keeps it; two implementations hold the same contract tests: [`memory`], for a
//! single node, and [`redis`], which all nodes share.
//!
//! Truth is leases, not events: a session counts as online for as long as the node that holds it
//! is known to live. So a node that is killed takes its users offline within one lease, and
//! nobody has to sweep up after it.

mod config;
mod held;
pub mod memory;
pub mod redis;

use std::{net::SocketAddr, sync::Arc, time::SystemTime};

use futures_util::future::BoxFuture;
use thiserror::Error;

pub use config::{Config, Url, UrlError};

/// Keeps who is online, on all nodes.
///
/// To join and to leave never waits and never fails: both take effect in the background, in the
/// order of the calls, and soon. If the shared store is away they are kept, and the node
/// registers all it holds when the store is back; meanwhile the gateway serves on.
pub trait Presence: Send + Sync + 'static {
    /// A session has logged in: it, its user, and its user in its groups are online until
    /// [`Presence::leave`], for as long as this node lives. To join twice is to join once.
    fn join(&self, session: Arc<Session>);

    /// A session that joined has ended. To leave twice, or without having joined, does nothing.
    /// A user is online, and in a group, for as long as one of its sessions says so.
    fn leave(&self, session: &Arc<Session>);

    /// The sessions of a user, on all nodes, that count as online: each once, the oldest first.
    ///
    /// # Errors
    /// [`PresenceError::Unavailable`]: the store did not answer within a second or so.
    fn user<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<SessionInfo>, PresenceError>>;

    /// The users of a group that are online, on all nodes: each once, in the order of their
    /// names.
    ///
    /// # Errors
    /// As [`Presence::user`].
    fn group<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<Arc<str>>, PresenceError>>;

    /// Whether this node's part is up to date in the store, as far as is known; answers at once.
    ///
    /// # Errors
    /// [`PresenceError::Unavailable`]: why not.
    fn health(&self) -> Result<(), PresenceError>;

    /// Takes all that this node holds offline, and ends; within seconds, also if the store does
    /// not answer. Who joins afterwards is not seen. To drop presence without this is to be
    /// killed: the lease has to run out.
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// A session of this node, as it joins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Whose it is.
    pub user: Arc<str>,
    /// The session's id; no other session of any node has it.
    pub id: Box<str>,
    /// `websocket`, `tcp` or a SockJS transport.
    pub transport: &'static str,
    /// Where the client comes from, if that is to be known.
    pub remote: Option<SocketAddr>,
    /// Since when; kept to the millisecond.
    pub since: SystemTime,
    /// In order, each once.
    groups: Box<[Arc<str>]>,
}

impl Session {
    /// A session that began now.
    #[must_use]
    pub fn new(
        user: Arc<str>,
        id: &str,
        transport: &'static str,
        mut groups: Vec<Arc<str>>,
    ) -> Self {
        groups.sort_unstable();
        groups.dedup();
        Self {
            user,
            id: id.into(),
            transport,
            remote: None,
            since: SystemTime::now(),
            groups: groups.into(),
        }
    }

    /// The groups that its user is in, by the login of this session: in order, each once.
    #[must_use]
    pub fn groups(&self) -> &[Arc<str>] {
        &self.groups
    }
}

/// A session of any node, as others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionInfo {
    /// Its id.
    pub id: Box<str>,
    /// The name of the node that holds it.
    pub node: Box<str>,
    /// [`Session::transport`].
    pub transport: Box<str>,
    /// [`Session::remote`].
    pub remote: Option<SocketAddr>,
    /// [`Session::since`].
    pub since: SystemTime,
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
}
