//! Shared feeds: many local subscriptions, one binding at the broker.
//!
//! A [`Hub`] keeps, for each exchange and shard, which subscriptions wait for which pattern.
//! The first subscription to a pattern has it bound; after the last one left it is unbound, with
//! a delay, so that a page's reload costs the broker little. Bindings are asked for again as long as
//! somebody relies on them, for the broker may lose them without a word. Messages come in through
//! [`FeedSink`](crate::broker::FeedSink) and go out into [`Mailbox`]es.

mod config;
mod destinations;
mod feed;
mod keeping;
mod kinds;
mod linger;
mod mailbox;
mod rouser;
mod shards;
mod unheard;
mod verify;
mod vhosts;

use std::{
    collections::HashMap,
    num::NonZero,
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures_util::{FutureExt, future::join_all};
use parking_lot::Mutex;
use stomp_session::{Problem, SubscriptionId};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

pub use config::{MailboxConfig, Overflow};
pub use destinations::{Destination, Destinations};
pub use feed::{
    FeedStatus, Gap, Given, History, HistoryAsk, HistoryGiven, JournalStatus, Missed, OnGap,
    Resume, ResumeError, Resumed, SharedSubscription, Since, Told,
};
pub use mailbox::{Acks, Conflate, DedicatedSink, Follows, Item, Mailbox, Parcel, Settling};
pub use vhosts::{EnterError, VhostStatus, Vhosts};

use self::{
    feed::{Feed, FeedParts, Feeds, Journal, Record, Sink, Subscriber},
    linger::Linger,
    rouser::Rouser,
    unheard::Unheard,
    verify::{Pace, Verifier},
};
use crate::{
    background,
    broker::{
        Broker, BrokerError, Confirm, Cursor, ExchangeKind, FeedConfig, FeedId, JournalConfig,
        OfflineFeeds, Publish, VirtualHost, lane_of_unheard,
    },
    telemetry::{self, PublishingCounted},
};

/// The shared feeds of one virtual host, and the way to everything else of it.
pub struct Hub {
    name: Arc<str>,
    host: Arc<dyn VirtualHost>,
    feeds: Arc<Feeds>,
    linger: Arc<Linger>,
    _linger_task: AbortOnDropHandle<()>,
    _verify_task: AbortOnDropHandle<()>,
    /// Gives up feeds that nobody uses any more.
    _unused_task: AbortOnDropHandle<()>,
    rouser: Arc<Rouser>,
    /// For exchanges whose messages are handed on for those who are away; with what has their
    /// bindings taken away at once.
    away: Option<Away>,
    /// Sees to it that journals keep their exchanges' messages, also while nobody is subscribed.
    keeping: OnceLock<AbortOnDropHandle<()>>,
    members: Mutex<Members>,
}

/// What feeds need whose messages are handed on for those who are away.
struct Away {
    offline: OfflineFeeds,
    /// By source.
    unheard: HashMap<Box<str>, Arc<Unheard>>,
    /// A key that lingered would keep its messages from those who hand them on.
    linger: Arc<Linger>,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

impl Away {
    fn start(config: &FeedConfig, vhost: &str, host: &Arc<dyn VirtualHost>) -> Option<Self> {
        let sources = config.offline.sources(vhost)?;
        let (linger, unbinding) = Linger::start(Duration::ZERO);
        let mut tasks = vec![unbinding];
        let mut unheard = HashMap::new();
        for (number, source) in sources.iter().enumerate() {
            let lane = lane_of_unheard(number);
            let (of_source, handing_on) = Unheard::start(source, lane, Arc::clone(host));
            unheard.insert(source.as_str().into(), of_source);
            tasks.push(handing_on);
        }
        Some(Self {
            offline: config.offline.clone(),
            unheard,
            linger,
            _tasks: tasks,
        })
    }
}

/// The clients of a virtual host.
#[derive(Default)]
struct Members {
    /// Mailboxes by their address, which is unique while they are here.
    mailboxes: HashMap<usize, Arc<Mailbox>>,
    /// The virtual host is gone for good: later callers are told so.
    is_gone: bool,
}

impl Hub {
    fn open(
        broker: &dyn Broker,
        name: &str,
        config: &FeedConfig,
        journal: &JournalConfig,
        pace: &Arc<Pace>,
    ) -> Arc<Self> {
        let cores = std::thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN);
        let feeds = Arc::new(Feeds::new(config, journal, cores));
        let host = broker.open(name, Arc::new(Sink(Arc::downgrade(&feeds))));
        let (linger, linger_task) = Linger::start(config.linger);
        let away = Away::start(config, name, &host);
        let verifier = Verifier::new(&feeds, &host, config, pace);
        let giving_up = feed::give_up(&feeds, &host, config, pace);
        let hub = Arc::new(Self {
            name: name.into(),
            linger,
            _linger_task: linger_task,
            _verify_task: AbortOnDropHandle::new(background::spawn(verifier.run())),
            _unused_task: AbortOnDropHandle::new(background::spawn(giving_up)),
            rouser: Arc::default(),
            away,
            host,
            feeds,
            keeping: OnceLock::new(),
            members: Mutex::default(),
        });
        if !journal.exchanges.is_empty() {
            let keeping = keeping::keep(Arc::downgrade(&hub), journal.exchanges.clone());
            hub.keeping
                .get_or_init(|| AbortOnDropHandle::new(background::spawn(keeping)));
        }
        hub
    }

    /// A client has come in: it is told when the virtual host goes.
    pub fn join(&self, mailbox: &Arc<Mailbox>) {
        let mut members = self.members.lock();
        if members.is_gone {
            mailbox.fail(self.gone());
        } else {
            let address = Arc::as_ptr(mailbox).addr();
            members.mailboxes.insert(address, Arc::clone(mailbox));
        }
    }

    /// A client has left.
    pub fn leave(&self, mailbox: &Arc<Mailbox>) {
        let address = Arc::as_ptr(mailbox).addr();
        self.members.lock().mailboxes.remove(&address);
    }

    /// Tells all clients that the virtual host is gone; `for_good`: also those that still come.
    fn tell_gone(&self, for_good: bool) {
        let mut members = self.members.lock();
        members.is_gone |= for_good;
        for mailbox in members.mailboxes.values() {
            mailbox.fail(self.gone());
        }
    }

    fn gone(&self) -> Problem {
        let text = format!(
            "the virtual host '{}' is gone, or closed to this server\n",
            self.name
        );
        Problem::FeedInterrupted(text.into())
    }

    /// The virtual host's name.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// [`VirtualHost::publish`], counted.
    ///
    /// # Errors
    /// As there.
    pub async fn publish(&self, publish: Publish) -> Result<Confirm, BrokerError> {
        let pending = PublishingCounted::begin();
        let confirm = self
            .host
            .publish(publish)
            .await
            .inspect_err(count_failure)?;
        let counted = async move {
            let confirmed = confirm.await;
            drop(pending);
            match &confirmed {
                Ok(()) => telemetry::published(),
                Err(error) => count_failure(error),
            }
            confirmed
        };
        Ok(counted.boxed())
    }

    /// How it is.
    fn status(&self) -> VhostStatus {
        let mut feeds: Vec<_> = self
            .feeds
            .open
            .read()
            .values()
            .map(|feed| feed.status())
            .collect();
        feeds.sort_unstable_by(|a, b| {
            (&a.id.exchange, a.id.shard).cmp(&(&b.id.exchange, b.id.shard))
        });
        VhostStatus {
            name: Arc::clone(&self.name),
            health: self.host.health(),
            clients: self.members.lock().mailboxes.len(),
            feeds,
        }
    }

    /// The virtual host itself, for dedicated consumers.
    #[must_use]
    pub fn host(&self) -> &Arc<dyn VirtualHost> {
        &self.host
    }

    /// Subscribes to the messages that `exchange` routes by `pattern`, as the exchange is now:
    /// it asks the broker even if others are subscribed. When this returns, every message that
    /// the exchange routes by the pattern from now on is pushed into the mailbox, once and in
    /// order; or the mailbox is failed, if that could not be kept. `None` if only the broker can
    /// match an exchange of that type: it needs a dedicated consumer.
    ///
    /// # Errors
    /// Those of [`VirtualHost::exchange_kind`] and [`VirtualHost::bind_feed`].
    pub async fn subscribe(
        &self,
        exchange: &str,
        pattern: &str,
        mailbox: &Arc<Mailbox>,
        subscription: SubscriptionId,
    ) -> Result<Option<SharedSubscription>, BrokerError> {
        let source = (exchange, pattern);
        self.subscribe_to(source, None, mailbox, subscription).await
    }

    /// Subscribes as [`Hub::subscribe`] does; of the messages that wait for their client, only the
    /// newest of each key stay.
    ///
    /// # Errors
    /// As there.
    pub async fn subscribe_conflated(
        &self,
        source: (&str, &str),
        conflate: Conflate,
        mailbox: &Arc<Mailbox>,
        subscription: SubscriptionId,
    ) -> Result<Option<SharedSubscription>, BrokerError> {
        let conflate = Some(conflate);
        self.subscribe_to(source, conflate, mailbox, subscription)
            .await
    }

    async fn subscribe_to(
        &self,
        (exchange, pattern): (&str, &str),
        mut conflate: Option<Conflate>,
        mailbox: &Arc<Mailbox>,
        subscription: SubscriptionId,
    ) -> Result<Option<SharedSubscription>, BrokerError> {
        let subscriber = Subscriber {
            mailbox: Arc::clone(mailbox),
            subscription,
        };
        loop {
            let Some((feed, pattern)) = self.feed(exchange, pattern).await? else {
                return Ok(None);
            };
            if let Some(conflate) = conflate.take() {
                mailbox.conflate(subscription, conflate);
            }
            // From here on the guard takes the subscriber out again, if this future is dropped too.
            if let Some((guard, bound)) = feed.add(pattern, subscriber.clone()) {
                bound.wait().await?;
                return Ok(Some(guard));
            }
        }
    }

    /// Whether the exchange has a journal.
    #[must_use]
    pub fn has_journal(&self, exchange: &str) -> bool {
        self.feeds.journal.has(exchange)
    }

    /// Subscribes as [`Hub::subscribe`] does, to an exchange that has a journal: first come the
    /// messages that `resume` asks for, then those that come, without a gap between.
    ///
    /// # Errors
    /// As there; and what it takes to catch up is missing.
    pub async fn subscribe_from(
        &self,
        (exchange, pattern): (&str, &str),
        resume: &Resume,
        mailbox: &Arc<Mailbox>,
        subscription: SubscriptionId,
    ) -> Result<(SharedSubscription, Resumed), ResumeError> {
        if !self.feeds.journal.has(exchange) {
            return Err(ResumeError::NoJournal);
        }
        let Some((feed, pattern)) = self.feed(exchange, pattern).await? else {
            return Err(ResumeError::NoJournal);
        };
        let subscriber = Subscriber {
            mailbox: Arc::clone(mailbox),
            subscription,
        };
        // A feed with a journal is never given up.
        let Some((mut guard, bound)) = feed.add_resuming(pattern, subscriber) else {
            return Err(ResumeError::NoJournal);
        };
        bound.wait().await?;
        let resumed = guard.resume(resume).await?;
        Ok((guard, resumed))
    }

    /// One of the newest messages of the pattern that the exchange's journal has, as far as this node
    /// has read it: whoever subscribes from now on misses nothing that comes after it.
    #[must_use]
    pub fn newest(&self, exchange: &str, pattern: &str) -> Option<Cursor> {
        let id = FeedId {
            exchange: exchange.into(),
            shard: 0,
        };
        let feed = self.feeds.open.read().get(&id).map(Arc::clone);
        feed?.newest(pattern)
    }

    /// A page of an exchange's journal.
    ///
    /// # Errors
    /// As [`Hub::subscribe_from`].
    pub async fn history(
        &self,
        exchange: &str,
        ask: &HistoryAsk<'_>,
    ) -> Result<History, ResumeError> {
        if !self.feeds.journal.has(exchange) {
            return Err(ResumeError::NoJournal);
        }
        let Some((feed, pattern)) = self.feed(exchange, ask.pattern).await? else {
            return Err(ResumeError::NoJournal);
        };
        if let Some(bound) = feed.keep() {
            bound.wait().await?;
        }
        feed.history(&HistoryAsk { pattern, ..*ask }).await
    }

    /// The same, for a client: the messages go into its mailbox, for as long as there is room for
    /// messages of the past. A page may end before its limit.
    ///
    /// # Errors
    /// As [`Hub::subscribe_from`].
    pub async fn give_history(
        &self,
        exchange: &str,
        ask: &HistoryAsk<'_>,
        (mailbox, subscription): (&Arc<Mailbox>, SubscriptionId),
    ) -> Result<HistoryGiven, ResumeError> {
        let page = self.history(exchange, ask).await?;
        Ok(page.give(ask, mailbox, subscription).await)
    }

    /// The feed for a pattern of an exchange, and the pattern in the feed. `None`: only the broker can
    /// match an exchange of that type.
    async fn feed<'a>(
        &self,
        exchange: &str,
        pattern: &'a str,
    ) -> Result<Option<(Arc<Feed>, &'a str)>, BrokerError> {
        let kind = self.exchange_kind(exchange).await?;
        let has_journal = self.feeds.journal.has(exchange);
        if has_journal {
            self.feeds.check_journal(exchange, kind)?;
        }
        // A fanout exchange does not look at keys, so all its subscriptions share one binding.
        let pattern = match kind {
            ExchangeKind::Other => return Ok(None),
            ExchangeKind::Fanout => "",
            ExchangeKind::Direct | ExchangeKind::Topic => pattern,
        };
        let bind_all = self.feeds.binds_all(exchange, kind);
        let shard = if bind_all {
            0
        } else {
            self.feeds.shards.of(exchange, pattern)
        };
        let id = FeedId {
            exchange: exchange.into(),
            shard,
        };
        let feed = Arc::clone(self.feeds.open.write().entry(id).or_insert_with_key(|id| {
            let away = self.away_of(exchange);
            let linger = away.map_or(&self.linger, |away| &away.linger);
            let parts = FeedParts {
                host: Arc::clone(&self.host),
                linger: Arc::clone(linger),
                rouser: Arc::clone(&self.rouser),
                unheard: away.and_then(|away| away.unheard.get(exchange).cloned()),
                shards: Arc::clone(&self.feeds.shards),
            };
            let journal = has_journal.then(|| {
                let config = &self.feeds.journal;
                let journal = Journal::new(&self.name, exchange, config);
                (journal, Record::new(config))
            });
            Feed::new(id.clone(), kind, bind_all, parts, journal)
        }));
        Ok(Some((feed, pattern)))
    }

    /// `None`: what nobody is subscribed to is dropped.
    fn away_of(&self, exchange: &str) -> Option<&Away> {
        let away = self.away.as_ref()?;
        let patience = away.offline.patience(&self.name, exchange);
        patience.is_some().then_some(away)
    }

    /// Which of these keys of an exchange somebody here is subscribed to, by a feed.
    #[must_use]
    pub fn hears(&self, exchange: &str, keys: &[&str]) -> Vec<bool> {
        let feeds = self.feeds_of(|id| *id.exchange == *exchange);
        let hears = |key: &&str| feeds.iter().any(|feed| feed.hears(key));
        keys.iter().map(hears).collect()
    }

    fn feeds_of(&self, is_meant: impl Fn(&FeedId) -> bool) -> Vec<Arc<Feed>> {
        let open = self.feeds.open.read();
        let feeds = open.iter().filter(|(id, _)| is_meant(id));
        feeds.map(|(_, feed)| Arc::clone(feed)).collect()
    }

    /// Clients have gone: waits until what came for them nevertheless is handed on.
    async fn hand_on(&self, until: Instant) {
        /// Between two looks at bindings that are being taken away.
        const PAUSE: Duration = Duration::from_millis(20);
        let Some(away) = &self.away else {
            return;
        };
        let feeds = self.feeds_of(|id| self.away_of(&id.exchange).is_some());
        while Instant::now() < until && !feeds.iter().all(|feed| feed.is_unused()) {
            tokio::time::sleep(PAUSE).await;
        }
        join_all(away.unheard.values().map(|unheard| unheard.flush(until))).await;
    }

    async fn exchange_kind(&self, exchange: &str) -> Result<ExchangeKind, BrokerError> {
        match self.feeds.kind(exchange) {
            Some(kind) => Ok(kind),
            None => self.feeds.learn_kind(&*self.host, exchange).await,
        }
    }
}

fn count_failure(error: &BrokerError) {
    telemetry::not_published(match error {
        BrokerError::NotFound(_) => "not found",
        BrokerError::Unroutable => "unroutable",
        BrokerError::Nacked => "nacked",
        BrokerError::Unavailable(_) => "unavailable",
        _ => "refused",
    });
}

#[cfg(test)]
mod tests;
