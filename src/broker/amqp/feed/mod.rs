//! Shared feeds on RabbitMQ: a queue each, which outlives the connection and is consumed with
//! acknowledgements. The queues and their bindings are made by lapin; their messages come by
//! [`Reader`]s, which many feeds share.
//!
//! - this file: the feeds, and their bindings
//! - [`journal`]: feeds that are read from a stream, which keeps their messages
//! - [`runner`]: one feed's queue, from the first declaration through lost links
//! - [`queue`]: the name of its queue, and queues that were left on nodes that are down
//! - [`ending`]: bindings that are taken away before their queue
//! - [`events`]: exchanges that are deleted, where the broker tells
//! - [`sentinel`]: whether an exchange is still the one that feeds are bound to
//! - [`taker`]: one feed's messages
//! - [`way`]: feeds of exchanges that are read whole

mod arrivals;
mod ending;
mod events;
mod journal;
mod queue;
mod runner;
mod sentinel;
mod taker;
mod way;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use lapin::{
    options::{QueueBindOptions, QueueDeleteOptions},
    types::{FieldTable, ShortString},
};
use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};
use tokio_util::task::AbortOnDropHandle;

pub(super) use self::journal::arguments as journal_arguments;
use self::{
    journal::{JournalRunner, PartTaker, Side},
    queue::{FeedQueue, Leftovers},
    runner::{EXCHANGE_LOST, Runner},
    sentinel::{Sentinel, Watch},
    taker::FeedTaker,
    way::WholeWay,
};
use super::{
    channels::{self, Channels, Lane},
    convert::short,
    declarer::Declarer,
    link::{AmqpLink, LinkConfig, Live, answer},
    reader::Reader,
};
use crate::{
    background,
    broker::{BrokerError, Cause, FeedConfig, FeedId, FeedSink, JournalConfig},
    deadline::after,
    telemetry,
};

/// Feeds on one connection. Each takes two channels, and a broker may be configured to allow few.
const FEEDS_PER_READER: usize = 50;

/// The feeds of one virtual host.
pub(super) struct FeedManager {
    shared: Arc<Shared>,
    feeds: Feeds,
    _watch: [AbortOnDropHandle<()>; 3],
}

/// `None`: closed; there are to be none any more.
type Feeds = Arc<Mutex<Option<HashMap<FeedId, Arc<Feed>>>>>;

struct Shared {
    /// For bindings, and whatever else is not a feed's own messages.
    link: Arc<AmqpLink>,
    /// For what is published to see whether an exchange is still the same.
    publish_link: Arc<AmqpLink>,
    declarer: Arc<Declarer>,
    /// Connections for the feeds' messages, by shard.
    readers: Readers,
    /// The virtual host's name.
    vhost: Box<str>,
    sink: Arc<dyn FeedSink>,
    config: FeedConfig,
    journal: JournalConfig,
    /// The connection by which parts of journals are read; made when it is needed first.
    parts: OnceLock<Reader<PartTaker>>,
    operation_timeout: Duration,
    queue_names: QueueNames,
    leftovers: Leftovers,
    binders: Channels,
    /// On channels of their own, since lapin searches all bindings that a channel made for the
    /// one that is taken away.
    unbinders: Channels,
}

/// The connections that feeds are read from: one a shard, so that each core can serve one, and
/// further ones for exchanges beyond [`FEEDS_PER_READER`].
struct Readers {
    config: LinkConfig,
    max_body: u64,
    open: Mutex<HashMap<Place, Arc<Reader<FeedTaker>>>>,
}

/// The links that all feeds of a virtual host share.
pub(super) struct Links {
    /// For bindings, and whatever else is not a feed's own messages.
    pub(super) bindings: Arc<AmqpLink>,
    /// For what is published to see whether an exchange is still the same.
    pub(super) publish: Arc<AmqpLink>,
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
    /// For its messages.
    reader: Arc<Reader<FeedTaker>>,
    /// Which of the readers that is.
    place: Place,
    queue: Arc<FeedQueue>,
    /// Whether the queue is there and can be bound to; if not, why.
    ready: watch::Receiver<Ready>,
    /// Whether anything was bound to it since its bindings were lost last.
    is_bound: Arc<AtomicBool>,
    /// True from the moment that its exchange was lost until it has another queue.
    is_stale: Arc<watch::Sender<bool>>,
    /// It was given up: its consumers may live a moment longer, and what they get is for nobody.
    is_ended: Arc<AtomicBool>,
    sentinel: Arc<Sentinel>,
    whole: WholeWay,
    /// It is read from a journal.
    journal: Option<Arc<Side>>,
    task: OnceLock<AbortOnDropHandle<()>>,
}

/// How an exchange's messages come to a feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// By bindings.
    Bindings,
    /// By bindings, and it is watched whether they are still there: it is a direct exchange.
    WatchedBindings,
    /// By the alternate exchange of a direct one.
    Whole,
}

type Ready = Result<(), Arc<str>>;

/// A shard, and which of its connections.
type Place = (u16, usize);

impl FeedManager {
    pub(super) fn new(
        links: Links,
        declarer: Arc<Declarer>,
        reader_config: LinkConfig,
        sink: Arc<dyn FeedSink>,
        (config, journal): (FeedConfig, JournalConfig),
        operation_timeout: Duration,
        queue_names: QueueNames,
    ) -> Self {
        let shared = Arc::new(Shared {
            link: links.bindings,
            publish_link: Arc::clone(&links.publish),
            vhost: reader_config.uri.vhost.as_str().into(),
            declarer,
            readers: Readers {
                config: reader_config,
                max_body: u64::try_from(config.max_length_bytes).unwrap_or(u64::MAX),
                open: Mutex::default(),
            },
            sink,
            config,
            journal,
            parts: OnceLock::new(),
            operation_timeout,
            queue_names,
            leftovers: Leftovers::default(),
            binders: Channels::new(4),
            unbinders: Channels::new(2),
        });
        let feeds = Arc::new(Mutex::new(Some(HashMap::new())));
        let watching = Watch::new(links.publish).run(Arc::clone(&shared), Arc::clone(&feeds));
        let watch = background::spawn(watching);
        let events = background::spawn(events::follow(Arc::clone(&shared), Arc::clone(&feeds)));
        let deleting = background::spawn(queue::delete_leftovers(Arc::clone(&shared)));
        Self {
            shared,
            feeds,
            _watch: [watch, events, deleting].map(AbortOnDropHandle::new),
        }
    }

    /// Whether the feeds' messages can come; if not, why.
    pub(super) fn health(&self) -> Result<(), BrokerError> {
        let readers = self.shared.readers.open.lock();
        readers.values().try_for_each(|reader| reader.health())
    }

    /// As [`FeedManager::health`], but a connection that was lost has a while to be made again.
    pub(super) fn readiness(&self) -> Result<(), BrokerError> {
        let readers = self.shared.readers.open.lock();
        readers.values().try_for_each(|reader| reader.readiness())
    }

    /// Binds, in the way that the exchange's type and the configuration call for.
    pub(super) async fn bind(
        &self,
        feed: &FeedId,
        pattern: &str,
        way: Way,
    ) -> Result<(), BrokerError> {
        let feed = self.open(feed)?;
        let deadline = after(self.shared.operation_timeout);
        let (mut stale, mut ready) = (feed.is_stale.subscribe(), feed.ready.clone());
        let usable = async {
            let _ = stale.wait_for(|is_stale| !is_stale).await;
            let _ = ready.wait_for(Ready::is_ok).await;
        };
        // If it is in vain, it is said below, why.
        let _ = tokio::time::timeout_at(deadline, usable).await;
        // A binding of a queue that is about to be left would bring nothing.
        let is_stale = *stale.borrow();
        let outcome = match is_stale {
            true => Err(EXCHANGE_LOST.into()),
            false => ready.borrow().clone(),
        };
        if let Err(why) = outcome {
            self.shared.link.health()?;
            feed.reader.health()?;
            let cause = Cause::foreign(&*why).with("the feed's queue cannot be used");
            return Err(BrokerError::Unavailable(cause));
        }
        feed.whole.set_used(way == Way::Whole);
        if way == Way::Whole {
            feed.bind_whole(pattern, deadline).await?;
        } else {
            if way == Way::WatchedBindings {
                feed.watch(deadline).await?;
            }
            bind_until(
                &self.shared,
                &feed.id.exchange,
                &feed.queue,
                pattern,
                deadline,
            )
            .await?;
        }
        feed.is_bound.store(true, Ordering::Release);
        Ok(())
    }

    /// The exchange is gone, or has been: all bindings to it are.
    pub(super) fn exchange_gone(&self, exchange: &str, why: &str) {
        Self::exchange_lost(&self.shared, &self.feeds, exchange, why);
    }

    fn exchange_lost(shared: &Shared, feeds: &Feeds, exchange: &str, why: &str) {
        let lost: Vec<_> = match &*feeds.lock() {
            None => return,
            Some(feeds) => {
                let feeds = feeds.values().filter(|feed| *feed.id.exchange == *exchange);
                feeds.map(Arc::clone).collect()
            }
        };
        for feed in lost {
            feed.sentinel.lost();
            if feed.is_bound.swap(false, Ordering::AcqRel) {
                // First: what is bound from now on waits for another queue. RabbitMQ 4.3 keeps a
                // binding that was asked for just while the exchange was deleted and made anew: it
                // is listed, matches nothing, and to ask for it again changes nothing. Only the
                // end of its queue takes it away.
                feed.is_stale.send_replace(true);
                telemetry::feed_interrupted(&feed.id, why);
                shared.sink.lost(&feed.id, why);
            }
        }
    }

    pub(super) async fn unbind(&self, feed: &FeedId, pattern: &str) -> Result<(), BrokerError> {
        let feed = self.open(feed)?;
        if feed.whole.is_used() {
            // A bridge may be another node's, too, and leads nowhere else.
            return Ok(());
        }
        let patience = self.shared.operation_timeout;
        let mut deadline = after(patience);
        let (exchange, key) = (
            short("the exchange's name", &feed.id.exchange)?,
            short("the pattern", pattern)?,
        );
        loop {
            let live = self.shared.link.wait_until(deadline).await?;
            let lane = self.shared.unbinders.next(&live, deadline).await?;
            let (channel, queue) = (&lane.channel, feed.queue.name());
            let none = FieldTable::default();
            let unbinding = channel.queue_unbind(queue, exchange.clone(), key.clone(), none);
            let Err(error) = lane.answer(deadline, patience, unbinding).await else {
                return Ok(());
            };
            deadline = deadline.max(lane.deadline(patience));
            // The pattern may be bound next, on another channel. So this one is brought to its
            // end first: what was asked on it is then done, or never will be.
            let settled = channels::settle(channel, after(self.shared.operation_timeout));
            if !settled.await {
                telemetry::unbinding_late(&feed.id);
            }
            // Another one's unbinding may have ended the channel.
            if !matches!(error, BrokerError::Unavailable(_)) || Instant::now() >= deadline {
                return Err(error);
            }
        }
    }

    /// As [`crate::broker::VirtualHost::end_feed`].
    pub(super) fn end(&self, id: &FeedId) {
        let mut feeds = self.feeds.lock();
        let Some(feeds) = feeds.as_mut() else {
            return;
        };
        if feeds.get(id).is_none_or(|feed| feed.journal.is_some()) {
            return;
        }
        let Some(feed) = feeds.remove(id) else {
            return;
        };
        feed.is_ended.store(true, Ordering::Release);
        // It goes with the queue, which is no loss of its exchange.
        feed.sentinel.lost();
        // Its consumers end with it.
        if let Some(task) = feed.task.get() {
            task.abort();
        }
        self.shared.leftovers.add(feed.queue.name());
        // With the feeds locked, so that no new one gets a connection that ends.
        if feeds.values().all(|other| other.place != feed.place) {
            self.shared.readers.leave(feed.place);
        }
    }

    /// Removes the queues; no task waits for their messages any more, and one that still asks is refused.
    pub(super) async fn close(&self) {
        let feeds: Vec<_> = self
            .feeds
            .lock()
            .take()
            .unwrap_or_default()
            .into_values()
            .collect();
        let deadline = after(Duration::from_secs(2));
        for feed in &feeds {
            if let Some(task) = feed.task.get() {
                task.abort();
            }
        }
        join_all(feeds.iter().map(|feed| feed.close(deadline))).await;
        if let Ok(live) = self.shared.link.wait_until(deadline).await {
            self.shared.leftovers.delete(&live, deadline).await;
        }
        let readers = std::mem::take(&mut *self.shared.readers.open.lock());
        join_all(readers.values().map(|reader| reader.close())).await;
        if let Some(parts) = self.shared.parts.get() {
            parts.close().await;
        }
    }

    fn open(&self, id: &FeedId) -> Result<Arc<Feed>, BrokerError> {
        let mut feeds = self.feeds.lock();
        let Some(feeds) = feeds.as_mut() else {
            return Err(BrokerError::Unavailable("the connection was closed".into()));
        };
        if let Some(feed) = feeds.get(id) {
            return Ok(Arc::clone(feed));
        }
        let shared = Arc::clone(&self.shared);
        let side = match shared.journal.has(&id.exchange) {
            true => Some(Arc::new(Side::new(&id.exchange)?)),
            false => None,
        };
        let queue = match &side {
            Some(side) => FeedQueue::named(side.stream().clone()),
            None => FeedQueue::new(&shared.queue_names)?,
        };
        let queue = Arc::new(queue);
        let (ready_sender, ready) = watch::channel(Err("it was not declared yet".into()));
        let place = free_place(id.shard, feeds.values().map(|feed| feed.place));
        let reader = shared.readers.of(place);
        let feed = Arc::new(Feed {
            id: id.clone(),
            shared,
            reader,
            place,
            queue,
            ready,
            is_bound: Arc::default(),
            is_stale: Arc::default(),
            is_ended: Arc::default(),
            sentinel: Arc::new(Sentinel::new()?),
            whole: WholeWay::default(),
            journal: side,
            task: OnceLock::new(),
        });
        let task = match &feed.journal {
            Some(side) => tokio::spawn(runner::run(JournalRunner::new(&feed, side, ready_sender))),
            None => tokio::spawn(runner::run(Runner::new(&feed, ready_sender))),
        };
        let task = AbortOnDropHandle::new(task);
        feed.task.get_or_init(|| task);
        feeds.insert(id.clone(), Arc::clone(&feed));
        Ok(feed)
    }
}

impl Shared {
    /// The connection for parts of journals: one of its own, so that the past delays nothing new.
    fn parts(&self) -> &Reader<PartTaker> {
        self.parts.get_or_init(|| {
            let config = self.readers.config.with_purpose("parts of journals");
            Reader::start(config, self.readers.max_body)
        })
    }
}

impl Readers {
    /// The connection at that place.
    fn of(&self, place: Place) -> Arc<Reader<FeedTaker>> {
        let start = || {
            let (shard, number) = place;
            let purpose = format!("{} {shard}.{number}", self.config.purpose);
            let config = self.config.with_purpose(purpose);
            Arc::new(Reader::start(config, self.max_body))
        };
        Arc::clone(self.open.lock().entry(place).or_insert_with(start))
    }

    /// No feed is on that connection any more. The first of a shard is kept for the next one.
    fn leave(&self, place: Place) {
        let (_, number) = place;
        if number > 0
            && let Some(reader) = self.open.lock().remove(&place)
        {
            tokio::spawn(async move { reader.close().await });
        }
    }
}

/// The first connection of a shard that has room for another feed, beside those at these places.
fn free_place(shard: u16, taken: impl Iterator<Item = Place>) -> Place {
    let mut feeds = BTreeMap::new();
    for (_, number) in taken.filter(|(of, _)| *of == shard) {
        let count = feeds.entry(number).or_insert(0_usize);
        *count = count.saturating_add(1);
    }
    let is_free = |number: &usize| {
        feeds
            .get(number)
            .is_none_or(|count| *count < FEEDS_PER_READER)
    };
    (shard, (0..).find(is_free).unwrap_or_default())
}

impl Feed {
    async fn close(&self, deadline: Instant) {
        if self.journal.is_some() {
            // It is there for all nodes, and for those who come back.
            return;
        }
        let deleting = async {
            let live = self.shared.link.wait_until(deadline).await?;
            self.delete(&live, deadline).await
        };
        if let Err(error) = deleting.await {
            telemetry::queue_left(&self.id, &error);
        }
    }

    async fn delete(&self, live: &Live, deadline: Instant) -> Result<(), BrokerError> {
        let channel = live.channel(deadline).await?;
        let queue = self.queue.name();
        for queue in [queue.clone(), overflow_queue(&queue)?] {
            answer(
                deadline,
                channel.queue_delete(queue, QueueDeleteOptions::default()),
            )
            .await?;
        }
        Ok(())
    }
}

/// Binds, again if need be, until `deadline`, or longer while the broker carries out others before it.
async fn bind_until(
    shared: &Shared,
    exchange: &str,
    queue: &FeedQueue,
    pattern: &str,
    mut deadline: Instant,
) -> Result<(), BrokerError> {
    let patience = shared.operation_timeout;
    loop {
        let live = shared.link.wait_until(deadline).await?;
        let lane = shared.binders.next(&live, deadline).await?;
        let outcome = bind(&lane, exchange, queue.name(), pattern, deadline, patience).await;
        deadline = deadline.max(lane.deadline(patience));
        if let Some(outcome) = unless_again(outcome, &[exchange], deadline) {
            return outcome;
        }
        tokio::time::sleep(BEFORE_AGAIN).await;
    }
}

/// Before a binding is asked for again.
const BEFORE_AGAIN: Duration = Duration::from_millis(20);

/// What became of a binding on a channel that many share, between these exchanges; `None`: it is worth
/// another try. Either the channel broke with somebody else's binding, or the queue is being made
/// anew, or the connection was lost.
fn unless_again(
    outcome: Result<(), BrokerError>,
    exchanges: &[&str],
    deadline: Instant,
) -> Option<Result<(), BrokerError>> {
    let is_ours = |text: &str| exchanges.iter().any(|exchange| is_about(text, exchange));
    match outcome {
        Err(BrokerError::NotFound(text)) if !is_ours(&text) => {}
        Err(BrokerError::QueueFailed(_)) => {}
        Err(BrokerError::Unavailable(_)) if Instant::now() < deadline => {}
        outcome => return Some(outcome),
    }
    let is_late = Instant::now() >= deadline;
    is_late.then(|| {
        let text = "the feed's queue is not there";
        Err(BrokerError::Unavailable(text.into()))
    })
}

/// Whether it is about the exchange, rather than a queue, or an exchange that shared the channel.
fn is_about(text: &str, exchange: &str) -> bool {
    text.contains(&format!("exchange '{exchange}'"))
}

async fn bind(
    lane: &Lane,
    exchange: &str,
    queue: ShortString,
    pattern: &str,
    deadline: Instant,
    patience: Duration,
) -> Result<(), BrokerError> {
    let exchange = short("the exchange's name", exchange)?;
    let key = short("the pattern", pattern)?;
    let (options, none) = (QueueBindOptions::default(), FieldTable::default());
    let binding = lane.channel.queue_bind(queue, exchange, key, options, none);
    lane.answer(deadline, patience, binding).await
}

/// Where the messages go that the broker drops from a feed's queue because it is full.
fn overflow_queue(queue: &ShortString) -> Result<ShortString, BrokerError> {
    short("the queue's name", &format!("{queue}.overflow"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_feed_takes_the_place_of_one_that_has_ended() {
        let mut taken = vec![(1, 0); 7];
        for number in 0..2 {
            for _ in 0..FEEDS_PER_READER {
                let place = free_place(0, taken.iter().copied());
                assert_eq!(place, (0, number));
                taken.push(place);
            }
        }
        assert_eq!(free_place(0, taken.iter().copied()), (0, 2));
        assert_eq!(free_place(1, taken.iter().copied()), (1, 0));
        let ended = taken.iter().position(|place| *place == (0, 0)).unwrap();
        taken.remove(ended);
        assert_eq!(free_place(0, taken.iter().copied()), (0, 0));
    }
}
