//! The counters of feeds.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use parking_lot::Mutex;

/// The messages that one feed has passed on. Only the feed's thread writes, so a count costs no
/// more than a store.
#[derive(Debug, Default)]
pub struct FeedCounts {
    routed: AtomicU64,
    unmatched: AtomicU64,
    delivered: AtomicU64,
}

#[derive(Debug)]
pub(super) struct Feeds {
    live: Vec<Arc<FeedCounts>>,
    /// The sums of feeds that are gone.
    gone: [u64; 3],
}

/// All present and former counters.
pub(super) static FEEDS: Mutex<Feeds> = Mutex::new(Feeds::new());

impl FeedCounts {
    /// For a new feed.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let counts = Arc::new(Self::default());
        let mut feeds = FEEDS.lock();
        // Only where it would grow, so that each is looked at a few times at most.
        if feeds.live.len() == feeds.live.capacity() {
            feeds.sweep();
        }
        feeds.live.push(Arc::clone(&counts));
        counts
    }

    /// A message came, and went to so many subscriptions. Not to be called by two threads at once.
    pub fn count(&self, subscriptions: u64) {
        let add = |count: &AtomicU64, more: u64| {
            count.store(count.load(Relaxed).wrapping_add(more), Relaxed)
        };
        if subscriptions == 0 {
            add(&self.unmatched, 1);
        } else {
            add(&self.routed, 1);
            add(&self.delivered, subscriptions);
        }
    }

    /// Messages that matched a subscription, that matched none, and that went to subscriptions.
    #[must_use]
    pub fn totals(&self) -> [u64; 3] {
        [&self.routed, &self.unmatched, &self.delivered].map(|count| count.load(Relaxed))
    }
}

impl Feeds {
    const fn new() -> Self {
        Self {
            live: Vec::new(),
            gone: [0; 3],
        }
    }

    /// Adds the counts of feeds that are gone: a counter never falls.
    fn sweep(&mut self) {
        let gone = &mut self.gone;
        self.live.retain(|counts| {
            let is_live = Arc::strong_count(counts) > 1;
            if !is_live {
                *gone = sum(*gone, counts.totals());
            }
            is_live
        });
    }

    pub(super) fn totals(&self) -> [u64; 3] {
        let live = self.live.iter().map(|counts| counts.totals());
        live.fold(self.gone, sum)
    }
}

fn sum(a: [u64; 3], b: [u64; 3]) -> [u64; 3] {
    let mut total = a;
    for (total, more) in total.iter_mut().zip(b) {
        *total = total.wrapping_add(more);
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Prometheus takes a counter that falls for a restart.
    #[test]
    fn a_feed_that_is_gone_goes_on_to_count() {
        let mut feeds = Feeds::new();
        for subscriptions in [0, 1, 5] {
            let counts = Arc::new(FeedCounts::default());
            counts.count(subscriptions);
            feeds.live.push(counts);
        }
        assert_eq!(feeds.totals(), [2, 1, 6]);
        let kept = feeds.live.first().map(Arc::clone);
        feeds.sweep();
        assert_eq!((feeds.totals(), feeds.live.len()), ([2, 1, 6], 1));
        drop(kept);
        feeds.sweep();
        assert_eq!((feeds.totals(), feeds.live.len()), ([2, 1, 6], 0));
    }
}
