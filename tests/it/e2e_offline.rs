//! Messages for those who are away: over two nodes, with a worker that reads what they hand on.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::symlink,
    process::{Command as Program, Stdio},
    time::Duration,
};

use futures_util::StreamExt as _;
use lapin::{
    BasicProperties, Channel, Consumer, ExchangeKind,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, QueueBindOptions,
        QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable},
};
use serde_json::json;
use stomp_grammar::Command;
use testkit::{
    DEADLINE, FEED, Gateway, GatewayBuilder, Hook, Login, Process, Proxy, RabbitMq, StompClient,
    Vhost, eventually, tests_dir, within,
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    e2e_webhooks::{Application, are_genuine},
    house::stentor,
};

const OFFLINE: &str = "offline";
/// Messages wait so long for a node that is dead.
const AFTER: Duration = Duration::from_secs(4);

/// As an operator does it.
async fn set_policy(vhost: &Vhost) {
    let definition = json!({ "alternate-exchange": "stentor.feed.offline.feed" }).to_string();
    let policy = ["stentor.feed", "^feed$", &definition];
    let set = ["set_policy", "-p", vhost.name(), "--apply-to", "exchanges"];
    vhost.node().ctl(&[&set[..], &policy].concat()).await;
}

async fn vhost() -> Vhost {
    let vhost = RabbitMq::shared().await.vhost().await;
    vhost.declare_exchange(FEED, ExchangeKind::Direct).await;
    vhost
}

fn node(vhost: &Vhost, hook: &Hook) -> GatewayBuilder {
    stentor()
        .vhost(vhost)
        .hook(hook)
        .set("broker.exchanges", "feed=direct")
        .set("broker.reconnect_max", "1s")
        .set("broker.connection_timeout", "2s")
        .set("shutdown.drain", "100ms")
        .set("offline.sources", FEED)
        .set("offline.after", format!("{}s", AFTER.as_secs()))
}

async fn login(gateway: &Gateway, vhost: &Vhost, user: &str) -> StompClient {
    let mut client = StompClient::tcp(gateway.stomp_address()).await;
    let login = Login::new(user, "passcode", vhost.name());
    assert_eq!(client.connect(&login).await.command, Command::Connected);
    client
}

async fn subscribed(gateway: &Gateway, vhost: &Vhost, user: &str) -> StompClient {
    let mut client = login(gateway, vhost, user).await;
    client
        .subscribe("feed", &format!("/exchange/feed/user_{user}"))
        .await;
    client
}

/// What the worker got.
#[derive(Debug)]
struct Pushed {
    key: String,
    body: String,
    headers: BTreeMap<String, String>,
}

impl Pushed {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value)
    }
}

async fn bind(channel: &Channel, pattern: &str) {
    let (queue, exchange) = ("push".into(), OFFLINE.into());
    let options = QueueBindOptions::default();
    let none = FieldTable::default();
    let binding = channel.queue_bind(queue, exchange, pattern.into(), options, none);
    binding.await.unwrap();
}

/// A worker with a queue of its own.
struct Worker {
    channel: Channel,
    consumer: Consumer,
}

impl Worker {
    async fn start(vhost: &Vhost) -> Self {
        Self::bound(vhost, "#").await
    }

    /// Its queue is bound by that pattern.
    async fn bound(vhost: &Vhost, pattern: &str) -> Self {
        vhost.declare_exchange(OFFLINE, ExchangeKind::Topic).await;
        Self::binding(vhost, pattern).await
    }

    /// The same; it declares no exchange.
    async fn binding(vhost: &Vhost, pattern: &str) -> Self {
        let channel = vhost.channel().await;
        let none = FieldTable::default;
        let durable = QueueDeclareOptions {
            durable: true,
            ..QueueDeclareOptions::default()
        };
        let declaring = channel.queue_declare("push".into(), durable, none());
        declaring.await.unwrap();
        bind(&channel, pattern).await;
        let consuming = channel.basic_consume(
            "push".into(),
            "worker".into(),
            BasicConsumeOptions::default(),
            none(),
        );
        let consumer = consuming.await.unwrap();
        Self { channel, consumer }
    }

    async fn next(&mut self) -> Pushed {
        let next = within(DEADLINE, "a message for the worker", self.consumer.next());
        let delivery = next.await.unwrap().unwrap();
        delivery.ack(BasicAckOptions::default()).await.unwrap();
        let headers = delivery.properties.headers().as_ref().unwrap().inner();
        let headers = headers.iter().map(|(name, value)| {
            let value = value.as_long_string().map(ToString::to_string);
            (name.to_string(), value.unwrap_or_default())
        });
        Pushed {
            key: delivery.routing_key.to_string(),
            body: String::from_utf8(delivery.data).unwrap(),
            headers: headers.collect(),
        }
    }

    /// Nothing came before a message that nobody else gets.
    async fn has_no_more(&mut self, vhost: &Vhost) {
        vhost.publish(FEED, "user_nobody", ["the last"]).await;
        let last = self.next().await;
        assert_eq!(last.body, "the last", "{last:?}");
    }
}

#[tokio::test]
async fn what_nobody_is_subscribed_to_goes_to_the_worker_once() {
    let vhost = vhost().await;
    set_policy(&vhost).await;
    let hook = Hook::start().await;
    let [one, two] = [node(&vhost, &hook), node(&vhost, &hook)];
    let (one, two) = (one.ready().await, two.ready().await);
    let mut worker = Worker::start(&vhost).await;
    let mut alice = subscribed(&one, &vhost, "alice").await;
    let mut bob = subscribed(&two, &vhost, "bob").await;

    // Those who are here get theirs, on whichever node, and those who are away have theirs pushed.
    let channel = vhost.channel().await;
    for (key, body) in [
        ("user_alice", "for alice"),
        ("user_carol", "for carol"),
        ("room_1", "for nobody"),
        ("user_bob", "for bob"),
    ] {
        let properties = BasicProperties::default()
            .with_message_id("m1".into())
            .with_user_id("guest".into())
            .with_delivery_mode(2);
        let options = BasicPublishOptions::default();
        let publishing = channel.basic_publish(
            FEED.into(),
            key.into(),
            options,
            body.as_bytes(),
            properties,
        );
        publishing.await.unwrap().await.unwrap();
    }
    alice.expect_message("for alice").await;
    bob.expect_message("for bob").await;
    let pushed = worker.next().await;
    assert_eq!((&*pushed.key, &*pushed.body), ("user_carol", "for carol"));
    for (name, value) in [
        ("x-offline-key", "user_carol"),
        ("x-offline-user", "carol"),
        ("x-offline-exchange", FEED),
        ("x-offline-reason", "nobody"),
    ] {
        assert_eq!(pushed.header(name), value, "{pushed:?}");
    }
    worker.has_no_more(&vhost).await;

    // A durable queue that waits for its user is not nobody.
    let mut dave = login(&two, &vhost, "dave").await;
    let durable = "SUBSCRIBE\nid:d\ndestination:/exchange/feed/user_dave\ndurable:true\n\
                   auto-delete:false\nack:client-individual\nreceipt:r\n\n\0";
    dave.raw(durable).await;
    dave.expect_receipt("r").await;
    dave.disconnect().await;
    vhost.publish(FEED, "user_dave", ["it waits"]).await;
    worker.has_no_more(&vhost).await;

    // One device of two is enough.
    let second = subscribed(&two, &vhost, "alice").await;
    drop(second);
    vhost.publish(FEED, "user_alice", ["still here"]).await;
    alice.expect_message("still here").await;
    worker.has_no_more(&vhost).await;
}

/// The key is still bound for a moment after its last subscriber has left, and no longer.
#[tokio::test]
async fn what_comes_just_after_the_last_subscriber_left_is_handed_on_once() {
    const MESSAGES: usize = 300;
    let vhost = vhost().await;
    set_policy(&vhost).await;
    let hook = Hook::start().await;
    let [one, two] = [node(&vhost, &hook), node(&vhost, &hook)];
    let (one, _two) = (one.ready().await, two.ready().await);
    let mut worker = Worker::start(&vhost).await;
    let mut reasons = BTreeMap::<String, usize>::new();
    for round in 0..5 {
        let mut alice = subscribed(&one, &vhost, "alice").await;
        alice.raw("UNSUBSCRIBE\nid:feed\nreceipt:gone\n\n\0").await;
        alice.expect_receipt("gone").await;
        let bodies: Vec<String> = (0..MESSAGES).map(|n| format!("{round}.{n}")).collect();
        vhost.publish(FEED, "user_alice", &bodies).await;
        let mut pushed = Vec::new();
        for _ in 0..MESSAGES {
            let one = worker.next().await;
            let reason = one.header("x-offline-reason").to_owned();
            *reasons.entry(reason).or_default() += 1;
            pushed.push(one.body);
        }
        pushed.sort();
        let mut sorted = bodies;
        sorted.sort();
        assert_eq!(pushed, sorted);
        worker.has_no_more(&vhost).await;
    }
    println!("{reasons:?}");
    let known = ["nobody", "left"];
    assert!(
        reasons.keys().all(|reason| known.contains(&&**reason)),
        "{reasons:?}"
    );
    let (_, metrics) = one.admin("/metrics").await;
    assert!(!metrics.contains("outcome=\"lost\""), "{metrics}");
}

/// What a dead node's queue holds is decided when it has waited too long: by asking the others.
#[tokio::test]
async fn what_waits_for_a_killed_node_is_handed_on_unless_its_user_is_back() {
    let vhost = vhost().await;
    set_policy(&vhost).await;
    let hook = Hook::start().await;
    let [one, two, three] = [1, 2, 3].map(|_| node(&vhost, &hook));
    let (one, two, three) = (one.ready().await, two.ready().await, three.ready().await);
    let mut worker = Worker::start(&vhost).await;
    let _alice = subscribed(&one, &vhost, "alice").await;
    let _carol = subscribed(&one, &vhost, "carol").await;
    let mut bob = subscribed(&two, &vhost, "bob").await;
    one.kill().await;

    // Alice stays away; Carol comes back to another node.
    let bodies = ["1", "2", "3", "4", "5"];
    vhost.publish(FEED, "user_alice", bodies).await;
    let mut carol = subscribed(&two, &vhost, "carol").await;
    vhost.publish(FEED, "user_carol", ["welcome back"]).await;
    carol.expect_message("welcome back").await;
    let mut pushed = Vec::new();
    for _ in bodies {
        let one = worker.next().await;
        assert_eq!(
            (&*one.key, one.header("x-offline-reason")),
            ("user_alice", "node")
        );
        pushed.push(one.body);
    }
    pushed.sort();
    assert_eq!(pushed, bodies);
    // The dead node's queues are gone, so that its keys are nobody's again.
    eventually(DEADLINE, "the dead node's queue is gone", async || {
        !vhost.is_bound(FEED, "user_alice").await
    })
    .await;
    vhost.publish(FEED, "user_alice", ["at once"]).await;
    let at_once = worker.next().await;
    assert_eq!(
        (&*at_once.body, at_once.header("x-offline-reason")),
        ("at once", "nobody")
    );
    eventually(DEADLINE, "Carol's copy is left out", async || {
        let mut counted = false;
        for node in [&two, &three] {
            let (_, metrics) = node.admin("/metrics").await;
            counted |= metrics.contains("stentor_offline_messages_total{outcome=\"subscribed\"}");
        }
        counted
    })
    .await;
    vhost.publish(FEED, "user_bob", ["as before"]).await;
    bob.expect_message("as before").await;
    worker.has_no_more(&vhost).await;
}

/// Another node takes the messages out of its queue, and steady traffic gives that no end.
#[tokio::test]
async fn a_node_that_was_cut_off_for_too_long_tells_its_clients() {
    let vhost = vhost().await;
    set_policy(&vhost).await;
    let hook = Hook::start().await;
    let proxy = Proxy::start(&vhost.node().amqp_address()).await;
    let cut_off = node(&vhost, &hook)
        .vhost_via(&vhost, &proxy.address())
        .set("broker.heartbeat", "1s")
        .set("broker.operation_timeout", "2s");
    let one = cut_off.ready().await;
    let _two = node(&vhost, &hook).ready().await;
    let mut worker = Worker::start(&vhost).await;
    let mut alice = subscribed(&one, &vhost, "alice").await;
    let backend = vhost.clone();
    let _publishing = AbortOnDropHandle::new(tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_millis(300));
        loop {
            ticks.tick().await;
            backend.publish(FEED, "user_alice", ["steady"]).await;
        }
    }));
    alice.expect_message("steady").await;
    proxy.refuse();
    // More than have waited for too long: some of them were taken out of the queue.
    for _ in 0..12 {
        assert_eq!(worker.next().await.header("x-offline-reason"), "node");
    }
    proxy.forward();
    alice.expect_error("feed interrupted").await;
    let mut alice = subscribed(&one, &vhost, "alice").await;
    alice.expect_message("steady").await;
}

/// Where it waited RabbitMQ gives it a key of its own, and takes `CC` out.
#[tokio::test]
async fn a_message_of_several_keys_that_waits_for_a_killed_node_is_for_all_its_users() {
    let vhost = vhost().await;
    set_policy(&vhost).await;
    let hook = Hook::start().await;
    // In one queue, so that it waits once.
    let [one, two] = [1, 2].map(|_| node(&vhost, &hook).set("feed.shards", "1"));
    let (one, two) = (one.ready().await, two.ready().await);
    let mut worker = Worker::start(&vhost).await;
    let mut clients = Vec::new();
    for user in ["alice", "bob", "carol"] {
        clients.push(subscribed(&one, &vhost, user).await);
    }
    one.kill().await;

    let copies = ["user_bob", "user_carol"].map(|key| AMQPValue::LongString(key.into()));
    let mut headers = FieldTable::default();
    headers.insert("CC".into(), AMQPValue::FieldArray(copies.to_vec().into()));
    let properties = BasicProperties::default().with_headers(headers);
    let channel = vhost.channel().await;
    let publishing = channel.basic_publish(
        FEED.into(),
        "user_alice".into(),
        BasicPublishOptions::default(),
        b"hello",
        properties,
    );
    publishing.await.unwrap().await.unwrap();
    // Carol comes back.
    let _carol = subscribed(&two, &vhost, "carol").await;
    let mut pushed = Vec::new();
    for _ in 0..2 {
        let one = worker.next().await;
        assert_eq!(
            (&*one.body, one.header("x-offline-reason")),
            ("hello", "node")
        );
        pushed.push(one.key);
    }
    pushed.sort();
    assert_eq!(pushed, ["user_alice", "user_bob"]);
    worker.has_no_more(&vhost).await;
}

#[tokio::test]
async fn messages_wait_for_the_worker() {
    let vhost = vhost().await;
    set_policy(&vhost).await;
    let hook = Hook::start().await;
    let gateway = node(&vhost, &hook).ready().await;
    gateway_reads(&vhost).await;
    vhost.publish(FEED, "user_alice", ["1", "2"]).await;
    gateway.until_logged("Has a worker bound its queue").await;
    let mut worker = Worker::start(&vhost).await;
    let mut got = [worker.next().await.body, worker.next().await.body];
    got.sort();
    assert_eq!(got, ["1", "2"]);
    worker.has_no_more(&vhost).await;
}

/// Stentor makes the exchange: a worker that starts before there is a message binds its queue to it.
#[tokio::test]
async fn the_exchange_is_there_before_the_first_message() {
    let vhost = vhost().await;
    set_policy(&vhost).await;
    let hook = Hook::start().await;
    let _gateway = node(&vhost, &hook).ready().await;
    gateway_reads(&vhost).await;
    let mut worker = Worker::binding(&vhost, "#").await;
    vhost.publish(FEED, "user_alice", ["1"]).await;
    assert_eq!(worker.next().await.body, "1");
}

/// A key that the worker's queue is not bound to holds up its own message, and no others.
#[tokio::test]
async fn a_message_that_leads_nowhere_holds_up_no_others() {
    let vhost = vhost().await;
    set_policy(&vhost).await;
    let hook = Hook::start().await;
    let gateway = node(&vhost, &hook).ready().await;
    gateway_reads(&vhost).await;
    let mut worker = Worker::bound(&vhost, "*").await;
    vhost.publish(FEED, "user_a.b", ["nowhere"]).await;
    gateway.until_logged("user_a.b").await;
    vhost.publish(FEED, "user_alice", ["1"]).await;
    assert_eq!(worker.next().await.body, "1");
    vhost.publish(FEED, "user_bob", ["2"]).await;
    assert_eq!(worker.next().await.body, "2");
    // It waits for a worker that takes it.
    bind(&worker.channel, "#").await;
    assert_eq!(worker.next().await.body, "nowhere");
    worker.has_no_more(&vhost).await;
}

/// The queue for what nobody is subscribed to is there.
async fn gateway_reads(vhost: &Vhost) {
    eventually(DEADLINE, "the queue is there", async || {
        let queues = vhost.queues().await;
        queues
            .iter()
            .any(|queue| queue["name"] == "stentor.feed.offline.feed")
    })
    .await;
}

#[tokio::test]
async fn an_exchange_that_leads_nowhere_is_told_with_the_command() {
    let vhost = vhost().await;
    let hook = Hook::start().await;
    let gateway = node(&vhost, &hook).ready().await;
    let told = gateway
        .until_events(
            "messages that nobody is subscribed to are dropped, for the exchange has no alternate \
             one: run the command",
            1,
        )
        .await;
    let command = told[0]["command"].as_str().unwrap();
    let expected = format!(
        "rabbitmqctl set_policy -p '{}' --apply-to exchanges 'stentor.feed' '^feed$' \
         '{{\"alternate-exchange\":\"stentor.feed.offline.feed\"}}'",
        vhost.name()
    );
    assert_eq!(command, expected);
}

/// The worker of examples/offline-push, as it stands there; its parts have tests of their own in
/// tests/js.
#[tokio::test]
async fn the_example_posts_each_message_once_and_signed() {
    const SECRET: &str = "0123456789abcdef";
    // The first request fails.
    let application = Application::start(|_, before| if before == 0 { 500 } else { 200 }).await;
    let vhost = vhost().await;
    set_policy(&vhost).await;
    let hook = Hook::start().await;
    let gateway = node(&vhost, &hook)
        .set("webhooks.urls", &application.url)
        .set("webhooks.secret", SECRET)
        .set("webhooks.events", "offline")
        .ready()
        .await;
    let folder = tempfile::TempDir::with_prefix("stentor-worker-").unwrap();
    for file in ["worker.mjs", "webhook.mjs", "persist.mjs", "recent.mjs"] {
        let example = tests_dir()
            .with_file_name("examples/offline-push")
            .join(file);
        fs::copy(example, folder.path().join(file)).unwrap();
    }
    let packages = tests_dir().join("js/node_modules");
    symlink(packages, folder.path().join("node_modules")).unwrap();
    let mut command = Program::new("node");
    command
        .arg("worker.mjs")
        .current_dir(folder.path())
        .env("AMQP_URL", vhost.amqp_url())
        .env("WEBHOOK_URL", &application.url)
        .env("WEBHOOK_SECRET", SECRET);
    let worker = Process::start("worker.mjs", &mut command, Stdio::null()).unwrap();
    eventually(DEADLINE, "the worker waits", async || {
        worker.output().contains("waiting for messages")
    })
    .await;

    let channel = vhost.channel().await;
    // A backend that is not sure sends it twice.
    for (body, id) in [("hello", "m1"), ("hello", "m1"), ("bye", "m2")] {
        let properties = BasicProperties::default().with_message_id(id.into());
        let options = BasicPublishOptions::default();
        let (exchange, key) = (FEED.into(), "user_alice".into());
        let publishing = channel.basic_publish(exchange, key, options, body.as_bytes(), properties);
        publishing.await.unwrap().await.unwrap();
        // One after the other: those that are pushed at a time are no doubles yet.
        let count = if id == "m2" { 2 } else { 1 };
        eventually(DEADLINE, format!("{body} is pushed"), async || {
            worker.output().matches("pushed: alice").count() >= count
        })
        .await;
    }
    assert_eq!(
        worker.output().matches("pushed: alice").count(),
        2,
        "{}",
        worker.output()
    );
    let got = application.got();
    let of_worker: Vec<_> = got
        .iter()
        .filter(|got| got.event()["body"] != json!(null))
        .collect();
    let bodies: Vec<_> = of_worker
        .iter()
        .map(|got| got.event()["body"].clone())
        .collect();
    assert_eq!(bodies, ["hello", "hello", "bye", "bye"]);
    assert_eq!(of_worker[0].event()["reason"], "nobody");
    assert!(are_genuine(SECRET, &got).iter().all(|is| *is));
    // The gateway's own webhooks tell of each message, the repeated one too.
    eventually(DEADLINE, "three events", async || {
        let events = application.got().into_iter().map(|got| got.event());
        let mut ids: Vec<_> = events
            .filter(|event| event["type"] == "offline" && event["user"] == "alice")
            .map(|event| event["id"].to_string())
            .collect();
        ids.sort();
        ids.dedup();
        (ids.len() == 3).then_some(())
    })
    .await;
    drop(gateway);
}
