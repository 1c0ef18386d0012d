//! Against a broker that answers when it is told to, in virtual time.

mod fake;
mod model;
mod rousing;
mod unheard;
mod unused;
mod verifying;

use std::{
    task::{Context, Poll, Waker},
    time::Duration,
};

use stomp_session::Problem;
use tokio::{task::JoinHandle, time::sleep};

use self::fake::{Call, Fake, FakeBroker};
use super::*;
use crate::broker::{Binding, Message, Properties};

const LINGER: Duration = Duration::from_secs(10);
const A_MOMENT: Duration = Duration::from_millis(1);

/// A hub, and the broker that it is made believe to have.
struct Scene {
    fake: Arc<Fake>,
    hub: Arc<Hub>,
}

fn config() -> FeedConfig {
    FeedConfig {
        shards: 4,
        linger: LINGER,
        verify_interval: Duration::ZERO,
        ..FeedConfig::default()
    }
}

fn scene() -> Scene {
    scene_with(&config())
}

fn scene_with(config: &FeedConfig) -> Scene {
    let (fake, vhosts) = vhosts_with(config);
    let hub = vhosts.vhost("/").unwrap();
    Scene { fake, hub }
}

fn vhosts_with(config: &FeedConfig) -> (Arc<Fake>, Vhosts) {
    let fake = Fake::new(&[
        ("direct", ExchangeKind::Direct),
        ("topic", ExchangeKind::Topic),
        ("fanout", ExchangeKind::Fanout),
        ("headers", ExchangeKind::Other),
    ]);
    let vhosts = Vhosts::new(
        Arc::new(FakeBroker(Arc::clone(&fake))),
        &crate::broker::Config::default(),
        config,
        &JournalConfig::default(),
    );
    (fake, vhosts)
}

/// A client that subscribes once.
#[derive(Clone)]
struct Client(Arc<Mailbox>);

type Subscribing = JoinHandle<Result<Option<SharedSubscription>, BrokerError>>;

impl Client {
    fn new() -> Self {
        Self(Mailbox::new(MailboxConfig::default()))
    }

    fn take(&self) -> Option<Item> {
        match self.0.poll_take(&Context::from_waker(Waker::noop())) {
            Poll::Ready(item) => Some(item),
            Poll::Pending => None,
        }
    }

    /// The bodies that came.
    fn bodies(&self) -> Vec<String> {
        let items = std::iter::from_fn(|| self.take());
        let bodies = items.map(|item| match item {
            Item::Parcel(parcel) => String::from_utf8_lossy(&parcel.message.body).into_owned(),
            other => format!("{other:?}"),
        });
        bodies.collect()
    }

    fn was_interrupted(&self) -> bool {
        matches!(
            self.take(),
            Some(Item::Problem(Problem::FeedInterrupted(_)))
        )
    }
}

impl Scene {
    fn subscribing(&self, exchange: &'static str, pattern: &str, client: &Client) -> Subscribing {
        let (hub, client, pattern) = (Arc::clone(&self.hub), client.clone(), pattern.to_owned());
        tokio::spawn(async move {
            hub.subscribe(exchange, &pattern, &client.0, SubscriptionId(1))
                .await
        })
    }

    async fn subscribed(&self, exchange: &'static str, pattern: &str) -> SharedSubscription {
        let subscribing = self.subscribing(exchange, pattern, &Client::new());
        subscribing.await.unwrap().unwrap().unwrap()
    }

    /// All patterns that would be bound anew.
    fn patterns(&self) -> Vec<String> {
        let feeds: Vec<_> = self.hub.feeds.open.read().keys().cloned().collect();
        let sink = self.fake.sink();
        let mut patterns: Vec<_> = feeds
            .iter()
            .flat_map(|feed| sink.patterns(feed))
            .map(|pattern| pattern.to_string())
            .collect();
        patterns.sort_unstable();
        patterns
    }
}

/// Time enough for every task to get as far as it can.
async fn settle() {
    sleep(A_MOMENT).await;
}

/// The broker's virtual host has what it pours into, and the feeds have the virtual host.
#[tokio::test(start_paused = true)]
async fn a_hub_that_is_gone_leaves_nothing_behind() {
    let scene = scene();
    let stays = scene.subscribed("direct", "stays").await;
    drop(scene.subscribed("direct", "lingers").await);
    let Scene { fake, hub } = scene;
    drop((stays, hub));
    settle().await;
    assert_eq!(Arc::strong_count(&fake), 1, "besides the test's");
}

fn unavailable() -> BrokerError {
    BrokerError::Unavailable("away".into())
}

#[tokio::test(start_paused = true)]
async fn the_first_subscriber_binds_and_the_others_wait_for_it() {
    let scene = scene();
    scene.fake.hold();
    let first = scene.subscribing("direct", "user_1", &Client::new());
    let second = scene.subscribing("direct", "user_1", &Client::new());
    settle().await;
    assert_eq!(scene.fake.binds(), 1);
    assert!(!first.is_finished() && !second.is_finished());
    scene.fake.answer(Ok(()));
    let _first = first.await.unwrap().unwrap().unwrap();
    let _second = second.await.unwrap().unwrap().unwrap();
    // Later subscribers ask for it again; one call for all of them.
    let third = scene.subscribing("direct", "user_1", &Client::new());
    let fourth = scene.subscribing("direct", "user_1", &Client::new());
    settle().await;
    assert!(!third.is_finished() && !fourth.is_finished());
    assert_eq!(scene.fake.binds(), 1);
    scene.fake.answer(Ok(()));
    let _third = third.await.unwrap().unwrap().unwrap();
    let _fourth = fourth.await.unwrap().unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_exchange_s_type_is_asked_once() {
    let scene = scene();
    let _first = scene.subscribed("topic", "a").await;
    let _second = scene.subscribed("topic", "b").await;
    let calls = scene.fake.calls();
    let kinds = calls.iter().filter(|call| matches!(call, Call::Kind(_)));
    assert_eq!(kinds.count(), 1);
    // A missing exchange may appear later.
    for _ in 0..2 {
        let missing = scene.subscribing("nowhere", "a", &Client::new());
        let error = missing.await.unwrap().unwrap_err();
        assert!(matches!(error, BrokerError::NotFound(_)));
        assert_eq!(scene.fake.calls(), [Call::Kind("nowhere".to_owned())]);
    }
}

#[tokio::test(start_paused = true)]
async fn other_types_are_not_served() {
    let scene = scene();
    let subscribing = scene.subscribing("headers", "a", &Client::new());
    assert!(subscribing.await.unwrap().unwrap().is_none());
    assert_eq!(scene.fake.binds(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_failed_binding_fails_all_who_wait_and_the_next_asks_again() {
    let scene = scene();
    scene.fake.hold();
    let clients = [Client::new(), Client::new(), Client::new()];
    let waiting = clients
        .each_ref()
        .map(|client| scene.subscribing("topic", "a.*", client));
    settle().await;
    scene.fake.answer(Err(BrokerError::NotFound("gone".into())));
    for subscribing in waiting {
        let error = subscribing.await.unwrap().unwrap_err();
        assert_eq!(error, BrokerError::NotFound("gone".into()));
    }
    assert_eq!(scene.patterns(), [""; 0]);
    // Nobody remains in the table.
    scene.fake.release();
    let feeds: Vec<_> = scene.hub.feeds.open.read().keys().cloned().collect();
    for feed in &feeds {
        let message = Message::new(
            "topic".into(),
            "a.b".into(),
            Properties::default(),
            bytes::Bytes::new(),
        );
        scene.fake.sink().deliver(feed, message);
    }
    assert!(clients.iter().all(|client| client.take().is_none()));
    scene.fake.calls();
    let _next = scene.subscribed("topic", "a.*").await;
    assert_eq!(scene.fake.binds(), 1);
    sleep(LINGER * 3).await;
    assert_eq!(scene.fake.bound(), ["a.*"]);
}

/// The broker may have bound it, though nobody heard so.
#[tokio::test(start_paused = true)]
async fn a_binding_in_doubt_is_taken_away() {
    let scene = scene();
    scene.fake.hold();
    scene.fake.set_early(true);
    let subscribing = scene.subscribing("topic", "a", &Client::new());
    settle().await;
    assert_eq!(scene.fake.bound(), ["a"]);
    scene.fake.answer(Err(unavailable()));
    assert_eq!(subscribing.await.unwrap().unwrap_err(), unavailable());
    scene.fake.release();
    sleep(LINGER * 2).await;
    assert_eq!(scene.fake.bound(), [""; 0]);
}

/// It is not relied upon either.
#[tokio::test(start_paused = true)]
async fn a_binding_in_doubt_is_bound_again() {
    let scene = scene();
    scene.fake.refuse(Some(unavailable()));
    let refused = scene.subscribing("topic", "a", &Client::new());
    assert_eq!(refused.await.unwrap().unwrap_err(), unavailable());
    scene.fake.refuse(None);
    let _guard = scene.subscribed("topic", "a").await;
    assert_eq!(scene.fake.bound(), ["a"]);
    sleep(LINGER * 3).await;
    assert_eq!(scene.fake.bound(), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_while_binding_leaves_nothing() {
    let scene = scene();
    scene.fake.hold();
    let subscribing = scene.subscribing("direct", "user_1", &Client::new());
    settle().await;
    subscribing.abort();
    settle().await;
    // The broker is asked to the end, and what it did lingers.
    assert_eq!(scene.fake.waiting(), 1);
    scene.fake.answer(Ok(()));
    settle().await;
    assert_eq!(scene.fake.bound(), ["user_1"]);
    assert_eq!(scene.patterns(), ["user_1"]);
    scene.fake.release();
    scene.fake.calls();
    drop(scene.subscribed("direct", "user_1").await);
    assert_eq!(scene.fake.binds(), 1);
    sleep(LINGER + A_MOMENT * 2).await;
    assert_eq!(scene.fake.bound(), [""; 0]);
    assert_eq!(scene.patterns(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn one_who_leaves_while_binding_takes_nobody_along() {
    let scene = scene();
    scene.fake.hold();
    let first = scene.subscribing("direct", "user_1", &Client::new());
    let client = Client::new();
    let second = scene.subscribing("direct", "user_1", &client);
    settle().await;
    first.abort();
    settle().await;
    scene.fake.answer(Ok(()));
    let _guard = second.await.unwrap().unwrap().unwrap();
    sleep(LINGER * 2).await;
    scene.fake.publish("direct", &["user_1"], "hello");
    assert_eq!(client.bodies(), ["hello"]);
}

#[tokio::test(start_paused = true)]
async fn a_page_that_reloads_costs_the_broker_a_look() {
    let scene = scene();
    let guard = scene.subscribed("direct", "user_1").await;
    scene.fake.calls();
    drop(guard);
    sleep(LINGER - A_MOMENT).await;
    assert_eq!(scene.fake.calls(), []);
    let guard = scene.subscribed("direct", "user_1").await;
    // The time that was begun is over, and means nothing.
    sleep(LINGER * 2).await;
    let calls = scene.fake.calls();
    assert!(matches!(&calls[..], [Call::Bind(_, pattern)] if pattern == "user_1"));
    drop(guard);
    sleep(LINGER - A_MOMENT).await;
    assert_eq!(scene.fake.calls(), []);
    sleep(A_MOMENT * 2).await;
    let calls = scene.fake.calls();
    assert!(matches!(&calls[..], [Call::Unbind(_, pattern)] if pattern == "user_1"));
}

#[tokio::test(start_paused = true)]
async fn a_binding_stays_for_the_last_of_many() {
    let scene = scene();
    let (first, second) = (
        scene.subscribed("direct", "user_1").await,
        scene.subscribed("direct", "user_1").await,
    );
    drop(first);
    sleep(LINGER * 2).await;
    assert_eq!(scene.fake.bound(), ["user_1"]);
    drop(second);
    sleep(LINGER * 2).await;
    assert_eq!(scene.fake.bound(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_subscription_during_an_unbinding_waits_until_it_is_bound_again() {
    let scene = scene();
    drop(scene.subscribed("direct", "user_1").await);
    scene.fake.hold();
    sleep(LINGER + A_MOMENT).await;
    assert_eq!(scene.fake.waiting(), 1);
    let client = Client::new();
    let subscribing = scene.subscribing("direct", "user_1", &client);
    let other = scene.subscribing("direct", "user_1", &Client::new());
    settle().await;
    assert!(!subscribing.is_finished());
    scene.fake.answer(Ok(()));
    settle().await;
    assert!(!subscribing.is_finished(), "unbound only");
    assert_eq!(scene.fake.waiting(), 1);
    scene.fake.answer(Ok(()));
    let _guards = (subscribing.await.unwrap(), other.await.unwrap());
    assert_eq!(scene.fake.bound(), ["user_1"]);
    scene.fake.publish("direct", &["user_1"], "hello");
    assert_eq!(client.bodies(), ["hello"]);
}

/// They came while it was unbound, left before it was bound again.
#[tokio::test(start_paused = true)]
async fn a_subscription_that_goes_during_an_unbinding_leaves_nothing() {
    let scene = scene();
    drop(scene.subscribed("direct", "user_1").await);
    scene.fake.hold();
    sleep(LINGER + A_MOMENT).await;
    let subscribing = scene.subscribing("direct", "user_1", &Client::new());
    settle().await;
    scene.fake.answer(Ok(()));
    settle().await;
    subscribing.abort();
    settle().await;
    scene.fake.release();
    scene.fake.answer(Ok(()));
    sleep(LINGER * 2).await;
    assert_eq!(scene.fake.bound(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn an_unbinding_that_fails_is_tried_again() {
    let scene = scene();
    drop(scene.subscribed("direct", "user_1").await);
    scene.fake.hold();
    sleep(LINGER + A_MOMENT).await;
    scene.fake.answer(Err(unavailable()));
    settle().await;
    assert_eq!(scene.fake.bound(), ["user_1"]);
    // Not for a re-bind: nobody needs it.
    assert_eq!(scene.patterns(), [""; 0]);
    scene.fake.release();
    sleep(LINGER * 2).await;
    assert_eq!(scene.fake.bound(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn without_a_linger_it_is_unbound_at_once() {
    let scene = scene_with(&FeedConfig {
        linger: Duration::ZERO,
        ..config()
    });
    drop(scene.subscribed("direct", "user_1").await);
    settle().await;
    assert_eq!(scene.fake.bound(), [""; 0]);
    // An unbinding that fails does not turn into a storm.
    drop(scene.subscribed("direct", "user_1").await);
    scene.fake.hold();
    settle().await;
    scene.fake.calls();
    scene.fake.answer(Err(unavailable()));
    sleep(Duration::from_millis(900)).await;
    assert_eq!(scene.fake.calls(), []);
}

#[tokio::test(start_paused = true)]
async fn a_fanout_exchange_has_one_binding() {
    let scene = scene();
    let clients = [Client::new(), Client::new()];
    let mut guards = Vec::new();
    for (client, pattern) in clients.iter().zip(["a", "b"]) {
        let subscribing = scene.subscribing("fanout", pattern, client);
        guards.push(subscribing.await.unwrap().unwrap().unwrap());
    }
    assert_eq!(scene.fake.bound(), [""]);
    scene.fake.publish("fanout", &["whatever"], "hello");
    for client in &clients {
        assert_eq!(client.bodies(), ["hello"]);
    }
    guards.pop();
    sleep(LINGER * 2).await;
    assert_eq!(scene.fake.bound().len(), 1);
    guards.pop();
    sleep(LINGER * 2).await;
    assert_eq!(scene.fake.bound(), [""; 0]);
}

fn everything() -> FeedConfig {
    FeedConfig {
        binding: Binding::All,
        shards: 0,
        ..config()
    }
}

#[tokio::test(start_paused = true)]
async fn everything_is_bound_once_and_for_good() {
    let scene = scene_with(&everything());
    scene.fake.hold();
    let client = Client::new();
    let first = scene.subscribing("topic", "user.1", &client);
    let second = scene.subscribing("topic", "user.2", &Client::new());
    settle().await;
    assert_eq!(scene.fake.binds(), 1);
    assert!(!first.is_finished() && !second.is_finished());
    scene.fake.answer(Ok(()));
    let guards = (
        first.await.unwrap().unwrap().unwrap(),
        second.await.unwrap().unwrap().unwrap(),
    );
    assert_eq!(scene.fake.bound(), ["#"]);
    scene.fake.publish("topic", &["user.1"], "one");
    scene.fake.publish("topic", &["user.2"], "two");
    scene.fake.publish("topic", &["user.3"], "three");
    assert_eq!(client.bodies(), ["one"]);
    drop(guards);
    sleep(LINGER * 2).await;
    assert_eq!(scene.fake.bound(), ["#"]);
    assert_eq!(scene.patterns(), ["#"]);
    scene.fake.calls();
    scene.fake.release();
    let _again = scene.subscribed("topic", "user.3").await;
    let calls = scene.fake.calls();
    assert!(matches!(&calls[..], [.., Call::Bind(_, pattern)] if pattern == "#"));
    // A direct exchange has no pattern for everything.
    let _direct = scene.subscribed("direct", "user_1").await;
    assert_eq!(scene.fake.bound(), ["user_1", "#"]);
}

/// A direct exchange that is read whole: the broker is asked for no key, unless others bind keys.
#[tokio::test(start_paused = true)]
async fn a_direct_exchange_that_is_read_whole_is_bound_once() {
    for (bridge, bound) in [(false, &["#"][..]), (true, &["user_1", "user_2"])] {
        let scene = scene_with(&FeedConfig {
            whole: vec!["direct".to_owned()],
            bridge,
            ..everything()
        });
        let client = Client::new();
        let subscribing = scene.subscribing("direct", "user_1", &client);
        let _one = subscribing.await.unwrap().unwrap().unwrap();
        let _two = scene.subscribed("direct", "user_2").await;
        assert_eq!(scene.fake.bound(), bound, "{bridge}");
        // It brings everything; the feed finds out whom it is for.
        let id = FeedId {
            exchange: "direct".into(),
            shard: 0,
        };
        for key in ["user_2", "user_1", "#"] {
            let (exchange, body) = ("direct".into(), bytes::Bytes::from(key));
            let message = Message::new(exchange, key.into(), Properties::default(), body);
            scene.fake.sink().deliver(&id, message);
        }
        assert_eq!(client.bodies(), ["user_1"], "{bridge}");
    }
}

#[tokio::test(start_paused = true)]
async fn everything_that_cannot_be_bound_is_asked_for_again() {
    let scene = scene_with(&everything());
    scene.fake.refuse(Some(unavailable()));
    let refused = scene.subscribing("topic", "user.1", &Client::new());
    assert_eq!(refused.await.unwrap().unwrap_err(), unavailable());
    scene.fake.refuse(None);
    let _guard = scene.subscribed("topic", "user.1").await;
    assert_eq!(scene.fake.bound(), ["#"]);
}

/// With many shards, overlapping patterns of one client's subscriptions are in different ones.
#[tokio::test(start_paused = true)]
async fn each_subscription_gets_a_message_once() {
    let scene = scene();
    let patterns = ["user.1", "user.*", "user.#", "*.1", "#", "user.2", "a.b"];
    let mut clients = Vec::new();
    for pattern in patterns {
        // Two subscriptions of one pattern, and of one client.
        let client = Client::new();
        for number in [1, 2] {
            let subscribed =
                scene
                    .hub
                    .subscribe("topic", pattern, &client.0, SubscriptionId(number));
            let guard = subscribed.await.unwrap().unwrap();
            clients.push((pattern, number, client.clone(), guard));
        }
    }
    let shards = scene.hub.feeds.open.read().len();
    assert!(shards > 1, "{shards}");
    let got = |client: &Client| client.bodies().len();
    scene.fake.publish("topic", &["user.1"], "x");
    for (pattern, number, client, _) in &clients {
        let expected = match *pattern {
            "user.2" | "a.b" => 0,
            // Taken for both subscriptions of the client.
            _ if *number == 1 => 2,
            _ => 0,
        };
        assert_eq!(got(client), expected, "{pattern}");
    }
    // By several keys, too.
    scene
        .fake
        .publish("topic", &["user.1", "user.2", "a.b"], "x");
    for (pattern, number, client, _) in &clients {
        assert_eq!(got(client), if *number == 1 { 2 } else { 0 }, "{pattern}");
    }
}

#[tokio::test(start_paused = true)]
async fn bound_clients_are_told_of_an_interruption() {
    let scene = scene_with(&FeedConfig {
        shards: 1,
        ..config()
    });
    let clients = [Client::new(), Client::new(), Client::new(), Client::new()];
    let [bound, binding, other, unbinding] = &clients;
    let _bound = scene.subscribing("topic", "a", bound).await.unwrap();
    let _other = scene.subscribing("direct", "a", other).await.unwrap();
    drop(scene.subscribed("topic", "c").await);
    scene.fake.hold();
    sleep(LINGER + A_MOMENT).await;
    let subscribing = [
        scene.subscribing("topic", "b.*", binding),
        scene.subscribing("topic", "c", unbinding),
    ];
    settle().await;
    let feed = FeedId {
        exchange: "topic".into(),
        shard: 0,
    };
    scene.fake.sink().interrupted(&feed, "lost");
    assert!(bound.was_interrupted());
    // A client without a RECEIPT has missed nothing, nor has one of another exchange.
    for client in [binding, other, unbinding] {
        assert!(client.take().is_none());
    }
    while scene.fake.waiting() > 0 {
        scene.fake.answer(Ok(()));
        settle().await;
    }
    for subscribing in subscribing {
        assert!(subscribing.await.unwrap().unwrap().is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_waits_for_everything_is_not_told_of_an_interruption() {
    let scene = scene_with(&everything());
    scene.fake.hold();
    let client = Client::new();
    let subscribing = scene.subscribing("topic", "user.1", &client);
    settle().await;
    let feed = FeedId {
        exchange: "topic".into(),
        shard: 0,
    };
    scene.fake.sink().interrupted(&feed, "lost");
    assert!(client.take().is_none());
    scene.fake.answer(Ok(()));
    let _guard = subscribing.await.unwrap().unwrap().unwrap();
    scene.fake.sink().interrupted(&feed, "lost");
    assert!(client.was_interrupted());
}

/// The broker lost all bindings: nobody gets a receipt for a lost one.
#[tokio::test(start_paused = true)]
async fn after_a_loss_every_pattern_is_bound_anew() {
    let scene = scene_with(&FeedConfig {
        shards: 1,
        ..config()
    });
    let [bound, binding] = [Client::new(), Client::new()];
    let _bound = scene.subscribing("topic", "bound", &bound).await.unwrap();
    drop(scene.subscribed("topic", "lingering").await);
    scene.fake.hold();
    let subscribing = scene.subscribing("topic", "binding", &binding);
    settle().await;
    let feed = FeedId {
        exchange: "topic".into(),
        shard: 0,
    };
    scene.fake.sink().lost(&feed, "lost");
    assert!(bound.was_interrupted());
    assert_eq!(scene.patterns(), ["binding"]);
    // It may have been bound before the loss, and heard of after it.
    scene.fake.calls();
    scene.fake.answer(Ok(()));
    settle().await;
    assert!(!subscribing.is_finished() && binding.take().is_none());
    assert_eq!(scene.fake.binds(), 1);
    scene.fake.answer(Ok(()));
    let _binding = subscribing.await.unwrap().unwrap().unwrap();
    scene.fake.release();
    let _again = scene.subscribed("topic", "bound").await;
    let _lingering = scene.subscribed("topic", "lingering").await;
    assert_eq!(scene.fake.binds(), 2);
}

/// Everything that somebody relies on, or will, is set up anew.
#[tokio::test(start_paused = true)]
async fn the_patterns_to_bind_again_are_complete() {
    let scene = scene();
    let _bound = scene.subscribed("topic", "bound").await;
    drop(scene.subscribed("topic", "lingering").await);
    drop(scene.subscribed("topic", "unbinding").await);
    let again = scene.subscribed("topic", "unbinding.again").await;
    sleep(Duration::from_secs(5)).await;
    drop(scene.subscribed("topic", "lingering").await);
    drop(again);
    sleep(Duration::from_secs(5) - A_MOMENT).await;
    scene.fake.hold();
    scene.fake.set_early(true);
    sleep(A_MOMENT * 2).await;
    let _binding = scene.subscribing("topic", "binding.*", &Client::new());
    let left = scene.subscribing("topic", "left", &Client::new());
    settle().await;
    left.abort();
    settle().await;
    let patterns = ["binding.*", "bound", "left", "lingering", "unbinding.again"];
    assert_eq!(scene.patterns(), patterns);
    sleep(Duration::from_secs(5)).await;
    // Being unbound, and wanted again: that is seen to when it is unbound.
    let wanted = scene.subscribing("topic", "unbinding.again", &Client::new());
    settle().await;
    assert_eq!(scene.patterns(), ["binding.*", "bound", "left"]);
    // A binding from before the restart whose answer came after it is there.
    scene.fake.restart();
    while scene.fake.waiting() > 0 {
        scene.fake.answer(Ok(()));
        settle().await;
    }
    let _wanted = wanted.await.unwrap().unwrap().unwrap();
    assert!(scene.fake.is_bound("topic", "unbinding.again"));
    scene.fake.release();
    let _left = scene.subscribed("topic", "left").await;
    assert!(scene.fake.is_bound("topic", "left"));
}

#[tokio::test(start_paused = true)]
async fn unknown_feeds_are_no_matter() {
    let scene = scene();
    let feed = FeedId {
        exchange: "unknown".into(),
        shard: 9,
    };
    let sink = scene.fake.sink();
    assert!(sink.patterns(&feed).is_empty());
    sink.interrupted(&feed, "lost");
}

/// Many at once, each with its own key, while the broker is slow: one call each, nobody lost.
#[tokio::test(start_paused = true)]
async fn many_come_and_go_at_once() {
    let scene = scene();
    scene.fake.hold();
    let clients: Vec<_> = (0..500).map(|_| Client::new()).collect();
    let subscribing: Vec<_> = clients
        .iter()
        .enumerate()
        .map(|(number, client)| scene.subscribing("direct", &format!("user_{number}"), client))
        .collect();
    settle().await;
    assert_eq!(scene.fake.binds(), 500);
    while scene.fake.waiting() > 0 {
        scene.fake.answer(Ok(()));
    }
    let mut guards = Vec::new();
    for subscribing in subscribing {
        guards.push(subscribing.await.unwrap().unwrap().unwrap());
    }
    drop(guards);
    sleep(LINGER * 2).await;
    // As many at a time as the broker can use, and not more.
    assert!((1..500).contains(&scene.fake.waiting()));
    scene.fake.release();
    while scene.fake.waiting() > 0 {
        scene.fake.answer(Ok(()));
        settle().await;
    }
    assert_eq!(scene.fake.bound(), [""; 0]);
}
