//! One feed's queue, for as long as the feed's task lives.
//!
//! When the link is back, the queue is looked for. If it is there, it has what came meanwhile,
//! save for four things that nobody can see from here:
//!
//! - a transient message (delivery mode 1) that waited in it while the broker restarted. The
//!   queue is durable, the message is not, which was its publisher's choice;
//! - what was routed while the exchange had lost its bindings, because it was deleted and made
//!   anew. The sink asks for its bindings again whenever the feed is consumed again, which is when a
//!   broker that was set up anew is met; and see [`super::sentinel`];
//! - what an operator purged;
//! - what was routed while a broker that was killed had forgotten a binding that it had answered just
//!   before. The sink is told ([`crate::broker::amqp::cut`]), and knows which bindings were that young.
//!
//! If the queue is gone, all bindings are gone with it: the sink is told, and forgets them. The same
//! if its node is down or out of reach: RabbitMQ cancels its consumer then, refuses to say anything
//! of it (404), or leaves the question without an answer. The feed goes on with a queue of another
//! name, and the old one is left to [`super::queue`].
//!
//! A replicated queue (`feed.replicated`) is a quorum queue with a single active consumer: the next
//! connection's consumer waits until RabbitMQ has given up the last one's, so that order is kept.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use lapin::{
    Channel,
    options::{QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use super::{
    Feed, Ready, Shared, overflow_queue,
    queue::FeedQueue,
    sentinel::Sentinel,
    taker::{self, FeedTaker, Marks, Messages},
};
use crate::{
    backoff::Backoff,
    broker::{
        BrokerError, FeedId,
        amqp::{
            convert::short,
            cut::Cut,
            link::{Live, answer, bare},
            reader::{Consumer, Ended, Reader},
            silence::{QUESTION, answer_for_queue},
            topology,
        },
        offline_of,
    },
    deadline::after,
    telemetry,
};

/// Dead letters kept to tell that a feed's queue overflowed while nobody looked.
const OVERFLOW_MARKS: u32 = 10;
/// Between two looks at a queue that is still consumed.
const PAUSE: Duration = Duration::from_millis(100);
/// How long the second consumer of a queue may take to hear what the first one heard.
const SAME_NEWS: Duration = Duration::from_millis(500);
/// How often a quorum queue gives a message again before it drops it: never to be reached.
const DELIVERY_LIMIT: i64 = i32::MAX as i64;
/// How long a quorum queue waits for a consumer whose node is out of reach, in milliseconds. From
/// RabbitMQ 4.3 on; others give its messages again at once.
const DISCONNECTED_MILLISECONDS: i64 = 1_000;
/// Why a feed leaves a queue that is still there.
pub(super) const EXCHANGE_LOST: &str = "its exchange was deleted and made anew";
const TAKEN: &str = "somebody else consumes it";
/// The first and the longest pause between tries of what the broker refuses.
const RETRY: (Duration, Duration) = (PAUSE, Duration::from_secs(1));

/// Keeps one feed running.
pub(super) struct Runner {
    id: FeedId,
    queue: Arc<FeedQueue>,
    shared: Arc<Shared>,
    reader: Arc<Reader<FeedTaker>>,
    /// While no connection has it: what was handed over last.
    messages: Option<Messages>,
    cut: Cut,
    /// Whether the queue is durable.
    durable: bool,
    ready: watch::Sender<Ready>,
    is_bound: Arc<AtomicBool>,
    is_stale: Arc<watch::Sender<bool>>,
    is_ended: Arc<AtomicBool>,
    sentinel: Arc<Sentinel>,
}

/// The messages that wait in the feed's queue when it is consumed again.
#[derive(Clone, Copy)]
enum Waiting {
    /// The queue is a new one.
    Nothing,
    /// So many, at least.
    Known(u32),
    /// The broker cannot say.
    Unknown,
}

/// Keeps one feed served.
pub(super) trait Serve: Send {
    /// What serving it takes.
    fn parts(&self) -> Parts<'_>;

    /// Serves it until that cannot go on; why.
    fn serve(
        &mut self,
        live: &Live,
    ) -> impl Future<Output = Result<Infallible, BrokerError>> + Send;
}

/// What serving a feed takes.
pub(super) struct Parts<'a> {
    pub(super) id: &'a FeedId,
    pub(super) shared: &'a Arc<Shared>,
    pub(super) reader: &'a Arc<Reader<FeedTaker>>,
    pub(super) ready: &'a watch::Sender<Ready>,
}

/// Serves a feed whenever that is possible.
pub(super) async fn run(mut server: impl Serve) {
    let mut backoff = Backoff::new(RETRY);
    // Why it was refused last, and how often in a row.
    let (mut refusal, mut refusals) = (None, 0_u32);
    loop {
        let (reader, shared) = {
            let Parts { reader, shared, .. } = server.parts();
            (Arc::clone(reader), Arc::clone(shared))
        };
        reader.up().await;
        let live = shared.link.wait().await;
        let since = Instant::now();
        let error = match server.serve(&live).await {
            Ok(never) => match never {},
            Err(error) => error,
        };
        let cause = bare(&error);
        let Parts { id, ready, .. } = server.parts();
        match error {
            // The link's own trouble is told elsewhere, and a lost queue when it is missed.
            BrokerError::Unavailable(_)
            | BrokerError::Cancelled(_)
            | BrokerError::NotFound(_)
            | BrokerError::QueueFailed(_) => {
                telemetry::feed_stopped(id, &cause);
                refusal = None;
            }
            _ => {
                if refusal.as_ref() != Some(&cause) {
                    (refusal, refusals) = (Some(Arc::clone(&cause)), 0);
                }
                refusals = refusals.saturating_add(1);
                // An earlier connection's consumer may be there for a moment; and what stays
                // is told once.
                if refusals == 2 {
                    telemetry::feed_refused(id, &cause);
                }
            }
        }
        ready.send_if_modified(|ready| match ready {
            Ok(()) => false,
            Err(why) => {
                *why = cause;
                true
            }
        });
        // A lost connection is waited for; anything else must not spin.
        backoff.lasted(since.elapsed());
        tokio::time::sleep(backoff.pause()).await;
    }
}

/// All bindings of the feed are gone: its sink is told.
pub(super) fn unbound(
    Parts { id, shared, .. }: &Parts<'_>,
    sentinel: &Sentinel,
    is_bound: &AtomicBool,
    reason: &str,
) {
    telemetry::feed_interrupted(*id, reason);
    sentinel.lost();
    is_bound.store(false, Ordering::Release);
    shared.sink.lost(id, reason);
}

impl Runner {
    /// Says by `ready` whether the queue is there and can be bound to.
    pub(super) fn new(feed: &Arc<Feed>, ready: watch::Sender<Ready>) -> Self {
        Self {
            id: feed.id.clone(),
            queue: Arc::clone(&feed.queue),
            shared: Arc::clone(&feed.shared),
            reader: Arc::clone(&feed.reader),
            messages: None,
            cut: Cut::default(),
            durable: feed.shared.config.durable,
            ready,
            is_bound: Arc::clone(&feed.is_bound),
            is_stale: Arc::clone(&feed.is_stale),
            is_ended: Arc::clone(&feed.is_ended),
            sentinel: Arc::clone(&feed.sentinel),
        }
    }

    /// On a channel of its own, so that the acknowledgement of many messages is none of a mark.
    async fn consume_overflow(&self) -> Result<Consumer<FeedTaker>, BrokerError> {
        let queue = self.queue.name();
        let overflow = overflow_queue(&queue)?;
        let marks = Marks::new(&self.shared, &self.id, queue.as_str(), &self.is_ended);
        let taker = FeedTaker::Marks(marks);
        let deadline = self.question();
        let queue = overflow.as_str();
        let starting = self.reader.consume_unless_silent(queue, 0, taker, deadline);
        starting.await.map_err(|ended| ended.reason)
    }

    /// Lets the feed's messages flow; how many wait in an old queue.
    async fn consume(&mut self, waiting: Waiting) -> Result<Consumer<FeedTaker>, BrokerError> {
        let anew = || Messages::new(&self.shared, &self.id, &self.sentinel, &self.is_ended);
        let mut messages = self.messages.take().unwrap_or_else(anew);
        messages.reconnected(match waiting {
            Waiting::Nothing => Some(0),
            Waiting::Known(count) => Some(usize::try_from(count).unwrap_or(usize::MAX)),
            Waiting::Unknown => None,
        });
        let (queue, prefetch) = (self.queue.name(), self.shared.config.prefetch);
        let taker = FeedTaker::Messages(messages);
        let starting =
            self.reader
                .consume_unless_silent(queue.as_str(), prefetch, taker, self.question());
        starting.await.map_err(|ended| self.take_back(ended))
    }

    /// What was asked of the queue. If the answer says that it is lost, the feed gets another one,
    /// and the sink is told.
    fn unless_lost<T>(&mut self, outcome: Result<T, BrokerError>) -> Result<T, BrokerError> {
        let Err(error) = &outcome else {
            return outcome;
        };
        let is_lost = match error {
            BrokerError::NotFound(_) | BrokerError::Cancelled(_) | BrokerError::QueueFailed(_) => {
                true
            }
            // A quorum queue without a majority loses nothing, for it takes nothing.
            BrokerError::Unavailable(cause) => cause.is_silence() && !self.is_replicated(),
            _ => false,
        };
        if is_lost {
            self.move_on(&bare(error))?;
        }
        outcome
    }

    /// Goes on with a queue of another name, and tells the sink.
    fn move_on(&mut self, why: &str) -> Result<(), BrokerError> {
        if self.leave_queue(why)? {
            self.lost("the broker lost the feed's queue");
        }
        Ok(())
    }

    /// Goes on with a queue of another name, which is declared next. Returns true if the old one
    /// was in use.
    fn leave_queue(&mut self, why: &str) -> Result<bool, BrokerError> {
        let had_one = self.ready.borrow().is_ok();
        // Before the sink is told, so that a bind from then on waits for the new one.
        let lost = Err("the broker lost it".into());
        self.ready.send_modify(|ready| *ready = lost);
        let old = self.queue.renew(&self.shared.queue_names)?;
        self.is_stale.send_replace(false);
        self.shared.leftovers.add(old);
        self.messages = None;
        if had_one {
            telemetry::feed_moved(&self.id, self.queue.name().as_str(), why);
        }
        Ok(had_one)
    }

    /// Keeps what a consumer remembers for the next; why it ended.
    fn take_back(&mut self, ended: Ended<FeedTaker>) -> BrokerError {
        if let Some(FeedTaker::Messages(messages)) = ended.taker {
            self.messages = Some(messages);
        }
        if self.cut.begins(&ended.reason, Instant::now()) {
            self.shared.sink.cut(&self.id);
        }
        ended.reason
    }

    /// Sees to it that the feed's queue is there, and that nobody consumes it: then what an
    /// earlier connection left unacknowledged is in it again. If it is the old one, how many
    /// messages wait in it.
    async fn declare(&mut self, live: &Live) -> Result<Waiting, BrokerError> {
        if self.ready.borrow().is_ok() {
            let channel = live.channel(self.deadline()).await?;
            return self.until_unused(live, &channel).await;
        }
        // It outlives the link, so it cannot be the link's own: transient ones are not everywhere.
        if !self.durable {
            let declarer = &self.shared.declarer;
            self.durable = !declarer.has_transient(self.deadline()).await?;
        }
        let channel = live.channel(self.deadline()).await?;
        let config = &self.shared.config;
        let queue = self.queue.name();
        let overflow = overflow_queue(&queue)?;
        let mut arguments = self.arguments();
        let max_bytes = i64::try_from(config.max_length_bytes).unwrap_or(i64::MAX);
        arguments.insert(
            "x-max-length-bytes".into(),
            AMQPValue::LongLongInt(max_bytes),
        );
        let mut dead_letters = String::new();
        if let Some(patience) = self.patience() {
            // By this exchange they come to the overflow queue, too.
            dead_letters = offline_of(&self.id.exchange);
            let milliseconds = i64::try_from(patience.as_millis()).unwrap_or(i64::MAX);
            arguments.insert("x-message-ttl".into(), AMQPValue::LongLongInt(milliseconds));
        }
        arguments.insert(
            "x-dead-letter-exchange".into(),
            AMQPValue::LongString(dead_letters.into()),
        );
        let to_overflow = AMQPValue::LongString(overflow.as_str().into());
        arguments.insert("x-dead-letter-routing-key".into(), to_overflow);
        let declaring = channel.queue_declare(queue, self.durable(), arguments);
        answer_for_queue(live, self.question(), declaring).await?;
        Ok(Waiting::Nothing)
    }

    /// Waits until the broker noticed the end of an earlier connection; how many messages wait
    /// then, with those that it had sent to it. A consumer that stays longer is not this node's: it
    /// takes messages that nobody here sees, so the feed goes on with another queue.
    async fn until_unused(
        &mut self,
        live: &Live,
        channel: &Channel,
    ) -> Result<Waiting, BrokerError> {
        let noticed = after(self.until_noticed());
        let check = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        loop {
            if *self.is_stale.borrow() {
                // It is left when the feed is served next.
                return Err(BrokerError::Unavailable(EXCHANGE_LOST.into()));
            }
            let declaring = channel.queue_declare(self.queue.name(), check, FieldTable::default());
            let queue = answer_for_queue(live, self.question(), declaring).await?;
            if self.is_replicated() {
                // Its counts lag. Only one of its consumers is served, so none need be waited for.
                return Ok(Waiting::Unknown);
            }
            if queue.consumer_count() == 0 {
                return Ok(Waiting::Known(queue.message_count()));
            }
            if Instant::now() >= noticed {
                self.move_on(TAKEN)?;
                return Err(BrokerError::Unavailable(TAKEN.into()));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Sees to it that the queue for dead letters is there; how many are in it.
    async fn declare_overflow(&self, live: &Live) -> Result<u32, BrokerError> {
        let mut arguments = self.arguments();
        arguments.insert(
            "x-max-length".into(),
            AMQPValue::LongLongInt(OVERFLOW_MARKS.into()),
        );
        let overflow = overflow_queue(&self.queue.name())?;
        if self.patience().is_some() {
            let offline = offline_of(&self.id.exchange);
            let kind = lapin::ExchangeKind::Topic;
            topology::declare_or_find(live, &offline, kind, self.deadline()).await?;
        }
        let channel = live.channel(self.deadline()).await?;
        let declaring = channel.queue_declare(overflow.clone(), self.durable(), arguments);
        let declared = answer_for_queue(live, self.question(), declaring).await?;
        if self.patience().is_some() {
            let offline = short("the exchange's name", &offline_of(&self.id.exchange))?;
            let (options, none) = (QueueBindOptions::default(), FieldTable::default());
            let binding = channel.queue_bind(overflow.clone(), offline, overflow, options, none);
            answer_for_queue(live, self.question(), binding).await?;
        }
        // Nothing was asked on it that could still be under way.
        let _ = answer(self.deadline(), channel.close(200, "bye".into())).await;
        Ok(declared.message_count())
    }

    fn durable(&self) -> QueueDeclareOptions {
        QueueDeclareOptions {
            durable: self.durable,
            ..QueueDeclareOptions::default()
        }
    }

    /// Of both queues.
    fn arguments(&self) -> FieldTable {
        let milliseconds = self.shared.config.expires.as_millis();
        let expires = i64::try_from(milliseconds).unwrap_or(i64::MAX);
        let mut arguments = FieldTable::default();
        arguments.insert("x-expires".into(), AMQPValue::LongLongInt(expires));
        // Nothing is left to the virtual host's defaults and policies. A queue that rejects what is
        // too much loses it without a mark; a quorum queue gives doubles after a cut, and says so.
        let kind = match self.is_replicated() {
            true => "quorum",
            false => "classic",
        };
        for (name, value) in [("x-queue-type", kind), ("x-overflow", "drop-head")] {
            arguments.insert(name.into(), AMQPValue::LongString(value.into()));
        }
        if self.is_replicated() {
            let single = "x-single-active-consumer".into();
            arguments.insert(single, AMQPValue::Boolean(true));
            for (name, value) in [
                ("x-delivery-limit", DELIVERY_LIMIT),
                ("x-consumer-disconnected-timeout", DISCONNECTED_MILLISECONDS),
            ] {
                arguments.insert(name.into(), AMQPValue::LongLongInt(value));
            }
        }
        arguments
    }

    fn is_replicated(&self) -> bool {
        self.shared.config.replicated
    }

    /// How long a message may wait for this node, if those that wait longer are handed on.
    fn patience(&self) -> Option<Duration> {
        let (shared, exchange) = (&self.shared, &self.id.exchange);
        shared.config.offline.patience(&shared.vhost, exchange)
    }

    /// How long the broker may take to notice that a connection is dead: RabbitMQ does so two to three
    /// heart-beats after the last byte.
    fn until_noticed(&self) -> Duration {
        let heartbeat = self.shared.readers.config.uri.query.heartbeat;
        let heartbeat = Duration::from_secs(heartbeat.unwrap_or_default().into());
        let silence = heartbeat.saturating_mul(3);
        silence.saturating_add(self.shared.operation_timeout)
    }

    /// Until when RabbitMQ may say something of a queue.
    fn question(&self) -> Instant {
        after(self.shared.operation_timeout.min(QUESTION))
    }

    fn deadline(&self) -> Instant {
        after(self.shared.operation_timeout)
    }

    fn interrupted(&self, reason: &str) {
        taker::interrupted(&*self.shared.sink, &self.id, reason);
    }

    fn lost(&self, reason: &str) {
        unbound(&self.parts(), &self.sentinel, &self.is_bound, reason);
    }
}

impl Serve for Runner {
    fn parts(&self) -> Parts<'_> {
        Parts {
            id: &self.id,
            shared: &self.shared,
            reader: &self.reader,
            ready: &self.ready,
        }
    }

    async fn serve(&mut self, live: &Live) -> Result<Infallible, BrokerError> {
        if *self.is_stale.borrow() {
            self.leave_queue(EXCHANGE_LOST)?;
        }
        let mut stale = self.is_stale.subscribe();
        let declared = self.declare(live).await;
        let waiting = self.unless_lost(declared)?;
        let marks = self.declare_overflow(live).await;
        let marks = self.unless_lost(marks)?;
        let overflow = self.consume_overflow().await;
        let mut overflow = self.unless_lost(overflow)?;
        let messages = self.consume(waiting).await;
        let mut messages = self.unless_lost(messages)?;
        if marks >= OVERFLOW_MARKS {
            self.interrupted("more messages left the feed's queue than it keeps the reasons of");
        }
        self.ready.send_modify(|ready| *ready = Ok(()));
        let may_have_forgotten = self.cut.ends(Instant::now());
        if !matches!(waiting, Waiting::Nothing) {
            self.shared.sink.resumed(&self.id, may_have_forgotten);
        }
        tokio::select! {
            ended = messages.ended() => {
                let error = self.take_back(ended);
                self.unless_lost(Err(error))
            }
            ended = overflow.ended() => {
                // With its node both end, and it is the other's end that counts.
                if let Ok(ended) = timeout(SAME_NEWS, messages.ended()).await {
                    let error = self.take_back(ended);
                    return self.unless_lost(Err(error));
                }
                let taker = messages.cancel().await;
                let reason = ended.reason;
                Err(self.take_back(Ended { taker, reason }))
            }
            () = async { let _ = stale.wait_for(|is_stale| *is_stale).await; } => {
                messages.cancel().await;
                overflow.cancel().await;
                self.leave_queue(EXCHANGE_LOST)?;
                Err(BrokerError::Cancelled(EXCHANGE_LOST.into()))
            }
        }
    }
}
