//! Messages between nodes, on RabbitMQ: two ends of the exchange in this process.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use stentor::{
    auth::{Access, Authenticator, Login, Refusal, User},
    broker::{self, ExchangeKind, FeedConfig, JournalConfig, amqp::AmqpBroker},
    control::{
        Applied, Change, Command, Control, RecheckOff, Report, Sessions, Target, Unsubscribe,
    },
    hub::Vhosts,
    presence::Presence,
};
use testkit::{DEADLINE, Redis, Vhost, eventually};

use crate::{
    house::vhost,
    presence_contract::{LONG, redis_presence, settings},
};

const EXCHANGE: &str = "control";

/// The sessions of a node that has so many of everybody.
struct Fake {
    sessions: usize,
    told: Mutex<Vec<String>>,
}

impl Sessions for Fake {
    fn kick(&self, target: &Target, reason: &str, _: Duration) -> usize {
        self.told.lock().push(format!("kick {target}: {reason}"));
        self.sessions
    }

    fn replace(&self, session: &str) -> usize {
        self.told.lock().push(format!("replace {session}"));
        self.sessions
    }

    fn recheck(&self, _: &Target) -> Result<usize, RecheckOff> {
        Err(RecheckOff)
    }

    fn forget(&self) {}

    fn refresh_groups(&self, user: &str) -> usize {
        self.told.lock().push(format!("refresh_groups {user}"));
        self.sessions
    }

    fn unsubscribe(&self, wanted: &Arc<Unsubscribe>, _: Duration) -> BoxFuture<'static, usize> {
        self.told.lock().push(format!("unsubscribe {wanted}"));
        let sessions = self.sessions;
        Box::pin(async move { sessions })
    }

    fn ban(&self, change: &Change, _: Duration) -> (Applied, usize) {
        self.told.lock().push(format!("ban {}", change.subject));
        (Applied::Done(change.clone()), self.sessions)
    }

    fn hear_of_bans(&self, changes: &[Change]) -> Vec<Applied> {
        changes.iter().cloned().map(Applied::Done).collect()
    }

    fn bans(&self) -> Vec<Change> {
        Vec::new()
    }
}

impl Authenticator for Fake {
    fn user<'a>(&'a self, _: &'a Login) -> BoxFuture<'a, Result<User, Refusal>> {
        unreachable!("nobody logs in")
    }

    fn allow<'a>(&'a self, _: &'a User, _: &'a Access) -> BoxFuture<'a, Result<(), Refusal>> {
        unreachable!("nobody asks")
    }

    fn forget<'a>(&'a self, user: &'a str) -> BoxFuture<'a, usize> {
        self.told.lock().push(format!("forget {user}"));
        Box::pin(std::future::ready(2))
    }

    fn groups<'a>(&'a self, _: &'a User) -> BoxFuture<'a, Result<Vec<Arc<str>>, Refusal>> {
        unreachable!("nobody asks")
    }
}

struct Node {
    fake: Arc<Fake>,
    control: Control,
    _vhosts: Vhosts,
}

impl Node {
    /// Of those that presence knows, if it is asked.
    fn new(vhost: &Vhost, name: &str, sessions: usize, known: Option<Arc<dyn Presence>>) -> Self {
        let fake = Arc::new(Fake {
            sessions,
            told: Mutex::default(),
        });
        let config = broker::Config {
            default_vhost: vhost.name().to_owned(),
            vhosts: vec![vhost.name().to_owned()],
            exchanges: [(EXCHANGE.into(), ExchangeKind::Fanout)].into(),
            ..broker::Config::default()
        };
        let url = format!("amqp://guest:guest@{}", vhost.node().amqp_address());
        let Ok(broker::Url::Amqp(url)) = url.parse() else {
            panic!("a URL of AMQP");
        };
        let feed = FeedConfig::default();
        let broker = AmqpBroker::new(&[url], config.clone(), feed.clone(), name).unwrap();
        let vhosts = Vhosts::new(Arc::new(broker), &config, &feed, &JournalConfig::default());
        let control = Control::alone(name, Arc::clone(&fake) as _, Arc::clone(&fake) as _)
            .among(known)
            .join(vhosts.vhost(vhost.name()).unwrap(), EXCHANGE);
        Self {
            fake,
            control,
            _vhosts: vhosts,
        }
    }

    async fn run(&self, command: Command) -> Report {
        self.control.run(command).await.unwrap()
    }

    fn told(&self) -> Vec<String> {
        std::mem::take(&mut self.fake.told.lock())
    }
}

fn forget(user: &str) -> Command {
    Command::Forget { user: user.into() }
}

/// Three nodes that hear each other.
async fn nodes() -> [Node; 3] {
    let vhost = vhost().await;
    let nodes = [("a", 1), ("b", 3), ("c", 0)];
    until_heard(nodes.map(|(name, sessions)| Node::new(&vhost, name, sessions, None))).await
}

async fn until_heard(nodes: [Node; 3]) -> [Node; 3] {
    eventually(DEADLINE, "they hear each other", async || {
        nodes[0].run(forget("nobody")).await.nodes.len() == 3
            && nodes[1].run(forget("nobody")).await.nodes.len() == 3
    })
    .await;
    nodes.iter().for_each(|node| drop(node.told()));
    nodes
}

#[tokio::test]
async fn what_all_nodes_did_is_counted() {
    let nodes = nodes().await;
    let report = nodes[0]
        .run(Command::Kick {
            target: Target::User("alice".into()),
            reason: "not paid".into(),
        })
        .await;
    assert_eq!(report.nodes[0], ("a".into(), 1), "this one first");
    let mut all = report.nodes.clone();
    all.sort();
    assert_eq!(all, [("a".into(), 1), ("b".into(), 3), ("c".into(), 0)]);
    assert_eq!((report.hits(), report.unreached), (4, None));
    for node in &nodes {
        assert_eq!(node.told(), ["kick user \"alice\": not paid"]);
    }
    assert_eq!(nodes[1].run(forget("alice")).await.hits(), 6);
    for node in &nodes {
        assert_eq!(node.told(), ["forget alice"]);
    }
}

/// A session has one node, so nobody waits for the others.
#[tokio::test]
async fn the_node_that_has_the_session_is_enough() {
    let nodes = nodes().await;
    let kick = || Command::Kick {
        target: Target::Session("s".into()),
        reason: "".into(),
    };
    let report = nodes[1].run(kick()).await;
    assert_eq!(report.nodes, [("b".into(), 3)]);
    let begun = Instant::now();
    let report = nodes[2].run(kick()).await;
    assert!(report.hits() > 0, "{report:?}");
    assert!(begun.elapsed().as_millis() < 900, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_node_that_cannot_ask_again_tells_nobody() {
    let nodes = nodes().await;
    let recheck = Command::Recheck(Target::User("alice".into()));
    assert_eq!(nodes[0].control.run(recheck).await, Err(RecheckOff));
    nodes[0].run(forget("the last")).await;
    assert_eq!(nodes[1].told(), ["forget the last"]);
}

/// If presence knows the nodes, nobody waits for more answers.
#[tokio::test]
async fn all_known_nodes_are_enough() {
    let (vhost, redis) = (vhost().await, Redis::own().await);
    let names = ["a", "b", "c"];
    let presences = names.map(|name| -> Arc<dyn Presence> {
        let lease = Duration::from_secs(30);
        Arc::new(redis_presence(
            &redis.url(),
            lease,
            settings(name, LONG, None),
        ))
    });
    let known = async || presences[0].nodes().await.map_or(0, |nodes| nodes.len());
    eventually(DEADLINE, "presence knows them", async || known().await == 3).await;
    let [a, b, c] = [0, 1, 2].map(|n| (names[n], Some(Arc::clone(&presences[n]))));
    let started = [a, b, c].map(|(name, known)| Node::new(&vhost, name, 0, known));
    let nodes = until_heard(started).await;
    let begun = Instant::now();
    let report = nodes[1].run(forget("alice")).await;
    assert!(
        begun.elapsed() < Duration::from_millis(900),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(report.nodes.len(), 3, "{report:?}");
    assert!(report.silent.is_empty(), "{report:?}");

    // One that presence knows, and that does not answer, is waited for, and named.
    let fourth = redis_presence(&redis.url(), LONG, settings("d", LONG, None));
    eventually(DEADLINE, "presence knows it", async || known().await == 4).await;
    let begun = Instant::now();
    let report = nodes[1].run(forget("alice")).await;
    assert!(
        begun.elapsed() >= Duration::from_secs(1),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(report.nodes.len(), 3, "{report:?}");
    assert_eq!(report.silent, [Box::from("d")] as [Box<str>; 1]);

    // It may have the session.
    let kick = Command::Kick {
        target: Target::Session("s".into()),
        reason: "".into(),
    };
    let report = nodes[1].run(kick).await;
    assert_eq!((report.hits(), report.nodes.len()), (0, 3), "{report:?}");
    assert_eq!(report.silent, [Box::from("d")] as [Box<str>; 1]);
    fourth.close().await;
}
