//! Direct exchanges that are read whole (`feed.whole`), by an alternate exchange: no key is bound,
//! nobody misses anything, and an exchange that leads elsewhere is told.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use lapin::{
    BasicProperties, Channel, ExchangeKind,
    options::{
        BasicGetOptions, BasicPublishOptions, ExchangeDeclareOptions, ExchangeDeleteOptions,
        QueueBindOptions, QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable},
};
use serde_json::{Value, json};
use stomp_grammar::{Command, Frame};
use testkit::{
    DEADLINE, FEED, Gateway, GatewayBuilder, Hook, Login, RabbitMq, StompClient, Vhost, eventually,
    unique,
};
use tokio::task::JoinHandle;

use crate::house::{DESTINATION, House, KEY, PASSCODE, USER, stentor};

const INTERRUPTED: &str = "feed interrupted";
const UNAVAILABLE: &str = "broker unavailable";

/// Reads the exchange whole; nobody else binds keys.
fn whole(builder: GatewayBuilder) -> GatewayBuilder {
    bridging(builder).set("feed.bridge", false)
}

/// Reads the exchange whole, though others may bind keys.
fn bridging(builder: GatewayBuilder) -> GatewayBuilder {
    builder
        .set("feed.binding", "all")
        .set("feed.whole", FEED)
        .set("feed.verify_interval", "300ms")
}

async fn vhost() -> Vhost {
    RabbitMq::shared().await.vhost().await
}

/// As an operator does it.
async fn set_policy(vhost: &Vhost) {
    let definition = json!({ "alternate-exchange": format!("{FEED}.all") }).to_string();
    let policy = ["stentor", "^feed$", &definition];
    let set = ["set_policy", "-p", vhost.name(), "--apply-to", "exchanges"];
    vhost.node().ctl(&[&set[..], &policy].concat()).await;
}

async fn clear_policy(vhost: &Vhost) {
    let clear = ["clear_policy", "-p", vhost.name(), "stentor"];
    vhost.node().ctl(&clear).await;
}

async fn declare(vhost: &Vhost, arguments: FieldTable) {
    let options = ExchangeDeclareOptions {
        durable: true,
        ..ExchangeDeclareOptions::default()
    };
    let channel = vhost.channel().await;
    let declaring = channel.exchange_declare(FEED.into(), ExchangeKind::Direct, options, arguments);
    declaring.await.unwrap();
}

async fn delete(vhost: &Vhost) {
    let channel = vhost.channel().await;
    let deleting = channel.exchange_delete(FEED.into(), ExchangeDeleteOptions::default());
    deleting.await.unwrap();
}

/// An exchange with a policy, and a gateway that reads it whole.
async fn house(settings: impl FnOnce(GatewayBuilder) -> GatewayBuilder) -> House {
    let vhost = vhost().await;
    vhost.declare_exchange(FEED, ExchangeKind::Direct).await;
    set_policy(&vhost).await;
    House::start(vhost, settings).await
}

async fn is_served(house: &House, client: &mut StompClient, body: &str) {
    house.push([body]).await;
    client.expect_message(body).await;
}

/// The keys of what is bound at the exchange itself, with the queue or exchange.
async fn bound_at_the_exchange(vhost: &Vhost) -> Vec<(String, String)> {
    let bindings = vhost.bindings().await;
    let text = |binding: &Value, field: &str| binding[field].as_str().unwrap().to_owned();
    let own = bindings.iter().filter(|binding| binding["source"] == FEED);
    own.map(|one| (text(one, "destination"), text(one, "routing_key")))
        .collect()
}

#[tokio::test]
async fn an_exchange_that_is_missing_is_made_with_its_alternate_one() {
    let settings = |builder| whole(builder).set("broker.exchanges", "feed=direct");
    let house = House::start(vhost().await, settings).await;
    for mut client in house.subscribed().await {
        is_served(&house, &mut client, "hello").await;
        // For somebody else, and to keys that nobody has.
        house.vhost.publish(FEED, "user_bob", ["other"]).await;
        is_served(&house, &mut client, "again").await;
    }
    assert_eq!(bound_at_the_exchange(&house.vhost).await, []);
}

#[tokio::test]
async fn many_keys_need_no_binding() {
    let house = house(whole).await;
    let mut clients = Vec::new();
    for number in 0..20 {
        let mut client = house.tcp().await;
        let destination = format!("/exchange/feed/user_{number}");
        client.subscribe("feed", &destination).await;
        clients.push(client);
    }
    for (number, client) in clients.iter_mut().enumerate() {
        let (key, body) = (format!("user_{number}"), number.to_string());
        house.vhost.publish(FEED, &key, [&body]).await;
        client.expect_message(&body).await;
    }
    assert_eq!(bound_at_the_exchange(&house.vhost).await, []);
}

/// Nobody who is subscribed would hear of such a key, so the operator does.
#[tokio::test]
async fn keys_that_others_bind_are_warned_of() {
    let vhost = vhost().await;
    vhost.declare_exchange(FEED, ExchangeKind::Direct).await;
    set_policy(&vhost).await;
    let management = vhost.node().management_address();
    let start = async || {
        let builder = whole(stentor().vhost(&vhost));
        let url = format!("http://guest:guest@{management}");
        builder.set("auth.rabbitmq.management", url).ready().await
    };
    // Without an account for the plug-in, the log has the command that asks.
    let blind = whole(stentor().vhost(&vhost).hook(&Hook::start().await));
    let blind = blind.ready().await;
    blind.until_logged("bindings-unseen").await;
    blind.until_logged("rabbitmqctl list_bindings -p").await;
    let channel = vhost.channel().await;
    let options = QueueDeclareOptions {
        exclusive: true,
        ..QueueDeclareOptions::default()
    };
    let declaring = channel.queue_declare("audit".into(), options, FieldTable::default());
    declaring.await.unwrap();
    let binding = channel.queue_bind(
        "audit".into(),
        FEED.into(),
        KEY.into(),
        QueueBindOptions::default(),
        FieldTable::default(),
    );
    binding.await.unwrap();
    let warned = start().await;
    warned.until_logged("foreign-bindings").await;
    warned.until_logged("user_alice → audit").await;
}

#[tokio::test]
async fn an_exchange_without_the_alternate_one_is_refused_and_the_log_has_the_policy() {
    let vhost = vhost().await;
    vhost.declare_exchange(FEED, ExchangeKind::Direct).await;
    let house = House::start(vhost, whole).await;
    let mut client = house.tcp().await;
    let subscribe = format!("SUBSCRIBE\nid:feed\ndestination:{DESTINATION}\nreceipt:r\n\n\0");
    client.raw(&subscribe).await;
    let error = client.expect_error(UNAVAILABLE).await;
    assert_eq!(error.header("reconnect"), Some("5s"));
    let body = String::from_utf8_lossy(&error.body).into_owned();
    assert!(
        body.contains("does not lead to its alternate exchange"),
        "{body}"
    );

    // What the log says to do helps.
    let event = house.gateway.until_events(NO_ALTERNATE, 1).await.remove(0);
    let command = event["command"].as_str().unwrap();
    let words = words(command);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    assert_eq!(words[0], "rabbitmqctl");
    house.vhost.node().ctl(&words[1..]).await;
    let mut client = house.tcp().await;
    client.subscribe("feed", DESTINATION).await;
    is_served(&house, &mut client, "hello").await;
}

const NO_ALTERNATE: &str = "an exchange is to be read whole (feed.whole), but messages do not come \
                            to its alternate exchange, so its subscribers are refused; set the \
                            policy, or add its key to the one that applies to the exchange now";

/// A command's words, as a shell reads them: some are in single quotes.
fn words(command: &str) -> Vec<String> {
    let parts = command.split('\'').enumerate();
    let words = parts.flat_map(|(index, part)| match index % 2 {
        0 => part.split_whitespace().map(str::to_owned).collect(),
        _ => vec![part.to_owned()],
    });
    words.collect()
}

#[tokio::test]
async fn subscribers_are_told_when_another_exchange_takes_the_messages() {
    let house = house(whole).await;
    let mut client = house.tcp().await;
    client.subscribe("feed", DESTINATION).await;
    // Nothing is returned: some queue gets everything.
    let channel = house.vhost.channel().await;
    let options = ExchangeDeclareOptions::default();
    let (other, queue) = (unique("other"), unique("taker"));
    let fanout = ExchangeKind::Fanout;
    let none = FieldTable::default;
    let declaring = channel.exchange_declare(other.as_str().into(), fanout, options, none());
    declaring.await.unwrap();
    let durable = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    let declaring = channel.queue_declare(queue.as_str().into(), durable, none());
    declaring.await.unwrap();
    let (name, source) = (queue.as_str().into(), other.as_str().into());
    let binding = channel.queue_bind(name, source, "".into(), QueueBindOptions::default(), none());
    binding.await.unwrap();
    delete(&house.vhost).await;
    let mut arguments = none();
    arguments.insert(
        "alternate-exchange".into(),
        AMQPValue::LongString(other.into()),
    );
    declare(&house.vhost, arguments).await;
    client.expect_error(INTERRUPTED).await;
}

#[tokio::test]
async fn subscribers_are_told_when_the_policy_goes() {
    let house = house(whole).await;
    let mut clients = house.subscribed().await;
    for client in &mut clients {
        is_served(&house, client, "hello").await;
    }
    clear_policy(&house.vhost).await;
    for client in &mut clients {
        client.expect_error(INTERRUPTED).await;
    }
    set_policy(&house.vhost).await;
    for mut client in house.subscribed().await {
        is_served(&house, &mut client, "again").await;
    }
}

#[tokio::test]
async fn subscribers_are_told_when_an_exchange_beside_it_goes() {
    let house = house(whole).await;
    let mut client = house.tcp().await;
    client.subscribe("feed", DESTINATION).await;
    let channel = house.vhost.channel().await;
    let options = ExchangeDeleteOptions::default;
    let deleting = channel.exchange_delete("feed.all".into(), options());
    deleting.await.unwrap();
    client.expect_error(INTERRUPTED).await;
    let mut client = house.tcp().await;
    client.subscribe("feed", DESTINATION).await;
    is_served(&house, &mut client, "again").await;
}

/// By a policy it has its alternate exchange at once; its subscribers stay, or are told.
#[tokio::test]
async fn an_exchange_made_anew_is_no_silent_one() {
    let house = house(whole).await;
    for body in ["one", "two", "three"] {
        let mut client = house.tcp().await;
        client.subscribe("feed", DESTINATION).await;
        delete(&house.vhost).await;
        house
            .vhost
            .declare_exchange(FEED, ExchangeKind::Direct)
            .await;
        house.push([body]).await;
        let frame = client.next_frame().await.unwrap();
        match frame.command {
            Command::Message => assert_eq!(frame.body, body),
            _ => assert_eq!(frame.header("message"), Some(INTERRUPTED)),
        }
    }
    let mut client = house.tcp().await;
    client.subscribe("feed", DESTINATION).await;
    delete(&house.vhost).await;
    client.expect_error(INTERRUPTED).await;
}

#[tokio::test]
async fn a_receipt_means_that_messages_come_now() {
    // It never looks by itself.
    let house = house(|builder| whole(builder).set("feed.verify_interval", "0s")).await;
    let mut stays = house.tcp().await;
    stays.subscribe("feed", "/exchange/feed/other").await;
    clear_policy(&house.vhost).await;
    let mut client = house.tcp().await;
    let subscribe = format!("SUBSCRIBE\nid:feed\ndestination:{DESTINATION}\nreceipt:r\n\n\0");
    client.raw(&subscribe).await;
    client.expect_error(UNAVAILABLE).await;
    // Found out, it is told to those who rely on it.
    stays.expect_error(INTERRUPTED).await;
}

#[tokio::test]
async fn clients_own_queues_are_bound_beside_it() {
    let house = house(whole).await;
    let mut plain = house.tcp().await;
    plain.subscribe("feed", DESTINATION).await;
    let mut own = house.tcp().await;
    let acknowledges = [("ack", "client-individual")];
    own.subscribe_with("own", DESTINATION, &acknowledges).await;
    let durable = [("durable", "true"), ("auto-delete", "false")];
    let mut keeps = house.tcp().await;
    keeps.subscribe_with("keeps", DESTINATION, &durable).await;
    for body in ["one", "two"] {
        house.push([body]).await;
        for client in [&mut plain, &mut own, &mut keeps] {
            client.expect_message(body).await;
        }
    }
    assert_eq!(bound_at_the_exchange(&house.vhost).await, []);
    clear_policy(&house.vhost).await;
    let mut late = house.tcp().await;
    let subscribe =
        format!("SUBSCRIBE\nid:late\nack:client\ndestination:{DESTINATION}\nreceipt:r\n\n\0");
    late.raw(&subscribe).await;
    late.expect_error(UNAVAILABLE).await;
}

/// It kept messages from everybody else.
#[tokio::test]
async fn a_durable_subscription_of_before_is_moved() {
    let house = house(|builder| builder).await;
    let durable = [("durable", "true"), ("auto-delete", "false")];
    let mut before = house.tcp().await;
    before.subscribe_with("keeps", DESTINATION, &durable).await;
    before.disconnect().await;
    assert_eq!(bound_at_the_exchange(&house.vhost).await.len(), 1);
    house.push(["waits"]).await;

    let builder = stentor().vhost(&house.vhost).hook(&house.hook);
    let gateway = whole(builder).ready().await;
    let mut after = StompClient::tcp(gateway.stomp_address()).await;
    after.connect(&house.login()).await;
    after
        .raw(format!(
            "SUBSCRIBE\nid:keeps\ndestination:{DESTINATION}\ndurable:true\nauto-delete:false\n\n\0"
        ))
        .await;
    after.expect_message("waits").await;
    // The message may come before that.
    eventually(
        DEADLINE,
        "its queue is bound beside the exchange",
        async || bound_at_the_exchange(&house.vhost).await.is_empty(),
    )
    .await;
    let mut plain = StompClient::tcp(gateway.stomp_address()).await;
    plain.connect(&house.login()).await;
    plain.subscribe("feed", DESTINATION).await;
    house.push(["again"]).await;
    after.expect_message("again").await;
    plain.expect_message("again").await;
}

/// A service binds a key at the exchange: that keeps its messages from the alternate exchange.
#[tokio::test]
async fn bindings_of_others_are_bridged() {
    let house = house(bridging).await;
    let queue = unique("service");
    let channel = house.vhost.channel().await;
    let durable = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    let none = FieldTable::default;
    let declaring = channel.queue_declare(queue.as_str().into(), durable, none());
    declaring.await.unwrap();
    let (name, options) = (queue.as_str().into(), QueueBindOptions::default());
    let binding = channel.queue_bind(name, FEED.into(), KEY.into(), options, none());
    binding.await.unwrap();

    let mut plain = house.tcp().await;
    plain.subscribe("feed", DESTINATION).await;
    let mut own = house.tcp().await;
    let acknowledges = [("ack", "client-individual")];
    own.subscribe_with("own", DESTINATION, &acknowledges).await;
    for body in ["one", "two"] {
        house.push([body]).await;
        plain.expect_message(body).await;
        own.expect_message(body).await;
        let options = BasicGetOptions { no_ack: true };
        let got = channel.basic_get(queue.as_str().into(), options);
        assert_eq!(got.await.unwrap().unwrap().data, body.as_bytes());
    }
    // A key that nobody else binds comes as well.
    let mut other = house.tcp().await;
    other.subscribe("feed", "/exchange/feed/other").await;
    house.vhost.publish(FEED, "other", ["three"]).await;
    other.expect_message("three").await;
}

#[tokio::test]
async fn services_see_no_trial() {
    let house = house(whole).await;
    let queue = unique("service");
    let channel = house.vhost.channel().await;
    let mut client = house.tcp().await;
    client.subscribe("feed", DESTINATION).await;
    let none = FieldTable::default;
    let durable = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    let declaring = channel.queue_declare(queue.as_str().into(), durable, none());
    declaring.await.unwrap();
    // Where the documents say that services bind.
    let (name, options) = (queue.as_str().into(), QueueBindOptions::default());
    let binding = channel.queue_bind(name, "feed.keys".into(), KEY.into(), options, none());
    binding.await.unwrap();
    eventually(DEADLINE, "it was looked a few times", async || {
        house.vhost.published_to(FEED).await >= 5
    })
    .await;
    is_served(&house, &mut client, "hello").await;
    let options = BasicGetOptions { no_ack: true };
    let get = async || {
        let got = channel.basic_get(queue.as_str().into(), options).await;
        got.unwrap().map(|message| message.delivery.data)
    };
    assert_eq!(get().await.as_deref(), Some(&b"hello"[..]));
    assert_eq!(get().await, None);
}

#[tokio::test]
async fn mandatory_is_refused_for_nobody_can_tell() {
    let house = house(whole).await;
    let mut client = house.tcp().await;
    client.subscribe("feed", DESTINATION).await;
    let mut sender = house.tcp().await;
    let send = |headers: &str| format!("SEND\ndestination:{DESTINATION}\n{headers}\n\nhello\0");
    sender.raw(send("receipt:r")).await;
    sender.expect_receipt("r").await;
    client.expect_message("hello").await;
    sender.raw(send("mandatory:true\nreceipt:m")).await;
    let error = sender.expect_error("precondition_failed").await;
    assert_eq!(error.header("reconnect"), Some("no"));
    let body = String::from_utf8_lossy(&error.body).into_owned();
    assert!(body.contains("leave out the header 'mandatory'"), "{body}");

    // The shell asks by itself if a message is heard, and publishes all the same.
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_stentor"));
    let publish = ["ctl", "publish", FEED, KEY, "--body", "by hand"];
    command.args(publish).args(["--vhost", house.vhost.name()]);
    command
        .env("STENTOR_URL", house.gateway.admin_url())
        .env("STENTOR_TOKEN", testkit::API_TOKEN);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    client.expect_message("by hand").await;
    let output = command.arg("--mandatory").output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}

/// A backend that publishes numbers without pause.
struct Backend {
    confirmed: Arc<AtomicU64>,
    ends: Arc<AtomicBool>,
    task: JoinHandle<u64>,
}

impl Backend {
    async fn start(vhost: &Vhost) -> Self {
        let (confirmed, ends) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let publishing = publish(
            vhost.channel().await,
            Arc::clone(&confirmed),
            Arc::clone(&ends),
        );
        let task = tokio::spawn(publishing);
        Self {
            confirmed,
            ends,
            task,
        }
    }

    fn confirmed(&self) -> u64 {
        self.confirmed.load(Ordering::SeqCst)
    }

    /// Until a good many more are published.
    async fn flows(&self) {
        let enough = self.confirmed() + 200;
        eventually(DEADLINE, "messages are published", async || {
            self.confirmed() >= enough
        })
        .await;
    }

    /// The last number.
    async fn end(self) -> u64 {
        self.ends.store(true, Ordering::SeqCst);
        self.task.await.unwrap()
    }
}

async fn publish(channel: Channel, confirmed: Arc<AtomicU64>, ends: Arc<AtomicBool>) -> u64 {
    for number in 1.. {
        let body = number.to_string();
        let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
        let (exchange, key) = (FEED.into(), KEY.into());
        let publishing = channel.basic_publish(exchange, key, options, body.as_bytes(), properties);
        publishing.await.unwrap().await.unwrap();
        confirmed.store(number, Ordering::SeqCst);
        if ends.load(Ordering::SeqCst) {
            return number;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    unreachable!()
}

/// A node, and a subscriber there.
struct Node {
    gateway: Gateway,
    /// The first number that was published for certain after the subscriber had its receipt.
    due: u64,
    /// The last number that it has.
    heard: Arc<AtomicU64>,
    read: JoinHandle<Vec<u64>>,
}

impl Node {
    async fn start(
        (vhost, hook, backend): (&Vhost, &Hook, &Backend),
        settings: impl FnOnce(GatewayBuilder) -> GatewayBuilder,
    ) -> Self {
        let builder = stentor().vhost(vhost).hook(hook);
        let builder = builder.set("mailbox.max_messages", 100_000);
        let gateway = settings(builder.set("shutdown.drain", "100ms"))
            .ready()
            .await;
        let mut client = StompClient::tcp(gateway.stomp_address()).await;
        client
            .connect(&Login::new(USER, PASSCODE, vhost.name()))
            .await;
        client
            .raw(format!(
                "SUBSCRIBE\nid:feed\ndestination:{DESTINATION}\nreceipt:r\n\n\0"
            ))
            .await;
        // Messages may come before the receipt.
        let mut early = Vec::new();
        loop {
            let frame = client.expect_frame().await;
            match frame.command {
                Command::Message => early.push(number(&frame)),
                Command::Receipt => break,
                _ => panic!("{frame:?}"),
            }
        }
        let heard = Arc::<AtomicU64>::default();
        Self {
            gateway,
            // The next may have been on its way before.
            due: backend.confirmed() + 2,
            read: tokio::spawn(read(client, early, Arc::clone(&heard))),
            heard,
        }
    }

    /// Ends the node; its subscriber had every message, once and in order, up to the end.
    async fn end(self, backend: &Backend) {
        let until = backend.confirmed();
        eventually(DEADLINE, "it has what was published", async || {
            self.heard.load(Ordering::SeqCst) >= until
        })
        .await;
        self.gateway.process().signal("TERM");
        let numbers = self.read.await.unwrap();
        let (first, last) = (numbers[0], *numbers.last().unwrap());
        let expected: Vec<u64> = (first..=last).collect();
        assert_eq!(numbers, expected);
        assert!(first <= self.due, "{first} {}", self.due);
        self.gateway.process().wait(DEADLINE).await;
    }
}

fn number(frame: &Frame) -> u64 {
    std::str::from_utf8(&frame.body).unwrap().parse().unwrap()
}

async fn read(mut client: StompClient, mut numbers: Vec<u64>, heard: Arc<AtomicU64>) -> Vec<u64> {
    while let Ok(frame) = client.next_frame().await {
        if frame.command == Command::Message {
            numbers.push(number(&frame));
            heard.store(number(&frame), Ordering::SeqCst);
        }
    }
    numbers
}

/// As docs/bindings.md has it, there and back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_are_switched_one_by_one_under_traffic() {
    let vhost = vhost().await;
    vhost.declare_exchange(FEED, ExchangeKind::Direct).await;
    let (hook, backend) = (Hook::start().await, Backend::start(&vhost).await);
    let keys = |builder: GatewayBuilder| builder;
    let scene = (&vhost, &hook, &backend);
    let old = Node::start(scene, keys).await;
    backend.flows().await;
    set_policy(&vhost).await;

    // Keys beside a bridge.
    let first = Node::start(scene, bridging).await;
    backend.flows().await;
    let second = Node::start(scene, bridging).await;
    backend.flows().await;
    old.end(&backend).await;
    backend.flows().await;

    // A bridge beside none.
    let third = Node::start(scene, whole).await;
    backend.flows().await;
    first.end(&backend).await;
    second.end(&backend).await;
    backend.flows().await;
    let fourth = Node::start(scene, whole).await;
    backend.flows().await;

    // And back.
    let fifth = Node::start(scene, bridging).await;
    third.end(&backend).await;
    fourth.end(&backend).await;
    backend.flows().await;
    let sixth = Node::start(scene, keys).await;
    backend.flows().await;
    fifth.end(&backend).await;
    backend.flows().await;
    sixth.end(&backend).await;
    let published = backend.end().await;
    assert!(published > 2_000, "{published}");
}
