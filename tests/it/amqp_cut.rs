//! The link of a consumer is cut: what it delivered is RabbitMQ's again, so its acknowledgement is
//! none, and to end it is done.

use std::{collections::BTreeSet, ops::Range, sync::Arc, time::Duration};

use futures_util::poll;
use lapin::{
    BasicProperties,
    options::{BasicGetOptions, BasicPublishOptions, QueueDeleteOptions},
    types::{AMQPValue, FieldTable},
};
use stentor::broker::{
    Argument, Broker as _, BrokerError, Config, Consume, Delivery, FeedConfig, Settled, Url,
    Verdict, amqp::AmqpBroker,
};
use stomp_grammar::{Command, Frame};
use testkit::{DEADLINE, Proxy, RabbitMq, StompClient, Vhost, eventually};

use crate::{
    broker_contract::support::{Feeds, Node, Reader, existing, reading, text},
    house::{House, numbers, vhost},
};

/// A broker's virtual host, and a proxy on the way there.
struct Way {
    node: Node,
    proxy: Proxy,
    vhost: Vhost,
}

impl Way {
    async fn open(operation_timeout: Duration) -> Self {
        let node = RabbitMq::shared().await;
        let vhost = node.vhost_of_classic_queues().await;
        let proxy = Proxy::start(&node.amqp_address()).await;
        let url = format!("amqp://guest:guest@{}", proxy.address());
        let Url::Amqp(url) = url.parse().unwrap() else {
            panic!("{url}")
        };
        let config = Config {
            operation_timeout,
            ..Config::default()
        };
        let broker = AmqpBroker::new(&[url], config, FeedConfig::default(), "test.cut").unwrap();
        let feeds = Arc::new(Feeds::default());
        let opened = broker.open(vhost.name(), Arc::<Feeds>::clone(&feeds));
        eventually(DEADLINE, "a link", async || opened.health().is_ok()).await;
        let node = Node {
            feeds,
            vhost: opened,
        };
        Self { node, proxy, vhost }
    }

    /// A consumer of `q` that has one message.
    async fn holding(&self) -> (Reader, u64) {
        let reader = self.node.consume(reading("q", 10)).await;
        self.vhost.publish("", "q", ["job"]).await;
        let tag = reader.inbox.first(1).await[0].tag;
        (reader, tag)
    }
}

#[tokio::test]
async fn a_settlement_of_before_a_cut_is_known_to_be_none() {
    let way = Way::open(DEADLINE).await;
    let (reader, tag) = way.holding().await;
    let consumer = &reader.consumer;
    assert!(consumer.holds(tag));
    way.proxy.cut();
    let again = reader.inbox.first(2).await[1].clone();
    assert!(again.redelivered);
    assert!(!consumer.holds(tag));
    let settled = consumer.settle(tag, false, Verdict::Accept).await;
    assert_eq!(settled, Ok(Settled::Stale));
    consumer.heard(tag).await.unwrap_err();

    assert!(consumer.holds(again.tag));
    let settled = consumer.settle(again.tag, false, Verdict::Accept).await;
    assert_eq!(settled, Ok(Settled::Told));
    consumer.heard(again.tag).await.unwrap();
    assert_eq!(way.vhost.held_by("q").await, (0, 0));
}

/// A consumer of a stream.
fn streaming(name: &str, begin: Option<Argument>) -> Consume {
    let mut request = reading(name, 20);
    let kind = Argument::Text("stream".into());
    request.queue.arguments.push(("x-queue-type".into(), kind));
    let begin = begin.map(|begin| ("x-stream-offset".into(), begin));
    request.arguments.extend(begin);
    request
}

fn seen(deliveries: &[Delivery]) -> Vec<(String, bool)> {
    let seen = deliveries.iter();
    seen.map(|delivery| (text(&delivery.message.body), delivery.redelivered))
        .collect()
}

fn new(bodies: Range<usize>) -> Vec<(String, bool)> {
    let bodies = numbers(bodies).into_iter();
    bodies.map(|body| (body, false)).collect()
}

impl Way {
    /// Cuts the links, and publishes these before they are back.
    async fn publish_meanwhile(&self, queue: &str, bodies: Range<usize>) {
        self.proxy.refuse();
        self.vhost.publish("", queue, numbers(bodies)).await;
        self.proxy.forward();
    }
}

#[tokio::test]
async fn a_stream_goes_on_where_it_was() {
    let way = Way::open(DEADLINE).await;
    let next = Argument::Text("next".into());
    let first = Argument::Text("first".into());
    let begins = [
        None,
        Some(next),
        Some(first),
        Some(Argument::Number(0)),
        Some(Argument::Timestamp(1)),
    ];
    for (number, begin) in begins.into_iter().enumerate() {
        let name = format!("s{number}");
        let reader = way.node.consume(streaming(&name, begin)).await;
        way.vhost.publish("", &name, numbers(0..4)).await;
        let before = reader.inbox.first(4).await;
        // All but the second and the fourth.
        for settled in [0, 2] {
            let tag = before[settled].tag;
            reader.settle(tag, false, Verdict::Accept).await;
            reader.consumer.heard(tag).await.unwrap();
        }
        way.publish_meanwhile(&name, 4..6).await;
        let after = reader.inbox.first(8).await[4..].to_vec();
        let again = ["1", "3"].map(|body| (body.to_owned(), true));
        assert_eq!(seen(&after), [&again[..], &new(4..6)].concat(), "{name}");

        let stale = reader.consumer.settle(before[3].tag, true, Verdict::Accept);
        assert_eq!(stale.await, Ok(Settled::Stale));
        reader.settle(after[3].tag, true, Verdict::Accept).await;
        reader.consumer.heard(after[3].tag).await.unwrap();
        way.publish_meanwhile(&name, 6..7).await;
        let last = reader.inbox.first(9).await[8..].to_vec();
        assert_eq!(seen(&last), new(6..7), "{name}");
    }
}

/// Where it was to begin at the end, nobody knows any more what that was.
#[tokio::test]
async fn a_stream_that_gave_nothing_begins_at_its_beginning_or_is_lost() {
    let way = Way::open(DEADLINE).await;
    let first = Argument::Text("first".into());
    let beginning = way.node.consume(streaming("s", Some(first))).await;
    let end = way.node.consume(streaming("s", None)).await;
    way.publish_meanwhile("s", 0..1).await;
    let lost = end.inbox.lost().await;
    assert!(matches!(lost, BrokerError::Unavailable(_)), "{lost:?}");
    assert_eq!(seen(&beginning.inbox.first(1).await), new(0..1));
}

/// A shovel, say, leaves a message the offset that it had in a stream.
#[tokio::test]
async fn a_queue_with_messages_of_streams_loses_none() {
    let way = Way::open(DEADLINE).await;
    let channel = way.vhost.channel().await;
    let publish = async |offset: i64| {
        let mut headers = FieldTable::default();
        headers.insert("x-stream-offset".into(), AMQPValue::LongLongInt(offset));
        let properties = BasicProperties::default().with_headers(headers);
        let (options, body) = (BasicPublishOptions::default(), offset.to_string());
        let key = "q".into();
        let publishing =
            channel.basic_publish("".into(), key, options, body.as_bytes(), properties);
        publishing.await.unwrap();
    };
    let reader = way.node.consume(reading("q", 20)).await;
    publish(7).await;
    publish(8).await;
    let settled = reader.inbox.first(2).await[1].tag;
    reader.settle(settled, false, Verdict::Accept).await;
    reader.consumer.heard(settled).await.unwrap();
    way.proxy.refuse();
    publish(3).await;
    publish(8).await;
    way.proxy.forward();
    // RabbitMQ may have sent them before it noticed the cut: then they bear a mark.
    let bodies = reader.inbox.bodies(5).await;
    assert_eq!(bodies[2..], ["7", "3", "8"]);
}

#[tokio::test]
async fn a_queue_that_goes_while_the_link_is_cut_is_told_and_not_made_anew() {
    let way = Way::open(DEADLINE).await;
    let bound = Consume {
        binding: Some(("amq.topic".into(), "a.*".into())),
        ..reading("bound", 10)
    };
    let mut readers = Vec::new();
    for request in [reading("q", 10), existing("q"), bound] {
        readers.push(way.node.consume(request).await);
    }
    way.proxy.refuse();
    let channel = way.vhost.channel().await;
    for name in ["q", "bound"] {
        let deleting = channel.queue_delete(name.into(), QueueDeleteOptions::default());
        deleting.await.unwrap();
    }
    way.proxy.forward();
    for reader in &readers {
        let lost = reader.inbox.lost().await;
        assert!(matches!(lost, BrokerError::Cancelled(_)), "{lost:?}");
    }
    let queues = way.vhost.queues().await;
    let is_back = |queue: &&serde_json::Value| queue["name"] == "q" || queue["name"] == "bound";
    assert_eq!(queues.iter().find(is_back), None);
}

#[tokio::test]
async fn a_settlement_that_a_cut_took_along_is_not_heard() {
    let way = Way::open(DEADLINE).await;
    let (reader, tag) = way.holding().await;
    way.proxy.freeze();
    let settled = reader.consumer.settle(tag, false, Verdict::Accept).await;
    assert_eq!(settled, Ok(Settled::Told), "it was written");
    let mut hearing = reader.consumer.heard(tag);
    assert!(poll!(&mut hearing).is_pending());
    way.proxy.cut();
    hearing.await.unwrap_err();
    way.proxy.forward();
    assert!(reader.inbox.first(2).await[1].redelivered);
}

#[tokio::test]
async fn a_retired_consumer_holds_nothing_after_a_cut() {
    let way = Way::open(DEADLINE).await;
    let (reader, tag) = way.holding().await;
    let consumer = &reader.consumer;
    consumer.retire(&[tag]).await.unwrap();
    assert!(consumer.holds(tag));
    way.proxy.cut();
    let channel = way.vhost.channel().await;
    let heir = eventually(DEADLINE, "another gets it", async || {
        let getting = channel.basic_get("q".into(), BasicGetOptions::default());
        getting.await.unwrap()
    })
    .await;
    assert!(heir.redelivered);
    let is_over = async || !consumer.holds(tag);
    eventually(DEADLINE, "nothing is held", is_over).await;
    let settled = consumer.settle(tag, false, Verdict::Accept).await;
    assert_eq!(settled, Ok(Settled::Stale));
}

#[tokio::test]
async fn to_cancel_on_a_silent_link_is_done() {
    let way = Way::open(Duration::from_secs(2)).await;
    let (reader, _) = way.holding().await;
    way.proxy.freeze();
    reader.consumer.cancel().await.unwrap();
}

#[tokio::test]
async fn to_end_on_a_link_that_is_cut_meanwhile_is_done() {
    let way = Way::open(DEADLINE).await;
    for retires in [false, true] {
        let (reader, tag) = way.holding().await;
        way.proxy.freeze();
        let (consumer, kept) = (&reader.consumer, [tag]);
        let mut ending = match retires {
            true => consumer.retire(&kept),
            false => consumer.cancel(),
        };
        assert!(poll!(&mut ending).is_pending());
        way.proxy.cut();
        ending.await.unwrap();
        assert!(!consumer.holds(tag));
        way.proxy.forward();
        let heir = way.node.consume(reading("q", 10)).await;
        let again = heir.inbox.first(1).await[0].clone();
        assert!(again.redelivered);
        let settled = heir.consumer.settle(again.tag, true, Verdict::Accept).await;
        assert_eq!(settled, Ok(Settled::Told));
        heir.consumer.heard(again.tag).await.unwrap();
        heir.consumer.cancel().await.unwrap();
    }
}

async fn behind(proxy: &Proxy, vhost: &Vhost) -> House {
    House::start(vhost.clone(), |builder| {
        builder
            .vhost_via(vhost, &proxy.address())
            .set("broker.operation_timeout", "3s")
            .set("broker.reconnect_max", "500ms")
    })
    .await
}

fn id(message: &Frame) -> &str {
    message.header("ack").unwrap()
}

/// A client with the jobs `one` and `two`, unacknowledged.
async fn at_work(house: &House) -> (StompClient, [Frame; 2]) {
    at_work_in(house, "client-individual").await
}

/// The same, in this mode of acknowledgement.
async fn at_work_in(house: &House, mode: &str) -> (StompClient, [Frame; 2]) {
    let mut client = house.tcp().await;
    client
        .subscribe_with("1", "/queue/jobs", &[("ack", mode)])
        .await;
    house.vhost.publish("", "jobs", ["one", "two"]).await;
    let jobs = [
        client.expect_message("one").await,
        client.expect_message("two").await,
    ];
    (client, jobs)
}

async fn acknowledge(client: &mut StompClient, message: &Frame) -> bool {
    let id = id(message);
    client.raw(format!("ACK\nid:{id}\nreceipt:a\n\n\0")).await;
    let receipt = client.expect_receipt("a").await;
    match receipt.header("settled") {
        None => true,
        Some(settled) => {
            assert_eq!(settled, "false");
            false
        }
    }
}

/// The job is acknowledged, and its result sent.
async fn commit(client: &mut StompClient, job: &Frame) {
    let id = id(job);
    for frame in [
        "BEGIN\ntransaction:t\n\n\0",
        &format!("ACK\nid:{id}\ntransaction:t\n\n\0"),
        "SEND\ndestination:/queue/results\ntransaction:t\n\nresult\0",
        "COMMIT\ntransaction:t\nreceipt:c\n\n\0",
    ] {
        client.raw(frame).await;
    }
}

#[tokio::test]
async fn a_receipt_says_when_the_message_comes_again() {
    let vhost = vhost().await;
    let proxy = Proxy::start(&vhost.node().amqp_address()).await;
    let house = behind(&proxy, &vhost).await;
    let (mut client, [one, _]) = at_work(&house).await;
    proxy.cut();
    let again = client.expect_message("one").await;
    assert_eq!(again.header("redelivered"), Some("true"));
    let two = client.expect_message("two").await;
    assert!(!acknowledge(&mut client, &one).await);
    assert!(acknowledge(&mut client, &again).await);
    // A quorum queue's counts come late.
    let is_left = async || vhost.held_by("jobs").await == (0, 1);
    eventually(DEADLINE, "one is left", is_left).await;

    // After UNSUBSCRIBE it goes to another.
    client.unsubscribe("1").await;
    proxy.cut();
    let mut other = house.tcp().await;
    other.subscribe("1", "/queue/jobs").await;
    other.expect_message("two").await;
    assert!(!acknowledge(&mut client, &two).await);
}

/// In mode `client`, who acknowledges the third means the first two, which another consumer has.
#[tokio::test]
async fn an_acknowledgement_of_all_up_to_a_message_covers_those_of_before_a_cut() {
    for commits in [false, true] {
        let vhost = vhost().await;
        let proxy = Proxy::start(&vhost.node().amqp_address()).await;
        let house = behind(&proxy, &vhost).await;
        let (mut client, _) = at_work_in(&house, "client").await;
        proxy.refuse();
        let channel = vhost.channel().await;
        for job in ["one", "two"] {
            let taken = eventually(DEADLINE, "another gets it", async || {
                let getting = channel.basic_get("jobs".into(), BasicGetOptions::default());
                getting.await.unwrap()
            })
            .await;
            assert_eq!(taken.data, job.as_bytes());
        }
        vhost.publish("", "jobs", ["three"]).await;
        proxy.forward();
        let three = client.expect_message("three").await;
        if commits {
            commit(&mut client, &three).await;
            client.expect_error("message taken back").await;
        } else {
            assert!(!acknowledge(&mut client, &three).await);
        }
    }
}

/// ACKs without a receipt: whether RabbitMQ has heard of them, DISCONNECT asks.
#[tokio::test]
async fn the_receipt_of_disconnect_says_when_messages_may_come_again() {
    let vhost = vhost().await;
    let proxy = Proxy::start(&vhost.node().amqp_address()).await;
    let house = behind(&proxy, &vhost).await;
    for is_cut in [false, true] {
        let (mut client, jobs) = at_work(&house).await;
        if is_cut {
            proxy.freeze();
        }
        for job in &jobs {
            client.raw(format!("ACK\nid:{}\n\n\0", id(job))).await;
        }
        client.raw("DISCONNECT\nreceipt:d\n\n\0").await;
        if is_cut {
            proxy.cut();
        }
        let receipt = client.expect_receipt("d").await;
        let settled = receipt.header("settled");
        assert_eq!(settled, is_cut.then_some("false"));
        client.expect_closed().await;
        if !is_cut {
            // A quorum queue's counts come late.
            let are_settled = async || vhost.held_by("jobs").await == (0, 0);
            eventually(DEADLINE, "both are settled", are_settled).await;
        }
    }
    proxy.forward();
    let mut next = house.tcp().await;
    next.subscribe("1", "/queue/jobs").await;
    assert_eq!(next.expect_messages(2).await, ["one", "two"]);
}

/// It hears of the last ACK, but not of the one before the cut.
#[tokio::test]
async fn the_receipt_of_disconnect_remembers_what_was_before_a_cut() {
    let vhost = vhost().await;
    let proxy = Proxy::start(&vhost.node().amqp_address()).await;
    let house = behind(&proxy, &vhost).await;
    let (mut client, [one, _]) = at_work(&house).await;
    proxy.freeze();
    client.raw(format!("ACK\nid:{}\n\n\0", id(&one))).await;
    // Receipts keep the order of their frames: the ACK was handed over.
    client.raw("BEGIN\ntransaction:t\nreceipt:b\n\n\0").await;
    client.expect_receipt("b").await;
    proxy.refuse();
    let is_cut = async || proxy.open() == 0;
    eventually(DEADLINE, "the ACK is lost", is_cut).await;
    proxy.forward();
    client.expect_message("one").await;
    let two = client.expect_message("two").await;
    client.raw(format!("ACK\nid:{}\n\n\0", id(&two))).await;
    client.raw("DISCONNECT\nreceipt:d\n\n\0").await;
    let receipt = client.expect_receipt("d").await;
    assert_eq!(receipt.header("settled"), Some("false"));
    client.expect_closed().await;

    let mut next = house.tcp().await;
    next.subscribe("1", "/queue/jobs").await;
    next.expect_message("one").await;
}

/// RabbitMQ has those again that the mailbox had no room for, and sends them with new tags: nobody
/// waits for the old ones.
#[tokio::test]
async fn messages_that_were_put_aside_come_at_once_after_a_cut() {
    const MESSAGES: usize = 400;
    const SIZE: usize = 64 << 10;
    let vhost = vhost().await;
    let proxy = Proxy::start(&vhost.node().amqp_address()).await;
    let house = House::start(vhost.clone(), |builder| {
        builder
            .vhost_via(&vhost, &proxy.address())
            .set("mailbox.max_bytes", "512KiB")
            .set("limits.max_frame_size", "256KiB")
            .set("broker.reconnect_max", "500ms")
    })
    .await;
    let mut client = house.tcp().await;
    let each = [("ack", "client-individual")];
    client.subscribe_with("1", "/queue/q", &each).await;
    let filling = "x".repeat(SIZE);
    let bodies = (0..MESSAGES).map(|number| format!("{number} {filling}"));
    vhost.publish("", "q", bodies).await;
    // It does not read: some are in the sockets' buffers, and a few in the mailbox.
    eventually(DEADLINE, "messages are put aside", async || {
        let (_, metrics) = house.gateway.admin("/metrics").await;
        let mut lines = metrics.lines();
        let aside = "stentor_mailbox_overflows_total{done=\"put aside\"} ";
        let aside = lines.find_map(|line| line.strip_prefix(aside));
        aside.is_some_and(|aside| aside.parse::<usize>().unwrap() >= MESSAGES / 2)
    })
    .await;
    proxy.cut();
    let mut numbers = BTreeSet::new();
    while numbers.len() < MESSAGES {
        // One that is aside in vain keeps its room for two seconds, and these are hundreds.
        let message = client.expect_frame().await;
        assert_eq!(message.command, Command::Message);
        let body = std::str::from_utf8(&message.body).unwrap();
        let (number, _) = body.split_once(' ').unwrap();
        numbers.insert(number.parse::<usize>().unwrap());
        client.raw(format!("ACK\nid:{}\n\n\0", id(&message))).await;
    }
    client.disconnect().await;
}

#[tokio::test]
async fn a_transaction_with_a_message_of_before_a_cut_does_nothing() {
    let vhost = vhost().await;
    let proxy = Proxy::start(&vhost.node().amqp_address()).await;
    let house = behind(&proxy, &vhost).await;
    let (mut client, [one, _]) = at_work(&house).await;
    proxy.cut();
    client.expect_message("one").await;
    commit(&mut client, &one).await;
    let error = client.expect_error("message taken back").await;
    assert_eq!(error.header("error-code"), Some("taken-back"));
    assert_eq!(error.header("reconnect"), Some("1s"));
    client.expect_closed().await;

    let mut next = house.tcp().await;
    let each = [("ack", "client-individual")];
    next.subscribe_with("1", "/queue/jobs", &each).await;
    let again = next.expect_message("one").await;
    next.expect_message("two").await;
    commit(&mut next, &again).await;
    next.expect_receipt("c").await;
    vhost.publish("", "results", ["the end"]).await;
    let mut reader = house.tcp().await;
    reader.subscribe("1", "/queue/results").await;
    assert_eq!(reader.expect_messages(2).await, ["result", "the end"]);
}

#[tokio::test]
async fn to_unsubscribe_over_a_silent_link_ends_no_session() {
    let vhost = vhost().await;
    let proxy = Proxy::start(&vhost.node().amqp_address()).await;
    let house = behind(&proxy, &vhost).await;
    let mut client = house.tcp().await;
    client.subscribe("1", "/queue/jobs").await;
    proxy.freeze();
    client.unsubscribe("1").await;
    proxy.forward();
    client.publish("/queue/jobs", "still here").await;
}
