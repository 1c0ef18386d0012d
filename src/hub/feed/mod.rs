//! One feed: which subscriptions wait for which pattern, and which patterns are bound.

mod again;
mod journal;
mod sink;
mod subscription;
mod unused;
mod young;

use std::{
    collections::{HashMap, HashSet},
    hash::{Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use parking_lot::{Mutex, RwLock};
use stomp_session::{Problem, SubscriptionId};
use tokio::{sync::watch, time::Instant};
use tokio_util::task::AbortOnDropHandle;

pub use self::journal::{
    Gap, History, HistoryAsk, HistoryGiven, JournalStatus, Missed, OnGap, Resume, ResumeError,
    Resumed, Since, Told,
};
pub use self::subscription::{Given, SharedSubscription};
use self::unused::Stage;
use self::young::Young;
pub(super) use self::{
    journal::{Journal, Record},
    sink::Sink,
    unused::give_up,
};
use super::{
    linger::{Linger, Unbind},
    mailbox::Mailbox,
    rouser::Rouser,
    shards::Shards,
    unheard::Unheard,
};
use crate::{
    broker::{
        Binding, BrokerError, ExchangeKind, FeedId, JournalConfig, KnownKinds, Message, Stored,
        VirtualHost,
        routing::{Removed, RoutingTable},
    },
    telemetry::{self, FeedCounts, SharedSubscriptionCounted},
};

/// All feeds of a virtual host, and the types of their exchanges.
pub(super) struct Feeds {
    pub(super) open: RwLock<HashMap<FeedId, Arc<Feed>>>,
    pub(super) kinds: KnownKinds,
    pub(super) binding: Binding,
    /// Direct exchanges of which one binding gets everything.
    pub(super) whole: HashSet<Box<str>>,
    /// Those that are read whole, whether or not keys are bound besides.
    pub(super) read_whole: HashSet<Box<str>>,
    pub(super) journal: JournalConfig,
    pub(super) shards: Arc<Shards>,
}

/// How a feed is.
#[derive(Clone, Debug)]
pub struct FeedStatus {
    /// Which it is.
    pub id: FeedId,
    /// The type of its exchange.
    pub kind: ExchangeKind,
    /// Patterns that clients are subscribed to.
    pub patterns: usize,
    /// Patterns that are still bound after their last subscription.
    pub lingering: usize,
    /// Messages that matched a subscription.
    pub routed: u64,
    /// Messages that matched no subscription.
    pub unmatched: u64,
    /// Messages that were put into mailboxes, one for each subscription.
    pub delivered: u64,
    /// Its journal, if it has one.
    pub journal: Option<JournalStatus>,
}

/// So many subscribers of a message are woken at once; more of them, a few at a time.
const FEW: u64 = 64;

/// The pattern of every key.
const ALL: &str = "#";

/// After an established binding was asked for again, it is not for so many times as long as the
/// broker took: however many subscribe to one key, most of the broker's time is for others.
const REST: u32 = 4;
/// The longest such rest.
const MAX_REST: Duration = Duration::from_secs(1);

/// One feed.
pub(super) struct Feed {
    pub(super) id: FeedId,
    pub(super) host: Arc<dyn VirtualHost>,
    linger: Arc<Linger>,
    rouser: Arc<Rouser>,
    /// Takes what nobody here is subscribed to.
    unheard: Option<Arc<Unheard>>,
    shards: Arc<Shards>,
    pub(super) table: Mutex<Table>,
    counts: Arc<FeedCounts>,
    /// It is read from a journal.
    pub(super) journal: Option<Arc<Journal>>,
    /// Asks for all bindings again, after a lost link.
    checking: Mutex<Option<AbortOnDropHandle<()>>>,
}

/// What a feed is served by.
pub(super) struct FeedParts {
    pub(super) host: Arc<dyn VirtualHost>,
    pub(super) linger: Arc<Linger>,
    pub(super) rouser: Arc<Rouser>,
    /// Takes what nobody here is subscribed to; `None`: it is dropped.
    pub(super) unheard: Option<Arc<Unheard>>,
    pub(super) shards: Arc<Shards>,
}

pub(super) struct Table {
    routes: RoutingTable<Subscriber>,
    /// A pattern was bound that matches other keys than itself: those of any shard may come.
    gets_any_key: bool,
    /// With a journal.
    pub(super) record: Option<Box<Record>>,
    /// One binding to everything serves all patterns (`feed.binding = "all"`).
    bind_all: bool,
    /// Bindings that are neither simply there (a pattern with subscribers) nor simply not there
    /// (a pattern without): those on their way. With `bind_all`, the one binding, always.
    changing: HashMap<Arc<str>, Phase>,
    /// How often the broker lost all bindings: bindings of an older count are gone.
    losses: u64,
    young: Young,
    stage: Stage,
}

/// A subscription of a local client.
#[derive(Clone)]
pub(super) struct Subscriber {
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) subscription: SubscriptionId,
}

/// Many patterns, in little memory: a round of checks may hold all of a feed's for minutes.
#[derive(Default)]
pub(super) struct Patterns {
    text: String,
    lengths: Vec<u16>,
}

impl Patterns {
    /// Adds one; RabbitMQ takes at most 255 bytes.
    fn push(&mut self, pattern: &str) {
        if let Ok(length) = u16::try_from(pattern.len()) {
            self.text.push_str(pattern);
            self.lengths.push(length);
        }
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        let mut rest = &*self.text;
        self.lengths.iter().map_while(move |&length| {
            let (pattern, others) = rest.split_at_checked(length.into())?;
            rest = others;
            Some(pattern)
        })
    }
}

/// The phase of a binding between absent and present.
enum Phase {
    /// Asked for; subscribers that wait are told.
    Binding(Done),
    /// There when it was last heard of, and asked for once more: exchanges are made anew and
    /// bindings taken away without a word.
    Checking(Waiting),
    /// The same, but not yet: it was a moment ago.
    Resting(Waiting),
    /// There, though nobody is subscribed: until [`Linger`] says so. The number tells this
    /// lingering from an earlier one.
    Lingering(u64),
    /// Unknown: the broker did not answer to the end. It is unbound like one that lingers; a
    /// subscription that comes meanwhile binds it again.
    Doubtful(u64),
    /// Being unbound; a subscription that comes meanwhile waits until it is bound again.
    Unbinding(Done),
    /// There for good (`bind_all`).
    Bound,
}

type Outcome = Result<(), BrokerError>;
type Done = watch::Sender<Option<Outcome>>;

/// Subscriptions that wait for a binding that others rely on already.
struct Waiting {
    done: Done,
    /// They, with their patterns, have no answer yet.
    who: Vec<(Arc<str>, Subscriber)>,
    /// Somebody else waits, too.
    is_wanted: bool,
}

impl Waiting {
    fn new() -> Self {
        Self {
            done: watch::channel(None).0,
            who: Vec::new(),
            is_wanted: false,
        }
    }

    fn is_for_nobody(&self) -> bool {
        self.who.is_empty() && !self.is_wanted
    }
}

/// Told when a binding is there.
pub(super) struct Bound(watch::Receiver<Option<Outcome>>);

impl Bound {
    pub(super) async fn wait(self) -> Outcome {
        let mut receiver = self.0;
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
        parts: FeedParts,
        journal: Option<(Journal, Record)>,
    ) -> Arc<Self> {
        let FeedParts {
            host,
            linger,
            rouser,
            unheard,
            shards,
        } = parts;
        let (journal, record) = journal.unzip();
        let table = Table {
            routes: RoutingTable::new(kind),
            gets_any_key: false,
            record: record.map(Box::new),
            bind_all,
            changing: HashMap::new(),
            losses: 0,
            young: Young::default(),
            stage: Stage::default(),
        };
        Arc::new(Self {
            id,
            host,
            linger,
            rouser,
            unheard,
            shards,
            table: Mutex::new(table),
            counts: FeedCounts::new(),
            journal: journal.map(Arc::new),
            checking: Mutex::default(),
        })
    }

    /// Sees to it that everything is bound although nobody may be subscribed: a journal keeps its
    /// messages for those who are away.
    pub(super) fn keep(self: &Arc<Self>) -> Option<Bound> {
        let mut table = self.table.lock();
        let binding = ALL.into();
        match table.changing.get(&binding) {
            Some(Phase::Binding(done) | Phase::Unbinding(done)) => Some(Bound(done.subscribe())),
            Some(Phase::Checking(_) | Phase::Resting(_) | Phase::Bound) => None,
            Some(Phase::Lingering(_) | Phase::Doubtful(_)) | None => {
                Some(Bound(self.start_binding(&mut table, binding)))
            }
        }
    }

    /// Adds a subscriber that gets nothing new before it has caught up.
    pub(super) fn add_resuming(
        self: &Arc<Self>,
        pattern: &str,
        subscriber: Subscriber,
    ) -> Option<(SharedSubscription, Bound)> {
        if let Some(record) = &mut self.table.lock().record {
            record.begin(subscriber.clone());
        }
        self.add(pattern, subscriber)
    }

    /// Adds a subscriber, and sees to it that its pattern is bound: told so is only who was there
    /// before the broker said it. `None`: the feed was given up just now, and there is another one.
    pub(super) fn add(
        self: &Arc<Self>,
        pattern: &str,
        subscriber: Subscriber,
    ) -> Option<(SharedSubscription, Bound)> {
        let pattern: Arc<str> = pattern.into();
        let mut table = self.table.lock();
        if table.stage == Stage::GivenUp {
            return None;
        }
        table.stage = Stage::Used;
        let binding = table.binding_of(&pattern);
        if table.routes.matches_others(&pattern) {
            table.gets_any_key = true;
        }
        let is_new = table.routes.insert(&pattern, subscriber.clone()) || table.bind_all;
        let waits = || (Arc::clone(&pattern), subscriber.clone());
        let bound = match table.changing.get_mut(&binding) {
            Some(Phase::Binding(done) | Phase::Unbinding(done)) => done.subscribe(),
            Some(Phase::Checking(waiting) | Phase::Resting(waiting)) => {
                waiting.who.push(waits());
                waiting.done.subscribe()
            }
            Some(Phase::Bound) => self.start_checking(&mut table, binding, Some(waits())),
            None if !is_new => self.start_checking(&mut table, binding, Some(waits())),
            Some(Phase::Lingering(_) | Phase::Doubtful(_)) | None => {
                self.start_binding(&mut table, binding)
            }
        };
        drop(table);
        let subscription = SharedSubscription {
            feed: Arc::clone(self),
            pattern,
            subscriber,
            catching_up: None,
            _counted: SharedSubscriptionCounted::begin(),
        };
        Some((subscription, Bound(bound)))
    }

    fn start_binding(
        self: &Arc<Self>,
        table: &mut Table,
        binding: Arc<str>,
    ) -> watch::Receiver<Option<Outcome>> {
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
            // They will get no message, and a later subscriber has to ask again.
            let patterns = if table.bind_all && *binding == *ALL {
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
        } else {
            table.young.bound(&binding, Instant::now());
            self.established(&mut table, binding);
        }
        drop(table);
        done.send_replace(Some(outcome));
    }

    /// A binding is there.
    fn established(self: &Arc<Self>, table: &mut Table, binding: Arc<str>) {
        if table.bind_all && *binding == *ALL {
            table.changing.insert(binding, Phase::Bound);
        } else {
            // They may all have left while the broker was asked.
            self.linger_if_unused(table, &binding);
        }
    }

    /// Asks for an established binding once more, unless it is being asked for; done when the
    /// broker has answered. The subscribers handle the answer.
    pub(super) async fn check(self: Arc<Self>, binding: Arc<str>) -> Outcome {
        let checked = {
            let mut table = self.table.lock();
            let is_wanted = table.routes.contains(&binding);
            match table.changing.get_mut(&binding) {
                // It was asked for a moment ago, and is as soon as it has rested.
                Some(Phase::Resting(waiting)) => {
                    waiting.is_wanted = true;
                    waiting.done.subscribe()
                }
                None if is_wanted => self.start_checking(&mut table, binding, None),
                Some(Phase::Bound) => self.start_checking(&mut table, binding, None),
                _ => return Ok(()),
            }
        };
        Bound(checked).wait().await
    }

    fn start_checking(
        self: &Arc<Self>,
        table: &mut Table,
        binding: Arc<str>,
        first: Option<(Arc<str>, Subscriber)>,
    ) -> watch::Receiver<Option<Outcome>> {
        let mut waiting = Waiting::new();
        waiting.who.extend(first);
        let receiver = waiting.done.subscribe();
        let checking = Phase::Checking(waiting);
        table.changing.insert(Arc::clone(&binding), checking);
        tokio::spawn(Arc::clone(self).run_checks(binding));
        receiver
    }

    /// Checks until nobody waits. Subscribers that come meanwhile share the next check.
    async fn run_checks(self: Arc<Self>, binding: Arc<str>) {
        loop {
            let (losses, begun) = (self.table.lock().losses, Instant::now());
            let outcome = self.host.bind_feed(&self.id, &binding).await;
            let rest = begun.elapsed().saturating_mul(REST).min(MAX_REST);
            {
                let mut table = self.table.lock();
                let Some(Phase::Checking(waiting)) = table.changing.remove(&binding) else {
                    return;
                };
                if table.losses != losses {
                    // It may have been bound before the loss, and nobody relies on it now.
                    let binding_anew = Phase::Binding(waiting.done);
                    table.changing.insert(Arc::clone(&binding), binding_anew);
                    tokio::spawn(Arc::clone(&self).bind(binding));
                    return;
                }
                if outcome.is_err() {
                    // Those who were told before have what they had; if that is lost, the broker
                    // says so.
                    for (pattern, subscriber) in &waiting.who {
                        table.routes.remove(pattern, subscriber);
                    }
                }
                let resting = Phase::Resting(Waiting::new());
                table.changing.insert(Arc::clone(&binding), resting);
                waiting.done.send_replace(Some(outcome));
            }
            if !rest.is_zero() {
                tokio::time::sleep(rest).await;
            }
            let mut table = self.table.lock();
            match table.changing.remove(&binding) {
                Some(Phase::Resting(waiting)) if waiting.is_for_nobody() => {
                    if table.losses == losses {
                        self.established(&mut table, binding);
                    } else if !table.bind_all {
                        // The broker may have been told meanwhile to bind it again.
                        self.linger_if_unused(&mut table, &binding);
                    }
                    return;
                }
                Some(Phase::Resting(waiting)) => {
                    let checking = Phase::Checking(waiting);
                    table.changing.insert(Arc::clone(&binding), checking);
                }
                _ => return,
            }
        }
    }

    fn remove(self: &Arc<Self>, pattern: &Arc<str>, subscriber: &Subscriber) {
        let mut table = self.table.lock();
        if let Some(record) = &mut table.record {
            record.end(subscriber);
        }
        // Missing if the binding failed: then nothing can linger.
        if table.routes.remove(pattern, subscriber) == Removed::Last && !table.bind_all {
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
        if table.bind_all || !matches!(error, BrokerError::Unavailable(_)) {
            return;
        }
        let stamp = self.linger.schedule_again(self, Arc::clone(binding));
        table
            .changing
            .insert(Arc::clone(binding), Phase::Doubtful(stamp));
    }

    async fn unbind_if_lingering(self: Arc<Self>, binding: Arc<str>, stamp: u64) {
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
            telemetry::unbinding_failed(&self.id, error);
            self.doubt(&mut table, &binding, error);
        }
    }

    fn deliver(&self, message: &Arc<Message>) {
        self.deliver_with(&self.table.lock(), message);
    }

    /// A message of the journal.
    fn store(&self, stored: Stored) {
        let mut table = self.table.lock();
        let message = Arc::clone(&stored.message);
        if let Some(record) = &mut table.record {
            record.push(stored);
        }
        self.deliver_with(&table, &message);
    }

    fn deliver_with(&self, table: &Table, message: &Arc<Message>) {
        let mut subscriptions = 0_u64;
        let mut sleepers = Vec::new();
        let record = table.record.as_deref();
        let push = |subscriber: &Subscriber| {
            if record.is_some_and(|record| record.holds_back(subscriber)) {
                return;
            }
            let Subscriber {
                mailbox,
                subscription,
            } = subscriber;
            subscriptions = subscriptions.saturating_add(1);
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
        if subscriptions == 0
            && let Some(unheard) = &self.unheard
        {
            // Its other keys, if they are bound, have brought a copy to their own shards.
            unheard.push(message, |key| {
                table.gets_any_key || self.shards.of(&self.id.exchange, key) == self.id.shard
            });
        }
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
            journal: self.journal_status(table.record.as_deref()),
        }
    }

    /// The type of its exchange.
    pub(super) fn kind(&self) -> ExchangeKind {
        self.table.lock().routes.kind()
    }

    /// Positions of before mean nothing any more.
    fn restart(&self) {
        if let Some(record) = &mut self.table.lock().record {
            record.clear();
        }
    }

    fn interrupted(&self, reason: &str) {
        self.interrupted_at(&self.table.lock(), reason, |_| true);
    }

    /// Tells those who are subscribed to some patterns; true if there is anybody.
    fn interrupted_at(&self, table: &Table, reason: &str, is_meant: impl Fn(&str) -> bool) -> bool {
        let mut is_heard = false;
        let answered = table.answered().into_iter();
        for (pattern, subscribers) in answered.filter(|(pattern, _)| is_meant(pattern)) {
            let problem = self.problem(&pattern, reason);
            for subscriber in subscribers {
                subscriber.mailbox.fail(problem.clone());
                is_heard = true;
            }
        }
        is_heard
    }

    /// Tells the subscribers, and forgets them: the next subscriber has to ask the broker.
    fn lost(&self, reason: &str) {
        let mut table = self.table.lock();
        self.lose(&mut table, reason);
    }

    fn lose(&self, table: &mut Table, reason: &str) {
        table.losses = table.losses.wrapping_add(1);
        table.young = Young::default();
        for (pattern, subscribers) in table.answered() {
            let problem = self.problem(&pattern, reason);
            for subscriber in subscribers {
                subscriber.mailbox.fail(problem.clone());
                table.routes.remove(&pattern, &subscriber);
            }
        }
        let stays = |phase: &Phase| phase.is_on_its_way() || matches!(phase, Phase::Doubtful(_));
        table.changing.retain(|_, phase| stays(phase));
    }

    /// Its exchange is of that type now. If it was of another, patterns mean something else: all
    /// who subscribed are told, and have to subscribe anew.
    pub(super) fn become_kind(&self, kind: ExchangeKind, bind_all: bool) {
        let mut table = self.table.lock();
        if table.routes.kind() == kind {
            return;
        }
        let reason = "its exchange was deleted and made anew with another type";
        telemetry::feed_interrupted(&self.id, reason);
        self.lose(&mut table, reason);
        // Those who have no answer yet.
        for pattern in table.routes.patterns() {
            let problem = self.problem(&pattern, reason);
            for subscriber in table.routes.values(&pattern) {
                subscriber.mailbox.fail(problem.clone());
            }
        }
        table.routes = RoutingTable::new(kind);
        table.bind_all = bind_all;
    }

    /// True if nobody is subscribed, and no known pattern is bound.
    pub(super) fn is_unused(&self) -> bool {
        let table = self.table.lock();
        table.routes.is_empty() && table.changing.is_empty()
    }

    /// True if it can only ever have one binding.
    pub(super) fn has_one_binding(&self) -> bool {
        let table = self.table.lock();
        table.bind_all || table.routes.kind() == ExchangeKind::Fanout
    }

    /// Which exchange and shard it is of.
    pub(super) fn id(&self) -> &FeedId {
        &self.id
    }

    /// True if a sentinel at the broker tells when its exchange is made anew.
    pub(super) fn is_watched(&self) -> bool {
        self.table.lock().routes.kind() == ExchangeKind::Direct
    }

    /// The bindings that clients rely on; for [`Feed::check`].
    pub(super) fn relied_on(&self) -> Patterns {
        let table = self.table.lock();
        let mut patterns = Patterns::default();
        if table.bind_all && (!table.routes.is_empty() || table.record.is_some()) {
            patterns.push(ALL);
        } else if !table.bind_all {
            for pattern in table.routes.patterns() {
                patterns.push(&pattern);
            }
        }
        patterns
    }

    /// The patterns that clients are subscribed to.
    pub(super) fn subscribed(&self) -> Patterns {
        let mut patterns = Patterns::default();
        for pattern in self.table.lock().routes.patterns() {
            patterns.push(&pattern);
        }
        patterns
    }

    /// Whether somebody gets messages with that key.
    pub(super) fn hears(&self, key: &str) -> bool {
        let mut is_heard = false;
        let table = self.table.lock();
        table.routes.for_each_match(key, |_| is_heard = true);
        is_heard
    }

    /// How many subscriptions there are to each of these patterns.
    pub(super) fn subscribers(&self, patterns: &[&str]) -> Vec<usize> {
        let table = self.table.lock();
        let counts = patterns
            .iter()
            .map(|pattern| table.routes.values(pattern).count());
        counts.collect()
    }

    fn problem(&self, pattern: &str, reason: &str) -> Problem {
        let detail = format!("{pattern:?} of exchange {:?}: {reason}", self.id.exchange);
        Problem::FeedInterrupted(detail.into())
    }

    fn bindings(&self) -> Vec<Arc<str>> {
        let table = self.table.lock();
        let bind_all = table.bind_all;
        let others = table.changing.iter().filter_map(|(pattern, phase)| {
            let is_wanted = match phase {
                Phase::Lingering(_) | Phase::Bound => true,
                // Bound by now, perhaps, though the answer was not heard yet.
                Phase::Binding(_) | Phase::Checking(_) | Phase::Resting(_) => {
                    bind_all || !table.routes.contains(pattern)
                }
                Phase::Doubtful(_) | Phase::Unbinding(_) => false,
            };
            is_wanted.then(|| Arc::clone(pattern))
        });
        let mut bindings: Vec<Arc<str>> = others.collect();
        if !bind_all {
            // A pattern that is being unbound is bound again after that, if somebody waits for it;
            // bound now, it would stay even if nobody waits by then.
            let is_unbound = |pattern: &str| {
                let phase = table.changing.get(pattern);
                matches!(phase, Some(Phase::Unbinding(_)))
            };
            let patterns = table
                .routes
                .patterns()
                .filter(|pattern| !is_unbound(pattern));
            bindings.extend(patterns.map(Arc::from));
        }
        bindings
    }
}

impl Table {
    /// The pattern that is bound at the broker for the sake of `pattern`.
    fn binding_of(&self, pattern: &Arc<str>) -> Arc<str> {
        if self.bind_all {
            ALL.into()
        } else {
            Arc::clone(pattern)
        }
    }

    /// Those whose subscription was answered, by pattern; the others have missed nothing.
    #[expect(
        clippy::mutable_key_type,
        reason = "a mailbox is hashed by its address"
    )]
    fn answered(&self) -> Vec<(Box<str>, Vec<Subscriber>)> {
        let waiting = self.changing.values().filter_map(|phase| match phase {
            Phase::Checking(waiting) | Phase::Resting(waiting) => Some(&waiting.who),
            _ => None,
        });
        let waits: HashSet<_> = waiting
            .flatten()
            .map(|(_, subscriber)| subscriber)
            .collect();
        let patterns = self.routes.patterns().filter(|pattern| {
            let phase = self.changing.get(&self.binding_of(&(&**pattern).into()));
            !matches!(phase, Some(Phase::Binding(_) | Phase::Unbinding(_)))
        });
        let answered = patterns.map(|pattern| {
            let subscribers = self
                .routes
                .values(&pattern)
                .filter(|subscriber| !waits.contains(subscriber))
                .cloned()
                .collect();
            (pattern, subscribers)
        });
        answered.collect()
    }
}

impl Phase {
    /// True if it has a task of its own, which looks at it next.
    fn is_on_its_way(&self) -> bool {
        match self {
            Self::Binding(_) | Self::Checking(_) | Self::Resting(_) | Self::Unbinding(_) => true,
            Self::Lingering(_) | Self::Doubtful(_) | Self::Bound => false,
        }
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

impl Unbind for Feed {
    fn unbind(self: Arc<Self>, binding: Arc<str>, stamp: u64) -> BoxFuture<'static, ()> {
        self.unbind_if_lingering(binding, stamp).boxed()
    }
}
