//! One feed: which subscriptions wait for which pattern, and which patterns are bound.

use std::{
    collections::HashMap,
    fmt,
    hash::{Hash, Hasher},
    sync::{Arc, Weak},
};

use parking_lot::{Mutex, RwLock};
use stomp_session::{Problem, SubscriptionId};
use tokio::sync::watch;

use super::{linger::Linger, mailbox::Mailbox, rouser::Rouser};
use crate::{
    broker::{
        BrokerError, ExchangeKind, FeedId, FeedSink, Message, VirtualHost,
        routing::{self, Removed, RoutingTable},
    },
    telemetry::{FeedCounts, SharedSubscriptionCounted},
};

/// All feeds of a virtual host.
#[derive(Default)]
pub(super) struct Feeds(pub(super) RwLock<HashMap<FeedId, Arc<Feed>>>);

/// What the broker pours into. The feeds hold the virtual host, which holds this: it must not hold
/// the feeds, or none of them would ever end.
pub(super) struct Sink(pub(super) Weak<Feeds>);

/// How a feed is.
#[derive(Clone, Debug)]
pub struct FeedStatus {
    /// Which it is.
    pub id: FeedId,
    /// The type of its exchange.
    pub kind: ExchangeKind,
    /// Patterns that clients are subscribed to.
    pub patterns: usize,
    /// Patterns that are bound, though nobody is subscribed any more.
    pub lingering: usize,
    /// Messages that matched a subscription.
    pub routed: u64,
    /// Messages that matched none.
    pub unmatched: u64,
    /// Messages that were put into mailboxes, one for each subscription.
    pub delivered: u64,
}

/// So many subscribers of a message are woken at once; more of them, a few at a time.
const FEW: u64 = 64;

/// The pattern of every key.
const ALL: &str = "#";

/// One feed.
pub(super) struct Feed {
    id: FeedId,
    kind: ExchangeKind,
    host: Arc<dyn VirtualHost>,
    linger: Arc<Linger>,
    rouser: Arc<Rouser>,
    /// Whether one binding to everything serves all patterns (`feed.binding = "all"`).
    bind_all: bool,
    table: Mutex<Table>,
    counts: Arc<FeedCounts>,
}

struct Table {
    routes: RoutingTable<Subscriber>,
    /// Bindings that are neither simply there (a pattern with subscribers) nor simply not there
    /// (a pattern without): those on their way. With `bind_all`, the one binding, always.
    changing: HashMap<Arc<str>, Phase>,
    /// How often the broker lost all bindings: an older binding is none.
    losses: u64,
}

/// A subscription of a local client.
#[derive(Clone)]
pub(super) struct Subscriber {
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) subscription: SubscriptionId,
}

/// Where a binding is between being there and not.
enum Phase {
    /// Asked for; who waits, is told.
    Binding(watch::Sender<Option<Result<(), BrokerError>>>),
    /// There, though nobody is subscribed: until [`Linger`] says so. The number tells this
    /// lingering from an earlier one.
    Lingering(u64),
    /// There or not: the broker could not be asked to the end. To be taken away as one that
    /// lingers; who subscribes meanwhile, has it bound again.
    Doubtful(u64),
    /// Being taken away; who subscribes meanwhile, waits until it is bound again.
    Unbinding(watch::Sender<Option<Result<(), BrokerError>>>),
    /// There for good (`bind_all`).
    Bound,
}

/// Told when a binding is there.
pub(super) struct Bound(Option<watch::Receiver<Option<Result<(), BrokerError>>>>);

impl Bound {
    pub(super) async fn wait(self) -> Result<(), BrokerError> {
        let Some(mut receiver) = self.0 else {
            return Ok(());
        };
        match receiver.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or(Ok(())),
            // The task that binds never drops the sender without a word, save when the whole
            // process ends.
            Err(_) => Err(BrokerError::Unavailable("shutting down".into())),
        }
    }
}

impl Feed {
    pub(super) fn new(
        id: FeedId,
        kind: ExchangeKind,
        bind_all: bool,
        host: Arc<dyn VirtualHost>,
        linger: Arc<Linger>,
        rouser: Arc<Rouser>,
    ) -> Arc<Self> {
        let table = Table {
            routes: RoutingTable::new(kind),
            changing: HashMap::new(),
            losses: 0,
        };
        Arc::new(Self {
            id,
            kind,
            host,
            linger,
            rouser,
            bind_all,
            table: Mutex::new(table),
            counts: FeedCounts::new(),
        })
    }

    /// Adds a subscriber, and sees to it that its pattern is bound.
    pub(super) fn add(
        self: &Arc<Self>,
        pattern: &str,
        subscriber: Subscriber,
    ) -> (SharedSubscription, Bound) {
        let pattern: Arc<str> = pattern.into();
        let binding = self.binding_of(&pattern);
        let mut table = self.table.lock();
        let is_new = table.routes.insert(&pattern, subscriber.clone()) || self.bind_all;
        let bound = match table.changing.get(&binding) {
            Some(Phase::Binding(done) | Phase::Unbinding(done)) => Bound(Some(done.subscribe())),
            Some(Phase::Lingering(_)) => {
                table.changing.remove(&binding);
                Bound(None)
            }
            Some(Phase::Bound) => Bound(None),
            Some(Phase::Doubtful(_)) => Bound(Some(self.start_binding(&mut table, binding))),
            None if is_new => Bound(Some(self.start_binding(&mut table, binding))),
            None => Bound(None),
        };
        drop(table);
        (
            SharedSubscription {
                feed: Arc::clone(self),
                pattern,
                subscriber,
                _counted: SharedSubscriptionCounted::begin(),
            },
            bound,
        )
    }

    /// The pattern that is bound at the broker for the sake of `pattern`.
    fn binding_of(&self, pattern: &Arc<str>) -> Arc<str> {
        if self.bind_all {
            ALL.into()
        } else {
            Arc::clone(pattern)
        }
    }

    fn start_binding(
        self: &Arc<Self>,
        table: &mut Table,
        binding: Arc<str>,
    ) -> watch::Receiver<Option<Result<(), BrokerError>>> {
        let (done, receiver) = watch::channel(None);
        table
            .changing
            .insert(Arc::clone(&binding), Phase::Binding(done));
        // A task of its own: it goes on for the others when the client that began it leaves.
        tokio::spawn(Arc::clone(self).bind(binding));
        receiver
    }

    async fn bind(self: Arc<Self>, binding: Arc<str>) {
        let mut losses = self.table.lock().losses;
        let (outcome, mut table) = loop {
            let outcome = self.host.bind_feed(&self.id, &binding).await;
            let table = self.table.lock();
            if outcome.is_err() || table.losses == losses {
                break (outcome, table);
            }
            losses = table.losses;
        };
        let Some(Phase::Binding(done)) = table.changing.remove(&binding) else {
            return;
        };
        if let Err(error) = &outcome {
            // None of them will get a message, and a later subscriber has to ask again.
            let patterns = if self.bind_all {
                table.routes.patterns().collect()
            } else {
                vec![Box::from(&*binding)]
            };
            for pattern in patterns {
                let subscribers: Vec<_> = table.routes.values(&pattern).cloned().collect();
                for subscriber in subscribers {
                    table.routes.remove(&pattern, &subscriber);
                }
            }
            self.doubt(&mut table, &binding, error);
        } else if self.bind_all {
            table.changing.insert(binding, Phase::Bound);
        } else {
            // They may all have left while the broker was asked.
            self.linger_if_unused(&mut table, &binding);
        }
        drop(table);
        done.send_replace(Some(outcome));
    }

    fn remove(self: &Arc<Self>, pattern: &Arc<str>, subscriber: &Subscriber) {
        let mut table = self.table.lock();
        // Absent is it where binding failed: then there is nothing that could linger.
        if table.routes.remove(pattern, subscriber) == Removed::Last && !self.bind_all {
            self.linger_if_unused(&mut table, pattern);
        }
    }

    fn linger_if_unused(self: &Arc<Self>, table: &mut Table, pattern: &Arc<str>) {
        if !table.routes.contains(pattern) && !table.changing.contains_key(pattern) {
            let stamp = self.linger.schedule(self, Arc::clone(pattern));
            table
                .changing
                .insert(Arc::clone(pattern), Phase::Lingering(stamp));
        }
    }

    /// A call that the broker did not answer may have been heard all the same.
    fn doubt(self: &Arc<Self>, table: &mut Table, binding: &Arc<str>, error: &BrokerError) {
        if self.bind_all || !matches!(error, BrokerError::Unavailable(_)) {
            return;
        }
        let stamp = self.linger.schedule_again(self, Arc::clone(binding));
        table
            .changing
            .insert(Arc::clone(binding), Phase::Doubtful(stamp));
    }

    /// Takes a binding away, if it still lingers since `stamp`.
    pub(super) async fn unbind(self: Arc<Self>, binding: Arc<str>, stamp: u64) {
        {
            let mut table = self.table.lock();
            match table.changing.get_mut(&binding) {
                Some(phase) if phase.stamp() == Some(stamp) => {
                    *phase = Phase::Unbinding(watch::channel(None).0);
                }
                _ => return,
            }
        }
        let outcome = self.host.unbind_feed(&self.id, &binding).await;
        let mut table = self.table.lock();
        let Some(Phase::Unbinding(done)) = table.changing.remove(&binding) else {
            return;
        };
        if table.routes.contains(&binding) {
            table
                .changing
                .insert(Arc::clone(&binding), Phase::Binding(done));
            tokio::spawn(Arc::clone(&self).bind(binding));
        } else if let Err(error) = &outcome {
            // It costs a little meanwhile, and loses nothing: messages that match no
            // subscription are dropped here.
            tracing::debug!(feed = %self.id, %error, "could not unbind");
            self.doubt(&mut table, &binding, error);
        }
    }

    fn deliver(&self, message: &Arc<Message>) {
        let table = self.table.lock();
        let mut subscriptions = 0;
        let mut sleepers = Vec::new();
        let push = |subscriber: &Subscriber| {
            let Subscriber {
                mailbox,
                subscription,
            } = subscriber;
            subscriptions += 1;
            if subscriptions <= FEW {
                mailbox.push_shared(*subscription, message);
            } else if mailbox.put_shared(*subscription, message) {
                sleepers.push(Arc::clone(mailbox));
            }
        };
        if message.cc.is_empty() {
            table.routes.for_each_match(&message.routing_key, push);
        } else {
            // Sender-selected distribution: several keys, and each subscription once.
            let keys = std::iter::once(&message.routing_key).chain(&message.cc);
            table
                .routes
                .for_each_match_any(keys.map(|key| &**key), push);
        }
        // With the table locked: by one thread at a time.
        self.counts.count(subscriptions);
        drop(table);
        if subscriptions > FEW {
            self.rouser.rouse(sleepers);
        }
    }

    pub(super) fn status(&self) -> FeedStatus {
        let table = self.table.lock();
        let phases = table.changing.values();
        let lingering = phases.filter(|phase| matches!(phase, Phase::Lingering(_)));
        let [routed, unmatched, delivered] = self.counts.totals();
        FeedStatus {
            id: self.id.clone(),
            kind: table.routes.kind(),
            patterns: table.routes.len(),
            lingering: lingering.count(),
            routed,
            unmatched,
            delivered,
        }
    }

    fn interrupted(&self, reason: &str) {
        let table = self.table.lock();
        for pattern in self.answered(&table) {
            let problem = self.problem(&pattern, reason);
            for subscriber in table.routes.values(&pattern) {
                subscriber.mailbox.fail(problem.clone());
            }
        }
    }

    /// Who subscribed is told, and forgotten: who subscribes next, has to ask the broker.
    fn lost(&self, reason: &str) {
        let mut table = self.table.lock();
        table.losses = table.losses.wrapping_add(1);
        for pattern in self.answered(&table) {
            let problem = self.problem(&pattern, reason);
            let subscribers: Vec<_> = table.routes.values(&pattern).cloned().collect();
            for subscriber in subscribers {
                subscriber.mailbox.fail(problem.clone());
                table.routes.remove(&pattern, &subscriber);
            }
        }
        let stays = |phase: &Phase| phase.is_on_its_way() || matches!(phase, Phase::Doubtful(_));
        table.changing.retain(|_, phase| stays(phase));
    }

    /// The patterns whose subscribers had an answer; the others have missed nothing.
    fn answered(&self, table: &Table) -> Vec<Box<str>> {
        let has_answer = |pattern: &str| {
            let phase = table.changing.get(&self.binding_of(&pattern.into()));
            !phase.is_some_and(Phase::is_on_its_way)
        };
        let mut patterns: Vec<_> = table.routes.patterns().collect();
        patterns.retain(|pattern| has_answer(pattern));
        patterns
    }

    fn problem(&self, pattern: &str, reason: &str) -> Problem {
        let detail = format!("{pattern:?} of exchange {:?}: {reason}", self.id.exchange);
        Problem::FeedInterrupted(detail.into())
    }

    fn bindings(&self) -> Vec<Arc<str>> {
        let table = self.table.lock();
        let others = table.changing.iter().filter_map(|(pattern, phase)| {
            let is_wanted = match phase {
                Phase::Lingering(_) | Phase::Bound => true,
                // Bound by now, perhaps, though the answer was not heard yet.
                Phase::Binding(_) => self.bind_all || !table.routes.contains(pattern),
                Phase::Doubtful(_) | Phase::Unbinding(_) => false,
            };
            is_wanted.then(|| Arc::clone(pattern))
        });
        let mut bindings: Vec<Arc<str>> = others.collect();
        if !self.bind_all {
            // What is being unbound is bound again after that, if somebody waits for it; bound
            // now, it would stay if nobody does any more by then.
            let is_unbound = |pattern: &str| {
                let phase = table.changing.get(pattern);
                matches!(phase, Some(Phase::Unbinding(_)))
            };
            let patterns = table.routes.patterns();
            let patterns = patterns.filter(|pattern| !is_unbound(pattern));
            bindings.extend(patterns.map(Arc::from));
        }
        bindings
    }
}

impl Phase {
    fn is_on_its_way(&self) -> bool {
        matches!(self, Self::Binding(_) | Self::Unbinding(_))
    }

    fn stamp(&self) -> Option<u64> {
        match self {
            Self::Lingering(stamp) | Self::Doubtful(stamp) => Some(*stamp),
            _ => None,
        }
    }
}

impl PartialEq for Subscriber {
    fn eq(&self, other: &Self) -> bool {
        self.subscription == other.subscription && Arc::ptr_eq(&self.mailbox, &other.mailbox)
    }
}

impl Eq for Subscriber {}

impl Hash for Subscriber {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (Arc::as_ptr(&self.mailbox), self.subscription).hash(state);
    }
}

impl Sink {
    fn feed(&self, id: &FeedId) -> Option<Arc<Feed>> {
        self.0.upgrade()?.0.read().get(id).map(Arc::clone)
    }
}

impl FeedSink for Sink {
    fn deliver(&self, feed: &FeedId, message: Message) {
        if let Some(feed) = self.feed(feed) {
            feed.deliver(&Arc::new(message));
        }
    }

    fn patterns(&self, feed: &FeedId) -> Vec<Arc<str>> {
        let feed = self.feed(feed);
        feed.map(|feed| feed.bindings()).unwrap_or_default()
    }

    fn interrupted(&self, feed: &FeedId, reason: &str) {
        if let Some(feed) = self.feed(feed) {
            feed.interrupted(reason);
        }
    }

    fn lost(&self, feed: &FeedId, reason: &str) {
        if let Some(feed) = self.feed(feed) {
            feed.lost(reason);
        }
    }
}

/// A subscription served by a shared feed; ends when it is dropped.
pub struct SharedSubscription {
    feed: Arc<Feed>,
    pattern: Arc<str>,
    subscriber: Subscriber,
    _counted: SharedSubscriptionCounted,
}

impl SharedSubscription {
    /// Whether it gets what is published to that exchange with that key.
    #[must_use]
    pub fn hears(&self, exchange: &str, routing_key: &str) -> bool {
        *self.feed.id.exchange == *exchange
            && routing::matches(self.feed.kind, &self.pattern, routing_key)
    }
}

impl Drop for SharedSubscription {
    fn drop(&mut self) {
        self.feed.remove(&self.pattern, &self.subscriber);
    }
}

impl fmt::Debug for SharedSubscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "SharedSubscription({}, {:?})",
            self.feed.id, self.pattern
        )
    }
}
