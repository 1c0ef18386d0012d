//! What a token grants (pure), and the place where a session keeps it.

use std::sync::Arc;

use parking_lot::Mutex;

use super::scopes::Scope;
use crate::{
    auth::{Access, Permission, ResourceKind},
    broker::routing::{self, Word},
};

/// The rights of one session, which its token brought. A renewal puts others in their place.
#[derive(Debug)]
pub struct Grants(Mutex<Arc<Granted>>);

/// The rights of one token.
#[derive(Debug, Default)]
pub(super) struct Granted {
    /// Whether these are all rights: nobody else is asked.
    pub(super) decide: bool,
    /// Where the user may go; `None`: wherever the hook lets it.
    pub(super) vhosts: Option<Box<[Box<str>]>>,
    /// What it may subscribe to in these virtual hosts.
    pub(super) subscribe: Box<[Target]>,
    /// What it may send to.
    pub(super) send: Box<[Target]>,
    /// What RabbitMQ's scopes say.
    pub(super) scopes: Box<[Scope]>,
    /// Exchanges for whose keys a scope need not say anything.
    pub(super) keyless: Arc<Keyless>,
    /// The user's groups, if the token has them.
    pub(super) groups: Option<Vec<Arc<str>>>,
}

/// Exchanges that are known to be no topic exchanges: RabbitMQ asks about keys only for those.
#[derive(Debug, Default)]
pub struct Keyless(Box<[Box<str>]>);

/// Where a right leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// To keys of an exchange.
    Exchange(Box<str>, Box<[Part]>),
    /// To a queue.
    Queue(Box<str>),
}

/// A word of the keys that a right is to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// This one; its `*` and `#` are letters.
    Literal(Box<str>),
    /// Any one.
    One,
    /// Any number of them.
    Any,
}

impl Grants {
    pub(super) fn new(granted: Granted) -> Self {
        Self(Mutex::new(Arc::new(granted)))
    }

    /// The rights as they are now.
    pub(super) fn now(&self) -> Arc<Granted> {
        Arc::clone(&self.0.lock())
    }

    /// Whether these are all rights of the user: nobody else is asked.
    #[must_use]
    pub(in crate::auth) fn decide(&self) -> bool {
        self.0.lock().decide
    }

    /// Whether they let the user send to the exchange by whatever key.
    #[must_use]
    pub(in crate::auth) fn send_by_any_key(&self, vhost: &str, exchange: &str) -> bool {
        self.now().sends_by_any_key(vhost, exchange)
    }

    /// The rights of another token count from now on.
    pub(in crate::auth) fn take_over(&self, other: &Self) {
        let other = other.now();
        *self.0.lock() = other;
    }
}

impl Keyless {
    /// These, and those that each virtual host of RabbitMQ has.
    #[must_use]
    pub fn new<'a>(exchanges: impl IntoIterator<Item = &'a str>) -> Self {
        let known = ["", "amq.direct", "amq.fanout", "amq.headers", "amq.match"];
        Self(known.into_iter().chain(exchanges).map(Box::from).collect())
    }

    pub(super) fn has(&self, exchange: &str) -> bool {
        self.0.iter().any(|known| **known == *exchange)
    }
}

impl Granted {
    /// Whether the token lets its user enter the virtual host.
    pub(super) fn lets_in(&self, vhost: &str) -> bool {
        let is_named = match &self.vhosts {
            None => !self.decide,
            Some(vhosts) => vhosts.iter().any(|own| **own == *vhost),
        };
        is_named || self.scopes.iter().any(|scope| scope.is_in(vhost))
    }

    /// Whether it grants this.
    pub(super) fn allows(&self, access: &Access) -> bool {
        self.scopes
            .iter()
            .any(|scope| scope.allows(access, &self.keyless))
            || match access {
                Access::Vhost { vhost, .. } => self.lets_in(vhost),
                Access::Resource { vhost, .. } | Access::Topic { vhost, .. } => {
                    let mut own = self.vhosts.iter().flatten();
                    own.any(|own| **own == **vhost) && self.leads_to(access)
                }
            }
    }

    /// Whether it grants to send to the exchange by whatever key.
    fn sends_by_any_key(&self, vhost: &str, exchange: &str) -> bool {
        let mut scopes = self.scopes.iter();
        let mut own = self.vhosts.iter().flatten();
        let is_all = |target: &Target| match target {
            Target::Exchange(name, key) => {
                **name == *exchange && routing::covers(key.iter().map(Part::word), "#")
            }
            Target::Queue(_) => false,
        };
        scopes.any(|scope| scope.grants_any_key(vhost, exchange, &self.keyless))
            || own.any(|own| **own == *vhost) && self.send.iter().any(is_all)
    }

    /// Whether one of its destinations needs this.
    fn leads_to(&self, access: &Access) -> bool {
        match access {
            Access::Vhost { .. } => false,
            Access::Resource {
                kind: ResourceKind::Exchange,
                name,
                permission,
                ..
            } => self.of(*permission).iter().any(|target| match target {
                Target::Exchange(exchange, _) => exchange == name,
                // The default exchange leads to queues.
                Target::Queue(_) => name.is_empty() && *permission == Permission::Write,
            }),
            Access::Resource {
                kind: ResourceKind::Queue,
                name,
                permission,
                ..
            } => {
                let is_it = |target: &Target| matches!(target, Target::Queue(own) if own == name);
                match permission {
                    // A user who may use a queue may declare it, for both frames do that.
                    Permission::Configure => {
                        self.subscribe.iter().any(is_it) || self.send.iter().any(is_it)
                    }
                    permission => self.of(*permission).iter().any(is_it),
                }
            }
            Access::Topic {
                exchange,
                permission,
                routing_key,
                ..
            } => self.of(*permission).iter().any(|target| match target {
                Target::Exchange(own, key) if own == exchange => {
                    let words = key.iter().map(Part::word);
                    match permission {
                        Permission::Read => routing::covers(words, routing_key),
                        _ => routing::admits(words, routing_key),
                    }
                }
                Target::Exchange(..) => false,
                Target::Queue(own) => {
                    exchange.is_empty() && *permission == Permission::Write && own == routing_key
                }
            }),
        }
    }

    /// No token grants to make exchanges.
    fn of(&self, permission: Permission) -> &[Target] {
        match permission {
            Permission::Read => &self.subscribe,
            Permission::Write => &self.send,
            Permission::Configure => &[],
        }
    }
}

impl Part {
    fn word(&self) -> Word<'_> {
        match self {
            Self::Literal(word) => Word::Literal(word),
            Self::One => Word::One,
            Self::Any => Word::Any,
        }
    }
}

impl From<Word<'_>> for Part {
    fn from(word: Word<'_>) -> Self {
        match word {
            Word::Literal(word) => Self::Literal(word.into()),
            Word::One => Self::One,
            Word::Any => Self::Any,
        }
    }
}
