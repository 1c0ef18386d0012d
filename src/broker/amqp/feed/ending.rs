//! The end of feeds' queues that have very many bindings.
//!
//! RabbitMQ takes a queue's bindings away in one transaction. With 100,000 of them that takes 3.10
//! and 4.0 more than a minute, in which others' bindings wait for seconds. Taken away one by one
//! before, they cost half of the time or less, and nobody waits. 4.3 gains little by it: there only
//! smaller queues help. docs/performance.md has the figures.

use futures_util::{StreamExt, future::join_all, stream};
use tokio::time::{Instant, timeout_at};

use super::{Feed, FeedManager};
use crate::telemetry;

/// So many bindings may go with a queue: a tenth of a second.
const FEW: usize = 1_000;
/// Unbindings of a feed under way at a time.
const AT_ONCE: usize = 64;

impl FeedManager {
    /// Takes bindings away until each feed has few, or until then.
    pub(in crate::broker::amqp) async fn unbind_many(&self, until: Instant) {
        let feeds: Vec<_> = match &*self.feeds.lock() {
            None => return,
            Some(feeds) => feeds.values().cloned().collect(),
        };
        let feeds = feeds.iter().filter(|feed| !feed.whole.is_used());
        join_all(feeds.map(|feed| self.unbind_all_but_few(feed, until))).await;
    }

    async fn unbind_all_but_few(&self, feed: &Feed, until: Instant) {
        let patterns = self.shared.sink.patterns(&feed.id);
        let many = patterns.len().saturating_sub(FEW);
        if many == 0 {
            return;
        }
        let begun = Instant::now();
        let mut done = 0_usize;
        // Owned: a future that borrows from an iterator's item is not `Send` enough.
        let unbinding = stream::iter(patterns.into_iter().skip(FEW))
            .map(|pattern| async move { self.unbind(&feed.id, &pattern).await.is_ok() })
            .buffer_unordered(AT_ONCE)
            .for_each(|is_done| {
                done = done.saturating_add(usize::from(is_done));
                std::future::ready(())
            });
        // What is left, or was refused, goes with the queue.
        let _ = timeout_at(until, unbinding).await;
        let left = many.saturating_sub(done);
        telemetry::bindings_taken_away(&feed.id, done, left, begun.elapsed());
    }
}
