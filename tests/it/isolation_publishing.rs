//! Attacks of one publisher on others: each in small, with honest clients beside it.

use std::{collections::HashMap, ops::RangeInclusive, sync::Arc, time::Duration};

use futures_util::future::join_all;
use lapin::{
    ExchangeKind,
    options::{ExchangeDeclareOptions, ExchangeDeleteOptions},
    types::FieldTable,
};
use stentor::broker::{
    Broker as _, BrokerError, Config, DIRECT_REPLIES, FeedConfig, Publish, Url, VirtualHost,
    amqp::AmqpBroker,
};
use stomp_grammar::{Command, Frame};
use testkit::{DEADLINE, RabbitMq, StompClient, Vhost, eventually, unique};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, timeout},
};

use crate::{
    broker_contract::support::{Feeds, Node, Seen, message, queue, reading, text},
    house::House,
};

/// The longest wait of an honest client during any attack.
const PATIENCE: Duration = Duration::from_secs(1);

async fn open(vhost: &Vhost, user: &str, config: Config) -> Node {
    let address = vhost.node().amqp_address();
    let Url::Amqp(url) = format!("amqp://{user}:guest@{address}").parse().unwrap() else {
        panic!("{address}")
    };
    let broker = AmqpBroker::new(&[url], config, FeedConfig::default(), &unique("test")).unwrap();
    let feeds = Arc::new(Feeds::default());
    let vhost = broker.open(vhost.name(), Arc::<Feeds>::clone(&feeds));
    eventually(DEADLINE, "a link", async || vhost.health().is_ok()).await;
    Node { feeds, vhost }
}

/// One channel for the ordinary messages to an exchange: all senders share it.
fn one_channel() -> Config {
    Config {
        publish_channels: 1,
        ..Config::default()
    }
}

async fn node_of(vhost: &Vhost) -> Node {
    let node = open(vhost, "guest", one_channel()).await;
    node.vhost.declare_queue(&queue("q")).await.unwrap();
    node
}

async fn declare(vhost: &Vhost, exchange: &str, internal: bool) {
    let options = ExchangeDeclareOptions {
        durable: true,
        internal,
        ..Default::default()
    };
    let channel = vhost.channel().await;
    let (kind, none) = (ExchangeKind::Topic, FieldTable::default());
    let declaring = channel.exchange_declare(exchange.into(), kind, options, none);
    declaring.await.unwrap();
}

async fn delete(vhost: &Vhost, exchange: &str) {
    let channel = vhost.channel().await;
    let deleting = channel.exchange_delete(exchange.into(), ExchangeDeleteOptions::default());
    deleting.await.unwrap();
}

/// A message of a sender that sends nothing else.
fn by_another(exchange: &str, key: &str) -> Publish {
    Publish {
        lane: rand::random(),
        ..message(exchange, key, "")
    }
}

/// The outcomes that a sender was told, message by message.
type Told = Vec<(String, Result<(), BrokerError>)>;

/// Senders that have eight messages each under way until they are stopped, by the numbers of their lanes.
struct Senders {
    stop: watch::Sender<bool>,
    tasks: Vec<(u64, JoinHandle<Told>)>,
}

impl Senders {
    /// One for each lane; `make` says by lane and number which messages.
    fn start<M>(node: &Node, lanes: RangeInclusive<u64>, make: M) -> Self
    where
        M: Fn(u64, usize) -> Publish + Clone + Send + 'static,
    {
        let (stop, stopped) = watch::channel(false);
        let started = lanes.map(|lane| {
            let make = make.clone();
            let make = move |number| make(lane, number);
            (lane, send_on(&node.vhost, lane, stopped.clone(), make))
        });
        let tasks = started.collect();
        Self { stop, tasks }
    }

    /// Ordinary ones, to the queue `q`.
    fn honest(node: &Node, lanes: RangeInclusive<u64>) -> Self {
        Self::start(node, lanes, |_, _| message("", "q", ""))
    }

    /// Stops them; returns the outcomes that each was told, in the order of the lanes.
    async fn stop(self) -> Vec<(u64, Told)> {
        self.stop.send_replace(true);
        let mut told = Vec::new();
        for (lane, task) in self.tasks {
            told.push((lane, task.await.unwrap()));
        }
        told
    }

    /// Stops them: nothing failed, and all is as [`hold_to`] demands.
    async fn lost_nothing(self, node: &Node) {
        let told = self.stop().await;
        let arrived = arrived(node).await;
        for (lane, told) in &told {
            assert!(failures(told).is_empty(), "{:?}", failures(told));
            hold_to(told, &arrived[lane]);
        }
    }
}

/// A sender of messages that `make` makes.
fn send_on(
    host: &Arc<dyn VirtualHost>,
    lane: u64,
    stop: watch::Receiver<bool>,
    make: impl Fn(usize) -> Publish + Send + 'static,
) -> JoinHandle<Told> {
    let host = Arc::clone(host);
    tokio::spawn(async move {
        let mut told = Vec::new();
        let mut number = 0;
        while !*stop.borrow() {
            let mut under_way = Vec::new();
            for _ in 0..8 {
                let body = format!("{lane} {number}");
                let publish = Publish {
                    body: body.clone().into(),
                    lane,
                    ..make(number)
                };
                under_way.push((body, host.publish(publish).await));
                number += 1;
            }
            for (body, confirm) in under_way {
                let outcome = match confirm {
                    Ok(confirm) => timeout(DEADLINE, confirm).await.expect("an answer"),
                    Err(error) => Err(error),
                };
                told.push((body, outcome));
            }
        }
        told
    })
}

/// Makes the exchange `passing`, has the senders publish to it, and deletes it; returns the
/// outcomes that each was told.
async fn while_an_exchange_passes(
    vhost: &Vhost,
    node: &Node,
    senders: impl FnOnce() -> Senders,
) -> Vec<(u64, Told)> {
    declare(vhost, "passing", false).await;
    let senders = senders();
    node.try_send(by_another("passing", "k")).await.unwrap();
    delete(vhost, "passing").await;
    eventually(DEADLINE, "it is noticed", async || {
        let gone = node.try_send(by_another("passing", "k")).await;
        matches!(gone, Err(BrokerError::NotFound(_)))
    })
    .await;
    senders.stop().await
}

/// The messages that reached the queue `q`, by sender.
async fn arrived(node: &Node) -> HashMap<u64, Vec<usize>> {
    let end = unique("end");
    node.send("", "q", &end).await;
    let reader = node.consume(reading("q", u16::MAX)).await;
    let bodies = |entries: &[Seen]| {
        let bodies = entries.iter().map(|seen| match seen {
            Seen::Delivery(delivery) => &delivery.message.body,
            Seen::Lost(error) => panic!("{error}"),
        });
        let is_whole = bodies
            .clone()
            .next_back()
            .is_some_and(|body| **body == *end.as_bytes());
        is_whole.then(|| bodies.map(text).collect::<Vec<String>>())
    };
    let mut by_sender = HashMap::<u64, Vec<usize>>::new();
    for body in reader.inbox.0.until(&end, bodies).await {
        if let Some((sender, number)) = body.split_once(' ') {
            let numbers = by_sender.entry(sender.parse().unwrap()).or_default();
            numbers.push(number.parse().unwrap());
        }
    }
    by_sender
}

/// Each confirmed message arrived once, in order. Of the others, no message arrived twice, and none
/// whose sender was told that it was not published.
fn hold_to(told: &Told, arrived: &[usize]) {
    assert!(
        arrived.is_sorted_by(|one, next| one < next),
        "twice, or out of order: {arrived:?}"
    );
    for (number, (body, outcome)) in told.iter().enumerate() {
        let is_there = arrived.binary_search(&number).is_ok();
        match outcome {
            Ok(()) => assert!(is_there, "{body} is confirmed, and lost"),
            Err(error) if error.to_string().contains("was not published") => {
                assert!(!is_there, "{body}: {error}");
            }
            Err(_) => {}
        }
    }
}

fn failures(told: &Told) -> Vec<&(String, Result<(), BrokerError>)> {
    told.iter()
        .filter(|(_, outcome)| outcome.is_err())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_rabbitmq_would_refuse_costs_no_other() {
    let vhost = RabbitMq::shared().await.vhost().await;
    let node = node_of(&vhost).await;
    declare(&vhost, "inner", true).await;
    let honest = Senders::honest(&node, 1..=4);
    let bad = |exchange: &str, reply_to: Option<&str>| {
        let mut publish = by_another(exchange, "q");
        publish.properties.reply_to = reply_to.map(Into::into);
        publish
    };
    for _ in 0..40 {
        let refused = node.try_send(bad("", Some(DIRECT_REPLIES))).await;
        let text = "PRECONDITION_FAILED - fast reply consumer does not exist";
        assert_eq!(refused, Err(BrokerError::PreconditionFailed(text.into())));
        let refused = node.try_send(bad("inner", None)).await.unwrap_err();
        assert!(
            matches!(&refused, BrokerError::AccessRefused(text) if text.contains("internal")),
            "{refused:?}"
        );
        let refused = node.try_send(bad("nope", None)).await.unwrap_err();
        assert!(matches!(refused, BrokerError::NotFound(_)), "{refused:?}");
    }
    // An address that somebody got by the shortcut is one like any.
    let shortcut = format!("{DIRECT_REPLIES}.g1h2AA5yZXBseUA4NzY1NDMyMQ");
    node.try_send(bad("", Some(&shortcut))).await.unwrap();
    honest.lost_nothing(&node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_exchange_is_the_affair_of_those_who_publish_to_it() {
    let vhost = RabbitMq::shared().await.vhost().await;
    let node = node_of(&vhost).await;
    let honest = Senders::honest(&node, 1..=4);
    for _ in 0..5 {
        let make = |_, _| message("passing", "k", "");
        let other = || Senders::start(&node, 11..=14, make);
        for (_, told) in while_an_exchange_passes(&vhost, &node, other).await {
            let failures = failures(&told);
            assert!(!failures.is_empty());
            for (at, (body, outcome)) in failures.iter().enumerate() {
                let is_told = match outcome {
                    Err(BrokerError::NotFound(_)) => true,
                    // A sender's messages end at the first that was refused.
                    Err(error) => at > 0 && error.to_string().contains("one before it was not"),
                    Ok(()) => false,
                };
                assert!(is_told, "{body}: {outcome:?}");
            }
        }
    }
    honest.lost_nothing(&node).await;
}

/// A sender that goes to and fro between exchanges shares a channel with others that do so, and
/// that channel can be closed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_that_goes_to_and_fro_loses_nothing_unsaid() {
    let vhost = RabbitMq::shared().await.vhost().await;
    let node = node_of(&vhost).await;
    let honest = Senders::start(&node, 1..=4, |_, number| match number % 2 {
        0 => message("", "q", ""),
        _ => message("amq.topic", "nobody", ""),
    });
    for _ in 0..5 {
        let make = |_, number| match number % 2 {
            0 => message("", "nobody", ""),
            _ => message("passing", "k", ""),
        };
        let other = || Senders::start(&node, 11..=12, make);
        while_an_exchange_passes(&vhost, &node, other).await;
    }
    let told = honest.stop().await;
    let arrived = arrived(&node).await;
    for (lane, told) in &told {
        // Odd ones go elsewhere.
        let own: Told = told.iter().step_by(2).cloned().collect();
        let arrived: Vec<usize> = arrived[lane].iter().map(|number| number / 2).collect();
        hold_to(&own, &arrived);
        for (body, outcome) in failures(told) {
            assert!(
                matches!(outcome, Err(BrokerError::Unavailable(_))),
                "{body}: {outcome:?}"
            );
        }
    }
}

/// The gateway's account may not publish with every key: one that is refused closes the channel of
/// all that publish to the exchange, once. From then on each new key goes alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_key_costs_others_a_channel_once() {
    let vhost = RabbitMq::shared().await.vhost().await;
    declare(&vhost, "keyed", false).await;
    let (api, user) = (vhost.node().api(), unique("gateway"));
    api.add_user(&user, "guest").await;
    api.allow(vhost.name(), &user, [".*", ".*", ".*"]).await;
    api.allow_topics(vhost.name(), &user, "keyed", ["^good", ".*"])
        .await;
    let node = open(&vhost, &user, one_channel()).await;
    let queue = queue("q");
    node.vhost.declare_queue(&queue).await.unwrap();
    let channel = vhost.channel().await;
    let binding = channel.queue_bind(
        "q".into(),
        "keyed".into(),
        "good.#".into(),
        Default::default(),
        FieldTable::default(),
    );
    binding.await.unwrap();
    for (round, may_fail) in [(0, true), (1, false), (2, false)] {
        let lanes = round * 10 + 1..=round * 10 + 4;
        let make = |lane, _| message("keyed", &format!("good.{lane}"), "");
        let honest = Senders::start(&node, lanes, make);
        for number in 0..10 {
            let mut bad = message("keyed", &format!("bad.{round}.{number}"), "");
            bad.lane = 100 + number;
            let refused = node.try_send(bad).await.unwrap_err();
            assert!(
                matches!(&refused, BrokerError::AccessRefused(text) if text.contains("bad.")),
                "{refused:?}"
            );
        }
        let told = honest.stop().await;
        let arrived = arrived(&node).await;
        for (lane, told) in &told {
            hold_to(told, &arrived[lane]);
            let failures = failures(told);
            assert!(failures.is_empty() || may_fail, "{round}: {failures:?}");
            // Nobody may learn of other senders' messages.
            for (_, outcome) in failures {
                assert!(matches!(outcome, Err(BrokerError::Unavailable(_))));
            }
        }
    }
}

/// RabbitMQ's limit may be another one than the gateway was told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_over_the_broker_s_limit_is_refused() {
    let rabbit = Arc::new(RabbitMq::own_with("max_message_size = 65536\n").await);
    let vhost = rabbit.vhost().await;
    let node = node_of(&vhost).await;
    let honest = Senders::honest(&node, 1..=1);
    let of = |length: usize| Publish {
        body: vec![b'x'; length].into(),
        lane: 2,
        ..message("", "elsewhere", "")
    };
    assert_eq!(node.try_send(of(65_536)).await, Ok(()));
    for length in [65_537, 65_537, 100_000, 1 << 20] {
        let text = format!(
            "PRECONDITION_FAILED - message size {length} is larger than configured max size 65536"
        );
        let refused = node.try_send(of(length)).await;
        assert_eq!(refused, Err(BrokerError::PreconditionFailed(text.into())));
    }
    // The gateway's own limit is said in the same words.
    let text = "PRECONDITION_FAILED - message size 16777217 is larger than configured max size \
                16777216";
    let refused = node.try_send(of((16 << 20) + 1)).await;
    assert_eq!(refused, Err(BrokerError::PreconditionFailed(text.into())));
    honest.lost_nothing(&node).await;
}

/// Mandatory messages with one key go one by one, for RabbitMQ does not say which came back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_others_mandatory_messages() {
    let vhost = RabbitMq::shared().await.vhost().await;
    let node = node_of(&vhost).await;
    node.send("", "q", "before").await;
    let flood: Vec<_> = (100..600)
        .map(|lane| {
            let publish = Publish {
                mandatory: true,
                lane,
                ..message("", "nobody", "")
            };
            let host = Arc::clone(&node.vhost);
            tokio::spawn(async move { host.publish(publish).await?.await })
        })
        .collect();
    // It has begun.
    eventually(DEADLINE, "an answer", async || {
        flood.iter().any(JoinHandle::is_finished)
    })
    .await;
    node.send("", "q", "honest").await;
    let left = flood.iter().filter(|one| !one.is_finished()).count();
    assert!(left > 100, "the honest one waited for all but {left}");
    for outcome in join_all(flood).await {
        assert_eq!(outcome.unwrap(), Err(BrokerError::Unroutable));
    }
}

fn send(destination: &str, body: &str) -> Frame {
    Frame::new(Command::Send)
        .with_header("destination", destination)
        .with_body(body.to_owned())
}

/// The longest that a client waits for a RECEIPT, of as many SENDs as there is time for.
fn watch_one(
    mut client: StompClient,
    destination: &str,
    stop: watch::Receiver<bool>,
) -> JoinHandle<Duration> {
    let destination = destination.to_owned();
    tokio::spawn(async move {
        let mut longest = Duration::ZERO;
        while !*stop.borrow() {
            let since = Instant::now();
            client.request(send(&destination, "honest")).await;
            longest = longest.max(since.elapsed());
        }
        longest
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pattern_and_a_long_key_stall_nobody() {
    let house = House::open().await;
    let key = |words: usize| vec!["a"; words].join(".");
    for pattern in ["pub.#.a.#.a.#.z1", "#.a.#.a.#"] {
        for ack in ["auto", "client"] {
            let mut client = house.tcp().await;
            let subscribe = Frame::new(Command::Subscribe)
                .with_header("id", "1")
                .with_header("ack", ack)
                .with_header("destination", &format!("/exchange/amq.topic/{pattern}"));
            client.send(&subscribe).await;
            client.expect_error("Invalid destination").await;
        }
    }
    let mut patterns = house.tcp().await;
    for number in 0..20 {
        let pattern = format!("/topic/pub.#.a.#.a.z{number}");
        patterns.subscribe(&number.to_string(), &pattern).await;
    }
    let (stop, stopped) = watch::channel(false);
    let mut honest = Vec::new();
    for (number, to) in [
        "/topic/pub.news",
        "/exchange/feed/a",
        "/queue/isolation",
        "/topic/pub.a.a",
    ]
    .iter()
    .enumerate()
    {
        let client = if number % 2 == 0 {
            house.tcp().await
        } else {
            house.ws().await
        };
        honest.push((to, watch_one(client, to, stopped.clone())));
    }
    let mut tasks = Vec::new();
    for _ in 0..4 {
        let mut client = house.tcp().await;
        let frame = send(&format!("/topic/pub.{}", key(63)), "slow");
        tasks.push(tokio::spawn(async move {
            for _ in 0..50 {
                client.send(&frame).await;
            }
            client.request(frame).await;
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    stop.send_replace(true);
    for (to, longest) in honest {
        let longest = longest.await.unwrap();
        assert!(longest < PATIENCE, "{to}: {longest:?}");
    }
    let mut client = house.tcp().await;
    client
        .send(&send(&format!("/topic/pub.{}", key(124)), "slow"))
        .await;
    let error = client.expect_error("Invalid destination").await;
    assert_eq!(
        error.body,
        "the routing key has 125 words; at most 64 are allowed\n"
    );
}

/// Nor by the API.
#[tokio::test]
async fn the_api_is_no_way_around() {
    let house = House::open().await;
    let words = vec!["a"; 65].join(".");
    let publish = async |body: serde_json::Value| {
        house.gateway.api("POST /api/v1/publish", Some(&body)).await
    };
    let long = serde_json::json!({"exchange": "amq.topic", "keys": ["a", words], "body": ""});
    let (status, answer) = publish(long).await;
    assert_eq!(
        (status, &answer["field"]),
        (400, &"keys".into()),
        "{answer}"
    );
    let reply =
        serde_json::json!({"exchange": "", "key": "q", "body": "", "reply_to": DIRECT_REPLIES});
    let (status, answer) = publish(reply).await;
    assert_eq!(
        (status, &answer["field"]),
        (400, &"reply_to".into()),
        "{answer}"
    );
    let slow = serde_json::json!({"exchange": "amq.topic", "keys": [vec!["a"; 64].join("."), vec!["b"; 64].join("."), "c"], "body": ""});
    assert_eq!(publish(slow).await.0, 200);
}

/// How long it takes from a SEND to its RECEIPT and to its MESSAGE, for eight clients that do so
/// one after the other.
async fn measure(house: &House, what: &str) -> [Duration; 2] {
    let measuring = (0..8).map(async |number| {
        let mut client = house.tcp().await;
        let destination = format!("/exchange/feed/honest.{number}");
        client.subscribe("1", &destination).await;
        let mut took = Vec::new();
        for _ in 0..200 {
            let frame = send(&destination, "honest").with_header("receipt", "r");
            let since = Instant::now();
            client.send(&frame).await;
            // In whichever order.
            client.expect_frame().await;
            client.expect_frame().await;
            took.push(since.elapsed());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        took
    });
    let mut took: Vec<Duration> = join_all(measuring).await.into_iter().flatten().collect();
    took.sort_unstable();
    let at = |share: usize| took[took.len() * share / 100];
    let figures = [at(50), at(99)];
    println!(
        "{what}: p50 {:?}, p99 {:?}, longest {:?}",
        figures[0],
        figures[1],
        took.last()
    );
    figures
}

/// Not a test: figures of a machine that does nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "figures, for whoever asks"]
async fn figures_of_floods() {
    let house = House::open().await;
    measure(&house, "warm").await;
    measure(&house, "quiet").await;

    let mut flood = Vec::new();
    for _ in 0..3 {
        let mut client = house.tcp().await;
        let bytes = "BEGIN\ntransaction:a\n\n\0ABORT\ntransaction:a\n\n\0".repeat(500);
        flood.push(tokio::spawn(async move {
            loop {
                client.raw(&bytes).await;
            }
        }));
    }
    measure(&house, "BEGIN and ABORT").await;
    flood.drain(..).for_each(|task| task.abort());

    for number in 0..4 {
        let mut client = house.tcp().await;
        let destination = format!("/exchange/feed/mandatory.{number}");
        client.subscribe("1", &destination).await;
        let frame = send(&destination, "x").with_header("mandatory", "true");
        flood.push(tokio::spawn(async move {
            loop {
                for _ in 0..50 {
                    client.send(&frame).await;
                }
                client.expect_messages(50).await;
            }
        }));
    }
    measure(&house, "mandatory").await;
    flood.drain(..).for_each(|task| task.abort());

    measure(&house, "quiet again").await;
    for number in 0..20 {
        let mut client = house.tcp().await;
        flood.push(tokio::spawn(async move {
            for round in 0_u64.. {
                let destination = format!("/exchange/feed/random.{number}.{round}");
                client.subscribe("1", &destination).await;
                client.unsubscribe("1").await;
            }
        }));
    }
    measure(&house, "SUBSCRIBE and UNSUBSCRIBE").await;
    flood.drain(..).for_each(|task| task.abort());
}
