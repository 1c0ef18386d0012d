//! Mishaps of a feed's queue at RabbitMQ: clients are told of every loss, and after that all is
//! well again.

use std::time::Duration;

use futures_util::future::join_all;
use lapin::{
    BasicProperties, Channel, ExchangeKind,
    options::{
        BasicConsumeOptions, BasicPublishOptions, ExchangeDeleteOptions, QueueBindOptions,
        QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable},
};
use serde_json::{Value, json};
use testkit::{DEADLINE, FEED, GatewayBuilder, Proxy, StompClient, Vhost, eventually, within};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::house::{DESTINATION, House, KEY, expect_numbers, numbers, vhost};

const INTERRUPTED: &str = "feed interrupted";

/// A small feed holds three such messages.
const LARGE: usize = 100_000;

/// A gateway with one feed an exchange, which reaches its broker through a proxy.
async fn behind_a_proxy(settings: impl FnOnce(GatewayBuilder) -> GatewayBuilder) -> (House, Proxy) {
    let vhost = vhost().await;
    let proxy = Proxy::start(&vhost.node().amqp_address()).await;
    let house = House::start(vhost.clone(), |builder| {
        let builder = builder
            .vhost_via(&vhost, &proxy.address())
            .set("feed.shards", 1)
            // Its queue would be a feed's, too.
            .set("control.exchange", "off")
            .set("broker.reconnect_max", "500ms");
        settings(builder)
    })
    .await;
    (house, proxy)
}

async fn subscriber(house: &House, destination: &str) -> StompClient {
    let mut client = house.tcp().await;
    client.subscribe("feed", destination).await;
    client
}

/// The feed's queue; there is one.
async fn feed_queue(vhost: &Vhost) -> String {
    let name = async || {
        let queues = vhost.queues().await;
        let names = queues.iter().filter_map(|queue| queue["name"].as_str());
        let mut own = names.filter(|name| !name.ends_with(".overflow"));
        own.next().map(str::to_owned)
    };
    eventually(DEADLINE, "a feed's queue", name).await
}

/// Messages in a queue that are ready, and its consumers.
async fn counts(channel: &Channel, queue: &str) -> (u32, u32) {
    let check = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    let declared = channel.queue_declare(queue.into(), check, FieldTable::default());
    let declared = declared.await.unwrap();
    (declared.message_count(), declared.consumer_count())
}

/// Messages in a queue that are ready.
async fn ready(channel: &Channel, queue: &str) -> u32 {
    counts(channel, queue).await.0
}

async fn publish(
    channel: &Channel,
    exchange: &str,
    key: &str,
    size: usize,
    expiration: Option<u32>,
) {
    let mut properties = BasicProperties::default().with_delivery_mode(2);
    if let Some(after) = expiration {
        properties = properties.with_expiration(after.to_string().as_str().into());
    }
    let options = BasicPublishOptions::default();
    let (exchange, key, body) = (exchange.into(), key.into(), vec![b'x'; size]);
    let confirm = channel.basic_publish(exchange, key, options, &body, properties);
    confirm.await.unwrap().await.unwrap();
}

async fn delete_exchange(vhost: &Vhost) {
    let channel = vhost.channel().await;
    let deleting = channel.exchange_delete(FEED.into(), ExchangeDeleteOptions::default());
    deleting.await.unwrap();
}

async fn delete_queues(vhost: &Vhost) {
    for queue in vhost.queues().await {
        let name = queue["name"].as_str().unwrap();
        // The gateway deletes those of a feed that it gives up meanwhile.
        let api = vhost.node().api();
        api.delete_queue_if_there(vhost.name(), name).await;
    }
}

/// After the feed was lost together with its exchange: no receipt before there is a binding.
async fn recovers_with_its_exchange(house: &House) {
    let mut early = house.tcp().await;
    early
        .raw(format!(
            "SUBSCRIBE\nid:feed\ndestination:{DESTINATION}\nreceipt:r\n\n\0"
        ))
        .await;
    early
        .expect("an ERROR", |frame| {
            frame.command == stomp_grammar::Command::Error
        })
        .await;

    house
        .vhost
        .declare_exchange(FEED, ExchangeKind::Topic)
        .await;
    let mut late = subscriber(house, DESTINATION).await;
    house.push(["again"]).await;
    late.expect_message("again").await;
}

#[tokio::test]
async fn a_feed_that_lost_its_queue_and_its_exchange_is_no_silent_one() {
    let (house, _proxy) = behind_a_proxy(|builder| builder).await;
    let mut client = subscriber(&house, DESTINATION).await;
    // It left, and its pattern stays bound for a while.
    subscriber(&house, "/exchange/feed/lingering")
        .await
        .disconnect()
        .await;
    delete_exchange(&house.vhost).await;
    delete_queues(&house.vhost).await;
    client.expect_error(INTERRUPTED).await;
    recovers_with_its_exchange(&house).await;

    let mut other = subscriber(&house, "/exchange/feed/lingering").await;
    house.vhost.publish(FEED, "lingering", ["here"]).await;
    other.expect_message("here").await;
}

#[tokio::test]
async fn the_broker_comes_back_empty() {
    let (house, proxy) = behind_a_proxy(|builder| builder).await;
    let mut client = subscriber(&house, DESTINATION).await;
    proxy.refuse();
    house.gateway.until_readyz(503).await;
    delete_exchange(&house.vhost).await;
    delete_queues(&house.vhost).await;
    proxy.forward();
    client.expect_error(INTERRUPTED).await;
    recovers_with_its_exchange(&house).await;
}

#[tokio::test]
async fn a_feed_that_lost_its_queue_alone_is_bound_anew() {
    let (house, _proxy) = behind_a_proxy(|builder| builder).await;
    for body in ["one", "two", "three"] {
        let mut client = subscriber(&house, DESTINATION).await;
        house.push([body]).await;
        client.expect_message(body).await;
        delete_queues(&house.vhost).await;
        client.expect_error(INTERRUPTED).await;
    }
}

#[tokio::test]
async fn an_exchange_made_anew_is_bound_when_the_link_is_back() {
    // It would be bound again by itself, soon.
    let never = |builder: GatewayBuilder| builder.set("feed.verify_interval", "0s");
    let (house, proxy) = behind_a_proxy(never).await;
    let mut client = subscriber(&house, DESTINATION).await;
    delete_exchange(&house.vhost).await;
    house
        .vhost
        .declare_exchange(FEED, ExchangeKind::Topic)
        .await;
    assert!(!house.vhost.is_bound(FEED, KEY).await);
    proxy.cut();
    eventually(DEADLINE, "bound", async || {
        house.vhost.is_bound(FEED, KEY).await
    })
    .await;
    house.push(["again"]).await;
    client.expect_message("again").await;
}

#[tokio::test]
async fn an_exchange_that_is_gone_is_noticed_when_the_link_is_back() {
    let (house, proxy) = behind_a_proxy(|builder| builder).await;
    let mut client = subscriber(&house, DESTINATION).await;
    delete_exchange(&house.vhost).await;
    proxy.cut();
    client.expect_error(INTERRUPTED).await;
    recovers_with_its_exchange(&house).await;
}

/// Thousands of keys are asked for again while their subscriber leaves: one of them that is bound
/// after it was taken away would stay, for nobody.
#[tokio::test]
async fn keys_that_are_left_while_they_are_bound_again_leave_nothing() {
    const CLIENTS: usize = 50;
    const KEYS: usize = 40;
    let (house, proxy) = behind_a_proxy(|builder| {
        builder
            .set("feed.linger", "0s")
            .set("feed.verify_interval", "0s")
    })
    .await;
    let subscribed = (0..CLIENTS).map(async |number| {
        let mut client = house.tcp().await;
        for key in 0..KEYS {
            let destination = format!("/exchange/feed/{number}.{key}");
            client
                .raw(format!(
                    "SUBSCRIBE\nid:{key}\ndestination:{destination}\n\n\0"
                ))
                .await;
        }
        client.subscribe("feed", DESTINATION).await;
        client
    });
    let mut clients = join_all(subscribed).await;
    proxy.cut();
    // It comes when the feed is consumed again, and its keys are about to be bound.
    house.push(["back"]).await;
    for client in &mut clients {
        client.expect_message("back").await;
    }
    join_all(clients.into_iter().map(StompClient::disconnect)).await;
    eventually(DEADLINE, "nothing is bound", async || {
        house.vhost.bindings().await.is_empty()
    })
    .await;
}

/// There are so many connections by which feeds are read.
async fn until_read_by(vhost: &Vhost, connections: usize) {
    let what = format!("{connections} connections of feeds");
    eventually(DEADLINE, what, async || {
        let names = vhost.connections().await;
        let own = names
            .iter()
            .filter(|name| name.contains(" messages of feeds "));
        own.count() == connections
    })
    .await;
}

/// As where an application makes an exchange for each game, and deletes it afterwards.
#[tokio::test]
async fn feeds_of_exchanges_that_come_and_go_leave_nothing() {
    const GAMES: usize = 60;
    let house = House::open_with(|builder| {
        builder
            .set("feed.shards", 1)
            .set("feed.verify_interval", "100ms")
            .set("feed.verify_rate", 10_000)
            .set("feed.linger", "0s")
            .set("control.exchange", "off")
    })
    .await;
    let vhost = &house.vhost;
    let mut stays = subscriber(&house, DESTINATION).await;
    let before = vhost.queues().await.len();
    until_read_by(vhost, 1).await;
    let (mut player, channel) = (house.tcp().await, vhost.channel().await);
    for game in 0..GAMES {
        let kind = match game % 3 {
            0 => ExchangeKind::Direct,
            1 => ExchangeKind::Topic,
            _ => ExchangeKind::Fanout,
        };
        let exchange = format!("game.{game}");
        vhost.declare_exchange(&exchange, kind).await;
        let destination = format!("/exchange/{exchange}/moves");
        player.subscribe(&exchange, &destination).await;
        publish(&channel, &exchange, "moves", 1, None).await;
        player.expect_message("x").await;
    }
    assert!(vhost.queues().await.len() >= before + GAMES);
    until_read_by(vhost, 2).await;
    player.disconnect().await;
    for game in 0..GAMES {
        let options = ExchangeDeleteOptions::default();
        let exchange = format!("game.{game}");
        let deleting = channel.exchange_delete(exchange.as_str().into(), options);
        deleting.await.unwrap();
    }
    eventually(2 * DEADLINE, "their queues are gone", async || {
        vhost.queues().await.len() == before
    })
    .await;
    until_read_by(vhost, 1).await;
    house.push(["still here"]).await;
    stays.expect_message("still here").await;
    vhost.declare_exchange("game.1", ExchangeKind::Topic).await;
    let mut again = subscriber(&house, "/exchange/game.1/moves").await;
    vhost.publish("game.1", "moves", ["anew"]).await;
    again.expect_message("anew").await;
}

/// The broker believes that the link is there; it is not.
#[tokio::test]
async fn a_half_open_link_loses_nothing() {
    let (house, proxy) = behind_a_proxy(|builder| builder).await;
    let mut client = subscriber(&house, DESTINATION).await;
    house.push(numbers(0..100)).await;
    expect_numbers(&mut client, 0..100).await;
    proxy.freeze();
    house.push(numbers(100..200)).await;
    proxy.cut();
    proxy.forward();
    expect_numbers(&mut client, 100..200).await;
}

/// Somebody who consumes the feed's queue while the node is away takes its messages.
#[tokio::test]
async fn a_queue_that_somebody_else_consumes_is_left() {
    let (house, proxy) = behind_a_proxy(|builder| {
        builder
            .set("broker.heartbeat", "1s")
            .set("broker.operation_timeout", "2s")
    })
    .await;
    let mut client = subscriber(&house, DESTINATION).await;
    let queue = feed_queue(&house.vhost).await;
    proxy.refuse();
    house.gateway.until_readyz(503).await;
    let channel = house.vhost.channel().await;
    eventually(DEADLINE, "the node's consumer is gone", async || {
        counts(&channel, &queue).await.1 == 0
    })
    .await;
    let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
    let consuming = channel.basic_consume(queue.as_str().into(), "other".into(), options, none);
    let _other = consuming.await.unwrap();
    proxy.forward();
    client.expect_error(INTERRUPTED).await;
    let mut again = subscriber(&house, DESTINATION).await;
    house.push(["here"]).await;
    again.expect_message("here").await;
}

/// The node's figures of a queue. It counts only at times, so a figure that stands may be old.
async fn known_of(vhost: &Vhost, queue: &str) -> Value {
    let queues = vhost.queues().await;
    let mut own = queues.into_iter().filter(|one| one["name"] == queue);
    own.next().unwrap_or_default()
}

/// Waits until so many messages of a queue were sent to its consumer, and so many acknowledged.
async fn until_counted(vhost: &Vhost, queue: &str, delivered: u64, acknowledged: u64) {
    eventually(DEADLINE, "messages are counted", async || {
        if testkit::is_strict() {
            // There are no figures of the past. And for a frozen link `rabbitmqctl` is too slow: on a
            // busy machine RabbitMQ may give the link up before, and take the messages back.
            return match delivered - acknowledged {
                0 => vhost.held_by(queue).await == (0, 0),
                _ => ready(&vhost.channel().await, queue).await == 0,
            };
        }
        let known = known_of(vhost, queue).await;
        let count = |what| known["message_stats"][what].as_u64();
        count("deliver") == Some(delivered) && count("ack") == Some(acknowledged)
    })
    .await;
}

/// Words that were said before, acknowledged, and followed by others are no repetition.
#[tokio::test]
async fn a_half_open_link_loses_no_equal_message() {
    let (house, proxy) = behind_a_proxy(|builder| builder).await;
    let mut client = subscriber(&house, DESTINATION).await;
    let queue = feed_queue(&house.vhost).await;
    for body in ["again", "other"] {
        house.push([body]).await;
        client.expect_message(body).await;
    }
    until_counted(&house.vhost, &queue, 2, 2).await;
    proxy.freeze();
    house.push(["again"]).await;
    until_counted(&house.vhost, &queue, 3, 2).await;
    proxy.cut();
    proxy.forward();
    client.expect_message("again").await;
}

/// A feed of 320,000 bytes, which gets one message at a time.
fn small(builder: GatewayBuilder) -> GatewayBuilder {
    builder
        .set("feed.max_length_bytes", "320kB")
        .set("limits.max_frame_size", "128kB")
        .set("feed.prefetch", 1)
}

#[tokio::test]
async fn a_mark_sent_into_a_half_open_link_comes_again() {
    let (house, proxy) = behind_a_proxy(small).await;
    let mut client = subscriber(&house, DESTINATION).await;
    proxy.freeze();
    house.push(vec![vec![b'x'; LARGE]; 10]).await;
    let overflow = format!("{}.overflow", feed_queue(&house.vhost).await);
    eventually(DEADLINE, "a mark is on its way", async || {
        let known = known_of(&house.vhost, &overflow).await;
        known["messages_unacknowledged"].as_u64() > Some(0)
    })
    .await;
    proxy.cut();
    proxy.forward();
    client.expect_error(INTERRUPTED).await;
}

#[tokio::test]
async fn expired_messages_do_not_hide_an_overflow() {
    let (house, proxy) = behind_a_proxy(small).await;
    let mut client = subscriber(&house, DESTINATION).await;
    proxy.refuse();
    house.gateway.until_readyz(503).await;
    let queue = feed_queue(&house.vhost).await;
    let channel = house.vhost.channel().await;
    for _ in 0..5 {
        publish(&channel, FEED, KEY, LARGE, Some(2000)).await;
    }
    assert!(ready(&channel, &format!("{queue}.overflow")).await > 0);
    // Those that expire push the mark out of the ten that are kept.
    for _ in 0..15 {
        publish(&channel, FEED, KEY, 1, Some(2000)).await;
    }
    eventually(DEADLINE, "all have expired", async || {
        ready(&channel, &queue).await == 0
            && ready(&channel, &format!("{queue}.overflow")).await == 10
    })
    .await;
    proxy.forward();
    client.expect_error(INTERRUPTED).await;
}

#[tokio::test]
async fn a_few_expired_messages_are_no_overflow() {
    let (house, proxy) = behind_a_proxy(small).await;
    let mut client = subscriber(&house, DESTINATION).await;
    proxy.refuse();
    house.gateway.until_readyz(503).await;
    let queue = feed_queue(&house.vhost).await;
    let channel = house.vhost.channel().await;
    for _ in 0..5 {
        publish(&channel, FEED, KEY, 1, Some(1)).await;
    }
    eventually(DEADLINE, "all have expired", async || {
        ready(&channel, &format!("{queue}.overflow")).await == 5
    })
    .await;
    proxy.forward();
    eventually(DEADLINE, "the marks are taken", async || {
        ready(&channel, &format!("{queue}.overflow")).await == 0
    })
    .await;
    house.push(["end"]).await;
    client.expect_message("end").await;
}

/// RabbitMQ applies policies to the feed's queue, too, also those that are set while it serves. Of a
/// limit the smaller counts, so the gateway cannot keep them away; it tells what they cost.
#[tokio::test]
async fn what_a_policy_drops_is_told() {
    // Fewer are dropped than fill the queue of marks, which would be told in any case.
    for (policy, sent, left) in [
        (json!({ "message-ttl": 100 }), 3, 0),
        (json!({ "max-length": 5 }), 8, 5),
        (json!({ "max-length-bytes": 6 }), 9, 6),
    ] {
        let (house, proxy) = behind_a_proxy(small).await;
        let mut client = subscriber(&house, DESTINATION).await;
        let (vhost, channel) = (&house.vhost, house.vhost.channel().await);
        let queue = feed_queue(vhost).await;
        proxy.refuse();
        house.gateway.until_readyz(503).await;
        // The marks' queue has the same one; they would end with what they tell of.
        let pattern = format!("^{}$", queue.replace('.', "\\."));
        let api = vhost.node().api();
        api.set_policy(vhost.name(), &pattern, policy.clone()).await;
        house.push(numbers(0..sent)).await;
        eventually(DEADLINE, format!("{policy} drops"), async || {
            ready(&channel, &queue).await <= left
        })
        .await;
        proxy.forward();
        let error = client.expect_error(INTERRUPTED).await;
        assert!(error.header("reconnect").is_some(), "{policy}: {error:?}");
    }
}

/// Has what is published to `amq.direct` with [`KEY`] come to the feed a moment later, by a queue
/// with a time limit.
async fn delayed(channel: &Channel) {
    let mut delay = FieldTable::default();
    delay.insert("x-message-ttl".into(), AMQPValue::LongInt(1));
    delay.insert(
        "x-dead-letter-exchange".into(),
        AMQPValue::LongString(FEED.into()),
    );
    let durable = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    channel
        .queue_declare("delay".into(), durable, delay)
        .await
        .unwrap();
    channel
        .queue_bind(
            "delay".into(),
            "amq.direct".into(),
            KEY.into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await
        .unwrap();
}

/// Headers that just fitted into a frame, to which RabbitMQ adds how the message died.
#[tokio::test]
async fn a_header_that_has_outgrown_its_frame_is_delivered() {
    let house = House::open().await;
    let mut client = subscriber(&house, DESTINATION).await;
    let channel = house.vhost.channel().await;
    delayed(&channel).await;
    let mut headers = FieldTable::default();
    let long = "x".repeat(130_900);
    headers.insert("long".into(), AMQPValue::LongString(long.as_str().into()));
    let options = BasicPublishOptions::default();
    let properties = BasicProperties::default().with_headers(headers);
    let confirm = channel.basic_publish("amq.direct".into(), KEY.into(), options, b"?", properties);
    confirm.await.unwrap().await.unwrap();
    let frame = client.expect_message("?").await;
    assert!(frame.header("long") == Some(&*long), "it was cut");
    house.push(["behind"]).await;
    client.expect_message("behind").await;
}

/// Trouble that only the feeds' own connections meet: then nobody is told that all is well.
#[tokio::test]
async fn feeds_that_cannot_be_read_are_no_health() {
    let (house, _proxy) =
        behind_a_proxy(|builder| builder.set("broker.operation_timeout", "1s")).await;
    let (node, name) = (house.vhost.node(), house.vhost.name());
    let limit = async |limits| node.ctl(&["set_vhost_limits", "-p", name, limits]).await;
    limit(r#"{"max-connections": 1}"#).await;
    let mut client = house.tcp().await;
    client
        .raw(format!(
            "SUBSCRIBE\nid:feed\ndestination:{DESTINATION}\nreceipt:r\n\n\0"
        ))
        .await;
    client.expect_error("broker unavailable").await;
    let why = house.gateway.until_readyz(503).await;
    assert!(why.contains("limit"), "{why}");
    limit(r#"{"max-connections": -1}"#).await;
    house.gateway.until_readyz(200).await;
    let mut client = subscriber(&house, DESTINATION).await;
    house.push(["well"]).await;
    client.expect_message("well").await;
}

/// A message that waited in a queue with a time limit, and came to the feed by its dead-letter
/// exchange, has died before.
#[tokio::test]
async fn a_message_that_died_before_is_a_mark_as_well() {
    let (house, proxy) = behind_a_proxy(small).await;
    let mut client = subscriber(&house, DESTINATION).await;
    let queue = feed_queue(&house.vhost).await;
    let channel = house.vhost.channel().await;
    delayed(&channel).await;
    proxy.refuse();
    house.gateway.until_readyz(503).await;
    for _ in 0..6 {
        publish(&channel, "amq.direct", KEY, LARGE, None).await;
    }
    eventually(DEADLINE, "an overflow", async || {
        ready(&channel, "delay").await == 0
            && ready(&channel, &format!("{queue}.overflow")).await > 0
    })
    .await;
    assert!(
        ready(&channel, &format!("{queue}.overflow")).await < 10,
        "it is told for the mark, not for their number"
    );
    proxy.forward();
    client.expect_error(INTERRUPTED).await;
}

/// Texts that are not UTF-8, where AMQP does not say that they must be, and headers as deep as a
/// frame can hold them: each message arrives, and so do those around it.
#[tokio::test]
async fn a_message_of_any_bytes_is_delivered_like_any_other() {
    let house = House::open().await;
    let mut client = subscriber(&house, DESTINATION).await;
    let mut deep = Vec::new();
    for _ in 0..15_000 {
        deep = [&b"\x01nF"[..], &length_of(&deep), &deep].concat();
    }
    let deep = [&length_of(&deep)[..], &deep].concat();
    let cases = [
        (
            0x8000,
            &b"\x02\xff\xfe"[..],
            Some(("content-type", "\u{fffd}\u{fffd}")),
        ),
        (
            0x2000,
            b"\0\0\0\x09\x02\xff\xfeS\0\0\0\x01v",
            Some(("\u{fffd}\u{fffd}", "v")),
        ),
        (
            0x0080,
            b"\x02\xc3\x28",
            Some(("amqp-message-id", "\u{fffd}(")),
        ),
        (0x2000, &deep, None),
    ];
    for (flags, properties, shown) in cases {
        house.push(["before"]).await;
        publish_raw(&house.vhost, flags, properties).await;
        house.push(["behind"]).await;
        client.expect_message("before").await;
        let frame = client.expect_message("?").await;
        if let Some((name, value)) = shown {
            assert_eq!(frame.header(name), Some(value), "{frame:?}");
        }
        client.expect_message("behind").await;
    }
    let events = house.gateway.events();
    let is_down = |event: &Value| event["message"] == "broker link down";
    assert!(!events.iter().any(is_down), "{events:?}");
}

fn length_of(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).unwrap().to_be_bytes()
}

/// Longer than the feed may keep at all, and yet RabbitMQ may send it, if nothing waits before it.
#[tokio::test]
async fn a_message_larger_than_the_feed_is_told() {
    let (house, _proxy) = behind_a_proxy(small).await;
    let mut client = subscriber(&house, DESTINATION).await;
    house.push([vec![b'x'; 4 * LARGE]]).await;
    client.expect_error(INTERRUPTED).await;
    let mut client = subscriber(&house, DESTINATION).await;
    house.push(["after"]).await;
    client.expect_message("after").await;
}

/// Publishes to [`KEY`] with properties that no client library lets pass, and waits for the
/// confirm.
async fn publish_raw(vhost: &Vhost, flags: u16, properties: &[u8]) {
    fn short(text: &str) -> Vec<u8> {
        [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat()
    }
    fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
        let size = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&[kind], &channel.to_be_bytes()[..], &size, payload, &[0xce]].concat()
    }
    fn method(channel: u16, class: u16, method: u16, arguments: &[u8]) -> Vec<u8> {
        let head = [class.to_be_bytes(), method.to_be_bytes()].concat();
        frame(1, channel, &[&head[..], arguments].concat())
    }
    /// Reads frames until a method comes that is this one.
    async fn until(socket: &mut TcpStream, class: u16, method: u16) {
        let wanted = [class.to_be_bytes(), method.to_be_bytes()].concat();
        loop {
            let mut head = [0; 7];
            socket.read_exact(&mut head).await.unwrap();
            let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
            let mut rest = vec![0; usize::try_from(size).unwrap() + 1];
            socket.read_exact(&mut rest).await.unwrap();
            if head[0] == 1 && rest.starts_with(&wanted) {
                return;
            }
        }
    }

    let talk = async {
        let mut socket = TcpStream::connect(vhost.node().amqp_address())
            .await
            .unwrap();
        let login = [
            &[0; 4][..],
            &short("PLAIN"),
            &12_u32.to_be_bytes(),
            b"\0guest\0guest",
            &short("en_US"),
        ];
        let tune = [&[7, 255][..], &131_072_u32.to_be_bytes(), &[0, 0]].concat();
        let open = [&short(vhost.name())[..], &[0, 0]].concat();
        let to = [&[0, 0][..], &short(FEED), &short(KEY), &[0]].concat();
        let header = [
            &[0, 60, 0, 0][..],
            &1_u64.to_be_bytes(),
            &flags.to_be_bytes(),
            properties,
        ];
        socket.write_all(b"AMQP\0\0\x09\x01").await.unwrap();
        until(&mut socket, 10, 10).await;
        let login = method(0, 10, 11, &login.concat());
        socket.write_all(&login).await.unwrap();
        until(&mut socket, 10, 30).await;
        let open = [method(0, 10, 31, &tune), method(0, 10, 40, &open)].concat();
        socket.write_all(&open).await.unwrap();
        until(&mut socket, 10, 41).await;
        socket.write_all(&method(1, 20, 10, &[0])).await.unwrap();
        until(&mut socket, 20, 11).await;
        socket.write_all(&method(1, 85, 10, &[0])).await.unwrap();
        until(&mut socket, 85, 11).await;
        let message = [
            method(1, 60, 40, &to),
            frame(2, 1, &header.concat()),
            frame(3, 1, b"?"),
        ];
        socket.write_all(&message.concat()).await.unwrap();
        until(&mut socket, 60, 80).await;
    };
    within(Duration::from_secs(30), "a confirm", talk).await;
}
