//! One client and the links that all share: its errors use up nothing that outlives it, and others
//! do not notice them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{FutureExt, StreamExt, future::join_all, stream};
use lapin::{
    BasicProperties, Connection, ConnectionProperties,
    options::{BasicPublishOptions, QueueDeclareOptions},
    types::FieldTable,
};
use stentor::broker::{
    Argument, Broker as _, BrokerError, Config, Consume, FeedConfig, Properties, Publish,
    QueueSpec, Url, Verdict, VirtualHost, amqp::AmqpBroker,
};
use testkit::{DEADLINE, Proxy, RabbitMq, Vhost, eventually};
use tokio::time::timeout;

use crate::{
    broker_contract::{
        Fixture, Rabbit,
        support::{Feeds, Inbox, Node, Reader, existing, feed, message, queue, reading},
    },
    house::{DESTINATION, House, until_written, vhost, vhost_on},
};

/// More than the 2,047 channels that RabbitMQ allows on a connection.
const ERRORS: usize = 3_000;

/// Errors asked for at a time.
const AT_A_TIME: usize = 50;

/// Has the broker refuse `ERRORS` calls, each with an error that `is_expected`.
async fn refused<T>(
    call: impl AsyncFn(usize) -> Result<T, BrokerError>,
    is_expected: impl Fn(&BrokerError) -> bool,
) {
    let calls = stream::iter(0..ERRORS).map(async |number| call(number).await.err());
    let errors: Vec<_> = calls.buffer_unordered(AT_A_TIME).collect().await;
    for error in errors {
        let error = error.expect("a refusal");
        assert!(is_expected(&error), "{error:?}");
    }
}

fn is_not_found(error: &BrokerError) -> bool {
    matches!(error, BrokerError::NotFound(_))
}

fn is_precondition(error: &BrokerError) -> bool {
    matches!(error, BrokerError::PreconditionFailed(_))
}

/// True for the error of others whose messages were under way on the same channel.
fn is_unavailable(error: &BrokerError) -> bool {
    matches!(error, BrokerError::Unavailable(_))
}

/// A queue that RabbitMQ does not make: at most 255 priorities.
fn impossible(name: &str) -> QueueSpec {
    QueueSpec {
        arguments: vec![("x-max-priority".into(), Argument::Number(300))],
        ..queue(name)
    }
}

/// Others on the same links, who began before.
struct Others {
    node: Node,
    /// Has an unsettled message, which comes again if its link or its channel is cut.
    reader: Reader,
}

impl Others {
    async fn begin(fixture: &Rabbit) -> Self {
        let node = Node::open(fixture).await;
        let reader = node.consume(reading("honest", 10)).await;
        node.send("", "honest", "unsettled").await;
        reader.inbox.first(1).await;
        node.bind(&feed("amq.topic", 0), "before").await;
        Self { node, reader }
    }

    /// Every kind of call works, on every channel number that there is, and what began before goes
    /// on as if nothing had been.
    async fn are_well(&self) {
        let node = &self.node;
        let many = stream::iter(0..200).map(async |number| {
            let (name, pattern) = (format!("after.{number}"), format!("after.{number}"));
            node.vhost.declare_queue(&queue(&name)).await.unwrap();
            let bound = Consume {
                binding: Some(("amq.topic".into(), pattern.as_str().into())),
                ..reading(&name, 10)
            };
            let reader = node.consume(bound).await;
            node.send("amq.topic", &pattern, "hello").await;
            assert_eq!(reader.inbox.bodies(1).await, ["hello"]);
            reader.consumer.cancel().await.unwrap();
            node.vhost.delete_queue(&name).await.unwrap();
            node.vhost.exchange_kind("amq.topic").await.unwrap();
        });
        many.buffer_unordered(AT_A_TIME).collect::<Vec<_>>().await;
        let shared = feed("amq.topic", 0);
        for number in 0..20 {
            node.bind(&shared, &format!("of.{number}")).await;
            node.unbind(&shared, &format!("of.{number}")).await;
        }
        node.bind(&shared, "end").await;
        node.send("amq.topic", "before", "bound before").await;
        node.send("amq.topic", "end", "end").await;
        assert_eq!(
            node.feeds.bodies_before(&shared, "end").await,
            ["bound before"]
        );
        self.were_not_disturbed().await;
        node.vhost.health().unwrap();
    }

    /// The consumer of before still is one, on the same channel.
    async fn were_not_disturbed(&self) {
        self.node.send("", "honest", "fence").await;
        let seen = self.reader.inbox.bodies(2).await;
        assert_eq!(seen, ["unsettled", "fence"]);
    }
}

/// The errors of `call`, then everything of everybody else.
async fn use_up_nothing<T>(
    call: impl AsyncFn(&dyn VirtualHost, usize) -> Result<T, BrokerError>,
    is_expected: impl Fn(&BrokerError) -> bool,
) {
    let fixture = Rabbit::start().await;
    let others = Others::begin(&fixture).await;
    refused(
        async |number| call(&*others.node.vhost, number).await,
        is_expected,
    )
    .await;
    others.are_well().await;
}

async fn consume(vhost: &dyn VirtualHost, request: Consume) -> Result<(), BrokerError> {
    let sink = Arc::new(Inbox::default());
    vhost.consume(request, sink).await.map(drop)
}

async fn publish(vhost: &dyn VirtualHost, publish: Publish) -> Result<(), BrokerError> {
    vhost.publish(publish).await?.await
}

macro_rules! errors_use_up_nothing {
    ($($(#[$meta:meta])* $name:ident: $call:expr, $is_expected:expr;)*) => {
        mod errors_use_up_nothing {
            use super::*;

            $(
                $(#[$meta])*
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    use_up_nothing($call, $is_expected).await;
                }
            )*
        }
    };
}

errors_use_up_nothing! {
    /// `SUBSCRIBE /amq/queue/nope`.
    a_subscription_to_a_missing_queue:
        async |vhost, _| consume(vhost, existing("nope")).await, is_not_found;

    /// `SUBSCRIBE /queue/x` with `x-max-priority:300`.
    a_subscription_with_a_wrong_argument:
        async |vhost, _| {
            let request = Consume { queue: impossible("x"), ..reading("x", 10) };
            consume(vhost, request).await
        }, is_precondition;

    /// The same, with another argument each time.
    a_subscription_with_many_wrong_arguments:
        async |vhost, number| {
            let priorities = i64::try_from(number).unwrap() + 300;
            let arguments = vec![("x-max-priority".into(), Argument::Number(priorities))];
            let queue = QueueSpec { arguments, ..queue("x") };
            consume(vhost, Consume { queue, ..reading("x", 10) }).await
        }, is_precondition;

    /// `SUBSCRIBE` to an exchange that is not there, with a queue of its own.
    a_subscription_to_a_missing_exchange:
        async |vhost, number| {
            let name = format!("stomp-subscription-{number}");
            let queue = QueueSpec { durable: false, auto_delete: true, ..queue(&name) };
            let binding = Some(("nope".into(), "key".into()));
            consume(vhost, Consume { queue, binding, ..reading("", 10) }).await
        }, is_not_found;

    /// `SEND /queue/x` with `x-max-priority:300`.
    a_message_to_a_queue_with_a_wrong_argument:
        async |vhost, _| vhost.declare_queue(&impossible("x")).await, is_precondition;

    /// `SEND` to an exchange that is not there.
    a_message_to_a_missing_exchange:
        async |vhost, _| publish(vhost, message("nope", "key", "")).await, is_not_found;

    /// `SEND` with a `reply-to` that this connection cannot have answers to.
    a_message_with_a_direct_reply_to:
        async |vhost, number| {
            let reply_to = Some("amq.rabbitmq.reply-to".into());
            let properties = Properties { reply_to, ..Properties::default() };
            let message = message("", "honest", "");
            publish(vhost, Publish { properties, lane: number as u64, ..message }).await
        }, |error| is_precondition(error) || is_unavailable(error);

    /// `SUBSCRIBE` to an exchange that is not there, by a shared feed.
    a_shared_subscription_to_a_missing_exchange:
        async |vhost, _| vhost.exchange_kind("nope").await, is_not_found;

    /// The same, where the exchange went just now.
    a_binding_to_a_missing_exchange:
        async |vhost, _| vhost.bind_feed(&feed("nope", 0), "key").await, is_not_found;
}

/// A channel that is dropped before RabbitMQ refuses what was asked on it: it is closed from both
/// sides at once. For lapin, as it is published, that is an error of the connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closes_that_cross_are_no_error_of_the_connection() {
    let vhost = vhost().await;
    let url = vhost.amqp_url();
    let connection = Connection::connect(&url, ConnectionProperties::default())
        .await
        .unwrap();
    let passive = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    for _ in 0..ERRORS {
        let channel = connection.create_channel().await.unwrap();
        let asking = channel.queue_declare("nope".into(), passive, FieldTable::default());
        // It is sent, and its answer is not waited for.
        drop(asking.now_or_never());
    }
    let channel = connection.create_channel().await.unwrap();
    let asking = channel.queue_declare("nope".into(), passive, FieldTable::default());
    let refused = asking.await.unwrap_err();
    assert!(refused.to_string().contains("NOT_FOUND"), "{refused}");
    assert!(connection.status().connected());
}

/// Messages that are not sent yet when their channel closes, from this side or from the broker's:
/// for lapin, as it is published, they are to be sent all the same, and RabbitMQ answers frames on a
/// closed channel by closing the connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_wait_for_a_channel_that_closes_cut_no_link() {
    const MESSAGES: usize = 100;
    let vhost = vhost().await;
    let connection = Connection::connect(&vhost.amqp_url(), ConnectionProperties::default())
        .await
        .unwrap();
    // More than the socket takes at once.
    let body = vec![b'x'; 128 * 1024];
    for exchange in ["", "nope"] {
        for _ in 0..10 {
            let channel = connection.create_channel().await.unwrap();
            for _ in 0..MESSAGES {
                let options = BasicPublishOptions::default();
                let properties = BasicProperties::default();
                let (exchange, key) = (exchange.into(), "nobody".into());
                let publishing = channel.basic_publish(exchange, key, options, &body, properties);
                // It waits to be sent.
                drop(publishing.now_or_never());
            }
            // RabbitMQ may have closed it before.
            let _ = channel.close(200, "bye".into()).await;
        }
    }
    let channel = connection.create_channel().await.unwrap();
    let passive = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    let asking = channel.queue_declare("nope".into(), passive, FieldTable::default());
    let refused = asking.await.unwrap_err();
    assert!(refused.to_string().contains("NOT_FOUND"), "{refused}");
    assert!(connection.status().connected());
}

/// A client that is gone before RabbitMQ refuses it, at any moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_while_it_is_refused_cuts_no_link() {
    let fixture = Rabbit::start().await;
    let others = Others::begin(&fixture).await;
    let vhost = &*others.node.vhost;
    let leaving = stream::iter(0..ERRORS).map(async |number| {
        // From at once to after the answer, also on a machine that is busy.
        let patience = Duration::from_micros(number as u64 * 37 % 60_000);
        let impossible = impossible("x");
        let request = Consume {
            queue: impossible.clone(),
            ..reading("x", 10)
        };
        let _ = timeout(patience, consume(vhost, existing("nope"))).await;
        let _ = timeout(patience, consume(vhost, request)).await;
        let _ = timeout(patience, vhost.declare_queue(&impossible)).await;
        let _ = timeout(patience, vhost.exchange_kind("nope")).await;
    });
    leaving
        .buffer_unordered(AT_A_TIME)
        .collect::<Vec<_>>()
        .await;
    others.are_well().await;
}

/// RabbitMQ 3.10 closes the connection over a stream whose `x-max-age` it cannot read; others close
/// the channel.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_closes_the_connection_closes_nobody_else_s() {
    let fixture = Rabbit::start().await;
    let others = Others::begin(&fixture).await;
    let vhost = &*others.node.vhost;
    let text = |name: &str, value: &str| (name.into(), Argument::Text(value.into()));
    let closing = |name: &str, exclusive| QueueSpec {
        exclusive,
        arguments: vec![text("x-queue-type", "stream"), text("x-max-age", "?")],
        ..queue(name)
    };
    let refused = |outcome: Result<(), BrokerError>| match outcome {
        Err(BrokerError::Unsupported(_) | BrokerError::PreconditionFailed(_)) => {}
        other => panic!("{other:?}"),
    };
    // Of the same name, and of another each time; and side by side.
    let calls = stream::iter(0..20).map(async |number| {
        let name = format!("stream.{}", number % 10);
        for exclusive in [false, true] {
            let request = Consume {
                queue: closing(&name, exclusive),
                ..reading("", 10)
            };
            refused(consume(vhost, request).await);
        }
        refused(vhost.declare_queue(&closing(&name, false)).await);
    });
    // Each has RabbitMQ close a connection, and takes its turn: on a busy machine more would wait for
    // too long.
    calls.buffer_unordered(5).collect::<Vec<_>>().await;
    others.are_well().await;
}

/// Over a message that is given back to a stream, RabbitMQ 3.10 closes the connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_given_back_to_a_stream_cuts_no_link() {
    let fixture = Rabbit::start().await;
    let others = Others::begin(&fixture).await;
    let node = &others.node;
    let kind = ("x-queue-type".into(), Argument::Text("stream".into()));
    let stream = QueueSpec {
        arguments: vec![kind],
        ..queue("stream")
    };
    node.vhost.declare_queue(&stream).await.unwrap();
    let named = Consume {
        queue: stream,
        ..reading("", 10)
    };
    for request in [named, existing("stream")] {
        for verdict in [Verdict::Requeue, Verdict::Discard] {
            let reader = node.consume(request.clone()).await;
            node.fill("stream", 4).await;
            let tags = reader.inbox.first(4).await;
            let tags: Vec<u64> = tags.iter().map(|delivery| delivery.tag).collect();
            reader.settle(tags[0], false, verdict).await;
            reader.consumer.heard(tags[0]).await.unwrap();
            reader.consumer.retire(&tags[1..3]).await.unwrap();
            reader.settle(tags[2], true, verdict).await;
            reader.consumer.heard(tags[2]).await.unwrap();
        }
    }
    others.are_well().await;
}

/// A queue is no stream because a publisher says that its message comes from one.
#[tokio::test]
async fn what_is_given_back_with_an_offset_of_a_stream_comes_again() {
    let fixture = Rabbit::start().await;
    let node = Node::open(&fixture).await;
    for (queue, gives_back) in [("nacked", true), ("retired", false)] {
        let reader = node.consume(reading(queue, 10)).await;
        let mut forged = message("", queue, "job");
        let offset = ("x-stream-offset".into(), "7".into());
        forged.properties.headers.push(offset);
        node.try_send(forged).await.unwrap();
        let tag = reader.inbox.first(1).await[0].tag;
        if gives_back {
            reader.settle(tag, false, Verdict::Requeue).await;
            let again = reader.inbox.first(2).await[1].clone();
            assert!(again.redelivered);
        } else {
            reader.consumer.retire(&[]).await.unwrap();
            let next = node.consume(existing(queue)).await;
            assert_eq!(next.inbox.bodies(1).await, ["job"]);
        }
    }
}

/// The process of a classic queue, which `call` of Erlang's module `sys` stops or lets go on.
pub(crate) async fn process(vhost: &Vhost, queue: &str, call: &str) {
    let name = vhost.name();
    let asked = format!(
        "{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<\"{name}\">>, queue, <<\"{queue}\">>)), \
         ok = sys:{call}(amqqueue:get_pid(Q))."
    );
    vhost.node().ctl(&["eval", &asked]).await;
}

/// RabbitMQ answers nothing about a queue whose process hangs, not even the end of a channel on which
/// it was asked. Its clients come back again and again, at a broker with few channels.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_hangs_takes_no_channels_away_from_others() {
    const CLIENTS: usize = 30;
    let server = Arc::new(RabbitMq::own_with("channel_max = 64\n").await);
    let vhost = server.vhost_of_classic_queues().await;
    let Url::Amqp(url) = vhost.amqp_url().parse().unwrap() else {
        panic!("it is RabbitMQ")
    };
    let config = Config {
        operation_timeout: Duration::from_secs(3),
        ..Config::default()
    };
    let broker = AmqpBroker::new(&[url], config, FeedConfig::default(), "test.hangs").unwrap();
    let feeds = Arc::new(Feeds::default());
    let opened = broker.open(vhost.name(), Arc::<Feeds>::clone(&feeds));
    eventually(DEADLINE, "a link", async || opened.health().is_ok()).await;
    let node = Node {
        feeds,
        vhost: opened,
    };
    node.vhost.declare_queue(&queue("stuck")).await.unwrap();
    process(&vhost, "stuck", "suspend").await;
    for _ in 0..4 {
        let clients = (0..CLIENTS).map(async |_| {
            let stuck = queue("stuck");
            let consuming = consume(&*node.vhost, reading("stuck", 10));
            let declaring = node.vhost.declare_queue(&stuck);
            let (consuming, declaring) = tokio::join!(consuming, declaring);
            consuming.unwrap_err();
            declaring.unwrap_err();
        });
        join_all(clients).await;
    }
    // As many as may be on one link, and more.
    let others = (0..60).map(async |number: usize| {
        let (name, text) = (format!("other.{number}"), number.to_string());
        node.vhost.declare_queue(&queue(&name)).await.unwrap();
        let reader = node.consume(reading(&name, 10)).await;
        node.send("", &name, &text).await;
        assert_eq!(reader.inbox.bodies(1).await, [text]);
        node.vhost.exchange_kind("amq.topic").await.unwrap();
        reader
    });
    let readers = join_all(others).await;
    let error = node.refused(reading("stuck", 10)).await;
    assert!(matches!(error, BrokerError::QueueFailed(_)), "{error:?}");
    process(&vhost, "stuck", "resume").await;
    let served = async || node.try_consume(reading("stuck", 10)).await.ok();
    let reader = eventually(DEADLINE, "the queue is served again", served).await;
    node.send("", "stuck", "it goes on").await;
    assert_eq!(reader.inbox.bodies(1).await, ["it goes on"]);
    drop(readers);
}

/// Through the gateway, at a broker with so few channels that a leak shows soon.
#[tokio::test]
async fn errors_of_clients_leave_others_their_channels() {
    let node = Arc::new(RabbitMq::own_with("channel_max = 64\n").await);
    let vhost = vhost_on(&node).await;
    let house = House::start(vhost.clone(), |builder| builder.vhost(&vhost)).await;
    let mut subscriber = house.ws().await;
    subscriber.subscribe("feed", DESTINATION).await;
    let refused = [
        ("SUBSCRIBE\nid:1\ndestination:/amq/queue/nope", "not_found"),
        (
            "SUBSCRIBE\nid:1\ndestination:/exchange/nope/key",
            "not_found",
        ),
        ("SEND\ndestination:/exchange/nope/key", "not_found"),
        (
            "SUBSCRIBE\nid:1\ndestination:/queue/x\nx-max-priority:300",
            "precondition_failed",
        ),
        (
            "SEND\ndestination:/queue/x\nx-max-priority:300",
            "precondition_failed",
        ),
    ];
    for (frame, message) in refused {
        for _ in 0..70 {
            let mut client = house.tcp().await;
            client.raw(format!("{frame}\n\n\0")).await;
            client.expect_error(message).await;
        }
    }
    // More consumers than the broker allows channels on a connection, and they work.
    let mut client = house.tcp().await;
    for number in 0..100 {
        let destination = format!("/queue/own.{number}");
        let id = number.to_string();
        client
            .subscribe_with(&id, &destination, &[("ack", "client")])
            .await;
    }
    let mut sender = house.tcp().await;
    for number in 0..100 {
        let body = number.to_string();
        let destination = format!("/queue/own.{number}");
        sender.publish(&destination, body.clone()).await;
        client.expect_message(&body).await;
    }
    house.push(["pushed"]).await;
    subscriber.expect_message("pushed").await;
    assert_eq!(house.gateway.admin("/readyz").await.0, 200);
    // The connections that were needed for them do not stay.
    drop(client);
    let few = async || {
        let mut passing = house.tcp().await;
        passing.subscribe("1", "/queue/passing").await;
        let connections = vhost.connections().await;
        let consumers = connections
            .iter()
            .filter(|name| name.contains(" consumers of queues, "));
        (consumers.count() <= 2).then_some(())
    };
    eventually(DEADLINE, "the spare links are closed", few).await;
}

/// A cut link, which a client may find a way to cause, is no reason to take the node out of the
/// balancer: only a link that the gateway cannot make again is.
#[tokio::test]
async fn a_link_that_is_renewed_in_time_is_no_reason_to_turn_clients_away() {
    let vhost = vhost().await;
    let proxy = Proxy::start(&vhost.node().amqp_address()).await;
    let house = House::start(vhost.clone(), |builder| {
        builder
            .vhost_via(&vhost, &proxy.address())
            .unset("broker.unready_after")
            .set("broker.reconnect_max", "500ms")
    })
    .await;
    let [mut client, _other] = house.subscribed().await;
    until_written().await;
    let first_cut = Instant::now();
    for round in 0..3 {
        proxy.cut();
        let text = round.to_string();
        house.push([&text]).await;
        assert_eq!(house.gateway.admin("/readyz").await.0, 200);
        client.expect_message(&text).await;
        assert_eq!(house.gateway.admin("/readyz").await.0, 200);
    }
    // A push needs the feed's link only: another one may be away since the first cut.
    proxy.refuse();
    house.gateway.until_readyz(503).await;
    assert!(first_cut.elapsed() >= Duration::from_secs(10), "too early");
    proxy.forward();
    house.gateway.until_ready().await;
}
