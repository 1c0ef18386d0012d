//! The effects of one client's mistake, or of the broker's trouble, on others that publish and
//! consume: the AMQP side against a real RabbitMQ.

use std::{sync::Arc, time::Duration};

use futures_util::poll;
use lapin::{
    ExchangeKind as Kind,
    options::{ExchangeDeclareOptions, ExchangeDeleteOptions},
    types::{AMQPValue, FieldTable},
};
use serde_json::Value;
use stentor::broker::{
    Argument, Broker as _, BrokerError, Config, Consume, ExchangeKind, FeedConfig, Publish,
    QueueSpec, Url, amqp::AmqpBroker,
};
use testkit::{DEADLINE, Proxy, RabbitMq, Vhost, eventually};

use crate::{
    broker_contract::support::{Feeds, Inbox, Node, message, queue, reading},
    isolation_links::process,
};

struct World {
    vhost: Vhost,
    node: Node,
}

impl World {
    async fn start() -> Self {
        let rabbit = RabbitMq::shared().await;
        let vhost = rabbit.vhost().await;
        let node = open(&vhost, "guest", &rabbit.amqp_address(), Config::default()).await;
        Self { vhost, node }
    }

    async fn declare(&self, exchange: &str, options: ExchangeDeclareOptions) {
        let channel = self.vhost.channel().await;
        let (kind, none) = (Kind::Topic, FieldTable::default());
        let declaring = channel.exchange_declare(exchange.into(), kind, options, none);
        declaring.await.unwrap();
    }

    async fn delete(&self, exchange: &str) {
        let channel = self.vhost.channel().await;
        let deleting = channel.exchange_delete(exchange.into(), ExchangeDeleteOptions::default());
        deleting.await.unwrap();
    }

    async fn exchange(&self, name: &str) -> Option<Value> {
        let path = format!("/exchanges/{}", self.vhost.name());
        let all = self.vhost.node().api().get(&path).await;
        let found = all.as_array()?.iter().find(|one| one["name"] == name);
        found.cloned()
    }
}

async fn open(vhost: &Vhost, user: &str, address: &str, config: Config) -> Node {
    let Url::Amqp(url) = format!("amqp://{user}:guest@{address}").parse().unwrap() else {
        panic!("{address}")
    };
    let name = format!("test.{:08x}", rand::random::<u32>());
    let broker = AmqpBroker::new(&[url], config, FeedConfig::default(), &name).unwrap();
    let feeds = Arc::new(Feeds::default());
    let vhost = broker.open(vhost.name(), Arc::<Feeds>::clone(&feeds));
    eventually(DEADLINE, "a link", async || vhost.health().is_ok()).await;
    Node { feeds, vhost }
}

/// One lane for all, and little patience.
fn hasty() -> Config {
    Config {
        operation_timeout: Duration::from_millis(500),
        publish_channels: 1,
        ..Config::default()
    }
}

fn durable() -> ExchangeDeclareOptions {
    ExchangeDeclareOptions {
        durable: true,
        ..Default::default()
    }
}

fn with_headers(count: usize) -> Publish {
    let mut publish = message("", "q", "large");
    let headers = (0..count).map(|number| (format!("h{number}").into(), "x".repeat(8_000).into()));
    publish.properties.headers = headers.collect();
    publish
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_large_headers_cost_nobody_the_connection() {
    let world = World::start().await;
    let node = &world.node;
    let mut connections = world.vhost.connections().await.len();
    eventually(DEADLINE, "both connections", async || {
        connections = world.vhost.connections().await.len();
        connections >= 2
    })
    .await;
    let reader = node.consume(reading("q", 10)).await;
    node.try_send(with_headers(15)).await.unwrap();
    let refused = node.try_send(with_headers(17)).await;
    assert!(
        matches!(&refused, Err(BrokerError::PreconditionFailed(text)) if text.contains("122880")),
        "{refused:?}"
    );
    node.send("", "q", "fence").await;
    assert_eq!(reader.inbox.bodies(2).await, ["large", "fence"]);
    assert!(node.vhost.health().is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_exchange_is_forgotten() {
    let world = World::start().await;
    let node = &world.node;
    world.declare("passing", durable()).await;
    node.send("passing", "k", "1").await;
    world.delete("passing").await;
    let gone = node.try_send(message("passing", "k", "2")).await;
    assert!(matches!(gone, Err(BrokerError::NotFound(_))), "{gone:?}");
    // From here on it costs nobody a channel: others' messages on the lane are all taken.
    node.vhost.declare_queue(&queue("q")).await.unwrap();
    for _ in 0..20 {
        let (bad, good) = tokio::join!(
            node.try_send(message("passing", "k", "3")),
            node.try_send(message("", "q", "innocent")),
        );
        assert!(matches!(bad, Err(BrokerError::NotFound(_))), "{bad:?}");
        assert_eq!(good, Ok(()));
    }
    world.declare("passing", durable()).await;
    node.send("passing", "k", "4").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_exchange_costs_a_channel_once() {
    let world = World::start().await;
    let internal = ExchangeDeclareOptions {
        internal: true,
        ..durable()
    };
    world.declare("inner", internal).await;
    world.declare("locked", durable()).await;
    let api = world.vhost.node().api();
    let user = format!("gw{:08x}", rand::random::<u32>());
    api.add_user(&user, "guest").await;
    let writes = "^(amq\\.default|inner|q)$";
    api.allow(world.vhost.name(), &user, [".*", writes, ".*"])
        .await;
    let address = world.vhost.node().amqp_address();
    let node = open(&world.vhost, &user, &address, Config::default()).await;
    node.vhost.declare_queue(&queue("q")).await.unwrap();
    for exchange in ["inner", "locked"] {
        let first = node.try_send(message(exchange, "k", "0")).await;
        assert!(
            matches!(&first, Err(BrokerError::AccessRefused(_))),
            "{first:?}"
        );
        for _ in 0..20 {
            let (bad, good) = tokio::join!(
                node.try_send(message(exchange, "k", "1")),
                node.try_send(message("", "q", "innocent")),
            );
            assert_eq!(bad, first);
            assert_eq!(good, Ok(()));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishing_is_bounded_in_time() {
    let world = World::start().await;
    let proxy = Proxy::start(&world.vhost.node().amqp_address()).await;
    let config = Config {
        max_pending_publishes: 4,
        // It is not the link's end that answers.
        heartbeat: Duration::from_secs(120),
        ..hasty()
    };
    let node = open(&world.vhost, "guest", &proxy.address(), config).await;
    node.vhost.declare_queue(&queue("q")).await.unwrap();
    node.send("", "q", "before").await;
    proxy.freeze();
    // More than may be pending, twice: those that are overdue do not hold up the next.
    for round in 0..3 {
        let sending = (0..4).map(|_| node.try_send(message("", "q", "lost or not")));
        for outcome in futures_util::future::join_all(sending).await {
            assert!(
                matches!(outcome, Err(BrokerError::Unavailable(_))),
                "{round}: {outcome:?}"
            );
        }
    }
    proxy.forward();
    eventually(DEADLINE, "a message that is taken", async || {
        node.try_send(message("", "q", "after")).await.is_ok()
    })
    .await;
}

/// A queue's process hangs. More clients send to it than there are places in all; some of them go to and
/// fro, and so are on the common lane.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exchange_that_does_not_confirm_leaves_room_to_others() {
    let rabbit = Arc::new(RabbitMq::own().await);
    let vhost = rabbit.vhost_of_classic_queues().await;
    let config = Config {
        max_pending_publishes: 16,
        publish_channels: 1,
        operation_timeout: 4 * DEADLINE,
        ..Config::default()
    };
    let node = open(&vhost, "guest", &rabbit.amqp_address(), config).await;
    node.vhost.declare_queue(&queue("stuck")).await.unwrap();
    node.send("", "stuck", "before").await;
    node.send("amq.topic", "k", "before").await;
    process(&vhost, "stuck", "suspend").await;
    let mut stuck = Vec::new();
    for lane in 100..140 {
        let mut sending = Box::pin(node.try_send(Publish {
            lane,
            ..message("", "stuck", "stuck")
        }));
        assert!(poll!(&mut sending).is_pending());
        stuck.push(sending);
        // The lane's task takes what it can.
        tokio::task::yield_now().await;
    }
    for lane in 200..208 {
        let send = |exchange: &str, key: &str| {
            Box::pin(node.try_send(Publish {
                lane,
                ..message(exchange, key, "to and fro")
            }))
        };
        let mut elsewhere = send("amq.topic", "k");
        assert!(poll!(&mut elsewhere).is_pending());
        let mut sending = send("", "stuck");
        assert!(poll!(&mut sending).is_pending());
        assert_eq!(tokio::time::timeout(DEADLINE, elsewhere).await, Ok(Ok(())));
        assert!(poll!(&mut sending).is_pending());
        stuck.push(sending);
        tokio::task::yield_now().await;
    }
    let sending = node.try_send(message("amq.topic", "k", "elsewhere"));
    let sent = tokio::time::timeout(DEADLINE, sending).await;
    assert_eq!(sent, Ok(Ok(())));
    process(&vhost, "stuck", "resume").await;
}

/// A mandatory message that is returned is its own confirmation's business alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_mandatory_message_itself_is_unroutable() {
    let world = World::start().await;
    let node = &world.node;
    node.vhost.declare_queue(&queue("q")).await.unwrap();
    let mut confirms = Vec::new();
    for number in 0..300 {
        let is_lost = number % 3 == 1;
        let mut publish = message("", if is_lost { "nowhere" } else { "q" }, "x");
        publish.mandatory = number % 3 != 0;
        publish.properties.persistent = true;
        confirms.push((number, is_lost, node.vhost.publish(publish).await.unwrap()));
    }
    for (number, is_lost, confirm) in confirms {
        let expected = if is_lost {
            Err(BrokerError::Unroutable)
        } else {
            Ok(())
        };
        assert_eq!(confirm.await, expected, "{number}");
    }
}

/// Mandatory messages go together, and lapin hands what came back to any of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_of_many_mandatory_messages_is_told_what_became_of_it() {
    let world = World::start().await;
    let node = &world.node;
    let channel = world.vhost.channel().await;
    node.vhost.declare_queue(&queue("q")).await.unwrap();
    let is_bound = |key: u64| key.is_multiple_of(3);
    for key in (0..200).filter(|key| is_bound(*key)) {
        let (exchange, none) = ("amq.direct".into(), FieldTable::default());
        let key = format!("key-{key}").into();
        let binding = channel.queue_bind("q".into(), exchange, key, Default::default(), none);
        binding.await.unwrap();
    }
    let publish = |lane: u64, key: u64| {
        let mut publish = message("amq.direct", &format!("key-{key}"), "x");
        (publish.mandatory, publish.lane) = (true, 100 + lane);
        // Its confirm waits for the disk; of those that come back it does not.
        publish.properties.persistent = is_bound(key);
        let host = Arc::clone(&node.vhost);
        tokio::spawn(async move { host.publish(publish).await?.await })
    };
    for round in 0..10 {
        // Some have a key in common.
        let keys = (0..300).map(|number| (number, (number * 7 + round) % 200));
        let outcomes: Vec<_> = keys.map(|(lane, key)| (key, publish(lane, key))).collect();
        for (key, outcome) in outcomes {
            let expected = match is_bound(key) {
                true => Ok(()),
                false => Err(BrokerError::Unroutable),
            };
            assert_eq!(outcome.await.unwrap(), expected, "{round}: {key}");
        }
    }
}

/// A queue as the gateway makes one for a subscription.
fn own(name: &str) -> QueueSpec {
    QueueSpec {
        name: name.into(),
        auto_delete: true,
        ..QueueSpec::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_gets_no_consumer_is_removed() {
    let world = World::start().await;
    let node = &world.node;
    let failing = Consume {
        queue: own("stomp-subscription-x"),
        binding: Some(("nope".into(), "k".into())),
        ..reading("", 10)
    };
    let refused = node.refused(failing.clone()).await;
    assert!(matches!(refused, BrokerError::NotFound(_)), "{refused:?}");
    let is_clean = async || world.vhost.queues().await.is_empty();
    eventually(DEADLINE, "no queue", is_clean).await;
    // The caller may give up at any moment of it.
    let request = Consume {
        binding: Some(("amq.topic".into(), "k".into())),
        ..failing
    };
    for polls in 0..60 {
        let queue = own(&format!("stomp-subscription-{polls}"));
        let request = Consume {
            queue,
            ..request.clone()
        };
        let consuming = node.vhost.consume(request, Arc::new(Inbox::default()));
        let patience = Duration::from_micros(polls * 100);
        drop(tokio::time::timeout(patience, consuming).await);
    }
    eventually(DEADLINE, "no queue", is_clean).await;

    let reader = node
        .consume(Consume {
            queue: own("stomp-subscription-y"),
            ..request.clone()
        })
        .await;
    let short = QueueSpec {
        arguments: vec![("x-expires".into(), Argument::Number(5_000))],
        ..own("stomp-subscription-z")
    };
    let other = node
        .consume(Consume {
            queue: short,
            ..request.clone()
        })
        .await;
    let named = node
        .consume(Consume {
            queue: own("mine"),
            ..request
        })
        .await;
    let queues = world.vhost.queues().await;
    let expires = |name: &str| {
        let queue = queues.iter().find(|queue| queue["name"] == name).unwrap();
        queue["arguments"]["x-expires"].as_i64()
    };
    assert_eq!(expires("stomp-subscription-y"), Some(60_000));
    assert_eq!(expires("stomp-subscription-z"), Some(5_000));
    // Where transient queues are denied, only what expires keeps it from staying for ever.
    let lasting = testkit::is_strict().then_some(600_000);
    assert_eq!(expires("mine"), lasting);
    drop((reader, other, named));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn to_learn_a_type_makes_no_exchange() {
    let world = World::start().await;
    let node = &world.node;
    world.declare("passing", durable()).await;
    node.send("passing", "k", "1").await;
    world.delete("passing").await;
    let kind = node.vhost.exchange_kind("passing").await;
    assert!(matches!(kind, Err(BrokerError::NotFound(_))), "{kind:?}");
    assert_eq!(world.exchange("passing").await, None);
    // Its owner can make it as it was, also as one that is not durable.
    world
        .declare("passing", ExchangeDeclareOptions::default())
        .await;
    node.send("passing", "k", "2").await;
    let kind = node.vhost.exchange_kind("passing").await;
    assert_eq!(kind, Ok(ExchangeKind::Topic));
    let kind = node.vhost.exchange_kind("amq.match").await;
    assert_eq!(kind, Ok(ExchangeKind::Other));
}

/// Learning a type relies on this, should the exchange go between the two questions: RabbitMQ
/// makes no exchange for an alternate exchange that is no name, and compares types before that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_declaration_with_a_number_as_alternate_exchange_only_compares() {
    let world = World::start().await;
    world.declare("passing", Default::default()).await;
    world.declare("lasting", durable()).await;
    for (name, expected) in [
        ("passing", "inequivalent arg 'type' for exchange 'passing'"),
        ("lasting", "inequivalent arg 'type' for exchange 'lasting'"),
        ("amq.headers", "inequivalent arg 'alternate-exchange'"),
        (
            "missing",
            "invalid type 'signedint' for arg 'alternate-exchange'",
        ),
    ] {
        let channel = world.vhost.channel().await;
        let mut arguments = FieldTable::default();
        arguments.insert("alternate-exchange".into(), AMQPValue::LongInt(0));
        let declaring = channel.exchange_declare(name.into(), Kind::Headers, durable(), arguments);
        let refusal = declaring.await.unwrap_err().to_string();
        assert!(refusal.contains(expected), "{refusal}");
    }
    assert_eq!(world.exchange("missing").await, None);
}

/// RabbitMQ stops reading from publishers while it is short of memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_memory_alarm_delays_nobody_for_ever() {
    let rabbit = Arc::new(RabbitMq::own().await);
    let vhost = rabbit.vhost().await;
    let node = open(&vhost, "guest", &rabbit.amqp_address(), hasty()).await;
    node.vhost.declare_queue(&queue("q")).await.unwrap();
    node.send("", "q", "before").await;
    let limit = async |limit: &[&str]| {
        let command = ["set_vm_memory_high_watermark"];
        rabbit.ctl(&[&command, limit].concat()).await;
    };
    limit(&["absolute", "1MB"]).await;
    for place in ["on its way", "waiting"] {
        let outcome = node.try_send(message("", "q", place)).await;
        assert!(
            matches!(outcome, Err(BrokerError::Unavailable(_))),
            "{place}: {outcome:?}"
        );
    }
    limit(&["0.7"]).await;
    eventually(DEADLINE, "a message that is taken", async || {
        node.try_send(message("", "q", "after")).await.is_ok()
    })
    .await;
}

/// The probe itself, in the moment after the exchange was looked for: deleted and made again
/// while types are asked for, it never is one that the gateway made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exchange_that_comes_and_goes_is_never_made_by_the_probe() {
    let world = World::start().await;
    let address = world.vhost.node().amqp_address();
    let channel = world.vhost.channel().await;
    let names: Vec<String> = (0..50).map(|number| format!("passing{number}")).collect();
    let node = open(&world.vhost, "guest", &address, Config::default()).await;
    for name in &names {
        declare_topic(&channel, name).await;
        let asking = node.vhost.exchange_kind(name);
        let deleting =
            channel.exchange_delete(name.as_str().into(), ExchangeDeleteOptions::default());
        let (kind, deleted) = tokio::join!(asking, deleting);
        deleted.unwrap();
        assert!(
            matches!(
                kind,
                Ok(ExchangeKind::Topic) | Err(BrokerError::NotFound(_))
            ),
            "{kind:?}"
        );
    }
    for name in &names {
        assert_eq!(world.exchange(name).await, None);
    }
}

async fn declare_topic(channel: &lapin::Channel, exchange: &str) {
    let none = FieldTable::default();
    let declaring = channel.exchange_declare(exchange.into(), Kind::Topic, durable(), none);
    declaring.await.unwrap();
}
