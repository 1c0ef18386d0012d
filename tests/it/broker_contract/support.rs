//! Sinks that remember, and short ways to say what a test wants.

use std::{fmt::Debug, sync::Arc, time::Duration};

use bytes::Bytes;
use parking_lot::Mutex;
use stentor::broker::{
    BrokerError, Consume, Consumer, Delivery, DeliverySink, FeedId, FeedSink, Message, Properties,
    Publish, QueueSpec, Verdict, VirtualHost,
};
use tokio::{sync::Notify, time::timeout};

use super::Fixture;

/// How long a test waits for what must happen.
const DEADLINE: Duration = Duration::from_secs(30);

/// A log of events, in order, and a way to wait for them.
#[derive(Debug)]
pub(crate) struct Log<T> {
    entries: Mutex<Vec<T>>,
    grown: Notify,
}

impl<T> Default for Log<T> {
    fn default() -> Self {
        Self {
            entries: Mutex::default(),
            grown: Notify::new(),
        }
    }
}

impl<T: Debug> Log<T> {
    pub(crate) fn push(&self, entry: T) {
        self.entries.lock().push(entry);
        self.grown.notify_waiters();
    }

    /// Waits until what happened satisfies `enough`, and takes what `pick` makes of it.
    pub(crate) async fn until<U>(&self, what: &str, pick: impl Fn(&[T]) -> Option<U>) -> U {
        let wait = async {
            loop {
                let grown = self.grown.notified();
                tokio::pin!(grown);
                grown.as_mut().enable();
                if let Some(found) = pick(&self.entries.lock()) {
                    return found;
                }
                grown.await;
            }
        };
        match timeout(DEADLINE, wait).await {
            Ok(found) => found,
            Err(_) => panic!("no {what} within {DEADLINE:?}: {:?}", self.entries.lock()),
        }
    }
}

/// The messages that reached the feeds of one link.
#[derive(Debug, Default)]
pub(crate) struct Feeds {
    pub(crate) messages: Log<(FeedId, Message)>,
    patterns: Mutex<Vec<(FeedId, Arc<str>)>>,
}

impl FeedSink for Feeds {
    fn deliver(&self, feed: &FeedId, message: Message) {
        self.messages.push((feed.clone(), message));
    }

    fn patterns(&self, feed: &FeedId) -> Vec<Arc<str>> {
        let patterns = self.patterns.lock();
        let own = patterns.iter().filter(|(id, _)| id == feed);
        own.map(|(_, pattern)| Arc::clone(pattern)).collect()
    }

    fn interrupted(&self, feed: &FeedId, reason: &str) {
        panic!("{feed} was interrupted: {reason}");
    }
}

impl Feeds {
    /// The bodies that one feed got before the first `end`, which is waited for.
    pub(crate) async fn bodies_before(&self, feed: &FeedId, end: &str) -> Vec<String> {
        let before = |entries: &[(FeedId, Message)]| {
            let bodies: Vec<String> = entries
                .iter()
                .filter(|(id, _)| id == feed)
                .map(|(_, message)| text(&message.body))
                .collect();
            let at = bodies.iter().position(|body| body == end)?;
            Some(bodies.into_iter().take(at).collect())
        };
        self.messages.until(end, before).await
    }
}

/// An event that a dedicated consumer saw.
#[derive(Debug)]
pub(crate) enum Seen {
    Delivery(Delivery),
    Lost(BrokerError),
}

/// The sink of a dedicated consumer.
#[derive(Debug, Default)]
pub(crate) struct Inbox(pub(crate) Log<Seen>);

impl DeliverySink for Inbox {
    fn deliver(&self, delivery: Delivery) {
        self.0.push(Seen::Delivery(delivery));
    }

    fn lost(&self, reason: BrokerError) {
        self.0.push(Seen::Lost(reason));
    }
}

impl Inbox {
    /// All deliveries, as soon as there are so many.
    pub(crate) async fn first(&self, count: usize) -> Vec<Delivery> {
        let deliveries = |entries: &[Seen]| {
            let all: Vec<Delivery> = entries
                .iter()
                .filter_map(|seen| match seen {
                    Seen::Delivery(delivery) => Some(delivery.clone()),
                    Seen::Lost(_) => None,
                })
                .collect();
            (all.len() >= count).then_some(all)
        };
        self.0.until("delivery", deliveries).await
    }

    /// The bodies of exactly so many deliveries.
    pub(crate) async fn bodies(&self, count: usize) -> Vec<String> {
        let deliveries = self.first(count).await;
        deliveries
            .iter()
            .map(|delivery| text(&delivery.message.body))
            .collect()
    }

    pub(crate) async fn lost(&self) -> BrokerError {
        let lost = |entries: &[Seen]| {
            entries.iter().find_map(|seen| match seen {
                Seen::Lost(reason) => Some(reason.clone()),
                Seen::Delivery(_) => None,
            })
        };
        self.0.until("loss", lost).await
    }
}

pub(crate) fn text(body: &Bytes) -> String {
    String::from_utf8_lossy(body).into_owned()
}

/// A virtual host that is open, and its feeds.
pub(crate) struct Node {
    pub(crate) feeds: Arc<Feeds>,
    pub(crate) vhost: Arc<dyn VirtualHost>,
}

impl Node {
    pub(crate) async fn open<F: Fixture>(fixture: &F) -> Self {
        let feeds = Arc::new(Feeds::default());
        let vhost = fixture.open(Arc::<Feeds>::clone(&feeds)).await;
        Self { feeds, vhost }
    }

    pub(crate) async fn bind(&self, feed: &FeedId, pattern: &str) {
        self.vhost.bind_feed(feed, pattern).await.unwrap();
        let entry = (feed.clone(), pattern.into());
        let mut patterns = self.feeds.patterns.lock();
        if !patterns.contains(&entry) {
            patterns.push(entry);
        }
    }

    pub(crate) async fn unbind(&self, feed: &FeedId, pattern: &str) {
        self.vhost.unbind_feed(feed, pattern).await.unwrap();
        let mut patterns = self.feeds.patterns.lock();
        patterns.retain(|(id, other)| id != feed || **other != *pattern);
    }

    /// Publishes, and waits until the broker took it.
    pub(crate) async fn send(&self, exchange: &str, key: &str, body: &str) {
        self.try_send(message(exchange, key, body)).await.unwrap();
    }

    pub(crate) async fn try_send(&self, publish: Publish) -> Result<(), BrokerError> {
        let confirm = self.vhost.publish(publish).await?;
        timeout(DEADLINE, confirm).await.expect("a confirm")
    }

    /// Publishes `count` messages `0`, `1`, … to a queue.
    pub(crate) async fn fill(&self, queue: &str, count: usize) {
        for number in 0..count {
            self.send("", queue, &number.to_string()).await;
        }
    }

    pub(crate) async fn consume(&self, request: Consume) -> Reader {
        self.try_consume(request).await.unwrap()
    }

    pub(crate) async fn try_consume(&self, request: Consume) -> Result<Reader, BrokerError> {
        let inbox = Arc::new(Inbox::default());
        let sink = Arc::<Inbox>::clone(&inbox);
        let consumer = self.vhost.consume(request, sink).await?;
        Ok(Reader { inbox, consumer })
    }

    /// The error of a consumer that cannot be.
    pub(crate) async fn refused(&self, request: Consume) -> BrokerError {
        match self.try_consume(request).await {
            Ok(_) => panic!("it consumes"),
            Err(error) => error,
        }
    }
}

/// A consumer and what it gets.
pub(crate) struct Reader {
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) consumer: Arc<dyn Consumer>,
}

impl Reader {
    pub(crate) async fn settle(&self, tag: u64, multiple: bool, verdict: Verdict) {
        self.consumer.settle(tag, multiple, verdict).await.unwrap();
    }
}

pub(crate) fn feed(exchange: &str, shard: u16) -> FeedId {
    FeedId {
        exchange: exchange.into(),
        shard,
    }
}

pub(crate) fn message(exchange: &str, key: &str, body: &str) -> Publish {
    Publish {
        exchange: exchange.into(),
        routing_key: key.into(),
        properties: Properties::default(),
        body: Bytes::copy_from_slice(body.as_bytes()),
        mandatory: false,
        lane: 1,
        slow: None,
    }
}

/// A durable queue.
pub(crate) fn queue(name: &str) -> QueueSpec {
    QueueSpec {
        name: name.into(),
        durable: true,
        ..QueueSpec::default()
    }
}

/// A consumer of a durable queue, which is declared.
pub(crate) fn reading(name: &str, prefetch: u16) -> Consume {
    Consume {
        queue: queue(name),
        declare: true,
        binding: None,
        binding_arguments: Vec::new(),
        prefetch,
        exclusive: false,
        owner: 0,
        arguments: Vec::new(),
    }
}

/// A consumer of a queue that must be there.
pub(crate) fn existing(name: &str) -> Consume {
    Consume {
        declare: false,
        ..reading(name, 10)
    }
}
