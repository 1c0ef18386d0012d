//! Watches whether an exchange is still the one that a feed is bound to.
//!
//! An exchange that is deleted takes its bindings along, and one that is made anew has none; AMQP
//! tells nobody. So each feed of a direct exchange is bound by one key more, which nobody else can
//! know, before any other; and from time to time a message with that key is published, mandatory,
//! on a channel of the watch's own. Only the feed's queue can get it: in a direct exchange a key
//! reaches those bound by just that key, while a topic or fanout exchange would show it to others'
//! queues, so there nothing is published.
//!
//! - It comes to the feed: the exchange is the same as when the key was bound.
//! - There is no such exchange, or the message comes back: its bindings are gone.
//! - Neither: an exchange with an alternate one returns nothing, and a feed that is behind has the
//!   message still before it. So only if the feed's queue is empty, and the message has not come for
//!   two intervals, are the bindings gone.
//!
//! Whoever is subscribed is told then, and binds anew.
//!
//! An exchange that is read whole ([`whole`]) has the key bound by nobody: its message comes by the
//! alternate exchange, to the feeds of all nodes, and shows that this way is open.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use amqp_wire::Delivery;
use lapin::{
    BasicProperties, Channel, Confirmation,
    options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions},
    types::{FieldTable, ShortString},
};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};

use super::{Feed, FeedManager, Shared, arrivals::Arrivals};
use crate::{
    broker::{
        BrokerError, FeedId,
        amqp::{
            convert::{broker_error, short},
            link::{AmqpLink, answer},
            whole,
        },
    },
    deadline::after,
    telemetry,
};

/// How long the broker is not asked again where the account may not publish.
const REFUSAL: Duration = Duration::from_secs(600);
/// Intervals after which a message that has not come to an empty queue never will.
const STRIKES: u32 = 2;

/// What a feed has for its watch.
pub(super) struct Sentinel {
    /// Nobody else can know it.
    key: ShortString,
    messages: Arrivals,
    /// How often the bindings were lost.
    losses: AtomicU64,
    /// [`Sentinel::losses`] and one, as it was when the key was bound.
    bound: AtomicU64,
}

impl Sentinel {
    pub(super) fn new() -> Result<Self, BrokerError> {
        Ok(Self {
            key: short("the sentinel's key", &whole::secret_key())?,
            messages: Arrivals::default(),
            losses: AtomicU64::new(0),
            bound: AtomicU64::new(0),
        })
    }

    /// Whether a message is one of the watch's; then that was all there is to do with it.
    pub(super) fn takes(&self, delivery: &Delivery<'_>) -> bool {
        if delivery.routing_key != self.key.as_str().as_bytes() {
            // Of an exchange that is read whole, those of all nodes come.
            return whole::is_secret(delivery.routing_key);
        }
        self.messages.note(delivery);
        true
    }

    /// Its messages.
    pub(super) fn messages(&self) -> &Arrivals {
        &self.messages
    }

    pub(super) fn key(&self) -> &ShortString {
        &self.key
    }

    pub(super) fn is_bound(&self) -> bool {
        self.bound.load(Ordering::Acquire) == self.next_bound()
    }

    /// For [`Sentinel::set_bound`]; taken before the broker is asked.
    pub(super) fn next_bound(&self) -> u64 {
        self.losses.load(Ordering::Acquire).wrapping_add(1)
    }

    /// Its messages come, unless the bindings were lost meanwhile.
    pub(super) fn set_bound(&self, bound: u64) {
        self.bound.store(bound, Ordering::Release);
    }

    /// All bindings are lost, its own with them.
    pub(super) fn lost(&self) {
        self.losses.fetch_add(1, Ordering::AcqRel);
    }
}

impl Feed {
    /// Sees to it that the feed is watched; before anything else is bound, so that no binding is
    /// older than the watch.
    pub(super) async fn watch(&self, deadline: Instant) -> Result<(), BrokerError> {
        let sentinel = &self.sentinel;
        if sentinel.is_bound() {
            return Ok(());
        }
        let bound = sentinel.next_bound();
        let (shared, key) = (&self.shared, sentinel.key.as_str());
        super::bind_until(shared, &self.id.exchange, &self.queue, key, deadline).await?;
        sentinel.set_bound(bound);
        Ok(())
    }
}

/// Looks after all feeds of a virtual host that are watched.
pub(super) struct Watch {
    link: Arc<AmqpLink>,
    channel: Option<(u64, Channel)>,
    feeds: HashMap<FeedId, Watched>,
    /// Where the account may not publish, since when.
    refused: HashMap<Arc<str>, Instant>,
}

/// What was last published for a feed.
#[derive(Default)]
struct Watched {
    number: u64,
    /// How often in a row it was not there yet.
    strikes: u32,
}

/// What became of a message of the watch.
enum Verdict {
    /// The broker took it.
    Taken,
    /// The bindings are gone; why.
    Gone(Box<str>),
    /// Nobody knows.
    Unknown,
}

impl Watch {
    /// It publishes on `link`: not the one by which bindings are made, for a broker that is short
    /// of memory reads nothing any more from who publishes.
    pub(super) fn new(link: Arc<AmqpLink>) -> Self {
        Self {
            link,
            channel: None,
            feeds: HashMap::new(),
            refused: HashMap::new(),
        }
    }

    /// Until the feeds are closed.
    pub(super) async fn run(mut self, shared: Arc<Shared>, feeds: super::Feeds) {
        let every = shared.config.verify_interval;
        if every.is_zero() {
            return;
        }
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let watched = match &*feeds.lock() {
                None => return,
                Some(feeds) => feeds.values().map(Arc::clone).collect::<Vec<_>>(),
            };
            self.forget_all_but(&watched);
            for feed in watched {
                // Another feed of the same exchange may have told it.
                if feed.sentinel.is_bound()
                    && feed.ready.borrow().is_ok()
                    && let Some(why) = self.look(&feed).await
                {
                    FeedManager::exchange_lost(&shared, &feeds, &feed.id.exchange, &why);
                }
            }
        }
    }

    /// Forgets feeds that were given up.
    fn forget_all_but(&mut self, feeds: &[Arc<Feed>]) {
        let ids: HashSet<_> = feeds.iter().map(|feed| &feed.id).collect();
        self.feeds.retain(|id, _| ids.contains(id));
        let exchanges: HashSet<_> = ids.iter().map(|id| &id.exchange).collect();
        self.refused
            .retain(|exchange, _| exchanges.contains(exchange));
    }

    /// Why the feed's bindings are gone, if they are.
    async fn look(&mut self, feed: &Feed) -> Option<Box<str>> {
        let sentinel = &feed.sentinel;
        let watched = self.feeds.entry(feed.id.clone()).or_default();
        let losses = sentinel.losses.load(Ordering::Acquire);
        if sentinel.messages.has_come(watched.number) {
            watched.strikes = 0;
        } else {
            watched.strikes = watched.strikes.saturating_add(1);
        }
        let is_late = watched.strikes >= STRIKES;
        if is_late && is_empty(feed).await {
            watched.strikes = 0;
            return Some(feed.lost_words());
        }
        if let Some(since) = self.refused.get(&feed.id.exchange)
            && since.elapsed() < REFUSAL
        {
            return None;
        }
        let number = sentinel.messages.next();
        let verdict = self.publish(feed, number).await;
        // What was lost meanwhile is known already.
        if sentinel.losses.load(Ordering::Acquire) != losses {
            return None;
        }
        match verdict {
            Verdict::Taken => {
                let watched = self.feeds.entry(feed.id.clone()).or_default();
                // One that is missing is waited for first.
                if watched.strikes == 0 {
                    watched.number = number;
                }
                None
            }
            Verdict::Gone(why) => Some(why),
            Verdict::Unknown => None,
        }
    }

    async fn publish(&mut self, feed: &Feed, number: u64) -> Verdict {
        let deadline = after(feed.shared.operation_timeout);
        let publishing = self.try_publish(feed, number, deadline);
        let error = match publishing.await {
            Ok(Confirmation::Ack(Some(back))) if back.routing_key == feed.sentinel.key => {
                return Verdict::Gone(feed.lost_words());
            }
            Ok(Confirmation::Ack(_)) => return Verdict::Taken,
            Ok(_) => return Verdict::Unknown,
            Err(error) => error,
        };
        // Whatever was on it is answered for, or never will be.
        self.channel = None;
        match error {
            BrokerError::NotFound(text) if super::is_about(&text, &feed.id.exchange) => {
                Verdict::Gone(text)
            }
            BrokerError::AccessRefused(text) => {
                let exchange = Arc::clone(&feed.id.exchange);
                if self.refused.insert(exchange, Instant::now()).is_none() {
                    telemetry::feed_unwatched(&feed.id, &text);
                }
                Verdict::Unknown
            }
            _ => Verdict::Unknown,
        }
    }

    async fn try_publish(
        &mut self,
        feed: &Feed,
        number: u64,
        deadline: Instant,
    ) -> Result<Confirmation, BrokerError> {
        self.link.health()?;
        let live = self.link.wait_until(deadline).await?;
        if timeout_at(Instant::now(), live.unblocked()).await.is_err() {
            return Err(BrokerError::Unavailable(
                "it is short of memory or disk".into(),
            ));
        }
        let channel = match &self.channel {
            Some((epoch, channel)) if *epoch == live.epoch && channel.status().connected() => {
                channel.clone()
            }
            _ => {
                let channel = live.channel(deadline).await?;
                let selecting = channel.confirm_select(ConfirmSelectOptions::default());
                answer(deadline, selecting).await?;
                self.channel = Some((live.epoch, channel.clone()));
                channel
            }
        };
        let exchange = short("the exchange's name", &feed.id.exchange)?;
        let options = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        let (key, body) = (feed.sentinel.key.clone(), number.to_be_bytes());
        let properties = BasicProperties::default().with_app_id("stentor".into());
        answer(deadline, async {
            let publishing = channel.basic_publish(exchange, key, options, &body, properties);
            publishing.await?.await
        })
        .await
    }
}

/// Whether no message waits in the feed's queue. If nobody knows: no.
pub(super) async fn is_empty(feed: &Feed) -> bool {
    let deadline = after(feed.shared.operation_timeout);
    if let Some(side) = &feed.journal {
        // It is never empty; but all of it may have been read.
        return feed.reach(side, deadline).await.is_ok();
    }
    let counting = async {
        let live = feed.shared.link.wait_until(deadline).await?;
        let channel = live.passing(deadline).await?;
        let check = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let declaring = channel.queue_declare(feed.queue.name(), check, FieldTable::default());
        let queue = answer(deadline, declaring).await?;
        // Nothing was asked on it that could still be under way.
        let closing = channel.close(200, "bye".into()).await;
        closing.map_err(|error| broker_error(&error))?;
        Ok::<_, BrokerError>(queue.message_count())
    };
    matches!(counting.await, Ok(0))
}
