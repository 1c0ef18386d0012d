//! The features of RabbitMQ's queues for STOMP clients: each at the gateway and at RabbitMQ's own
//! plug-in, with the same frames. If the two differ on purpose, the test says so.

use lapin::{
    BasicProperties, ExchangeKind,
    options::{BasicConsumeOptions, BasicPublishOptions, QueueDeclareOptions},
    types::FieldTable,
};
use serde_json::Value;
use stomp_grammar::{Command, Frame};
use testkit::{DEADLINE, FEED, StompClient, eventually, within};

use crate::{
    foreign::Server,
    house::{House, numbers},
};

macro_rules! at_both {
    ($($feature:ident,)*) => {
        mod at_the_plugin {
            $(#[tokio::test]
            async fn $feature() {
                super::$feature(&super::Server::plugins().await).await;
            })*
        }

        mod at_the_gateway {
            $(#[tokio::test]
            async fn $feature() {
                super::$feature(&super::Server::gateway().await).await;
            })*
        }
    };
}

at_both! {
    a_quorum_queue,
    a_stream_is_read_from_anywhere,
    a_stream_s_prefetch_is_moved_on_by_acknowledgements,
    priorities_of_messages,
    nacked_messages_are_dead_lettered,
    expired_messages_are_dead_lettered,
    an_unused_queue_expires,
    a_full_queue_that_drops,
    a_durable_subscription_outlives_its_client,
    a_queue_of_a_chosen_name,
    an_exclusive_queue_is_one_client_s,
    an_auto_delete_queue_goes_with_its_last_consumer,
    single_active_consumer_is_no_header,
    an_amqp_worker_answers,
    a_stomp_worker_answers,
}

fn frame(command: Command, headers: &[(&str, &str)]) -> Frame {
    headers
        .iter()
        .fold(Frame::new(command), |frame, (name, value)| {
            frame.with_header(name, value)
        })
}

/// Subscribes without a receipt: the next frames are the messages that wait.
async fn begin(client: &mut StompClient, id: &str, destination: &str, headers: &[(&str, &str)]) {
    let subscribe = frame(Command::Subscribe, headers)
        .with_header("id", id)
        .with_header("destination", destination);
    client.send(&subscribe).await;
}

async fn publish(
    client: &mut StompClient,
    destination: &str,
    body: &str,
    headers: &[(&str, &str)],
) {
    let send = frame(Command::Send, headers).with_header("destination", destination);
    client.request(send.with_body(body.to_owned())).await;
}

/// ACK or NACK of a message.
async fn settle(
    client: &mut StompClient,
    command: Command,
    message: &Frame,
    headers: &[(&str, &str)],
) {
    let id = message.header("ack").unwrap();
    client
        .request(frame(command, headers).with_header("id", id))
        .await;
}

async fn queue(server: &Server, name: &str) -> Option<Value> {
    let queues = server.vhost().queues().await;
    queues.into_iter().find(|queue| queue["name"] == name)
}

async fn until_gone(server: &Server, name: &str) {
    let gone = async || queue(server, name).await.is_none();
    eventually(DEADLINE, format!("{name} is gone"), gone).await;
}

async fn a_quorum_queue(server: &Server) {
    let quorum = [("x-queue-type", "quorum")];
    let mut client = server.client().await;
    publish(&mut client, "/queue/q", "one", &quorum).await;
    assert_eq!(queue(server, "q").await.unwrap()["type"], "quorum");

    let consume = [quorum[0], ("ack", "client-individual")];
    begin(&mut client, "1", "/queue/q", &consume).await;
    let first = client.expect_message("one").await;
    assert_eq!(first.header("redelivered"), Some("false"));
    let id = first.header("ack").unwrap();
    client
        .send(&Frame::new(Command::Nack).with_header("id", id))
        .await;
    let again = client.expect_message("one").await;
    assert_eq!(again.header("redelivered"), Some("true"));
    settle(&mut client, Command::Ack, &again, &[]).await;

    // Nothing is left for whoever comes next.
    client.disconnect().await;
    let mut other = server.client().await;
    begin(&mut other, "1", "/queue/q", &consume).await;
    publish(&mut other, "/exchange/feed/none", "", &[]).await;
    server.vhost().publish("", "q", ["two"]).await;
    other.expect_message("two").await;
}

const STREAM: (&str, &str) = ("x-queue-type", "stream");

/// A stream with the messages `0` to `9`, each in a chunk of its own.
async fn stream(server: &Server) -> StompClient {
    let mut client = server.client().await;
    for number in numbers(0..10) {
        publish(&mut client, "/queue/s", &number, &[STREAM]).await;
    }
    assert_eq!(queue(server, "s").await.unwrap()["type"], "stream");
    client
}

async fn a_stream_is_read_from_anywhere(server: &Server) {
    let mut writer = stream(server).await;
    for (offset, expected) in [
        ("first", 0..10),
        ("offset=5", 5..10),
        ("timestamp=1", 0..10),
    ] {
        let mut reader = server.client().await;
        let headers = [
            STREAM,
            ("ack", "client"),
            ("prefetch-count", "20"),
            ("x-stream-offset", offset),
        ];
        begin(&mut reader, "1", "/queue/s", &headers).await;
        let bodies = reader.expect_messages(expected.len()).await;
        assert_eq!(bodies, numbers(expected), "{offset}");
    }

    // The last chunk, which may hold more than the last message.
    let headers = [STREAM, ("ack", "client"), ("prefetch-count", "20")];
    let with_offset = |offset| {
        [
            headers[0],
            headers[1],
            headers[2],
            ("x-stream-offset", offset),
        ]
    };
    let mut last = server.client().await;
    begin(&mut last, "1", "/queue/s", &with_offset("last")).await;
    while last.expect_messages(1).await != ["9"] {}

    let mut next = server.client().await;
    next.subscribe_with("1", "/queue/s", &with_offset("next"))
        .await;
    publish(&mut writer, "/queue/s", "10", &[STREAM]).await;
    let message = next.expect_message("10").await;
    assert_eq!(message.header("x-stream-offset"), Some("10"));
    last.expect_message("10").await;
}

async fn a_stream_s_prefetch_is_moved_on_by_acknowledgements(server: &Server) {
    stream(server).await;
    let mut reader = server.client().await;
    let headers = [
        STREAM,
        ("ack", "client-individual"),
        ("prefetch-count", "1"),
        ("x-stream-offset", "first"),
    ];
    begin(&mut reader, "1", "/queue/s", &headers).await;
    for number in numbers(0..10) {
        let message = reader.expect_message(&number).await;
        let id = message.header("ack").unwrap();
        let ack = Frame::new(Command::Ack).with_header("id", id);
        reader.send(&ack).await;
    }
}

async fn priorities_of_messages(server: &Server) {
    // Quorum queues have two priorities only.
    let queue = [("x-max-priority", "10"), ("x-queue-type", "classic")];
    let mut client = server.client().await;
    for (body, priority) in [
        ("low", "1"),
        ("high", "9"),
        ("middle", "5"),
        ("high 2", "9"),
    ] {
        publish(
            &mut client,
            "/queue/p",
            body,
            &[queue[0], queue[1], ("priority", priority)],
        )
        .await;
    }
    begin(&mut client, "1", "/queue/p", &queue).await;
    let bodies = client.expect_messages(4).await;
    assert_eq!(bodies, ["high", "high 2", "middle", "low"]);
}

/// The plug-in of RabbitMQ 3.10 does not know this header yet.
#[tokio::test]
async fn priorities_of_consumers() {
    let server = &Server::gateway().await;
    let (mut low, mut high) = (server.client().await, server.client().await);
    low.subscribe_with("1", "/queue/w", &[("x-priority", "1")])
        .await;
    high.subscribe_with("1", "/queue/w", &[("x-priority", "10")])
        .await;
    server.vhost().publish("", "w", numbers(0..5)).await;
    assert_eq!(high.expect_messages(5).await, numbers(0..5));
    high.disconnect().await;
    server.vhost().publish("", "w", ["for the other"]).await;
    low.expect_message("for the other").await;
}

/// A queue whose dead letters go to the exchange `feed` with the key `dead`.
const DEAD_LETTERS: [(&str, &str); 2] = [
    ("x-dead-letter-exchange", FEED),
    ("x-dead-letter-routing-key", "dead"),
];

async fn nacked_messages_are_dead_lettered(server: &Server) {
    let mut undertaker = server.client().await;
    undertaker.subscribe("1", "/exchange/feed/dead").await;
    let mut client = server.client().await;
    let headers = [
        DEAD_LETTERS[0],
        DEAD_LETTERS[1],
        ("ack", "client-individual"),
    ];
    client.subscribe_with("1", "/queue/d", &headers).await;
    server.vhost().publish("", "d", ["a", "b"]).await;
    let first = client.expect_message("a").await;
    let second = client.expect_message("b").await;
    settle(&mut client, Command::Nack, &second, &[("requeue", "false")]).await;
    settle(&mut client, Command::Ack, &first, &[]).await;
    let dead = undertaker.expect_message("b").await;
    assert_eq!(dead.header("destination"), Some("/exchange/feed/dead"));
    assert_eq!(dead.header("x-first-death-reason"), Some("rejected"));
    assert_eq!(dead.header("x-first-death-queue"), Some("d"));
}

async fn expired_messages_are_dead_lettered(server: &Server) {
    let mut undertaker = server.client().await;
    undertaker.subscribe("1", "/exchange/feed/dead").await;
    let mut client = server.client().await;
    // By the queue's time, then by the message's own.
    let headers = [DEAD_LETTERS[0], DEAD_LETTERS[1], ("x-message-ttl", "50")];
    publish(&mut client, "/queue/t", "the queue's", &headers).await;
    let dead = undertaker.expect_message("the queue's").await;
    assert_eq!(dead.header("x-first-death-reason"), Some("expired"));
    let headers = [DEAD_LETTERS[0], DEAD_LETTERS[1], ("expiration", "50")];
    publish(&mut client, "/queue/e", "its own", &headers).await;
    let dead = undertaker.expect_message("its own").await;
    assert_eq!(dead.header("x-first-death-queue"), Some("e"));
}

async fn an_unused_queue_expires(server: &Server) {
    let mut client = server.client().await;
    client
        .subscribe_with("1", "/queue/x", &[("x-expires", "500")])
        .await;
    assert!(queue(server, "x").await.is_some());
    client.unsubscribe("1").await;
    until_gone(server, "x").await;
}

/// The plug-in of RabbitMQ 3.10 does not know this header yet; later ones give a receipt for a
/// message that was refused.
#[tokio::test]
async fn a_full_queue_that_rejects() {
    let server = &Server::gateway().await;
    // A quorum queue takes one or two more before it rejects.
    let full = [
        ("x-max-length", "1"),
        ("x-overflow", "reject-publish"),
        ("x-queue-type", "classic"),
    ];
    let mut client = server.client().await;
    publish(&mut client, "/queue/full", "one", &full).await;
    let send = frame(Command::Send, &full)
        .with_header("destination", "/queue/full")
        .with_header("receipt", "two");
    client.send(&send).await;
    let error = client.expect_error("message not published").await;
    assert_eq!(error.header("receipt-id"), Some("two"));

    let mut reader = server.client().await;
    begin(&mut reader, "1", "/queue/full", &full).await;
    reader.expect_message("one").await;
    // There is room again.
    publish(&mut reader, "/queue/full", "three", &full).await;
}

async fn a_full_queue_that_drops(server: &Server) {
    let full = [("x-max-length", "2")];
    let mut client = server.client().await;
    for body in ["one", "two", "three"] {
        publish(&mut client, "/queue/short", body, &full).await;
    }
    begin(&mut client, "1", "/queue/short", &full).await;
    assert_eq!(client.expect_messages(2).await, ["two", "three"]);
}

/// To `/topic`: with the plug-in of RabbitMQ 4.3, one to `/exchange` is always exclusive, and with
/// that of 3.10 it outlives UNSUBSCRIBE.
async fn a_durable_subscription_outlives_its_client(server: &Server) {
    let durable = [("durable", "true"), ("auto-delete", "false")];
    let subscribe = [durable[0], durable[1], ("ack", "client")];
    let mut client = server.client().await;
    client
        .subscribe_with("mine", "/topic/away", &subscribe)
        .await;
    client.disconnect().await;
    server
        .vhost()
        .publish("amq.topic", "away", numbers(0..3))
        .await;

    let mut client = server.client().await;
    begin(&mut client, "mine", "/topic/away", &subscribe).await;
    assert_eq!(client.expect_messages(3).await, numbers(0..3));
    // Not acknowledged, so they come again.
    client.disconnect().await;
    let mut client = server.client().await;
    begin(&mut client, "mine", "/topic/away", &subscribe).await;
    let again = client.expect_message("0").await;
    assert_eq!(again.header("redelivered"), Some("true"));
    client.expect_messages(2).await;

    // It ends when it is told so.
    let names = || async {
        let queues = server.vhost().queues().await;
        let names = queues.iter().filter_map(|queue| queue["name"].as_str());
        let ours = names.filter(|name| name.starts_with("stomp-subscription-"));
        ours.map(str::to_owned).collect::<Vec<_>>()
    };
    client
        .subscribe_with("other", "/topic/other", &subscribe)
        .await;
    assert_eq!(names().await.len(), 2);
    for id in ["mine", "other"] {
        client
            .request(frame(Command::Unsubscribe, &durable).with_header("id", id))
            .await;
    }
    eventually(DEADLINE, "the durable queues are gone", async || {
        names().await.is_empty()
    })
    .await;
}

/// To `/topic`, as above.
async fn a_queue_of_a_chosen_name(server: &Server) {
    let named = [
        ("x-queue-name", "chosen"),
        ("durable", "true"),
        ("auto-delete", "false"),
    ];
    let mut client = server.client().await;
    client.subscribe_with("1", "/topic/named", &named).await;
    client.disconnect().await;
    server
        .vhost()
        .publish("amq.topic", "named", ["hello"])
        .await;
    let mut other = server.client().await;
    begin(&mut other, "1", "/amq/queue/chosen", &[]).await;
    other.expect_message("hello").await;
}

/// Where queues are quorum queues by default, the plug-in makes one of it, which is nobody's own: row
/// S36 of the table of differences. The gateway asks for a classic queue.
async fn an_exclusive_queue_is_one_client_s(server: &Server) {
    if matches!(server, Server::Plugins(_)) && testkit::is_strict() {
        return;
    }
    let mut owner = server.client().await;
    owner
        .subscribe_with("1", "/queue/own", &[("exclusive", "true")])
        .await;
    let mut other = server.client().await;
    begin(&mut other, "1", "/queue/own", &[("exclusive", "true")]).await;
    let error = other
        .expect("ERROR", |frame| frame.command == Command::Error)
        .await;
    assert_eq!(error.header("message"), Some("resource_locked"));
    let body = String::from_utf8_lossy(&error.body);
    assert!(body.starts_with("RESOURCE_LOCKED - "), "{body}");
    assert!(body.contains("queue 'own'"), "{body}");
    server.vhost().publish("", "own", ["for the owner"]).await;
    owner.expect_message("for the owner").await;
    owner.disconnect().await;
    until_gone(server, "own").await;
}

async fn an_auto_delete_queue_goes_with_its_last_consumer(server: &Server) {
    let headers = [("auto-delete", "true")];
    let (mut one, mut other) = (server.client().await, server.client().await);
    one.subscribe_with("1", "/queue/brief", &headers).await;
    other.subscribe_with("1", "/queue/brief", &headers).await;
    one.unsubscribe("1").await;
    server.vhost().publish("", "brief", ["still there"]).await;
    other.expect_message("still there").await;
    other.unsubscribe("1").await;
    until_gone(server, "brief").await;
}

/// Neither passes this argument to RabbitMQ: a policy or an AMQP client has to make such a queue.
async fn single_active_consumer_is_no_header(server: &Server) {
    let headers = [("x-single-active-consumer", "true")];
    let mut client = server.client().await;
    client.subscribe_with("1", "/queue/sac", &headers).await;
    // RabbitMQ 4 shows the type of each queue there.
    let arguments = &queue(server, "sac").await.unwrap()["arguments"];
    let name = "x-single-active-consumer";
    assert!(arguments.get(name).is_none(), "{arguments}");

    let mut arguments = FieldTable::default();
    arguments.insert("x-single-active-consumer".into(), true.into());
    let channel = server.vhost().channel().await;
    let options = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    channel
        .queue_declare("single".into(), options, arguments)
        .await
        .unwrap();
    let mut standby = server.client().await;
    client.subscribe("2", "/amq/queue/single").await;
    standby.subscribe("2", "/amq/queue/single").await;
    server.vhost().publish("", "single", numbers(0..4)).await;
    assert_eq!(client.expect_messages(4).await, numbers(0..4));
    client.disconnect().await;
    server.vhost().publish("", "single", ["now I"]).await;
    standby.expect_message("now I").await;
}

async fn an_amqp_worker_answers(server: &Server) {
    let channel = server.vhost().channel().await;
    let options = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    let none = FieldTable::default();
    channel
        .queue_declare("rpc".into(), options, none.clone())
        .await
        .unwrap();
    let options = BasicConsumeOptions {
        no_ack: true,
        ..BasicConsumeOptions::default()
    };
    let mut requests = channel
        .basic_consume("rpc".into(), "worker".into(), options, none)
        .await
        .unwrap();
    let answer_two = async {
        for _ in 0..2 {
            let request = futures_util::StreamExt::next(&mut requests)
                .await
                .unwrap()
                .unwrap();
            let reply_to = request.properties.reply_to().clone().unwrap();
            let id = request.properties.correlation_id().clone().unwrap();
            let body = [b"re: ", &*request.data].concat();
            let properties = BasicProperties::default().with_correlation_id(id);
            channel
                .basic_publish(
                    "".into(),
                    reply_to,
                    BasicPublishOptions::default(),
                    &body,
                    properties,
                )
                .await
                .unwrap();
        }
    };
    let mut client = server.client().await;
    let ask_two = async {
        for (id, body) in [("7", "what?"), ("8", "and that?")] {
            let ask = [("reply-to", "/temp-queue/answers"), ("correlation-id", id)];
            let send = frame(Command::Send, &ask).with_header("destination", "/queue/rpc");
            client.send(&send.with_body(body)).await;
            let answer = client.expect_message(&format!("re: {body}")).await;
            assert_eq!(answer.header("correlation-id"), Some(id));
            assert_eq!(answer.header("subscription"), Some("/temp-queue/answers"));
        }
    };
    within(DEADLINE, "two answers", async {
        tokio::join!(answer_two, ask_two)
    })
    .await;
}

async fn a_stomp_worker_answers(server: &Server) {
    let mut worker = server.client().await;
    worker.subscribe("1", "/queue/rpc").await;
    let mut client = server.client().await;
    let ask = [("reply-to", "/temp-queue/a"), ("correlation-id", "9")];
    publish(&mut client, "/queue/rpc", "what?", &ask).await;
    let request = worker.expect_message("what?").await;
    let reply_to = request.header("reply-to").unwrap();
    assert!(reply_to.starts_with("/reply-queue/"), "{reply_to}");
    let id = request.header("correlation-id").unwrap();
    publish(&mut worker, reply_to, "this", &[("correlation-id", id)]).await;
    let answer = client.expect_message("this").await;
    assert_eq!(answer.header("correlation-id"), Some("9"));
    assert_eq!(answer.header("subscription"), Some("/temp-queue/a"));
}

/// `stomp.nack_requeue = false`, the plug-in's `stomp.default_nack_requeue`.
#[tokio::test]
async fn a_nack_without_a_word_dead_letters_if_it_is_so_configured() {
    let house = House::open_with(|builder| builder.set("stomp.nack_requeue", "false")).await;
    let mut undertaker = house.tcp().await;
    undertaker.subscribe("1", "/exchange/feed/dead").await;
    let mut client = house.tcp().await;
    let headers = [
        DEAD_LETTERS[0],
        DEAD_LETTERS[1],
        ("ack", "client-individual"),
    ];
    client.subscribe_with("1", "/queue/d", &headers).await;
    house.vhost.publish("", "d", ["a", "b"]).await;
    let first = client.expect_message("a").await;
    settle(&mut client, Command::Nack, &first, &[]).await;
    undertaker.expect_message("a").await;
    // Another value of the client's own is taken.
    let mut other = house.tcp().await;
    other.subscribe_with("1", "/queue/o", &headers).await;
    house.vhost.publish("", "o", ["c"]).await;
    let message = other.expect_message("c").await;
    let id = message.header("ack").unwrap();
    let nack = frame(Command::Nack, &[("id", id), ("requeue", "true")]);
    other.send(&nack).await;
    let again = other.expect_message("c").await;
    assert_eq!(again.header("redelivered"), Some("true"));
}

/// An exchange that is declared by a policy's alternate exchange, or of the type headers, is the
/// broker's to route: a subscription gets a queue of its own.
#[tokio::test]
async fn a_headers_exchange_is_bound_by_the_broker() {
    let house = House::open().await;
    house
        .vhost
        .declare_exchange("h", ExchangeKind::Headers)
        .await;
    let mut client = house.tcp().await;
    client.subscribe("1", "/exchange/h").await;
    house.vhost.publish("h", "any", ["all match none"]).await;
    client.expect_message("all match none").await;
}
