//! The gateway's needs of a message broker, and its promises.
//!
//! [`Broker`] opens virtual hosts; a [`VirtualHost`] publishes, serves shared feeds, and runs
//! dedicated consumers. Two implementations hold the same contract tests: [`amqp`] (RabbitMQ)
//! and [`embedded`] (in memory).

mod account;
pub mod amqp;
mod config;
mod delta;
pub mod destination;
pub mod embedded;
mod error;
mod feed_config;
mod fossil;
pub mod journal;
mod keys;
mod kinds;
mod message;
mod offline;
pub mod own_queues;
mod properties;
mod reserved;
pub mod routing;
mod tail;

use std::{fmt, sync::Arc, time::Duration};

use futures_util::{FutureExt, future::BoxFuture};
use tokio::time::Instant;

pub use config::{Config, Url, UrlError};
pub use delta::{Delta, longest_delta};
pub use error::{BrokerError, Cause};
pub(crate) use error::{no_direct_replies, resource_locked};
pub use feed_config::{Binding, FeedConfig};
pub use journal::{
    Bookmark, Cursor, JournalAsk, JournalConfig, JournalId, JournalPart, JournalStart, Stored,
};
pub use keys::{KeyLimits, TooManyHashes, TooManyWords};
pub(crate) use kinds::{KnownKind, KnownKinds};
pub(crate) use message::OFFSET_HEADER;
pub use message::{
    CONFLATED_HEADER, DELTA_HEADER, DROPPED_HEADER, Death, Delivery, Message, USER_HEADER,
    passes_for,
};
pub use offline::{
    KeyTemplate, OfflineConfig, OfflineFeeds, UNHEARD_HEADER, delete_offline, offline_of,
    policy_for,
};
pub use properties::Properties;
pub(crate) use properties::for_each_property;
pub use reserved::{ENCODED_TYPE, is_reserved};
pub use routing::ExchangeKind;
pub use tail::Tail;

/// The prefix of the names of feeds' queues at the broker: they are the gateway's own.
pub const FEED_QUEUES: &str = "stentor.feed.";

/// The prefix of the names of queues by which a node gets the frames of a tail from others.
pub const TAIL_QUEUES: &str = "stentor.feed.tail.";

/// RabbitMQ's pseudo-queue for replies to a consumer's channel: the gateway's links never consume
/// from it, so RabbitMQ refuses a message that names it in `reply-to`.
pub const DIRECT_REPLIES: &str = "amq.rabbitmq.reply-to";

/// A message broker.
pub trait Broker: Send + Sync + 'static {
    /// Opens a virtual host and hands the messages of its feeds to `feeds`. Returns at once:
    /// a link is made and kept in the background, for as long as the result lives, and calls
    /// wait for it up to a bound.
    fn open(&self, vhost: &str, feeds: Arc<dyn FeedSink>) -> Arc<dyn VirtualHost>;
}

/// A virtual host of a broker.
///
/// Calls that need the link wait for it, up to the configured bound, and then fail with
/// [`BrokerError::Unavailable`]. None panics or blocks the thread.
pub trait VirtualHost: Send + Sync + 'static {
    /// Whether the link is up; if not, why. [`BrokerError::VhostRefused`] is the broker's word,
    /// which it is asked for again from time to time.
    fn health(&self) -> Result<(), BrokerError>;

    /// Whether clients should be sent here; if not, why. As [`VirtualHost::health`], but a link that
    /// was lost has [`Config::unready_after`] to be made again: it is no reason to turn everybody
    /// away, whoever caused it.
    fn readiness(&self) -> Result<(), BrokerError> {
        self.health()
    }

    /// Done when the broker has answered, or could not be reached, for the first time; what
    /// [`VirtualHost::health`] says then. At once if it has before.
    fn opened(&self) -> BoxFuture<'_, Result<(), BrokerError>>;

    /// The type of an existing exchange, as it is now; the default exchange
    /// (`""`) is direct. Costs the broker more than a binding does: callers remember the answer for
    /// as long as a feed is bound to the exchange and [`FeedSink::lost`] was not called.
    ///
    /// # Errors
    /// [`BrokerError::NotFound`]: there is none of that name; [`BrokerError::PreconditionFailed`]:
    /// it is of another type than the configuration says.
    fn exchange_kind<'a>(
        &'a self,
        exchange: &'a str,
    ) -> BoxFuture<'a, Result<ExchangeKind, BrokerError>>;

    /// Lets messages that `feed.exchange` routes by `pattern` flow into the feed's sink.
    ///
    /// Once this succeeded, and until [`VirtualHost::unbind_feed`] is called: every message that
    /// the exchange routes by the pattern reaches [`FeedSink::deliver`] of this feed once,
    /// messages of one publisher in order, however many patterns of the feed match it; also
    /// across a restart of the broker or a cut of the link. If that could not be kept,
    /// [`FeedSink::interrupted`] or [`FeedSink::lost`] is called. To bind twice is to bind once.
    ///
    /// An exchange that is read whole ([`FeedConfig::whole`]) lets every message flow, whatever the
    /// pattern; to take it away is not needed, and has no effect.
    ///
    /// Not kept, and not told, is what the broker itself gives up without a word: a transient
    /// message (not [`Properties::persistent`]) that waits for a lost link while the broker
    /// restarts; messages that expire while they wait; what an operator purges; and what is
    /// published after somebody else took a binding away, until the pattern is bound again: so
    /// callers bind it again from time to time. An exchange that was deleted takes all its bindings
    /// along. If it is a direct one, [`FeedSink::lost`] is called soon, whether or not it was made
    /// anew (`feed.verify_interval`); one of another type is as if each binding had been taken away,
    /// unless a call found it gone.
    ///
    /// # Errors
    /// [`BrokerError::NotFound`]: the exchange does not exist (any more).
    fn bind_feed<'a>(
        &'a self,
        feed: &'a FeedId,
        pattern: &'a str,
    ) -> BoxFuture<'a, Result<(), BrokerError>>;

    /// Ends what [`VirtualHost::bind_feed`] began. Messages already on their way may still come.
    fn unbind_feed<'a>(
        &'a self,
        feed: &'a FeedId,
        pattern: &'a str,
    ) -> BoxFuture<'a, Result<(), BrokerError>>;

    /// Gives up a feed that nobody needs any more, with whatever is bound to it. When this returns,
    /// nothing more of it reaches its sink; the broker takes away what serves it in the background.
    /// [`VirtualHost::bind_feed`] begins anew. To be called while no other call for the feed is under
    /// way. A feed that is read from a journal stays.
    fn end_feed(&self, feed: &FeedId);

    /// Starts a consumer of its own: declares what `request` says, binds, consumes. Every
    /// message stays unsettled until [`Consumer::settle`]; at most `request.prefetch` are
    /// unsettled at a time. Messages may reach the sink before this returns.
    ///
    /// If the link is lost, a queue that outlives it (durable, neither exclusive nor
    /// auto-delete) is consumed again when it is back; what was unsettled comes again, marked as
    /// redelivered, with new tags, and tags of before are [`Settled::Stale`]. A stream goes on behind
    /// what was settled. Otherwise, if the queue was deleted meanwhile, if a stream that was to begin
    /// at its end has given nothing yet, and when the broker cancels the consumer,
    /// [`DeliverySink::lost`] is called, once, and nothing after it. [`Consumer::cancel`] is no loss.
    ///
    /// If this fails, or is dropped before it is done, a queue that was declared for it and that
    /// nobody else can know (not durable, its name made up) is deleted; where even that is cut
    /// off, the broker deletes it after a minute.
    fn consume(
        &self,
        request: Consume,
        sink: Arc<dyn DeliverySink>,
    ) -> BoxFuture<'_, Result<Arc<dyn Consumer>, BrokerError>>;

    /// Declares a queue; no more than a check where it exists with the same properties.
    ///
    /// # Errors
    /// [`BrokerError::PreconditionFailed`]: it exists with others; [`BrokerError::ResourceLocked`]:
    /// it is another link's exclusive one.
    fn declare_queue<'a>(&'a self, queue: &'a QueueSpec) -> BoxFuture<'a, Result<(), BrokerError>>;

    /// Deletes a queue with all its messages; no error if there is none of that name.
    fn delete_queue<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), BrokerError>>;

    /// Deletes a queue in which no message waits; no error if there is none of that name.
    ///
    /// # Errors
    /// [`BrokerError::PreconditionFailed`]: messages wait in it; [`BrokerError::Unsupported`].
    fn delete_empty_queue<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<(), BrokerError>> {
        let refused = BrokerError::Unsupported("the broker keeps no queues of others".into());
        std::future::ready(Err(refused)).boxed()
    }

    /// Publishes. The outer future is done when the message has its place in the order of its
    /// lane; the inner one, when the broker has taken responsibility for it. Messages of one
    /// lane that go to the same queue or feed stay in order. The message counts as published from
    /// the moment on that the outer future is done, also if the inner one is dropped.
    ///
    /// No message is published twice. One that fails is no fault of those on other lanes, with
    /// the one exception that the last error below tells of; but those that follow it on its own
    /// lane may fail with it.
    ///
    /// # Errors
    /// Of either future: [`BrokerError::NotFound`] (no such exchange),
    /// [`BrokerError::AccessRefused`] (the gateway's account may not publish to it, or nobody may;
    /// the broker is asked again after some seconds), and [`BrokerError::PreconditionFailed`] (a
    /// property, all together, or the body are too large for the broker, or `reply-to` is
    /// [`DIRECT_REPLIES`]). Of the inner one: [`BrokerError::Unroutable`] (only if `mandatory`),
    /// [`BrokerError::Nacked`], and [`BrokerError::Unavailable`] if the link broke before the
    /// broker answered, or it did not answer in time, or refused another message to the same
    /// exchange in a way that leaves open whether it took this one: it may or may not have.
    fn publish(&self, publish: Publish) -> BoxFuture<'_, Result<Confirm, BrokerError>>;

    /// Reads a part of the journal of an exchange, as the broker has it. A part has at least one
    /// offset of the journal, even if no message of it is for anybody.
    ///
    /// # Errors
    /// [`BrokerError::Unsupported`]: this broker has no journals; [`BrokerError::NotFound`]: the
    /// exchange has none.
    fn read_journal<'a>(
        &'a self,
        _exchange: &'a str,
        _ask: JournalAsk,
    ) -> BoxFuture<'a, Result<JournalPart, BrokerError>> {
        std::future::ready(Err(no_journals())).boxed()
    }

    /// Done when everything that was in the feed's journal before the call was handed to
    /// [`FeedSink::store`] or [`FeedSink::pass`].
    ///
    /// # Errors
    /// As [`VirtualHost::read_journal`].
    fn reach_journal<'a>(&'a self, _feed: &'a FeedId) -> BoxFuture<'a, Result<(), BrokerError>> {
        std::future::ready(Err(no_journals())).boxed()
    }

    /// Prepares for [`VirtualHost::close`]: where it costs the broker much to remove a queue with very
    /// many bindings, they are taken away before, up to that moment. Nothing of feeds is promised
    /// any more.
    fn unbind_feeds(&self, _until: Instant) -> BoxFuture<'_, ()> {
        std::future::ready(()).boxed()
    }

    /// Ends consumers, removes feed queues, and closes the link. Its exclusive queues end with it;
    /// with RabbitMQ 4.3, a moment after this returns.
    fn close(&self) -> BoxFuture<'_, ()>;
}

fn no_journals() -> BrokerError {
    BrokerError::Unsupported("this broker keeps no journals".into())
}

/// Done when the broker answered for a message.
pub type Confirm = BoxFuture<'static, Result<(), BrokerError>>;

/// A stream of messages shared by many subscriptions of one node: what one exchange routes to
/// one of the node's shards. The shard is chosen by the caller, from the pattern.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FeedId {
    /// The exchange whose bindings fill the feed.
    pub exchange: Arc<str>,
    /// Which of the node's feeds on that exchange, from 0.
    pub shard: u16,
}

impl fmt::Display for FeedId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.exchange, self.shard)
    }
}

/// From this age on a binding outlives the broker's process. RabbitMQ 3.10 now and then answers a
/// binding before it has written it: Mnesia's `disk_log` keeps it in memory for up to two seconds; one
/// more is for a busy machine. Later versions were not examined, and are treated alike.
pub const WRITTEN_AFTER: Duration = Duration::from_secs(3);
/// Why somebody is told whose binding was younger when the broker may have been killed.
pub const FORGOTTEN: &str =
    "the broker was lost within seconds of the binding, and may have forgotten it";

/// Takes the messages of feeds. Calls for one feed come one after another, in order.
pub trait FeedSink: Send + Sync {
    /// A message that `feed.exchange` routed by one of the feed's patterns; which ones, the sink
    /// finds out by the message's routing key (and its `cc` keys). The exchange that the
    /// message was first published to may be another one that is bound to the feed's. When this
    /// returns, the message counts as handed over. Does not block.
    fn deliver(&self, feed: &FeedId, message: Message);

    /// As [`FeedSink::deliver`], of a feed that is read from a journal. Offsets grow, with holes.
    fn store(&self, feed: &FeedId, stored: Stored) {
        if let Some(message) = Arc::into_inner(stored.message) {
            self.deliver(feed, message);
        }
    }

    /// The same, of a message that is older than the reading: nobody waits for it.
    fn remember(&self, _feed: &FeedId, _stored: Stored) {}

    /// What stands in the feed's journal at this offset is for nobody.
    fn pass(&self, _feed: &FeedId, _offset: u64) {}

    /// Offsets of the feed's journal mean something else from now on, or some were left out.
    fn restart(&self, _feed: &FeedId) {}

    /// The patterns that are bound to the feed, or are about to be.
    fn patterns(&self, feed: &FeedId) -> Vec<Arc<str>>;

    /// The feed's link was lost, and the broker said nothing: it may have been killed.
    fn cut(&self, _feed: &FeedId) {}

    /// The feed is served again after a lost link. Its bindings may be gone meanwhile, without a word:
    /// what is relied on should be bound again. `may_have_forgotten`: the broker had the time to start
    /// anew since [`FeedSink::cut`], without the bindings that it had not written yet. Does not block.
    fn resumed(&self, _feed: &FeedId, _may_have_forgotten: bool) {}

    /// Messages of the feed may have been lost; why. What is bound, stays so.
    fn interrupted(&self, feed: &FeedId, reason: &str);

    /// Messages of the feed may have been lost, and its bindings are: nothing comes until a
    /// pattern is bound again. A [`VirtualHost::bind_feed`] that began before this call counts
    /// for nothing, whatever it answers after.
    fn lost(&self, feed: &FeedId, reason: &str) {
        self.interrupted(feed, reason);
    }
}

/// Takes the messages of one dedicated consumer.
pub trait DeliverySink: Send + Sync {
    /// The next message; never more than the prefetch are unsettled. Does not block.
    fn deliver(&self, delivery: Delivery);

    /// The link was lost, and is back: what is unsettled comes again, with new tags.
    fn taken_back(&self) {}

    /// The consumer has ended and will not come back.
    fn lost(&self, reason: BrokerError);
}

/// A running consumer. Dropping it ends it; what is unsettled then is requeued.
pub trait Consumer: Send + Sync {
    /// Accepts, requeues or discards one delivery, or with `multiple` all unsettled ones up to
    /// it. A tag that is unknown (settled, or of before a lost link) is ignored, with `multiple`
    /// too: it then speaks for no message. A stream keeps its messages whatever the verdict is.
    fn settle(
        &self,
        tag: u64,
        multiple: bool,
        verdict: Verdict,
    ) -> BoxFuture<'_, Result<Settled, BrokerError>>;

    /// Whether the delivery of this tag is unsettled and can be settled, as far as is known here.
    fn holds(&self, tag: u64) -> bool;

    /// Done when the broker has heard of the settlement of this tag, which
    /// [`Consumer::settle`] said it was told.
    ///
    /// # Errors
    /// It may not have: the link was lost, or it did not answer in time.
    fn heard(&self, tag: u64) -> Confirm;

    /// Ends the consumer and waits until the broker requeued what is unsettled.
    fn cancel(&self) -> BoxFuture<'_, Result<(), BrokerError>>;

    /// Ends the consumer, but not for the deliveries of these tags, which ascend: they stay
    /// unsettled until they are settled, or this is dropped, or the link is lost. Waits until the
    /// broker requeued all others. A queue that ends with its last consumer ends now.
    fn retire<'a>(&'a self, kept: &'a [u64]) -> BoxFuture<'a, Result<(), BrokerError>>;
}

pub use stomp_session::Verdict;

/// What became of a settlement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// The broker was told, and hears of it unless the link is lost first.
    Told,
    /// It speaks for no message: this one is settled, or went back to its queue with a lost link.
    Stale,
}

/// What a dedicated consumer consumes.
#[derive(Clone, Debug, PartialEq)]
pub struct Consume {
    /// The queue; declared first if `declare` says so, else it must exist.
    pub queue: QueueSpec,
    /// Whether to declare the queue.
    pub declare: bool,
    /// The exchange and binding pattern that fill the queue; `None`: it is filled otherwise.
    pub binding: Option<(Box<str>, Box<str>)>,
    /// Arguments of the binding, which a headers exchange matches messages by.
    pub binding_arguments: Vec<(Box<str>, Argument)>,
    /// Unsettled messages at a time, at least 1.
    pub prefetch: u16,
    /// Whether no other consumer may be on the queue.
    pub exclusive: bool,
    /// The owner of the consumer: on an exclusive queue ([`QueueSpec::exclusive`]), there may be several
    /// consumers of one owner, and none of another.
    pub owner: u64,
    /// Arguments of the consumer (`x-priority`, `x-stream-offset`).
    pub arguments: Vec<(Box<str>, Argument)>,
}

/// A queue and its properties.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueueSpec {
    /// Its name; empty: the broker makes one up.
    pub name: Box<str>,
    /// Outlives a restart of the broker.
    pub durable: bool,
    /// Belongs to this link alone and ends with it. To be declared by [`VirtualHost::consume`],
    /// since a link may be several connections, and the queue is one's own.
    pub exclusive: bool,
    /// Ends with its last consumer.
    pub auto_delete: bool,
    /// `x-…` arguments.
    pub arguments: Vec<(Box<str>, Argument)>,
}

/// A value of a queue's or consumer's argument.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Argument {
    /// A text.
    Text(Box<str>),
    /// A whole number.
    Number(i64),
    /// A switch.
    Switch(bool),
    /// A point in time, in seconds since 1970.
    Timestamp(u64),
    /// Several texts (an AMQP array: `x-stream-filter`).
    Texts(Vec<Box<str>>),
}

/// The first of the gateway's own lanes ([`Publish::lane`]), each of which is used for as long as it
/// runs.
pub const STANDING_LANES: u64 = LAST_OF_UNHEARD - 10_000;
/// Messages that nobody heard: of the first of their sources ([`lane_of_unheard`]).
const LAST_OF_UNHEARD: u64 = u64::MAX - 5;
/// Messages of the demo's page.
pub const LANE_OF_DEMO: u64 = u64::MAX - 4;
/// Commands, and the answers to them.
pub const LANE_OF_CONTROL: u64 = u64::MAX - 3;
/// Trials of an exchange, whether it leads to the offline one.
pub const LANE_OF_TRIALS: u64 = u64::MAX - 2;
/// Messages that workers of the gateway hand to the offline exchange.
pub const LANE_OF_OFFLINE: u64 = u64::MAX - 1;
/// Events of presence.
pub const LANE_OF_EVENTS: u64 = u64::MAX;

/// Messages that nobody heard, by the number of their source: one that is not confirmed holds up no
/// others. Beyond 10,000 sources, some share one.
#[must_use]
pub fn lane_of_unheard(source: usize) -> u64 {
    let lane = LAST_OF_UNHEARD.saturating_sub(source as u64);
    lane.max(STANDING_LANES)
}

/// A message to publish.
#[derive(Clone, Debug)]
pub struct Publish {
    /// The exchange; empty is the default exchange.
    pub exchange: Box<str>,
    /// The routing key.
    pub routing_key: Box<str>,
    /// Properties and headers.
    pub properties: Properties,
    /// The body.
    pub body: bytes::Bytes,
    /// Whether a message that reaches no queue is an error.
    pub mandatory: bool,
    /// Messages of the same lane keep their order. A connection has one of its own, below 2^62: what
    /// it has handed over behind a message that is lost with a link, or is refused with a channel, is
    /// not published either. Behind such a message, the gateway's own ([`STANDING_LANES`]) go on.
    pub lane: u64,
    /// The broker may take long to route it: for whom it does. It goes where others do not wait
    /// for it, and one after the other for each of these.
    pub slow: Option<Arc<str>>,
}
