//! One opening of a virtual host: a link of its own, with its feeds, its consumers and its
//! exclusive queues.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt as _, ready};
use hashbrown::HashMap;
use parking_lot::Mutex;

use super::{consumer::Attachment, feed::Feed, host::Host, policy};
use crate::broker::{
    BrokerError, Confirm, Consume, Consumer, DIRECT_REPLIES, DeliverySink, ExchangeKind, FeedId,
    FeedSink, Message, Publish, QueueSpec, VirtualHost, no_direct_replies,
};

/// Everything is done when a call returns; its future only says how it went.
pub(super) struct EmbeddedVhost {
    host: Arc<Host>,
    /// Its identity in the virtual host.
    serial: u64,
    sink: Arc<dyn FeedSink>,
    feeds: Mutex<HashMap<FeedId, Bound>>,
    closed: AtomicBool,
}

/// A feed, and the patterns bound to it. It stays when they are gone: were it made anew when some
/// come back, two of one name could be at their sink at once.
struct Bound {
    feed: Arc<Feed>,
    patterns: hashbrown::HashSet<Box<str>>,
}

impl EmbeddedVhost {
    pub(super) fn new(host: Arc<Host>, sink: Arc<dyn FeedSink>) -> Self {
        Self {
            serial: host.serial(),
            host,
            sink,
            feeds: Mutex::default(),
            closed: AtomicBool::new(false),
        }
    }

    fn check_open(&self) -> Result<(), BrokerError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(BrokerError::Unavailable("the link was closed".into()));
        }
        Ok(())
    }

    fn bind(&self, id: &FeedId, pattern: &str) -> Result<(), BrokerError> {
        self.host.check_bindable(&id.exchange)?;
        let mut feeds = self.feeds.lock();
        // Under the lock, so that no feed is bound after the link's end.
        self.check_open()?;
        let bound = feeds.entry(id.clone()).or_insert_with(|| Bound {
            feed: Arc::new(Feed::new(
                self.host.serial(),
                id.clone(),
                Arc::clone(&self.sink),
                self.host.queue_bytes(),
            )),
            patterns: hashbrown::HashSet::new(),
        });
        if !bound.patterns.contains(pattern) {
            bound.patterns.insert(pattern.into());
            self.host
                .bind_feed(Arc::clone(&bound.feed), &id.exchange, pattern);
        }
        Ok(())
    }

    fn unbind(&self, id: &FeedId, pattern: &str) {
        let mut feeds = self.feeds.lock();
        let Some(bound) = feeds.get_mut(id) else {
            return;
        };
        if bound.patterns.remove(pattern) {
            self.host
                .unbind_feed(Arc::clone(&bound.feed), &id.exchange, pattern);
        }
    }

    fn start(
        &self,
        request: &Consume,
        sink: &Arc<dyn DeliverySink>,
    ) -> Result<Arc<dyn Consumer>, BrokerError> {
        self.check_open()?;
        let priority = policy::priority(&request.arguments)?;
        let (queue, serial) = self.host.consume(request, priority, self.serial, sink)?;
        let attachment = Attachment::new(Arc::clone(&self.host), queue, serial);
        // A link that was closed meanwhile may have missed it.
        self.check_open()?;
        Ok(Arc::new(attachment))
    }

    fn end(&self) {
        self.closed.store(true, Ordering::Release);
        let feeds = std::mem::take(&mut *self.feeds.lock());
        for (id, bound) in feeds {
            for pattern in bound.patterns {
                self.host
                    .unbind_feed(Arc::clone(&bound.feed), &id.exchange, &pattern);
            }
        }
        self.host.end_link(self.serial);
    }
}

impl VirtualHost for EmbeddedVhost {
    fn health(&self) -> Result<(), BrokerError> {
        self.check_open()
    }

    fn opened(&self) -> BoxFuture<'_, Result<(), BrokerError>> {
        ready(self.check_open()).boxed()
    }

    fn exchange_kind<'a>(
        &'a self,
        exchange: &'a str,
    ) -> BoxFuture<'a, Result<ExchangeKind, BrokerError>> {
        ready(self.host.exchange_kind(exchange)).boxed()
    }

    fn bind_feed<'a>(
        &'a self,
        feed: &'a FeedId,
        pattern: &'a str,
    ) -> BoxFuture<'a, Result<(), BrokerError>> {
        ready(self.bind(feed, pattern)).boxed()
    }

    fn unbind_feed<'a>(
        &'a self,
        feed: &'a FeedId,
        pattern: &'a str,
    ) -> BoxFuture<'a, Result<(), BrokerError>> {
        self.unbind(feed, pattern);
        ready(Ok(())).boxed()
    }

    fn end_feed(&self, feed: &FeedId) {
        let patterns = match self.feeds.lock().get(feed) {
            Some(bound) => bound.patterns.clone(),
            None => return,
        };
        for pattern in patterns {
            self.unbind(feed, &pattern);
        }
    }

    fn consume(
        &self,
        request: Consume,
        sink: Arc<dyn DeliverySink>,
    ) -> BoxFuture<'_, Result<Arc<dyn Consumer>, BrokerError>> {
        ready(self.start(&request, &sink)).boxed()
    }

    fn declare_queue<'a>(&'a self, queue: &'a QueueSpec) -> BoxFuture<'a, Result<(), BrokerError>> {
        let declared = self
            .check_open()
            .and_then(|()| self.host.declare(queue, self.serial).map(drop));
        ready(declared).boxed()
    }

    fn delete_queue<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), BrokerError>> {
        let deleted = self
            .check_open()
            .and_then(|()| self.host.delete(name, self.serial));
        ready(deleted).boxed()
    }

    fn publish(&self, publish: Publish) -> BoxFuture<'_, Result<Confirm, BrokerError>> {
        if let Err(error) = self.check_open() {
            return ready(Err(error)).boxed();
        }
        if publish.properties.reply_to.as_deref() == Some(DIRECT_REPLIES) {
            return ready(Err(no_direct_replies())).boxed();
        }
        let Publish {
            exchange,
            routing_key,
            properties,
            body,
            mandatory,
            lane: _,
            slow: _,
        } = publish;
        // A copy: it may lie in a queue long after it is answered for, and its publisher counts what
        // is under way by the body.
        let body = Bytes::copy_from_slice(&body);
        let message = Message::new(exchange, routing_key, properties, body);
        let confirm = ready(self.host.publish(message, mandatory)).boxed();
        ready(Ok(confirm)).boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.end();
        ready(()).boxed()
    }
}

impl Drop for EmbeddedVhost {
    fn drop(&mut self) {
        if !self.closed.load(Ordering::Acquire) {
            self.end();
        }
    }
}
