//! Who a client is, and what it may do.
//!
//! [`Authenticator`] asks; [`http`] asks the application's hook, by the contract of RabbitMQ's
//! `rabbitmq_auth_backend_http`; [`rabbitmq`] answers for RabbitMQ's own users; [`jwt`] reads tokens
//! by the keys of their issuer, and asks nobody; [`chain`] has several of them, and each login goes
//! to the one that knows its kind; [`cache`] remembers permissions and lets one call in flight serve
//! all equal ones; [`Replaceable`] lets a reload change all of them; [`certificate`] reads names out of certificates.

pub mod cache;
mod carried;
pub mod certificate;
pub mod chain;
mod client;
mod config;
pub mod http;
pub mod jwt;
pub mod rabbitmq;
mod replaceable;
mod turns;

use std::{
    fmt, future,
    hash::{Hash, Hasher},
    mem::{Discriminant, discriminant},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use futures_util::future::{BoxFuture, FutureExt};

pub use auth_hook::{Permission, ResourceKind};
pub use carried::{Carried, CarryError, Credentials, Forwarding, Parameter};
pub use certificate::CertificateLogin;
pub(crate) use client::client as http_client;
pub use config::{Config, Fact, Method, Unset};
pub use replaceable::Replaceable;

/// Whether a text has the form of a token (JWT). No password has it by chance.
#[must_use]
pub fn looks_like_token(text: &str) -> bool {
    jwt::looks_like_token(text)
}

/// Answers for users. Whatever goes wrong is a refusal: implementations fail closed.
pub trait Authenticator: Send + Sync + 'static {
    /// Who presents these credentials; never a user without a name.
    fn user<'a>(&'a self, login: &'a Login) -> BoxFuture<'a, Result<User, Refusal>>;

    /// As [`Authenticator::user`], with all else that the answer says. This is for an
    /// implementation whose answers say nothing else; one that stands before another passes the
    /// call on.
    fn log_in<'a>(&'a self, login: &'a Login) -> BoxFuture<'a, Result<Admission, Refusal>> {
        self.user(login)
            .map(|user| user.map(Admission::from))
            .boxed()
    }

    /// Whether this login is of the kind that it knows. In a [`chain`] the first that says so
    /// decides, and no other is asked.
    fn knows(&self, _login: &Login) -> bool {
        true
    }

    /// Whether it answers for this user, whom one of a [`chain`] has let in: the first that says so
    /// is asked. One that gives its users a [`Source`] knows them by that.
    fn owns(&self, user: &User) -> bool {
        user.source.is_none()
    }

    /// Whether the user may do this.
    fn allow<'a>(
        &'a self,
        user: &'a User,
        access: &'a Access,
    ) -> BoxFuture<'a, Result<(), Refusal>>;

    /// As [`Authenticator::allow`], but what is remembered does not count: the answer takes its
    /// place. This is for an implementation that remembers nothing.
    fn allow_anew<'a>(
        &'a self,
        user: &'a User,
        access: &'a Access,
    ) -> BoxFuture<'a, Result<(), Refusal>> {
        self.allow(user, access)
    }

    /// Forgets what the user of that name was permitted; how much that was. This is for an
    /// implementation that remembers nothing.
    fn forget<'a>(&'a self, _user: &'a str) -> BoxFuture<'a, usize> {
        Box::pin(future::ready(0))
    }

    /// The groups that the user is in, each once, as presence knows them; none where nobody can
    /// be asked. A refusal takes nothing from the user: it is in no group then, and it is for
    /// the implementation to log why.
    fn groups<'a>(&'a self, user: &'a User) -> BoxFuture<'a, Result<Vec<Arc<str>>, Refusal>>;

    /// Whether clients should come here to log in. This is for an implementation that can answer
    /// from the start.
    ///
    /// # Errors
    /// It knows no users yet; the reason.
    fn readiness(&self) -> Result<(), Box<str>> {
        Ok(())
    }
}

/// What a client presents.
pub struct Login {
    /// The `login` header, or the name in its certificate; empty where only the hook can say who
    /// it is.
    pub user: Box<str>,
    /// The `passcode` header; `None` where something else (a certificate) proved the user.
    pub password: Option<Box<str>>,
    /// The virtual host it wants.
    pub vhost: Arc<str>,
    /// Further parameters of the question, which may be secrets, too.
    pub more: Vec<Parameter>,
    /// The client's address: logins of one share their turns.
    pub address: IpAddr,
    /// True if the user was logged in from that address before: then it has turns apart from those
    /// of strangers there.
    pub is_known: bool,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login")
            .field("user", &self.user)
            .field("vhost", &self.vhost)
            .finish_non_exhaustive()
    }
}

/// The answer to a login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Who it is.
    pub user: User,
    /// How long the login counts from now on; `None`: until it ends by itself.
    pub lifetime: Option<Duration>,
    /// The device at the other end.
    pub device: DeviceId,
}

/// The judge of the device at the other end of a login.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DeviceId {
    /// The client may say which one it is.
    #[default]
    Said,
    /// The login is bound to that one, or to none, whatever the client says.
    Bound(Option<Box<str>>),
}

impl DeviceId {
    /// Ids are no longer, in bytes.
    pub const MAX: usize = 128;

    /// The device's id, where the client says this one.
    #[must_use]
    pub fn or_said(self, said: Option<&str>) -> Option<Box<str>> {
        match self {
            Self::Said => said.map(Box::from),
            Self::Bound(id) => id,
        }
    }
}

impl From<User> for Admission {
    fn from(user: User) -> Self {
        Self {
            user,
            lifetime: None,
            device: DeviceId::Said,
        }
    }
}

/// A user that was let in. Users are equal if their names and tags are, and the kind of their
/// source: what a token grants may change with each.
#[derive(Clone, Debug)]
pub struct User {
    /// Its name.
    pub name: Arc<str>,
    /// Its tags, separated by blanks, as the hook gave them; empty if none.
    pub tags: Arc<str>,
    /// Where its rights come from, if not from the hook.
    pub source: Option<Arc<Source>>,
}

/// Where a user's rights come from, if not from the hook.
#[derive(Debug)]
#[non_exhaustive]
pub enum Source {
    /// A token, which may be renewed.
    Token(jwt::Grants),
}

impl User {
    /// Users have no longer names, in bytes: AMQP's `user-id` has no room for them.
    pub const MAX_NAME: usize = 255;

    /// Whether a user can be called so. Names are shown to other clients and in logs, and AMQP
    /// carries them.
    #[must_use]
    pub fn is_name(name: &str) -> bool {
        (1..=Self::MAX_NAME).contains(&name.len()) && !name.contains(char::is_control)
    }

    /// A user for whom the hook answers.
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>, tags: impl Into<Arc<str>>) -> Self {
        Self {
            name: name.into(),
            tags: tags.into(),
            source: None,
        }
    }

    /// True if its rights came with its login, and nobody is asked.
    #[must_use]
    pub fn has_own_rights(&self) -> bool {
        self.grants().is_some_and(jwt::Grants::decide)
    }

    /// False if its rights came with its login, and do not let it send to the exchange by whatever
    /// key.
    #[must_use]
    pub fn may_send_by_any_key(&self, vhost: &str, exchange: &str) -> bool {
        let own = self.grants().filter(|grants| grants.decide());
        own.is_none_or(|grants| grants.send_by_any_key(vhost, exchange))
    }

    /// Takes over the rights of the same user, logged in anew.
    pub fn take_over(&self, renewed: &Self) {
        if let (Some(own), Some(other)) = (self.grants(), renewed.grants()) {
            own.take_over(other);
        }
    }

    /// The kind of its source.
    fn kind(&self) -> Option<Discriminant<Source>> {
        self.source.as_deref().map(discriminant)
    }

    fn grants(&self) -> Option<&jwt::Grants> {
        match self.source.as_deref()? {
            Source::Token(grants) => Some(grants),
        }
    }
}

impl PartialEq for User {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, &self.tags, self.kind()) == (&other.name, &other.tags, other.kind())
    }
}

impl Eq for User {}

impl Hash for User {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // What is remembered of an answer goes by this.
        (&self.name, &self.tags, self.kind()).hash(state);
    }
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

/// Why the answer is no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The hook said `deny`; the reason that it gave, for the log.
    Denied(Option<Box<str>>),
    /// There is no answer: the hook did not answer in its contract (it is down or slow, or says an
    /// unknown word), or the users are not known yet. Nobody is let in. Whose fault it is, and
    /// which.
    Faulty(Box<str>),
    /// The keys by which a token could be checked are not there; why.
    NoKeys(Box<str>),
    /// It was not asked: the question waited too long for its turn, behind others.
    Busy,
}

impl Refusal {
    /// What the client may be told of the reason: nothing, unless the configuration discloses
    /// reasons (`disclose_reason`) and the hook gave one. Never for the answer to
    /// [`Authenticator::user`]: a client that guesses names and passwords learns nothing.
    pub fn disclosed(&self, disclose_reason: bool) -> Option<&str> {
        match self {
            Refusal::Denied(reason) if disclose_reason => reason.as_deref(),
            Refusal::Denied(_) | Refusal::Faulty(_) | Refusal::NoKeys(_) | Refusal::Busy => None,
        }
    }
}

/// For the log: whose fault it is, and why.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Denied(None) => f.write_str("denied"),
            Refusal::Denied(Some(reason)) => write!(f, "denied: {reason}"),
            Refusal::Faulty(fault) => f.write_str(fault),
            Refusal::NoKeys(why) => write!(f, "the token cannot be checked: {why}"),
            Refusal::Busy => f.write_str("too many wait for the hook"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_password() {
        let login = Login {
            user: "alice".into(),
            password: Some("s3cret".into()),
            vhost: Arc::from("/"),
            more: vec![("token".into(), "s3cret".into())],
            address: std::net::Ipv4Addr::LOCALHOST.into(),
            is_known: false,
        };
        let shown = format!("{login:?}");
        assert!(
            shown.contains("alice") && !shown.contains("s3cret"),
            "{shown}"
        );
    }

    #[test]
    fn reasons_are_told_where_the_configuration_discloses_them() {
        let denied = Refusal::Denied(Some("not paid".into()));
        assert_eq!(denied.disclosed(true), Some("not paid"));
        assert_eq!(denied.disclosed(false), None);
        assert_eq!(Refusal::Faulty("status 500".into()).disclosed(true), None);
    }
}
