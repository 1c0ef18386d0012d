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
                search(&feed, text, |key, subscriptions| {
                    let destination = Destination {
                        vhost: (**hub.name()).into(),
                        exchange: feed.id().exchange.as_ref().into(),
                        key: key.into(),
                        subscriptions,
                    };
                    found.add(destination, most);
                });
            }
        }
        found.keep(most);
        found
    }
}

impl Destinations {
    /// Counts one more, and holds twice as many as are wanted at most.
    fn add(&mut self, destination: Destination, most: usize) {
        self.total = self.total.saturating_add(1);
        self.most.push(destination);
        if self.most.len() >= most.saturating_mul(2) {
            self.keep(most);
        }
    }

    fn keep(&mut self, most: usize) {
        self.most.sort_by(|a, b| {
            let [a, b] =
                [a, b].map(|found| (Reverse(found.subscriptions), &found.exchange, &found.key));
            a.cmp(&b)
        });
        self.most.truncate(most);
    }
}

/// Calls `found` with each pattern that is meant, and its subscriptions.
fn search(feed: &Feed, text: &str, mut found: impl FnMut(&str, usize)) {
    let is_whole = feed.id().exchange.to_lowercase().contains(text);
    let patterns = feed.subscribed();
    let mut meant = patterns
        .iter()
        .filter(|pattern| is_whole || pattern.to_lowercase().contains(text));
    loop {
        let some: Vec<&str> = meant.by_ref().take(AT_A_TIME).collect();
        if some.is_empty() {
            return;
        }
        for (pattern, subscriptions) in some.iter().zip(feed.subscribers(&some)) {
            // Its last subscription may have left meanwhile.
            if subscriptions > 0 {
                found(pattern, subscriptions);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_are_held_while_many_are_found() {
        let mut found = Destinations::default();
        for subscriptions in 1..=1_000 {
            let destination = Destination {
                vhost: "/".into(),
                exchange: "e".into(),
                key: format!("k{subscriptions}").into(),
                subscriptions,
            };
            found.add(destination, 3);
            assert!(found.most.len() < 6, "{}", found.most.len());
        }
        found.keep(3);
        let most = found.most.iter().map(|found| found.subscriptions);
        assert_eq!(most.collect::<Vec<_>>(), [1_000, 999, 998]);
        assert_eq!(found.total, 1_000);
    }
}
