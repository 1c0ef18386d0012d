//! The `[presence]` section.

use std::{collections::BTreeSet, fmt, str::FromStr, time::Duration};

use serde::Deserialize;

use crate::{
    broker::destination::{MAX_NAME, check_exchange},
    secret_url::SecretUrl,
    units::{Checked, at_least, at_least_one, at_most},
};

/// The `[presence]` section: the store of online users, and its times.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The store; off by default.
    pub url: Url,
    /// How long a node's users count as here after the node was last heard of. Nodes renew at a
    /// third of it: shorter is quicker to notice a killed node, and less patient with Redis.
    #[serde(with = "humantime_serde")]
    pub lease: Duration,
    /// Publishes an event when the status that others see of a user changes.
    pub events: bool,
    /// The topic exchange that they go to, in the default virtual host.
    pub exchange: Box<str>,
    /// How long after a session left its user counts as one who may come back: a page that is
    /// loaded again is no event.
    #[serde(with = "humantime_serde")]
    pub debounce: Duration,
    /// The exchanges whose keys are rooms: their members are known, over all nodes.
    pub destinations: BTreeSet<Box<str>>,
    /// The members of a room at most; 0: any number.
    pub max_members: u64,
    /// Rooms that this node's clients are in, at most.
    pub max_rooms: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            url: Url::Off,
            lease: Duration::from_secs(15),
            events: true,
            exchange: "presence".into(),
            debounce: Duration::from_secs(5),
            destinations: BTreeSet::new(),
            max_members: 0,
            max_rooms: 1_000_000,
        }
    }
}

impl Config {
    /// Checks the values.
    ///
    /// # Errors
    /// The key at fault, the fault, and the remedy.
    pub fn check(&self) -> Checked {
        let why = "one late renewal would take all users offline";
        at_least("lease", self.lease, Duration::from_secs(1), why)?;
        let why = "users of a killed node would count as here for as long";
        at_most("lease", self.lease, MAX_LEASE, why)?;
        let why = "nobody would hear for as long that a user left";
        at_most("debounce", self.debounce, MAX_DEBOUNCE, why)?;
        check_exchange("exchange", &self.exchange)?;
        for name in &self.destinations {
            check_exchange("destinations", name)?;
        }
        let is_reserved = self.exchange.starts_with("amq.") && &*self.exchange != "amq.topic";
        if self.exchange.is_empty() || self.exchange.len() > MAX_NAME || is_reserved {
            let message = format!(
                "{:?} is no exchange that events can go to; write a name of at most {MAX_NAME} \
                 bytes that does not begin with \"amq.\", \"presence\", say, or events = false",
                self.exchange
            );
            return Err(("exchange", message));
        }
        if !self.destinations.is_empty() && self.url == Url::Off {
            let message = "names exchanges whose keys are rooms, but `url` is \"off\", so nobody \
                           knows who is in them; name a store there, or none here";
            return Err(("destinations", message.to_owned()));
        }
        if self.destinations.is_empty() && self.max_members > 0 {
            let message = "bounds the members of rooms, but `destinations` names no exchange whose \
                           keys are rooms; name one there, or leave this out";
            return Err(("max_members", message.to_owned()));
        }
        let is_named = |name: &str| (1..=MAX_NAME).contains(&name.len());
        if let Some(name) = self.destinations.iter().find(|name| !is_named(name)) {
            let message = format!(
                "{name:?} is no exchange whose keys can be rooms; write names of 1 to {MAX_NAME} bytes"
            );
            return Err(("destinations", message));
        }
        at_least_one("max_rooms", self.max_rooms, "nobody could enter a room")
    }

    /// True if there are events to publish.
    #[must_use]
    pub fn has_events(&self) -> bool {
        self.events && self.url != Url::Off
    }
}

const MAX_LEASE: Duration = Duration::from_secs(24 * 60 * 60);
const MAX_DEBOUNCE: Duration = Duration::from_secs(60 * 60);

/// The store of presence.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Url {
    /// `off`: nowhere.
    #[default]
    Off,
    /// `memory:`: in this process, for a single node.
    Memory,
    /// `redis:` or, with TLS, `rediss:`: shared by all nodes. [`super::RedisConfig`] says more.
    Redis(SecretUrl),
}

/// A URL is wrong. The text never shows the URL: it may contain a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "is not a place for presence; write \"off\", \"memory:\" or \"redis://user:password@host:6379/0\" \
     (characters such as \"/\" and \"@\" in a password as %2F and %40; with TLS: \"rediss://…\")"
)]
pub struct UrlError;

impl FromStr for Url {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        match text {
            "off" => return Ok(Self::Off),
            "memory:" => return Ok(Self::Memory),
            _ => {}
        }
        let url = url::Url::parse(text).map_err(|_| UrlError)?;
        let database = url.path().trim_start_matches('/');
        let database_is_a_number = database.is_empty() || database.parse::<u32>().is_ok();
        let has_host = url.host_str().is_some_and(|host| !host.is_empty());
        let bare = url.query().is_none() && url.fragment().is_none();
        let is_redis = matches!(url.scheme(), "redis" | "rediss");
        if !is_redis || !has_host || !database_is_a_number || !bare {
            return Err(UrlError);
        }
        Ok(Self::Redis(url.into()))
    }
}

impl TryFrom<String> for Url {
    type Error = UrlError;

    fn try_from(text: String) -> Result<Self, UrlError> {
        text.parse()
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Memory => f.write_str("memory:"),
            Self::Redis(url) => url.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_shows_itself_without_its_password() {
        let url: Url = "redis://:s3cret@redis.example:6379/2".parse().unwrap();
        assert_eq!(url.to_string(), "redis://:***@redis.example:6379/2");
        assert!(!format!("{url:?} {url:#?}").contains("s3cret"));
        let Url::Redis(url) = url else { panic!() };
        assert_eq!(url.reveal(), "redis://:s3cret@redis.example:6379/2");
    }

    #[test]
    fn a_refused_url_says_what_to_write_and_no_password() {
        for text in [
            "",
            "on",
            "http://:s3cret@host",
            "rediss://:s3cret@host/#insecure",
            "redis://",
            "redis://:s3cret@host/zero",
            "redis://:p@s3cret/0@host:6379",
            "redis://:1/s3cret@host",
            "redis://:p@s3cret?0@host",
        ] {
            assert_eq!(text.parse::<Url>(), Err(UrlError), "{text}");
        }
        assert!(!UrlError.to_string().contains("s3cret"));
    }

    #[test]
    fn without_redis() {
        assert_eq!("off".parse(), Ok(Url::Off));
        assert_eq!("memory:".parse(), Ok(Url::Memory));
        assert_eq!(Config::default().check(), Ok(()));
        for lease in [Duration::from_millis(999), Duration::MAX] {
            let config = Config {
                lease,
                ..Config::default()
            };
            assert_eq!(config.check().unwrap_err().0, "lease");
        }
    }

    #[test]
    fn events_go_somewhere_in_time() {
        for exchange in ["", "amq.fanout", &"x".repeat(256)] {
            let config = Config {
                exchange: exchange.into(),
                ..Config::default()
            };
            assert_eq!(config.check().unwrap_err().0, "exchange", "{exchange}");
        }
        let config = Config {
            debounce: Duration::MAX,
            ..Config::default()
        };
        assert_eq!(config.check().unwrap_err().0, "debounce");
        assert!(
            !Config::default().has_events(),
            "without presence there are none"
        );
    }
}
