//! Shared feeds on RabbitMQ: a queue each, which outlives the connection and is consumed with
//! acknowledgements.

use std::{
    collections::HashMap,
    hash::RandomState,
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, future::try_join_all};
use lapin::{
    Channel, Consumer,
    message::Delivery,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueBindOptions,
        QueueDeclareOptions, QueueDeleteOptions,
    },
    types::{AMQPValue, FieldTable, ShortString},
};
use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};
use tokio_util::task::AbortOnDropHandle;

use super::{
    channels::Channels,
    convert::{fingerprint, from_amqp, short},
    handed::Handed,
    link::{Link, Live, answer},
};
use crate::{
    broker::{BrokerError, FeedId, FeedSink},
    hub::FeedConfig,
    telemetry,
};

/// Messages handed over before they are acknowledged together.
const BATCH: usize = 256;
/// Bindings asked for at a time when a lost queue is set up anew.
const CONCURRENT_BINDS: usize = 256;
/// Dead letters kept to tell that a feed's queue overflowed while nobody looked.
const OVERFLOW_MARKS: i64 = 10;

/// The feeds of one virtual host.
pub(super) struct FeedManager {
    shared: Arc<Shared>,
    feeds: Mutex<HashMap<FeedId, Arc<Feed>>>,
}

struct Shared {
    link: Arc<Link>,
    sink: Arc<dyn FeedSink>,
    config: FeedConfig,
    operation_timeout: Duration,
    /// What this node's queues are called: nobody else's, and not those of its last life.
    queue_prefix: Box<str>,
    binders: Channels,
    /// On channels of their own, since lapin searches all bindings that a channel made for the
    /// one that is taken away.
    unbinders: Channels,
    hasher: RandomState,
}

struct Feed {
    id: FeedId,
    shared: Arc<Shared>,
    queue: ShortString,
    /// Whether the queue was declared.
    ready: watch::Receiver<bool>,
    task: OnceLock<AbortOnDropHandle<()>>,
}

impl FeedManager {
    pub(super) fn new(
        link: Arc<Link>,
        sink: Arc<dyn FeedSink>,
        config: FeedConfig,
        operation_timeout: Duration,
        queue_prefix: Box<str>,
    ) -> Self {
        let shared = Shared {
            link,
            sink,
            config,
            operation_timeout,
            queue_prefix,
            binders: Channels::new(4),
            unbinders: Channels::new(2),
            hasher: RandomState::new(),
        };
        Self {
            shared: Arc::new(shared),
            feeds: Mutex::default(),
        }
    }

    pub(super) async fn bind(&self, feed: &FeedId, pattern: &str) -> Result<(), BrokerError> {
        let feed = self.open(feed)?;
        let deadline = Instant::now() + self.shared.operation_timeout;
        let is_ready = async { feed.ready.clone().wait_for(|ready| *ready).await.is_ok() };
        if !matches!(tokio::time::timeout_at(deadline, is_ready).await, Ok(true)) {
            self.shared.link.health()?;
            return Err(BrokerError::Unavailable(
                "the feed's queue could not be declared".into(),
            ));
        }
        loop {
            let live = self.shared.link.wait_until(deadline).await?;
            match feed.bind(&live, pattern, deadline).await {
                // Either the channel broke with somebody else's binding, or the queue is being
                // made anew, or the connection was lost: in each case it is worth another try.
                Err(BrokerError::NotFound(text)) if !feed.is_about_exchange(&text) => {}
                Err(BrokerError::Unavailable(_)) if Instant::now() < deadline => {}
                outcome => return outcome,
            }
            if Instant::now() >= deadline {
                return Err(BrokerError::Unavailable(
                    "the feed's queue is not there".into(),
                ));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(super) async fn unbind(&self, feed: &FeedId, pattern: &str) -> Result<(), BrokerError> {
        let feed = self.open(feed)?;
        let deadline = Instant::now() + self.shared.operation_timeout;
        let live = self.shared.link.wait_until(deadline).await?;
        let channel = self.shared.unbinders.next(&live, deadline).await?;
        let (exchange, key) = (
            short("the exchange's name", &feed.id.exchange)?,
            short("the pattern", pattern)?,
        );
        let unbinding =
            channel.queue_unbind(feed.queue.clone(), exchange, key, FieldTable::default());
        answer(deadline, unbinding).await
    }

    /// Removes the queues; nobody waits for their messages any more.
    pub(super) async fn close(&self) {
        let feeds: Vec<_> = self.feeds.lock().drain().map(|(_, feed)| feed).collect();
        let deadline = Instant::now() + Duration::from_secs(2);
        for feed in feeds {
            let Ok(live) = self.shared.link.wait_until(deadline).await else {
                return;
            };
            if let Err(error) = feed.delete(&live, deadline).await {
                tracing::debug!(feed = %feed.id, %error, "left a queue to expire");
            }
        }
    }

    fn open(&self, id: &FeedId) -> Result<Arc<Feed>, BrokerError> {
        let mut feeds = self.feeds.lock();
        if let Some(feed) = feeds.get(id) {
            return Ok(Arc::clone(feed));
        }
        let shared = Arc::clone(&self.shared);
        let queue = short(
            "the queue's name",
            &format!("{}.{}", shared.queue_prefix, feeds.len()),
        )?;
        let (ready_sender, ready) = watch::channel(false);
        let feed = Arc::new(Feed {
            id: id.clone(),
            shared,
            queue,
            ready,
            task: OnceLock::new(),
        });
        let runner = Runner {
            id: feed.id.clone(),
            queue: feed.queue.clone(),
            shared: Arc::clone(&feed.shared),
            handed: Handed::new(usize::from(feed.shared.config.prefetch).saturating_mul(2)),
            ready: ready_sender,
        };
        let task = AbortOnDropHandle::new(tokio::spawn(runner.run()));
        feed.task.get_or_init(|| task);
        feeds.insert(id.clone(), Arc::clone(&feed));
        Ok(feed)
    }
}

impl Feed {
    async fn bind(&self, live: &Live, pattern: &str, deadline: Instant) -> Result<(), BrokerError> {
        bind(&self.shared, &self.id, &self.queue, live, pattern, deadline).await
    }

    /// Whether a "not found" speaks of this feed's exchange, rather than of its queue, or of an
    /// exchange that shared the channel.
    fn is_about_exchange(&self, text: &str) -> bool {
        text.contains(&format!("exchange '{}'", self.id.exchange))
    }

    async fn delete(&self, live: &Live, deadline: Instant) -> Result<(), BrokerError> {
        let channel = live.channel(deadline).await?;
        for queue in [self.queue.clone(), overflow_queue(&self.queue)?] {
            answer(
                deadline,
                channel.queue_delete(queue, QueueDeleteOptions::default()),
            )
            .await?;
        }
        Ok(())
    }
}

async fn bind(
    shared: &Shared,
    feed: &FeedId,
    queue: &ShortString,
    live: &Live,
    pattern: &str,
    deadline: Instant,
) -> Result<(), BrokerError> {
    let channel = shared.binders.next(live, deadline).await?;
    let exchange = short("the exchange's name", &feed.exchange)?;
    let key = short("the pattern", pattern)?;
    let (options, none) = (QueueBindOptions::default(), FieldTable::default());
    answer(
        deadline,
        channel.queue_bind(queue.clone(), exchange, key, options, none),
    )
    .await
}

/// Where the messages go that the broker drops from a feed's queue because it is full.
fn overflow_queue(queue: &ShortString) -> Result<ShortString, BrokerError> {
    short("the queue's name", &format!("{queue}.overflow"))
}

/// Keeps one feed running, for as long as its task lives.
struct Runner {
    id: FeedId,
    queue: ShortString,
    shared: Arc<Shared>,
    handed: Handed,
    ready: watch::Sender<bool>,
}

impl Runner {
    async fn run(mut self) {
        loop {
            let live = self.shared.link.wait().await;
            let epoch = live.epoch;
            let error = match self.serve(&live).await {
                Ok(never) => match never {},
                Err(error) => error,
            };
            drop(live);
            tracing::debug!(feed = %self.id, %error, "the feed stopped");
            // A cut link is made again by its supervisor; anything else must not spin.
            let now = Instant::now() + Duration::from_millis(100);
            if self
                .shared
                .link
                .wait_until(now)
                .await
                .is_ok_and(|live| live.epoch == epoch)
            {
                tokio::time::sleep_until(now).await;
            }
        }
    }

    async fn serve(&mut self, live: &Live) -> Result<std::convert::Infallible, BrokerError> {
        let deadline = Instant::now() + self.shared.operation_timeout;
        let channel = self.declare(live, deadline).await?;
        let prefetch = self.shared.config.prefetch;
        answer(
            deadline,
            channel.basic_qos(prefetch, BasicQosOptions::default()),
        )
        .await?;
        let mut overflow = self
            .consume(&channel, overflow_queue(&self.queue)?, true, deadline)
            .await?;
        let mut messages = self
            .consume(&channel, self.queue.clone(), false, deadline)
            .await?;
        self.handed.reconnected();
        self.ready.send_replace(true);
        loop {
            tokio::select! {
                biased;
                delivery = overflow.next() => {
                    let delivery = next(delivery)?;
                    if was_dropped(&delivery) {
                        self.interrupted("feed.max_length_bytes was reached");
                    }
                }
                delivery = messages.next() => {
                    let tag = self.deliver_batch(next(delivery)?, &mut messages);
                    let multiple = BasicAckOptions { multiple: true };
                    let acknowledging = channel.basic_ack(tag, multiple);
                    answer(Instant::now() + self.shared.operation_timeout, acknowledging).await?;
                    self.handed.acknowledged();
                }
            }
        }
    }

    /// Hands over a message and those that are there already; the last one's tag.
    fn deliver_batch(&mut self, mut delivery: Delivery, messages: &mut Consumer) -> u64 {
        let mut count = 1;
        loop {
            let print = fingerprint(&self.shared.hasher, &delivery);
            if self.handed.admit(print, delivery.redelivered) {
                self.shared.sink.deliver(&self.id, from_amqp(&mut delivery));
            }
            if count == BATCH {
                return delivery.delivery_tag;
            }
            match messages.next().now_or_never() {
                Some(Some(Ok(following))) => delivery = following,
                // An end is seen again by the next call.
                _ => return delivery.delivery_tag,
            }
            count += 1;
        }
    }

    /// Sees to it that the feed's queues are there. If they were there before and are not now,
    /// they are made and bound anew, and the sink is told of the gap.
    async fn declare(&mut self, live: &Live, deadline: Instant) -> Result<Channel, BrokerError> {
        let was_declared = *self.ready.borrow();
        if was_declared {
            let channel = live.channel(deadline).await?;
            let check = QueueDeclareOptions {
                passive: true,
                ..QueueDeclareOptions::default()
            };
            let declaring = channel.queue_declare(self.queue.clone(), check, FieldTable::default());
            match answer(deadline, declaring).await {
                Ok(_) => return Ok(channel),
                Err(BrokerError::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let channel = live.channel(deadline).await?;
        let config = &self.shared.config;
        let options = QueueDeclareOptions {
            durable: config.durable,
            ..QueueDeclareOptions::default()
        };
        let overflow = overflow_queue(&self.queue)?;
        let expires = i64::try_from(config.expires.as_millis()).unwrap_or(i64::MAX);
        let mut arguments = FieldTable::default();
        arguments.insert("x-expires".into(), AMQPValue::LongLongInt(expires));
        let mut marks = arguments.clone();
        marks.insert(
            "x-max-length".into(),
            AMQPValue::LongLongInt(OVERFLOW_MARKS),
        );
        let max_bytes = i64::try_from(config.max_length_bytes).unwrap_or(i64::MAX);
        arguments.insert(
            "x-max-length-bytes".into(),
            AMQPValue::LongLongInt(max_bytes),
        );
        arguments.insert(
            "x-dead-letter-exchange".into(),
            AMQPValue::LongString("".into()),
        );
        let to_overflow = AMQPValue::LongString(overflow.as_str().into());
        arguments.insert("x-dead-letter-routing-key".into(), to_overflow);
        answer(deadline, channel.queue_declare(overflow, options, marks)).await?;
        answer(
            deadline,
            channel.queue_declare(self.queue.clone(), options, arguments),
        )
        .await?;
        if was_declared {
            self.handed.forget();
            self.bind_all(live).await?;
            self.interrupted("the broker lost the feed's queue");
        }
        Ok(channel)
    }

    async fn bind_all(&self, live: &Live) -> Result<(), BrokerError> {
        let patterns = self.shared.sink.patterns(&self.id);
        for some in patterns.chunks(CONCURRENT_BINDS) {
            let deadline = Instant::now() + self.shared.operation_timeout;
            let binds = some
                .iter()
                .map(|pattern| bind(&self.shared, &self.id, &self.queue, live, pattern, deadline));
            try_join_all(binds).await?;
        }
        Ok(())
    }

    async fn consume(
        &self,
        channel: &Channel,
        queue: ShortString,
        no_ack: bool,
        deadline: Instant,
    ) -> Result<Consumer, BrokerError> {
        let options = BasicConsumeOptions {
            no_ack,
            exclusive: true,
            ..Default::default()
        };
        let consuming = channel.basic_consume(queue, "".into(), options, FieldTable::default());
        answer(deadline, consuming).await
    }

    fn interrupted(&self, reason: &str) {
        telemetry::feed_interrupted(&self.id, reason);
        self.shared.sink.interrupted(&self.id, reason);
    }
}

/// The next delivery of a consumer, or why there is none.
fn next(delivery: Option<lapin::Result<Delivery>>) -> Result<Delivery, BrokerError> {
    match delivery {
        Some(Ok(delivery)) => Ok(delivery),
        Some(Err(error)) => Err(super::convert::broker_error(&error)),
        None => Err(BrokerError::Cancelled("the queue was deleted".into())),
    }
}

/// Whether a dead letter is there because the queue was full, rather than because the message
/// expired, which its publisher wanted.
fn was_dropped(letter: &Delivery) -> bool {
    let headers = letter.properties.headers().as_ref();
    let reason = headers.and_then(|headers| headers.inner().get("x-first-death-reason"));
    matches!(reason, Some(AMQPValue::LongString(reason)) if reason.as_bytes() == b"maxlen")
}
