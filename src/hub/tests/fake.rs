//! A broker that answers when the test says so.

use std::collections::{BTreeSet, VecDeque};

use futures_util::{FutureExt as _, future::BoxFuture};
use tokio::sync::oneshot;

use super::*;
use crate::broker::{
    Confirm, Consume, Consumer, DeliverySink, FeedSink, Message, Properties, Publish, QueueSpec,
};

type Answer = Result<(), BrokerError>;

/// A call of the hub to the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Kind(String),
    Bind(FeedId, String),
    Unbind(FeedId, String),
    End(FeedId),
}

/// A call that is not answered yet.
struct Asked {
    feed: FeedId,
    pattern: String,
    binds: bool,
    /// True if it took effect before the answer, if at all.
    early: bool,
    answer: oneshot::Sender<Answer>,
}

#[derive(Default)]
struct State {
    calls: Vec<Call>,
    asked: Vec<Asked>,
    /// True if calls wait for the test.
    holds: bool,
    /// True if calls that wait take effect before they are answered.
    early: bool,
    /// The answer to bindings that do not wait.
    refusal: Option<BrokerError>,
    bound: BTreeSet<(Arc<str>, u16, String)>,
    kinds: HashMap<String, ExchangeKind>,
    published: Vec<Publish>,
    /// An exchange that is not there, for what is published.
    missing: Option<String>,
    /// The answers to the next messages; then all are confirmed.
    confirms: VecDeque<Answer>,
}

/// A virtual host, and its broker.
#[derive(Default)]
pub(super) struct Fake {
    state: Mutex<State>,
    sink: Mutex<Option<Arc<dyn FeedSink>>>,
}

pub(super) struct FakeBroker(pub(super) Arc<Fake>);

impl Broker for FakeBroker {
    fn open(&self, _: &str, feeds: Arc<dyn FeedSink>) -> Arc<dyn VirtualHost> {
        *self.0.sink.lock() = Some(feeds);
        Arc::clone(&self.0) as Arc<dyn VirtualHost>
    }
}

fn key(feed: &FeedId, pattern: &str) -> (Arc<str>, u16, String) {
    (Arc::clone(&feed.exchange), feed.shard, pattern.to_owned())
}

impl Fake {
    pub(super) fn new(kinds: &[(&str, ExchangeKind)]) -> Arc<Self> {
        let fake = Self::default();
        let kinds = kinds.iter().map(|(name, kind)| (name.to_string(), *kind));
        fake.state.lock().kinds = kinds.collect();
        Arc::new(fake)
    }

    /// From now on, calls wait for [`Fake::answer`].
    pub(super) fn hold(&self) {
        self.state.lock().holds = true;
    }

    pub(super) fn release(&self) {
        self.state.lock().holds = false;
    }

    /// True if calls to come take effect before their answer.
    pub(super) fn set_early(&self, early: bool) {
        self.state.lock().early = early;
    }

    /// Sets the answer to later bindings.
    pub(super) fn refuse(&self, error: Option<BrokerError>) {
        self.state.lock().refusal = error;
    }

    /// The calls since the last time.
    pub(super) fn calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.state.lock().calls)
    }

    /// How often it was asked to bind since the last time.
    pub(super) fn binds(&self) -> usize {
        let calls = self.calls();
        let binds = calls.iter().filter(|call| matches!(call, Call::Bind(..)));
        binds.count()
    }

    /// The calls that wait.
    pub(super) fn waiting(&self) -> usize {
        self.state.lock().asked.len()
    }

    /// Answers the oldest call that waits.
    pub(super) fn answer(&self, answer: Answer) {
        let is_done = answer.is_ok();
        self.answer_nth(0, answer, is_done);
    }

    /// True if it waits to be bound, or unbound.
    pub(super) fn nth_binds(&self, index: usize) -> bool {
        self.state.lock().asked[index].binds
    }

    /// Answers a call that waits. One that is [`BrokerError::Unavailable`] may take effect.
    pub(super) fn answer_nth(&self, index: usize, answer: Answer, takes_effect: bool) {
        let mut state = self.state.lock();
        let asked = state.asked.remove(index);
        if matches!(answer, Err(BrokerError::NotFound(_))) {
            state.apply(&asked.feed, &asked.pattern, false);
        } else if takes_effect && !asked.early {
            state.apply(&asked.feed, &asked.pattern, asked.binds);
        }
        drop(state);
        let _ = asked.answer.send(answer);
    }

    /// Sets the answers to the next messages.
    pub(super) fn confirm_by(&self, answers: impl IntoIterator<Item = Answer>) {
        self.state.lock().confirms = answers.into_iter().collect();
    }

    /// From now on that exchange takes no messages.
    pub(super) fn miss(&self, exchange: &str) {
        self.state.lock().missing = Some(exchange.to_owned());
    }

    /// The messages that the hub has published since the last time.
    pub(super) fn published(&self) -> Vec<Publish> {
        std::mem::take(&mut self.state.lock().published)
    }

    /// The bound patterns, in order.
    pub(super) fn bound(&self) -> Vec<String> {
        let state = self.state.lock();
        state.bound.iter().map(|(_, _, key)| key.clone()).collect()
    }

    pub(super) fn is_bound(&self, exchange: &str, pattern: &str) -> bool {
        let state = self.state.lock();
        let mut bound = state.bound.iter();
        bound.any(|(of, _, bound)| &**of == exchange && bound == pattern)
    }

    pub(super) fn sink(&self) -> Arc<dyn FeedSink> {
        Arc::clone(self.sink.lock().as_ref().unwrap())
    }

    /// The exchange is deleted and made anew, of that type, without a word.
    pub(super) fn rebuild(&self, exchange: &str, kind: ExchangeKind) {
        let mut state = self.state.lock();
        state.bound.retain(|(of, _, _)| &**of != exchange);
        state.kinds.insert(exchange.to_owned(), kind);
    }

    /// True if what a call is about is bound.
    pub(super) fn nth_is_bound(&self, index: usize) -> bool {
        let state = self.state.lock();
        let asked = &state.asked[index];
        state.bound.contains(&key(&asked.feed, &asked.pattern))
    }

    /// The exchange was found to be gone, and with it all bindings: that is told.
    pub(super) fn lose(&self, exchange: &str) {
        let mut state = self.state.lock();
        let bound = state.bound.iter().filter(|(of, _, _)| &**of == exchange);
        let feeds: BTreeSet<_> = bound.map(|(of, shard, _)| (of.clone(), *shard)).collect();
        state.bound.retain(|(of, _, _)| &**of != exchange);
        drop(state);
        for (exchange, shard) in feeds {
            self.sink().lost(&FeedId { exchange, shard }, "gone");
        }
    }

    /// The exchange is deleted.
    pub(super) fn remove(&self, exchange: &str) {
        let mut state = self.state.lock();
        state.bound.retain(|(of, _, _)| &**of != exchange);
        state.kinds.remove(exchange);
    }

    /// Somebody takes all bindings of that pattern away.
    pub(super) fn take_away(&self, pattern: &str) {
        let mut state = self.state.lock();
        state.bound.retain(|(_, _, bound)| bound != pattern);
    }

    /// The queues are lost, and set up anew. It tells nobody.
    pub(super) fn restart(&self) {
        let sink = self.sink();
        let mut state = self.state.lock();
        let feeds: BTreeSet<_> = state
            .bound
            .iter()
            .map(|(e, s, _)| (e.clone(), *s))
            .collect();
        state.bound.clear();
        drop(state);
        for (exchange, shard) in feeds {
            let feed = FeedId { exchange, shard };
            for pattern in sink.patterns(&feed) {
                self.state.lock().bound.insert(key(&feed, &pattern));
            }
        }
    }

    /// Delivers a message to each feed with a binding that matches one of the keys.
    pub(super) fn publish(&self, exchange: &str, keys: &[&str], body: &str) {
        let state = self.state.lock();
        let kind = state.kinds[exchange];
        let matching = state.bound.iter().filter(|(of, _, pattern)| {
            let mut keys = keys.iter();
            &**of == exchange && keys.any(|key| crate::broker::routing::matches(kind, pattern, key))
        });
        let feeds: BTreeSet<_> = matching.map(|(e, s, _)| (e.clone(), *s)).collect();
        drop(state);
        for (name, shard) in feeds {
            let feed = FeedId {
                exchange: name,
                shard,
            };
            let body = bytes::Bytes::copy_from_slice(body.as_bytes());
            let message =
                Message::new(exchange.into(), keys[0].into(), Properties::default(), body)
                    .with_cc(keys[1..].iter().map(|key| (*key).into()).collect());
            self.sink().deliver(&feed, message);
        }
    }

    fn ask(&self, feed: &FeedId, pattern: &str, binds: bool) -> BoxFuture<'_, Answer> {
        let mut state = self.state.lock();
        let (id, text) = (feed.clone(), pattern.to_owned());
        state.calls.push(if binds {
            Call::Bind(id, text)
        } else {
            Call::Unbind(id, text)
        });
        if !state.holds {
            let refusal = state.refusal.clone().filter(|_| binds);
            if refusal.is_none() {
                state.apply(feed, pattern, binds);
            }
            return std::future::ready(refusal.map_or(Ok(()), Err)).boxed();
        }
        let early = state.early;
        if early {
            state.apply(feed, pattern, binds);
        }
        let (answer, answered) = oneshot::channel();
        state.asked.push(Asked {
            feed: feed.clone(),
            pattern: pattern.to_owned(),
            binds,
            early,
            answer,
        });
        async move { answered.await.unwrap() }.boxed()
    }
}

impl State {
    fn apply(&mut self, feed: &FeedId, pattern: &str, binds: bool) {
        if binds {
            self.bound.insert(key(feed, pattern));
        } else {
            self.bound.remove(&key(feed, pattern));
        }
    }
}

impl VirtualHost for Fake {
    fn opened(&self) -> BoxFuture<'_, Result<(), BrokerError>> {
        std::future::ready(self.health()).boxed()
    }

    fn health(&self) -> Result<(), BrokerError> {
        self.state.lock().refusal.clone().map_or(Ok(()), Err)
    }

    fn exchange_kind<'a>(
        &'a self,
        exchange: &'a str,
    ) -> BoxFuture<'a, Result<ExchangeKind, BrokerError>> {
        let mut state = self.state.lock();
        state.calls.push(Call::Kind(exchange.to_owned()));
        let kind = state.kinds.get(exchange).copied();
        let found = kind.ok_or_else(|| BrokerError::NotFound("no exchange".into()));
        std::future::ready(found).boxed()
    }

    fn bind_feed<'a>(&'a self, feed: &'a FeedId, pattern: &'a str) -> BoxFuture<'a, Answer> {
        self.ask(feed, pattern, true)
    }

    fn unbind_feed<'a>(&'a self, feed: &'a FeedId, pattern: &'a str) -> BoxFuture<'a, Answer> {
        self.ask(feed, pattern, false)
    }

    fn end_feed(&self, feed: &FeedId) {
        let mut state = self.state.lock();
        state.calls.push(Call::End(feed.clone()));
        let is_asked = state.asked.iter().any(|asked| asked.feed == *feed);
        assert!(!is_asked, "a call for {feed} is under way");
        let is_its = |of: &Arc<str>, shard| *of == feed.exchange && shard == feed.shard;
        state.bound.retain(|(of, shard, _)| !is_its(of, *shard));
    }

    fn consume(
        &self,
        _: Consume,
        _: Arc<dyn DeliverySink>,
    ) -> BoxFuture<'_, Result<Arc<dyn Consumer>, BrokerError>> {
        panic!("the hub consumes nothing")
    }

    fn declare_queue<'a>(&'a self, _: &'a QueueSpec) -> BoxFuture<'a, Answer> {
        panic!("the hub declares nothing")
    }

    fn delete_queue<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Answer> {
        panic!("the hub deletes nothing")
    }

    fn publish(&self, publish: Publish) -> BoxFuture<'_, Result<Confirm, BrokerError>> {
        let mut state = self.state.lock();
        let is_missing = state.missing.as_deref() == Some(&*publish.exchange);
        state.published.push(publish);
        if is_missing {
            let error = BrokerError::NotFound("gone".into());
            return std::future::ready(Err(error)).boxed();
        }
        let answer = state.confirms.pop_front().unwrap_or(Ok(()));
        std::future::ready(Ok(std::future::ready(answer).boxed())).boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        std::future::ready(()).boxed()
    }
}
