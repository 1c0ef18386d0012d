//! The way of the broker's messages into feeds.

use std::sync::{Arc, Weak};

use super::{Feed, Feeds};
use crate::broker::{FeedId, FeedSink, Message, Stored};

/// The sink of the broker's messages. The feeds hold the virtual host, which holds this: it must
/// not hold the feeds, or the three would never end.
pub(in crate::hub) struct Sink(pub(in crate::hub) Weak<Feeds>);

impl Sink {
    fn feed(&self, id: &FeedId) -> Option<Arc<Feed>> {
        self.0.upgrade()?.open.read().get(id).map(Arc::clone)
    }
}

impl FeedSink for Sink {
    fn deliver(&self, feed: &FeedId, message: Message) {
        if let Some(feed) = self.feed(feed) {
            feed.deliver(&Arc::new(message));
        }
    }

    fn store(&self, feed: &FeedId, stored: Stored) {
        if let Some(feed) = self.feed(feed) {
            feed.store(stored);
        }
    }

    fn remember(&self, feed: &FeedId, stored: Stored) {
        if let Some(feed) = self.feed(feed)
            && let Some(record) = &mut feed.table.lock().record
        {
            record.push(stored);
        }
    }

    fn pass(&self, feed: &FeedId, offset: u64) {
        if let Some(feed) = self.feed(feed)
            && let Some(record) = &mut feed.table.lock().record
        {
            record.pass(offset);
        }
    }

    fn restart(&self, feed: &FeedId) {
        if let Some(feed) = self.feed(feed) {
            feed.restart();
        }
    }

    fn patterns(&self, feed: &FeedId) -> Vec<Arc<str>> {
        let feed = self.feed(feed);
        feed.map(|feed| feed.bindings()).unwrap_or_default()
    }

    fn cut(&self, feed: &FeedId) {
        if let Some(feed) = self.feed(feed) {
            feed.cut();
        }
    }

    fn resumed(&self, feed: &FeedId, may_have_forgotten: bool) {
        if let Some(feed) = self.feed(feed) {
            feed.resumed(may_have_forgotten);
        }
    }

    fn interrupted(&self, feed: &FeedId, reason: &str) {
        if let Some(feed) = self.feed(feed) {
            feed.interrupted(reason);
        }
    }

    fn lost(&self, feed: &FeedId, reason: &str) {
        // First: later subscribers have to learn the type of the exchange.
        if let Some(feeds) = self.0.upgrade() {
            feeds.kinds.forget(&feed.exchange);
        }
        if let Some(feed) = self.feed(feed) {
            feed.lost(reason);
        }
    }
}
