//! Feeds over a link that can hold messages back, and lose them.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures_util::FutureExt;
use parking_lot::Mutex;
use stentor::broker::{BrokerError, FeedId, FeedSink, Message, VirtualHost};
use tokio::time::Instant;

use super::stream::{self, Stream};
use crate::ledger::LOG;

/// What was asked of a feed while messages did not come through may have failed, and be told so late.
const LATE: Duration = Duration::from_secs(30);

pub(crate) struct Feeds(Arc<Shared>);

struct Shared {
    sink: OnceLock<Arc<dyn FeedSink>>,
    /// One of the feeds is read from it.
    journal: Stream,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The patterns that are bound, by exchange and shard.
    bound: BTreeMap<(Arc<str>, u16), BTreeSet<String>>,
    is_held: bool,
    held: VecDeque<(FeedId, Message)>,
    /// When that was over, the last time.
    released: Option<Instant>,
    /// Bindings are lost now and then when there is a new one.
    is_fragile: bool,
    /// How often each exchange's feeds were interrupted.
    interruptions: BTreeMap<Arc<str>, u64>,
}

impl Feeds {
    pub(super) fn new(journal: Stream) -> Self {
        Self(Arc::new(Shared {
            sink: OnceLock::new(),
            journal,
            state: Mutex::default(),
        }))
    }

    pub(crate) fn journal(&self) -> &Stream {
        &self.0.journal
    }

    pub(super) fn sink(&self, sink: Arc<dyn FeedSink>) -> Arc<dyn FeedSink> {
        assert!(self.0.sink.set(sink).is_ok(), "there is one virtual host");
        Arc::clone(&self.0) as _
    }

    /// From now on messages do not come through.
    pub(crate) fn hold(&self) {
        self.0.state.lock().is_held = true;
    }

    /// They do, in order.
    pub(crate) fn release(&self) {
        loop {
            let next = {
                let mut state = self.0.state.lock();
                let next = state.held.pop_front();
                state.is_held = next.is_some();
                state.released = Some(Instant::now());
                next
            };
            let Some((feed, message)) = next else {
                return self.0.hand_over();
            };
            self.0.sink().deliver(&feed, message);
        }
    }

    /// Whether they do not come through, or did not a moment ago.
    pub(crate) fn were_held(&self) -> bool {
        let state = self.0.state.lock();
        let is_recent = |released: Instant| released.elapsed() < LATE;
        state.is_held || state.released.is_some_and(is_recent)
    }

    /// Messages on their way to the feeds of an exchange are lost, and that is told.
    pub(crate) fn interrupt(&self, exchange: &str) {
        for feed in self.of(Some(exchange)) {
            self.drop_held(&feed);
            if is_journal(&feed) {
                self.0.journal.overtake();
                self.0.sink().restart(&feed);
            }
            self.tell(&feed, false);
        }
        self.0.hand_over();
    }

    /// Bindings of the feeds of an exchange are lost.
    pub(crate) fn lose_exchange(&self, host: &dyn VirtualHost, exchange: &str) {
        for feed in self.of(Some(exchange)) {
            self.lose_feed(host, &feed);
        }
    }

    /// From now on a feed may lose its bindings with each new one, or no more.
    pub(crate) fn be_fragile(&self, is_fragile: bool) {
        self.0.state.lock().is_fragile = is_fragile;
    }

    pub(super) fn is_fragile(&self) -> bool {
        self.0.state.lock().is_fragile
    }

    pub(super) fn lose(&self, host: &dyn VirtualHost) {
        for feed in self.of(None) {
            self.lose_feed(host, &feed);
        }
    }

    pub(super) fn lose_feed(&self, host: &dyn VirtualHost, feed: &FeedId) {
        for pattern in self.patterns(feed) {
            now(host.unbind_feed(feed, &pattern));
            self.note(feed, &pattern, false);
        }
        self.drop_held(feed);
        self.tell(feed, true);
    }

    /// The stream of the journal is deleted, and made anew.
    pub(crate) fn lose_journal(&self, host: &dyn VirtualHost) {
        let feed = stream::feed();
        self.0.journal.make_anew();
        self.0.sink().restart(&feed);
        self.lose_feed(host, &feed);
        self.0.hand_over();
    }

    /// Done when the journal is read, and all that stood there then has been.
    pub(super) async fn begin_journal(&self) -> Result<(), BrokerError> {
        let marker = self.0.journal.begin();
        self.0.hand_over();
        self.0.journal.came(marker).await
    }

    /// Done when all that stands in the journal has been read.
    pub(super) async fn reach_journal(&self) -> Result<(), BrokerError> {
        let marker = self.0.journal.mark();
        self.0.hand_over();
        self.0.journal.came(marker).await
    }

    /// Nothing is bound to it any more, and what is on its way is for nobody. A journal stays.
    pub(super) fn end_feed(&self, host: &dyn VirtualHost, feed: &FeedId) {
        if is_journal(feed) {
            return;
        }
        host.end_feed(feed);
        for pattern in self.patterns(feed) {
            self.note(feed, &pattern, false);
        }
        self.drop_held(feed);
    }

    /// The queues are made anew, and bound to what the gateway wants by then.
    pub(super) fn make_anew(&self, host: &dyn VirtualHost) {
        for feed in self.of(None) {
            if is_journal(&feed) {
                self.lose_journal(host);
                continue;
            }
            for pattern in self.patterns(&feed) {
                now(host.unbind_feed(&feed, &pattern));
                self.note(&feed, &pattern, false);
            }
            for pattern in self.0.sink().patterns(&feed) {
                now(host.bind_feed(&feed, &pattern));
                self.note(&feed, &pattern, true);
            }
            self.drop_held(&feed);
            self.tell(&feed, false);
        }
    }

    pub(super) fn note(&self, feed: &FeedId, pattern: &str, is_bound: bool) {
        let mut state = self.0.state.lock();
        let key = (Arc::clone(&feed.exchange), feed.shard);
        let patterns = state.bound.entry(key).or_default();
        if is_bound {
            patterns.insert(pattern.to_owned());
        } else {
            patterns.remove(pattern);
        }
    }

    /// How often messages of the exchange were lost.
    pub(crate) fn interruptions(&self, exchange: &str) -> u64 {
        let state = self.0.state.lock();
        state.interruptions.get(exchange).copied().unwrap_or(0)
    }

    /// What is bound, but for some exchanges.
    pub(crate) fn bound_except(&self, exchanges: &[&str]) -> Vec<String> {
        let state = self.0.state.lock();
        let is_other = |of: &Arc<str>| !exchanges.contains(&&**of);
        let others = state.bound.iter().filter(|((of, _), _)| is_other(of));
        let bound = others.flat_map(|((of, _), patterns)| {
            patterns
                .iter()
                .map(move |pattern| format!("{of}/{pattern}"))
        });
        bound.collect()
    }

    fn of(&self, exchange: Option<&str>) -> Vec<FeedId> {
        let state = self.0.state.lock();
        let meant = |of: &str| exchange.is_none_or(|exchange| exchange == of);
        let keys = state.bound.keys().filter(|(of, _)| meant(of));
        keys.map(|(exchange, shard)| FeedId {
            exchange: Arc::clone(exchange),
            shard: *shard,
        })
        .collect()
    }

    fn patterns(&self, feed: &FeedId) -> Vec<String> {
        let key = (Arc::clone(&feed.exchange), feed.shard);
        let state = self.0.state.lock();
        let patterns = state.bound.get(&key).into_iter().flatten();
        patterns.cloned().collect()
    }

    fn drop_held(&self, feed: &FeedId) {
        self.0.state.lock().held.retain(|(of, _)| of != feed);
    }

    fn tell(&self, feed: &FeedId, is_lost: bool) {
        {
            let mut state = self.0.state.lock();
            let exchange = Arc::clone(&feed.exchange);
            *state.interruptions.entry(exchange).or_default() += 1;
        }
        let reason = "simulated";
        if is_lost {
            self.0.sink().lost(feed, reason);
        } else {
            self.0.sink().interrupted(feed, reason);
        }
    }
}

fn is_journal(feed: &FeedId) -> bool {
    *feed.exchange == *LOG
}

/// The embedded broker answers at once.
fn now<T, E: std::fmt::Debug>(answer: impl Future<Output = Result<T, E>>) {
    answer.now_or_never().unwrap().unwrap();
}

impl Shared {
    fn sink(&self) -> &Arc<dyn FeedSink> {
        self.sink.get().unwrap()
    }

    /// The gateway gets what is new in the journal, unless messages do not come through.
    fn hand_over(&self) {
        if !self.state.lock().is_held {
            self.journal.hand_over(&**self.sink());
        }
    }
}

impl FeedSink for Shared {
    fn deliver(&self, feed: &FeedId, message: Message) {
        if is_journal(feed) {
            self.journal.append(message);
            return self.hand_over();
        }
        let mut state = self.state.lock();
        if state.is_held {
            return state.held.push_back((feed.clone(), message));
        }
        drop(state);
        self.sink().deliver(feed, message);
    }

    fn patterns(&self, feed: &FeedId) -> Vec<Arc<str>> {
        self.sink().patterns(feed)
    }

    fn interrupted(&self, feed: &FeedId, reason: &str) {
        self.sink().interrupted(feed, reason);
    }

    fn lost(&self, feed: &FeedId, reason: &str) {
        self.sink().lost(feed, reason);
    }
}
