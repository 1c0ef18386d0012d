//! Messages for those who are away: what the `[offline]` section says, and the names that follow
//! from it (pure).

use std::{collections::BTreeSet, time::Duration};

use serde::Deserialize;

use super::{
    Argument, FEED_QUEUES, QueueSpec,
    destination::{MAX_NAME, check_exchange},
};
use crate::units::{Checked, at_least, at_most, size};

/// The prefix of the names of the exchange and the queue that get what nobody is subscribed to, by
/// the exchange that it was published to.
const OFFLINE: &str = "stentor.feed.offline.";

/// The header of a message that a node hands on, for its last subscriber had just left.
pub const UNHEARD_HEADER: &str = "x-stentor-unheard";

/// The place of the user's name in [`OfflineConfig::key`].
const USERNAME: &str = "{username}";

/// `[offline]`: messages for keys to which nobody is subscribed go to an exchange of their own.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OfflineConfig {
    /// The exchanges whose messages are meant; none: it is off.
    pub sources: BTreeSet<String>,
    /// The exchange that a worker reads from.
    pub exchange: String,
    /// How a user's key is made. Other keys are not meant.
    pub key: KeyTemplate,
    /// How long a message may wait for a node that does not read its queue, before it counts as
    /// unheard.
    #[serde(with = "humantime_serde")]
    pub after: Duration,
    /// Bytes of messages that may wait for the worker, by source; beyond, the oldest are lost.
    #[serde(deserialize_with = "size")]
    pub max_bytes: usize,
}

impl Default for OfflineConfig {
    fn default() -> Self {
        Self {
            sources: BTreeSet::new(),
            exchange: "offline".to_owned(),
            key: KeyTemplate {
                before: "user_".into(),
                after: "".into(),
            },
            after: Duration::from_secs(60),
            max_bytes: 256 << 20,
        }
    }
}

impl OfflineConfig {
    /// Whether it is on.
    #[must_use]
    pub fn is_on(&self) -> bool {
        !self.sources.is_empty()
    }

    /// What feeds have to know of it, in the virtual host that it is for.
    #[must_use]
    pub fn feeds(&self, vhost: &str) -> OfflineFeeds {
        OfflineFeeds {
            vhost: vhost.into(),
            sources: self.sources.clone(),
            after: self.after,
        }
    }

    /// The queue that gets what nobody is subscribed to, of messages to `source`.
    #[must_use]
    pub fn queue(&self, source: &str) -> QueueSpec {
        let argument = |name: &str, value| (Box::<str>::from(name), value);
        let max_bytes = i64::try_from(self.max_bytes).unwrap_or(i64::MAX);
        QueueSpec {
            name: offline_of(source).into(),
            durable: true,
            exclusive: false,
            auto_delete: false,
            arguments: vec![
                argument("x-queue-type", Argument::Text("classic".into())),
                argument("x-max-length-bytes", Argument::Number(max_bytes)),
                argument("x-overflow", Argument::Text("drop-head".into())),
            ],
        }
    }

    /// Whether the values make sense.
    ///
    /// # Errors
    /// The key at fault, and what is wrong and what to do.
    pub fn check(&self) -> Checked {
        check_exchange("exchange", &self.exchange)?;
        for source in &self.sources {
            check_exchange("sources", source)?;
            let most = MAX_NAME.saturating_sub(OFFLINE.len());
            if source.is_empty() || source.len() > most || source.starts_with("amq.") {
                let message = format!(
                    "has {source:?}; write names of 1 to {most} bytes that do not begin with \
                     \"amq.\""
                );
                return Err(("sources", message));
            }
        }
        let is_reserved = self.exchange.starts_with("amq.") && self.exchange != "amq.topic";
        if self.exchange.is_empty()
            || self.exchange.len() > MAX_NAME
            || is_reserved
            || self.exchange.starts_with(FEED_QUEUES)
            || self.sources.contains(&self.exchange)
        {
            let message = format!(
                "is {:?}, to which these messages cannot go; write a name that is neither one of \
                 sources, nor RabbitMQ's or Stentor's own: \"offline\", say",
                self.exchange
            );
            return Err(("exchange", message));
        }
        let why = "messages would pass a node by that is only slow for a moment";
        at_least("after", self.after, Duration::from_secs(1), why)?;
        let why = "nobody would hear for as long of what a killed node left";
        at_most("after", self.after, Duration::from_secs(24 * 3600), why)?;
        if self.max_bytes < 1 << 20 {
            let message = "is less than 1MiB; while no worker reads, the rest is lost; write \
                           \"16MiB\" or more";
            return Err(("max_bytes", message.to_owned()));
        }
        Ok(())
    }
}

/// What feeds have to know of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OfflineFeeds {
    vhost: Box<str>,
    sources: BTreeSet<String>,
    after: Duration,
}

impl OfflineFeeds {
    /// How long messages of that exchange may wait in a feed's queue; `None`: as long as the queue
    /// is there.
    #[must_use]
    pub fn patience(&self, vhost: &str, exchange: &str) -> Option<Duration> {
        let is_meant = *self.vhost == *vhost && self.sources.contains(exchange);
        is_meant.then_some(self.after)
    }

    /// The exchanges of the virtual host that are meant; `None`: there are none.
    #[must_use]
    pub fn sources(&self, vhost: &str) -> Option<&BTreeSet<String>> {
        let is_meant = *self.vhost == *vhost && !self.sources.is_empty();
        is_meant.then_some(&self.sources)
    }
}

/// The exchange that gets what nobody is subscribed to, and its queue, which has the same name. It
/// is the alternate exchange of `source`.
#[must_use]
pub fn offline_of(source: &str) -> String {
    format!("{OFFLINE}{source}")
}

/// The command by which an operator has `source` lead there.
#[must_use]
pub fn policy_for(vhost: &str, source: &str) -> String {
    let pattern = source.chars().fold(String::new(), |mut pattern, char| {
        if !(char.is_alphanumeric() || matches!(char, '_' | '-')) {
            pattern.push('\\');
        }
        pattern.push(char);
        pattern
    });
    let offline = offline_of(source);
    format!(
        "rabbitmqctl set_policy -p '{vhost}' --apply-to exchanges 'stentor.{source}' \
         '^{pattern}$' '{{\"alternate-exchange\":\"{offline}\"}}'"
    )
}

/// The command by which an operator takes its queue away, if it was made with another `max_bytes` and
/// is empty: the gateway makes it anew.
#[must_use]
pub fn delete_offline(vhost: &str, source: &str) -> String {
    let queue = offline_of(source);
    format!("rabbitmqctl delete_queue -p '{vhost}' --if-empty {queue}")
}

/// How a user's key is made: `user_{username}`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct KeyTemplate {
    before: Box<str>,
    after: Box<str>,
}

impl KeyTemplate {
    /// The user whose key it is; `None`: it is no user's.
    #[must_use]
    pub fn user<'a>(&self, key: &'a str) -> Option<&'a str> {
        let rest = key.strip_prefix(&*self.before)?;
        let user = rest.strip_suffix(&*self.after)?;
        (!user.is_empty()).then_some(user)
    }
}

impl TryFrom<String> for KeyTemplate {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.split_once(USERNAME) {
            Some((before, after)) if !after.contains(USERNAME) => Ok(Self {
                before: before.into(),
                after: after.into(),
            }),
            _ => Err(format!(
                "{text:?} does not have {USERNAME} once; write \"user_{USERNAME}\", say"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_tells_its_user() {
        for (template, key, user) in [
            ("user_{username}", "user_alice", Some("alice")),
            ("user_{username}", "user_a.b_c", Some("a.b_c")),
            ("user_{username}", "user_", None),
            ("user_{username}", "room_alice", None),
            ("user_{username}", "User_alice", None),
            ("user.{username}.inbox", "user.alice.inbox", Some("alice")),
            ("user.{username}.inbox", "user.alice.outbox", None),
            ("user.{username}.inbox", "user.inbox", None),
            ("{username}", "alice", Some("alice")),
            ("a{username}a", "a", None),
        ] {
            let template = KeyTemplate::try_from(template.to_owned()).unwrap();
            assert_eq!(template.user(key), user, "{template:?} {key}");
        }
        for wrong in ["", "user_", "{username}{username}", "user_{user}"] {
            assert!(KeyTemplate::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn values_out_of_bounds_are_blamed() {
        assert_eq!(OfflineConfig::default().check(), Ok(()));
        let wrong = |change: fn(&mut OfflineConfig)| {
            let mut config = OfflineConfig {
                sources: ["feed".to_owned()].into(),
                ..OfflineConfig::default()
            };
            change(&mut config);
            config.check().unwrap_err().0
        };
        for source in ["", "amq.topic", &"x".repeat(240)] {
            let config = OfflineConfig {
                sources: [source.to_owned()].into(),
                ..OfflineConfig::default()
            };
            assert_eq!(config.check().unwrap_err().0, "sources", "{source}");
        }
        assert_eq!(wrong(|config| config.exchange = "feed".into()), "exchange");
        assert_eq!(wrong(|config| config.exchange.clear()), "exchange");
        assert_eq!(wrong(|config| config.after = Duration::ZERO), "after");
        assert_eq!(wrong(|config| config.max_bytes = 1), "max_bytes");
    }

    #[test]
    fn only_sources_of_that_virtual_host_are_meant() {
        let config = OfflineConfig {
            sources: ["feed".to_owned()].into(),
            ..OfflineConfig::default()
        };
        let feeds = config.feeds("app");
        assert_eq!(feeds.patience("app", "feed"), Some(config.after));
        assert_eq!(feeds.patience("/", "feed"), None);
        assert_eq!(feeds.patience("app", "news"), None);
        assert!(feeds.sources("app").is_some() && feeds.sources("/").is_none());
    }

    #[test]
    fn the_policy_is_about_this_exchange_alone() {
        assert_eq!(
            policy_for("/", "my.feed"),
            "rabbitmqctl set_policy -p '/' --apply-to exchanges 'stentor.my.feed' '^my\\.feed$' \
             '{\"alternate-exchange\":\"stentor.feed.offline.my.feed\"}'"
        );
    }
}
