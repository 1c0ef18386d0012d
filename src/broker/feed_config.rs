//! The `[feed]` section.

use std::{num::NonZero, time::Duration};

use serde::Deserialize;

use super::{OfflineFeeds, destination::check_exchange};
use crate::units::{Checked, at_least_one, size};

/// More shards than this help nobody: each is a queue and a consumer per virtual host.
const MAX_SHARDS: u16 = 256;
/// Exchanges are looked at no more often than this.
const MIN_VERIFY_INTERVAL: Duration = Duration::from_millis(100);
/// RabbitMQ takes names of 255 bytes, and `.keys` is put behind this one.
const MAX_WHOLE_NAME: usize = 250;
/// RabbitMQ takes `x-expires` as milliseconds in 32 bits.
const MAX_EXPIRES: Duration = Duration::from_millis(u32::MAX as u64);

/// Shared feeds: the queues that subscriptions of one node have in common.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FeedConfig {
    /// Whether feed queues outlive a restart of the broker. `true`: nothing is missed. `false`:
    /// bindings are made several times faster, and a restart tells clients of the gap.
    pub durable: bool,
    /// Whether feed queues are quorum queues, which outlive the death of any one node of a cluster.
    /// What a lost link leaves open comes again then, marked as redelivered.
    pub replicated: bool,
    /// What is bound to feed queues.
    pub binding: Binding,
    /// Direct exchanges that are read whole, by an alternate exchange ([`Binding::All`]): no work at
    /// the broker per user there, either.
    pub whole: Vec<String>,
    /// Whether others may bind keys at those: nodes with [`Binding::Key`], or services. Their
    /// bindings keep messages from the alternate exchange, so each key is bound past them.
    pub bridge: bool,
    /// Feed queues per virtual host and node; 0: one a core.
    pub shards: u16,
    /// How long a key stays bound after its last subscription ended, so that a page's reload
    /// costs the broker nothing.
    #[serde(with = "humantime_serde")]
    pub linger: Duration,
    /// How often it is looked whether exchanges are still those that feeds are bound to; zero:
    /// never.
    #[serde(with = "humantime_serde")]
    pub verify_interval: Duration,
    /// Keys a second that are bound again, in turn, in case somebody took their bindings away: in
    /// all virtual hosts together.
    pub verify_rate: u32,
    /// How long the broker keeps a feed queue (and what it collects) that no node consumes
    /// (`x-expires`): an outage of the link up to this long loses nothing.
    #[serde(with = "humantime_serde")]
    pub expires: Duration,
    /// Bytes that a feed queue may hold while the node is away (`x-max-length-bytes`); beyond,
    /// the oldest are lost.
    #[serde(deserialize_with = "size")]
    pub max_length_bytes: usize,
    /// Messages that the broker sends ahead of acknowledgements. Enough to keep a fast link
    /// busy, few enough to be sent again cheaply.
    pub prefetch: u16,
    /// What is done with messages that nobody is subscribed to: of the section `[offline]`.
    #[serde(skip)]
    pub offline: OfflineFeeds,
}

/// What is bound to feed queues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Binding {
    /// The keys that have local subscriptions.
    #[default]
    Key,
    /// Everything (`#`) of topic and fanout exchanges, once: no work at the broker per user, but
    /// every node receives every message. The same of the direct exchanges in [`FeedConfig::whole`].
    All,
}

impl Default for FeedConfig {
    fn default() -> Self {
        Self {
            durable: true,
            replicated: false,
            binding: Binding::Key,
            whole: Vec::new(),
            bridge: true,
            shards: 0,
            linger: Duration::from_secs(10),
            verify_interval: Duration::from_secs(5),
            verify_rate: 100,
            expires: Duration::from_secs(600),
            max_length_bytes: 256 << 20,
            prefetch: 1000,
            offline: OfflineFeeds::default(),
        }
    }
}

impl FeedConfig {
    /// How many shards there are, on a machine of so many cores. With [`Binding::All`] it is
    /// one: each more would receive everything once more.
    #[must_use]
    pub fn shards(&self, cores: NonZero<usize>) -> u16 {
        match (self.binding, self.shards) {
            (Binding::All, _) => 1,
            (Binding::Key, 0) => u16::try_from(cores.get())
                .unwrap_or(MAX_SHARDS)
                .min(MAX_SHARDS),
            (Binding::Key, shards) => shards,
        }
    }

    /// Whether the exchange is to be read whole, if it is a direct one.
    #[must_use]
    pub fn reads_whole(&self, exchange: &str) -> bool {
        self.binding == Binding::All && self.whole.iter().any(|whole| whole == exchange)
    }

    /// Whether the values make sense.
    ///
    /// # Errors
    /// The key at fault, and what is wrong and what to do.
    pub fn check(&self) -> Checked {
        if self.replicated && !self.durable {
            return Err((
                "replicated",
                "is true, but durable is false, and RabbitMQ's replicated queues are durable; \
                 write durable = true, or leave one out"
                    .to_owned(),
            ));
        }
        self.check_whole()?;
        if self.shards > MAX_SHARDS {
            return Err((
                "shards",
                format!(
                    "is {}, more than {MAX_SHARDS}; write 0 for one a core",
                    self.shards
                ),
            ));
        }
        if self.binding == Binding::All && self.shards > 1 {
            return Err((
                "shards",
                format!(
                    "is {}, but with binding = \"all\" each shard would receive every message; \
                     write 0 or 1",
                    self.shards
                ),
            ));
        }
        if !self.verify_interval.is_zero() && self.verify_interval < MIN_VERIFY_INTERVAL {
            return Err((
                "verify_interval",
                format!(
                    "is {}, more often than a broker should be asked; write e.g. \"5s\", or \"0s\" \
                     for never",
                    humantime::format_duration(self.verify_interval)
                ),
            ));
        }
        at_least_one(
            "verify_rate",
            self.verify_rate,
            "no key would be looked after; write verify_interval = \"0s\" to have that",
        )?;
        if self.expires < Duration::from_secs(1) || self.expires > MAX_EXPIRES {
            return Err((
                "expires",
                format!(
                    "is {}; RabbitMQ takes up to 49 days, and under a second queues would vanish \
                     between two consumers; write e.g. \"10m\"",
                    humantime::format_duration(self.expires)
                ),
            ));
        }
        at_least_one(
            "max_length_bytes",
            self.max_length_bytes,
            "feeds would be empty",
        )?;
        at_least_one("prefetch", self.prefetch, "RabbitMQ would set no bound")
    }

    fn check_whole(&self) -> Checked {
        let wrong = |message| Err(("whole", message));
        if !self.whole.is_empty() && self.binding != Binding::All {
            let text = "names exchanges, but binding is \"key\", so that keys are bound; write \
                        binding = \"all\", or whole = []";
            return wrong(text.to_owned());
        }
        for (index, exchange) in self.whole.iter().enumerate() {
            if self.whole.iter().take(index).any(|other| other == exchange) {
                return wrong(format!("names {exchange:?} twice; remove one"));
            }
            check_exchange("whole", exchange)?;
            if exchange.is_empty() || exchange.starts_with("amq.") {
                return wrong(format!(
                    "has {exchange:?}, beside which no exchange can be made; name direct exchanges \
                     of your own"
                ));
            }
            if exchange.len() > MAX_WHOLE_NAME {
                return wrong(format!(
                    "has {exchange:?}, a name of {} bytes; RabbitMQ takes 255, and the exchanges \
                     beside it need five of them",
                    exchange.len()
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_one_a_core_unless_everything_is_bound() {
        let cores = NonZero::new(6).unwrap();
        let feed = FeedConfig::default();
        assert_eq!(feed.shards(cores), 6);
        assert_eq!(feed.shards(NonZero::new(100_000).unwrap()), MAX_SHARDS);
        let feed = FeedConfig { shards: 3, ..feed };
        assert_eq!(feed.shards(cores), 3);
        let feed = FeedConfig {
            binding: Binding::All,
            ..feed
        };
        assert_eq!(feed.shards(cores), 1);
        assert_eq!(feed.check().unwrap_err().0, "shards");
    }

    #[test]
    fn replicated_queues_are_durable() {
        let feed = FeedConfig {
            replicated: true,
            ..FeedConfig::default()
        };
        assert_eq!(feed.check(), Ok(()));
        let feed = FeedConfig {
            durable: false,
            ..feed
        };
        assert_eq!(feed.check().unwrap_err().0, "replicated");
    }

    #[test]
    fn the_defaults_are_sound() {
        assert_eq!(FeedConfig::default().check(), Ok(()));
    }

    #[test]
    fn exchanges_are_read_whole_where_everything_is_bound() {
        let feed = |binding, whole: &[&str]| FeedConfig {
            binding,
            whole: whole.iter().map(ToString::to_string).collect(),
            ..FeedConfig::default()
        };
        let all = feed(Binding::All, &["feed", "news"]);
        assert_eq!(all.check(), Ok(()));
        assert!(all.reads_whole("news") && !all.reads_whole("other"));
        let keys = feed(Binding::Key, &["feed"]);
        assert!(!keys.reads_whole("feed"));
        let long = "x".repeat(251);
        for wrong in [
            keys,
            feed(Binding::All, &["feed", "feed"]),
            feed(Binding::All, &[""]),
            feed(Binding::All, &["amq.direct"]),
            feed(Binding::All, &[&long]),
        ] {
            assert_eq!(wrong.check().unwrap_err().0, "whole", "{wrong:?}");
        }
    }
}
