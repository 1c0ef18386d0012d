//! Requests that RabbitMQ refuses by closing the connection, and its differences by version,
//! setting and policy: only the asker notices, and the gateway's own queues are as declared.

use std::sync::Arc;

use lapin::{
    ExchangeKind,
    options::QueueDeclareOptions,
    types::{AMQPValue, FieldTable},
};
use serde_json::{Value, json};
use stomp_grammar::{Command, Frame};
use testkit::{DEADLINE, FEED, GatewayBuilder, Proxy, RabbitMq, StompClient, Vhost, eventually};

use crate::house::{DESTINATION, House, expect_numbers, numbers, vhost, vhost_on};

/// Another user's consumer, whose message comes again if its link is cut, and a subscriber of a
/// shared feed.
struct Honest {
    consumer: StompClient,
    unsettled: Frame,
    subscriber: StompClient,
}

impl Honest {
    async fn begin(house: &House) -> Self {
        let (mut consumer, mut subscriber) = (house.tcp().await, house.ws().await);
        subscriber.subscribe("feed", DESTINATION).await;
        let acked = [("ack", "client-individual")];
        consumer.subscribe_with("1", "/queue/honest", &acked).await;
        subscriber.publish("/queue/honest", "unsettled").await;
        let unsettled = consumer.expect_message("unsettled").await;
        Self {
            consumer,
            unsettled,
            subscriber,
        }
    }

    /// Nothing came again, nothing was lost, and publishing works.
    async fn noticed_nothing(&mut self, house: &House) {
        self.subscriber.publish("/queue/honest", "next").await;
        let next = self.consumer.expect_message("next").await;
        assert_eq!(next.header("redelivered"), Some("false"));
        assert_eq!(self.unsettled.header("redelivered"), Some("false"));
        house.push(["pushed"]).await;
        self.subscriber.expect_message("pushed").await;
        let events = house.gateway.events();
        let lost = |event: &&Value| event["message"] == "broker link down";
        assert_eq!(events.iter().find(lost), None, "a link was cut");
    }
}

fn refusals(house: &House) -> usize {
    let lines = house.gateway.log().all();
    let says = |line: &&String| line.contains("refuses transient queues");
    lines.iter().filter(says).count()
}

async fn queue(vhost: &Vhost, name: &str) -> Value {
    let found = async || {
        let queues = vhost.queues().await;
        queues.into_iter().find(|queue| queue["name"] == name)
    };
    eventually(DEADLINE, format!("a queue {name}"), found).await
}

/// All uses of transient queues work on a broker without them: the gateway's own queues are its
/// link's, the rest is durable. On RabbitMQ 3, which always has them, they stay transient.
#[tokio::test]
async fn transient_queues_work_where_there_are_none() {
    let (node, are_refused) = RabbitMq::own_without_transient_queues().await;
    let vhost = vhost_on(&Arc::new(node)).await;
    let transient = |builder: GatewayBuilder| builder.vhost(&vhost).set("feed.durable", "false");
    let house = House::start(vhost.clone(), transient).await;
    let mut honest = Honest::begin(&house).await;

    let mut client = house.tcp().await;
    let name = [("x-queue-name", "named")];
    let passing = [("durable", "false")];
    let kept = [("durable", "false"), ("auto-delete", "false")];
    let own = [
        ("acked", "/topic/a", &[("ack", "client")][..]),
        ("prefetch", "/exchange/feed/a", &[("prefetch-count", "5")]),
        ("named", "/topic/a", &name),
        ("passing", "/queue/passing", &passing),
        ("kept", "/queue/kept", &kept),
        ("exclusive", "/queue/exclusive", &[("exclusive", "true")]),
    ];
    for (id, destination, headers) in own {
        client.subscribe_with(id, destination, headers).await;
    }
    // A SEND declares its queue, too, with the same properties.
    let mut sender = house.ws().await;
    for destination in ["/queue/passing", "/queue/kept"] {
        let mut send = Frame::new(Command::Send)
            .with_header("destination", destination)
            .with_header("durable", "false");
        if destination == "/queue/kept" {
            send = send.with_header("auto-delete", "false");
        }
        sender.request(send.with_body(destination.to_owned())).await;
        client.expect_message(destination).await;
    }
    sender.publish("/exchange/feed/a", "to prefetch").await;
    client.expect_message("to prefetch").await;

    for name in ["named", "passing", "kept"] {
        assert_eq!(queue(&vhost, name).await["durable"], are_refused, "{name}");
    }
    let queues = vhost.queues().await;
    let named = |start: &str| -> Vec<&Value> {
        let starts = |queue: &&Value| queue["name"].as_str().unwrap().starts_with(start);
        queues.iter().filter(starts).collect()
    };
    assert_eq!(named("stomp-subscription-").len(), 2);
    for own in named("stomp-subscription-") {
        assert_eq!(
            (&own["exclusive"], &own["durable"]),
            (&json!(true), &json!(false))
        );
    }
    assert!(!named("stentor.feed.").is_empty());
    for feed in named("stentor.feed.") {
        assert_eq!(feed["durable"], are_refused, "{feed}");
    }
    assert_eq!(
        refusals(&house),
        usize::from(are_refused),
        "it is said once"
    );
    honest.noticed_nothing(&house).await;
}

/// RabbitMQ 3.10 closes the connection over a stream whose `x-max-age` it cannot read, with only
/// the word `INTERNAL_ERROR`.
#[tokio::test]
async fn a_queue_that_closes_the_connection_closes_nobody_else_s() {
    let house = House::open().await;
    let mut honest = Honest::begin(&house).await;
    for round in 0..5 {
        for command in ["SUBSCRIBE\nid:1", "SEND", "SUBSCRIBE\nid:1\nexclusive:true"] {
            let mut client = house.ws().await;
            client
                .raw(format!(
                    "{command}\ndestination:/queue/stream.{round}\nx-queue-type:stream\n\
                     x-max-age:nonsense\nreceipt:r\n\n\0"
                ))
                .await;
            let error = client.expect_error("precondition_failed").await;
            assert_eq!(error.header("receipt-id"), Some("r"));
            // Not 1013: it will not get better.
            assert_eq!(client.expect_closed().await.code, Some(1008));
        }
    }
    honest.noticed_nothing(&house).await;
}

/// A quorum queue, over which RabbitMQ fails while its process is not there: it closes the
/// connection of whoever consumes it (541).
struct Frail {
    vhost: Vhost,
    name: &'static str,
}

impl Frail {
    async fn declare(vhost: &Vhost, name: &'static str) -> Self {
        let mut arguments = FieldTable::default();
        let quorum = AMQPValue::LongString("quorum".into());
        arguments.insert("x-queue-type".into(), quorum);
        let durable = QueueDeclareOptions {
            durable: true,
            ..QueueDeclareOptions::default()
        };
        let channel = vhost.channel().await;
        let declaring = channel.queue_declare(name.into(), durable, arguments);
        declaring.await.expect("a quorum queue");
        Self {
            vhost: vhost.clone(),
            name,
        }
    }

    async fn server(&self, call: &str) {
        let server = format!("{}_{}", self.vhost.name(), self.name);
        let call = format!("ok = ra:{call}_server(quorum_queues, {{'{server}', node()}}).");
        self.vhost.node().ctl(&["eval", &call]).await;
    }

    /// Has it fail, until [`Frail::mend`].
    async fn fail(&self) {
        self.server("stop").await;
    }

    async fn mend(&self) {
        self.server("restart").await;
    }

    /// A client that subscribes to it; what it is told.
    async fn subscribed(&self, house: &House) -> (StompClient, Frame) {
        let mut client = house.ws().await;
        let destination = format!("/amq/queue/{}", self.name);
        client
            .raw(format!(
                "SUBSCRIBE\nid:1\ndestination:{destination}\nreceipt:r\n\n\0"
            ))
            .await;
        let answer = client.expect_frame().await;
        (client, answer)
    }
}

fn cuts(house: &House) -> usize {
    let mut events = house.gateway.events();
    events.retain(|event| event["message"] == "broker link down");
    events.len()
}

/// However often its clients come back: others lose their link once, and the clients learn whether
/// to come back.
#[tokio::test]
async fn a_queue_over_which_the_broker_fails_cuts_others_once() {
    let house = House::open().await;
    let mut honest = Honest::begin(&house).await;
    let frail = Frail::declare(&house.vhost, "frail").await;
    frail.fail().await;
    let (_, first) = frail.subscribed(&house).await;
    assert_eq!(first.command, Command::Error, "{first:?}");
    assert_eq!(first.header("error-code"), Some("broker-unavailable"));
    // Once it was not known.
    honest.consumer.expect_message("unsettled").await;
    assert_eq!(cuts(&house), 1);
    for round in 0..30 {
        let (mut client, told) = frail.subscribed(&house).await;
        assert_eq!(told.command, Command::Error, "{round}: {told:?}");
        assert_eq!(
            told.header("error-code"),
            Some("queue-unavailable"),
            "{round}"
        );
        assert_eq!(told.header("reconnect"), Some("30s"));
        assert_eq!(told.header("receipt-id"), Some("r"));
        let body = String::from_utf8_lossy(&told.body);
        assert!(
            body.contains("\"frail\"") && body.contains("INTERNAL_ERROR"),
            "{body}"
        );
        assert_eq!(client.expect_closed().await.code, Some(1013));
    }
    let suspected = "RabbitMQ closed a link over a queue: the queues in question are tried on links \
                     of their own";
    let events = house.gateway.until_events(suspected, 1).await;
    assert_eq!(events[0]["queues"], "frail");
    honest.subscriber.publish("/queue/honest", "next").await;
    let next = honest.consumer.expect_message("next").await;
    assert_eq!(next.header("redelivered"), Some("false"));
    assert_eq!(cuts(&house), 1, "the link of others was cut again");

    // When its operator has mended it, it is served, and is no suspect any more.
    frail.mend().await;
    let served = async || {
        let (client, answer) = frail.subscribed(&house).await;
        (answer.command == Command::Receipt).then_some(client)
    };
    let mut client = eventually(DEADLINE, "the queue is served again", served).await;
    let (other, answer) = frail.subscribed(&house).await;
    assert_eq!(answer.command, Command::Receipt);
    other.disconnect().await;
    honest
        .subscriber
        .publish("/amq/queue/frail", "mended")
        .await;
    client.expect_message("mended").await;
    let trials = async || {
        let links = house.vhost.connections().await;
        let trials = links
            .iter()
            .filter(|name| name.contains(" trial of a queue"));
        (trials.count() <= 1).then_some(())
    };
    eventually(DEADLINE, "links of trials do not stay", trials).await;
}

/// Consumers that were there before the queue failed come back to it after a cut: that costs others
/// no second one, and the queue's clients are told.
#[tokio::test]
async fn a_queue_that_fails_later_cuts_others_once_more() {
    let house = House::open().await;
    let frail = Frail::declare(&house.vhost, "frail").await;
    let mut honest = Honest::begin(&house).await;
    let (mut client, answer) = frail.subscribed(&house).await;
    assert_eq!(answer.command, Command::Receipt);
    frail.fail().await;
    house.vhost.close_connections().await;
    let told = client.expect_error("broker unavailable").await;
    assert_eq!(told.header("error-code"), Some("queue-unavailable"));
    honest.subscriber.publish("/queue/honest", "next").await;
    loop {
        let frame = honest.consumer.expect_frame().await;
        if frame.body.as_ref() == b"next" {
            break;
        }
        assert_eq!(frame.body.as_ref(), b"unsettled");
    }
    let mut cuts = house.gateway.events();
    cuts.retain(|event| {
        event["message"] == "broker link down" && event["link"] == "consumers of queues"
    });
    assert!(cuts.len() <= 2, "{cuts:#?}");
}

/// Consumers that come back together with that of a queue that fails are all suspects. They share
/// links afterwards.
#[tokio::test]
async fn queues_that_come_back_beside_one_that_fails_share_links() {
    const INNOCENT: usize = 100;
    let house = House::open().await;
    let frail = Frail::declare(&house.vhost, "frail").await;
    let mut client = house.ws().await;
    let destination = |number| format!("/queue/innocent.{number}");
    for number in 0..INNOCENT {
        let id = number.to_string();
        client.subscribe(&id, &destination(number)).await;
    }
    let (mut of_frail, answer) = frail.subscribed(&house).await;
    assert_eq!(answer.command, Command::Receipt);
    frail.fail().await;
    house.vhost.close_connections().await;
    of_frail.expect_error("broker unavailable").await;
    let mut sender = house.ws().await;
    for number in 0..INNOCENT {
        let body = number.to_string();
        sender.publish(&destination(number), body.clone()).await;
        client.expect_message(&body).await;
    }
    let links = house.vhost.connections().await;
    let of_trials = links
        .iter()
        .filter(|name| name.contains(" trial of a queue"));
    assert!(of_trials.count() <= 9, "{links:#?}");
}

/// As above, with an argument of the dead letters' that AMQP cannot carry to a consumer: RabbitMQ
/// fails when it delivers one, and closes the connection of whoever consumes it.
#[tokio::test]
async fn dead_letters_cannot_have_a_key_that_amqp_cannot_carry() {
    let house = House::open().await;
    let mut honest = Honest::begin(&house).await;
    for header in ["x-dead-letter-routing-key", "x-dead-letter-exchange"] {
        let mut client = house.tcp().await;
        let long = "k".repeat(256);
        client
            .raw(
                format!(
                    "SEND\ndestination:/queue/dying\nx-message-ttl:0\n\
                 x-dead-letter-exchange:{FEED}\n{header}:{long}\n\nx\0"
                )
                .replacen(
                    "x-dead-letter-exchange:feed\nx-dead-letter-exchange",
                    "x-dead-letter-exchange",
                    1,
                ),
            )
            .await;
        let error = client.expect_error("Invalid header").await;
        let body = String::from_utf8_lossy(&error.body);
        assert!(body.contains(header) && body.contains("255"), "{body}");
    }
    honest.noticed_nothing(&house).await;
}

/// With a default type that is another, feeds and the queues of subscriptions are classic ones: a
/// cut gives no doubles and no disorder.
#[tokio::test]
async fn a_default_queue_type_is_not_the_gateway_s() {
    let node = RabbitMq::shared().await;
    let vhost = node.vhost_of("quorum").await;
    vhost.declare_exchange(FEED, ExchangeKind::Topic).await;
    let house = House::start(vhost.clone(), |builder| builder.vhost(&vhost)).await;
    let mut clients = house.subscribed().await;
    clients[0]
        .subscribe_with("acked", "/topic/a", &[("ack", "client")])
        .await;
    let queues = vhost.queues().await;
    let names = queues.iter().map(|queue| queue["name"].as_str().unwrap());
    assert!(
        names
            .clone()
            .any(|name| name.starts_with("stomp-subscription-"))
    );
    assert!(names.clone().any(|name| name.starts_with("stentor.feed.")));
    for queue in &queues {
        assert_eq!(queue["type"], "classic", "{queue}");
        assert_eq!(queue["arguments"]["x-overflow"], "drop-head", "{queue}");
    }
    // The client's own queue is of the default type.
    clients[0].publish("/queue/of-the-client", "x").await;
    assert_eq!(queue(&vhost, "of-the-client").await["type"], "quorum");

    house.push(numbers(0..200)).await;
    vhost.close_connections().await;
    house.push(numbers(200..400)).await;
    let client = &mut clients[1];
    expect_numbers(client, 0..400).await;
}

/// A policy that has full queues reject messages would lose them without a word: a feed's clients
/// are told of dropped messages.
#[tokio::test]
async fn a_policy_that_rejects_loses_nothing_silently() {
    let vhost = vhost().await;
    let definition = json!({ "overflow": "reject-publish", "max-length": 20 });
    let api = vhost.node().api();
    api.set_policy(vhost.name(), ".*", definition).await;
    let proxy = Proxy::start(&vhost.node().amqp_address()).await;
    let settings = |builder: GatewayBuilder| {
        builder
            .vhost_via(&vhost, &proxy.address())
            .set("broker.reconnect_max", "500ms")
    };
    let house = House::start(vhost.clone(), settings).await;
    let mut clients = house.subscribed().await;
    proxy.refuse();
    house.gateway.until_readyz(503).await;
    house.push(numbers(0..100)).await;
    proxy.forward();
    for client in &mut clients {
        loop {
            let frame = client.expect_frame().await;
            if frame.command == Command::Error {
                assert_eq!(frame.header("message"), Some("feed interrupted"));
                break;
            }
        }
    }
}
