//! Receipts: of every frame, of frames that fail, and of messages that the broker does not take.

use lapin::types::{AMQPValue, FieldTable};

use super::{asks, with_message};
use crate::{
    amqp::Amqp,
    case::{Case, case},
    client::Client,
    scene::Scene,
};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("of every frame", async |t| {
            let (mut a, id) = with_message(t, "client-individual").await;
            a.ask(format!("NACK\nid:{id}")).await;
            let id = a.message().await;
            a.ask(format!("ACK\nid:{id}")).await;
            a.ask("BEGIN\ntransaction:t").await;
            a.say("SEND\ntransaction:t\ndestination:/queue/~q\n\ny")
                .await;
            a.ask("ABORT\ntransaction:t").await;
            a.ask("BEGIN\ntransaction:t").await;
            a.ask("COMMIT\ntransaction:t").await;
            a.ask("UNSUBSCRIBE\nid:1").await;
            a.ask("DISCONNECT").await;
            a.closes().await;
        })
        .differs(&["E6"])
        .differs_since("4.0", &[]),
        case("an identifier of any text", async |t| {
            let mut a = t.client().await;
            a.say("BEGIN\ntransaction:t\nreceipt:a b\\cc\\\\d für")
                .await;
            a.hear(1).await;
            a.end().await;
        }),
        case("an empty identifier", async |t| {
            let mut a = t.client().await;
            a.say("BEGIN\ntransaction:t\nreceipt:").await;
            a.hear(1).await;
            a.end().await;
        }),
        case("the same identifier twice", async |t| {
            let mut a = t.client().await;
            a.say("BEGIN\ntransaction:t\nreceipt:r").await;
            a.say("ABORT\ntransaction:t\nreceipt:r").await;
            a.hear(2).await;
            a.end().await;
        }),
        case("of many SEND frames, in their order", async |t| {
            let mut a = t.client().await;
            for number in 0..20 {
                a.say(format!(
                    "SEND\ndestination:/topic/~a\nreceipt:{number}\n\nx"
                ))
                .await;
            }
            a.hear(20).await;
            a.end().await;
        }),
        case("of a SEND to oneself, after its message", async |t| {
            let mut a = t.client().await;
            a.ask("SUBSCRIBE\nid:1\ndestination:/topic/~a").await;
            for number in 0..5 {
                a.say(format!(
                    "SEND\ndestination:/topic/~a\nreceipt:s{number}\n\n{number}"
                ))
                .await;
                a.hear_message_and_receipt().await;
            }
            a.end().await;
        }),
        case("a SUBSCRIBE with its receipt is in force", async |t| {
            let mut a = t.client().await;
            let mut b = t.client().await;
            a.ask("SUBSCRIBE\nid:1\ndestination:/topic/~a").await;
            b.ask("SEND\ndestination:/topic/~a\n\nx").await;
            a.hear(1).await;
        }),
        case("a SEND with its receipt is in the queue", async |t| {
            let mut a = t.client().await;
            a.ask("SEND\ndestination:/queue/~q\npersistent:true\n\nx")
                .await;
            let backend = t.amqp().await;
            backend.count("~q").await;
        })
        .with_backend(),
        case("messages sent before a frame that fails", async |t| {
            let mut a = t.client().await;
            let mut b = t.client().await;
            b.ask("SUBSCRIBE\nid:1\ndestination:/topic/~a").await;
            let send = "SEND\ndestination:/topic/~a\n\nx\0";
            let bad = "UNSUBSCRIBE\nid:nope\n\n\0";
            a.text(&(send.repeat(3) + bad)).await;
            a.hear(1).await;
            a.end().await;
            b.hear(3).await;
        }),
        case("an ACK before a frame that fails", async |t| {
            let (mut a, id) = with_message(t, "client").await;
            a.text(&format!("ACK\nid:{id}\n\n\0COMMIT\ntransaction:t\n\n\0"))
                .await;
            a.hear(1).await;
            a.end().await;
            // Without an acknowledgement, it comes again once its client is gone.
            drop(a);
            let mut b = t.client().await;
            b.ask("SUBSCRIBE\nid:1\nack:client\nprefetch-count:1\ndestination:/queue/~q")
                .await;
            b.ask("SEND\ndestination:/queue/~q\n\nlast").await;
            b.hear(1).await;
        }),
        case("a COMMIT before a frame that fails", async |t| {
            let mut a = t.client().await;
            let mut b = t.client().await;
            b.ask("SUBSCRIBE\nid:1\ndestination:/topic/~a").await;
            a.text(
                "BEGIN\ntransaction:t\n\n\0\
                 SEND\ntransaction:t\ndestination:/topic/~a\n\nx\0\
                 COMMIT\ntransaction:t\n\n\0\
                 COMMIT\ntransaction:t\n\n\0",
            )
            .await;
            a.hear(1).await;
            a.end().await;
            b.hear(1).await;
        }),
        case("DISCONNECT twice, after messages", async |t| {
            let mut a = t.client().await;
            let mut b = t.client().await;
            b.ask("SUBSCRIBE\nid:1\ndestination:/topic/~a").await;
            let send = "SEND\ndestination:/topic/~a\n\nx\0";
            let bye = "DISCONNECT\nreceipt:bye\n\n\0";
            a.text(&(send.repeat(3) + bye + bye)).await;
            a.closes().await;
            b.hear(3).await;
        })
        .differs(&["E6"])
        .differs_since("4.0", &[]),
        case("a failing SEND", asks(["SEND\ndestination:/foo/bar\n\nx"])),
        case(
            "a failing SUBSCRIBE",
            asks(["SUBSCRIBE\nid:1\ndestination:/foo/bar"]),
        ),
        case("a failing UNSUBSCRIBE", asks(["UNSUBSCRIBE\nid:1"])),
        case("a failing COMMIT", asks(["COMMIT\ntransaction:t"])),
        case("a failing ACK", asks(["ACK\nid:x"])),
        case(
            "no ERROR has a receipt-id that was not asked for",
            async |t| {
                let mut a = t.client().await;
                a.say("SEND\ndestination:/foo/bar\n\nx").await;
                a.hear(1).await;
                a.end().await;
            },
        ),
        // By TCP the refusal ends the plug-in's process, at some time; by WebSocket the plug-in
        // passes over it. So the cases wait for different things.
        case("a message that the queue refuses, by TCP", async |t| {
            let (_backend, mut a) = refused_by_its_queue(t).await;
            a.closes().await;
        })
        .differs(&["P1"])
        .with_backend()
        .tcp_only(),
        case(
            "a message that the queue refuses, by WebSocket",
            async |t| {
                let (_backend, mut a) = refused_by_its_queue(t).await;
                // The queue has answered by the time that it has a consumer.
                a.ask("SUBSCRIBE\nid:1\ndestination:/amq/queue/~q").await;
                a.hear(1).await;
                a.end().await;
            },
        )
        .differs(&["P1"])
        .with_backend()
        .ws_only(),
        case(
            "mandatory, to nobody",
            asks(["SEND\ndestination:/topic/~a\nmandatory:true\n\nx"]),
        )
        .differs(&["P2"]),
        case("mandatory, to somebody", async |t| {
            let mut a = t.client().await;
            a.ask("SUBSCRIBE\nid:1\ndestination:/topic/~a").await;
            a.ask("SEND\ndestination:/topic/~a\nmandatory:true\n\nx")
                .await;
            a.hear(1).await;
            a.end().await;
        }),
    ]
}

/// A client that has sent a message to a queue that is full.
async fn refused_by_its_queue(t: &mut Scene) -> (Amqp, Client) {
    let backend = t.amqp().await;
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(1));
    let overflow = AMQPValue::LongString("reject-publish".into());
    arguments.insert("x-overflow".into(), overflow);
    // A quorum queue takes one or two more before it refuses.
    let classic = AMQPValue::LongString("classic".into());
    arguments.insert("x-queue-type".into(), classic);
    backend.queue("~q", arguments).await;
    let mut a = t.client().await;
    a.ask("SEND\ndestination:/amq/queue/~q\n\none").await;
    a.say("SEND\nreceipt:refused\ndestination:/amq/queue/~q\n\ntwo")
        .await;
    (backend, a)
}
