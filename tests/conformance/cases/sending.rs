//! SEND: properties and headers, out to AMQP and back again.

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, LongString},
};

use super::asks;
use crate::{
    case::{Case, case},
    client::BY_THE_WAY,
    scene::Scene,
};

/// A message with all that a client can say of it.
const EVERYTHING: &str = "SEND\ndestination:/queue/~q\ncontent-type:text/plain\n\
    content-encoding:utf-8\npersistent:true\npriority:3\ncorrelation-id:c-1\nreply-to:/queue/answers\n\
    expiration:600000\namqp-message-id:m-1\ntimestamp:1700000000\ntype:note\napp-id:shop\n\
    colour:red\nx-number:7\n\nhello";

/// A message with this header is sent to a queue; a backend takes it out.
fn property(header: &'static str) -> impl AsyncFn(&mut Scene) {
    async move |t| {
        let backend = t.amqp().await;
        backend.queue("~q", FieldTable::default()).await;
        let mut a = t.client().await;
        a.ask(format!("SEND\ndestination:/amq/queue/~q\n{header}\n\nx"))
            .await;
        backend.get("~q").await;
        a.end().await;
    }
}

/// A backend publishes a message with these headers to a subscriber.
fn arrives(
    properties: impl Fn() -> BasicProperties + Send + Sync + 'static,
) -> impl AsyncFn(&mut Scene) + Send + Sync {
    async move |t| {
        let mut a = t.client().await;
        a.ask("SUBSCRIBE\nid:1\ndestination:/topic/~a").await;
        let backend = t.amqp().await;
        backend
            .publish_with("amq.topic", "~a", "x", properties())
            .await;
        a.hear(1).await;
        a.end().await;
    }
}

fn table(entries: impl IntoIterator<Item = (&'static str, AMQPValue)>) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in entries {
        table.insert(name.into(), value);
    }
    table
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("all properties arrive at a backend", async |t| {
            let mut a = t.client().await;
            a.ask(EVERYTHING).await;
            let backend = t.amqp().await;
            backend.get("~q").await;
        })
        .with_backend(),
        case("all properties arrive at a client", async |t| {
            let mut a = t.client().await;
            a.ask("SUBSCRIBE\nid:1\ndestination:/queue/~q").await;
            a.ask(EVERYTHING).await;
            a.hear(1).await;
            a.end().await;
        }),
        case(
            "all properties arrive from a backend",
            arrives(|| {
                BasicProperties::default()
                    .with_content_type("text/plain".into())
                    .with_content_encoding("utf-8".into())
                    .with_delivery_mode(2)
                    .with_priority(3)
                    .with_correlation_id("c-1".into())
                    .with_reply_to("answers".into())
                    .with_expiration("600000".into())
                    .with_message_id("m-1".into())
                    .with_timestamp(1_700_000_000)
                    .with_type("note".into())
                    .with_user_id("guest".into())
                    .with_app_id("shop".into())
                    .with_cluster_id("cl".into())
            }),
        )
        .with_backend(),
        case(
            "a transient message from a backend",
            arrives(|| BasicProperties::default().with_delivery_mode(1)),
        )
        .differs(&["S18"])
        .with_backend(),
        case(
            "headers of text and numbers from a backend",
            arrives(|| {
                BasicProperties::default().with_headers(table([
                    ("text", AMQPValue::LongString(LongString::from("für"))),
                    ("empty", AMQPValue::LongString(LongString::from(""))),
                    (
                        "lines",
                        AMQPValue::LongString(LongString::from("a\nb:c\\d")),
                    ),
                    ("byte", AMQPValue::ShortShortInt(-7)),
                    ("short", AMQPValue::ShortInt(-300)),
                    ("int", AMQPValue::LongInt(70_000)),
                    ("long", AMQPValue::LongLongInt(-5_000_000_000)),
                ]))
            }),
        )
        .differs(&["S17"])
        .with_backend(),
        case(
            "a header of true from a backend",
            arrives(|| {
                BasicProperties::default().with_headers(table([("flag", AMQPValue::Boolean(true))]))
            }),
        )
        .differs(&["S17"])
        .with_backend(),
        case(
            "headers of fractions from a backend",
            arrives(|| {
                BasicProperties::default().with_headers(table([
                    ("double", AMQPValue::Double(1.5)),
                    ("float", AMQPValue::Float(-0.25)),
                ]))
            }),
        )
        .differs(&["S17"])
        .with_backend(),
        case(
            "a header of a time from a backend",
            arrives(|| {
                BasicProperties::default()
                    .with_headers(table([("at", AMQPValue::Timestamp(1_700_000_000))]))
            }),
        )
        .differs(&["S17"])
        .with_backend(),
        case(
            "headers of tables, lists and nothing from a backend",
            arrives(|| {
                BasicProperties::default().with_headers(table([
                    (
                        "table",
                        AMQPValue::FieldTable(table([("a", AMQPValue::LongInt(1))])),
                    ),
                    (
                        "list",
                        AMQPValue::FieldArray(vec![AMQPValue::LongInt(1)].into()),
                    ),
                    ("nothing", AMQPValue::Void),
                    ("text", AMQPValue::LongString(LongString::from("stays"))),
                ]))
            }),
        )
        .with_backend(),
        case(
            "a header called destination from a backend",
            arrives(|| {
                BasicProperties::default().with_headers(table([(
                    "destination",
                    AMQPValue::LongString(LongString::from("/queue/elsewhere")),
                )]))
            }),
        )
        .differs(&["S19"])
        .with_backend(),
        case("CC from a backend", async |t| {
            let mut a = t.client().await;
            a.ask("SUBSCRIBE\nid:1\ndestination:/topic/~copy").await;
            let backend = t.amqp().await;
            let copies =
                AMQPValue::FieldArray(vec![AMQPValue::LongString(t.real("~copy").into())].into());
            let properties = BasicProperties::default().with_headers(table([("CC", copies)]));
            backend
                .publish_with("amq.topic", "~a", "x", properties)
                .await;
            a.hear(1).await;
        })
        .with_backend(),
        case("BCC from a backend to a plain subscription", async |t| {
            let mut a = t.client().await;
            a.ask("SUBSCRIBE\nid:1\ndestination:/topic/~copy").await;
            let backend = t.amqp().await;
            let copies =
                AMQPValue::FieldArray(vec![AMQPValue::LongString(t.real("~copy").into())].into());
            let properties = BasicProperties::default().with_headers(table([("BCC", copies)]));
            backend
                .publish_with("amq.topic", "~a", "blind copy", properties)
                .await;
            backend.publish("amq.topic", "~copy", "end").await;
            while a.body_of_message().await == "blind copy" {}
        })
        .differs(&["S14"])
        .with_backend(),
        case(
            "BCC from a backend to a subscription with a queue of its own",
            async |t| {
                let mut a = t.client().await;
                a.ask("SUBSCRIBE\nid:1\nack:client\ndestination:/topic/~copy")
                    .await;
                let backend = t.amqp().await;
                let copies = AMQPValue::FieldArray(
                    vec![AMQPValue::LongString(t.real("~copy").into())].into(),
                );
                let properties = BasicProperties::default().with_headers(table([("BCC", copies)]));
                backend
                    .publish_with("amq.topic", "~a", "blind copy", properties)
                    .await;
                a.hear(1).await;
            },
        )
        .with_backend(),
        case("a body of any bytes from a backend", async |t| {
            let mut a = t.client().await;
            a.ask("SUBSCRIBE\nid:1\ndestination:/topic/~a").await;
            let backend = t.amqp().await;
            backend
                .publish_with("amq.topic", "~a", b"a\0\xff\n", BasicProperties::default())
                .await;
            a.hear(1).await;
        })
        .with_backend()
        .tcp_only(),
        case("a plain message at a backend", property("x-empty:")).with_backend(),
        case("persistent true", property("persistent:true")).with_backend(),
        case("persistent false", property("persistent:false")).with_backend(),
        case(
            "persistent of another word",
            asks(["SEND\ndestination:/topic/~a\npersistent:maybe\n\nx"]),
        )
        .differs(&["E9"]),
        case(
            "delivery-mode is a header like others",
            property("delivery-mode:2"),
        )
        .with_backend(),
        case(
            "content-length stays with the frame",
            property("content-length:1"),
        )
        .with_backend(),
        case(
            "numbers in headers are texts",
            property("x-number:7\nx-flag:true"),
        )
        .with_backend(),
        case("what SEND says of its frame and its queue", async |t| {
            let mut a = t.client().await;
            a.show(&BY_THE_WAY[2..]);
            a.ask("SUBSCRIBE\nid:1\nx-max-length:5\ndestination:/queue/~q")
                .await;
            let mut b = t.client().await;
            b.ask("BEGIN\ntransaction:t").await;
            b.say("SEND\ntransaction:t\nx-max-length:5\nmandatory:true\nreceipt:r\ndestination:/queue/~q\n\nx")
                .await;
            b.say("COMMIT\ntransaction:t").await;
            a.hear(1).await;
        })
        .differs(&["P5"]),
        case("the sender's name", async |t| {
            let mut a = t.client().await;
            a.show(&["x-stomp-user"]);
            a.ask("SUBSCRIBE\nid:1\ndestination:/queue/~q").await;
            a.ask("SEND\ndestination:/queue/~q\nx-stomp-user:mallory\n\nx")
                .await;
            a.hear(1).await;
            a.end().await;
        })
        .differs(&["P6"]),
        case("user-id of oneself", async |t| {
            let mut a = t.client_as("limited").await;
            a.ask("SUBSCRIBE\nid:1\ndestination:/queue/~q").await;
            a.ask("SEND\ndestination:/queue/~q\nuser-id:limited\n\nx")
                .await;
            a.hear(1).await;
            a.end().await;
        })
        .differs(&["P8"]),
        case(
            "user-id of another",
            asks(["SEND\ndestination:/queue/~q\nuser-id:mallory\n\nx"]),
        )
        .differs(&["E7"]),
        case(
            "message-id is the server's",
            asks(["SEND\ndestination:/queue/~q\nmessage-id:1\n\nx"]),
        ),
        case(
            "priority of letters",
            asks(["SEND\ndestination:/topic/~a\npriority:high\n\nx"]),
        )
        .differs(&["E9"]),
        case(
            "priority of 300",
            asks(["SEND\ndestination:/topic/~a\npriority:300\n\nx"]),
        )
        .differs(&["E9"]),
        case(
            "expiration of letters",
            asks(["SEND\ndestination:/topic/~a\nexpiration:soon\n\nx"]),
        )
        .differs(&["E9", "E7"]),
        case(
            "expiration below zero",
            asks(["SEND\ndestination:/topic/~a\nexpiration:-1\n\nx"]),
        )
        .differs(&["E9", "E7"]),
        case(
            "timestamp of letters",
            asks(["SEND\ndestination:/topic/~a\ntimestamp:now\n\nx"]),
        )
        .differs(&["E9"]),
        case(
            "CC on SEND",
            asks(["SEND\ndestination:/topic/~a\nCC:b\n\nx"]),
        )
        .differs(&["P9", "E7"]),
        case("a property of 300 bytes", async |t| {
            let mut a = t.client().await;
            a.ask(format!(
                "SEND\ndestination:/topic/~a\ncorrelation-id:{}\n\nx",
                "c".repeat(300)
            ))
            .await;
            a.end().await;
        })
        .differs(&["E12"]),
        case("headers that MESSAGE has itself", async |t| {
            let mut a = t.client().await;
            a.ask("SUBSCRIBE\nid:1\ndestination:/queue/~q").await;
            a.ask("SEND\ndestination:/queue/~q\nsubscription:9\nredelivered:true\nack:9\n\nx")
                .await;
            a.hear(1).await;
            a.end().await;
        })
        .differs(&["S19"]),
        case("messages of one client keep their order", async |t| {
            let mut a = t.client().await;
            a.ask("SUBSCRIBE\nid:1\ndestination:/topic/~a").await;
            for number in 0..20 {
                a.say(format!("SEND\ndestination:/topic/~a\n\n{number}"))
                    .await;
            }
            a.hear(20).await;
            a.end().await;
        }),
    ]
}
