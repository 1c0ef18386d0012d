//! Shared feeds on RabbitMQ: a queue each, which outlives the connection and is consumed with
//! acknowledgements, on a connection of the feed's own: a message that lapin cannot read (a
//! short text that is not UTF-8) ends the connection, the broker sends it again, and so on. The
//! second time, the queue is emptied, and the sink is told.
//!
//! When the link is back, the queue is looked for. If it is there, it has what came meanwhile,
//! save for three things that nobody can see from here:
//!
//! - a transient message (delivery mode 1) that waited in it while the broker restarted. The
//!   queue is durable, the message is not, which was its publisher's choice;
//! - what was routed while the exchange had lost its bindings, because it was deleted and made
//!   anew. Bindings are asserted again whenever the feed's link is back (if they are not too
//!   many), which is when a broker that was set up anew is met; without that, they stay lost
//!   until each pattern is bound the next time;
//! - what an operator purged.
//!
//! If the queue is gone, all bindings are gone with it: the sink is told, and forgets them.

use std::{
    collections::HashMap,
    hash::RandomState,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, TryStreamExt, future::join_all};
use lapin::{
    Channel, Consumer,
    message::Delivery,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueBindOptions,
        QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions,
    },
    types::{AMQPValue, FieldTable, ShortString},
};
use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};
use tokio_util::task::AbortOnDropHandle;

use super::{
    channels::{self, Channels},
    convert::{fingerprint, from_amqp, short},
    handed::Handed,
    link::{Link, LinkConfig, Live, answer},
};
use crate::{
    broker::{BrokerError, FeedConfig, FeedId, FeedSink},
    telemetry,
};

/// Messages handed over before they are acknowledged together.
const BATCH: usize = 256;
/// Bindings asked for at a time when they are asserted again.
const CONCURRENT_BINDS: usize = 64;
/// With more patterns than these, bindings are not asserted again when the link is back.
const MAX_BINDS_AGAIN: usize = 10_000;
/// Dead letters kept to tell that a feed's queue overflowed while nobody looked.
const OVERFLOW_MARKS: u32 = 10;
/// So many times in a row a message is tried that cannot be read: the first end might have hit
/// in the middle of something else.
const UNREADABLE: u8 = 2;
/// Between two tries of what the broker refuses for now.
const PAUSE: Duration = Duration::from_millis(100);

/// The feeds of one virtual host.
pub(super) struct FeedManager {
    shared: Arc<Shared>,
    feeds: Mutex<HashMap<FeedId, Arc<Feed>>>,
}

struct Shared {
    /// For bindings, and whatever else is not a feed's own messages.
    link: Arc<Link>,
    /// How the feeds' own links are made.
    link_config: LinkConfig,
    sink: Arc<dyn FeedSink>,
    config: FeedConfig,
    operation_timeout: Duration,
    queue_names: QueueNames,
    binders: Channels,
    /// On channels of their own, since lapin searches all bindings that a channel made for the
    /// one that is taken away.
    unbinders: Channels,
    hasher: RandomState,
}

/// What this node's queues are called: as nobody else's, not as those of its last life, and not as
/// those of a virtual host's last opening, which may still be closing.
pub(super) struct QueueNames {
    pub(super) prefix: Box<str>,
    pub(super) numbers: Arc<AtomicU64>,
}

impl QueueNames {
    fn next(&self) -> String {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        format!("{}.{number}", self.prefix)
    }
}

struct Feed {
    id: FeedId,
    shared: Arc<Shared>,
    /// For its messages alone.
    link: Arc<Link>,
    queue: ShortString,
    /// Whether the queue was declared.
    ready: watch::Receiver<bool>,
    task: OnceLock<AbortOnDropHandle<()>>,
}

impl FeedManager {
    pub(super) fn new(
        link: Arc<Link>,
        link_config: LinkConfig,
        sink: Arc<dyn FeedSink>,
        config: FeedConfig,
        operation_timeout: Duration,
        queue_names: QueueNames,
    ) -> Self {
        let shared = Shared {
            link,
            link_config,
            sink,
            config,
            operation_timeout,
            queue_names,
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
            feed.link.health()?;
            return Err(BrokerError::Unavailable(
                "the feed's queue could not be declared".into(),
            ));
        }
        bind_until(&self.shared, &feed.id, &feed.queue, pattern, deadline).await
    }

    pub(super) async fn unbind(&self, feed: &FeedId, pattern: &str) -> Result<(), BrokerError> {
        let feed = self.open(feed)?;
        let deadline = Instant::now() + self.shared.operation_timeout;
        let (exchange, key) = (
            short("the exchange's name", &feed.id.exchange)?,
            short("the pattern", pattern)?,
        );
        loop {
            let live = self.shared.link.wait_until(deadline).await?;
            let channel = self.shared.unbinders.next(&live, deadline).await?;
            let (queue, none) = (feed.queue.clone(), FieldTable::default());
            let unbinding = channel.queue_unbind(queue, exchange.clone(), key.clone(), none);
            let Err(error) = answer(deadline, unbinding).await else {
                return Ok(());
            };
            // The pattern may be bound next, on another channel. So this one is brought to its
            // end first: what was asked on it is then done, or never will be.
            let settled =
                channels::settle(&channel, Instant::now() + self.shared.operation_timeout);
            if !settled.await {
                tracing::warn!(feed = %feed.id, "an unbinding may come late");
            }
            // Another one's unbinding may have ended the channel.
            if !matches!(error, BrokerError::Unavailable(_)) || Instant::now() >= deadline {
                return Err(error);
            }
        }
    }

    /// Removes the queues; nobody waits for their messages any more.
    pub(super) async fn close(&self) {
        let feeds: Vec<_> = self.feeds.lock().drain().map(|(_, feed)| feed).collect();
        let deadline = Instant::now() + Duration::from_secs(2);
        for feed in &feeds {
            if let Some(task) = feed.task.get() {
                task.abort();
            }
        }
        join_all(feeds.iter().map(|feed| feed.close(deadline))).await;
    }

    fn open(&self, id: &FeedId) -> Result<Arc<Feed>, BrokerError> {
        let mut feeds = self.feeds.lock();
        if let Some(feed) = feeds.get(id) {
            return Ok(Arc::clone(feed));
        }
        let shared = Arc::clone(&self.shared);
        let queue = short("the queue's name", &shared.queue_names.next())?;
        let (ready_sender, ready) = watch::channel(false);
        let link = Arc::new(Link::start(shared.link_config.clone()));
        let feed = Arc::new(Feed {
            id: id.clone(),
            shared,
            link,
            queue,
            ready,
            task: OnceLock::new(),
        });
        let runner = Runner {
            id: feed.id.clone(),
            queue: feed.queue.clone(),
            shared: Arc::clone(&feed.shared),
            link: Arc::clone(&feed.link),
            admitted: false,
            consuming: false,
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
    async fn close(&self, deadline: Instant) {
        let deleting = async {
            let live = self.shared.link.wait_until(deadline).await?;
            self.delete(&live, deadline).await
        };
        if let Err(error) = deleting.await {
            tracing::debug!(feed = %self.id, %error, "left a queue to expire");
        }
        self.link.close().await;
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

/// Binds, again if need be, until `deadline`.
async fn bind_until(
    shared: &Shared,
    feed: &FeedId,
    queue: &ShortString,
    pattern: &str,
    deadline: Instant,
) -> Result<(), BrokerError> {
    // Rather than of the queue, or of an exchange that shared the channel.
    let is_about_exchange = |text: &str| text.contains(&format!("exchange '{}'", feed.exchange));
    loop {
        let live = shared.link.wait_until(deadline).await?;
        match bind(shared, feed, queue, &live, pattern, deadline).await {
            // Either the channel broke with somebody else's binding, or the queue is being
            // made anew, or the connection was lost: in each case it is worth another try.
            Err(BrokerError::NotFound(text)) if !is_about_exchange(&text) => {}
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
    link: Arc<Link>,
    /// Whether anything was handed over on this connection, and whether it got as far.
    admitted: bool,
    consuming: bool,
    handed: Handed,
    ready: watch::Sender<bool>,
}

impl Runner {
    async fn run(mut self) {
        // How often in a row the link was ended by what cannot be read, before anything new came.
        let mut unreadable = 0_u8;
        loop {
            let live = self.link.wait().await;
            self.admitted = false;
            let error = match self.serve(&live, unreadable >= UNREADABLE).await {
                Ok(never) => match never {},
                Err(error) => error,
            };
            // A cut link is made again by its supervisor; anything else must not spin.
            let cause = live.end(Instant::now() + PAUSE).await.unwrap_or(error);
            unreadable = match cause {
                BrokerError::Unreadable(_) if self.admitted => 1,
                BrokerError::Unreadable(_) => unreadable.saturating_add(1),
                // As long as the queue was not emptied, it is still in there.
                _ if unreadable >= UNREADABLE && !self.consuming => unreadable,
                _ => 0,
            };
            tracing::debug!(feed = %self.id, error = %cause, "the feed stopped");
        }
    }

    async fn serve(
        &mut self,
        live: &Live,
        is_poisoned: bool,
    ) -> Result<std::convert::Infallible, BrokerError> {
        self.consuming = false;
        let (channel, is_old) = self.declare(live).await?;
        let marks = self.declare_overflow(live).await?;
        if is_poisoned {
            self.purge().await?;
        }
        let deadline = self.deadline();
        let prefetch = self.shared.config.prefetch;
        answer(
            deadline,
            channel.basic_qos(prefetch, BasicQosOptions::default()),
        )
        .await?;
        // On a channel of its own, so that the acknowledgement of many messages is none of a mark.
        let overflow_channel = live.channel(deadline).await?;
        let mut overflow = self
            .consume(&overflow_channel, overflow_queue(&self.queue)?, deadline)
            .await?;
        let mut messages = self.consume(&channel, self.queue.clone(), deadline).await?;
        self.consuming = true;
        self.handed.reconnected();
        if marks >= OVERFLOW_MARKS && !is_poisoned {
            self.interrupted("more messages left the feed's queue than it keeps the reasons of");
        }
        self.ready.send_replace(true);
        let mut binding = is_old.then(|| self.bind_again());
        loop {
            tokio::select! {
                biased;
                delivery = overflow.next() => {
                    let tag = match next(delivery) {
                        Ok(letter) => self.take_marks(letter, &mut overflow),
                        Err(error) => {
                            self.drain(&mut messages);
                            return Err(error);
                        }
                    };
                    let multiple = BasicAckOptions { multiple: true };
                    answer(self.deadline(), overflow_channel.basic_ack(tag, multiple)).await?;
                }
                outcome = async { binding.as_mut()?.await.ok() }, if binding.is_some() => {
                    binding = None;
                    if let Some(Err(BrokerError::NotFound(text))) = outcome {
                        self.lost(&text);
                    }
                }
                delivery = messages.next() => {
                    let tag = self.deliver_batch(next(delivery)?, &mut messages);
                    let multiple = BasicAckOptions { multiple: true };
                    let acknowledging = channel.basic_ack(tag, multiple);
                    if let Err(error) = answer(self.deadline(), acknowledging).await {
                        self.drain(&mut messages);
                        return Err(error);
                    }
                    self.handed.acknowledged();
                }
            }
        }
    }

    /// Hands over a message and those that are there already; the last one's tag.
    fn deliver_batch(&mut self, mut delivery: Delivery, messages: &mut Consumer) -> u64 {
        let mut count = 1;
        loop {
            self.hand_over(&mut delivery);
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

    fn hand_over(&mut self, delivery: &mut Delivery) {
        let print = fingerprint(&self.shared.hasher, delivery);
        if self.handed.admit(print, delivery.redelivered) {
            self.admitted = true;
            self.shared.sink.deliver(&self.id, from_amqp(delivery));
        }
    }

    /// Hands over what came before the link's end: if the end is a message that cannot be read,
    /// all before it has then been handed over, and need not be kept for another try.
    fn drain(&mut self, messages: &mut Consumer) {
        while let Some(Some(Ok(mut delivery))) = messages.next().now_or_never() {
            self.hand_over(&mut delivery);
        }
    }

    /// Looks at a dead letter and those that are there already; the last one's tag.
    fn take_marks(&self, mut letter: Delivery, overflow: &mut Consumer) -> u64 {
        let mut has_overflowed = was_dropped(&letter, &self.queue);
        while let Some(Some(Ok(following))) = overflow.next().now_or_never() {
            letter = following;
            has_overflowed |= was_dropped(&letter, &self.queue);
        }
        if has_overflowed {
            self.interrupted("feed.max_length_bytes was reached");
        }
        letter.delivery_tag
    }

    /// Sees to it that the feed's queue is there, and that nobody consumes it: then what an
    /// earlier connection left unacknowledged is in it again. If it was there before and is not
    /// now, the sink is told at once, and the patterns are bound to the new one as they are
    /// asked for again. Whether it is the old one.
    async fn declare(&mut self, live: &Live) -> Result<(Channel, bool), BrokerError> {
        if *self.ready.borrow() {
            let channel = live.channel(self.deadline()).await?;
            match self.until_unused(&channel).await {
                Ok(()) => return Ok((channel, true)),
                Err(BrokerError::NotFound(_)) => {
                    // Before the sink is told, so that who binds from then on waits for the new.
                    self.ready.send_replace(false);
                    self.handed.forget();
                    self.lost("the broker lost the feed's queue");
                }
                Err(error) => return Err(error),
            }
        }
        let channel = live.channel(self.deadline()).await?;
        let config = &self.shared.config;
        let overflow = overflow_queue(&self.queue)?;
        let mut arguments = self.expiring();
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
        let declaring = channel.queue_declare(self.queue.clone(), self.durable(), arguments);
        answer(self.deadline(), declaring).await?;
        Ok((channel, false))
    }

    /// Waits until the broker noticed the end of an earlier connection.
    async fn until_unused(&self, channel: &Channel) -> Result<(), BrokerError> {
        let check = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        loop {
            let declaring = channel.queue_declare(self.queue.clone(), check, FieldTable::default());
            let queue = answer(self.deadline(), declaring).await?;
            if queue.consumer_count() == 0 {
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Sees to it that the queue for dead letters is there; how many are in it.
    async fn declare_overflow(&self, live: &Live) -> Result<u32, BrokerError> {
        let mut arguments = self.expiring();
        arguments.insert(
            "x-max-length".into(),
            AMQPValue::LongLongInt(OVERFLOW_MARKS.into()),
        );
        let channel = live.channel(self.deadline()).await?;
        let declaring =
            channel.queue_declare(overflow_queue(&self.queue)?, self.durable(), arguments);
        let marks = answer(self.deadline(), declaring).await?.message_count();
        // Nothing was asked on it that could still be under way.
        let _ = answer(self.deadline(), channel.close(200, "bye".into())).await;
        Ok(marks)
    }

    fn durable(&self) -> QueueDeclareOptions {
        QueueDeclareOptions {
            durable: self.shared.config.durable,
            ..QueueDeclareOptions::default()
        }
    }

    fn expiring(&self) -> FieldTable {
        let expires = self.shared.config.expires.as_millis();
        let expires = i64::try_from(expires).unwrap_or(i64::MAX);
        let mut arguments = FieldTable::default();
        arguments.insert("x-expires".into(), AMQPValue::LongLongInt(expires));
        arguments
    }

    /// Empties the feed's queues of a message that cannot be read, and so of all behind it.
    async fn purge(&mut self) -> Result<(), BrokerError> {
        let deadline = self.deadline();
        let healthy = self.shared.link.wait_until(deadline).await?;
        for queue in [self.queue.clone(), overflow_queue(&self.queue)?] {
            let channel = self.shared.binders.next(&healthy, deadline).await?;
            let purging = channel.queue_purge(queue, QueuePurgeOptions::default());
            answer(deadline, purging).await?;
        }
        self.handed.forget();
        self.interrupted("a message that cannot be read, and all behind it, were thrown away");
        Ok(())
    }

    /// Binds what ought to be bound, in the background: an exchange that was made anew while
    /// the feed's queue lived has lost its bindings, and AMQP tells nobody.
    fn bind_again(&self) -> AbortOnDropHandle<Result<(), BrokerError>> {
        let (shared, id, queue) = (
            Arc::clone(&self.shared),
            self.id.clone(),
            self.queue.clone(),
        );
        AbortOnDropHandle::new(tokio::spawn(async move {
            let patterns = shared.sink.patterns(&id);
            if patterns.len() > MAX_BINDS_AGAIN {
                return Ok(());
            }
            let binds = patterns.iter().map(Ok).collect::<Vec<_>>();
            futures_util::stream::iter(binds)
                .try_for_each_concurrent(CONCURRENT_BINDS, |pattern| {
                    let deadline = Instant::now() + shared.operation_timeout;
                    bind_until(&shared, &id, &queue, pattern, deadline)
                })
                .await
        }))
    }

    async fn consume(
        &self,
        channel: &Channel,
        queue: ShortString,
        deadline: Instant,
    ) -> Result<Consumer, BrokerError> {
        let options = BasicConsumeOptions {
            exclusive: true,
            ..Default::default()
        };
        let consuming = channel.basic_consume(queue, "".into(), options, FieldTable::default());
        answer(deadline, consuming).await
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.shared.operation_timeout
    }

    fn interrupted(&self, reason: &str) {
        telemetry::feed_interrupted(&self.id, reason);
        self.shared.sink.interrupted(&self.id, reason);
    }

    fn lost(&self, reason: &str) {
        telemetry::feed_interrupted(&self.id, reason);
        self.shared.sink.lost(&self.id, reason);
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

/// Whether a dead letter is there because `queue` was full, rather than because the message
/// expired, which its publisher wanted. It may have died elsewhere before, and of something else.
fn was_dropped(letter: &Delivery, queue: &ShortString) -> bool {
    let headers = letter.properties.headers().as_ref();
    let Some(AMQPValue::FieldArray(deaths)) = headers.and_then(|all| all.inner().get("x-death"))
    else {
        return false;
    };
    deaths.as_slice().iter().any(|death| {
        let AMQPValue::FieldTable(death) = death else {
            return false;
        };
        let is = |name: &str, text: &str| {
            matches!(death.inner().get(name),
                Some(AMQPValue::LongString(value)) if value.as_bytes() == text.as_bytes())
        };
        is("queue", queue.as_str()) && is("reason", "maxlen")
    })
}
