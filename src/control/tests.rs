//! Nodes that ask each other, in virtual time, by a broker that takes its time and loses words.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use super::{
    link::{LIFE, MAX_WAITING},
    wire::{Note, decode, encode},
    *,
};
use crate::{
    auth::{Access, Login, Refusal, User},
    broker::{
        self, Broker, BrokerError, Confirm, Consume, Consumer, DeliverySink, ExchangeKind,
        FeedConfig, FeedId, FeedSink, JournalConfig, Message, Properties, Publish, QueueSpec,
        VirtualHost,
    },
    hub::Vhosts,
    telemetry::capture::Capture,
};

const EXCHANGE: &str = "control";

/// A user for whose ban no node has room.
const ONE_TOO_MANY: &str = "one too many";

/// The listeners at the exchange.
type Listeners = Arc<Mutex<Vec<(FeedId, Arc<dyn FeedSink>)>>>;

/// A node's link to the exchange.
struct Link {
    listeners: Listeners,
    sink: Arc<dyn FeedSink>,
    words: Arc<Words>,
}

/// How a node's words fare.
#[derive(Default)]
struct Words {
    /// They come so late.
    late: Mutex<Duration>,
    /// The broker takes so long to confirm them.
    confirm: Mutex<Duration>,
    /// So many of its next answers do not come.
    lost: AtomicUsize,
    /// The broker is away.
    is_away: AtomicBool,
}

struct FakeBroker(Listeners, Arc<Words>);

impl Broker for FakeBroker {
    fn open(&self, _: &str, sink: Arc<dyn FeedSink>) -> Arc<dyn VirtualHost> {
        Arc::new(Link {
            listeners: Arc::clone(&self.0),
            sink,
            words: Arc::clone(&self.1),
        })
    }
}

type Answer = Result<(), BrokerError>;

impl VirtualHost for Link {
    fn health(&self) -> Answer {
        Ok(())
    }

    fn opened(&self) -> BoxFuture<'_, Answer> {
        std::future::ready(Ok(())).boxed()
    }

    fn exchange_kind<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<ExchangeKind, BrokerError>> {
        std::future::ready(Ok(ExchangeKind::Fanout)).boxed()
    }

    fn bind_feed<'a>(&'a self, feed: &'a FeedId, _: &'a str) -> BoxFuture<'a, Answer> {
        let mut listeners = self.listeners.lock();
        listeners.retain(|(known, sink)| known != feed || !Arc::ptr_eq(sink, &self.sink));
        listeners.push((feed.clone(), Arc::clone(&self.sink)));
        std::future::ready(Ok(())).boxed()
    }

    fn unbind_feed<'a>(&'a self, _: &'a FeedId, _: &'a str) -> BoxFuture<'a, Answer> {
        std::future::ready(Ok(())).boxed()
    }

    fn end_feed(&self, _: &FeedId) {}

    fn consume(
        &self,
        _: Consume,
        _: Arc<dyn DeliverySink>,
    ) -> BoxFuture<'_, Result<Arc<dyn Consumer>, BrokerError>> {
        unreachable!("nobody consumes")
    }

    fn declare_queue<'a>(&'a self, _: &'a QueueSpec) -> BoxFuture<'a, Answer> {
        unreachable!("nobody declares")
    }

    fn delete_queue<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Answer> {
        unreachable!("nobody deletes")
    }

    fn publish(&self, publish: Publish) -> BoxFuture<'_, Result<Confirm, BrokerError>> {
        if self.words.is_away.load(Relaxed) {
            let error = BrokerError::Unavailable("away".into());
            return std::future::ready(Err(error)).boxed();
        }
        let confirm = *self.words.confirm.lock();
        let confirmed: Confirm = async move {
            sleep(confirm).await;
            Ok(())
        }
        .boxed();
        let is_lost = matches!(decode(&publish.body), Ok(Note::Seen { .. }))
            && self
                .words
                .lost
                .fetch_update(Relaxed, Relaxed, |lost| lost.checked_sub(1))
                .is_ok();
        if !is_lost {
            let (late, listeners) = (*self.words.late.lock(), Arc::clone(&self.listeners));
            tokio::spawn(async move {
                sleep(late).await;
                for (feed, sink) in &*listeners.lock() {
                    let message = Message::new(
                        (*publish.exchange).into(),
                        (*publish.routing_key).into(),
                        publish.properties.clone(),
                        publish.body.clone(),
                    );
                    sink.deliver(feed, message);
                }
            });
        }
        std::future::ready(Ok(confirmed)).boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        std::future::ready(()).boxed()
    }
}

/// A node without sessions, which shows its name, and notes what it is told.
#[derive(Default)]
struct Fake {
    name: &'static str,
    /// The sessions that were to be replaced.
    replaced: Mutex<Vec<String>>,
    bans: Mutex<Vec<Change>>,
    is_recheck_off: AtomicBool,
    /// How often others asked for its bans.
    asked: AtomicUsize,
    /// The subjects of the bans that it heard of.
    heard: Mutex<Vec<String>>,
    /// How many of them are no more.
    lifted: AtomicUsize,
    /// It has every session, on connections that are busy.
    is_busy: AtomicBool,
}

impl Views for Fake {
    fn view(&self, look: Look) -> BoxFuture<'_, Result<Option<Value>, NoAnswer>> {
        let view = match look {
            Look::Session(_) if self.is_busy.load(Relaxed) => Err(NoAnswer),
            Look::Session(_) => Ok(None),
            _ => Ok(Some(self.name.into())),
        };
        std::future::ready(view).boxed()
    }
}

impl Sessions for Fake {
    fn kick(&self, _: &Target, _: &str, _: Duration) -> usize {
        0
    }

    fn replace(&self, session: &str) -> usize {
        self.replaced.lock().push(session.into());
        0
    }

    fn recheck(&self, _: &Target) -> Result<usize, RecheckOff> {
        match self.is_recheck_off.load(Relaxed) {
            true => Err(RecheckOff),
            false => Ok(0),
        }
    }

    fn forget(&self) {}

    fn refresh_groups(&self, _: &str) -> usize {
        0
    }

    fn unsubscribe(&self, _: &Arc<Unsubscribe>, _: Duration) -> BoxFuture<'static, usize> {
        std::future::ready(0).boxed()
    }

    fn ban(&self, change: &Change, _: Duration) -> (Applied, usize) {
        (Applied::Done(change.clone()), 0)
    }

    fn hear_of_bans(&self, changes: &[Change]) -> Vec<Applied> {
        let keys = changes.iter().map(|change| change.subject.key());
        self.heard.lock().extend(keys);
        let lifted = changes.iter().filter(|change| change.ban.is_none());
        self.lifted.fetch_add(lifted.count(), Relaxed);
        let applied = changes
            .iter()
            .map(|change| match change.subject.value().as_str() {
                ONE_TOO_MANY => Applied::Full,
                _ => Applied::Done(change.clone()),
            });
        applied.collect()
    }

    fn bans(&self) -> Vec<Change> {
        self.asked.fetch_add(1, Relaxed);
        self.bans.lock().clone()
    }
}

impl Authenticator for Fake {
    fn user<'a>(&'a self, _: &'a Login) -> BoxFuture<'a, Result<User, Refusal>> {
        unreachable!("nobody logs in")
    }

    fn allow<'a>(&'a self, _: &'a User, _: &'a Access) -> BoxFuture<'a, Result<(), Refusal>> {
        unreachable!("nobody asks")
    }

    fn forget<'a>(&'a self, _: &'a str) -> BoxFuture<'a, usize> {
        std::future::ready(0).boxed()
    }

    fn groups<'a>(&'a self, _: &'a User) -> BoxFuture<'a, Result<Vec<Arc<str>>, Refusal>> {
        unreachable!("nobody asks")
    }
}

struct Node {
    control: Control,
    words: Arc<Words>,
    fake: Arc<Fake>,
    _vhosts: Vhosts,
}

impl Node {
    async fn start(name: &'static str, listeners: &Listeners) -> Self {
        Self::start_with(name, listeners, Arc::default()).await
    }

    async fn start_with(name: &'static str, listeners: &Listeners, words: Arc<Words>) -> Self {
        let broker = FakeBroker(Arc::clone(listeners), Arc::clone(&words));
        let config = broker::Config::default();
        let (feed, journal) = (FeedConfig::default(), JournalConfig::default());
        let vhosts = Vhosts::new(Arc::new(broker), &config, &feed, &journal);
        let hub = vhosts.vhost(&config.default_vhost).unwrap();
        let fake = Arc::new(Fake {
            name,
            ..Fake::default()
        });
        let control = Control::alone(name, Arc::clone(&fake) as _, Arc::clone(&fake) as _)
            .join(hub, EXCHANGE);
        control.show(Arc::downgrade(&fake) as _);
        // Until it listens, and has said so.
        sleep(Duration::from_millis(1)).await;
        Self {
            control,
            words,
            fake,
            _vhosts: vhosts,
        }
    }

    /// The sessions that were to be replaced since the last time.
    fn replaced(&self) -> Vec<String> {
        std::mem::take(&mut self.fake.replaced.lock())
    }

    /// How often others asked for its bans since the last time.
    fn asked(&self) -> usize {
        self.fake.asked.swap(0, Relaxed)
    }

    /// The bans that it heard of since the last time.
    fn heard(&self) -> Vec<String> {
        std::mem::take(&mut self.fake.heard.lock())
    }

    /// The nodes that answer.
    async fn looked(&self, look: Look) -> Vec<String> {
        let seen = self.control.look(look).await;
        assert_eq!(seen.unreached, None);
        seen.nodes
            .into_iter()
            .map(|(name, _)| name.into())
            .collect()
    }
}

fn subscribed() -> Look {
    Look::Subscribed("{}".into())
}

/// Two sources on each of five nodes ask at once, when many users have moved.
#[tokio::test(start_paused = true)]
async fn a_node_answers_all_who_ask_for_its_subscribers() {
    let listeners = Listeners::default();
    let [a, b] = [
        Node::start("a", &listeners).await,
        Node::start("b", &listeners).await,
    ];
    *b.words.confirm.lock() = Duration::from_millis(200);
    // Operators ask, too.
    let pages = join_all((0..20).map(|_| a.looked(Look::Overview)));
    let (answers, _) = tokio::join!(join_all((0..10).map(|_| a.looked(subscribed()))), pages);
    assert_eq!(answers, vec![["a", "b"]; 10]);
}

/// A message would be pushed to the phone of a user who is there.
#[tokio::test(start_paused = true)]
async fn a_node_whose_answer_did_not_come_is_asked_once_more() {
    let listeners = Listeners::default();
    let [a, b] = [
        Node::start("a", &listeners).await,
        Node::start("b", &listeners).await,
    ];
    assert_eq!(a.looked(subscribed()).await, ["a", "b"]);
    for _ in 0..2 {
        b.words.lost.store(1, Relaxed);
        assert_eq!(a.looked(subscribed()).await, ["a", "b"]);
    }
    b.words.lost.store(2, Relaxed);
    let seen = a.control.look(subscribed()).await;
    assert_eq!((seen.nodes.len(), seen.silent), (1, vec!["b".into()]));
    // It counts as gone. Its first word says that it is not.
    assert_eq!(a.looked(subscribed()).await, ["a"]);
    sleep(Duration::from_millis(1)).await;
    assert_eq!(a.looked(subscribed()).await, ["a", "b"]);
}

/// The client is not kept out here, and nobody else would say so.
#[tokio::test(start_paused = true)]
async fn a_ban_that_finds_no_room_is_in_the_log() {
    let log = Capture::start();
    let listeners = Listeners::default();
    let [a, _b] = [
        Node::start("a", &listeners).await,
        Node::start("b", &listeners).await,
    ];
    let mut changes = vec![ban_of("alice")];
    changes.extend((0..300).map(|_| ban_of(ONE_TOO_MANY)));
    let (link, _) = a.control.link.as_ref().unwrap();
    let note = Note::Bans {
        node: "a".into(),
        changes,
        faults: Vec::new(),
    };
    link.send(&note).await.unwrap();
    sleep(Duration::from_millis(1)).await;
    let text = log.text();
    assert!(text.contains("bans learnt"), "{text}");
    // One line, or each node would write thousands of them.
    let full = text.lines().filter(|line| line.contains("ban not taken"));
    let full: Vec<_> = full.collect();
    assert!(
        matches!(*full, [line] if line.contains("299")),
        "{} lines",
        full.len()
    );
}

fn ban_of(user: &str) -> Change {
    Change {
        subject: Subject::User(user.into()),
        stamp: Some(1),
        ban: Some(Ban {
            until: None,
            reason: Box::default(),
        }),
    }
}

/// Where Redis is not used, nothing else tells it of them.
#[tokio::test(start_paused = true)]
async fn a_node_that_starts_in_an_alarm_asks_for_bans_after_it() {
    let minute = Duration::from_secs(60);
    let listeners = Listeners::default();
    let a = Node::start("a", &listeners).await;
    let words = Arc::<Words>::default();
    words.is_away.store(true, Relaxed);
    let b = Node::start_with("b", &listeners, words).await;
    sleep(minute).await;
    assert_eq!(a.asked(), 0);
    b.words.is_away.store(false, Relaxed);
    sleep(minute).await;
    assert_eq!(a.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn bans_are_told_though_the_broker_is_away_for_a_while() {
    let second = Duration::from_secs(1);
    let listeners = Listeners::default();
    let a = Node::start("a", &listeners).await;
    a.fake.bans.lock().push(ban_of("alice"));
    a.words.is_away.store(true, Relaxed);
    let b = Node::start("b", &listeners).await;
    sleep(3 * second).await;
    assert_eq!((a.asked(), b.heard()), (1, Vec::new()));
    a.words.is_away.store(false, Relaxed);
    sleep(10 * second).await;
    assert_eq!((a.asked(), b.heard()), (0, vec!["user:alice".to_owned()]));
}

/// All answers come to all nodes: so much at once could push kicks out of their mailboxes.
#[tokio::test(start_paused = true)]
async fn bans_that_all_know_are_not_told_by_each() {
    const BANS: usize = 100;
    let minute = Duration::from_secs(60);
    let listeners = Listeners::default();
    let mut nodes = Vec::new();
    for name in ["a", "b", "c", "d", "e"] {
        let node = Node::start(name, &listeners).await;
        sleep(minute).await;
        nodes.push(node);
    }
    for node in &nodes {
        let all = (0..BANS).map(|number| ban_of(&number.to_string()));
        node.fake.bans.lock().extend(all);
    }
    // One knows more than the others, and one has newer news.
    nodes[3].fake.bans.lock().push(ban_of("alice"));
    let lifted = Change {
        stamp: Some(2),
        ban: None,
        ..ban_of("0")
    };
    nodes[4].fake.bans.lock()[0] = lifted;
    let begins = Node::start("begins", &listeners).await;
    sleep(minute).await;
    let heard = begins.heard();
    // Two may answer in the same moment, but not all.
    assert!(heard.len() < 3 * BANS, "{}", heard.len());
    let mut different: Vec<_> = heard.iter().map(String::as_str).collect();
    different.sort_unstable();
    different.dedup();
    assert_eq!(different.len(), BANS + 1);
    assert!(different.contains(&"user:alice"));
    let lifted = nodes[0].fake.lifted.load(Relaxed);
    assert_eq!(lifted, 1, "what is newer is told all the same");
}

/// Among them may have been bans.
#[tokio::test(start_paused = true)]
async fn a_node_that_lost_commands_asks_for_bans() {
    let minute = Duration::from_secs(60);
    let listeners = Listeners::default();
    let a = Node::start("a", &listeners).await;
    let _b = Node::start("b", &listeners).await;
    sleep(minute).await;
    assert_eq!(a.asked(), 1, "it begins to listen");
    let (feed, sink) = listeners.lock().last().cloned().unwrap();
    let note = encode(&Note::Answer {
        to: "nobody".into(),
        node: "c".into(),
        hits: 0,
    });
    let (most, _) = MAX_WAITING;
    for _ in 0..=most {
        let properties = Properties::default();
        let message = Message::new(EXCHANGE.into(), "".into(), properties, note.clone().into());
        sink.deliver(&feed, message);
    }
    sleep(minute).await;
    assert_eq!(a.asked(), 1);
}

/// Its sessions may be those that are meant.
#[tokio::test(start_paused = true)]
async fn a_node_that_cannot_ask_again_gives_no_answer() {
    let listeners = Listeners::default();
    let [a, _b, c] = [
        Node::start("a", &listeners).await,
        Node::start("b", &listeners).await,
        Node::start("c", &listeners).await,
    ];
    c.fake.is_recheck_off.store(true, Relaxed);
    let recheck = Command::Recheck(Target::User("alice".into()));
    let report = a.control.run(recheck).await.unwrap();
    assert_eq!(report.nodes, [("a".into(), 0), ("b".into(), 0)]);
}

/// Without a presence that all share, nobody else knows which nodes there are.
#[tokio::test(start_paused = true)]
async fn a_node_that_began_of_late_is_waited_for() {
    let listeners = Listeners::default();
    let [a, b] = [
        Node::start("a", &listeners).await,
        Node::start("b", &listeners).await,
    ];
    assert_eq!(a.looked(subscribed()).await, ["a", "b"]);
    let c = Node::start("c", &listeners).await;
    *c.words.late.lock() = Duration::from_millis(300);
    let begun = Instant::now();
    assert_eq!(a.looked(subscribed()).await, ["a", "b", "c"]);
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    drop(b);
}

/// Presence does not say which nodes there are. A command that one of them has not heard of is no
/// success, and a session that it may have is not gone.
#[tokio::test(start_paused = true)]
async fn a_node_that_was_heard_of_and_gives_no_answer_is_named() {
    let listeners = Listeners::default();
    let [a, b, c] = [
        Node::start("a", &listeners).await,
        Node::start("b", &listeners).await,
        Node::start("c", &listeners).await,
    ];
    assert_eq!(a.looked(subscribed()).await, ["a", "b", "c"]);
    *c.words.late.lock() = 2 * PATIENCE;
    let commands = [
        Command::Forget {
            user: "alice".into(),
        },
        Command::Kick {
            target: Target::Session("s".into()),
            reason: Box::default(),
        },
    ];
    for command in commands {
        let report = a.control.run(command).await.unwrap();
        let answered: Vec<_> = report.nodes.iter().map(|(node, _)| &**node).collect();
        assert_eq!(answered, ["a", "b"]);
        assert_eq!(report.silent, [Box::from("c")] as [Box<str>; 1]);
    }
    drop(b);
}

/// All who could have it have said so.
#[tokio::test(start_paused = true)]
async fn a_session_that_no_node_has_is_gone() {
    let listeners = Listeners::default();
    let [a, _b] = [
        Node::start("a", &listeners).await,
        Node::start("b", &listeners).await,
    ];
    assert_eq!(a.looked(subscribed()).await, ["a", "b"]);
    let seen = a.control.look(Look::Session("s".into())).await;
    assert_eq!(seen, Seen::default());
}

/// Nobody has said that it is gone.
#[tokio::test(start_paused = true)]
async fn a_node_that_has_a_session_and_cannot_show_it_is_named() {
    let listeners = Listeners::default();
    let [a, b] = [
        Node::start("a", &listeners).await,
        Node::start("b", &listeners).await,
    ];
    assert_eq!(a.looked(subscribed()).await, ["a", "b"]);
    for (node, name) in [(&b, "b"), (&a, "a")] {
        node.fake.is_busy.store(true, Relaxed);
        let seen = a.control.look(Look::Session("s".into())).await;
        let expected = Seen {
            silent: vec![name.into()],
            ..Seen::default()
        };
        assert_eq!(seen, expected);
    }
}

/// Whoever looks for one would believe for a while that it is alone.
#[tokio::test(start_paused = true)]
async fn a_look_for_a_session_forgets_no_node() {
    let listeners = Listeners::default();
    let [a, b] = [
        Node::start("a", &listeners).await,
        Node::start("b", &listeners).await,
    ];
    assert_eq!(a.looked(subscribed()).await, ["a", "b"]);
    b.fake.is_busy.store(true, Relaxed);
    let seen = a.control.look(Look::Session("nope".into())).await;
    assert_eq!(seen.silent, [Box::from("b")] as [Box<str>; 1]);
    assert_eq!(a.looked(Look::Overview).await, ["a", "b"]);
    *b.words.late.lock() = 2 * PATIENCE;
    let kick = Command::Kick {
        target: Target::Session("nope".into()),
        reason: Box::default(),
    };
    let report = a.control.run(kick).await.unwrap();
    assert_eq!(report.silent, [Box::from("b")] as [Box<str>; 1]);
}

/// Otherwise both sessions of the user would stay.
#[tokio::test(start_paused = true)]
async fn a_session_is_replaced_though_the_broker_is_away_for_a_while() {
    let listeners = Listeners::default();
    let [a, b] = [
        Node::start("a", &listeners).await,
        Node::start("b", &listeners).await,
    ];
    let minute = Duration::from_secs(60);
    a.words.is_away.store(true, Relaxed);
    a.control.replace("old");
    sleep(2 * minute).await;
    assert_eq!(b.replaced(), Vec::<String>::new());
    a.words.is_away.store(false, Relaxed);
    sleep(minute).await;
    assert_eq!(b.replaced(), ["old"]);
    // By then, whoever was meant may have come back.
    a.words.is_away.store(true, Relaxed);
    a.control.replace("older");
    sleep(LIFE).await;
    a.words.is_away.store(false, Relaxed);
    sleep(minute).await;
    assert_eq!(b.replaced(), Vec::<String>::new());
}

/// In an alarm RabbitMQ confirms nothing. It may have taken it all the same.
#[tokio::test(start_paused = true)]
async fn what_was_not_confirmed_is_told_again_in_turn() {
    let listeners = Listeners::default();
    let [a, b] = [
        Node::start("a", &listeners).await,
        Node::start("b", &listeners).await,
    ];
    *a.words.confirm.lock() = Duration::from_secs(60);
    let sessions = ["1", "2", "3"];
    for session in sessions {
        a.control.replace(session);
    }
    sleep(Duration::from_secs(60)).await;
    *a.words.confirm.lock() = Duration::ZERO;
    sleep(Duration::from_secs(60)).await;
    let replaced = b.replaced();
    for session in sessions {
        assert!(replaced.iter().filter(|known| *known == session).count() > 1);
    }
    sleep(Duration::from_secs(60)).await;
    assert_eq!(b.replaced(), Vec::<String>::new());
}
