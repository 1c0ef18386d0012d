//! A seed's world: the gateway's parts, everybody around them, and the end at which all is counted.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use futures_util::FutureExt;
use parking_lot::Mutex;
use stentor::{
    auth,
    broker::{
        self, BrokerError, Consume, Delivery, DeliverySink, FeedConfig, JournalConfig, QueueSpec,
    },
    control::Control,
    hub::{MailboxConfig, Overflow, Vhosts},
    messaging::{self, MemorySequences},
    node::{Limits, Registry, Services, Settings, Stomp},
    presence::{Node, Presence, memory::MemoryPresence},
};
use tokio::time::{Instant, sleep};

use crate::{
    House,
    broker::{CONTROL, SimBroker, Simulated},
    client,
    entropy::Draws,
    faults,
    hook::{Hook, Right},
    ledger::{EXCHANGES, LOG, Ledger, body_of, id_of},
    operator::{self, IDS},
    told::Told,
    trace::{Trace, WORLD},
};

pub(crate) const KEYS: [&str; 6] = ["k0", "k1", "k2", "k3", "k4", "k5"];
pub(crate) const TOPICS: [&str; 4] = ["a.b", "a.c", "b.c", "b"];
pub(crate) const PATTERNS: [&str; 5] = ["a.*", "#", "*.c", "b", "a.b"];
pub(crate) const QUEUES: [&str; 3] = ["q0", "q1", "q2"];

/// After a fault, what was under way may still fail for so long.
pub(crate) const AFTERMATH: Duration = Duration::from_secs(60);
/// Long enough for everything that was begun to end.
const QUIET: Duration = Duration::from_secs(150);
const BACKENDS: u64 = 2;

/// What a seed is to be.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) clients: u32,
    pub(crate) busy: Duration,
    /// The longest pause between two operations of a client, in milliseconds.
    pub(crate) think: u64,
    pub(crate) faults: u64,
    pub(crate) overflow: Overflow,
    pub(crate) max_bytes: usize,
}

impl Plan {
    pub(crate) fn full(seed: u64) -> Self {
        let mut draws = Draws::of(&[seed, 0x91a7]);
        Self {
            seed,
            clients: u32::try_from(draws.between(20, 26)).unwrap(),
            busy: Duration::from_secs(draws.between(600, 700)),
            think: draws.between(20_000, 24_000),
            faults: draws.between(3, 8),
            ..Self::short(seed)
        }
    }

    pub(crate) fn short(seed: u64) -> Self {
        let mut draws = Draws::of(&[seed, 0x5407]);
        Self {
            seed,
            clients: u32::try_from(draws.between(2, 5)).unwrap(),
            busy: Duration::from_secs(draws.between(6, 20)),
            think: draws.between(500, 3_000),
            faults: draws.between(0, 2),
            overflow: match draws.below(100) {
                0..65 => Overflow::Disconnect,
                65..85 => Overflow::DropOldest,
                _ => Overflow::Conflate,
            },
            max_bytes: 96 * 1024,
        }
    }
}

/// How a seed went.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) violations: Vec<String>,
    pub(crate) operations: u64,
    pub(crate) sessions: u64,
    /// Of those, the ones that bans refused or ended.
    pub(crate) banned: u64,
    pub(crate) millis: u64,
    pub(crate) trace: String,
    /// Of all that happened.
    pub(crate) print: u64,
}

/// What is going on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Everything happens.
    Busy,
    /// Nothing new does.
    Quiet,
    /// Everybody looks whether all is there.
    Check,
    /// Everybody goes.
    Leave,
}

pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) trace: Arc<Trace>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) broker: Arc<Simulated>,
    pub(crate) hook: Arc<Hook>,
    pub(crate) services: Arc<Services>,
    pub(crate) house: House,
    pub(crate) users: Vec<String>,
    presence: Arc<MemoryPresence>,
    phase: Told<Phase>,
    operations: AtomicU64,
    sessions: AtomicU64,
    banned: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Until when failures have an excuse; `None`: from now on.
    trouble: Option<Instant>,
    is_troubled: bool,
    /// When many messages came at once.
    rush: Option<Instant>,
    kicks: BTreeMap<String, Instant>,
    /// By an operator: they are known to have run.
    sure_kicks: BTreeMap<String, Instant>,
    bans: BTreeMap<String, Ban>,
    /// When a user's subscriptions to an exchange and a pattern were ended, the last time.
    withdrawn: BTreeMap<(String, &'static str, &'static str), Instant>,
    /// Of a user's right that was taken away: all that used it by then must be over, for it was asked
    /// about again.
    revoked: BTreeMap<(String, Right), Instant>,
    /// Sessions that clients know of.
    open: BTreeMap<u32, String>,
    uncommitted: BTreeSet<u64>,
    expected: Vec<u64>,
}

#[derive(Clone, Copy)]
struct Ban {
    since: Instant,
    until: Option<Instant>,
}

impl World {
    pub(crate) async fn run(plan: Plan, is_traced: bool) -> Outcome {
        let world = Self::new(plan, is_traced);
        let operations = world.live().await;
        Outcome {
            violations: world.trace.violations(),
            operations,
            sessions: world.sessions.load(Ordering::Relaxed),
            banned: world.banned.load(Ordering::Relaxed),
            millis: world.trace.now(),
            trace: if is_traced {
                world.trace.text()
            } else {
                String::new()
            },
            print: if is_traced { world.trace.print() } else { 0 },
        }
    }

    fn new(plan: Plan, is_traced: bool) -> Arc<Self> {
        let trace = Arc::new(Trace::new(is_traced));
        let ledger = Arc::new(Ledger::default());
        let broker = Simulated::new(plan.seed, &ledger, &trace);
        let hook = Hook::new(&plan, &trace);
        remember(&plan, &broker);
        let (broker_config, auth_config) = (broker::Config::default(), auth::Config::default());
        let vhosts = Vhosts::new(
            Arc::new(SimBroker(Arc::clone(&broker))),
            &broker_config,
            &FeedConfig {
                // Or a seed would go other ways on a machine with more cores.
                shards: 2,
                ..FeedConfig::default()
            },
            &journal(plan.seed),
        );
        let settings = Settings::new(
            Limits::default(),
            Stomp::default(),
            MailboxConfig {
                max_bytes: plan.max_bytes,
                overflow: plan.overflow,
                ..MailboxConfig::default()
            },
            &broker_config,
            &auth_config,
            "node-1",
        );
        let settings = settings.with_recheck_of_changes(&auth_config);
        let presence = Arc::new(MemoryPresence::new(Node {
            name: "node-1".into(),
            since: SystemTime::UNIX_EPOCH,
            debounce: Duration::from_secs(5),
            events: None,
            rooms: None,
        }));
        let registry = Registry::new(1000);
        let auth: Arc<Hook> = Arc::clone(&hook);
        let control = Control::alone("node-1", Arc::clone(&registry) as _, Arc::clone(&auth) as _);
        let control = control.join(vhosts.vhost("/").unwrap(), CONTROL);
        let shared: Arc<dyn Presence> = Arc::clone(&presence) as _;
        let services = Services::new(
            vhosts,
            auth,
            Some(shared),
            Some(Arc::new(MemorySequences::new(messaging::Config::default()))),
            registry,
            control,
            settings,
        );
        Arc::new(Self {
            // Few clients, too, have users among which one is not banned.
            users: (0..plan.clients.div_ceil(3).max(3))
                .map(|user| format!("user{user}"))
                .collect(),
            house: House {
                services: Arc::clone(&services),
            },
            plan,
            trace,
            ledger,
            broker,
            hook,
            services,
            presence,
            phase: Told::new(Phase::Busy),
            operations: AtomicU64::new(0),
            sessions: AtomicU64::new(0),
            banned: AtomicU64::new(0),
            state: Mutex::default(),
        })
    }

    async fn live(self: &Arc<Self>) -> u64 {
        for name in QUEUES {
            let queue = QueueSpec {
                name: name.into(),
                durable: true,
                ..QueueSpec::default()
            };
            self.broker.host().declare_queue(&queue).await.unwrap();
        }
        sleep(Duration::from_secs(2)).await;
        let tasks = tasks().await;
        let mut parts = Vec::new();
        for number in 1..=self.plan.clients {
            parts.push(tokio::spawn(client::live(Arc::clone(self), number)));
        }
        let mut others = vec![
            tokio::spawn(faults::make(Arc::clone(self))),
            tokio::spawn(operator::rule(Arc::clone(self))),
            tokio::spawn(operator::withhold(Arc::clone(self))),
            tokio::spawn(operator::forget(Arc::clone(self))),
        ];
        for number in 0..BACKENDS {
            others.push(tokio::spawn(operator::publish(Arc::clone(self), number)));
        }
        sleep(self.plan.busy).await;
        self.enter(Phase::Quiet);
        for other in others {
            other.await.unwrap();
        }
        sleep(QUIET).await;
        self.probe().await;
        self.enter(Phase::Check);
        sleep(Duration::from_secs(1)).await;
        self.check_present().await;
        self.enter(Phase::Leave);
        for part in parts {
            part.await.unwrap();
        }
        // Bindings linger, presence waits for those who come back.
        sleep(Duration::from_secs(60)).await;
        self.check_left(tasks).await;
        self.check_messages();
        self.operations.load(Ordering::Relaxed)
    }

    fn enter(&self, phase: Phase) {
        self.trace.tell(WORLD, || format!("--- {phase:?}"));
        self.phase.set(phase);
    }

    /// One more message for everybody who says to be subscribed.
    async fn probe(&self) {
        let mut id = (u64::from(self.plan.clients) + 1 + BACKENDS) * IDS;
        for (exchange, _) in EXCHANGES {
            let keys: &[&str] = match exchange {
                "feed" => &KEYS,
                "all" => &["any"],
                _ => &TOPICS,
            };
            for key in keys {
                self.broker.publish(exchange, key, &body_of(id, 0));
                id += 1;
            }
        }
        sleep(Duration::from_secs(2)).await;
    }

    /// Those who are here are known, and nobody else.
    async fn check_present(&self) {
        let open = self.state.lock().open.clone();
        let known = self.services.registry.logged_in();
        if known != open.len() {
            self.violate(format!(
                "{known} sessions are logged in, and {open:?} know of it"
            ));
        }
        for user in &self.users {
            let count = self.presence.count_sessions(user).await.unwrap();
            let here = open.values().filter(|name| *name == user).count() as u64;
            if count != here {
                self.violate(format!(
                    "{user} has {here} sessions, and {count} in presence"
                ));
            }
        }
    }

    /// All have gone: nothing is left.
    async fn check_left(&self, tasks_before: usize) {
        let services = &self.services;
        let counts = self.presence.counts().await.unwrap();
        let hub = services.vhosts.status().into_iter().next().unwrap();
        let feeds = hub
            .feeds
            .iter()
            .filter(|feed| *feed.id.exchange != *CONTROL);
        let patterns: usize = feeds.map(|feed| feed.patterns + feed.lingering).sum();
        let journals = || hub.feeds.iter().filter_map(|feed| feed.journal);
        let readings: usize = journals()
            .map(|journal| usize::from(journal.readings))
            .sum();
        let resuming: usize = journals().map(|journal| journal.resuming).sum();
        let numbers = [
            ("connections", services.registry.len()),
            ("sessions", services.registry.logged_in()),
            (
                "sessions in presence",
                usize::try_from(counts.sessions).unwrap(),
            ),
            ("users in presence", usize::try_from(counts.users).unwrap()),
            ("bytes of what clients send", services.memory.room().used()),
            ("clients of the virtual host", hub.clients),
            ("patterns", patterns),
            ("consumers", self.broker.consumers()),
            ("readings of the journal", readings),
            ("subscriptions that catch up", resuming),
            ("tasks", tasks().await.saturating_sub(tasks_before)),
        ];
        for (what, number) in numbers {
            if number != 0 {
                self.violate(format!("{number} {what} are left"));
            }
        }
        let bound = self.broker.feeds.bound_except(&[CONTROL, LOG]);
        if !bound.is_empty() {
            self.violate(format!("bindings are left: {bound:?}"));
        }
    }

    /// No message of a work queue is lost, and none that was not to be published was.
    fn check_messages(&self) {
        let left = self.drain();
        for (id, queued) in self.ledger.queued() {
            let is_left = left.contains(&id);
            let is_done = queued.is_accepted || queued.is_discarded;
            if is_left == is_done {
                self.violate(format!("m{id} is in its queue: {is_left}; {queued:?}"));
            }
            if queued.is_accepted && !queued.was_acked && !queued.was_auto {
                self.violate(format!("m{id} was acknowledged by nobody: {queued:?}"));
            }
            if queued.is_discarded && !queued.was_dropped {
                self.violate(format!("m{id} was discarded by nobody: {queued:?}"));
            }
        }
        let state = self.state.lock();
        for id in &state.uncommitted {
            if self.ledger.was_taken(*id) {
                self.violate(format!(
                    "m{id} was published, and its transaction never committed"
                ));
            }
        }
        for id in &state.expected {
            if !self.ledger.was_taken(*id) {
                self.violate(format!(
                    "m{id} was sent before an ERROR, and is not published"
                ));
            }
        }
    }

    /// What is in the queues.
    fn drain(&self) -> BTreeSet<u64> {
        let found = Arc::new(Drain::default());
        let mut consumers = Vec::new();
        for name in QUEUES {
            let consume = Consume {
                queue: QueueSpec {
                    name: name.into(),
                    ..QueueSpec::default()
                },
                declare: false,
                binding: None,
                binding_arguments: Vec::new(),
                prefetch: u16::MAX,
                exclusive: false,
                owner: 0,
                arguments: Vec::new(),
            };
            let sink: Arc<Drain> = Arc::clone(&found);
            let started = self.broker.host().consume(consume, sink);
            consumers.push(started.now_or_never().unwrap().unwrap());
        }
        found.0.lock().clone()
    }

    fn violate(&self, line: String) {
        self.trace.violate(WORLD, line);
    }
}

/// What clients, faults and the operator tell each other.
impl World {
    pub(crate) fn is_busy(&self) -> bool {
        self.phase.get() == Phase::Busy
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// Waits for another phase than this one.
    pub(crate) async fn after(&self, phase: Phase) -> Phase {
        self.phase.wait_for(|now| *now != phase).await
    }

    pub(crate) fn count(&self) {
        self.operations.fetch_add(1, Ordering::Relaxed);
    }

    /// A session is over.
    pub(crate) fn count_session(&self, was_banned: bool) {
        self.sessions.fetch_add(1, Ordering::Relaxed);
        self.banned.fetch_add(was_banned.into(), Ordering::Relaxed);
    }

    /// From now on things may fail.
    pub(crate) fn trouble(&self) {
        let mut state = self.state.lock();
        (state.is_troubled, state.trouble) = (true, None);
    }

    pub(crate) fn trouble_ends(&self) {
        self.state.lock().trouble = Some(Instant::now() + AFTERMATH);
    }

    pub(crate) fn is_troubled(&self) -> bool {
        let state = self.state.lock();
        state.is_troubled && state.trouble.is_none_or(|until| Instant::now() < until)
    }

    /// Many messages come at once.
    pub(crate) fn rush(&self) {
        self.state.lock().rush = Some(Instant::now());
    }

    /// An ERROR waits for up to 5 s for the answers to frames before it.
    pub(crate) fn was_rushed(&self) -> bool {
        let rush = self.state.lock().rush;
        rush.is_some_and(|rush| rush.elapsed() < Duration::from_secs(11))
    }

    pub(crate) fn interruptions(&self) -> u64 {
        let each = EXCHANGES
            .iter()
            .map(|(name, _)| self.broker.feeds.interruptions(name));
        each.sum()
    }

    pub(crate) fn kick(&self, user: &str, is_sure: bool) {
        let mut state = self.state.lock();
        state.kicks.insert(user.to_owned(), Instant::now());
        if is_sure {
            state.sure_kicks.insert(user.to_owned(), Instant::now());
        }
    }

    pub(crate) fn last_kick(&self, user: &str) -> Option<Instant> {
        self.state.lock().sure_kicks.get(user).copied()
    }

    /// Whether the user was kicked since then, or shortly before: a command may be late.
    pub(crate) fn was_kicked(&self, user: &str, since: Instant) -> bool {
        let state = self.state.lock();
        let kick = state.kicks.get(user);
        kick.is_some_and(|at| *at + AFTERMATH >= since)
    }

    pub(crate) fn withdraw(&self, user: &str, exchange: &'static str, pattern: &'static str) {
        let subject = (user.to_owned(), exchange, pattern);
        let now = Instant::now();
        self.state.lock().withdrawn.insert(subject, now);
    }

    /// When the operator ended the user's subscriptions to that, the last time.
    pub(crate) fn last_withdrawal(
        &self,
        user: &str,
        exchange: &'static str,
        pattern: &'static str,
    ) -> Option<Instant> {
        let subject = (user.to_owned(), exchange, pattern);
        self.state.lock().withdrawn.get(&subject).copied()
    }

    /// The user is without the right, all sessions of the user were asked about again meanwhile, and
    /// nothing failed.
    pub(crate) fn revoke(&self, user: &str, right: Right) {
        let subject = (user.to_owned(), right);
        self.state.lock().revoked.insert(subject, Instant::now());
    }

    /// When all that used that right of the user had to be over, the last time.
    pub(crate) fn last_revocation(&self, user: &str, right: Right) -> Option<Instant> {
        let subject = (user.to_owned(), right);
        self.state.lock().revoked.get(&subject).copied()
    }

    pub(crate) fn ban(&self, user: &str, is_set: bool) {
        let now = Instant::now();
        let mut state = self.state.lock();
        match state.bans.get_mut(user) {
            Some(ban) if !is_set => ban.until = Some(now),
            _ => {
                let ban = Ban {
                    since: now,
                    until: None,
                };
                state.bans.insert(user.to_owned(), ban);
            }
        }
    }

    pub(crate) fn banned_since(&self, user: &str) -> Option<Instant> {
        let state = self.state.lock();
        let ban = state.bans.get(user).filter(|ban| ban.until.is_none())?;
        Some(ban.since)
    }

    /// Whether the user was banned at any time since then, or a moment before.
    pub(crate) fn was_banned(&self, user: &str, since: Instant) -> bool {
        let state = self.state.lock();
        let ban = state.bans.get(user);
        ban.is_some_and(|ban| ban.until.is_none_or(|until| until >= since))
    }

    pub(crate) fn opened(&self, client: u32, user: &str) {
        self.state.lock().open.insert(client, user.to_owned());
    }

    pub(crate) fn closed(&self, client: u32) {
        self.state.lock().open.remove(&client);
    }

    pub(crate) fn uncommitted(&self, id: u64) {
        self.state.lock().uncommitted.insert(id);
    }

    pub(crate) fn committed(&self, id: u64) {
        self.state.lock().uncommitted.remove(&id);
    }

    /// It was sent before an ERROR of its client's own making, with the broker well.
    pub(crate) fn must_be_taken(&self, id: u64) {
        self.state.lock().expected.push(id);
    }
}

/// A journal of which little is in memory, so that the broker is asked for the rest.
fn journal(seed: u64) -> JournalConfig {
    let mut draws = Draws::of(&[seed, 0x3e30]);
    JournalConfig {
        exchanges: [LOG.to_owned()].into(),
        memory: usize::try_from(draws.between(8, 64)).unwrap() * 1024,
        replays: u16::try_from(draws.between(1, 2)).unwrap(),
        ..JournalConfig::default()
    }
}

/// The journal has messages of before the gateway's start.
fn remember(plan: &Plan, broker: &Simulated) {
    let mut draws = Draws::of(&[plan.seed, 0x01d5]);
    let first = (u64::from(plan.clients) + 2 + BACKENDS) * IDS;
    for id in first..first + draws.below(60) {
        let padding = usize::try_from(draws.below(200)).unwrap();
        broker.remember(
            id,
            TOPICS[usize::try_from(draws.below(4)).unwrap()],
            &body_of(id, padding),
        );
    }
}

/// Tasks that run, without those that come and go: bindings are looked after every 5 s.
async fn tasks() -> usize {
    let mut fewest = usize::MAX;
    for _ in 0..5 {
        let metrics = tokio::runtime::Handle::current().metrics();
        fewest = fewest.min(metrics.num_alive_tasks());
        sleep(Duration::from_millis(700)).await;
    }
    fewest
}

#[derive(Default)]
struct Drain(Mutex<BTreeSet<u64>>);

impl DeliverySink for Drain {
    fn deliver(&self, delivery: Delivery) {
        self.0.lock().extend(id_of(&delivery.message.body));
    }

    fn lost(&self, _: BrokerError) {}
}
