//! RabbitMQ's definitions, as `rabbitmqctl export_definitions` and the management plug-in write
//! them: JSON in, accounts out (pure).

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Deserializer, de};
use thiserror::Error;

use super::{
    accounts::{Account, Accounts, Rights, TopicRights, exchange_name},
    password::{Hashing, PasswordHash},
    pattern::{Pattern, PatternError, escape},
};

/// What of the definitions matters here.
#[derive(Debug, Default)]
pub struct Definitions {
    users: Vec<UserEntry>,
    vhosts: Vec<VhostEntry>,
    permissions: Vec<PermissionEntry>,
    topic_permissions: Vec<TopicPermissionEntry>,
}

/// Definitions that cannot be used. The text names the place, and nothing that is secret.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DefinitionsError {
    /// It is not JSON, or a field is not what it should be.
    #[error("{place}{problem}")]
    Json {
        /// The path of the field, with a colon; or nothing.
        place: String,
        /// The parser's words, with line and column.
        problem: String,
    },
    /// It is an export without users.
    #[error(
        "has no {0}: it is the export of one virtual host, or no export at all; export all of \
         RabbitMQ (rabbitmqctl export_definitions FILE)"
    )]
    NotWhole(&'static str),
    /// A user cannot be taken.
    #[error("user {user:?}: {problem}")]
    User {
        /// Whose.
        user: Box<str>,
        /// The field, and what is wrong with it.
        problem: String,
    },
    /// A permission cannot be taken.
    #[error(
        "{kind} of user {user:?} in virtual host {vhost:?}: {field} pattern {pattern:?} {problem}"
    )]
    Pattern {
        /// `permission`, or `topic permission for exchange …`.
        kind: Box<str>,
        /// Whose.
        user: Box<str>,
        /// Where.
        vhost: Box<str>,
        /// `configure`, `write` or `read`.
        field: &'static str,
        /// The pattern, cut if it is long.
        pattern: Box<str>,
        /// The reason.
        problem: PatternError,
    },
    /// The lists are of two moments.
    #[error(
        "the permission of user {user:?} in virtual host {vhost:?} has changed while the lists were \
         asked for"
    )]
    Changed {
        /// Whose.
        user: Box<str>,
        /// Where.
        vhost: Box<str>,
    },
}

#[derive(Debug, Deserialize)]
struct Export {
    users: Option<Vec<UserEntry>>,
    vhosts: Option<Vec<VhostEntry>>,
    permissions: Option<Vec<PermissionEntry>>,
    topic_permissions: Option<Vec<TopicPermissionEntry>>,
}

#[derive(Deserialize)]
struct UserEntry {
    name: Box<str>,
    #[serde(default, deserialize_with = "secret")]
    password_hash: Option<Box<str>>,
    hashing_algorithm: Option<Box<str>>,
    #[serde(default)]
    tags: Tags,
    /// Nothing but that it is there is of interest: RabbitMQ itself exports none.
    #[serde(default, rename = "password", deserialize_with = "is_there")]
    has_password: bool,
}

/// A list, and before RabbitMQ 3.9 a text with commas.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tags(Vec<String>);

#[derive(Debug, Deserialize)]
struct VhostEntry {
    name: Box<str>,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
struct PermissionEntry {
    user: Box<str>,
    vhost: Box<str>,
    configure: Box<str>,
    write: Box<str>,
    read: Box<str>,
}

#[derive(Debug, Deserialize)]
struct TopicPermissionEntry {
    user: Box<str>,
    vhost: Box<str>,
    exchange: Box<str>,
    write: Box<str>,
    read: Box<str>,
}

impl Definitions {
    /// Reads an export of all definitions.
    ///
    /// # Errors
    /// It is none.
    pub fn from_export(json: &[u8]) -> Result<Self, DefinitionsError> {
        let export: Export = read(json, "")?;
        let missing = DefinitionsError::NotWhole;
        Ok(Self {
            users: export.users.ok_or(missing("users"))?,
            vhosts: export.vhosts.ok_or(missing("vhosts"))?,
            permissions: export.permissions.ok_or(missing("permissions"))?,
            // RabbitMQ before 3.7 has none.
            topic_permissions: export.topic_permissions.unwrap_or_default(),
        })
    }

    /// Reads the lists of the management plug-in: users, virtual hosts, permissions, topic
    /// permissions, and permissions once more. Those count that were there before the topic
    /// permissions and behind them, with the same patterns: older ones would come with no topic
    /// permissions, which are all keys.
    ///
    /// # Errors
    /// One of them is no such list, or patterns have changed in between.
    pub fn from_lists(
        [users, vhosts, permissions, topic_permissions, still]: [&[u8]; 5],
    ) -> Result<Self, DefinitionsError> {
        let mut permissions: Vec<PermissionEntry> = read(permissions, "permissions")?;
        let still: Vec<PermissionEntry> = read(still, "permissions")?;
        let still: HashMap<_, _> = still
            .iter()
            .map(|entry| ((&*entry.user, &*entry.vhost), entry))
            .collect();
        permissions.retain(|entry| still.contains_key(&(&*entry.user, &*entry.vhost)));
        let changed = permissions
            .iter()
            .find(|entry| still.get(&(&*entry.user, &*entry.vhost)) != Some(entry));
        if let Some(entry) = changed {
            return Err(DefinitionsError::Changed {
                user: entry.user.clone(),
                vhost: entry.vhost.clone(),
            });
        }
        Ok(Self {
            users: read(users, "users")?,
            vhosts: read(vhosts, "vhosts")?,
            permissions,
            topic_permissions: read(topic_permissions, "topic-permissions")?,
        })
    }

    /// The accounts. Patterns of `former` ones are used again, as far as they are the same.
    ///
    /// # Errors
    /// A user or a pattern cannot be taken.
    pub fn accounts(self, former: &Accounts) -> Result<Accounts, DefinitionsError> {
        let vhosts: HashSet<Box<str>> = self.vhosts.into_iter().map(|vhost| vhost.name).collect();
        let mut accounts = Accounts {
            vhosts: vhosts.len(),
            ..Accounts::default()
        };
        for entry in self.users {
            let (name, account) = entry.account()?;
            accounts.users.insert(name, account);
        }
        let mut patterns = Patterns {
            former,
            taken: HashMap::new(),
        };
        // RabbitMQ ties permissions to users and virtual hosts; in lists that were asked for one
        // after the other, those of one that is just gone may be left.
        for entry in self.permissions {
            let Some(account) = accounts.users.get_mut(&entry.user) else {
                continue;
            };
            if vhosts.contains(&entry.vhost) {
                let mut pattern = |field, text: &str| {
                    let pattern = patterns.pattern(text);
                    pattern.map_err(|problem| entry.wrong(field, text, problem))
                };
                let rights = Rights {
                    configure: pattern("configure", &entry.configure)?,
                    write: pattern("write", &entry.write)?,
                    read: pattern("read", &entry.read)?,
                    topics: HashMap::new(),
                };
                account.rights.insert(entry.vhost, rights);
            }
        }
        for entry in self.topic_permissions {
            let account = accounts.users.get_mut(&entry.user);
            let Some(rights) = account.and_then(|account| account.rights.get_mut(&entry.vhost))
            else {
                continue;
            };
            let mut pattern = |field, text: &str| {
                let expanded = expand(text, &entry.user, &entry.vhost);
                let pattern = patterns.pattern(&expanded);
                pattern.map_err(|problem| entry.wrong(field, text, problem))
            };
            let topic = TopicRights {
                write: pattern("write", &entry.write)?,
                read: pattern("read", &entry.read)?,
            };
            let exchange = exchange_name(&entry.exchange).into();
            rights.topics.insert(exchange, topic);
        }
        accounts.patterns = patterns.taken;
        Ok(accounts)
    }
}

impl UserEntry {
    fn account(self) -> Result<(Box<str>, Account), DefinitionsError> {
        let wrong = |problem: String| DefinitionsError::User {
            user: self.name.clone(),
            problem,
        };
        let hashing = match self.hashing_algorithm.as_deref() {
            // As RabbitMQ imports it.
            None => Hashing::Sha256,
            Some(name) => Hashing::named(name).ok_or_else(|| {
                wrong(format!(
                    "hashing_algorithm {name:?} is not known here, but \
                     rabbit_password_hashing_sha256, _sha512 and _md5 are; set the password anew \
                     with one of them, or let the hook know this user"
                ))
            })?,
        };
        if self.has_password {
            return Err(wrong(
                "password is there in plain text, which RabbitMQ never exports; give its \
                 password_hash (rabbitmqctl hash_password)"
                    .to_owned(),
            ));
        }
        let hash = self.password_hash.as_deref().unwrap_or_default();
        let salted = STANDARD
            .decode(hash)
            .map_err(|_| wrong("password_hash is not base64".to_owned()))?;
        let account = Account {
            password: PasswordHash::new(hashing, salted),
            tags: self.tags.0.join(" ").into(),
            rights: HashMap::new(),
        };
        Ok((self.name, account))
    }
}

impl PermissionEntry {
    fn wrong(&self, field: &'static str, text: &str, problem: PatternError) -> DefinitionsError {
        DefinitionsError::Pattern {
            kind: "permission".into(),
            user: self.user.clone(),
            vhost: self.vhost.clone(),
            field,
            pattern: shown(text),
            problem,
        }
    }
}

impl TopicPermissionEntry {
    fn wrong(&self, field: &'static str, text: &str, problem: PatternError) -> DefinitionsError {
        DefinitionsError::Pattern {
            kind: format!("topic permission for exchange {:?}", self.exchange).into(),
            user: self.user.clone(),
            vhost: self.vhost.clone(),
            field,
            pattern: shown(text),
            problem,
        }
    }
}

fn shown(pattern: &str) -> Box<str> {
    const MOST: usize = 200;
    pattern.chars().take(MOST).collect()
}

/// Each pattern is compiled once, however many users have it.
struct Patterns<'a> {
    former: &'a Accounts,
    taken: HashMap<Box<str>, Arc<Pattern>>,
}

impl Patterns<'_> {
    fn pattern(&mut self, text: &str) -> Result<Arc<Pattern>, PatternError> {
        if let Some(pattern) = self.taken.get(text) {
            return Ok(Arc::clone(pattern));
        }
        let pattern = match self.former.patterns.get(text) {
            Some(pattern) => Arc::clone(pattern),
            None => Arc::new(Pattern::new(text)?),
        };
        self.taken.insert(text.into(), Arc::clone(&pattern));
        Ok(pattern)
    }
}

/// Puts in the user's name and the virtual host's. They are texts, not patterns. RabbitMQ 4.3
/// does so, too; 3.10 puts them in as they are, so that a user `a.c` may read the keys of `abc`.
fn expand(pattern: &str, user: &str, vhost: &str) -> String {
    let mut expanded = String::with_capacity(pattern.len());
    let mut rest = pattern;
    loop {
        let places = [("{username}", user), ("{vhost}", vhost)];
        let places = places.into_iter().filter_map(|(name, value)| {
            let (before, after) = rest.split_once(name)?;
            Some((before, after, value))
        });
        let Some((before, after, value)) = places.min_by_key(|(before, ..)| before.len()) else {
            expanded.push_str(rest);
            return expanded;
        };
        expanded.push_str(before);
        expanded.push_str(&escape(value));
        rest = after;
    }
}

/// Reads JSON. Errors name the path below `place`, the line and the column.
fn read<'a, T: Deserialize<'a>>(json: &'a [u8], place: &str) -> Result<T, DefinitionsError> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        let path = match (place, path.as_str()) {
            ("", ".") => String::new(),
            ("", path) => format!("{path}: "),
            (place, ".") => format!("{place}: "),
            (place, path) => format!("{place}{path}: "),
        };
        DefinitionsError::Json {
            place: path,
            problem: error.inner().to_string(),
        }
    })?;
    deserializer.end().map_err(|error| DefinitionsError::Json {
        place: String::new(),
        problem: error.to_string(),
    })?;
    Ok(value)
}

/// A text, or nothing. An error shows no part of it.
fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<str>>, D::Error> {
    match serde_json::Value::deserialize(deserializer)? {
        serde_json::Value::Null => Ok(None),
        serde_json::Value::String(text) => Ok(Some(text.into())),
        _ => Err(de::Error::custom("is no text")),
    }
}

/// That it is there.
fn is_there<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    de::IgnoredAny::deserialize(deserializer).map(|_| true)
}

impl<'de> Deserialize<'de> for Tags {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Tags;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of tags, or a text with commas between them")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Tags, E> {
                let tags = text.split(',').map(str::trim);
                let tags = tags.filter(|tag| !tag.is_empty());
                Ok(Tags(tags.map(str::to_owned).collect()))
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Tags, A::Error> {
                let mut tags = Vec::new();
                while let Some(tag) = list.next_element()? {
                    tags.push(tag);
                }
                Ok(Tags(tags))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

/// Without the hash.
impl fmt::Debug for UserEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserEntry")
            .field("name", &self.name)
            .field("tags", &self.tags)
            .finish_non_exhaustive()
    }
}
