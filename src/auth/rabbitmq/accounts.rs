//! RabbitMQ's users and their rights, and the answers that follow from them (pure).

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::Arc,
};

use super::{password::PasswordHash, pattern::Pattern};
use crate::auth::{Access, Permission, ResourceKind};

/// The default exchange's name in permissions.
const DEFAULT_EXCHANGE: &str = "amq.default";

/// All users, as one export has them.
#[derive(Default)]
pub struct Accounts {
    pub(super) users: HashMap<Box<str>, Account>,
    /// The patterns of all of them, by their texts: users mostly share theirs.
    pub(super) patterns: HashMap<Box<str>, Arc<Pattern>>,
    /// How many virtual hosts there are.
    pub(super) vhosts: usize,
}

/// A user.
#[derive(PartialEq, Eq)]
pub(super) struct Account {
    pub(super) password: PasswordHash,
    /// Separated by blanks.
    pub(super) tags: Arc<str>,
    /// By virtual host; of those that there are.
    pub(super) rights: HashMap<Box<str>, Rights>,
}

/// The rights of a user in a virtual host.
#[derive(PartialEq, Eq)]
pub(super) struct Rights {
    pub(super) configure: Arc<Pattern>,
    pub(super) write: Arc<Pattern>,
    pub(super) read: Arc<Pattern>,
    /// By exchange; all routing keys of an exchange that is not here are allowed.
    pub(super) topics: HashMap<Box<str>, TopicRights>,
}

/// The routing keys of an exchange that a user may write and read.
#[derive(PartialEq, Eq)]
pub(super) struct TopicRights {
    pub(super) write: Arc<Pattern>,
    pub(super) read: Arc<Pattern>,
}

/// The reason for a no; for the log.
pub(super) type Denial = &'static str;

impl Accounts {
    /// True if there is a user of that name.
    #[must_use]
    pub fn has(&self, user: &str) -> bool {
        self.users.contains_key(user)
    }

    /// The tags of a user whose password is right. `None` as the password: a certificate proved
    /// the user.
    pub(super) fn log_in(&self, user: &str, password: Option<&str>) -> Result<Arc<str>, Denial> {
        let account = self.users.get(user).ok_or("RabbitMQ has no such user")?;
        match password {
            Some("") => Err("the password is empty"),
            Some(password) if !account.password.is_of(password) => Err("the password is wrong"),
            _ => Ok(Arc::clone(&account.tags)),
        }
    }

    /// Whether a user may do this.
    pub(super) fn allow(&self, user: &str, access: &Access) -> Result<(), Denial> {
        let account = self.users.get(user).ok_or("RabbitMQ has no such user")?;
        let (Access::Vhost { vhost, .. }
        | Access::Resource { vhost, .. }
        | Access::Topic { vhost, .. }) = access;
        let rights = account.rights.get(&**vhost);
        let rights = rights.ok_or("RabbitMQ gives the user no permissions in this virtual host")?;
        if rights.allow(access) {
            Ok(())
        } else {
            Err("RabbitMQ's permissions do not match")
        }
    }

    /// The users who are not as they were: their password, tags or rights, or they are new or gone.
    pub(super) fn changed_since(&self, former: &Self) -> BTreeSet<Box<str>> {
        let changed = self
            .users
            .iter()
            .filter(|(name, account)| former.users.get(*name) != Some(account));
        let gone = former
            .users
            .keys()
            .filter(|name| !self.users.contains_key(*name));
        changed.map(|(name, _)| name).chain(gone).cloned().collect()
    }

    /// The number of users.
    #[must_use]
    pub fn len(&self) -> usize {
        self.users.len()
    }

    /// True if there are no users.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// The number of virtual hosts.
    #[must_use]
    pub fn vhosts(&self) -> usize {
        self.vhosts
    }

    /// The number of users whose passwords are hashed by MD5.
    #[must_use]
    pub fn weak_passwords(&self) -> usize {
        let accounts = self.users.values();
        accounts
            .filter(|account| account.password.is_weak())
            .count()
    }
}

impl Rights {
    fn allow(&self, access: &Access) -> bool {
        match access {
            // To have rights there is to be let in.
            Access::Vhost { .. } => true,
            Access::Resource {
                kind,
                name,
                permission,
                ..
            } => {
                let name = match kind {
                    ResourceKind::Exchange => exchange_name(name),
                    ResourceKind::Queue => name,
                };
                let pattern = match permission {
                    Permission::Configure => &self.configure,
                    Permission::Write => &self.write,
                    Permission::Read => &self.read,
                };
                pattern.matches(name)
            }
            Access::Topic {
                exchange,
                permission,
                routing_key,
                ..
            } => match (self.topics.get(exchange_name(exchange)), permission) {
                (None, _) => true,
                (Some(topic), Permission::Write) => topic.write.matches(routing_key),
                (Some(topic), Permission::Read) => topic.read.matches(routing_key),
                // A key cannot be configured; nobody asks.
                (Some(_), Permission::Configure) => false,
            },
        }
    }
}

/// As permissions name it.
pub(super) fn exchange_name(name: &str) -> &str {
    match name {
        "" => DEFAULT_EXCHANGE,
        name => name,
    }
}

/// Neither names nor hashes.
impl fmt::Debug for Accounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accounts")
            .field("users", &self.users.len())
            .field("vhosts", &self.vhosts)
            .field("patterns", &self.patterns.len())
            .finish_non_exhaustive()
    }
}
