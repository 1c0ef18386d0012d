//! Who a client is, and what it may do.
//!
//! [`Authenticator`] asks; [`http`] asks the application's hook, by the contract of RabbitMQ's
//! `rabbitmq_auth_backend_http`; [`cache`] remembers permissions and lets one call in flight
//! serve all equal ones.

pub mod cache;
mod config;
pub mod http;

use std::{fmt, net::IpAddr, sync::Arc};

use futures_util::future::BoxFuture;

pub use config::Config;

/// Answers for users. Whatever goes wrong is a refusal: implementations fail closed.
pub trait Authenticator: Send + Sync + 'static {
    /// Who presents these credentials.
    fn user<'a>(&'a self, login: &'a Login) -> BoxFuture<'a, Result<User, Refusal>>;

    /// Whether the user may do this.
    fn allow<'a>(
        &'a self,
        user: &'a User,
        access: &'a Access,
    ) -> BoxFuture<'a, Result<(), Refusal>>;
}

/// What a client presents.
pub struct Login {
    /// The `login` header.
    pub user: Box<str>,
    /// The `passcode` header; `None` where something else (a certificate) proved the user.
    pub password: Option<Box<str>>,
    /// The virtual host it wants.
    pub vhost: Arc<str>,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login")
            .field("user", &self.user)
            .field("vhost", &self.vhost)
            .finish_non_exhaustive()
    }
}

/// A user that the hook allowed in.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct User {
    /// Its name.
    pub name: Arc<str>,
    /// Its tags, separated by blanks, as the hook gave them; empty if none.
    pub tags: Arc<str>,
}

/// Something that a user may or may not do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// To enter a virtual host, from an address.
    Vhost {
        /// The virtual host.
        vhost: Arc<str>,
        /// Where the client comes from.
        ip: IpAddr,
    },
    /// To use an exchange or a queue.
    Resource {
        /// The virtual host.
        vhost: Arc<str>,
        /// Exchange or queue.
        kind: ResourceKind,
        /// Its name; the default exchange is empty here, and `amq.default` in calls.
        name: Box<str>,
        /// What for.
        permission: Permission,
    },
    /// To use a routing key of an exchange.
    Topic {
        /// The virtual host.
        vhost: Arc<str>,
        /// The exchange.
        exchange: Box<str>,
        /// `Read` or `Write`.
        permission: Permission,
        /// The routing key, or binding pattern.
        routing_key: Box<str>,
    },
}

/// What a [`Access::Resource`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ResourceKind {
    /// An exchange.
    Exchange,
    /// A queue.
    Queue,
}

/// What a resource is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Permission {
    /// Declare or delete.
    Configure,
    /// Publish to, or bind a queue.
    Write,
    /// Consume, or bind to an exchange.
    Read,
}

/// Why the answer is no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The hook said `deny`; the reason that it gave, for the log.
    Denied(Option<Box<str>>),
    /// The hook did not answer in its contract (down, slow, another status, an unknown word):
    /// nobody is let in, and the fault is the hook's.
    Faulty(Box<str>),
}
