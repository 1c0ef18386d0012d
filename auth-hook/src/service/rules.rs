//! Users and their permissions.

use std::collections::HashMap;

use thiserror::Error;

use super::{
    grant::{Grant, GrantError, Pattern},
    password::{PasswordError, PasswordHash},
};
use crate::{Answer, Permission, Question, ResourceKind};

/// The grant of a user without any listed permission: its own feed.
pub const OWN_FEED: &str = "/exchange/feed/user_{username}";

/// A user, and what it may do. Until something is listed by [`Account::read`],
/// [`Account::write`] or [`Account::configure`], that is to read [`OWN_FEED`].
#[derive(Clone, Debug)]
pub struct Account {
    name: Box<str>,
    password: Option<PasswordHash>,
    /// The caller may vouch for the user, by a client certificate that it verified.
    by_certificate: bool,
    tags: Box<str>,
    vhosts: Vec<Pattern>,
    grants: Option<Grants>,
    groups: Vec<Box<str>>,
}

#[derive(Clone, Debug, Default)]
struct Grants {
    read: Vec<Grant>,
    write: Vec<Grant>,
    configure: Vec<Grant>,
}

impl Grants {
    fn of(&self, permission: Permission) -> &[Grant] {
        match permission {
            Permission::Configure => &self.configure,
            Permission::Write => &self.write,
            Permission::Read => &self.read,
        }
    }
}

impl Account {
    /// A user of the virtual host `/`, without tags.
    pub fn new(name: &str, password: PasswordHash) -> Self {
        Account {
            password: Some(password),
            by_certificate: false,
            ..Account::certified(name)
        }
    }

    /// As [`Account::new`], for a user who has no password, and logs in by a client certificate.
    pub fn certified(name: &str) -> Self {
        Account {
            name: name.into(),
            password: None,
            by_certificate: true,
            tags: Box::default(),
            vhosts: vec![Pattern::new("/")],
            grants: None,
            groups: Vec::new(),
        }
    }

    /// Lets it log in by a client certificate as well as by its password.
    pub fn or_certified(mut self) -> Self {
        self.by_certificate = true;
        self
    }

    /// Its tags.
    pub fn tags<'a>(mut self, tags: impl IntoIterator<Item = &'a str>) -> Self {
        if let Answer::Allow { tags } = Answer::allow_with(tags) {
            self.tags = tags;
        }
        self
    }

    /// The groups that it is in (projects, teams): presence tells who of a group is online.
    pub fn groups<'a>(mut self, groups: impl IntoIterator<Item = &'a str>) -> Self {
        self.groups = groups.into_iter().map(Into::into).collect();
        self
    }

    /// The virtual hosts that it may enter, instead of `/`. A `*` stands for any run of
    /// characters, `{username}` for the user's own name.
    pub fn vhosts<'a>(mut self, vhosts: impl IntoIterator<Item = &'a str>) -> Self {
        self.vhosts = vhosts.into_iter().map(Pattern::new).collect();
        self
    }

    /// Lets it read (subscribe to) these, as [`Grant`]s are written.
    ///
    /// # Errors
    /// [`GrantError`]: an entry is no grant.
    pub fn read<'a>(
        mut self,
        grants: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, GrantError> {
        self.grants.get_or_insert_default().read = parse(grants)?;
        Ok(self)
    }

    /// Lets it write (publish to, bind queues) these, as [`Grant`]s are written.
    ///
    /// # Errors
    /// [`GrantError`]: an entry is no grant.
    pub fn write<'a>(
        mut self,
        grants: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, GrantError> {
        self.grants.get_or_insert_default().write = parse(grants)?;
        Ok(self)
    }

    /// Lets it configure (declare, delete) these, as [`Grant`]s are written.
    ///
    /// # Errors
    /// [`GrantError`]: an entry is no grant.
    pub fn configure<'a>(
        mut self,
        grants: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, GrantError> {
        self.grants.get_or_insert_default().configure = parse(grants)?;
        Ok(self)
    }

    fn enters(&self, vhost: &str) -> bool {
        self.vhosts
            .iter()
            .any(|pattern| pattern.matches(&self.name, vhost))
    }
}

fn parse<'a>(grants: impl IntoIterator<Item = &'a str>) -> Result<Vec<Grant>, GrantError> {
    grants.into_iter().map(str::parse).collect()
}

/// All users and their permissions.
#[derive(Clone, Debug)]
pub struct Rules {
    accounts: HashMap<Box<str>, Account>,
    default: Grants,
    /// Verified in place of a user that does not exist, so that nobody learns by the clock
    /// which users exist. The costliest hash of all: a guess at any user costs as much.
    decoy: Option<PasswordHash>,
    allow_all: bool,
}

/// The facts about a user for its login.
pub(crate) struct Login {
    pub(crate) hash: PasswordHash,
    /// `None` if there is no such user: the hash is a decoy.
    pub(crate) tags: Option<Box<str>>,
}

impl Rules {
    /// Rules for these users.
    ///
    /// # Errors
    /// [`RulesError`]: a user's name is impossible, or given twice.
    pub fn new(users: impl IntoIterator<Item = Account>) -> Result<Self, RulesError> {
        let mut accounts = HashMap::new();
        for account in users {
            let name = account.name.clone();
            // `*` and `#` would be wildcards where a name becomes part of a topic binding.
            if name.is_empty() || name.contains(|c: char| c.is_control() || "*#".contains(c)) {
                return Err(RulesError::Name(name));
            }
            if accounts.insert(name.clone(), account).is_some() {
                return Err(RulesError::Twice(name));
            }
        }
        let decoy = accounts
            .values()
            .filter_map(|a: &Account| a.password.as_ref())
            .max_by_key(|p| p.cost());
        Ok(Rules {
            decoy: decoy.cloned(),
            accounts,
            default: Grants {
                read: parse([OWN_FEED])?,
                ..Grants::default()
            },
            allow_all: false,
        })
    }

    /// Allows everything to everybody, with any password. For measuring.
    pub fn allow_all() -> Self {
        Rules {
            accounts: HashMap::new(),
            default: Grants::default(),
            decoy: None,
            allow_all: true,
        }
    }

    /// True if everything is allowed to everybody.
    pub fn allows_all(&self) -> bool {
        self.allow_all
    }

    /// How many users there are.
    pub fn users(&self) -> usize {
        self.accounts.len()
    }

    /// The hash to verify a password against; `None` if nobody can log in at all.
    pub(crate) fn login(&self, username: &str) -> Option<Login> {
        let account = self.accounts.get(username);
        let known = account.and_then(|a| Some((a.password.as_ref()?, &a.tags)));
        Some(Login {
            hash: known.map(|(hash, _)| hash).or(self.decoy.as_ref())?.clone(),
            tags: known.map(|(_, tags)| tags.clone()),
        })
    }

    /// The tags of a user that may log in by a certificate, which the caller verified.
    pub(crate) fn certified(&self, username: &str) -> Option<Box<str>> {
        let account = self.accounts.get(username)?;
        account.by_certificate.then(|| account.tags.clone())
    }

    /// The groups of a user; an unknown user has no group.
    pub(crate) fn groups(&self, username: &str) -> &[Box<str>] {
        self.accounts
            .get(username)
            .map_or(&[], |account| &account.groups)
    }

    /// Answers all calls that are answered by a word, but the user call, to which it says no.
    pub(crate) fn answer(&self, question: &Question<'_>) -> Answer {
        let name = question.username();
        let Some(account) = self.accounts.get(name) else {
            return Answer::deny("unknown user");
        };
        let vhost = match question {
            Question::User(_) => return Answer::deny("a password is needed"),
            Question::Groups(_) => return Answer::deny("a list is asked for"),
            Question::Vhost(q) => &q.vhost,
            Question::Resource(q) => &q.vhost,
            Question::Topic(q) => &q.vhost,
        };
        if !account.enters(vhost) {
            return Answer::deny(&format!("{name} may not enter the virtual host {vhost}"));
        }
        let grants = account.grants.as_ref().unwrap_or(&self.default);
        // A user that may write to a queue may publish to it: the default exchange does that.
        let to_queues = |permission, exchange: &str| {
            permission == Permission::Write && exchange == "amq.default"
        };
        let (permission, allowed) = match question {
            Question::User(_) | Question::Vhost(_) | Question::Groups(_) => return Answer::allow(),
            Question::Resource(q) => (
                q.permission,
                grants
                    .of(q.permission)
                    .iter()
                    .any(|grant| match q.resource {
                        ResourceKind::Queue => grant.covers_queue(name, &q.name),
                        ResourceKind::Exchange => {
                            grant.covers_exchange(name, &q.name)
                                || to_queues(q.permission, &q.name) && grant.is_queue()
                        }
                    }),
            ),
            Question::Topic(q) => (
                q.permission,
                grants.of(q.permission).iter().any(|grant| {
                    grant.covers_key(name, &q.name, &q.routing_key)
                        || to_queues(q.permission, &q.name)
                            && grant.covers_queue(name, &q.routing_key)
                }),
            ),
        };
        if allowed {
            return Answer::allow();
        }
        let what = match question {
            Question::Resource(q) => format!("{} {}", q.resource.name(), q.name),
            Question::Topic(q) => format!("key {} of exchange {}", q.routing_key, q.name),
            Question::User(_) | Question::Vhost(_) | Question::Groups(_) => String::new(),
        };
        Answer::deny(&format!("{name} may not {} {what}", permission.name()))
    }
}

/// Why there are no rules.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RulesError {
    /// The file cannot be read.
    #[error("it cannot be read: {0}")]
    Read(#[from] std::io::Error),
    /// The text is not what a users file is.
    #[error("line {line}: {message}")]
    Syntax {
        /// Where, from 1.
        line: usize,
        /// The fault; shows no values.
        message: Box<str>,
    },
    /// A user has an impossible name.
    #[error(
        "the user name {0:?} is impossible: it is empty, or has `*`, `#` or control characters"
    )]
    Name(Box<str>),
    /// There are two users of one name.
    #[error("there are two users {0:?}")]
    Twice(Box<str>),
    /// A user has neither a password nor a certificate.
    #[error("user {0:?} cannot log in: it has neither `hash` nor `certificate = true`")]
    NoLogin(Box<str>),
    /// A user's `hash` is not a hash.
    #[error("the hash of user {user:?}: {problem}")]
    Hash {
        /// Whose.
        user: Box<str>,
        /// What is wrong.
        problem: PasswordError,
    },
    /// An entry of a list is no grant.
    #[error(transparent)]
    Grant(#[from] GrantError),
    /// An entry of a user's list is no grant.
    #[error("user {user:?}: {problem}")]
    UsersGrant {
        /// Whose.
        user: Box<str>,
        /// What is wrong.
        problem: GrantError,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_user_costs_as_much_as_the_costliest_user() {
        let (weak, strong) = (
            PasswordHash::weak("a").unwrap(),
            PasswordHash::new("b").unwrap(),
        );
        assert!(weak.cost() < strong.cost());
        let rules = Rules::new([Account::new("a", weak), Account::new("b", strong)]).unwrap();
        let nobody = rules.login("c").unwrap();
        assert_eq!(nobody.hash.cost(), PasswordHash::new("x").unwrap().cost());
        assert_eq!(
            nobody.tags, None,
            "not even with the right password of another"
        );
        assert_eq!(rules.login("a").unwrap().tags.as_deref(), Some(""));
    }

    #[test]
    fn impossible_and_double_names_are_refused() {
        let hash = PasswordHash::weak("a").unwrap();
        let rules =
            |names: &[&str]| Rules::new(names.iter().map(|name| Account::new(name, hash.clone())));
        assert_eq!(rules(&["a", "b.c", "d e"]).unwrap().users(), 3);
        for name in ["", "*", "a.#", "a\nb"] {
            assert!(
                matches!(rules(&[name]), Err(RulesError::Name(_))),
                "{name:?}"
            );
        }
        assert!(matches!(rules(&["a", "a"]), Err(RulesError::Twice(_))));
    }
}
