//! Virtual hosts that come and go, in virtual time, at a broker that says what the test says.

use futures_util::{
    FutureExt as _,
    future::{BoxFuture, pending},
};
use tokio::time::{advance, sleep};

use super::*;
use crate::{
    broker::{
        Confirm, Consume, Consumer, DeliverySink, ExchangeKind, FeedId, FeedSink, Publish,
        QueueSpec, VirtualHost,
    },
    hub::{Item, Mailbox, MailboxConfig},
    recent::BELIEF,
};

/// The virtual hosts that were opened, in order, with their fates.
#[derive(Default)]
struct Log(Mutex<Vec<Arc<Host>>>);

struct Host {
    name: String,
    /// `None`: no answer comes.
    health: Mutex<Option<Result<(), BrokerError>>>,
    is_closed: Mutex<bool>,
}

struct Scene {
    log: Arc<Log>,
    /// The answer of later virtual hosts.
    answers: Arc<Mutex<Option<Result<(), BrokerError>>>>,
    vhosts: Vhosts,
}

struct FakeBroker(Arc<Log>, Arc<Mutex<Option<Result<(), BrokerError>>>>);

impl Broker for FakeBroker {
    fn open(&self, vhost: &str, _: Arc<dyn FeedSink>) -> Arc<dyn VirtualHost> {
        let host = Arc::new(Host {
            name: vhost.to_owned(),
            health: Mutex::new(self.1.lock().clone()),
            is_closed: Mutex::new(false),
        });
        self.0.0.lock().push(Arc::clone(&host));
        host
    }
}

fn refusal() -> BrokerError {
    BrokerError::VhostRefused("vhost not found".into())
}

impl VirtualHost for Host {
    fn health(&self) -> Result<(), BrokerError> {
        let health = self.health.lock().clone();
        health.unwrap_or_else(|| Err(BrokerError::Unavailable("not connected yet".into())))
    }

    fn opened(&self) -> BoxFuture<'_, Result<(), BrokerError>> {
        match self.health.lock().clone() {
            Some(answer) => std::future::ready(answer).boxed(),
            None => pending().boxed(),
        }
    }

    fn exchange_kind<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<ExchangeKind, BrokerError>> {
        pending().boxed()
    }

    fn bind_feed<'a>(
        &'a self,
        _: &'a FeedId,
        _: &'a str,
    ) -> BoxFuture<'a, Result<(), BrokerError>> {
        pending().boxed()
    }

    fn unbind_feed<'a>(
        &'a self,
        _: &'a FeedId,
        _: &'a str,
    ) -> BoxFuture<'a, Result<(), BrokerError>> {
        pending().boxed()
    }

    fn end_feed(&self, _: &FeedId) {}

    fn consume(
        &self,
        _: Consume,
        _: Arc<dyn DeliverySink>,
    ) -> BoxFuture<'_, Result<Arc<dyn Consumer>, BrokerError>> {
        pending().boxed()
    }

    fn declare_queue<'a>(&'a self, _: &'a QueueSpec) -> BoxFuture<'a, Result<(), BrokerError>> {
        pending().boxed()
    }

    fn delete_queue<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<(), BrokerError>> {
        pending().boxed()
    }

    fn publish(&self, _: Publish) -> BoxFuture<'_, Result<Confirm, BrokerError>> {
        pending().boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        *self.is_closed.lock() = true;
        std::future::ready(()).boxed()
    }
}

const IDLE: Duration = Duration::from_secs(60);

fn scene(vhosts: &[&str], max: usize) -> Scene {
    let config = broker::Config {
        vhosts: vhosts.iter().map(ToString::to_string).collect(),
        max_vhosts: max,
        vhost_idle: IDLE,
        ..broker::Config::default()
    };
    let log = Arc::<Log>::default();
    let answers = Arc::new(Mutex::new(Some(Ok(()))));
    let broker = FakeBroker(Arc::clone(&log), Arc::clone(&answers));
    let (feed, journal) = (FeedConfig::default(), JournalConfig::default());
    let vhosts = Vhosts::new(Arc::new(broker), &config, &feed, &journal);
    Scene {
        log,
        answers,
        vhosts,
    }
}

impl Scene {
    /// The virtual hosts that were opened; a `-` follows those that were closed.
    fn hosts(&self) -> Vec<String> {
        let hosts = self.log.0.lock();
        let shown = hosts.iter().map(|host| {
            let mark = if *host.is_closed.lock() { "-" } else { "" };
            format!("{}{mark}", host.name)
        });
        shown.collect()
    }

    async fn enter(&self, name: &str) -> Arc<Hub> {
        self.vhosts.enter(name).await.unwrap()
    }

    async fn refused(&self, name: &str) -> EnterError {
        match self.vhosts.enter(name).await {
            Ok(_) => panic!("{name} is open"),
            Err(error) => error,
        }
    }

    /// The broker says no to the host that was opened as the last one but so many.
    fn delete(&self, from_last: usize) {
        let hosts = self.log.0.lock();
        let host = &hosts[hosts.len() - 1 - from_last];
        *host.health.lock() = Some(Err(refusal()));
    }
}

/// A client's mailbox.
fn mailbox() -> Arc<Mailbox> {
    Mailbox::new(MailboxConfig::default())
}

fn is_told(mailbox: &Mailbox) -> bool {
    let context = std::task::Context::from_waker(std::task::Waker::noop());
    match mailbox.poll_take(&context) {
        std::task::Poll::Ready(Item::Problem(problem)) => {
            assert!(problem.to_string().contains("is gone"), "{problem}");
            true
        }
        _ => false,
    }
}

#[tokio::test(start_paused = true)]
async fn a_virtual_host_is_open_while_it_is_used_and_a_while_longer() {
    let scene = scene(&["/", "a", "b"], 100);
    assert_eq!(scene.hosts(), ["/"]);
    let (first, second) = (scene.enter("a").await, scene.enter("a").await);
    assert_eq!(scene.hosts(), ["/", "a"]);
    assert!(Arc::ptr_eq(&first, &second));
    drop(first);
    sleep(3 * IDLE).await;
    assert_eq!(scene.hosts(), ["/", "a"]);
    drop(second);
    sleep(IDLE / 2).await;
    // A client that comes meanwhile starts its time again.
    drop(scene.enter("a").await);
    sleep(IDLE - 2 * TICK).await;
    assert_eq!(scene.hosts(), ["/", "a"]);
    sleep(4 * TICK).await;
    assert_eq!(scene.hosts(), ["/", "a-"]);
    assert!(scene.vhosts.vhost("a").is_none());
    let _again = scene.enter("a").await;
    assert_eq!(scene.hosts(), ["/", "a-", "a"]);
}

#[tokio::test(start_paused = true)]
async fn only_listed_virtual_hosts_are_opened_or_all() {
    let some = scene(&["/", "a"], 100);
    assert!(some.vhosts.allows("a") && !some.vhosts.allows("b"));
    assert!(matches!(some.refused("b").await, EnterError::Refused(_)));
    assert_eq!(some.hosts(), ["/"]);
    let all = scene(&["*"], 100);
    let _b = all.enter("b").await;
    assert_eq!(all.hosts(), ["/", "b"]);
    let long = "v".repeat(256);
    assert!(!all.vhosts.allows(&long) && all.vhosts.allows(&long[1..]));
}

#[tokio::test(start_paused = true)]
async fn a_broker_s_refusal_is_remembered_for_a_while() {
    let scene = scene(&["*"], 100);
    *scene.answers.lock() = Some(Err(refusal()));
    let refused = EnterError::Refused("vhost not found".into());
    assert_eq!(scene.refused("a").await, refused);
    tokio::task::yield_now().await;
    assert_eq!(scene.hosts(), ["/", "a-"]);
    assert_eq!(scene.refused("a").await, refused);
    assert_eq!(scene.hosts(), ["/", "a-"]);
    assert_eq!(scene.vhosts.health(), Ok(()));
    *scene.answers.lock() = Some(Ok(()));
    advance(BELIEF).await;
    let _open = scene.enter("a").await;
    assert_eq!(scene.hosts(), ["/", "a-", "a"]);
}

#[tokio::test(start_paused = true)]
async fn clients_of_a_virtual_host_that_goes_are_told() {
    let scene = scene(&["*"], 100);
    let hub = scene.enter("a").await;
    let (here, left, late, elsewhere) = (mailbox(), mailbox(), mailbox(), mailbox());
    hub.join(&here);
    hub.join(&left);
    hub.leave(&left);
    scene.enter("/").await.join(&elsewhere);
    scene.delete(0);
    sleep(2 * TICK).await;
    assert!(is_told(&here) && !is_told(&left) && !is_told(&elsewhere));
    // One whose login was under way.
    hub.join(&late);
    assert!(is_told(&late));
    assert_eq!(scene.hosts(), ["/", "a-"]);
    assert!(matches!(scene.refused("a").await, EnterError::Refused(_)));
}

/// Its own links try again, for there is no readiness without it.
#[tokio::test(start_paused = true)]
async fn the_default_virtual_host_is_told_of_and_kept() {
    let scene = scene(&["*"], 100);
    let here = mailbox();
    let hub = scene.enter("/").await;
    hub.join(&here);
    scene.delete(0);
    sleep(2 * TICK).await;
    assert!(is_told(&here));
    assert_eq!(
        scene.refused("/").await,
        EnterError::Refused("vhost not found".into())
    );
    assert_eq!(scene.vhosts.health(), Err(refusal()));
    sleep(3 * IDLE).await;
    assert_eq!(scene.hosts(), ["/"]);
    *scene.log.0.lock()[0].health.lock() = Some(Ok(()));
    let again = mailbox();
    scene.enter("/").await.join(&again);
    sleep(2 * TICK).await;
    assert!(!is_told(&again));
}

#[tokio::test(start_paused = true)]
async fn no_more_are_open_than_may_be() {
    let scene = scene(&["*"], 3);
    let a = scene.enter("a").await;
    let _b = scene.enter("b").await;
    assert!(matches!(
        scene.refused("c").await,
        EnterError::Unavailable(_)
    ));
    // One that nobody uses makes room, before its time.
    drop(a);
    sleep(2 * TICK).await;
    let _c = scene.enter("c").await;
    tokio::task::yield_now().await;
    assert_eq!(scene.hosts(), ["/", "a-", "b", "c"]);
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_does_not_answer_lets_clients_in() {
    let scene = scene(&["*"], 100);
    *scene.answers.lock() = None;
    let begun = Instant::now();
    let _a = scene.enter("a").await;
    assert_eq!(begun.elapsed(), OPENING);
    *scene.answers.lock() = Some(Err(BrokerError::Unavailable("down".into())));
    let _b = scene.enter("b").await;
    assert_eq!(begun.elapsed(), OPENING);
}

/// Otherwise any client could have this node taken out of service.
#[tokio::test(start_paused = true)]
async fn readiness_is_not_for_clients_to_say() {
    let scene = scene(&["*"], 100);
    let unavailable = || Err(BrokerError::Unavailable("down".into()));
    *scene.answers.lock() = None;
    let _being_opened = scene.enter("a").await;
    *scene.answers.lock() = Some(unavailable());
    let _never_up = scene.enter("b").await;
    assert_eq!(scene.vhosts.health(), Ok(()));
    // A virtual host that worked before is the broker's trouble; unless it was deleted.
    *scene.answers.lock() = Some(Ok(()));
    let _was_up = scene.enter("c").await;
    sleep(2 * TICK).await;
    *scene.log.0.lock()[3].health.lock() = Some(unavailable());
    assert_eq!(scene.vhosts.health(), unavailable());
    scene.delete(0);
    assert_eq!(scene.vhosts.health(), Ok(()));
    *scene.log.0.lock()[0].health.lock() = None;
    assert!(scene.vhosts.health().is_err());
}

#[tokio::test(start_paused = true)]
async fn all_are_closed_at_the_end() {
    let scene = scene(&["*"], 100);
    let _a = scene.enter("a").await;
    scene.vhosts.close().await;
    assert_eq!(scene.hosts(), ["/-", "a-"]);
    assert!(matches!(
        scene.refused("b").await,
        EnterError::Unavailable(_)
    ));
}
