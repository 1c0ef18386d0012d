//! What clients are subscribed to, for an operator who looks for it.

use std::cmp::Reverse;

use super::{feed::Feed, vhosts::Vhosts};

/// Patterns that are counted while a feed waits.
const AT_A_TIME: usize = 256;

/// What clients are subscribed to, by feeds of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Destinations {
    /// Those with most subscriptions, the first of them first.
    pub most: Vec<Destination>,
    /// How many there are.
    pub total: usize,
}

/// A pattern of keys that clients are subscribed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The virtual host.
    pub vhost: Box<str>,
    /// The exchange.
    pub exchange: Box<str>,
    /// The routing key, or the pattern.
    pub key: Box<str>,
    /// Subscriptions to it.
    pub subscriptions: usize,
}

impl Vhosts {
    /// The destinations whose exchange or key has this text in it, in small letters. May take
    /// milliseconds: a feed waits only while some of its patterns are counted.
    #[must_use]
    pub fn destinations(&self, text: &str, most: usize) -> Destinations {
        let mut found = Destinations::default();
        for hub in self.open_hubs() {
            let feeds: Vec<_> = hub.feeds.open.read().values().cloned().collect();
            for feed in feeds {
                for (key, subscriptions) in search(&feed, text) {
                    found.total = found.total.saturating_add(1);
                    found.most.push(Destination {
                        vhost: (**hub.name()).into(),
                        exchange: feed.id().exchange.as_ref().into(),
                        key,
                        subscriptions,
                    });
                }
                found.keep(most);
            }
        }
        found
    }
}

impl Destinations {
    fn keep(&mut self, most: usize) {
        self.most.sort_by(|a, b| {
            let [a, b] =
                [a, b].map(|found| (Reverse(found.subscriptions), &found.exchange, &found.key));
            a.cmp(&b)
        });
        self.most.truncate(most);
    }
}

fn search(feed: &Feed, text: &str) -> Vec<(Box<str>, usize)> {
    let is_whole = feed.id().exchange.to_lowercase().contains(text);
    let patterns = feed.subscribed();
    let meant = patterns.iter();
    let meant: Vec<&str> = meant
        .filter(|pattern| is_whole || pattern.to_lowercase().contains(text))
        .collect();
    let counted = meant.chunks(AT_A_TIME).flat_map(|some| {
        let counts = feed.subscribers(some);
        some.iter().map(|pattern| Box::from(*pattern)).zip(counts)
    });
    // Its last subscription may have left meanwhile.
    counted
        .filter(|(_, subscriptions)| *subscriptions > 0)
        .collect()
}
